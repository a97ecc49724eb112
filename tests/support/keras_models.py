"""Live models of Keras on its torch backend: in float64, in evaluation, and for one step of training beside torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import torch

os.environ.update(KERAS_BACKEND="torch", KERAS_TORCH_DEVICE="cpu")

import keras
from keras.src.backend.common import dtypes
from numpy.typing import NDArray
from sources import filled, source

from rescompile.ir.network import LOGITS, Network
from rescompile.weights import Weights

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
    """A model with these weights in float64."""
    keras.utils.clear_session(free_memory=False)
    makers = {name: (lambda value=value: np.asarray(value, np.float64)) for name, value in weights.items()}
    return module.make(network, Weights(makers), **options)


def evaluated(network: Network, weights: Mapping[str, Array], x: Array) -> dict[str, Array]:
    """The outputs in evaluation, without those of training."""
    found = module.outputs(model_of(network, weights), x)
    return {name: found[name] for name in network.outputs}


class Step(NamedTuple):
    """One step of training: outputs, gradients and statistics, all by the names of Keras and with its axes."""

    outputs: dict[str, Array]
    gradients: dict[str, Array]
    statistics: dict[str, Array]


def by_keras(network: Network, weights: Mapping[str, Array], x: Array, **options: Any) -> Step:
    """A step of the generated model."""
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


def by_torch(network: Network, weights: Mapping[str, Array], x: Array) -> Step:
    """The same step of the generated PyTorch module."""
    other = filled(source(network), weights)
    other.train()
    found = other(torch.from_numpy(x))
    named = found if isinstance(found, dict) else {LOGITS: found}
    torch.stack([(value**2).mean() for value in named.values()]).sum().backward()
    places = {place.name: place for place in tensors.places(network)}
    gradients = {name: value.grad for name, value in other.named_parameters() if name in places}
    return Step(
        {name: value.detach().numpy() for name, value in named.items()},
        {
            places[name].path: np.zeros(places[name].shape) if value is None else places[name].moved(value.numpy())
            for name, value in gradients.items()
        },
        {places[name].path: value.numpy() for name, value in other.named_buffers() if name in places},
    )


def apart(found: Mapping[str, Array], wanted: Mapping[str, Array]) -> float:
    """The largest difference between arrays, each relative to the largest value of its kind; of other names or shapes, infinite.

    Arrays far below the largest of all count as if they were larger: the gradient of a bias before a norm is rounding alone."""
    if found.keys() != wanted.keys() or any(found[name].shape != wanted[name].shape for name in wanted):
        return np.inf
    worst = max((float(np.abs(value).max()) for value in wanted.values()), default=0.0)
    return max(
        (
            float(np.abs(found[name] - wanted[name]).max()) / max(np.abs(wanted[name]).max(), 1e-4 * worst, 1e-30)
            for name in wanted
        ),
        default=0.0,
    )
