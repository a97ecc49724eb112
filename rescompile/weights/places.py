"""The tensors of a network with the names and axes of a framework, which its target writes to a safetensors file and
loads into its live modules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Protocol

import numpy as np

from rescompile.files.atomic_write import File
from rescompile.ir.network import Network, Op, join, walk
from rescompile.ir.ops import Kind, Shape
from rescompile.records import record
from rescompile.weights import Array, Weights, safetensors_file

#: Converts an array of the tree to the framework's layout. Shapes are found by converting an array without values.
Move = Callable[[Array], Array]
#: The names of a framework for the tensors of an op, if they differ from those of the tree; None for one that it lacks.
Words = Mapping[type[Kind], Mapping[str, str | None]]


@record(slots=False)
class Place:
    """A tensor: its name in the tree, its name and shape in a framework, and the conversion of its array."""

    name: str
    path: str
    shape: Shape
    move: Move

    def value(self, weights: Mapping[str, Any]) -> Array:
        """Return the value in the framework, from weights by the names of the tree."""
        return self.move(np.asarray(weights[self.name]))


class Tensor(Protocol):
    """A tensor of a framework, from one or several tensors of the tree: see `Place`."""

    @property
    def path(self) -> str: ...
    @property
    def shape(self) -> Shape: ...
    def value(self, weights: Mapping[str, Any]) -> Array: ...


def places(network: Network, words: Words, move: Move) -> Iterator[Place]:
    """Yield the tensors that a framework has, in the order of the tree."""
    for path, node in walk(network.root):
        if not isinstance(node, Op):
            continue
        own = words.get(type(node.kind), {})
        for parameter in node.kind.parameters(node.input):
            word = own.get(parameter.name, parameter.name)
            if word is not None:
                empty = np.broadcast_to(np.float32(0), parameter.shape)
                yield Place(join(path, parameter.name), join(path, word), move(empty).shape, move)


def weights_file(network: Network, weights: Weights, listed: Iterable[Tensor], name: str, framework: str) -> File:
    """Return the safetensors file of weights by the names of a framework and with its axes."""
    by_path = {place.path: place for place in listed}
    moved = Weights({path: partial(place.value, weights) for path, place in by_path.items()})
    kinds = {path: ("float32", place.shape) for path, place in by_path.items()}
    return safetensors_file.file(moved, kinds, network, name, weights.preprocess, framework)
