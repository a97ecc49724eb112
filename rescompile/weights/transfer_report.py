"""The result of a conversion or a transfer as lines of text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from rescompile.weights.adaptation import STATUSES, Line
from rescompile.weights.transfer import Transferred


def report(done: Transferred, limit: int = 40) -> Iterator[str]:
    """Yield the lines of the report. Tensors that are kept under their names are only counted."""
    kept = [line for line in done.lines if line.status == "kept" and line.source == line.name]
    if kept or not any(line.source for line in done.lines):
        yield f"kept     {_count(kept)}"
    yield from (f"widened  {number} tensors from {kind} to float32" for kind, number in done.widened.items())
    for (old, new), number in done.changed.items():
        places = "1 place" if number == 1 else f"{number} places"
        yield f"changed  {old or 'no block'} to {new or 'no block'} in {places}: ops with the same name and type keep their weights"
    listed = [line for line in done.lines if line.status != "kept" or line.source != line.name]
    counters = [line for line in listed if line.status == "new" and line.name.endswith(".num_batches_tracked")]
    if counters and len(counters) == sum(line.name.endswith(".num_batches_tracked") for line in done.lines):
        yield f"new      all {len(counters)} counters of norms (num_batches_tracked)"
        listed = [line for line in listed if line not in counters]
    names = [line.name for line in done.lines]
    rows = [row for status in STATUSES for row in _rows_of([line for line in listed if line.status == status], names)]
    every = [*done.left, *(line.source for line in done.lines if line.source)]
    rows += [f"unused   {scope}  {count}" for scope, count in _scopes(done.left, every)]
    yield from rows[:limit]
    if len(rows) > limit:
        yield f"and {len(rows) - limit} more lines (use --json for all)"


def _rows_of(lines: Sequence[Line], names: Sequence[str]) -> Iterator[str]:
    """Yield a row for each tensor with a remark, for each scope under another name, and for each other scope."""
    for (how, new, old), group in groupby(lines, lambda line: (line.how and (line.name, line.how), *_moved(line))):
        some = list(group)
        head = f"{some[0].status:<8} "
        if how:
            moved = f"from {some[0].source}" if old or new else ""
            yield f"{head}{some[0].name}  {', '.join(filter(None, (moved, some[0].how)))}"
        elif old or new:
            yield f"{head}{_all(new)}  from {_all(old)}, {_count(some)}"
        else:
            yield from (f"{head}{scope}  {count}" for scope, count in _scopes([line.name for line in some], names))


def _moved(line: Line) -> tuple[str, str]:
    """Return the scopes in which the name of a tensor and that of its source differ."""
    if line.source in (None, line.name):
        return "", ""
    new, old = line.name.split("."), str(line.source).split(".")
    while new and old and new[-1] == old[-1]:
        new, old = new[:-1], old[:-1]
    return ".".join(new), ".".join(old)


def _all(scope: str) -> str:
    return f"{scope}.*" if scope else "*"


def _scopes(names: Iterable[str], every: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield names grouped under the largest scopes that contain no other name of `every`, with their number."""
    names, others = list(names), {*every} - {*names}
    mixed = {prefix for name in others for prefix in _prefixes(name)}
    for scope, inside in groupby(names, lambda name: next((p for p in _prefixes(name) if p not in mixed), name)):
        yield scope if scope in names else f"{scope}.*", _count(list(inside))


def _prefixes(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts))]


def _count(some: Sequence[object]) -> str:
    return "1 tensor" if len(some) == 1 else f"{len(some)} tensors"
