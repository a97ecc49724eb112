"""Live modules of MLX: the generated source is executed, and its module is filled with weights."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

from rescompile.codegen.execution import executed
from rescompile.ir.network import LOGITS, Network
from rescompile.weights import Array, Weights

from .tensors import places
from .text import source


def make(network: Network, weights: Weights | None = None, running_variance: str = "unbiased") -> Any:
    """Return a new instance of the generated class, in training mode, with these weights; without weights, it draws its
    own."""
    _, factory = executed(network, source(network, running_variance=running_variance))
    model = factory()
    if weights is not None:
        fill(model, network, weights)
    return model


def fill(model: Any, network: Network, weights: Weights) -> None:
    """Fill a model with copies of these weights, in the types that they have."""
    model.load_weights([(place.path, array(place.value(weights))) for place in places(network)])


def array(values: Array) -> mx.array:
    """Return an MLX array with the type of the values; by default MLX converts float64 to float32."""
    return mx.array(values, mx.float64) if values.dtype == np.float64 else mx.array(values)


def outputs(model: Any, x: Array) -> dict[str, Array]:
    """Return the outputs of a model for a batch by name, channels first."""
    found = model(array(np.moveaxis(x, 1, -1)))
    named = found if isinstance(found, dict) else {LOGITS: found}
    return {name: np.moveaxis(np.array(value), -1, 1) for name, value in named.items()}
