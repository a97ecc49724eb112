"""The tree: every network of this family is ops in series and in parallel, with side branches.

    Op         a leaf
    Series     one after the other; with a name it is a scope, with a call it came from a block
    Parallel   branches on the same input, or on equal ranges of its channels, merged by add, concat, mul or gate
    Side       a branch that does not rejoin: an auxiliary head, a feature tap, parameters that nothing uses

Every node knows its input and output shape (without the batch). `hints` stand beside numbers: the expressions they came
from, never compared, possibly stale. `origin` is the definition step that a node came from; `when` is the condition under
which it exists, in the names of the block around.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import UnionType
from typing import Any, Literal

from rescompile.diagnostics.errors import ShapeError
from rescompile.ir.ops import Kind, Parameter, Shape
from rescompile.ir.provenance import Call, Definition, Hints, Origin

Merge = Literal["add", "concat", "mul", "gate"]
Mode = Literal["training", "always", "never"]
INPUT, LOGITS = "input", "logits"


@dataclass(frozen=True, slots=True)
class Op:
    """A leaf: one operator with its numbers. `zeros` is the number of weights that a pass added, which are 0 and do not count as
    parameters."""

    name: str
    kind: Kind
    input: Shape
    output: Shape
    hints: Hints = field(default_factory=dict, compare=False)
    origin: Origin | None = field(default=None, compare=False)
    when: str | None = field(default=None, compare=False)
    zeros: int = 0


@dataclass(frozen=True, slots=True)
class Series:
    """Children one after the other; without children the identity."""

    children: tuple[Node, ...]
    input: Shape
    output: Shape
    name: str | None = None
    call: Call | None = None
    origin: Origin | None = field(default=None, compare=False)
    when: str | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Survival:
    """How a residual branch is dropped in training: kept with `probability`, drawn per batch or per sample, and
    rescaled at test time (multiply by the probability) or in training (divide by it)."""

    probability: float
    unit: Literal["batch", "sample"]
    rescale: Literal["test", "train"]


@dataclass(frozen=True, slots=True)
class Parallel:
    """Branches on the same input; with `split` each has one of as many equal ranges of the input's channels, in order.
    `residual` marks branch + shortcut. With merge gate the branches are (branch, gate, shortcut) and the value is
    gate * branch + (1 - gate) * shortcut. Neither is ever split. For copies of one branch, `hints` has the expression of their
    number under `copies`."""

    name: str
    branches: tuple[Series, ...]
    merge: Merge
    input: Shape
    output: Shape
    residual: bool = False
    survival: Survival | None = None
    split: bool = False
    origin: Origin | None = field(default=None, compare=False)
    when: str | None = field(default=None, compare=False)
    hints: Hints = field(default_factory=dict, compare=False)

    @property
    def given(self) -> Shape:
        """The input shape of each branch."""
        return share(self.input, len(self.branches)) if self.split else self.input


@dataclass(frozen=True, slots=True)
class Side:
    """A branch that does not rejoin, so the value passes by unchanged. `always` is computed in every graph, `training`
    only in training, `never` not at all: it only owns parameters."""

    child: Series
    output_name: str | None
    mode: Mode
    input: Shape
    origin: Origin | None = field(default=None, compare=False)

    @property
    def output(self) -> Shape:
        """The shape after the node, which is that of its input."""
        return self.input


Node = Op | Series | Parallel | Side


@dataclass(frozen=True, slots=True)
class Network:
    """A network: its tree, and the canonical spec that it came from as text with its SHA-256, so that backends need no Spec.
    `passes` are those applied since, in order; `parameters` are the network's own parameters whose every mention is a hint in
    the tree."""

    name: str
    root: Series
    text: str = ""
    sha256: str = ""
    passes: tuple[str, ...] = ()
    checkpoint: bool = False
    preprocess: Mapping[str, Any] | None = None
    reference: str = field(default="", compare=False)
    parameters: Mapping[str, Any] = field(default_factory=dict, compare=False)
    definitions: Mapping[str, Definition] = field(default_factory=dict, compare=False)

    @property
    def input(self) -> Shape:
        """Shape of the input, without the batch."""
        return self.root.input

    @property
    def outputs(self) -> dict[str, Shape]:
        """The outputs in evaluation mode: `logits`, then those of side branches that are always computed."""
        sides = {
            node.output_name or path: node.child.output
            for path, node in walk(self.root, computed=True)
            if isinstance(node, Side)
        }
        return {LOGITS: self.root.output, **sides}


def join(path: str, name: str | None) -> str:
    """The dotted name of `name` inside the scope `path`; a node without a name adds nothing."""
    return f"{path}.{name}" if path and name else path or name or ""


def scope_of(full: str) -> str:
    """The scope that a node with this full name lives in; the node must have a name of its own."""
    return full.rpartition(".")[0]


def name_of(node: Node) -> str | None:
    """The node's own name, which prefixes those inside it; None for a node without a name."""
    return None if isinstance(node, Side) else node.name


def children(node: Node) -> tuple[Node, ...]:
    """The nodes directly inside."""
    match node:
        case Series():
            return node.children
        case Parallel():
            return node.branches
        case Side():
            return (node.child,)
        case _:
            return ()


def scope(path: str, node: Node) -> str:
    """The dotted name of the scope that the node's children live in: a merge is not a scope, so its name adds nothing."""
    return join(path, node.name) if isinstance(node, Series) else path


def walk(
    node: Node, path: str = "", computed: bool = False, into: type[Node] | UnionType = Node
) -> Iterator[tuple[str, Node]]:
    """Every node with its full name, in execution order, parents first.

    With `computed`, without what evaluation mode leaves out: side branches of another mode than `always`. Only nodes of the
    types `into` are entered.
    """
    todo = [(path, node)]
    while todo:
        path, node = todo.pop()
        if computed and isinstance(node, Side) and node.mode != "always":
            continue
        yield join(path, name_of(node)), node
        if isinstance(node, into):
            inner = scope(path, node)
            todo.extend((inner, child) for child in reversed(children(node)))


def parameters(network: Network) -> Iterator[tuple[str, Parameter]]:
    """Every tensor of the network by its full name, in execution order: the keys of a `state_dict`."""
    for path, node in walk(network.root):
        if isinstance(node, Op):
            for parameter in node.kind.parameters(node.input):
                yield f"{path}.{parameter.name}", parameter


def share(shape: Shape, count: int) -> Shape:
    """The shape of one of `count` equal ranges of the channels. Raises ShapeError where they cannot be divided."""
    if shape[0] % count:
        raise ShapeError("E0203", f"cannot split {shape[0]} channels among {count} branches", "copies")
    return shape[0] // count, *shape[1:]


def merge_shape(merge: Merge, shapes: Sequence[Shape]) -> Shape:
    """The shape of merged branches. Raises ShapeError where they do not fit together."""
    first = shapes[0]
    listed = " and ".join(str(list(shape)) for shape in shapes)
    if merge == "concat":
        if any(len(shape) != len(first) or shape[1:] != first[1:] for shape in shapes):
            raise ShapeError("E0201", f"concat needs feature maps of equal size, but its branches produce {listed}")
        return sum(shape[0] for shape in shapes), *first[1:]
    if merge == "mul":
        full = max(shapes, key=lambda shape: shape[1:])
        if any(shape != full and shape != (full[0], *(1 for _ in full[1:])) for shape in shapes):
            raise ShapeError(
                "E0201",
                f"mul needs equal shapes, or 1x1 maps with the same number of channels, but its branches produce {listed}",
            )
        return full
    if any(shape != first for shape in shapes):
        raise ShapeError(
            "E0201",
            f"the branches of {'a gate' if merge == 'gate' else 'an addition'} must have equal shapes, but they produce {listed}",
        )
    return first
