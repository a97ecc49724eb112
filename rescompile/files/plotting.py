"""Figures drawn by matplotlib; the same figure gives the same bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rescompile.diagnostics.errors import Unavailable, UsageError
from rescompile.files.atomic_write import check_folder, check_ours
from rescompile.files.checksum import GENERATOR
from rescompile.records import record

#: The metadata of each format: it identifies figures that rescompile wrote, and omits matplotlib's date, so that the same
#: figure gives the same bytes.
METADATA = {".svg": {"Date": None, "Description": GENERATOR}, ".png": {"Software": None, "Description": GENERATOR}}


@record
class Curve:
    """Values at 0, 1, 2, ... with their label."""

    label: str
    values: Sequence[float]


@record
class Line:
    """Points with error bars below and above, joined by a line or not."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    below: Sequence[float]
    above: Sequence[float]
    joined: bool = True


@record
class Axes:
    """One panel of a figure: lines over labelled axes. With `log`, x is on a scale of powers of two and y of ten."""

    title: str
    x: str
    y: str
    lines: Sequence[Line]
    log: bool = False


def checked(name: str, force: bool) -> Path:
    """Return the path of a figure that can be written. Raises UsageError, OutputError or Unavailable if it cannot."""
    path = Path(name)
    if path.suffix not in METADATA:
        raise UsageError.of("E0802", f"--plot {name} must end in .svg or .png")
    check_folder(path)
    check_ours(path, force)
    matplotlib_or_error()
    return path


def histogram(
    suffix: str, bars: Curve, line: Curve | None, marked: tuple[int, int] | None, title: str, axes: tuple[str, str]
) -> bytes:
    """Return a histogram with a line over it as a file with this suffix; the bars of the interval `marked` have another colour.

    Raises Unavailable if matplotlib is not installed.
    """
    matplotlib = matplotlib_or_error()
    from matplotlib.figure import Figure  # not pyplot, which needs a display and global state

    with matplotlib.rc_context(_context(title)):
        figure = Figure(figsize=(7, 4), layout="constrained")
        plot: Any = figure.add_subplot()
        low, high = marked or (0, -1)
        colours = ["#d1603d" if low <= at <= high else "#5b7c99" for at in range(len(bars.values))]
        plot.bar(range(len(bars.values)), bars.values, color=colours, width=0.9, label=bars.label)
        if line is not None:
            plot.plot(range(len(line.values)), line.values, color="#222222", linewidth=1.5, label=line.label)
            plot.legend(frameon=False)
        plot.set(title=title, xlabel=axes[0], ylabel=axes[1])
        plot.spines[["top", "right"]].set_visible(False)
        plot.xaxis.get_major_locator().set_params(integer=True)
        return _bytes(figure, suffix)


def panels(axes: Sequence[Axes], suffix: str) -> bytes:
    """Return a figure of adjacent panels as a file with this suffix. Raises Unavailable if matplotlib is not installed."""
    matplotlib = matplotlib_or_error()
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_context(axes[0].title)):
        figure = Figure(figsize=(1 + 5.5 * len(axes), 4.5), layout="constrained")
        for at, panel in enumerate(axes, 1):
            plot: Any = figure.add_subplot(1, len(axes), at)
            for line in panel.lines:
                plot.errorbar(
                    line.x, line.y, yerr=[line.below, line.above], label=line.label, marker="o", markersize=4, capsize=3,
                    linewidth=1.5 if line.joined else 0, elinewidth=1,
                )  # fmt: skip
            if panel.log:
                plot.set_xscale("log", base=2)
                plot.set_yscale("log")
                ticks = sorted({x for line in panel.lines for x in line.x})
                plot.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            plot.set(title=panel.title, xlabel=panel.x, ylabel=panel.y)
            plot.spines[["top", "right"]].set_visible(False)
            plot.legend(frameon=False, fontsize="small")
        return _bytes(figure, suffix)


def _context(title: str) -> dict[str, Any]:
    """Return matplotlib settings under which the same figure gives the same bytes, and text remains text."""
    return {"svg.hashsalt": title, "svg.fonttype": "none"}


def _bytes(figure: Any, suffix: str) -> bytes:
    """Return a figure as a file with this suffix."""
    stream = io.BytesIO()
    figure.savefig(stream, format=suffix[1:], dpi=150, metadata=METADATA[suffix])
    return stream.getvalue()


def matplotlib_or_error() -> Any:
    """Return the module matplotlib. Raises Unavailable if it is missing."""
    try:
        import matplotlib
    except ImportError as error:
        message = f"figures need matplotlib, which cannot be loaded: {error}"
        raise Unavailable.of("E0902", message, help="pip install 'rescompile[plot]'") from None
    return matplotlib
