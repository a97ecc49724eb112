"""Two networks overlaid: stages and their blocks are paired in order; additional blocks of a stage are its depth.

Each difference belongs to a topic, such as the position of a stride. `taken` returns a network with the differences of some
topics: without any it is the reference, with all of them the subject. With one topic it is the reference with that single
change, whose cost can be counted like that of any network.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from functools import cache

from rescompile.analysis.alignment import NotAligned, align
from rescompile.explain.distances import ALONE, Distances
from rescompile.explain.merger import VERBS, Edit, Everywhere, Merger, Origin, count_layers
from rescompile.explain.op_wording import listed
from rescompile.explain.stages import Role, Segment, Steps, Structure
from rescompile.explain.topics import TOPICS
from rescompile.ir.ops import Shape
from rescompile.ir.ops.op import size_text
from rescompile.records import record


@record
class Slot:
    """A unit of both networks, or with a topic one that only `origin` has. Such a unit may also be merged with one of the other
    network, whose form it has for all topics that are not taken. Its form depends on no other topics than `concerns`."""

    segment: str
    unit: int
    of: int
    role: Role
    first: Steps | None
    second: Steps | None
    topic: str | None = None
    origin: Origin = "subject"
    concerns: frozenset[str] = frozenset()

    @property
    def own(self) -> Steps:
        """The unit in `origin`."""
        return (self.second if self.origin == "subject" else self.first) or ()

    def merged(self, merger: Merger) -> tuple[Steps, tuple[Edit, ...]]:
        """Return the unit in the form that a merger gives it, and the differences of the two that it is merged from."""
        if self.first is None or self.second is None:
            return merger.followed(self.own, self.origin), ()
        return merger.unit(self.first, self.second, self.role)


@record(slots=False)
class Overlay:
    """Two overlaid networks, with all their differences in order; `mergers` returns the merger for the topics that are taken."""

    inputs: tuple[Shape, Shape]
    slots: tuple[Slot, ...]
    edits: tuple[Edit, ...]
    mergers: Callable[[frozenset[str]], Merger]

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics of the differences, in the order of TOPICS."""
        differing = {edit.topic for edit in self.edits}
        return tuple(topic for topic in TOPICS if topic in differing)

    def taken(self, topics: Collection[str]) -> tuple[Iterator[Steps], Shape]:
        """Return the reference with the changes of these topics as units, and its input.

        Units are merged one by one, since most sets of topics are not valid and end at the first unit that does not fit; and
        once for all sets that agree in the topics that concern them."""
        return self._units(topics), self.inputs["input" in topics]

    def _units(self, topics: Collection[str]) -> Iterator[Steps]:
        for slot in self.slots:
            merger = self.mergers(slot.concerns.intersection(topics))
            if slot.topic is None or merger.has(slot.topic, slot.origin):
                yield slot.merged(merger)[0]


def overlay(reference: Structure, subject: Structure, distances: Distances) -> Overlay:
    """Overlay two networks. Raises NotAligned if they have too little in common."""
    merger = Merger(distances, TOPICS, {})
    pairs = list(_segments(reference, subject, distances))
    known = {
        edit.topic
        for first, second in pairs
        if first is not None and second is not None
        for units in zip(first.units, second.units, strict=False)
        for edit in merger.unit(*units, first.role)[1]
    }
    everywhere = merger.everywhere()
    slots = tuple(
        replace(slot, concerns=_concerns(slot, merger, everywhere))
        for pair in pairs
        for slot in _slots(*pair, merger, known)
    )
    edits = tuple(edit for slot in slots for edit in _edits(slot, merger))
    # Additional blocks of a common stage do not count as foreign.
    deeper = sum(edit.layers for edit in edits if edit.topic == "depth")
    alone = sum(edit.layers for edit in edits) - deeper
    if 2 * alone > count_layers(reference.whole) + count_layers(subject.whole) - deeper:
        raise NotAligned(f"{reference.name} and {subject.name} have too little in common")
    inputs = reference.input, subject.input
    if inputs[0] != inputs[1]:
        edits = (Edit("input", f"{size_text(inputs[1])}, not {size_text(inputs[0])}"), *edits)
    mergers = cache(lambda topics: Merger(distances, topics, everywhere))
    return Overlay(inputs, slots, edits, mergers)


def _segments(
    reference: Structure, subject: Structure, distances: Distances
) -> Iterator[tuple[Segment | None, Segment | None]]:
    """Return pairs of corresponding segments; None if only one network has a segment."""
    firsts, seconds = reference.segments, subject.segments
    if [s.is_stage for s in firsts] == [s.is_stage for s in seconds]:
        return zip(firsts, seconds, strict=True)
    _, pairs = align(firsts, seconds, distances.segments, lambda _: ALONE)
    return ((None if i is None else firsts[i], None if j is None else seconds[j]) for i, j in pairs)


def _slots(first: Segment | None, second: Segment | None, merger: Merger, known: set[str]) -> Iterator[Slot]:
    """Yield the slots of a pair of segments. A block that only one of them has is merged with the last block of the other if the
    two differ only in `known` topics: then depth alone means more blocks in the form of the reference."""
    segment = first or second
    assert segment is not None
    name = second.name if second is not None and second.is_stage else segment.name
    firsts, seconds = (each.units if each is not None else () for each in (first, second))
    shared, of = sorted((len(firsts), len(seconds)))
    alone = "depth" if shared else {"stage": "stages", "all": "block"}.get(segment.role, segment.role)
    for at in range(of):
        one, other = (units[min(at, len(units) - 1)] if units else None for units in (firsts, seconds))
        slot = Slot(name, at, of, segment.role, one, other)
        if at >= shared:
            slot = replace(slot, topic=alone, origin="subject" if at >= len(firsts) else "reference")
            if (
                one is None
                or other is None
                or shared < 2
                or not {edit.topic for edit in merger.unit(one, other, "stage")[1]} <= known
            ):
                slot = replace(slot, first=None) if slot.origin == "subject" else replace(slot, second=None)
        yield slot


def _concerns(slot: Slot, merger: Merger, everywhere: Everywhere) -> frozenset[str]:
    """Return the topics on which the form of a slot depends."""
    own = frozenset([slot.topic] if slot.topic else [])
    return own.union((edit.topic for edit in slot.merged(merger)[1]), (topic for _, _, topic in everywhere.values()))


def _edits(slot: Slot, merger: Merger) -> Iterator[Edit]:
    """Yield the differences in a slot with their place."""
    if slot.topic is not None:
        text = f"{VERBS[slot.origin]} {listed(slot.own)}"
        yield Edit(slot.topic, text, count_layers(slot.own), slot.segment, slot.unit, slot.of)
    else:
        for edit in slot.merged(merger)[1]:
            yield replace(edit, segment=slot.segment, unit=slot.unit, of=slot.of)
