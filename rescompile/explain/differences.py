"""What one network does otherwise than another, by topic, with what each difference alone costs.

A difference alone is the reference with that one change, built and counted. Where such a network cannot be, since its shapes
would not fit, the subject without that one change is counted instead; where that cannot be either, the topic is joined with
another that makes it possible, and the two are counted as one. What the differences cost beyond their sum is told as well:
a wider layer costs more in a network that is also deeper.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import combinations

from rescompile.diagnostics.errors import ShapeError
from rescompile.explain.alignment import aligned
from rescompile.explain.overlay import Edit, Overlay
from rescompile.explain.sequences import NotAligned
from rescompile.explain.stages import Anatomy, Grower
from rescompile.explain.topics import TOPICS


@dataclass(frozen=True, slots=True)
class Difference:
    """What differs in one topic, or in several that cannot be taken apart, and its cost alone: parameters and MACs of
    the subject's way less those of the reference's. None where no network has it alone."""

    topics: tuple[str, ...]
    edits: tuple[Edit, ...]
    parameters: int | None
    macs: int | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """All differences, or None where the two cannot be aligned; the totals hold in any case, subject less reference."""

    differences: tuple[Difference, ...] | None
    parameters: int
    macs: int

    @property
    def beyond(self) -> tuple[int, int] | None:
        """What the differences cost together beyond the sum of each alone; None where one has no figure."""
        if self.differences is None:
            return None
        parameters, macs = self.parameters, self.macs
        for difference in self.differences:
            if difference.parameters is None or difference.macs is None:
                return None
            parameters, macs = parameters - difference.parameters, macs - difference.macs
        return parameters, macs


def compare(reference: Anatomy, subject: Anatomy) -> Comparison:
    """What `subject` does otherwise than `reference`."""
    grower = Grower()
    old, new = (grower.counted(each.parts, each.input) for each in (reference, subject))
    total = new[0] - old[0], new[1] - old[1]
    try:
        found = aligned(reference, subject)
    except NotAligned:
        return Comparison(None, *total)
    return Comparison(_Alone(found, old, new, grower).differences(), *total)


class _Alone:
    """Counts the differences of an overlay one at a time."""

    def __init__(self, found: Overlay, old: tuple[int, int], new: tuple[int, int], grower: Grower) -> None:
        self.found, self.old, self.new, self.grower = found, old, new, grower
        self.edits = tuple(found.edits())
        said = {edit.topic for edit in self.edits}
        self.topics = [topic for topic in TOPICS if topic in said]

    def differences(self) -> tuple[Difference, ...]:
        alone: dict[tuple[str, ...], tuple[int, int] | None] = {
            (topic,): self.figure((topic,)) for topic in self.topics
        }
        for size in (2, 3):
            for topic in [key[0] for key, figure in alone.items() if len(key) == 1 and figure is None]:
                partners = [key[0] for key in alone if len(key) == 1 and key != (topic,)]
                for others in combinations(partners, size - 1):
                    joined = tuple(sorted((topic, *others), key=TOPICS.index))
                    if (topic,) in alone and (figure := self.figure(joined)) is not None:
                        for each in joined:
                            del alone[(each,)]
                        alone[joined] = figure
                        break
        ordered = sorted(alone.items(), key=lambda entry: TOPICS.index(entry[0][0]))
        return tuple(
            Difference(
                topics,
                tuple(edit for edit in self.edits if edit.topic in topics),
                *(figure if figure is not None else (None, None)),
            )
            for topics, figure in ordered
        )

    def figure(self, topics: Collection[str]) -> tuple[int, int] | None:
        """The cost of these changes alone: added to the reference, else taken back from the subject."""
        if (with_them := self.count(topics)) is not None:
            return with_them[0] - self.old[0], with_them[1] - self.old[1]
        if (without := self.count([topic for topic in self.topics if topic not in topics])) is not None:
            return self.new[0] - without[0], self.new[1] - without[1]
        return None

    def count(self, topics: Collection[str]) -> tuple[int, int] | None:
        try:
            return self.grower.counted(*self.found.taken(topics))
        except ShapeError:
            return None
