"""The figures of a result: latency by batch, and latency against multiply-adds and parameters."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rescompile.bench.results import BenchRow, Result
from rescompile.files import plotting
from rescompile.files.atomic_write import write_bytes
from rescompile.files.plotting import Axes, Line


def draw(result: Result, path: Path, force: bool = False) -> None:
    """Write the figure of a result: those of its three panels for which there are rows. A panel needs two batches or two
    networks; with neither, the figure shows latency at the only batch.

    Raises OutputError, and Unavailable if matplotlib is missing.
    """
    write_bytes(figure(result, path.suffix), path, force)


def figure(result: Result, suffix: str) -> bytes:
    """Return the figure of a result (see `draw`) as a file with this suffix. Raises Unavailable if matplotlib is missing."""
    panels = list(_by_size(result))
    if not panels or len({row.batch for row in result.rows}) > 1:
        panels = [_by_batch(result), *panels]
    return plotting.panels(panels, suffix)


def _by_batch(result: Result) -> Axes:
    lines = [_line(title, [(float(row.batch), row) for row in rows]) for title, rows in _series(result)]
    return Axes("latency by batch", "batch", "median latency, ms", lines, log=True)


def _by_size(result: Result) -> Iterator[Axes]:
    """Latency of several networks at the smallest batch, against their cost."""
    batch = min((row.batch for row in result.rows), default=1)
    rows = [row for row in result.rows if row.batch == batch]
    if len({row.model for row in rows}) < 2:
        return
    ways = list(dict.fromkeys((row.runtime, row.precision) for row in rows))
    for label, scale, count in (("multiply-adds, G", 1e9, "macs"), ("parameters, M", 1e6, "parameters")):
        lines = []
        for runtime, precision in ways:
            chosen = [row for row in rows if (row.runtime, row.precision) == (runtime, precision)]
            points = sorted(((getattr(row, count) / scale, row) for row in chosen), key=lambda point: point[0])
            lines.append(_line(f"{runtime} {precision}", points, joined=False))
        yield Axes(f"latency by {label.split(',')[0]}, batch {batch}", label, "median latency, ms", lines)


def _series(result: Result) -> list[tuple[str, list[BenchRow]]]:
    """Return the rows that differ only in their batch."""
    series: dict[tuple[str, str, str, str], list[BenchRow]] = {}
    for row in result.rows:
        series.setdefault((row.group, row.model, row.runtime, row.precision), []).append(row)
    return [
        (f"{model} {runtime} {precision}", sorted(rows, key=lambda row: row.batch))
        for (_, model, runtime, precision), rows in series.items()
    ]


def _line(label: str, points: list[tuple[float, BenchRow]], joined: bool = True) -> Line:
    """Return a line of medians in milliseconds, with their intervals as bars."""
    rows = [row for _, row in points]
    medians = [row.summary.median for row in rows]
    return Line(
        label,
        [x for x, _ in points],
        [1e3 * median.value for median in medians],
        [1e3 * (median.value - median.low) for median in medians],
        [1e3 * (median.high - median.value) for median in medians],
        joined,
    )
