"""Compares two result files: which rows became slower, and whether the difference exceeds the noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rescompile.bench import statistics
from rescompile.bench.results import BenchRow, Result
from rescompile.bench.statistics import Interval
from rescompile.diagnostics.errors import UsageError
from rescompile.diagnostics.notebook_views import NotebookView
from rescompile.records import record

#: The parts of two machine descriptions that must be equal for times to be comparable.
HARDWARE: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "CPU": lambda machine: (machine.get("processor") or {}).get("name"),
    "threads": lambda machine: (machine.get("processor") or {}).get("usable"),
    "GPU": lambda machine: [gpu.get("name") for gpu in machine.get("gpus") or []],
}


@record
class Change:
    """A row of both files: the ratio of its medians, new over old, and the verdict: slower, faster, or `~` if the intervals
    of the medians overlap."""

    old: BenchRow
    new: BenchRow
    ratio: Interval
    verdict: str

    def regressed(self, limit: float) -> bool:
        """Return whether the row is slower by more than `limit` (0.05 is 5%)."""
        return self.verdict == "slower" and self.ratio.value > 1 + limit


@record
class Comparison(NotebookView):
    """The rows that both files have, and the titles of those that only one has."""

    changes: Sequence[Change]
    gone: Sequence[str]
    added: Sequence[str]


def compare(old: Result, new: Result) -> Comparison:
    """Compare two results, row by row. Raises UsageError if they have no row in common, and Unavailable
    if SciPy is missing."""
    statistics.require()
    before = {row.key: row for row in old.rows}
    after = {row.key: row for row in new.rows}
    common = [key for key in before if key in after]
    if not common:
        message = f"the two files ({len(before)} and {len(after)} rows) have no rows in common"
        raise UsageError.of("E0821", message, help="measure the same networks, runtimes, precisions and batches")
    return Comparison(
        [_change(before[key], after[key]) for key in common],
        [row.title for key, row in before.items() if key not in after],
        [row.title for key, row in after.items() if key not in before],
    )


def _change(old: BenchRow, new: BenchRow) -> Change:
    first, second = statistics.median(old.times), statistics.median(new.times)
    ratio = statistics.unpaired_ratio(new.times, old.times)
    verdict = "~" if first.overlaps(second) else "slower" if ratio.value > 1 else "faster"
    return Change(old, new, ratio, verdict)


def differences(old: Result, new: Result) -> Iterator[str]:
    """Yield the differences between the hardware of two results, in words."""
    for name, fact in HARDWARE.items():
        first, second = fact(old.machine), fact(new.machine)
        if first != second:
            yield f"{name} {_short(first)} and {_short(second)}"


def notes(comparison: Comparison) -> Iterator[str]:
    """Yield the other differences between the rows of two results: library versions, threads, exporters of peers, specs,
    passes."""
    reported = set()
    for change in comparison.changes:
        for name in ("versions", "threads", "exporter", "exported_with"):
            first, second = change.old.facts.get(name), change.new.facts.get(name)
            sentence = f"{change.new.runtime}: {name.replace('_', ' ')} {_short(first)} became {_short(second)}"
            if first != second and sentence not in reported:
                reported.add(sentence)
                yield sentence
        if change.old.sha256 != change.new.sha256:
            yield f"{change.new.title}: the spec changed"
        if list(change.old.passes) != list(change.new.passes):
            was, now = (", ".join(row.passes) or "none" for row in (change.old, change.new))
            yield f"{change.new.title}: passes {was} became {now}"


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_short, value)) or "none"
    return "unknown" if value is None else str(value)


def limit(text: str) -> float:
    """Return the fraction that `5%` or `0.05` denotes. Raises UsageError for anything else."""
    digits, percent = text.strip().removesuffix("%"), text.strip().endswith("%")
    try:
        value = float(digits) / (100 if percent else 1)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise UsageError.of("E0802", f"--max-regression {text} must be a percentage or a fraction, such as 5% or 0.05")
    return value
