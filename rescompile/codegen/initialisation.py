"""Class plan -> how a file initialises its modules: one rule for most layers of a type, and the exceptions.

For frameworks that set the tensors of existing modules; others pass an initialiser to each constructor.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from rescompile.codegen.class_plan import ClassPlan, Either, Group, Item, Layer, NumberedCopies, Run, body_items
from rescompile.ir.network import Op
from rescompile.ir.ops import Draw, Fill, Kind
from rescompile.records import record

OWN = Draw("torch_default")  # torch's default distribution


class Rule(NamedTuple):
    """The initial values of a layer's tensors; None for a missing bias."""

    weight: Fill
    bias: Fill | None


@record(slots=False)
class Set:
    """Sets a tensor; with `optional`, only if it exists."""

    target: str
    tensor: Literal["weight", "bias"]
    value: Fill
    optional: bool


@record(slots=False)
class Scale:
    """Multiplies the weights by a constant."""

    target: str
    factor: float


@record(slots=False)
class Reset:
    """Resets both tensors to the framework's own initial values."""

    target: str


@record(slots=False)
class Below:
    """Settings of an inner module, found by name because it may be absent, or untyped for a type checker."""

    name: str
    module: str
    settings: tuple[Set | Scale | Reset, ...]


Setting = Set | Scale | Reset | Below


@record(slots=False)
class Case:
    """Settings for all modules of some classes."""

    modules: tuple[str, ...]
    settings: tuple[Setting, ...]


@record(slots=False)
class Modules:
    """The modules of a framework that have tensors: the class of an op's module, the initial values that each class
    sets by itself, the classes whose bias is optional to a type checker, and whether a module can be reset to PyTorch's
    own values."""

    of: Mapping[type[Kind], Callable[[Op], str]]
    own: Mapping[str, Rule]
    optional: frozenset[str]
    resets: bool = True


@record(slots=False)
class _Place:
    """A layer with tensors: its class, its path in that class, and whether it may be absent."""

    owner: str
    count: int
    path: tuple[str, ...]
    module: str
    rule: Rule
    absent: bool


def initialisation(plan: ClassPlan, modules: Modules) -> list[Case]:
    """Return the cases of a network's initialisation, common ones first; empty if the framework's own values are
    right."""
    places = [
        _Place(of.name, of.count, path, modules.of[layer.kind](layer.sample), _rule(layer), absent)
        for of in plan.classes
        for path, layer, absent in _layers(of.items, (), False)
        if layer.kind in modules.of
    ]
    common = _common(places)
    listed: dict[str, list[Setting]] = {}
    for module, rule in common.items():
        without = any(place.rule.bias is None for place in places if place.module == module)
        # A case that convolutions with an optional bias share with linear layers checks both for a bias.
        alike = any(common[other].weight == OWN for other in modules.optional & common.keys())
        optional = without or alike or module in modules.optional
        listed[module] = [*_changes(rule, modules.own[module], "module", optional)]
    for place in places:
        rule = common[place.module]
        if place.rule.weight != rule.weight or place.rule.bias not in (None, rule.bias):
            listed.setdefault(place.owner, []).extend(_exception(place, rule, modules.resets))
    cases: dict[tuple[Setting, ...], list[str]] = {}
    for name, settings in listed.items():
        if settings:
            cases.setdefault(tuple(settings), []).append(name)
    return [Case(tuple(names), settings) for settings, names in cases.items()]


def _rule(layer: Layer) -> Rule:
    """Return the initial values of a layer's tensors."""
    fills = {parameter.name: parameter.fill for parameter in layer.sample.kind.parameters(layer.sample.input)}
    return Rule(fills["weight"], fills.get("bias"))


def _layers(
    items: Sequence[Item], path: tuple[str, ...], absent: bool
) -> Iterator[tuple[tuple[str, ...], Layer, bool]]:
    """Yield the layers in the body of a class with their paths, and whether they may be absent."""
    for item in body_items(items):
        match item:
            case Layer():
                yield (*path, item.name), item, absent or item.when is not None
            case Group() | Run():
                yield from _layers(item.items, (*path, item.name), absent or item.when is not None)
            case Either(_, _, then, otherwise):
                yield from _layers([then, otherwise], path, True)
            case NumberedCopies():
                for number in range(item.most):
                    yield from _layers(item.items, (*path, str(number)), True)


def _common(places: Sequence[_Place]) -> dict[str, Rule]:
    """Return the most common rule of each class of modules; layers without a bias do not count for biases."""
    weights: dict[str, Counter[Fill]] = {}
    biases: dict[str, Counter[Fill]] = {}
    for place in places:
        weights.setdefault(place.module, Counter())[place.rule.weight] += place.count
        if place.rule.bias is not None:
            biases.setdefault(place.module, Counter())[place.rule.bias] += place.count
    return {
        module: Rule(_most(found), _most(biases[module]) if module in biases else None)
        for module, found in weights.items()
    }


def _most(found: Counter[Fill]) -> Fill:
    return found.most_common(1)[0][0]


def _unscaled(fill: Fill) -> Fill:
    """Return the initial values before they are multiplied."""
    return Draw(fill.rule) if isinstance(fill, Draw) else fill


def _changes(rule: Rule, other: Rule, target: str, optional: bool) -> Iterator[Set | Scale]:
    """Yield the settings that turn values of the rule `other` into those of `rule`."""
    if rule.weight != other.weight:
        drawn = _unscaled(rule.weight)
        if drawn != other.weight:
            yield Set(target, "weight", drawn, False)
        if isinstance(rule.weight, Draw) and drawn != rule.weight:
            yield Scale(target, rule.weight.factor)
    if rule.bias not in (None, other.bias):
        yield Set(target, "bias", rule.bias, optional)


def _exception(place: _Place, common: Rule, resets: bool) -> Iterator[Setting]:
    """Yield the settings of one layer with an exceptional rule."""
    name = ".".join(place.path)
    known = len(place.path) == 1 and name.isidentifier() and not place.absent
    target = f"module.{name}" if known else "layer"
    again = resets and any(
        value and _unscaled(value) == OWN != other for value, other in zip(place.rule, common, strict=True)
    )
    before = Rule(OWN, OWN) if again else common
    settings = ([Reset(target)] if again else []) + [*_changes(place.rule, before, target, True)]
    if known:
        yield from settings
    else:
        yield Below(name, place.module, tuple(settings))
