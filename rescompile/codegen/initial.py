"""How a file initialises itself: the rule that most layers of a kind share once, and each exception by its class.

For frameworks that set the tensors of modules which exist already; others name a rule wherever they make a module.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from rescompile.codegen.class_plan import ClassPlan, Group, Item, Join, Layer, Run, Tap
from rescompile.ir import ops

Draw = float | str  # a constant, or the name of a distribution
OWN = "torch_default"  # the distribution of the framework that the names of the language are those of


class Rule(NamedTuple):
    """What the tensors of a layer are first; None for a bias that is not there."""

    weight: Draw
    bias: Draw | None


@dataclass(frozen=True)
class Set:
    """A tensor is set; with `optional`, where it is there at all."""

    target: str
    tensor: Literal["weight", "bias"]
    value: Draw
    optional: bool


@dataclass(frozen=True)
class Reset:
    """Both tensors are drawn as the framework does by itself."""

    target: str


@dataclass(frozen=True)
class Below:
    """What is done with a module inside that may be absent, or that a type checker does not know: found by its name."""

    name: str
    module: str
    settings: tuple[Set | Reset, ...]


Setting = Set | Reset | Below


@dataclass(frozen=True)
class Case:
    """What is done with modules of some classes."""

    modules: tuple[str, ...]
    settings: tuple[Setting, ...]


@dataclass(frozen=True)
class Modules:
    """The modules of a framework that own tensors: the class of a layer's, what each class does by itself, and those whose
    bias is optional to a type checker."""

    of: Callable[[Layer], str | None]
    own: Mapping[str, Rule]
    optional: frozenset[str]


@dataclass(frozen=True)
class _Place:
    """A layer with tensors: the class around it, how that reaches it, and whether it may be absent."""

    owner: str
    count: int
    path: tuple[str, ...]
    module: str
    rule: Rule
    absent: bool


def initialisation(plan: ClassPlan, modules: Modules) -> list[Case]:
    """What a network does to its modules when it is made, first those of the framework; nothing where that does it all."""
    places = [
        _Place(of.name, of.count, path, module, _rule(layer), absent)
        for of in plan.classes
        for path, layer, absent in _layers(of.items, (), False)
        if (module := modules.of(layer)) is not None
    ]
    common = _common(places)
    cases: dict[tuple[Setting, ...], list[str]] = {}
    for module, rule in common.items():
        without = any(place.rule.bias is None for place in places if place.module == module)
        # Where convolutions only have biases to set, which may be absent, linear layers are asked alike.
        alike = any(common[other].weight == OWN for other in modules.optional & common.keys())
        settings = tuple(_changes(rule, modules.own[module], "module", without or alike or module in modules.optional))
        cases.setdefault(settings, []).append(module)
    listed = [Case(tuple(names), settings) for settings, names in cases.items() if settings]
    exceptions: dict[str, list[Setting]] = {}
    for place in places:
        rule = common[place.module]
        if place.rule.weight != rule.weight or place.rule.bias not in (None, rule.bias):
            exceptions.setdefault(place.owner, []).extend(_exception(place, rule))
    owners: dict[tuple[Setting, ...], list[str]] = {}
    for owner, found in exceptions.items():
        owners.setdefault(tuple(found), []).append(owner)
    return [*listed, *(Case(tuple(names), settings) for settings, names in owners.items())]


def _rule(layer: Layer) -> Rule:
    """What the tensors of a layer are first."""
    kind: Any = layer.sample.kind
    return (
        Rule(float(kind.scale_init), 0.0)
        if layer.kind is ops.Norm
        else Rule(kind.init, kind.bias_init if kind.bias else None)
    )


def _layers(
    items: Sequence[Item], path: tuple[str, ...], absent: bool
) -> Iterator[tuple[tuple[str, ...], Layer, bool]]:
    """The layers in the body of a class, lists included: how the class reaches each, and whether it may be absent."""
    for item in items:
        match item:
            case Layer():
                yield (*path, item.name), item, absent or item.when is not None
            case Group() | Run():
                yield from _layers(item.items, (*path, item.name), absent or item.when is not None)
            case Join():
                for branch in item.branches:
                    yield from _layers(branch, path, absent)
            case Tap():
                yield from _layers(item.items, path, absent)


def _common(places: Sequence[_Place]) -> dict[str, Rule]:
    """The rule that most layers of each class of modules share; a layer without a bias has no say about biases."""
    weights: dict[str, Counter[Draw]] = {}
    biases: dict[str, Counter[Draw]] = {}
    for place in places:
        weights.setdefault(place.module, Counter())[place.rule.weight] += place.count
        if place.rule.bias is not None:
            biases.setdefault(place.module, Counter())[place.rule.bias] += place.count
    return {
        module: Rule(_most(found), _most(biases[module]) if module in biases else None)
        for module, found in weights.items()
    }


def _most(found: Counter[Draw]) -> Draw:
    return found.most_common(1)[0][0]


def _changes(rule: Rule, other: Rule, target: str, optional: bool, again: bool = False) -> Iterator[Set | Reset]:
    """What makes a module follow a rule that so far follows the other one; all of it where it is drawn `again`."""
    if rule.weight != OWN and (again or rule.weight != other.weight):
        yield Set(target, "weight", rule.weight, False)
    if rule.bias not in (None, OWN) and (again or rule.bias != other.bias):
        yield Set(target, "bias", rule.bias, optional)


def _exception(place: _Place, common: Rule) -> Iterator[Setting]:
    """One layer that follows a rule of its own."""
    name = ".".join(place.path)
    known = len(place.path) == 1 and name.isidentifier() and not place.absent
    target = f"module.{name}" if known else "layer"
    again = any(value == OWN != other for value, other in zip(place.rule, common, strict=True))
    settings = ([Reset(target)] if again else []) + [*_changes(place.rule, common, target, True, again)]
    if known:
        yield from settings
    else:
        yield Below(name, place.module, tuple(settings))
