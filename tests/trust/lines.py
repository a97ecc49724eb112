"""The result of the second reading: lines of ops, merges and side branches. `reading.py` builds them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import op_rules
from op_rules import Made, Misfit, Shape


@dataclass(frozen=True)
class Leaf:
    """An op. Its name counts only if it owns tensors."""

    name: str
    word: str
    made: Made
    input: Shape


@dataclass(frozen=True)
class Join:
    """A merge of branches."""

    merge: str
    branches: tuple[Line, ...]
    number: int  # of the merge in the network, the same where it runs again
    residual: bool = False
    split: bool | tuple[int, ...] = False
    survival: tuple[float, str, str] | None = None
    unit: str | None = None


@dataclass(frozen=True)
class Tap:
    """A side branch."""

    mode: str
    output: str | None
    line: Line
    shape: Shape

    @property
    def listed(self) -> tuple[bool, ...]:
        """The values of `computed` with which `leaves` includes the ops of the side branch."""
        return (False, True) if self.mode == "always" else (False,)


@dataclass(frozen=True)
class Mark:
    """A `keep` or `use` step; `number` counts the kept values of the network."""

    word: str
    name: str
    index: int | None
    number: int
    shape: Shape


@dataclass(frozen=True)
class Rerun:
    """A step that runs again, with its line refitted to the input here."""

    name: str
    line: Line
    listed = (True,)


Line = tuple["Leaf | Join | Tap | Mark | Rerun", ...]


def leaves(line: Line, computed: bool = False) -> Iterator[Leaf]:
    """Yield the ops in order: those that own tensors, each once, or with `computed` those of evaluation, as often as
    they run."""
    for part in line:
        if isinstance(part, Leaf):
            yield part
        elif isinstance(part, Join):
            for branch in part.branches:
                yield from leaves(branch, computed)
        elif isinstance(part, Tap | Rerun) and computed in part.listed:
            yield from leaves(part.line, computed)


def parts(line: Line) -> Iterator[Leaf | Join | Tap | Mark | Rerun]:
    """Yield all parts of a line and of its branches."""
    for part in line:
        yield part
        for inner in part.branches if isinstance(part, Join) else [part.line] if isinstance(part, Tap) else []:
            yield from parts(inner)


def joins(line: Line) -> Iterator[Join]:
    """Yield all merges of a line."""
    return (part for part in parts(line) if isinstance(part, Join))


def taps_of(line: Line, computed: bool = False) -> Iterator[Tap]:
    """Yield all side branches, innermost first; with `computed` only those of evaluation."""
    for part in line:
        if computed and isinstance(part, Tap) and part.mode != "always":
            continue
        for inner in part.branches if isinstance(part, Join) else [part.line] if isinstance(part, Tap) else []:
            yield from taps_of(inner, computed)
        if isinstance(part, Tap):
            yield part


def outermost(line: Line) -> Iterator[int]:
    """Yield the numbers of the outermost residuals, which a survival schedule counts."""
    for part in line:
        if isinstance(part, Join) and part.residual:
            yield part.number
        elif isinstance(part, Join):
            for branch in part.branches:
                yield from outermost(branch)


def survived(line: Line, survival: Mapping[str, Any]) -> Line:
    """Return the line with the survival probability of each outermost residual, also where it runs again."""
    numbers = list(outermost(line))
    if not numbers:
        raise Misfit("no residual")
    schedule, last, count = survival["schedule"], survival.get("last"), len(numbers)
    if isinstance(schedule, dict):
        probabilities = list(schedule["each"])
    elif schedule == "uniform":
        probabilities = [last] * count
    elif schedule == "linear":
        probabilities = [1 - (1 - last) * at / count for at in range(1, count + 1)]
    else:
        probabilities = [1 - (1 - last) * at / (count - 1) if at else 1 for at in range(count)]
    if len(probabilities) != count:
        raise Misfit("as many probabilities as residuals")
    given = dict(zip(numbers, probabilities, strict=True))

    def inside(line: Line) -> Line:
        found = []
        for part in line:
            if isinstance(part, Join):
                part = replace(part, branches=tuple(map(inside, part.branches)))
                if part.number in given:
                    part = replace(part, survival=(given[part.number], survival["unit"], survival["rescale"]))
            elif isinstance(part, Tap | Rerun):
                part = replace(part, line=inside(part.line))
            found.append(part)
        return tuple(found)

    return inside(line)


def shares(shape: Shape, split: bool | Sequence[int], count: int) -> list[Shape]:
    """Return the input shapes of `count` branches. Raises Misfit if the channels cannot be split in this way."""
    if not split:
        return [shape] * count
    widths = [shape[0] // count] * count if split is True else split
    if len(widths) != count or sum(widths) != shape[0] or min(widths) < 1:
        raise Misfit("ranges that are not all channels")
    return [(width, *shape[1:]) for width in widths]


def refitted(line: Line, shape: Shape, marks: Iterator[int], kept: dict[int, tuple[int, Shape]]) -> tuple[Line, Shape]:
    """Return the line on another input shape, where it runs again; parameters of its ops keep their shapes.

    `kept` maps the values that the line keeps itself to their new numbers and shapes. Raises Misfit if a tensor would
    have another shape, or if a value is kept outside of the line.
    """
    found: list[Any] = []
    for part in line:
        if isinstance(part, Leaf):
            made = op_rules.made(part.word, part.made.attributes, shape)
            if made.tensors != part.made.tensors:
                raise Misfit(f"{part.name} has other tensors")
            found.append(replace(part, made=made, input=shape))
            shape = made.output
        elif isinstance(part, Join):
            given = zip(part.branches, shares(shape, part.split, len(part.branches)), strict=True)
            branches, shapes = zip(*(refitted(branch, own, marks, dict(kept)) for branch, own in given), strict=True)
            found.append(replace(part, branches=branches))
            shape = op_rules.merged(part.merge, shapes)
        elif isinstance(part, Mark):
            if part.word == "keep":
                kept[part.number] = next(marks), shape
            if part.number not in kept:
                raise Misfit(f"{part.name} is a value of the steps around")
            number, shape = kept[part.number]
            found.append(replace(part, number=number, shape=shape))
        elif isinstance(part, Rerun):
            inner, shape = refitted(part.line, shape, marks, {})
            found.append(replace(part, line=inner))
    return tuple(found), shape
