"""Live modules of Flax NNX in float64: with given weights, in evaluation, and for one step of training beside torch."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import training_steps
from flax import nnx
from numpy.typing import NDArray
from training_steps import Step, apart

from rescompile.ir.network import LOGITS, Network
from rescompile.weights import Weights

__all__ = ["Step", "apart"]
Array = NDArray[Any]
module: Any = import_module("rescompile.backends.flax.module")
source_file: Any = import_module("rescompile.backends.flax.source_file")
tensors: Any = import_module("rescompile.backends.flax.tensors")
ALL = nnx.Any(nnx.Param, nnx.BatchStat)


def model_of(network: Network, weights: Mapping[str, Array], **options: Any) -> Any:
    """A model with these weights in float64, in training mode."""
    makers = {name: (lambda value=value: np.asarray(value, np.float64)) for name, value in weights.items()}
    return module.make(network, Weights(makers), **options)


def in_evaluation(model: Any, network: Network, x: Array) -> dict[str, Array]:
    """The outputs of a model in evaluation mode."""
    model.eval()
    return dict(module.outputs(model, x))


def evaluated(network: Network, weights: Mapping[str, Array], x: Array) -> dict[str, Array]:
    """The outputs in evaluation mode, in float64."""
    return in_evaluation(model_of(network, weights), network, x)


def arrays(state: Any) -> dict[str, Array]:
    """The arrays of a state by name."""
    return {".".join(map(str, keys)): np.array(variable[...]) for keys, variable in nnx.to_flat_state(state)}


def values(model: Any) -> dict[str, Array]:
    """The parameters and statistics of a model by path."""
    return arrays(nnx.state(model, ALL))


def by_flax(network: Network, weights: Mapping[str, Array], x: Array, **options: Any) -> Step:
    """A step of the generated module."""

    def loss(model: Any, x: Any) -> tuple[Any, dict[str, Any]]:
        found = model(x)
        named = found if isinstance(found, dict) else {LOGITS: found}
        return sum(jnp.mean(value**2) for value in named.values()), named

    model = model_of(network, weights, **options)
    step = nnx.jit(nnx.value_and_grad(loss, has_aux=True))
    (_, outputs), gradients = step(model, jnp.asarray(np.moveaxis(x, 1, -1)))
    moved = {name: np.moveaxis(np.asarray(value), -1, 1) for name, value in outputs.items()}
    return Step(moved, arrays(gradients), arrays(nnx.state(model, nnx.BatchStat)))


def by_torch(network: Network, weights: Mapping[str, Array], x: Array) -> Step:
    """The same step of the generated PyTorch module, by the names of Flax and with its axes."""
    return training_steps.by_torch(network, weights, x, tensors.places(network))


def in_double() -> Any:
    """A context in which JAX computes in float64."""
    return jax.enable_x64(True)
