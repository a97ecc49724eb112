"""Which kept values each part of a tree takes from the part around it, and which it leaves there.

A part that does neither is closed: what it computes depends on its input alone, as without Keep and Recall.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Set
from dataclasses import dataclass, field
from typing import TypeVar

from rescompile.ir.network import Keep, Key, Node, Parallel, Recall, Series, Side, children
from rescompile.records import record

T = TypeVar("T")
_NONE: frozenset[Key] = frozenset()
#: The names of values that are used after parts of one definition, by the definition.
Live = Mapping[Hashable, Set[str]]


@record
class Crossing:
    """The values that a part recalls without having kept them before, and those that it keeps for what follows it."""

    reads: frozenset[Key] = _NONE
    writes: frozenset[Key] = _NONE

    def __bool__(self) -> bool:
        return bool(self.reads or self.writes)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the values, in alphabetical order."""
        return tuple(sorted({name for name, _ in self.reads | self.writes}))

    def is_changed(self, name: str) -> bool:
        """Return whether a name is more than one value that is read: it has an index, or it is kept again."""
        return (
            any(key[0] == name for key in self.writes)
            or (name, None) not in self.reads | self.writes
            or any(key[0] == name and key[1] is not None for key in self.reads)
        )


def shared(node: Series, kept: dict[Key, T]) -> dict[Key, T]:
    """Return the kept values that a Series and the part around it both know: all of them, except where it is the body of a
    block."""
    if node.call is None:
        return kept
    return {key: value for key, value in kept.items() if key[0] in node.call.values}


@dataclass
class Crossings:
    """The crossing of every part that it is asked about; each node is looked at once, though copies may share it. With `live`,
    what nothing uses after any part of the same definition is not left there."""

    live: Live | None = None
    known: dict[int, tuple[Node, Crossing]] = field(default_factory=dict)  # with the node, so that its id stays its own

    def of(self, node: Node) -> Crossing:
        """Return the values that cross the border of a part."""
        found = self._all(node)
        if self.live is None or not found.writes or not isinstance(node, Series):
            return found
        names = self.live.get(_definition(node), ())
        return Crossing(found.reads, frozenset(key for key in found.writes if key[0] in names))

    def _all(self, node: Node) -> Crossing:
        if id(node) not in self.known:
            self.known[id(node)] = node, self._found(node)
        return self.known[id(node)][1]

    def _found(self, node: Node) -> Crossing:
        match node:
            case Keep(key=key):
                return Crossing(writes=frozenset({key}))
            case Recall(key=key):
                return Crossing(reads=frozenset({key}))
            case Series():
                return self._series(node)
            case Parallel() | Side():
                # What a branch keeps is known in that branch alone.
                return Crossing(_NONE.union(*(self._all(branch).reads for branch in children(node))))
        return Crossing()

    def _series(self, node: Series) -> Crossing:
        reads, writes = _NONE, _NONE
        for child in node.children:
            if crossing := self._all(child):
                reads |= crossing.reads - writes
                writes |= crossing.writes
        if node.call is not None:
            names = node.call.values
            reads, writes = (frozenset(key for key in keys if key[0] in names) for keys in (reads, writes))
        return Crossing(reads, writes)


def live_names(root: Node) -> Live:
    """Return the names of values that are used after some part of each definition."""
    found: dict[Hashable, set[str]] = defaultdict(set)
    seen: dict[tuple[int, frozenset[str]], frozenset[str]] = {}

    def before(node: Node, after: frozenset[str]) -> frozenset[str]:
        """Return the names that are used from a node on, given those that are used after it."""
        if (id(node), after) not in seen:
            seen[id(node), after] = used(node, after)
        return seen[id(node), after]

    def used(node: Node, after: frozenset[str]) -> frozenset[str]:
        match node:
            case Recall(key=(name, _)):
                return after | {name}
            case Parallel() | Side():
                return after.union(*(before(branch, frozenset()) for branch in children(node)))
            case Series():
                found[_definition(node)] |= after
                names = None if node.call is None else frozenset(node.call.values)
                inside = after if names is None else after & names
                for child in reversed(node.children):
                    inside = before(child, inside)
                return inside if names is None else after | (inside & names)
        return after

    before(root, frozenset())
    return found


def _definition(node: Series) -> Hashable:
    """Return what parts have in common that may become one class: their block, or the step that they come from."""
    if node.call is not None:
        return "block", node.call.block
    return ("step", node.origin.path) if node.origin else id(node)
