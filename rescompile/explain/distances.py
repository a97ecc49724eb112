"""How unlike parts of two networks are: what it costs to say that one became the other.

Equal ops cost nothing, ops of one kind their differing attributes, and what only one of the two has its number of ops.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from rescompile.explain.sequences import least
from rescompile.explain.stages import Aside, Item, Items, Join, Leaf, Segment, leaves
from rescompile.explain.topics import BranchRole
from rescompile.ir.ops import Conv, Linear

#: What a differing attribute costs when ops are aligned: a conv of another kernel is rather another conv.
WEIGHTS = {"kernel": 0.9, "stride": 0.3, "groups": 0.2, "channels": 0.3, "features": 0.3, "dilation": 0.2}


class Distances:
    """Distances of items and lists, remembered: blocks of a stage are mostly alike."""

    def __init__(self) -> None:
        self._known: dict[tuple[Item, Item], float] = {}

    def segments(self, first: Segment, second: Segment) -> float:
        """How unlike two segments are by their first and last units, from 0 to 1; infinite where one alone is a stage."""
        if first.is_stage != second.is_stage:
            return math.inf
        ends = ((first.units[0], second.units[0]), (first.units[-1], second.units[-1]))
        return sum(self.lists(one, other) / (_size(one) + _size(other)) / 2 for one, other in ends)

    def lists(self, first: Items, second: Items) -> float:
        """How unlike two lists are: 0 for equal ones, at most the sizes of both."""
        if first == second:
            return 0.0
        steps = least(first, second, self.items, size_of)
        total = 0.0
        for i, j in steps:
            if i is None:
                total += size_of(second[j or 0])
            elif j is None:
                total += size_of(first[i])
            else:
                total += self.items(first[i], second[j])
        return total

    def items(self, first: Item, second: Item) -> float:
        """How unlike two items are; infinite where one cannot have become the other."""
        if first == second:
            return 0.0
        key = (first, second)
        if key not in self._known:
            self._known[key] = self._items(first, second)
        return self._known[key]

    def _items(self, first: Item, second: Item) -> float:
        if isinstance(first, Leaf) and isinstance(second, Leaf):
            if type(first.kind) is not type(second.kind):
                return math.inf
            return min(1.5, 0.1 + sum(WEIGHTS.get(name, 0.1) for name, _, _ in differing(first, second)))
        if isinstance(first, Aside) and isinstance(second, Aside):
            return self.lists(first.body, second.body)
        if not isinstance(first, Join) or not isinstance(second, Join):
            return math.inf
        if not (first.skips and second.skips) and (
            first.skips
            or second.skips
            or (first.merge, first.split, len(first.branches)) != (second.merge, second.split, len(second.branches))
        ):
            return math.inf
        return 0.1 + sum(self.lists(a, b) for _, a, b in counterparts(first, second))


def _size(items: Items) -> int:
    return max(1, sum(size_of(item) for item in items))


def size_of(item: Item) -> int:
    """What it costs to leave an item out: layers most, so that they are paired before the norms around them are."""
    if isinstance(item, Leaf):
        return 3 if isinstance(item.kind, Conv | Linear) else 1
    return 1 + sum(size_of(leaf) for leaf in leaves((item,)))


def counterparts(first: Join, second: Join) -> Iterator[tuple[BranchRole | None, Items, Items]]:
    """The branches of two merges that stand for one another, with their roles; None keeps that of the list around."""
    if not first.skips:
        for one, other in zip(first.branches, second.branches, strict=True):
            yield None, one, other
        return
    yield None, first.branches[0], second.branches[0]
    if first.gate is not None and second.gate is not None:
        yield "gate", first.gate, second.gate
    yield "shortcut", first.branches[-1], second.branches[-1]


def differing(first: Leaf, second: Leaf) -> Iterator[tuple[str, Any, Any]]:
    """The attributes of two ops of one kind that differ, with both values."""
    for each in fields(first.kind):
        old, new = getattr(first.kind, each.name), getattr(second.kind, each.name)
        if old != new:
            yield each.name, old, new
