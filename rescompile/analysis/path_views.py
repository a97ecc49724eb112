"""The paths of a network as people read them: their table by length, a histogram, and both in a notebook."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from html import escape
from typing import Protocol

from rescompile.analysis.paths import Paths, Surviving, Unit
from rescompile.diagnostics.errors import Unavailable
from rescompile.diagnostics.text_table import html_table

#: The table omits lengths with a smaller share of all paths.
SHOWN = Fraction(1, 1000)
#: A number with more digits is printed as a power of ten.
DIGITS = 21
#: What a path length counts, in each unit.
UNITS: dict[Unit, str] = {"blocks": "branches", "layers": "layers"}


class Along(Protocol):
    """The mean gradient along paths of one length, and its standard error; None for a single sample."""

    @property
    def mean(self) -> float: ...
    @property
    def error(self) -> float | None: ...


class Gradients(Protocol):
    """The gradient by length of path: see `rescompile.runtimes.path_gradients`."""

    @property
    def paths(self) -> Paths: ...
    @property
    def magnitudes(self) -> Sequence[Along | None]: ...
    @property
    def shares(self) -> Sequence[float]: ...
    @property
    def effective(self) -> tuple[int, int] | None: ...


def summary(paths: Paths) -> Iterator[str]:
    """Yield the number of paths, and the range of their lengths with its moments."""
    total = paths.total
    power_of_two = f" = 2^{total.bit_length() - 1}" if total > 2 and total & (total - 1) == 0 else ""
    yield f"{count(total)} path{'s' if total != 1 else ''}{power_of_two}"
    if total:
        moments = f"mean {float(paths.mean):.6g}, standard deviation {math.sqrt(paths.variance):.4g}"
        yield f"length in {UNITS[paths.unit]}: {paths.shortest} to {paths.longest}, {moments}"


def surviving_summary(surviving: Surviving) -> str:
    """Return the expected numbers of branches and paths, and the mean length, in training."""
    return (
        f"in training {surviving.branches:.6g} residual branches and {power(surviving.log2_total)} paths on average, "
        f"of mean length {surviving.mean:.6g}"
    )


def rows(paths: Paths, gradients: Gradients | None = None) -> tuple[list[tuple[str, ...]], str | None]:
    """Return a row for each length with a share of at least SHOWN, below a head, and a line about the other lengths."""
    total, omitted = paths.total, 0
    shown: list[tuple[str, ...]] = [("length", "paths", "share")]
    if gradients is not None:
        shown = [(*shown[0], "gradient per path", "standard error", "share of gradient")]
    for length, number in enumerate(paths.counts):
        of_gradient = gradients.shares[length] if gradients is not None else 0
        if number < SHOWN * total and of_gradient < SHOWN:
            omitted += number
            continue
        along = gradients.magnitudes[length] if gradients is not None else None
        more = (f"{along.mean:.3e}", _error(along.error), percent(Fraction(of_gradient))) if along else ()
        shown.append((str(length), count(number), percent(Fraction(number, total)), *more))
    if not omitted:
        return shown, None
    share = percent(Fraction(omitted, total))
    return shown, f"the other {share} are at lengths with less than {percent(SHOWN)} each"


def figure(
    suffix: str, name: str, paths: Paths, surviving: Surviving | None = None, gradients: Gradients | None = None,
    marked: tuple[int, int] | None = None,
) -> bytes:  # fmt: skip
    """Return the histogram of the lengths as a file with this suffix, or that of the gradient with the lengths as a line. The
    lengths expected in training are a line too. Raises Unavailable if matplotlib is not installed."""
    from rescompile.files.plotting import Curve, histogram

    bars, line, what = Curve("all paths", [float(Fraction(each, paths.total)) for each in paths.counts]), None, "paths"
    if gradients is not None:
        bars, line, what = Curve("gradient", gradients.shares), bars, "the gradient"
        marked = marked or gradients.effective
    elif surviving is not None:
        line = Curve("expected in training", surviving.shares)
    title = ": ".join(filter(None, (name, f"{count(paths.total)} paths")))
    return histogram(suffix, bars, line, marked, title, (f"length in {UNITS[paths.unit]}", f"share of {what}"))


def paths_html(paths: Paths, gradients: Gradients | None = None) -> str:
    """Return what a notebook shows of paths or of the gradient along them: a histogram, if matplotlib is installed, a summary
    and a table."""
    lines = list(summary(paths))
    if not paths.total:
        return _text(lines)
    try:
        svg = figure(".svg", "", paths, gradients=gradients).decode()
        drawn = svg[svg.index("<svg") :]
    except Unavailable:  # the table is complete without it
        drawn = ""
    shown, rest = rows(paths, gradients)
    return f"{drawn}{_text(lines)}{html_table(shown, '>')}{_text([rest] if rest else [])}"


def surviving_html(surviving: Surviving) -> str:
    """Return what a notebook shows of the paths expected in training: a summary and a table."""
    shown = [(str(length), percent(Fraction(share))) for length, share in enumerate(surviving.shares) if share >= SHOWN]
    return f"{_text([surviving_summary(surviving)])}{html_table([('length', 'share'), *shown], '>')}"


def _text(lines: Sequence[str]) -> str:
    """Return a paragraph for each line."""
    return "".join(f"<p>{escape(line)}</p>" for line in lines)


def _error(error: float | None) -> str:
    return "unknown" if error is None else f"{error:.1e}"


def count(number: int) -> str:
    """Return `18,014,398,509,481,984`, or `4.1495e180` for more than DIGITS digits."""
    return f"{number:,}" if number < 10**DIGITS else power(math.log2(number))


def power(log2: float) -> str:
    """Return the number with this logarithm, as a power of ten where it is large."""
    log10 = log2 * math.log10(2)
    if log10 < 6:
        return f"{2**log2:.6g}"
    exponent = math.floor(log10)
    digits = f"{10 ** (log10 - exponent):.4f}"
    return f"1.0000e{exponent + 1}" if digits.startswith("10") else f"{digits}e{exponent}"


def percent(share: Fraction) -> str:
    """Return a percentage with two decimals, never rounded to 0% or 100%."""
    if 0 < share < Fraction(1, 20000):
        return "<0.01%"
    if 1 - Fraction(1, 20000) < share < 1:
        return ">99.99%"
    return f"{float(share):.2%}"
