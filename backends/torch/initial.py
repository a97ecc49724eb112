"""How a file initialises itself: the rule that most layers share is said once, and each exception by its class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rescompile.codegen.class_plan import Class, ClassPlan, Group, Item, Join, Layer, Run, Tap
from rescompile.ir import ops

from .spellings import norm_class

Rule = tuple[float | str | None, float | str | None]  # of weight and bias
_MODULES = {ops.Conv: "nn.Conv2d", ops.Linear: "nn.Linear"}
#: What torch does itself when it makes a module.
_OWN: dict[str, Rule] = {
    "nn.Conv2d": ("torch_default", "torch_default"),
    "nn.Linear": ("torch_default", "torch_default"),
    "nn.BatchNorm2d": (1.0, 0.0),
    "nn.BatchNorm1d": (1.0, 0.0),
    "nn.GroupNorm": (1.0, 0.0),
}


@dataclass(frozen=True)
class _Place:
    """A layer with weights: how its class reaches it, and whether it may be absent."""

    path: tuple[str, ...]
    module: str
    rule: Rule
    absent: bool


class Initial:
    """The rules of a network."""

    def __init__(self, plan: ClassPlan) -> None:
        self.places: list[tuple[Class, _Place]] = [
            (of, place) for of in plan.classes for place in _places(of.items, (), False)
        ]
        counts: dict[str, Counter[Rule]] = {}
        for of, place in self.places:
            # A layer without bias has nothing to say about biases.
            counts.setdefault(place.module, Counter())[place.rule] += of.count
        self.common: dict[str, Rule] = {}
        for module, counter in counts.items():
            weight = Counter({rule[0]: 0 for rule in counter})
            bias: Counter[float | str | None] = Counter()
            for rule, count in counter.items():
                weight[rule[0]] += count
                if rule[1] is not None:
                    bias[rule[1]] += count
            self.common[module] = (weight.most_common(1)[0][0], bias.most_common(1)[0][0] if bias else None)
        self.exceptions = [
            (of, place)
            for of, place in self.places
            if place.rule[0] != self.common[place.module][0]
            or place.rule[1] not in (None, self.common[place.module][1])
        ]

    def __bool__(self) -> bool:
        """Whether anything differs from what torch does itself."""
        return bool(self.exceptions) or any(
            list(_rule(module, rule, "m", True)) for module, rule in self.common.items()
        )

    def lines(self) -> Iterator[str]:
        """The function that gives a module its first weights; nothing where torch does it all itself."""
        if not self:
            return
        yield "def initialise(module: nn.Module) -> None:"
        yield '    """First weights, for `apply`: it visits the parts of a module before itself."""'
        yield "    if any(parameter.is_meta for parameter in module.parameters(recurse=False)):"
        yield "        return  # there is nothing to draw"
        word = "if"
        together: dict[tuple[str, ...], list[str]] = {}
        for module, rule in self.common.items():
            without_bias = any(place.rule[1] is None for _, place in self.places if place.module == module)
            # Where convolutions only have biases to set, which may be absent, linear layers are asked alike.
            alike = self.common.get("nn.Conv2d", (None, None))[0] == "torch_default" and module == "nn.Linear"
            together.setdefault(tuple(_rule(module, rule, "module", without_bias or alike)), []).append(module)
        for lines, modules in together.items():
            if lines:
                which = modules[0] if len(modules) == 1 else f"({', '.join(modules)})"
                yield from _indented(_guarded(f"{word} isinstance(module, {which})", lines))
                word = "elif"
        owners: dict[tuple[str, ...], list[str]] = {}
        for of in {id(of): of for of, _ in self.exceptions}.values():
            own = tuple(
                line
                for other, place in self.exceptions
                if other is of
                for line in _exception(place, self.common[place.module])
            )
            owners.setdefault(own, []).append(of.name)
        for own, names in owners.items():
            which = names[0] if len(names) == 1 else f"({', '.join(names)})"
            yield from _indented(_guarded(f"{word} isinstance(module, {which})", own))
            word = "elif"


def _indented(lines: Iterable[str]) -> Iterator[str]:
    yield from (f"    {line}" for line in lines)


def _guarded(condition: str, lines: Sequence[str]) -> Iterator[str]:
    """Lines under a condition; a condition that is all of them joins it."""
    first, *rest = lines
    if first.startswith("if ") and all(line.startswith("    ") for line in rest):
        yield f"{condition} and {first.removeprefix('if ')}"
        yield from rest
    else:
        yield f"{condition}:"
        yield from _indented(lines)


def _places(items: Sequence[Item], path: tuple[str, ...], absent: bool) -> Iterator[_Place]:
    for item in items:
        match item:
            case Layer():
                module = norm_class(item.sample) if item.kind is ops.Norm else _MODULES.get(item.kind)
                if module is not None:
                    kind: Any = item.sample.kind
                    if item.kind is ops.Norm:
                        rule: Rule = (float(kind.scale_init), 0.0)
                    else:
                        rule = (kind.init, kind.bias_init if kind.bias else None)
                    yield _Place((*path, item.name), module, rule, absent or item.when is not None)
            case Group() | Run():
                yield from _places(item.items, (*path, item.name), absent or item.when is not None)
            case Join():
                for branch in item.branches:
                    yield from _places(branch, path, absent)
            case Tap():
                yield from _places(item.items, path, absent)


def _rule(module: str, rule: Rule, target: str, maybe_no_bias: bool) -> Iterator[str]:
    """What makes a module of torch follow a rule."""
    own = _OWN[module]
    weight, bias = rule
    if weight != own[0]:
        yield _set(weight, f"{target}.weight")
    if bias is not None and bias != own[1]:
        if maybe_no_bias or module == "nn.Conv2d":  # whose bias is optional to a type checker
            yield f"if {target}.bias is not None:"
            yield f"    {_set(bias, f'{target}.bias')}"
        else:
            yield _set(bias, f"{target}.bias")


def _set(value: float | str | None, target: str) -> str:
    match value:
        case "he_normal_fan_out":
            return f'nn.init.kaiming_normal_({target}, mode="fan_out", nonlinearity="relu")'
        case "he_normal_fan_in":
            return f'nn.init.kaiming_normal_({target}, mode="fan_in", nonlinearity="relu")'
        case 0.0:
            return f"nn.init.zeros_({target})"
    return f"nn.init.constant_({target}, {float(value or 0.0)!r})"


def _exception(place: _Place, common: Rule) -> Iterator[str]:
    """One layer that follows a rule of its own; what it was given before is undone where torch's own rule is meant."""
    name = ".".join(place.path)
    if len(place.path) == 1 and name.isidentifier() and not place.absent:
        yield from _undone(place, common, f"module.{name}")
    else:  # a type checker does not know what it is, and it may not be there
        yield "for name, layer in module.named_modules():"
        yield from _indented(
            _guarded(f'if name == "{name}" and isinstance(layer, {place.module})', [*_undone(place, common, "layer")])
        )


def _undone(place: _Place, common: Rule, target: str) -> Iterator[str]:
    again = any(value == "torch_default" != other for value, other in zip(place.rule, common, strict=True))
    if again:
        yield f"{target}.reset_parameters()"
    for name, value, other in zip(("weight", "bias"), place.rule, common, strict=True):
        if value not in (None, "torch_default") and (again or value != other):
            line = _set(value, f"{target}.{name}")
            yield from (f"if {target}.bias is not None:", f"    {line}") if name == "bias" else (line,)
