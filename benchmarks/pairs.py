"""Shared by the run-time benchmarks: interleaved timing, intervals of ratios, rows with verdicts, and the report.

Contenders are timed in one process, in an order that changes from round to round, so that drift (clock speed,
other processes, caches) affects all of them. One of them is a control: a second copy of a contender, so that any
difference from 1 is noise. A ratio is undecided if its control is poor or its interval contains the bound. torch
gets one thread, since with one thread per core all of them wait whenever another process takes one core. The CPU
time of one thread is its wall time on an idle machine; on a busy one it excludes the time of other processes.
"""

from __future__ import annotations

import argparse
import gc
import operator
import os
import random
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from compile import say, write

MIB = 2**20
LEAST_PAIRS = 30
LEAST_ROUNDS = 5
RESAMPLES = 4000
WORST_CONTROL = 0.02  # the largest half-width of a control, and its largest distance from 1

Times = dict[str, list[float]]
Clock = Callable[[], float]
Statistic = Callable[[Sequence[float], Sequence[float]], float]

SIGNS: Mapping[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}


# --- measuring


def interleave(
    contenders: Mapping[str, Callable[[], object]], rounds: int, label: str, clock: Clock, warm_up: int = 2
) -> Times:
    """Return the seconds of every call: each round calls all contenders once, in a random order, and the next round
    in reverse."""
    order = list(contenders)
    draw = random.Random(0)
    times: Times = {name: [] for name in order}
    say(f"{label}: {rounds} rounds of {', '.join(order)}")
    gc.disable()  # as timeit does; garbage is collected between rounds
    try:
        for turn in range(-warm_up, rounds):
            gc.collect()
            order = order[::-1] if turn % 2 else draw.sample(order, len(order))
            for name in order:
                start = clock()
                contenders[name]()
                elapsed = clock() - start
                if turn >= 0:
                    times[name].append(elapsed)
    finally:
        gc.enable()
    return times


def median_of_ratios(ours: Sequence[float], base: Sequence[float]) -> float:
    """Return the median of the ratios, for calls of equal work: robust against processes that slow down some rounds."""
    return statistics.median(map(operator.truediv, ours, base))


def ratio_of_means(ours: Sequence[float], base: Sequence[float]) -> float:
    """Return the ratio of the means, for calls whose work is random: the mean is what training costs."""
    return sum(ours) / sum(base)


@dataclass(frozen=True)
class Interval:
    """A ratio and its 95% bootstrap interval over rounds."""

    value: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2

    @property
    def good(self) -> bool:
        """Whether this control is precise enough for a verdict."""
        return self.half_width <= WORST_CONTROL and abs(self.value - 1) <= WORST_CONTROL


def interval(ours: Sequence[float], base: Sequence[float], statistic: Statistic = median_of_ratios) -> Interval:
    """Return the bootstrap interval of a statistic; resampling keeps both times of a round together."""
    draw = random.Random(0)
    pairs = list(zip(ours, base, strict=True))
    values = sorted(
        statistic(*zip(*draw.choices(pairs, k=len(pairs)), strict=True))
        for _ in range(RESAMPLES if len(pairs) > 1 else 1)
    )
    low, high = (values[round(share * (len(values) - 1))] for share in (0.025, 0.975))
    return Interval(statistic(ours, base), low, high)


# --- rows


@dataclass(frozen=True)
class Row:
    """A row of the table of promises; a row without a bound is shown and promises nothing."""

    promise: str
    measured: float | None
    sign: str = "<="
    bound: float | None = None
    unit: str = "x"
    interval: Interval | None = None
    control: Interval | None = None
    verdict: str = "shown"


def exact(promise: str, measured: float, bound: float | None = None, sign: str = "<=", unit: str = "x") -> Row:
    """Return the row of a figure that is counted or has no control."""
    kept = bound is None or SIGNS[sign](measured, bound)
    return Row(promise, measured, sign, bound, unit, verdict="shown" if bound is None else "ok" if kept else "MISSED")


def timed(
    promise: str,
    times: Times,
    ours: str,
    base: str,
    control: tuple[str, str],
    bound: float | None = None,
    *,
    sign: str = "<=",
    slack: float = 1.0,
    statistic: Statistic = median_of_ratios,
) -> Row:
    """Return the row of a ratio of times, whose bound is widened by `slack` half-widths of the control."""
    found = interval(times[ours], times[base], statistic)
    noise = interval(times[control[0]], times[control[1]], statistic)
    row = Row(promise, found.value, sign, bound, "x", found, noise)
    if bound is None:
        return row
    more = slack * noise.half_width
    return judged(row, bound - more if sign == ">=" else bound + more)


def judged(row: Row, limit: float) -> Row:
    """Return a row with its verdict: kept if its whole interval is on the right side of a limit, missed if all of it
    is beyond, and undecided if it contains the limit or the control is poor."""
    assert row.interval is not None
    if row.control is not None and not row.control.good:
        return replace(row, verdict="UNDECIDED")
    ends = row.interval.low, row.interval.high
    near, far = ends if row.sign in ("<=", "<") else ends[::-1]
    keeps = SIGNS[row.sign]
    verdict = "ok" if keeps(far, limit) else "UNDECIDED" if keeps(near, limit) else "MISSED"
    return replace(row, bound=limit, verdict=verdict)


def unmeasured(promise: str, why: str) -> Row:
    """Return the row of a promise that could not be measured."""
    return Row(promise, None, verdict=why)


def lacking(packages: Iterable[str], promises: Iterable[str]) -> list[Row]:
    """Return the rows of promises that cannot be measured since one of the packages is missing; none if it is not."""
    missing = next((package for package in packages if find_spec(package) is None), None)
    return [] if missing is None else [unmeasured(promise, f"not measured: no {missing}") for promise in promises]


# --- reporting


def arguments(description: str, pairs: int, sessions: int | None = None, parts: bool = True) -> argparse.Namespace:
    """Parse the command line of these benchmarks, with `--sessions` if a default is given, and `--only` if the
    benchmark has `parts`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=pairs, metavar="N", help=f"rounds of a timing ({pairs})")
    if sessions is not None:
        more = f"sessions, for each of which all contenders are prepared again ({sessions})"
        parser.add_argument("--sessions", type=int, default=sessions, metavar="N", help=more)
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads of torch (1)")
    parser.add_argument(
        "--cpu-time", action="store_true", help="measure CPU time instead of wall time, for busy machines"
    )
    if parts:
        parser.add_argument(
            "--only", action="append", metavar="TEXT", help="run only measurements with TEXT in their name"
        )
    parser.add_argument("--quick", action="store_true", help="check that everything runs: few rounds, no verdicts")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples and the machine to FILE")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)  # run as a measured process
    options = parser.parse_args()
    options.clock = time.process_time if options.cpu_time else time.perf_counter
    if options.pairs < LEAST_PAIRS:
        parser.error(f"an interval needs at least {LEAST_PAIRS} pairs (--quick only checks that everything runs)")
    if sessions is not None and not 1 <= options.sessions <= options.pairs // LEAST_ROUNDS:
        parser.error(f"a session needs at least {LEAST_ROUNDS} rounds")
    if options.threads < 1 or (options.cpu_time and options.threads > 1):
        parser.error("--threads must be at least 1, and 1 with --cpu-time, which sums over threads")
    if options.quick:
        options.pairs, options.sessions = 2, 1
    return options


def time_table(samples: Mapping[str, Times]) -> str:
    """Return the table of times, one line per contender."""
    lines = [f"{'timing':<58}{'rounds':>7}{'median':>12}{'mean':>12}{'lowest':>12}{'highest':>12}"]
    for label, times in samples.items():
        for name, row in times.items():
            values = (statistics.median(row), statistics.mean(row), min(row), max(row))
            lines.append(f"{f'{label}: {name}':<58}{len(row):>7}{''.join(f'{1e3 * v:>9.1f} ms' for v in values)}")
    return "\n".join(lines)


def promise_table(rows: Sequence[Row]) -> str:
    """Return the table of promises, one line each, with the 95% intervals of the figure and its control."""
    lines = [f"{'promise':<66}{'measured':>13}{'interval':>15}{'control':>15}{'bound':>15}  verdict"]
    for row in rows:
        measured = "-" if row.measured is None else f"{row.measured:.3f}{row.unit}"
        spans = [f"{i.low:.3f}-{i.high:.3f}" if i else "" for i in (row.interval, row.control)]
        bound = "" if row.bound is None else f"{row.sign} {row.bound:.4g}{row.unit}"
        lines.append(f"{row.promise:<66}{measured:>13}{spans[0]:>15}{spans[1]:>15}{bound:>15}  {row.verdict}")
    return "\n".join(lines)


def record(
    options: argparse.Namespace, described: dict[str, Any], samples: Mapping[str, Times], rows: Sequence[Row]
) -> None:
    """Write the JSON file, if requested."""
    if not options.json:
        return
    recorded = ("pairs", "sessions", "threads", "cpu_time", "quick", "only")
    made = {
        "machine": {**described, "load_average_after": list(os.getloadavg())},
        "options": {key: getattr(options, key) for key in recorded if hasattr(options, key)},
        "promises": [asdict(row) for row in rows],
        "seconds": samples,
    }
    write(options.json, made)


def report(
    options: argparse.Namespace, described: dict[str, Any], samples: Mapping[str, Times], rows: list[Row]
) -> int:
    """Print both tables, write the JSON file, and return 1 for a missed promise, 4 for an undecided one, else 0."""
    if options.quick:
        rows = [row if row.measured is None else replace(row, verdict="not judged") for row in rows]
    print(time_table(samples), promise_table(rows), sep="\n\n")
    record(options, described, samples, rows)
    if any(row.verdict == "MISSED" for row in rows):
        return 1
    return 0 if {row.verdict for row in rows} <= {"ok", "shown", "not judged", "same program", "no AMX"} else 4
