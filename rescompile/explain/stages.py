"""A network as people speak of it: a stem, stages of blocks, what stands between them, a head.

The tree is brought to a normal form that two networks can be compared in: ops, merges and side branches, without shapes and
without scopes; names ride along, for messages, and are not compared. So a shape is never said twice: `grown` infers all of them
again from the input, which also makes networks that no spec describes, such as one with half of another's changes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from rescompile.analysis.cost import cost
from rescompile.ir.network import Merge, Mode, Node, Op, Parallel, Series, Side, Survival, merge_shape, share, walk
from rescompile.ir.ops import Identity, Kind, Shape
from rescompile.ir.provenance import Call


@dataclass(frozen=True, slots=True)
class Leaf:
    """An op."""

    kind: Kind
    name: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Join:
    """A merge of branches; a residual one has the roles (branch, shortcut), a gate (branch, gate, shortcut). With `split`,
    each branch has a range of the channels."""

    merge: Merge
    residual: bool
    survival: Survival | None
    branches: tuple[Items, ...]
    name: str = field(default="", compare=False)
    split: bool = False

    @property
    def skips(self) -> bool:
        """Whether the last branch is a shortcut around the first."""
        return self.residual or self.merge == "gate"

    @property
    def gate(self) -> Items | None:
        """What weighs the two, of a gate."""
        return self.branches[1] if self.merge == "gate" else None


@dataclass(frozen=True, slots=True)
class Aside:
    """A branch that does not rejoin."""

    mode: Mode
    output: str | None
    body: Items


Item: TypeAlias = Leaf | Join | Aside
Items: TypeAlias = tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a network: the blocks of a stage, or whatever stands before, between and behind stages as one unit.

    `name` is the full name of the row, or empty; `word` the block of a stage, `input` and `output` its shapes.
    """

    name: str
    word: str
    units: tuple[Items, ...]
    input: Shape
    output: Shape

    @property
    def is_stage(self) -> bool:
        """Whether it is made of blocks."""
        return bool(self.word)


@dataclass(frozen=True, slots=True)
class Anatomy:
    """The segments of a network in order, and its input."""

    name: str
    input: Shape
    segments: tuple[Segment, ...]

    @property
    def stages(self) -> tuple[Segment, ...]:
        """The segments made of blocks."""
        return tuple(segment for segment in self.segments if segment.is_stage)

    @property
    def parts(self) -> tuple[Items, ...]:
        """The whole network: the units of all segments."""
        return tuple(unit for segment in self.segments for unit in segment.units)

    @property
    def stem(self) -> Items:
        """What stands before the first stage; everything, where there are no stages."""
        first = self.segments[0]
        return () if first.is_stage else first.units[0]

    @property
    def head(self) -> Items:
        """What stands behind the last stage."""
        last = self.segments[-1]
        return () if last.is_stage or not self.stages else last.units[0]

    def units(self) -> Iterator[tuple[Segment, int, Items]]:
        """Every block with its stage and its place in it."""
        for stage in self.stages:
            for index, unit in enumerate(stage.units):
                yield stage, index, unit

    def leaves(self) -> Iterator[Leaf]:
        """Every op, in execution order, those of side branches too."""
        for segment in self.segments:
            for unit in segment.units:
                yield from leaves(unit)


def leaves(items: Sequence[Item]) -> Iterator[Leaf]:
    """Every op of a list and of what is inside its merges, in order."""
    for item in items:
        match item:
            case Leaf():
                yield item
            case Join():
                for branch in item.branches:
                    yield from leaves(branch)
            case Aside():
                yield from leaves(item.body)


def joins(items: Sequence[Item]) -> Iterator[Join]:
    """Every merge of a list, outer ones first."""
    for item in items:
        if isinstance(item, Join):
            yield item
            for branch in item.branches:
                yield from joins(branch)
        elif isinstance(item, Aside):
            yield from joins(item.body)


def main(items: Sequence[Item]) -> Iterator[Leaf]:
    """The ops on the way through first branches: through the residual branch of a block, not its shortcut."""
    for item in items:
        if isinstance(item, Leaf):
            yield item
        elif isinstance(item, Join):
            yield from main(item.branches[0])


# --- from the tree ----------------------------------------------------------------------------------------------------


def normal(node: Node) -> Items:
    """The normal form of a part of the tree."""
    match node:
        case Op():
            return () if isinstance(node.kind, Identity) else (Leaf(node.kind, node.name),)
        case Series():
            return tuple(item for child in node.children for item in normal(child))
        case Parallel():
            branches = tuple(normal(branch) for branch in node.branches)
            return (Join(node.merge, node.residual, node.survival, branches, node.name, node.split),)
        case Side():
            body = normal(node.child)
            # What `features` makes an output is no step: a stage goes on behind it.
            return (Aside(node.mode, node.output_name, body),) if body or node.mode != "always" else ()


def anatomy(name: str, root: Series) -> Anatomy:
    """The segments of a tree.

    A stage is a row of copies of a block; or blocks of one kind that hold a merge, one after the other on maps of one size, as
    Inception's are.
    """
    found: list[Segment] = []
    begun = False  # whether the last row has its first copy, before which a swap may have put another
    for part, path in _parts(root, ""):
        previous = found[-1] if found else None
        if isinstance(part, Series) and (call := _block(part)) is not None:
            items = normal(part)
            continues = (
                previous is not None
                and previous.word == call.block
                and (
                    call.index > 0 or (previous.name == path and not begun)
                    if call.index is not None
                    else previous.output[1:] == part.output[1:]
                )
            )
            begun = call.index == 0 or (continues and begun)
            if continues and previous is not None:
                row = previous.name if call.index is not None else f"{previous.name.split(' to ')[0]} to {path}"
                found[-1] = Segment(row, previous.word, (*previous.units, items), previous.input, part.output)
            else:
                found.append(Segment(path, call.block, (items,), part.input, part.output))
        elif items := normal(part):
            if previous is not None and not previous.is_stage:
                found[-1] = Segment("", "", ((*previous.units[0], *items),), previous.input, part.output)
            else:
                found.append(Segment("", "", (items,), part.input, part.output))
    return Anatomy(name, root.input, tuple(_named(found)))


def _named(found: Sequence[Segment]) -> Iterator[Segment]:
    """The segments; stages that have no name of their own, or share one, are numbered."""
    counts = Counter(segment.name for segment in found if segment.is_stage)
    number = 0
    for segment in found:
        number += segment.is_stage
        alone = segment.name and counts[segment.name] == 1
        yield segment if alone or not segment.is_stage else replace(segment, name=f"stage {number}")


def _parts(series: Series, path: str) -> Iterator[tuple[Node, str]]:
    """The blocks of a tree with the names of their rows, and the nodes between them."""
    for child in series.children:
        if not isinstance(child, Series):
            yield child, path
        elif _block(child) is not None:
            indexed = child.call is not None and child.call.index is not None
            own = "" if indexed or child.name is None else f"{path}.{child.name}" if path else child.name
            yield child, own or path
        else:
            inner = f"{path}.{child.name}" if path and child.name else child.name or path
            yield from _parts(child, inner)


def _block(series: Series) -> Call | None:
    """The call of a block: a copy, or a call whose own steps have a merge."""
    call = series.call
    if call is None:
        return None
    if call.index is not None:
        return call
    copies = any(
        isinstance(node, Series) and node is not series and node.call is not None and node.call.index is not None
        for _, node in walk(series)
    )
    merges = any(isinstance(child, Parallel) for child in series.children)
    return call if merges and not copies else None


# --- back to a tree ---------------------------------------------------------------------------------------------------


class Grower:
    """Makes trees of normal forms, and counts them; each part once for each shape of its input."""

    def __init__(self) -> None:
        self._made: dict[tuple[Items, Shape], Series] = {}
        self._counted: dict[tuple[Items, Shape], tuple[int, int, Shape]] = {}

    def counted(self, units: Iterable[Items], shape: Shape) -> tuple[int, int]:
        """Parameters and MACs of units one after the other. Raises ShapeError as `grown` does."""
        parameters = macs = 0
        for unit in units:
            key = (unit, shape)
            if key not in self._counted:
                tree = self.grown(unit, shape)
                total = cost(tree)
                self._counted[key] = (total.parameters, total.macs, tree.output)
            more, work, shape = self._counted[key]
            parameters, macs = parameters + more, macs + work
        return parameters, macs

    def grown(self, items: Items, shape: Shape) -> Series:
        """The tree of a list on an input of `shape`. Raises ShapeError where a step does not fit what it is given."""
        key = (items, shape)
        if key not in self._made:
            nodes: list[Node] = []
            at = shape
            for item in items:
                nodes.append(self._node(item, at))
                at = nodes[-1].output
            self._made[key] = Series(tuple(nodes), shape, at)
        return self._made[key]

    def _node(self, item: Item, shape: Shape) -> Node:
        match item:
            case Leaf():
                return Op(item.name, item.kind, shape, item.kind.output(shape))
            case Join():
                given = share(shape, len(item.branches)) if item.split else shape
                branches = tuple(self.grown(branch, given) for branch in item.branches)
                output = merge_shape(item.merge, [branch.output for branch in branches])
                return Parallel(
                    item.name, branches, item.merge, shape, output, item.residual, item.survival, item.split
                )
            case Aside():
                return Side(self.grown(item.body, shape), item.output, item.mode, shape)
