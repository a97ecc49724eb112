"""The tree: every network of this family is ops in series and in parallel, with side branches.

    Op         a leaf
    Series     one after the other; with a name it is a scope, with a call it came from a block
    Parallel   branches on the same input, or on ranges of its channels, merged by add, concat, mul or gate
    Side       a branch that does not rejoin: an auxiliary head, a feature tap, parameters that nothing uses
    Keep       gives the value at this place a name; Recall, which is `use` in a spec, goes on with the value of that name
    Again      a step of the same scope once more, with the same parameters

Every node knows its input and output shape (without the batch). `hints` stand beside numbers: the expressions they came
from, never compared, possibly stale. `origin` is the definition step that a node came from; `when` is the condition under
which it exists, in the names of the block around.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from types import UnionType
from typing import Any, Literal

from rescompile.diagnostics.errors import ShapeError
from rescompile.diagnostics.notebook_views import NotebookView
from rescompile.ir.ops import Kind, Parameter, Shape
from rescompile.ir.provenance import Call, Definition, Hints, Origin
from rescompile.records import record

Merge = Literal["add", "concat", "mul", "gate", "mean", "shake"]
#: What a random draw of training is for: the whole batch, or each of its samples.
Unit = Literal["batch", "sample"]
#: The name of a kept value, and its index if it has one: `y[2]` is ("y", 2).
Key = tuple[str, int | None]
Mode = Literal["training", "always", "never"]
#: The modes of the side branches that evaluation computes, and those of training.
EVALUATION: tuple[Mode, ...] = ("always",)
TRAINING: tuple[Mode, ...] = ("always", "training")
INPUT, LOGITS = "input", "logits"


@record
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


@record
class Series:
    """Children one after the other; without children the identity."""

    children: tuple[Node, ...]
    input: Shape
    output: Shape
    name: str | None = None
    call: Call | None = None
    origin: Origin | None = field(default=None, compare=False)
    when: str | None = field(default=None, compare=False)


@record
class Survival:
    """How a residual branch is dropped in training: kept with `probability`, drawn per batch or per sample, and
    rescaled at test time (multiply by the probability) or in training (divide by it)."""

    probability: float
    unit: Unit
    rescale: Literal["test", "train"]


@record
class DropPath:
    """How training drops the branches of all merges mean: with probability `columns` each `unit` keeps one column, the branches
    with the same number in all merges; else each merge drops each branch with probability `rate`, but keeps one at least. What is
    kept is averaged."""

    rate: float
    columns: float
    unit: Unit


@record
class Parallel:
    """Branches on the same input; with `split` each has one of as many ranges of the input's channels, in order: equal ones of any
    input, or of these `sizes`. `residual` marks branch + shortcut. With merge gate the branches are (branch, gate, shortcut) and the value is
    gate * branch + (1 - gate) * shortcut. Neither is ever split. `hints` has the expressions of the number of `copies` of one
    branch, and of the sizes, under `split.0` and so on.

    Merge shake is the mean in evaluation. In training it is a random convex combination, and its gradient another one, drawn for
    each `unit`."""

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
    sizes: tuple[int, ...] = ()
    unit: Unit | None = None

    @property
    def given(self) -> tuple[Shape, ...]:
        """The input shape of each branch."""
        return self.given_of(self.input)

    def given_of(self, shape: Shape) -> tuple[Shape, ...]:
        """Return the input shapes of the branches for an input of this shape. Raises ShapeError where it cannot be split."""
        if not self.split:
            return (shape,) * len(self.branches)
        return ranges(shape, self.sizes) if self.sizes else (share(shape, len(self.branches)),) * len(self.branches)


@record
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


@record
class Keep:
    """Names the value at this place, which passes by unchanged. Kept again, the name means the newer value.

    A value kept in a branch, of a merge or a Side, is known in that branch alone, and one kept in a block only there, unless
    the block's call lists its name.
    """

    key: Key
    input: Shape
    hints: Hints = field(default_factory=dict, compare=False)
    origin: Origin | None = field(default=None, compare=False)
    when: str | None = field(default=None, compare=False)

    @property
    def output(self) -> Shape:
        """The shape after the node, which is that of its input."""
        return self.input


@record
class Recall:
    """Goes on with a value that was kept, instead of the one before it."""

    key: Key
    input: Shape
    output: Shape
    hints: Hints = field(default_factory=dict, compare=False)
    origin: Origin | None = field(default=None, compare=False)
    when: str | None = field(default=None, compare=False)


@record
class Again:
    """The step `name` of the same scope once more, with the same parameters: what it computes is in `child`, the nodes of that step
    with the shapes of this place. They own nothing, so `children` and `walk`, which list what there is, leave them out."""

    name: str
    child: Series
    origin: Origin | None = field(default=None, compare=False)
    when: str | None = field(default=None, compare=False)

    @property
    def input(self) -> Shape:
        """The shape before the node."""
        return self.child.input

    @property
    def output(self) -> Shape:
        """The shape after the node."""
        return self.child.output


Node = Op | Series | Parallel | Side | Keep | Recall | Again


def value_name(key: Key) -> str:
    """Return the name of a kept value as a spec writes it: `y` or `y[2]`."""
    name, index = key
    return name if index is None else f"{name}[{index}]"


@record
class Network(NotebookView):
    """A network: its tree, and the canonical spec that it came from as text with its SHA-256, so that backends need no Spec.
    `passes` are those applied since, in order; `gives_features` is true for an output that is a vector, but not of class scores; `parameters` are the network's own parameters whose every mention is a hint in
    the tree; `sizes` are the axes of maps, `height` and `width`, that values of the spec depend on, each with the first that does."""

    name: str
    root: Series
    text: str = ""
    sha256: str = ""
    passes: tuple[str, ...] = ()
    checkpoint: bool = False
    drop_path: DropPath | None = None
    gives_features: bool = False
    preprocess: Mapping[str, Any] | None = None
    reference: str = field(default="", compare=False)
    parameters: Mapping[str, Any] = field(default_factory=dict, compare=False)
    definitions: Mapping[str, Definition] = field(default_factory=dict, compare=False)
    sizes: Mapping[str, Origin] = field(default_factory=dict, compare=False)

    @property
    def input(self) -> Shape:
        """Shape of the input, without the batch."""
        return self.root.input

    @property
    def outputs(self) -> dict[str, Shape]:
        """The outputs in evaluation mode: `logits`, then those of side branches that are always computed."""
        return self.outputs_of(EVALUATION)

    def outputs_of(self, modes: Sequence[Mode]) -> dict[str, Shape]:
        """`logits`, then the outputs of side branches of these modes, those of the first mode first."""
        sides = [(path, node) for path, node in walk(self.root, modes=modes) if isinstance(node, Side)]
        sides.sort(key=lambda side: modes.index(side[1].mode))
        return {LOGITS: self.root.output, **{node.output_name or path: node.child.output for path, node in sides}}


def join(path: str, name: str | None) -> str:
    """Return the dotted name of `name` inside the scope `path`; a node without a name adds nothing."""
    return f"{path}.{name}" if path and name else path or name or ""


def scope_of(full: str) -> str:
    """Return the scope that a node with this full name lives in; the node must have a name of its own."""
    return full.rpartition(".")[0]


def name_of(node: Node) -> str | None:
    """Return the node's own name, which prefixes those inside it; None for a node without a name."""
    return None if isinstance(node, Side | Keep | Recall | Again) else node.name


def children(node: Node) -> tuple[Node, ...]:
    """Return the nodes directly inside; none for an Again, whose nodes are those of another place."""
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
    """Return the dotted name of the scope that the node's children live in: a merge is not a scope, so its name adds
    nothing."""
    return join(path, node.name) if isinstance(node, Series) else path


def walk(
    node: Node,
    path: str = "",
    modes: Sequence[Mode] | None = None,
    into: type[Node] | UnionType = Node,
    again: bool = False,
) -> Iterator[tuple[str, Node]]:
    """Yield every node with its full name, in execution order, parents first.

    With `modes`, such as EVALUATION, without side branches of other modes and what is inside them. Only nodes of the types `into`
    are entered; with `again`, also what steps that run again run.
    """
    todo = [(path, node)]
    while todo:
        path, node = todo.pop()
        if modes is not None and isinstance(node, Side) and node.mode not in modes:
            continue
        yield join(path, name_of(node)), node
        if isinstance(node, into):
            inner = scope(path, node)
            nodes = (node.child,) if again and isinstance(node, Again) else children(node)
            todo.extend((inner, child) for child in reversed(nodes))


def parameters(network: Network) -> Iterator[tuple[str, Parameter]]:
    """Yield every tensor of the network by its full name, in execution order: the keys of a `state_dict`."""
    for path, node in walk(network.root):
        if isinstance(node, Op):
            for parameter in node.kind.parameters(node.input):
                yield f"{path}.{parameter.name}", parameter


def share(shape: Shape, count: int) -> Shape:
    """The shape of one of `count` equal ranges of the channels. Raises ShapeError where they cannot be divided."""
    if shape[0] % count:
        raise ShapeError("E0203", f"cannot split {shape[0]} channels among {count} branches", "copies")
    return shape[0] // count, *shape[1:]


def ranges(shape: Shape, sizes: Sequence[int]) -> tuple[Shape, ...]:
    """Return the shapes of ranges of these sizes of the channels. Raises ShapeError where these are not all channels."""
    if sum(sizes) != shape[0]:
        message = f"splits {' + '.join(map(str, sizes))} = {sum(sizes)} channels, but its input has {shape[0]}"
        raise ShapeError("E0203", message, "split")
    return tuple((size, *shape[1:]) for size in sizes)


_A = {"gate": "a gate", "mean": "a mean", "shake": "a mean"}


def merge_shape(merge: Merge, shapes: Sequence[Shape]) -> Shape:
    """Return the shape of merged branches. Raises ShapeError where they do not fit together."""
    first = shapes[0]
    listed = " and ".join(str(list(shape)) for shape in shapes)
    if merge == "concat":
        if any(len(shape) != len(first) or shape[1:] != first[1:] for shape in shapes):
            raise ShapeError("E0201", f"concat needs feature maps of equal size, but its branches produce {listed}")
        return sum(shape[0] for shape in shapes), *first[1:]
    if merge == "mul":
        full = max(shapes, key=math.prod)
        if any(shape not in (full, (full[0], *(1 for _ in full[1:])), (1, *full[1:])) for shape in shapes):
            vectors = len({len(shape) for shape in shapes}) > 1
            raise ShapeError(
                "E0201",
                f"mul needs equal shapes, 1x1 maps or maps of one channel, but its branches produce {listed}",
                help="end the branch that is a vector with 'unflatten'" if vectors else None,
            )
        return full
    if any(shape != first for shape in shapes):
        raise ShapeError(
            "E0201",
            f"the branches of {_A.get(merge, 'an addition')} must have equal shapes, but they produce {listed}",
        )
    return first
