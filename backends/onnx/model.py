"""An ONNX model in memory: nodes, initializers and values, but not the values of its weights; `Graph` collects them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rescompile.ir.network import Op
from rescompile.ir.ops import Shape
from rescompile.weights import Array

if TYPE_CHECKING:
    from rescompile.analysis.dynamic_shapes import Sizes

WIDTHS = {"float32": 4, "int64": 8, "float16": 2}


@dataclass(frozen=True, slots=True)
class Tensor:
    """An initializer: a weight by its name, or a small constant of the graph itself."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    constant: Array | None = None

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        size = WIDTHS[self.dtype]
        for n in self.shape:
            size *= n
        return size


@dataclass(slots=True)
class Call:
    """A node of the graph. `shape` is that of its output and of each of the `others`, if it has more: without the batch, and
    for maps and vectors of features at the size that the spec gives."""

    name: str
    operator: str
    inputs: list[str]
    output: str
    shape: tuple[int, ...]
    attributes: dict[str, Any]
    others: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Value:
    """An input or output of the graph; a dimension that is text is free and has that name."""

    name: str
    shape: Sequence[int | str]
    dtype: str = "float32"


@dataclass(frozen=True, slots=True)
class Model:
    """Everything of a model but the values of its weights."""

    name: str
    nodes: Sequence[Call]
    tensors: Sequence[Tensor]
    inputs: Sequence[Value]
    outputs: Sequence[Value]
    opset: int
    producer: tuple[str, str]
    metadata: Mapping[str, str]


@dataclass(slots=True)
class Graph:
    """The nodes and initializers so far. Every value has the name of the node that computes it."""

    calls: list[Call] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)  # names of values, those of inputs and outputs from the start
    sizes: Sizes | None = None

    def free(self, name: str) -> tuple[bool, bool]:
        """Whether height and width are free at this op. A rule must not use a size that is free."""
        return self.sizes.ops[name] if self.sizes else (False, False)

    def call(self, name: str, operator: str, inputs: Iterable[str], shape: Shape, **attributes: Any) -> str:
        """Add a node and return the name of its value."""
        value = self.value(name)
        self.calls.append(Call(name, operator, list(inputs), value, shape, attributes))
        return value

    def value(self, name: str) -> str:
        """Return a name for a new value: this one, with underscores appended where it is taken."""
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        return name

    def split(self, name: str, value: str, count: int, shape: Shape) -> list[str]:
        """Add a node that splits a value into `count` ranges of its channels, and return the names of these values.

        Sizes are an input: opsets before 18 have no `num_outputs`, and from it on one of the two is needed."""
        sizes = self.constant(f"{name}.sizes", np.full(count, shape[0], np.int64))
        first, *others = [self.value(f"{name}.{at}") for at in range(count)]
        self.calls.append(Call(name, "Split", [value, sizes], first, shape, {"axis": 1}, others))
        return [first, *others]

    def weights(self, name: str, op: Op, *parts: str) -> list[str]:
        """Add the named parameters of an op as initializers and return their names."""
        owned = {parameter.name: parameter for parameter in op.kind.parameters(op.input)}
        for part in parts:
            self.tensors.append(Tensor(f"{name}.{part}", owned[part].shape))
        return [f"{name}.{part}" for part in parts]

    def constant(self, name: str, value: Array) -> str:
        """Add a constant as an initializer and return its name."""
        self.tensors.append(Tensor(name, value.shape, value.dtype.name, value))
        return name

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
            call.others = [names.get(value, value) for value in call.others]
            call.inputs = [names.get(value, value) for value in call.inputs]
