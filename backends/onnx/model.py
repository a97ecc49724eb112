"""An ONNX model in memory: nodes, initializers and values, without the values of its weights; `Graph` collects them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from rescompile.ir.network import Op
from rescompile.ir.ops import Shape
from rescompile.records import record
from rescompile.weights import Array

from .versions import DEFAULT_OPSET

if TYPE_CHECKING:
    from rescompile.analysis.dynamic_shapes import Sizes


@record
class Tensor:
    """An initializer: a weight by its name, or a small constant of the graph itself."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    constant: Array | None = None

    @property
    def nbytes(self) -> int:
        """The size in bytes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def _is_same(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors are the same weight, or constants with equal values."""
    if one.constant is None or other.constant is None:
        return one.constant is other.constant and one.shape == other.shape
    return one.dtype == other.dtype and np.array_equal(one.constant, other.constant)


@dataclass(slots=True)
class Call:
    """A node of the graph. `shape` is the shape of its output, and `others` maps its further outputs to their shapes:
    without the batch, and for maps and vectors of features at the size in the spec."""

    name: str
    operator: str
    inputs: list[str]
    output: str
    shape: tuple[int, ...]
    attributes: dict[str, Any]
    others: dict[str, tuple[int, ...]] = field(default_factory=dict)


@record
class Value:
    """An input or output of the graph; a string dimension is dynamic and has that name."""

    name: str
    shape: Sequence[int | str]
    dtype: str = "float32"


@record
class Model:
    """A whole model except the values of its weights."""

    name: str
    nodes: Sequence[Call]
    tensors: Sequence[Tensor]
    inputs: Sequence[Value]
    outputs: Sequence[Value]
    opset: int
    ir: int
    metadata: Mapping[str, str]


@dataclass(slots=True)
class Graph:
    """The nodes and initializers so far. Every value has the name of the node that computes it."""

    calls: list[Call] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)  # by name; steps that run again share theirs
    taken: set[str] = field(default_factory=set)  # names of values, including all inputs and outputs
    nodes: set[str] = field(default_factory=set)  # names of nodes
    sizes: Sizes | None = None
    opset: int = DEFAULT_OPSET
    updates: dict[str, str] = field(default_factory=dict)  # parameters that training changes, and their new values
    begun: dict[str, dict[str, str]] = field(default_factory=dict)  # the updates before a merge, by its name

    def free(self, name: str) -> tuple[bool, ...]:
        """Return whether each axis is dynamic at this op; nothing if all sizes are fixed. A rule must not use a dynamic
        size."""
        return self.sizes.ops[name] if self.sizes else ()

    def call(self, name: str, operator: str, inputs: Iterable[str], shape: Shape, **attributes: Any) -> str:
        """Add a node and return the name of its value."""
        value = self.value(name)
        self.calls.append(Call(self.node(name), operator, list(inputs), value, shape, attributes))
        return value

    def value(self, name: str) -> str:
        """Return a name for a new value: this one, with underscores appended if it is taken."""
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        return name

    def node(self, name: str) -> str:
        """Return a name for a new node: this one, with underscores appended if a step that runs again has it."""
        while name in self.nodes:
            name += "_"
        self.nodes.add(name)
        return name

    def split(self, name: str, value: str, shapes: Sequence[Shape]) -> list[str]:
        """Add a node that splits a value into channel ranges of these shapes, and return the names of the resulting
        values.

        Sizes are an input: opsets before 18 have no `num_outputs`, and later ones require exactly one of the two."""
        sizes = self.integers(f"{name}.sizes", [shape[0] for shape in shapes])
        first, *others = [self.value(f"{name}.{at}") for at in range(len(shapes))]
        more = dict(zip(others, shapes[1:], strict=True))
        self.calls.append(Call(self.node(name), "Split", [value, sizes], first, shapes[0], {"axis": 1}, more))
        return [first, *others]

    def weights(self, name: str, op: Op, *parts: str) -> list[str]:
        """Add those of the named parameters that an op has as initializers and return their names."""
        shapes = {parameter.name: parameter.shape for parameter in op.kind.parameters(op.input)}
        return [self.tensor(Tensor(f"{name}.{part}", shapes[part])) for part in parts if part in shapes]

    def tensor(self, tensor: Tensor) -> str:
        """Add an initializer, unless the same step added it in an earlier run, and return its name."""
        while (known := self.tensors.setdefault(tensor.name, tensor)) is not tensor and not _is_same(known, tensor):
            tensor = replace(tensor, name=f"{tensor.name}_")
        return tensor.name

    def constant(self, name: str, value: Array) -> str:
        """Add a constant as an initializer and return its name."""
        return self.tensor(Tensor(name, value.shape, value.dtype.name, value))

    def integers(self, name: str, value: ArrayLike) -> str:
        """Add an array of integers as a constant and return its name."""
        return self.constant(name, np.array(value, np.int64))

    def number(self, name: str, value: float) -> str:
        """Add a single number as a constant and return its name."""
        return self.constant(name, np.array(value, np.float32))

    def numbers(self, name: str, count: int, value: float) -> str:
        """Add a vector of `count` equal numbers as a constant and return its name."""
        return self.constant(name, np.full(count, value, np.float32))

    def rename(self, names: Mapping[str, str]) -> None:
        """Rename values, where they are computed and where they are used."""
        for call in self.calls:
            call.output = names.get(call.output, call.output)
            call.others = {names.get(value, value): shape for value, shape in call.others.items()}
            call.inputs = [names.get(value, value) for value in call.inputs]
