"""Two networks laid over one another: one tree that holds both, with a choice wherever they differ.

Each choice belongs to a topic, such as the place of a stride. `taken` makes a network of it: of no topic it is the reference,
of all topics the subject, and of one topic the reference with that one change, whose cost is then a fact like any other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from rescompile.explain import facts
from rescompile.explain.stages import Aside, Item, Items, Join, Leaf
from rescompile.ir.ops import Kind, Shape

Side = Literal["reference", "subject"]
#: What the subject does with what only one of the two has.
_VERBS: dict[Side, str] = {"reference": "without", "subject": "added"}


@dataclass(frozen=True, slots=True)
class Kept:
    """What both have."""

    item: Item


@dataclass(frozen=True, slots=True)
class Changed:
    """An op of both with other attributes: for each its name, both values, and the topic of the change."""

    leaf: Leaf
    attributes: tuple[tuple[str, Any, Any, str], ...]


@dataclass(frozen=True, slots=True)
class Only:
    """What one of the two has."""

    topic: str
    item: Item
    side: Side


@dataclass(frozen=True, slots=True)
class Met:
    """A merge of both. `branches` are laid over one another; a gate that only one has is marked by `gate`."""

    reference: Join
    subject: Join
    branches: tuple[Both, ...]
    gate: tuple[Side, Items] | None


@dataclass(frozen=True, slots=True)
class Unwrapped:
    """A residual branch that stands in a merge in one of the two, and alone in the other."""

    join: Join
    branch: Both
    side: Side


@dataclass(frozen=True, slots=True)
class Apart:
    """A side branch of both, whose body may differ."""

    reference: Aside
    subject: Aside
    body: Both


Pair: TypeAlias = Kept | Changed | Only | Met | Unwrapped | Apart
Both: TypeAlias = tuple[Pair, ...]


def pairs(both: Both) -> Iterator[Pair]:
    """Every pair in order, each before those inside it."""
    for pair in both:
        yield pair
        match pair:
            case Met(branches=branches):
                for branch in branches:
                    yield from pairs(branch)
            case Unwrapped(branch=inner) | Apart(body=inner):
                yield from pairs(inner)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an edit is: the row's name as the subject has it (the reference's, if it has none), the block, and how many."""

    segment: str
    unit: int
    of: int


@dataclass(frozen=True, slots=True)
class Edit:
    """One difference: its topic, its place, the op, and what was done in words."""

    topic: str
    place: Place
    text: str


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit of both; or, with a topic, one that only `side` has."""

    both: Both
    topic: str | None = None
    side: Side = "subject"


@dataclass(frozen=True, slots=True)
class Layer:
    """Segments laid over one another, unit by unit."""

    name: str
    units: tuple[Unit, ...]


#: Attributes that all ops of a kind change alike: both values and the topic. What only one of the networks has follows them,
#: so that a stem is not counted with the biases that the subject has everywhere.
Everywhere: TypeAlias = dict[tuple[type[Kind], str], tuple[Any, Any, str]]


@dataclass(frozen=True)
class Overlay:
    """Two networks laid over one another."""

    input: tuple[Shape, Shape]
    layers: tuple[Layer, ...]
    everywhere: Everywhere

    def topics(self) -> tuple[str, ...]:
        """The topics that the two differ in."""
        return tuple(dict.fromkeys(edit.topic for edit in self.edits()))

    def taken(self, topics: Collection[str]) -> tuple[tuple[Items, ...], Shape]:
        """The reference with the changes of these topics, unit by unit, and its input."""
        taking = _Taking(topics, self.everywhere)
        units = [unit for layer in self.layers for unit in layer.units]
        made = [taking.unit(unit.both) for unit in units if unit.topic is None or taking.has(unit.topic, unit.side)]
        return tuple(made), self.input["input" in topics]

    def edits(self) -> Iterator[Edit]:
        """Every difference, in order."""
        if self.input[0] != self.input[1]:
            yield Edit("input", Place("", 0, 1), f"{_shape(self.input[1])}, not {_shape(self.input[0])}")
        for layer in self.layers:
            for index, unit in enumerate(layer.units):
                place = Place(layer.name, index, len(layer.units))
                if unit.topic is not None:
                    items = [pair.item for pair in unit.both if isinstance(pair, Only)]
                    what = facts.listed(items) if items else "a block"
                    yield Edit(unit.topic, place, f"{_VERBS[unit.side]} {what}")
                else:
                    yield from (Edit(topic, place, text) for topic, text in said(unit.both))


@dataclass(frozen=True, slots=True)
class _Taking:
    """Makes the reference with the changes of some topics."""

    topics: Collection[str]
    everywhere: Everywhere
    _units: dict[int, Items] = field(default_factory=dict)  # units of a stage are mostly one and the same

    def has(self, topic: str, side: Side) -> bool:
        """Whether it has what only one of the two has."""
        return (topic in self.topics) == (side == "subject")

    def unit(self, both: Both) -> Items:
        """A unit, which is made once."""
        if id(both) not in self._units:
            self._units[id(both)] = self.items(both)
        return self._units[id(both)]

    def items(self, both: Both) -> Items:
        """A list."""
        items: list[Item] = []
        for pair in both:
            match pair:
                case Kept(item):
                    items.append(item)
                case Changed(leaf, attributes):
                    new = {name: value for name, _, value, topic in attributes if topic in self.topics}
                    items.append(_with(leaf, new))
                case Only(topic, item, side):
                    if self.has(topic, side):
                        items.append(self.followed(item, side))
                case Met():
                    items.append(self.met(pair))
                case Unwrapped(join, branch, side):
                    inner = self.items(branch)
                    if self.has("shortcut", side):
                        _, *others = (self.all_followed(branch, side) for branch in join.branches)
                        items.append(replace(join, branches=(inner, *others)))
                    else:
                        items += inner
                case Apart(reference, subject, body):
                    chosen = subject if "side" in self.topics else reference
                    items.append(replace(chosen, body=self.items(body)))
        return tuple(items)

    def met(self, pair: Met) -> Join:
        """A merge of both."""
        branches = [self.items(branch) for branch in pair.branches]
        like = pair.reference
        if pair.gate is not None:
            side, gate = pair.gate
            like = pair.subject if "gate" in self.topics else pair.reference
            if self.has("gate", side):
                branches.insert(1, self.all_followed(gate, side))
        survival = (pair.subject if "survival" in self.topics else pair.reference).survival
        return replace(like, survival=survival, branches=tuple(branches))

    def followed(self, item: Item, side: Side) -> Item:
        """What only one network has, with the attributes that all ops of its kind have as far as these topics are taken."""
        match item:
            case Leaf(kind):
                new = {}
                for (of, name), (old, value, topic) in self.everywhere.items():
                    own, other = (value, old) if side == "subject" else (old, value)
                    if isinstance(kind, of) and getattr(kind, name) == own and not self.has(topic, side):
                        new[name] = other
                return _with(item, new)
            case Join():
                return replace(item, branches=tuple(self.all_followed(branch, side) for branch in item.branches))
            case Aside():
                return replace(item, body=self.all_followed(item.body, side))

    def all_followed(self, items: Items, side: Side) -> Items:
        """A list of what only one network has."""
        return tuple(self.followed(item, side) for item in items)


def _with(leaf: Leaf, new: dict[str, Any]) -> Leaf:
    return Leaf(replace(leaf.kind, **new) if new else leaf.kind, leaf.name)


# --- what the edits are, in words -------------------------------------------------------------------------------------


def said(both: Both) -> Iterator[tuple[str, str]]:
    """The differences in a list, each with its topic."""
    for pair in pairs(both):
        match pair:
            case Changed(leaf, attributes):
                for name, old, new, topic in attributes:
                    yield topic, f"{leaf.name or leaf.kind.word}: {name} {_value(new)}, not {_value(old)}"
            case Only(topic, item, side):
                yield topic, f"{_VERBS[side]} {facts.item(item)}"
            case Met(reference, subject, _, gate):
                if gate is not None:
                    yield "gate", f"{_VERBS[gate[0]]} gate"
                if reference.survival != subject.survival:
                    yield "survival", f"{_survives(subject)}, not {_survives(reference)}"
            case Unwrapped(_, _, side):
                yield "shortcut", f"{_VERBS[side]} shortcut"
            case Apart(reference, subject):
                if (reference.mode, reference.output) != (subject.mode, subject.output):
                    yield "side", f"{_aside(subject)}, not {_aside(reference)}"


def _survives(join: Join) -> str:
    return f"survival {join.survival.probability:.6g}" if join.survival else "always"


def _aside(side: Aside) -> str:
    return f"an output {side.output} computed {side.mode}" if side.output else f"a side branch computed {side.mode}"


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        return str(value[0]) if value[0] == value[1] else f"{value[0]}x{value[1]}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _shape(shape: Shape) -> str:
    return "x".join(map(str, shape))
