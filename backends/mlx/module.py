"""Live modules of MLX: the generated source is executed, and its module filled with weights."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

from rescompile.codegen.execution import executed
from rescompile.ir.network import LOGITS, Network
from rescompile.weights import Weights

from .tensors import places
from .text import source

Array = np.ndarray[Any, Any]


def make(network: Network, weights: Weights | None = None, running_variance: str = "unbiased") -> Any:
    """A new instance of the generated class, in training mode, with these weights; without any, it draws its own."""
    _, factory = executed(network, source(network, running_variance=running_variance))
    model = factory()
    if weights is not None:
        fill(model, network, weights)
    return model


def fill(model: Any, network: Network, weights: Weights) -> None:
    """Give a model copies of these weights, of the types that they have."""
    model.load_weights([(place.path, array(place.moved(np.asarray(weights[place.name])))) for place in places(network)])


def array(values: Array) -> mx.array:
    """An array of the type that the values have; by itself MLX makes float32 of float64."""
    return mx.array(values, mx.float64) if values.dtype == np.float64 else mx.array(values)


def outputs(model: Any, x: Array) -> dict[str, Array]:
    """The outputs of a model for a batch by name, with channels first."""
    found = model(array(np.moveaxis(x, 1, -1)))
    named = found if isinstance(found, dict) else {LOGITS: found}
    return {name: np.moveaxis(np.array(value), -1, 1) for name, value in named.items()}
