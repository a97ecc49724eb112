"""Two networks laid over one another: one tree that holds both, with a choice wherever they differ.

Each choice belongs to a topic, such as the place of a stride. `taken` makes a network of it: of no topic it is the reference,
of all topics the subject, and of one topic the reference with that one change, whose cost is then a fact like any other.

Lists are aligned by least cost (Needleman and Wunsch 1970): equal ops cost nothing, ops of one kind their differing attributes,
what only one of the two has its number of ops. Stages are aligned in order, their blocks in order; a stage's further blocks are
its depth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeAlias

from rescompile.explanation import facts
from rescompile.explanation.anatomy import Anatomy, Aside, Item, Items, Join, Leaf, Segment, leaves, main
from rescompile.ops import Act, AvgPool, Conv, Dropout, Kind, Linear, MaxPool, Norm, Scale, Shape, Subsample

Side = Literal["reference", "subject"]
#: Lists of which one has more ops than this by the other are not aligned: it would take too long.
MOST_PAIRS = 400_000
#: What the subject does with what only one of the two has.
_VERBS: dict[Side, str] = {"reference": "without", "subject": "added"}


class NotAligned(Exception):
    """The two have too little in common to say what became of what."""


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
class Layer:
    """Segments laid over one another: their units, each with the topic of a unit that only one has."""

    name: str
    units: tuple[tuple[str | None, Side | None, Both], ...]


#: Attributes that all ops of a kind change alike: both values and the topic. What only one of the networks has follows them,
#: so that a stem is not counted with the biases that the subject has everywhere.
Everywhere: TypeAlias = dict[tuple[type[Kind], str], tuple[Any, Any, str]]


@dataclass(frozen=True)
class Alignment:
    """Two networks laid over one another."""

    input: tuple[Shape, Shape]
    layers: tuple[Layer, ...]
    everywhere: Everywhere

    def topics(self) -> tuple[str, ...]:
        """The topics that the two differ in."""
        return tuple(dict.fromkeys(edit.topic for edit in self.edits()))

    def taken(self, topics: Collection[str]) -> tuple[tuple[Items, ...], Shape]:
        """The reference with the changes of these topics, unit by unit, and its input."""
        units: list[Items] = []
        made: dict[int, Items] = {}  # units of a stage are mostly one and the same
        for layer in self.layers:
            for topic, side, unit in layer.units:
                if topic is None or (topic in topics) == (side == "subject"):
                    if id(unit) not in made:
                        made[id(unit)] = _taken(unit, topics, self.everywhere)
                    units.append(made[id(unit)])
        return tuple(units), self.input["input" in topics]

    def edits(self) -> Iterator[Edit]:
        """Every difference, in order."""
        if self.input[0] != self.input[1]:
            yield Edit("input", Place("", 0, 1), f"{_shape(self.input[1])}, not {_shape(self.input[0])}")
        for layer in self.layers:
            for index, (topic, side, unit) in enumerate(layer.units):
                place = Place(layer.name, index, len(layer.units))
                if topic is not None:
                    items = [pair.item for pair in unit if isinstance(pair, Only)]
                    yield Edit(
                        topic, place, f"{_VERBS[side or 'subject']} {facts.listed(items) if items else 'a block'}"
                    )
                else:
                    yield from (Edit(name, place, text) for name, text in _edits(unit))


def _taken(both: Both, topics: Collection[str], everywhere: Everywhere) -> Items:
    items: list[Item] = []
    for pair in both:
        match pair:
            case Kept(item):
                items.append(item)
            case Changed(leaf, attributes):
                new = {name: value for name, _, value, topic in attributes if topic in topics}
                items.append(Leaf(_with(leaf.kind, new), leaf.name))
            case Only(topic, item, side):
                if (topic in topics) == (side == "subject"):
                    items.append(_followed(item, side, topics, everywhere))
            case Met():
                items.append(_met(pair, topics, everywhere))
            case Unwrapped(join, branch, side):
                inner = _taken(branch, topics, everywhere)
                if ("shortcut" in topics) == (side == "subject"):
                    whole = _followed(join, side, topics, everywhere)
                    assert isinstance(whole, Join)
                    items.append(replace(whole, branches=(inner, *whole.branches[1:])))
                else:
                    items += inner
            case Apart(reference, subject, body):
                chosen = subject if "side" in topics else reference
                items.append(replace(chosen, body=_taken(body, topics, everywhere)))
    return tuple(items)


def _with(kind: Kind, new: dict[str, Any]) -> Kind:
    return replace(kind, **new) if new else kind


def _followed(item: Item, side: Side, topics: Collection[str], everywhere: Everywhere) -> Item:
    """What only one network has, with the attributes that all ops of its kind have as far as these topics are taken."""
    match item:
        case Leaf(kind):
            new = {}
            for (of, name), (old, value, topic) in everywhere.items():
                own, other = (value, old) if side == "subject" else (old, value)
                if isinstance(kind, of) and getattr(kind, name) == own and (topic in topics) != (side == "subject"):
                    new[name] = other
            return Leaf(_with(kind, new), item.name)
        case Join():
            branches = (tuple(_followed(each, side, topics, everywhere) for each in b) for b in item.branches)
            return replace(item, branches=tuple(branches))
        case Aside():
            return replace(item, body=tuple(_followed(each, side, topics, everywhere) for each in item.body))


def _met(pair: Met, topics: Collection[str], everywhere: Everywhere) -> Join:
    branches = [_taken(branch, topics, everywhere) for branch in pair.branches]
    like = pair.reference
    if pair.gate is not None:
        side, gate = pair.gate
        like = pair.subject if "gate" in topics else pair.reference
        if ("gate" in topics) == (side == "subject"):
            branches.insert(1, tuple(_followed(each, side, topics, everywhere) for each in gate))
    survival = (pair.subject if "survival" in topics else pair.reference).survival
    return replace(like, survival=survival, branches=tuple(branches))


# --- what the edits are, in words -------------------------------------------------------------------------------------


def _edits(both: Both) -> Iterator[tuple[str, str]]:
    for pair in both:
        match pair:
            case Changed(leaf, attributes):
                for name, old, new, topic in attributes:
                    yield topic, f"{leaf.name or leaf.kind.word}: {name} {_value(new)}, not {_value(old)}"
            case Only(topic, item, side):
                yield topic, f"{_VERBS[side]} {facts.item(item)}"
            case Met():
                if pair.gate is not None:
                    yield "gate", "without gate" if pair.gate[0] == "reference" else "added gate"
                if pair.reference.survival != pair.subject.survival:
                    yield "survival", f"{_survives(pair.subject)}, not {_survives(pair.reference)}"
                for branch in pair.branches:
                    yield from _edits(branch)
            case Unwrapped(_, branch, side):
                yield "shortcut", "without shortcut" if side == "reference" else "added shortcut"
                yield from _edits(branch)
            case Apart(reference, subject, body):
                if (reference.mode, reference.output) != (subject.mode, subject.output):
                    yield "side", f"{_aside(subject)}, not {_aside(reference)}"
                yield from _edits(body)
            case Kept():
                pass


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


# --- topics -----------------------------------------------------------------------------------------------------------

#: Attributes whose change is the same topic wherever it stands: of any op, or of one kind.
ANYWHERE: dict[tuple[type[Kind], str], str] = {
    (Norm, "eps"): "eps", (Norm, "momentum"): "momentum", (Norm, "kind"): "norm", (Norm, "scale_init"): "scale-init",
    (Conv, "bias"): "bias", (Conv, "bias_init"): "init", (Conv, "init"): "init", (Linear, "bias"): "bias",
    (Linear, "bias_init"): "init", (Linear, "init"): "init", (Act, "kind"): "activation", (Act, "slope"): "activation",
    (Dropout, "rate"): "dropout", (Scale, "factor"): "scale",
}  # fmt: skip
#: Attributes in the blocks of stages, by name; those of strides are decided by the whole block.
IN_BLOCKS = {
    "channels": "width", "features": "width", "groups": "groups", "kernel": "kernel", "dilation": "dilation",
    "padding": "padding", "stride": "stride", "ceil": "padding", "count_pad": "padding", "size": "pooling",
}  # fmt: skip
#: What is only in one of two blocks, by the kind of op.
OPS: tuple[tuple[tuple[type[Kind], ...], str], ...] = (
    ((Norm, Act), "order"),
    ((Dropout,), "dropout"),
    ((Scale,), "scale"),
    ((MaxPool, AvgPool), "pooling"),
)


@dataclass(frozen=True, slots=True)
class _Where:
    """Where a list stands, as far as topics depend on it: the role of the segment and of the branch, and what the
    block around does as a whole."""

    segment: Literal["stem", "head", "between", "stage", "all"]
    branch: Literal["main", "shortcut", "gate", "side"] = "main"
    stride: str = "stride"
    rebuilt: bool = False

    def attribute(self, kind: Kind, name: str, last: bool) -> str:
        """The topic of an attribute that differs."""
        anywhere = next((topic for (of, a), topic in ANYWHERE.items() if a == name and isinstance(kind, of)), None)
        if anywhere is not None:
            return anywhere
        if self.segment == "head":
            return "classes" if last and name in ("features", "channels") else "head"
        if self.segment == "stem":
            return "stem"
        if self.segment == "between":
            return "between"
        if self.rebuilt and self.branch == "main" and name in ("kernel", "channels", "features"):
            return "block"
        if name == "stride":
            return "shortcut" if self.branch == "shortcut" and self.stride == "stride" else self.stride
        return IN_BLOCKS.get(name, "block")

    def item(self, item: Item) -> str:
        """The topic of something that only one has."""
        if isinstance(item, Leaf) and isinstance(item.kind, Dropout):
            return "dropout"
        if isinstance(item, Aside) or self.branch == "side":
            return "side"
        if self.segment in ("stem", "head", "between"):
            return self.segment
        if self.branch == "gate":
            return "gate"
        if self.branch == "shortcut":
            return "shortcut" if self.stride != "downsampling" else "downsampling"
        if isinstance(item, Join):
            return "attention" if item.merge == "mul" else "block"
        kind = next((topic for kinds, topic in OPS if isinstance(item.kind, kinds)), "block")
        return "block" if kind == "order" and self.rebuilt else kind


# --- alignment --------------------------------------------------------------------------------------------------------


def aligned(reference: Anatomy, subject: Anatomy) -> Alignment:
    """The two laid over one another. Raises NotAligned where they have too little in common."""
    return Aligner().networks(reference, subject)


class Aligner:
    """Aligns lists, and remembers what it has aligned: blocks of a stage are mostly alike."""

    def __init__(self) -> None:
        self._distances: dict[tuple[Item, Item], float] = {}
        self._units: dict[tuple[Items, Items, str], Both] = {}

    def networks(self, reference: Anatomy, subject: Anatomy) -> Alignment:
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
                alone = tuple((topic, side, _alone(topic, side, unit)) for unit in segment.units)
                layers.append(Layer(segment.name or _ROLES[role], alone))
        common = [unit for layer in layers for topic, _, unit in layer.units if topic is None]
        known = {name for unit in {id(unit): unit for unit in common}.values() for name, _ in _edits(unit)}
        layers = [
            self._deepened(layer, first, second, known) if first is not None and second is not None else layer
            for layer, (first, second) in zip(layers, pairs, strict=True)
        ]
        found = Alignment((reference.input, subject.input), tuple(layers), _everywhere(common))
        if _shared(found) < 0.5:
            raise NotAligned(f"{reference.name} and {subject.name} have too little in common")
        return found

    def _segments(self, reference: Anatomy, subject: Anatomy) -> list[tuple[Segment | None, Segment | None]]:
        firsts, seconds = reference.segments, subject.segments
        if [s.is_stage for s in firsts] == [s.is_stage for s in seconds]:
            return list(zip(firsts, seconds, strict=True))

        def cost(first: Segment, second: Segment) -> float:
            if first.is_stage != second.is_stage:
                return math.inf
            together = [
                _size(first.units[0]) + _size(second.units[0]),
                _size(first.units[-1]) + _size(second.units[-1]),
            ]
            ends = ((first.units[0], second.units[0]), (first.units[-1], second.units[-1]))
            return sum(self.distance(a, b) / size / 2 for (a, b), size in zip(ends, together, strict=True))

        return [
            (None if i is None else firsts[i], None if j is None else seconds[j])
            for i, j in _least(firsts, seconds, cost, lambda _: 0.6)
        ]

    def _stage(self, first: Segment, second: Segment, role: _Role) -> Layer:
        name = second.name or first.name or _ROLES[role]
        both = zip(first.units, second.units, strict=False)
        return Layer(name, tuple((None, None, self._unit(one, other, role)) for one, other in both))

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
            if shared < 2 or not {name for name, _ in _edits(unit)} <= set(known):
                unit = _alone("depth", side, others if side == "subject" else ones)
            units.append(("depth", side, unit))
        return Layer(layer.name, tuple(units))

    def _unit(self, first: Items, second: Items, role: _Role) -> Both:
        key = (first, second, role)
        if key not in self._units:
            rebuilt = _layers(first) != _layers(second)
            stride = "stride" if _stride(first) == _stride(second) else "downsampling"
            self._units[key] = self.lists(first, second, _Where(role, stride=stride, rebuilt=rebuilt))
        return self._units[key]

    def lists(self, first: Items, second: Items, where: _Where) -> Both:
        """Two lists laid over one another."""
        if where.branch == "main" and (found := self._unwrapped(first, second, where)) is not None:
            return found
        steps = _least(first, second, self.between, _size_of)
        return tuple(self._pair(first, second, i, j, where) for i, j in steps)

    def _pair(self, first: Items, second: Items, i: int | None, j: int | None, where: _Where) -> Pair:
        if i is None or j is None:
            assert i is not None or j is not None
            item = first[i] if i is not None else second[j or 0]
            return Only(where.item(item), item, "subject" if i is None else "reference")
        one, other = first[i], second[j]
        if one == other:
            return Kept(other)
        if isinstance(one, Leaf) and isinstance(other, Leaf):
            last = i == _last_layer(first)
            found = {name: (old, new) for name, old, new in _differing(one, other)}
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
            self.lists(a, b, replace(where, branch=role) if role else where) for role, a, b in _branches(one, other)
        )
        return Met(one, other, branches, gate)

    def _unwrapped(self, first: Items, second: Items, where: _Where) -> Both | None:
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
        steps = _least(a, b, self.between, _size_of)
        parts: tuple[list[Pair], list[Pair], list[Pair]] = ([], [], [])
        part = 0
        for i, j in steps:
            own = i if ones else j
            if own is not None:
                part = 0 if own < at else 1 if own < at + len(branch) else 2
            parts[part].append(self._pair(a, b, i, j, where))
        return (*parts[0], Unwrapped(join, tuple(parts[1]), side), *parts[2])

    def distance(self, first: Items, second: Items) -> float:
        """How unlike two lists are: 0 for equal ones, at most the sizes of both."""
        if first == second:
            return 0.0
        steps = _least(first, second, self.between, _size_of)
        total = 0.0
        for i, j in steps:
            if i is None:
                total += _size_of(second[j or 0])
            elif j is None:
                total += _size_of(first[i])
            else:
                total += self.between(first[i], second[j])
        return total

    def between(self, first: Item, second: Item) -> float:
        """How unlike two items are; infinite where one cannot have become the other."""
        if first == second:
            return 0.0
        key = (first, second)
        if key not in self._distances:
            self._distances[key] = self._between(first, second)
        return self._distances[key]

    def _between(self, first: Item, second: Item) -> float:
        if isinstance(first, Leaf) and isinstance(second, Leaf):
            if type(first.kind) is not type(second.kind):
                return math.inf
            return min(1.5, 0.1 + sum(_WEIGHTS.get(name, 0.1) for name, _, _ in _differing(first, second)))
        if isinstance(first, Aside) and isinstance(second, Aside):
            return self.distance(first.body, second.body)
        if not isinstance(first, Join) or not isinstance(second, Join):
            return math.inf
        if not (first.skips and second.skips) and (
            first.skips
            or second.skips
            or (first.merge, first.split, len(first.branches)) != (second.merge, second.split, len(second.branches))
        ):
            return math.inf
        return 0.1 + sum(self.distance(a, b) for _, a, b in _branches(first, second))


#: What a differing attribute costs when ops are aligned: a conv of another kernel is rather another conv.
_WEIGHTS = {"kernel": 0.9, "stride": 0.3, "groups": 0.2, "channels": 0.3, "features": 0.3, "dilation": 0.2}

_Role: TypeAlias = Literal["stem", "head", "between", "stage", "all"]
_ROLES: dict[_Role, str] = {
    "stem": "the stem", "head": "the head", "between": "between the stages", "stage": "the stage", "all": "the network",
}  # fmt: skip


def _role(anatomy: Anatomy, segment: Segment | None) -> _Role:
    assert segment is not None
    if segment.is_stage:
        return "stage"
    if not anatomy.stages:
        return "all"
    return "stem" if segment is anatomy.segments[0] else "head" if segment is anatomy.segments[-1] else "between"


def _branches(
    first: Join, second: Join
) -> Iterator[tuple[Literal["main", "shortcut", "gate", "side"] | None, Items, Items]]:
    """The branches of two merges that stand for one another, with their roles; None keeps that of the list around."""
    if not first.skips:
        for one, other in zip(first.branches, second.branches, strict=True):
            yield None, one, other
        return
    yield None, first.branches[0], second.branches[0]
    if first.gate is not None and second.gate is not None:
        yield "gate", first.gate, second.gate
    yield "shortcut", first.branches[-1], second.branches[-1]


def _differing(first: Leaf, second: Leaf) -> Iterator[tuple[str, Any, Any]]:
    for each in fields(first.kind):
        old, new = getattr(first.kind, each.name), getattr(second.kind, each.name)
        if old != new:
            yield each.name, old, new


def _least(
    first: Sequence[Any], second: Sequence[Any], cost: Callable[[Any, Any], float], alone: Callable[[Any], float]
) -> list[tuple[int | None, int | None]]:
    """The alignment of two sequences of least cost, as pairs of places; None where one has nothing. What both begin and
    end with alike is paired first. Raises NotAligned where the rest is too long."""
    start, ends = 0, (len(first), len(second))
    while start < min(ends) and first[start] == second[start]:
        start += 1
    while min(ends) > start and first[ends[0] - 1] == second[ends[1] - 1]:
        ends = ends[0] - 1, ends[1] - 1
    rows, columns = ends[0] - start, ends[1] - start
    if rows * columns > MOST_PAIRS:
        raise NotAligned("they are too long to be aligned")
    best = [[0.0] * (columns + 1) for _ in range(rows + 1)]
    for i in range(rows - 1, -1, -1):
        best[i][columns] = best[i + 1][columns] + alone(first[start + i])
    for j in range(columns - 1, -1, -1):
        best[rows][j] = best[rows][j + 1] + alone(second[start + j])
    for i in range(rows - 1, -1, -1):
        for j in range(columns - 1, -1, -1):
            best[i][j] = min(
                best[i + 1][j + 1] + cost(first[start + i], second[start + j]),
                best[i + 1][j] + alone(first[start + i]),
                best[i][j + 1] + alone(second[start + j]),
            )
    steps: list[tuple[int | None, int | None]] = [(at, at) for at in range(start)]
    i = j = 0
    while i < rows or j < columns:
        if i < rows and j < columns and best[i][j] == best[i + 1][j + 1] + cost(first[start + i], second[start + j]):
            steps.append((start + i, start + j))
            i, j = i + 1, j + 1
        elif i < rows and best[i][j] == best[i + 1][j] + alone(first[start + i]):
            steps.append((start + i, None))
            i += 1
        else:
            steps.append((None, start + j))
            j += 1
    steps += zip(range(ends[0], len(first)), range(ends[1], len(second)), strict=True)
    return steps


def _size(items: Items) -> int:
    return max(1, sum(_size_of(item) for item in items))


def _size_of(item: Item) -> int:
    """What it costs to leave an item out: layers most, so that they are paired before the norms around them are."""
    if isinstance(item, Leaf):
        return 3 if isinstance(item.kind, Conv | Linear) else 1
    return 1 + sum(_size_of(leaf) for leaf in leaves((item,)))


def _alone(topic: str, side: Side, items: Items) -> Both:
    return tuple(Only(topic, item, side) for item in items)


def _everywhere(units: Sequence[Both]) -> Everywhere:
    """The attributes of ANYWHERE that change, and always from one value to one other."""
    found: dict[tuple[type[Kind], str], set[tuple[Any, Any, str]]] = {}

    def collect(both: Both) -> None:
        for pair in both:
            match pair:
                case Changed(leaf, attributes):
                    for name, old, new, topic in attributes:
                        for of, attribute in ANYWHERE:
                            if attribute == name and isinstance(leaf.kind, of):
                                found.setdefault((of, name), set()).add((old, new, topic))
                case Met(branches=branches):
                    for branch in branches:
                        collect(branch)
                case Unwrapped(branch=inner) | Apart(body=inner):
                    collect(inner)
                case _:
                    pass

    for unit in units:
        collect(unit)
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


def _shared(found: Alignment) -> float:
    """The share of convolutions and linear layers of the two that were paired."""
    paired = alone = 0

    def count(both: Both) -> None:
        nonlocal paired, alone
        for pair in both:
            match pair:
                case Kept(item):
                    paired += 2 * _weighted((item,))
                case Changed(leaf):
                    paired += 2 * _weighted((leaf,))
                case Only(_, item):
                    alone += _weighted((item,))
                case Met():
                    for branch in pair.branches:
                        count(branch)
                case Unwrapped(_, branch):
                    count(branch)
                case Apart(_, _, body):
                    count(body)

    for layer in found.layers:
        for topic, _, unit in layer.units:
            if topic is None:
                count(unit)
            elif topic != "depth":  # more blocks of a kind that both have are not foreign
                alone += sum(_weighted((pair.item,)) for pair in unit if isinstance(pair, Only))
    return paired / (paired + alone) if paired + alone else 1.0


def _weighted(items: Items) -> int:
    return sum(isinstance(leaf.kind, Conv | Linear) for leaf in leaves(items))
