"""The tensors of a network with the names and axes of Flax: `layer1.0.conv1.kernel` as [height, width, in, out].

The equal copies of a scan share one tensor: `layer1.rest.conv1.kernel` as [copies, height, width, in, out].
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any

import numpy as np

from rescompile.codegen.class_plan import Scan
from rescompile.ir import ops
from rescompile.ir.network import Network, join
from rescompile.ir.ops import Shape
from rescompile.records import record
from rescompile.weights import Array
from rescompile.weights import places as of_framework
from rescompile.weights.places import Place, Words

_LAYER = {"weight": "kernel"}
_NORM = {"weight": "scale", "running_mean": "mean", "running_var": "var", "num_batches_tracked": None}
WORDS: Words = {
    ops.Conv: _LAYER, ops.ConvTranspose: _LAYER, ops.Linear: _LAYER,
    ops.Norm: _NORM, ops.Affine: {"weight": "scale"}, ops.Act: {"weight": "negative_slope"},
}  # fmt: skip
#: The name of the module that a scan runs, among the copies of its row.
REST = "rest"


@record(slots=False)
class Stack:
    """The tensors of the copies of a scan under one name in Flax, stacked along a new first axis."""

    path: str
    places: tuple[Place, ...]

    @property
    def shape(self) -> Shape:
        """The shape in Flax."""
        return len(self.places), *self.places[0].shape

    def value(self, weights: Mapping[str, Any]) -> Array:
        """Return the value in Flax, from weights by the names of the tree."""
        return np.stack([place.value(weights) for place in self.places])


def places(network: Network) -> Iterator[Place]:
    """Yield the tensors that Flax has, in the order of the tree."""
    return of_framework.places(network, WORDS, _moved)


def _moved(array: Array) -> Array:
    """Return an array of the tree with its channels as the last axes: input, then output."""
    return array.transpose(*range(2, array.ndim), 1, 0) if array.ndim > 1 else array


def stacked(places: Iterable[Place], scans: Iterable[Scan]) -> list[Place | Stack]:
    """Return the tensors that Flax has if the copies of these scans share theirs."""
    rows = {f"{scan.path}.{name}": scan.path for scan in scans for name in scan.names[scan.start : scan.stop]}
    found: dict[str, Place | Stack] = {}
    for place in places:
        scopes = accumulate(place.path.split(".")[:-1], join)
        copy = next((scope for scope in scopes if scope in rows), None)
        if copy is None:
            found[place.path] = place
            continue
        path = f"{rows[copy]}.{REST}{place.path.removeprefix(copy)}"
        before = found.get(path)
        found[path] = Stack(path, (*(before.places if isinstance(before, Stack) else ()), place))
    return list(found.values())
