"""The structure of a network as papers describe it: a stem, stages of blocks, layers between them, a head.

Steps are nodes of the tree, in lists without the scopes around them and without identities.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from typing import Literal, TypeAlias

from rescompile.ir.network import Again, Keep, Key, Network, Node, Op, Parallel, Recall, Series, Side, join, walk
from rescompile.ir.ops import Conv, Identity, Kind, MaxPool, Shape, Size, Subsample, rank
from rescompile.ir.provenance import Call
from rescompile.ir.traversal import rewrite
from rescompile.records import record

Step: TypeAlias = Op | Parallel | Side | Keep | Recall | Again
Steps: TypeAlias = tuple[Step, ...]


def steps(node: Node) -> Steps:
    """Return the ops, merges, side branches, kept values and steps that run again of a node in order, without identities and the outputs of `features`."""
    if isinstance(node, Series):
        return tuple(step for child in node.children for step in steps(child))
    if isinstance(node, Side):
        return (node,) if node.mode != "always" or steps(node.child) else ()
    return () if isinstance(node, Op) and isinstance(node.kind, Identity) else (node,)


#: Follows the name of a kept value, once for each block around it that does not share it: steps are in no block.
MARK = "'"


def _apart(root: Series) -> Series:
    """Return the tree of a network whose values have names that are unique without the blocks around them."""
    return rewrite(root, _with_own_names) if any(isinstance(node, Keep) for _, node in walk(root)) else root


def _with_own_names(_: str, node: Node) -> Node:
    """Return the body of a block with other names for the values that only the block knows."""
    if not isinstance(node, Series) or node.call is None:
        return node
    own = {each.key[0] for _, each in walk(node) if isinstance(each, Keep)} - {*node.call.values}
    return rewrite(node, partial(_renamed, {name: name + MARK for name in own})) if own else node


def _renamed(names: Mapping[str, str], _: str, node: Node) -> Node:
    if isinstance(node, Keep | Recall):
        name, index = node.key
        return replace(node, key=(names.get(name, name), index))
    if isinstance(node, Series) and node.call is not None:
        return replace(node, call=replace(node.call, values=tuple(names.get(each, each) for each in node.call.values)))
    return node


def series(inside: Iterable[Step]) -> Series:
    """Return a Series of steps, without shapes."""
    return Series(tuple(inside), (), ())


def has_shortcut(merge: Parallel) -> bool:
    """Return whether the last branch is a shortcut around the first."""
    return merge.residual or merge.merge == "gate"


def kinds(inside: Steps) -> Iterator[Kind]:
    """Yield the kind of every op in execution order, including those inside merges and side branches."""
    nodes = (node for step in inside for _, node in walk(step, again=True))
    return (node.kind for node in nodes if isinstance(node, Op) and not isinstance(node.kind, Identity))


def merges(inside: Steps) -> Iterator[Parallel]:
    """Yield every merge, outer ones first."""
    return (node for step in inside for _, node in walk(step, again=True) if isinstance(node, Parallel))


def main_path(inside: Steps) -> Iterator[Kind]:
    """Yield the kinds of the ops on the main path, which takes first branches: residual branches, not shortcuts. A value that is
    used again is on the path that led to it, or begins one if it was kept before these steps."""
    path: list[Kind] = []
    _follow(inside, path, {})
    return iter(path)


def _follow(inside: Steps, path: list[Kind], kept: dict[Key, list[Kind]]) -> None:
    """Extend a path by these steps; `kept` has the path to each value."""
    for step in inside:
        if isinstance(step, Op):
            path.append(step.kind)
        elif isinstance(step, Again):
            _follow(steps(step.child), path, {})
        elif isinstance(step, Keep):
            kept[step.key] = list(path)
        elif isinstance(step, Recall):
            path[:] = kept.get(step.key, [])
        elif isinstance(step, Parallel):
            _follow(steps(step.branches[0]), path, dict(kept))


def stride(inside: Steps) -> Size:
    """Return the stride along the main path, by axes; nothing where it is 1."""
    windows = [kind for kind in main_path(inside) if isinstance(kind, Conv | MaxPool | Subsample)]
    own = [kind.steps if isinstance(kind, MaxPool) else kind.stride for kind in windows]
    size = tuple(map(math.prod, zip_longest(*own, fillvalue=1)))
    return size if set(size) != {1} else ()


#: The role of a segment in its network, and the names of those that are not stages.
Role: TypeAlias = Literal["stem", "stage", "between", "head", "all"]
NAMES: dict[Role, str] = {
    "stem": "the stem",
    "between": "between the stages",
    "head": "the head",
    "all": "the network",
}


@record
class Segment:
    """A part of a network: a stage with its blocks, or as a single unit what comes before, between and after stages.

    The `name` of a stage is the full name of its row, `block` the block that it repeats, `output` the shape after it.
    """

    name: str
    block: str
    units: tuple[Steps, ...]
    output: Shape
    role: Role = "stage"

    @property
    def is_stage(self) -> bool:
        """Whether it consists of blocks."""
        return self.role == "stage"


@record
class Structure:
    """The segments of a network in order, and the shape of its input."""

    name: str
    input: Shape
    segments: tuple[Segment, ...]

    @property
    def axes(self) -> int:
        """The number of axes of its maps; 0 if the input is a vector."""
        return rank(self.input)

    @property
    def stages(self) -> tuple[Segment, ...]:
        """The segments that consist of blocks."""
        return tuple(segment for segment in self.segments if segment.is_stage)

    @property
    def blocks(self) -> tuple[Steps, ...]:
        """The blocks of all stages."""
        return tuple(unit for stage in self.stages for unit in stage.units)

    @property
    def units(self) -> tuple[Steps, ...]:
        """The whole network, unit by unit."""
        return tuple(unit for segment in self.segments for unit in segment.units)

    @property
    def whole(self) -> Steps:
        """The whole network as one list."""
        return tuple(step for unit in self.units for step in unit)

    @property
    def stem(self) -> Steps:
        """The steps before the first stage; all steps if there are no stages."""
        return self.segments[0].units[0] if self.segments[0].role in ("stem", "all") else ()

    @property
    def head(self) -> Steps:
        """The steps after the last stage."""
        return self.segments[-1].units[0] if self.segments[-1].role == "head" else ()


def structure(network: Network) -> Structure:
    """Return the structure of a network.

    A stage is a row of copies of a block, or consecutive blocks of one kind with a merge on feature maps of equal size, as in
    Inception.
    """
    segments: list[Segment] = []
    begun = False  # whether the last row contains its first copy; a swap may have put another one before it
    for node, row in _parts(_apart(network.root), ""):
        call, unit = _block(node), steps(node)
        last = segments[-1] if segments else Segment("", "", (), ())
        if call is None and unit and last.units and not last.block:
            segments[-1] = replace(last, units=((*last.units[0], *unit),), output=node.output)
        elif call is None and unit:
            segments.append(Segment("", "", (unit,), node.output))
        elif call is not None:
            if call.index is None:
                continues, name = last.output[1:] == node.output[1:], f"{last.name.split(' to ')[0]} to {row}"
            else:
                continues, name = call.index > 0 or (last.name == row and not begun), last.name
            continues = continues and last.block == call.block
            begun = call.index == 0 or (continues and begun)
            if continues:
                segments[-1] = Segment(name, call.block, (*last.units, unit), node.output)
            else:
                segments.append(Segment(row, call.block, (unit,), node.output))
    nothing = Segment("", "", ((),), network.root.output)  # all of a network of identities
    return Structure(network.name, network.input, tuple(_named(segments or [nothing])))


def _named(segments: Sequence[Segment]) -> Iterator[Segment]:
    """Yield the segments with their roles; stages without a unique name are numbered."""
    names = Counter(segment.name for segment in segments if segment.block)
    ends: dict[int, Role] = {0: "stem", len(segments) - 1: "head"}
    number = 0
    for at, segment in enumerate(segments):
        if segment.block:
            number += 1
            unique = segment.name and names[segment.name] == 1
            yield segment if unique else replace(segment, name=f"stage {number}")
        else:
            role: Role = ends.get(at, "between") if names else "all"
            yield replace(segment, name=NAMES[role], role=role)


def _parts(series: Series, path: str) -> Iterator[tuple[Node, str]]:
    """Yield the blocks of a tree with the names of their rows, and the nodes between them."""
    for child in series.children:
        if not isinstance(child, Series):
            yield child, path
        elif (call := _block(child)) is not None:
            yield child, path if call.index is not None else join(path, child.name)
        else:
            yield from _parts(child, join(path, child.name))


def _block(node: Node) -> Call | None:
    """Return the call of a block, which is a copy in a row or has a merge among its own steps, or None."""
    call = node.call if isinstance(node, Series) else None
    if call is None or call.index is not None:
        return call
    assert isinstance(node, Series)
    has_copies = any(
        isinstance(inner, Series) and inner is not node and inner.call is not None and inner.call.index is not None
        for _, inner in walk(node)
    )
    has_merge = any(isinstance(child, Parallel) for child in node.children)
    return call if has_merge and not has_copies else None
