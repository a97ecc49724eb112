"""One training step of the generated PyTorch module, the reference for the steps of other frameworks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sources import filled, source

from rescompile.ir.network import LOGITS, Network
from rescompile.weights.places import Place

Array = NDArray[Any]
#: The largest difference between a step in float64 and that of torch.
BOUND = 1e-8


class Step(NamedTuple):
    """The results of one training step: outputs with channels first; gradients and statistics with the names and axes
    of a framework."""

    outputs: dict[str, Array]
    gradients: dict[str, Array]
    statistics: dict[str, Array]


def by_torch(network: Network, weights: Mapping[str, Array], x: Array, listed: Iterable[Place]) -> Step:
    """Return one step of the generated PyTorch module, with the gradients of the sum of the mean squares of all
    outputs."""
    other = filled(source(network), weights)
    other.train()
    found = other(torch.from_numpy(x))
    named = found if isinstance(found, dict) else {LOGITS: found}
    torch.stack([(value**2).mean() for value in named.values()]).sum().backward()
    places = {place.name: place for place in listed}
    gradients = {name: value.grad for name, value in other.named_parameters() if name in places}
    buffers = dict(other.named_buffers())
    return Step(
        {name: value.detach().numpy() for name, value in named.items()},
        {
            places[name].path: np.zeros(places[name].shape) if value is None else places[name].move(value.numpy())
            for name, value in gradients.items()
        },
        {places[name].path: value.numpy() for name, value in buffers.items() if name in places},
    )


def apart(found: Mapping[str, Array], wanted: Mapping[str, Array]) -> float:
    """Return the largest difference between arrays, relative to the largest value of each; infinite if names or shapes
    differ.

    An array far below the largest one counts as if it were larger: the gradient of a bias before a norm is rounding
    alone.
    """
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


def agree(found: Step, wanted: Step) -> None:
    """Check that outputs, gradients and statistics are equal within the bound."""
    for one, other in zip(found, wanted, strict=True):
        assert apart(one, other) < BOUND
