"""What a document stands for: ops in lines, merges of lines, side branches. Made by `reading.py`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from op_rules import Made, Misfit, Shape


@dataclass(frozen=True)
class Leaf:
    """An op. Its name counts where it owns tensors."""

    name: str
    word: str
    made: Made
    input: Shape


@dataclass(frozen=True)
class Join:
    """A merge of branches."""

    merge: str
    branches: tuple[Line, ...]
    residual: bool = False
    split: bool = False
    sized: bool = False
    survival: tuple[float, str, str] | None = None


@dataclass(frozen=True)
class Tap:
    """A side branch."""

    mode: str
    output: str | None
    line: Line
    shape: Shape


@dataclass(frozen=True)
class Mark:
    """A value that is kept, the `number`-th of the network, or used: the one with this number."""

    word: str
    name: str
    index: int | None
    number: int
    shape: Shape


Line = tuple["Leaf | Join | Tap | Mark", ...]


def leaves(line: Line, computed: bool = False) -> Iterator[Leaf]:
    """All ops, in order; `computed` leaves out what evaluation does."""
    for part in line:
        if isinstance(part, Leaf):
            yield part
        elif isinstance(part, Join):
            for branch in part.branches:
                yield from leaves(branch, computed)
        elif isinstance(part, Tap) and (not computed or part.mode == "always"):
            yield from leaves(part.line, computed)


def taps_of(line: Line) -> Iterator[Tap]:
    """All side branches that are not in another one that is never computed."""
    for part in line:
        for inner in part.branches if isinstance(part, Join) else [part.line] if isinstance(part, Tap) else []:
            yield from taps_of(inner)
        if isinstance(part, Tap):
            yield part


def outermost(line: Line) -> int:
    """How many residuals a schedule counts."""
    counts = (1 if p.residual else sum(map(outermost, p.branches)) for p in line if isinstance(p, Join))
    return sum(counts)


def survived(line: Line, survival: Mapping[str, Any]) -> Line:
    """The line with the probability of each outermost residual."""
    count = outermost(line)
    if not count:
        raise Misfit("no residual")
    schedule, last = survival["schedule"], survival.get("last")
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
    given = iter(probabilities)

    def inside(line: Line) -> Line:
        found = []
        for part in line:
            if isinstance(part, Join) and part.residual:
                part = replace(part, survival=(next(given), survival["unit"], survival["rescale"]))
            elif isinstance(part, Join):
                part = replace(part, branches=tuple(map(inside, part.branches)))
            found.append(part)
        return tuple(found)

    return inside(line)
