"""The differences of two networks by topic, with the cost of each alone.

The individual cost of a difference is computed on the reference with this single change. If the shapes do not fit, it is
computed on the subject without this change; if that is not valid either, the topic is joined with one or two others that make
it valid. The remaining cost is the interaction of differences: a wider layer costs more in a network that is also deeper.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import combinations

from rescompile.analysis.alignment import NotAligned
from rescompile.diagnostics.errors import ShapeError
from rescompile.explain.distances import Distances
from rescompile.explain.merger import Edit
from rescompile.explain.overlay import overlay
from rescompile.explain.stages import Steps, Structure, series
from rescompile.explain.topics import TOPICS
from rescompile.ir.network import Again, Op, Recall, Side, merge_shape, walk
from rescompile.ir.ops import Shape
from rescompile.ir.traversal import ThreadRules, thread
from rescompile.records import record

#: Parameters and MACs.
Figure = tuple[int, int]


@record
class Difference:
    """The edits of one topic, or of several that cannot be separated, and their cost alone in parameters and MACs, subject minus
    reference; None if no valid network has them alone."""

    topics: tuple[str, ...]
    edits: tuple[Edit, ...]
    parameters: int | None
    macs: int | None


@record
class Comparison:
    """All differences, or None if the two cannot be aligned; and the total costs, subject minus reference."""

    differences: tuple[Difference, ...] | None
    parameters: int
    macs: int

    @property
    def beyond(self) -> tuple[int, int] | None:
        """The total cost minus the sum of the costs alone; None if a difference has no cost alone."""
        if self.differences is None:
            return None
        parameters, macs = self.parameters, self.macs
        for difference in self.differences:
            if difference.parameters is None or difference.macs is None:
                return None
            parameters, macs = parameters - difference.parameters, macs - difference.macs
        return parameters, macs


def compare(reference: Structure, subject: Structure) -> Comparison:
    """Return the differences of `subject` to `reference`."""
    distances = Distances()
    counts = Counts(distances)
    old, new = (counts.total(each.units, each.input) for each in (reference, subject))
    total = new[0] - old[0], new[1] - old[1]
    try:
        both = overlay(reference, subject, distances)
    except NotAligned:
        return Comparison(None, *total)

    def figure(topics: Collection[str]) -> Figure | None:
        """Return the cost of these changes alone: added to the reference, else removed from the subject."""
        without = [topic for topic in both.topics if topic not in topics]
        for taken, sign, base in ((topics, 1, old), (without, -1, new)):
            try:
                parameters, macs = counts.total(*both.taken(taken))
            except ShapeError:
                continue
            return sign * (parameters - base[0]), sign * (macs - base[1])
        return None

    differences = tuple(
        Difference(topics, tuple(edit for edit in both.edits if edit.topic in topics), *(cost or (None, None)))
        for topics, cost in _taken_apart(both.topics, figure)
    )
    return Comparison(differences, *total)


def _taken_apart(
    topics: Sequence[str], figure: Callable[[Collection[str]], Figure | None]
) -> list[tuple[tuple[str, ...], Figure | None]]:
    """Return the topics with their costs, in order. A topic without a cost alone is joined with one or two others if possible."""
    figures: dict[tuple[str, ...], Figure | None] = {(topic,): figure((topic,)) for topic in topics}
    for others in (1, 2):
        for topic in [key[0] for key, cost in figures.items() if len(key) == 1 and cost is None]:
            partners = [key[0] for key in figures if len(key) == 1 and key != (topic,)]
            for chosen in combinations(partners, others):
                joined = tuple(sorted((topic, *chosen), key=TOPICS.index))
                if (topic,) in figures and (cost := figure(joined)) is not None:
                    figures = {key: known for key, known in figures.items() if not set(key) & set(joined)}
                    figures[joined] = cost
                    break
    return sorted(figures.items(), key=lambda entry: TOPICS.index(entry[0][0]))


class Counts:
    """Cached costs of units by the shapes of their input and of the values that they recall, since most units of a stage are equal."""

    def __init__(self, distances: Distances) -> None:
        self._distances = distances
        self._known: dict[tuple[tuple[int, ...], Shape, tuple[Shape, ...]], tuple[int, int, Shape]] = {}

    def total(self, units: Iterable[Steps], shape: Shape) -> Figure:
        """Return parameters and MACs of units in series. Raises ShapeError if a step does not fit its input."""
        parameters = macs = 0
        for unit in units:
            recalled = (node.output for step in unit for _, node in walk(step) if isinstance(node, Recall))
            key = (self._distances.keys(unit), shape, tuple(recalled))
            if key not in self._known:
                self._known[key] = _count(unit, shape)
            more, work, shape = self._known[key]
            parameters, macs = parameters + more, macs + work
        return parameters, macs


def _count(unit: Steps, shape: Shape) -> tuple[int, int, Shape]:
    """Return parameters and MACs of a unit on an input of this shape, and the shape of its output."""
    parameters = macs = 0

    def op(_: str, node: Op, shape: Shape) -> Shape:
        nonlocal parameters, macs
        parameters += sum(each.size for each in node.kind.parameters(shape) if each.trainable)
        macs += node.kind.macs(shape)
        return node.kind.output(shape)

    def side(_: str, node: Side, shape: Shape, through: Callable[[Shape], Shape]) -> None:
        nonlocal macs
        before = macs
        through(shape)
        macs = macs if node.mode == "always" else before

    def again(_: str, __: Again, shape: Shape, through: Callable[[Shape], Shape]) -> Shape:
        """The parameters count where they stand."""
        nonlocal parameters
        before = parameters
        output = through(shape)
        parameters = before
        return output

    rules = ThreadRules[Shape](
        op,
        merge=lambda _, node, shapes: merge_shape(node.merge, shapes),
        side=side,
        split=lambda _, node, shape: node.given_of(shape),
        outside=lambda _, node: node.output,
        again=again,
    )
    output = thread(series(unit), shape, rules)
    return parameters, macs, output
