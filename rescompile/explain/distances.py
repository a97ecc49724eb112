"""The distance of parts of two networks: the cost of turning one into the other.

Equal ops cost nothing, ops of the same kind cost their differing attributes, and steps without a counterpart their ops.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator
from dataclasses import fields
from typing import Any

from rescompile.analysis.alignment import Pairs, align
from rescompile.explain.stages import Segment, Step, Steps, has_shortcut, kinds, steps
from rescompile.explain.topics import BranchRole
from rescompile.ir.network import Again, Keep, Op, Parallel, Recall, Side
from rescompile.ir.ops import WEIGHTED, Kind

#: The cost of a differing attribute; others cost 1. A convolution with another kernel is more likely to be another convolution.
ATTRIBUTES = {"kernel": 9, "stride": 3, "groups": 2, "channels": 3, "features": 3, "dilation": 2}
#: The minimum cost of two ops of the same kind, or of two merges, if they differ; and the maximum cost of two ops.
DIFFERENT, MOST = 1, 15
#: The cost of an op without a counterpart: highest for layers, so that they are paired before the norms around them.
LAYER, OTHER = 30, 10
#: The cost of a segment without a counterpart; two unlike segments cost 1.
ALONE = 0.6
#: The maximum product of the lengths of two lists, since aligning longer ones takes too long.
MOST_PAIRS = 400_000


class Distances:
    """Cached distances and alignments of steps and lists. Steps that differ only in names and shapes have equal keys."""

    def __init__(self) -> None:
        self._keys: dict[Hashable, int] = {}
        self._steps: list[Step] = []  # one step per key
        self._sizes: list[int] = []  # its size
        self._seen: dict[int, tuple[Step, int]] = {}  # keys by the identity of nodes, which are kept alive
        self._known: dict[tuple[int, int], float] = {}
        self._aligned: dict[tuple[tuple[int, ...], tuple[int, ...]], tuple[float, Pairs]] = {}

    def key(self, step: Step) -> int:
        """Return a number that equal steps share."""
        if id(step) not in self._seen:
            self._seen[id(step)] = step, self._number(step)
        return self._seen[id(step)][1]

    def _number(self, step: Step) -> int:
        value: Hashable
        match step:
            case Op():
                value = step.kind
            case Parallel():
                branches = tuple(self.keys(steps(branch)) for branch in step.branches)
                value = step.merge, step.unit, step.residual, step.survival, step.split, branches
            case Again():
                value = type(step), self.keys(steps(step.child))
            case Keep() | Recall():
                value = type(step), step.key
            case Side():
                value = step.mode, step.output_name, self.keys(steps(step.child))
        if value not in self._keys:
            self._keys[value] = len(self._steps)
            self._steps.append(step)
            self._sizes.append(_size(step))
        return self._keys[value]

    def keys(self, inside: Steps) -> tuple[int, ...]:
        """Return the keys of a list."""
        return tuple(self.key(step) for step in inside)

    def pairs(self, first: Steps, second: Steps) -> Pairs:
        """Return the alignment of two lists. Raises NotAligned if they are too long."""
        return self._align(self.keys(first), self.keys(second))[1]

    def segments(self, first: Segment, second: Segment) -> float:
        """Return the distance of two segments by their first and last units, from 0 to 1; infinite if only one is a stage."""
        if first.is_stage != second.is_stage:
            return math.inf
        ends = ((first.units[0], second.units[0]), (first.units[-1], second.units[-1]))
        return sum(self._lists(a, b) / (self._size_of_list(a) + self._size_of_list(b)) / 2 for a, b in ends)

    def _size_of_list(self, inside: Steps) -> int:
        return max(OTHER, sum(self._sizes[key] for key in self.keys(inside)))

    def _align(self, first: tuple[int, ...], second: tuple[int, ...]) -> tuple[float, Pairs]:
        if (first, second) not in self._aligned:
            alone = self._sizes.__getitem__
            self._aligned[first, second] = align(first, second, self._cost, alone, MOST_PAIRS)
        return self._aligned[first, second]

    def _lists(self, first: Steps, second: Steps) -> float:
        return self._align(self.keys(first), self.keys(second))[0]

    def _cost(self, first: int, second: int) -> float:
        """Return the distance of two steps by their keys; infinite if they cannot correspond."""
        if first == second:
            return 0
        if (first, second) not in self._known:
            self._known[first, second] = self._unlike(self._steps[first], self._steps[second])
        return self._known[first, second]

    def _unlike(self, first: Step, second: Step) -> float:
        match first, second:
            case Op(), Op() if type(first.kind) is type(second.kind):
                values = list(differing(first.kind, second.kind))
                if any(_unlike_axes(old, new) for _, old, new in values):
                    return math.inf
                return min(MOST, DIFFERENT + sum(ATTRIBUTES.get(name, 1) for name, _, _ in values))
            case Side(), Side():
                return self._lists(steps(first.child), steps(second.child))
            case Again(), Again():
                return self._lists(steps(first.child), steps(second.child))
            case Parallel(), Parallel() if _comparable(first, second):
                return DIFFERENT + sum(self._lists(a, b) for _, a, b in counterparts(first, second))
        return math.inf


def _unlike_axes(old: Any, new: Any) -> bool:
    """Return whether two values of an attribute are sizes for maps with different numbers of axes: no op could have one of each."""
    return isinstance(old, tuple) and isinstance(new, tuple) and len(old) != len(new)


def _comparable(first: Parallel, second: Parallel) -> bool:
    """Return whether both merges have a shortcut, or neither has one and both merge as many branches in the same way."""
    if has_shortcut(first) or has_shortcut(second):
        return has_shortcut(first) and has_shortcut(second)
    return (first.merge, first.split, len(first.branches)) == (second.merge, second.split, len(second.branches))


def _size(step: Step) -> int:
    layers = [LAYER if isinstance(kind, WEIGHTED) else OTHER for kind in kinds((step,))]
    return sum(layers) if isinstance(step, Op) else OTHER + sum(layers)


def counterparts(first: Parallel, second: Parallel) -> Iterator[tuple[BranchRole | None, Steps, Steps]]:
    """Yield the corresponding branches of two merges with their role, or None for the role of the list around them."""
    ones, others = ([steps(branch) for branch in merge.branches] for merge in (first, second))
    if not has_shortcut(first):
        yield from ((None, one, other) for one, other in zip(ones, others, strict=True))
        return
    yield None, ones[0], others[0]
    if first.merge == second.merge == "gate":
        yield "gate", ones[1], others[1]
    yield "shortcut", ones[-1], others[-1]


def differing(first: Kind, second: Kind) -> Iterator[tuple[str, Any, Any]]:
    """Yield the attributes in which two ops of the same kind differ, with both values."""
    for each in fields(first):
        old, new = getattr(first, each.name), getattr(second, each.name)
        if old != new:
            yield each.name, old, new
