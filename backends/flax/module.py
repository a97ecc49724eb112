"""Live modules of Flax NNX: the generated source is executed, and its module is filled with weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from flax import nnx

from rescompile.codegen.class_plan import Scan
from rescompile.codegen.execution import executed
from rescompile.ir.network import LOGITS, Network
from rescompile.weights import Array, Weights

from .tensors import places, stacked
from .text import scans_of, source

#: The initialisers of kernels in a file.
_INITIALISERS = ("HE_FAN_OUT", "HE_FAN_IN", "TORCH_DEFAULT")


def make(network: Network, weights: Weights | None = None, running_variance: str = "biased", scan: bool = False) -> Any:
    """Return a new instance of the generated class, in training mode, with these weights; without weights, it draws its
    own."""
    home, factory = executed(network, source(network, running_variance=running_variance, scan=scan))
    if weights is None:
        return factory(rngs=nnx.Rngs(0))
    with _without_drawing(vars(home)):
        model = factory(rngs=nnx.Rngs(0))
    fill(model, network, weights, scans_of(network) if scan else ())
    return model


@contextmanager
def _without_drawing(names: dict[str, Any]) -> Iterator[None]:
    """Replace the initialisers of kernels, which would be compiled for each shape, by zeros."""
    zeros: Callable[..., Array] = lambda key, shape, dtype: np.zeros(shape, dtype)  # noqa: E731
    own = {name: names[name] for name in _INITIALISERS if name in names}
    names.update(dict.fromkeys(own, zeros))
    try:
        yield
    finally:
        names.update(own)


def fill(model: Any, network: Network, weights: Weights, scans: Sequence[Scan] = ()) -> None:
    """Fill a model with these scans with copies of the weights, in the types that they have."""
    state = nnx.to_flat_state(nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat)))
    variables = {".".join(map(str, keys)): variable for keys, variable in state}
    listed = stacked(places(network), scans)
    arrays = [np.array(place.value(weights), order="C") for place in listed]
    for place, array in zip(listed, jax.device_put(arrays), strict=True):
        variables[place.path].set_value(array)
    nnx.update(model, nnx.from_flat_state(state))


def outputs(model: Any, x: Array) -> dict[str, Array]:
    """Return the outputs of a model for a batch by name, channels first."""
    found = nnx.jit(lambda model, x: model(x))(model, np.moveaxis(x, 1, -1))
    named = found if isinstance(found, dict) else {LOGITS: found}
    return {name: np.moveaxis(np.asarray(value), -1, 1) for name, value in named.items()}
