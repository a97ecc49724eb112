"""Two networks overlaid: stages and their blocks are paired in order; additional blocks of a stage are its depth.

Each difference belongs to a topic, such as the position of a stride. `taken` returns a network with the differences of some
topics: without any it is the reference, with all of them the subject. With one topic it is the reference with that single
change, whose cost can be counted like that of any network.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

from rescompile.analysis.alignment import NotAligned, align
from rescompile.explain.distances import ALONE, Distances
from rescompile.explain.merger import VERBS, Edit, Everywhere, Merger, Origin, count_layers
from rescompile.explain.op_wording import listed, shown
from rescompile.explain.stages import Role, Segment, Steps, Structure
from rescompile.explain.topics import TOPICS
from rescompile.ir.ops import Shape
from rescompile.records import record


@record
class Slot:
    """A unit of both networks, or with a topic one that only `origin` has. Such a unit may also be merged with one of the other
    network, whose form it has for all topics that are not taken."""

    segment: str
    unit: int
    of: int
    role: Role
    first: Steps | None
    second: Steps | None
    topic: str | None = None
    origin: Origin = "subject"

    @property
    def own(self) -> Steps:
        """The unit in `origin`."""
        return (self.second if self.origin == "subject" else self.first) or ()


@record(slots=False)
class Overlay:
    """Two overlaid networks, with all their differences in order."""

    inputs: tuple[Shape, Shape]
    slots: tuple[Slot, ...]
    edits: tuple[Edit, ...]
    everywhere: Everywhere
    distances: Distances

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics of the differences, in the order of TOPICS."""
        differing = {edit.topic for edit in self.edits}
        return tuple(topic for topic in TOPICS if topic in differing)

    def taken(self, topics: Collection[str]) -> tuple[tuple[Steps, ...], Shape]:
        """Return the reference with the changes of these topics as units, and its input."""
        merger = Merger(self.distances, topics, self.everywhere)
        units = [
            merger.unit(slot.first, slot.second, slot.role)[0]
            if slot.first is not None and slot.second is not None
            else merger.followed(slot.own, slot.origin)
            for slot in self.slots
            if slot.topic is None or merger.has(slot.topic, slot.origin)
        ]
        return tuple(units), self.inputs["input" in topics]


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
    slots = tuple(slot for pair in pairs for slot in _slots(*pair, merger, known))
    edits = tuple(edit for slot in slots for edit in _edits(slot, merger))
    deeper = sum(
        edit.layers for edit in edits if edit.topic == "depth"
    )  # additional blocks of a common stage do not count as foreign
    alone = sum(edit.layers for edit in edits) - deeper
    if 2 * alone > count_layers(reference.whole) + count_layers(subject.whole) - deeper:
        raise NotAligned(f"{reference.name} and {subject.name} have too little in common")
    inputs = reference.input, subject.input
    if inputs[0] != inputs[1]:
        edits = (Edit("input", f"{shown(inputs[1])}, not {shown(inputs[0])}"), *edits)
    return Overlay(inputs, slots, edits, everywhere, distances)


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


def _edits(slot: Slot, merger: Merger) -> Iterator[Edit]:
    """Yield the differences in a slot with their place."""
    if slot.topic is not None:
        text = f"{VERBS[slot.origin]} {listed(slot.own)}"
        yield Edit(slot.topic, text, count_layers(slot.own), slot.segment, slot.unit, slot.of)
    elif slot.first is not None and slot.second is not None:
        for edit in merger.unit(slot.first, slot.second, slot.role)[1]:
            yield replace(edit, segment=slot.segment, unit=slot.unit, of=slot.of)
