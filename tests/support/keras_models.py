"""Live models of Keras on its torch backend in float64: in evaluation mode, and for one step of training."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch

os.environ.update(KERAS_BACKEND="torch", KERAS_TORCH_DEVICE="cpu")

import keras
import training_steps
from keras.src.backend.common import dtypes
from numpy.typing import NDArray
from random_numbers import Drawn
from training_steps import Step, apart

from rescompile.codegen.execution import executed
from rescompile.ir.network import LOGITS, Network
from rescompile.weights import Weights

__all__ = ["Step", "apart"]
Array = NDArray[Any]
module: Any = import_module("rescompile.backends.keras.module")
source_file: Any = import_module("rescompile.backends.keras.source_file")
tensors: Any = import_module("rescompile.backends.keras.tensors")


def set_precision(name: str) -> None:
    """Compute in float64 or float32. Keras narrows float64 in its own functions on all backends but TensorFlow."""
    dtypes.BIT64_TO_BIT32_DTYPE["float64"] = name
    dtypes.result_type.cache_clear() if hasattr(dtypes.result_type, "cache_clear") else None
    for found in vars(dtypes).values():
        if hasattr(found, "cache_clear"):
            found.cache_clear()
    keras.config.set_floatx(name)
    keras.config.set_dtype_policy(name)


def model_of(network: Network, weights: Mapping[str, Array], **options: Any) -> Any:
    """Return a model with these weights in float64."""
    keras.utils.clear_session(free_memory=False)
    makers = {name: (lambda value=value: np.asarray(value, np.float64)) for name, value in weights.items()}
    return module.make(network, Weights(makers), **options)


def initial(network: Network) -> dict[str, Array]:
    """Return the values with which the generated file initialises a model."""
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    return values(module.make(network))


def loading(network: Network) -> tuple[Any, Callable[[str], None]]:
    """Return a model of the generated file, and the function of the file that loads weights into it."""
    home, factory = executed(network, source_file.source(network))
    keras.utils.clear_session(free_memory=False)
    model = factory()
    return model, lambda path: home.load(model, path)


@contextmanager
def in_double() -> Iterator[None]:
    """Let Keras compute in float64."""
    set_precision("float64")
    try:
        yield
    finally:
        set_precision("float32")


def in_evaluation(model: Any, network: Network, x: Array) -> dict[str, Array]:
    """Return the outputs of a model in evaluation mode, without those of training."""
    found = module.outputs(model, x)
    return {name: found[name] for name in network.outputs}


def evaluated(network: Network, weights: Mapping[str, Array], x: Array) -> dict[str, Array]:
    """Return the outputs of a network in evaluation mode, in float64."""
    return in_evaluation(model_of(network, weights), network, x)


def values(model: Any) -> dict[str, Array]:
    """Return the parameters and statistics of a model by path."""
    return {variable.path: variable.numpy() for variable in model.weights}


def by_keras(network: Network, weights: Mapping[str, Array], x: Array, **options: Any) -> Step:
    """Return one step of the generated model."""
    model = model_of(network, weights, **options)
    found = model(np.moveaxis(x, 1, -1), training=True)
    named = found if isinstance(found, dict) else {LOGITS: found}
    model.zero_grad()
    torch.stack([(value**2).mean() for value in named.values()]).sum().backward()
    return Step(
        {name: np.moveaxis(value.detach().numpy(), -1, 1) for name, value in named.items()},
        {
            v.path: np.zeros(v.shape) if v.value.grad is None else v.value.grad.numpy().copy()
            for v in model.trainable_weights
        },
        {v.path: v.numpy().copy() for v in model.non_trainable_weights},
    )


def seed() -> None:
    """Seed the random generators of models that are built later."""
    keras.utils.set_random_seed(0)


def slopes(model: Any, x: Array) -> tuple[Array, Array]:
    """Return the outputs of a vector in training mode, and the gradients of their sum."""
    values = torch.tensor(x, requires_grad=True)
    found = model(values, training=True)
    (gradients,) = torch.autograd.grad(found.sum(), values)
    return found.detach().numpy(), gradients.numpy()


def trained(model: Any, x: Array, labels: Array, steps: int, rate: float) -> list[float]:
    """Return the losses of steps of SGD on one batch."""
    model.compile(keras.optimizers.SGD(rate), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    given = np.moveaxis(x, 1, -1)
    return list(model.fit(given, labels, batch_size=len(x), epochs=steps, verbose=0).history["loss"])


@contextmanager
def drawing(drawn: Drawn) -> Iterator[None]:
    """Let merges draw these random numbers. Keras runs layers in an order of its own, so the number in a layer's name
    selects its random numbers."""
    uniform = [-np.log(1 - draws) for draws in drawn.merges]
    if drawn.columns:
        uniform = [
            -np.log(draws) for draws in (np.stack([drawn.whether, (drawn.which + 0.5) / drawn.columns]), *drawn.merges)
        ]

    def noise(layer: Any, inputs: Any, training: bool = False) -> Any:
        if not training:
            return inputs
        sizes = uniform[int(f"_{layer.name}".rpartition("gaussian_noise")[2].lstrip("_") or 0)].reshape(
            -1, inputs.shape[-1]
        )
        return torch.from_numpy(np.concatenate([np.sqrt(2 * sizes), 0 * sizes]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.layers.GaussianNoise, "call", noise)
        yield


def by_torch(network: Network, weights: Mapping[str, Array], x: Array) -> Step:
    """Return the same step of the generated PyTorch module, with the names and axes of Keras."""
    return training_steps.by_torch(network, weights, x, tensors.places(network))
