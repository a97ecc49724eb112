"""What became of what, from one network to another.

Lists are aligned by least cost. Stages are aligned in order, their blocks in order; a stage's further blocks are its depth.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from rescompile.explain.distances import Distances, counterparts, differing, size_of
from rescompile.explain.overlay import (
    Apart,
    Both,
    Changed,
    Everywhere,
    Kept,
    Layer,
    Met,
    Only,
    Overlay,
    Pair,
    Side,
    Unit,
    Unwrapped,
    pairs,
    said,
)
from rescompile.explain.sequences import NotAligned, least
from rescompile.explain.stages import Anatomy, Aside, Items, Join, Leaf, Segment, leaves, main
from rescompile.explain.topics import ANYWHERE, Role, Where
from rescompile.ir.ops import Conv, Kind, Linear, MaxPool, Subsample

#: What a segment that only one of the two has costs.
ALONE = 0.6
#: What a segment without a name is called.
_ROLES: dict[Role, str] = {
    "stem": "the stem", "head": "the head", "between": "between the stages", "stage": "the stage", "all": "the network",
}  # fmt: skip


def aligned(reference: Anatomy, subject: Anatomy) -> Overlay:
    """The two laid over one another. Raises NotAligned where they have too little in common."""
    return Aligner().networks(reference, subject)


class Aligner:
    """Aligns lists, and remembers what it has aligned: blocks of a stage are mostly alike."""

    def __init__(self) -> None:
        self.distances = Distances()
        self._units: dict[tuple[Items, Items, str], Both] = {}

    def networks(self, reference: Anatomy, subject: Anatomy) -> Overlay:
        pairs = self._segments(reference, subject)
        layers = []
        for first, second in pairs:
            segment = second or first
            assert segment is not None
            role = _role(reference, first) if first else _role(subject, second)
            if first is not None and second is not None:
                layers.append(self._stage(first, second, role))
            else:
                side: Side = "reference" if first is not None else "subject"
                topic = "stages" if segment.is_stage else {"all": "block"}.get(role, role)
                alone = tuple(Unit(_alone(topic, side, unit), topic, side) for unit in segment.units)
                layers.append(Layer(segment.name or _ROLES[role], alone))
        common = [unit.both for layer in layers for unit in layer.units if unit.topic is None]
        known = {name for unit in {id(unit): unit for unit in common}.values() for name, _ in said(unit)}
        layers = [
            self._deepened(layer, first, second, known) if first is not None and second is not None else layer
            for layer, (first, second) in zip(layers, pairs, strict=True)
        ]
        found = Overlay((reference.input, subject.input), tuple(layers), _everywhere(common))
        if _shared(found) < 0.5:
            raise NotAligned(f"{reference.name} and {subject.name} have too little in common")
        return found

    def _segments(self, reference: Anatomy, subject: Anatomy) -> list[tuple[Segment | None, Segment | None]]:
        firsts, seconds = reference.segments, subject.segments
        if [s.is_stage for s in firsts] == [s.is_stage for s in seconds]:
            return list(zip(firsts, seconds, strict=True))
        return [
            (None if i is None else firsts[i], None if j is None else seconds[j])
            for i, j in least(firsts, seconds, self.distances.segments, lambda _: ALONE)
        ]

    def _stage(self, first: Segment, second: Segment, role: Role) -> Layer:
        name = second.name or first.name or _ROLES[role]
        both = zip(first.units, second.units, strict=False)
        return Layer(name, tuple(Unit(self._unit(one, other, role)) for one, other in both))

    def _deepened(self, layer: Layer, first: Segment, second: Segment, known: Collection[str]) -> Layer:
        """A stage with the blocks that only one of the two has. Such a block is laid over the last one of the other, if that
        differs only in what is `known` to differ: so a deeper stage alone is one of blocks as the reference has them."""
        shared = len(layer.units)
        units = list(layer.units)
        for index in range(shared, max(len(first.units), len(second.units))):
            side: Side = "subject" if index >= len(first.units) else "reference"
            ones = first.units[-1] if side == "subject" else first.units[index]
            others = second.units[index] if side == "subject" else second.units[-1]
            unit = self._unit(ones, others, "stage") if shared > 1 else ()
            if shared < 2 or not {name for name, _ in said(unit)} <= set(known):
                unit = _alone("depth", side, others if side == "subject" else ones)
            units.append(Unit(unit, "depth", side))
        return Layer(layer.name, tuple(units))

    def _unit(self, first: Items, second: Items, role: Role) -> Both:
        key = (first, second, role)
        if key not in self._units:
            rebuilt = _layers(first) != _layers(second)
            stride = "stride" if _stride(first) == _stride(second) else "downsampling"
            self._units[key] = self.lists(first, second, Where(role, stride=stride, rebuilt=rebuilt))
        return self._units[key]

    def lists(self, first: Items, second: Items, where: Where) -> Both:
        """Two lists laid over one another."""
        if where.branch == "main" and (found := self._unwrapped(first, second, where)) is not None:
            return found
        steps = least(first, second, self.distances.items, size_of)
        return tuple(self._pair(first, second, i, j, where) for i, j in steps)

    def _pair(self, first: Items, second: Items, i: int | None, j: int | None, where: Where) -> Pair:
        if i is None or j is None:
            assert i is not None or j is not None
            item = first[i] if i is not None else second[j or 0]
            return Only(where.item(item), item, "subject" if i is None else "reference")
        one, other = first[i], second[j]
        if one == other:
            return Kept(other)
        if isinstance(one, Leaf) and isinstance(other, Leaf):
            last = i == _last_layer(first)
            found = {name: (old, new) for name, old, new in differing(one, other)}
            topics = {name: where.attribute(one.kind, name, last) for name in found}
            if "padding" in found and _same(one.kind) and _same(other.kind):  # it only follows
                topics["padding"] = topics.get("kernel") or topics["dilation"]
            changes = tuple((name, *values, topics[name]) for name, values in found.items())
            return Changed(replace(one, name=other.name or one.name), changes)
        if isinstance(one, Aside) and isinstance(other, Aside):
            return Apart(one, other, self.lists(one.body, other.body, replace(where, branch="side")))
        assert isinstance(one, Join)
        assert isinstance(other, Join)
        gate: tuple[Side, Items] | None = None
        if (one.gate is None) != (other.gate is None):
            gate = ("reference", one.gate) if one.gate is not None else ("subject", other.gate or ())
        branches = tuple(
            self.lists(a, b, replace(where, branch=role) if role else where) for role, a, b in counterparts(one, other)
        )
        return Met(one, other, branches, gate)

    def _unwrapped(self, first: Items, second: Items, where: Where) -> Both | None:
        """Where one of two lists has its residual branch in a merge and the other does without: the shortcut is gone."""
        ones, others = ([item for item in items if isinstance(item, Join)] for items in (first, second))
        if len(ones) == len(others) or len(ones) + len(others) != 1 or not (ones or others)[0].residual:
            return None
        side: Side = "reference" if ones else "subject"
        with_join, join = (first if ones else second), (ones or others)[0]
        at = with_join.index(join)
        branch = join.branches[0]
        flat = (*with_join[:at], *branch, *with_join[at + 1 :])
        a, b = (flat, second) if ones else (first, flat)
        steps = least(a, b, self.distances.items, size_of)
        parts: tuple[list[Pair], list[Pair], list[Pair]] = ([], [], [])
        part = 0
        for i, j in steps:
            own = i if ones else j
            if own is not None:
                part = 0 if own < at else 1 if own < at + len(branch) else 2
            parts[part].append(self._pair(a, b, i, j, where))
        return (*parts[0], Unwrapped(join, tuple(parts[1]), side), *parts[2])


def _role(anatomy: Anatomy, segment: Segment | None) -> Role:
    assert segment is not None
    if segment.is_stage:
        return "stage"
    if not anatomy.stages:
        return "all"
    return "stem" if segment is anatomy.segments[0] else "head" if segment is anatomy.segments[-1] else "between"


def _alone(topic: str, side: Side, items: Items) -> Both:
    return tuple(Only(topic, item, side) for item in items)


def _everywhere(units: Sequence[Both]) -> Everywhere:
    """The attributes of ANYWHERE that change, and always from one value to one other."""
    found: dict[tuple[type[Kind], str], set[tuple[Any, Any, str]]] = {}
    for pair in (pair for unit in units for pair in pairs(unit) if isinstance(pair, Changed)):
        for name, old, new, topic in pair.attributes:
            for of, attribute in ANYWHERE:
                if attribute == name and isinstance(pair.leaf.kind, of):
                    found.setdefault((of, name), set()).add((old, new, topic))
    return {key: next(iter(values)) for key, values in found.items() if len(values) == 1}


def _layers(items: Items) -> int:
    """How many layers a block has beside those of its shortcut and its gate."""
    count = 0
    for item in items:
        if isinstance(item, Leaf):
            count += isinstance(item.kind, Conv | Linear)
        elif isinstance(item, Join):
            count += sum(_layers(branch) for branch in (item.branches[:1] if item.skips else item.branches))
    return count


def _same(kind: Kind) -> bool:
    """Whether the padding is the one that keeps the size at stride 1."""
    return isinstance(kind, Conv) and kind.pads == tuple(
        (k - 1) * d // 2 for k, d in zip(kind.kernel, kind.dilation, strict=True)
    )


def _last_layer(items: Items) -> int | None:
    found = [at for at, item in enumerate(items) if isinstance(item, Leaf) and isinstance(item.kind, Conv | Linear)]
    return found[-1] if found else None


def _stride(items: Items) -> tuple[int, int]:
    """The stride of a list as a whole, along its main path."""
    high, wide = 1, 1
    for leaf in main(items):
        if isinstance(leaf.kind, Conv | MaxPool | Subsample):
            steps = leaf.kind.stride
            assert steps is not None
            high, wide = high * steps[0], wide * steps[1]
    return high, wide


def _shared(found: Overlay) -> float:
    """The share of convolutions and linear layers of the two that were paired."""
    paired = alone = 0
    for unit in (unit for layer in found.layers for unit in layer.units):
        if unit.topic == "depth":  # more blocks of a kind that both have are not foreign
            continue
        for pair in pairs(unit.both):
            match pair:
                case Kept(item) | Changed(item):
                    paired += 2 * _weighted((item,))
                case Only(_, item):
                    alone += _weighted((item,))
    return paired / (paired + alone) if paired + alone else 1.0


def _weighted(items: Items) -> int:
    return sum(isinstance(leaf.kind, Conv | Linear) for leaf in leaves(items))
