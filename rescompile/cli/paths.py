"""`paths`: a network as the collection of its paths."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from enum import StrEnum
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rescompile.cli.common import (
    ForceOption,
    Format,
    FormatOption,
    JsonOption,
    SetOption,
    SpecArgument,
    command,
    elaborated,
    print_json,
    say,
    with_passes,
)  # fmt: skip
from rescompile.errors import Diagnostic, UsageError

if TYPE_CHECKING:
    from rescompile.network import Network
    from rescompile.paths import Paths, Surviving

#: A table shows the lengths of at least this share of all paths.
SHOWN = Fraction(1, 1000)
#: A number of more digits is shown as a power of ten.
DIGITS = 21


class LengthUnit(StrEnum):
    """What the length of a path counts."""

    blocks = "blocks"
    layers = "layers"


@with_passes
@command
def paths(
    spec: SpecArgument,
    unit: Annotated[
        LengthUnit,
        typer.Option(
            help="What the length counts: residual branches and branches of new features, or convolutions and linear layers."
        ),
    ] = LengthUnit.blocks,
    interval: Annotated[
        str | None, typer.Option(metavar="FIRST:LAST", help="Lengths, both included, whose share is told.")
    ] = None,
    plot: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Draw the distribution into a .svg or .png file (takes matplotlib)."),
    ] = None,
    set: SetOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
    format: FormatOption = Format.text,
    *,
    passes: dict[str, Any],
) -> None:
    """Count the paths from input to output by length: the unravelled view of residual networks."""
    from rescompile import paths as counting
    from rescompile.passes import apply

    bounds = _interval(interval)
    if plot is not None:
        from rescompile import plotting

        file = plotting.checked(plot, force)
    _, network = elaborated(spec, set)
    network, _ = apply(network, None, passes)
    found = counting.paths(network, unit.value)
    left = counting.surviving(network, unit.value)
    if plot is not None:
        plotting.histogram(
            file,
            plotting.Curve("all paths", [float(Fraction(count, found.total)) for count in found.counts]),
            None if left is None else plotting.Curve("expected in training", left.shares),
            bounds,
            f"{network.name}: {_count(found.total)} paths",
            (f"length in {_UNITS[unit]}", "share of paths"),
            force,
        )
        say(f"{file}: written")
    if as_json:
        print_json(_data(network, unit, found, left, bounds))
        return
    for line in _lines(network, unit, found, left, bounds):
        print(line)


_UNITS = {LengthUnit.blocks: "branches", LengthUnit.layers: "layers"}


def _interval(text: str | None) -> tuple[int, int] | None:
    """The bounds of `19:35`. Raises UsageError for anything else."""
    if text is None:
        return None
    parts = text.split(":")
    if len(parts) != 2 or not all(part.isdecimal() and part.isascii() and len(part) < 10 for part in parts):
        raise UsageError(Diagnostic("E0802", f"--interval {text}: write two lengths, such as --interval 19:35"))
    first, last = map(int, parts)
    if first > last:
        raise UsageError(
            Diagnostic("E0802", f"--interval {text} is empty", help=f"the smaller comes first: {last}:{first}")
        )
    return first, last


# --- for people -------------------------------------------------------------------------------------------------------


def _lines(
    network: Network, unit: LengthUnit, found: Paths, left: Surviving | None, bounds: tuple[int, int] | None
) -> Iterator[str]:
    total = found.total
    power = f" = 2^{total.bit_length() - 1}" if total > 2 and total & (total - 1) == 0 else ""
    yield f"{network.name}: {_count(total)} path{'s' if total > 1 else ''}{power}"
    yield f"length in {_UNITS[unit]}: {found.shortest} to {found.longest}, {_moments(found)}"
    if bounds is not None:
        yield f"{_percent(found.share(*bounds))} have length {bounds[0]} to {bounds[1]}"
    if left is not None:
        yield (
            f"in training {left.branches:.6g} residual branches and {_power(left.log2_total)} paths on average, "
            f"of mean length {left.mean:.6g}"
        )
        if bounds is not None:
            yield f"  {_percent(Fraction(left.share(*bounds)))} of those have length {bounds[0]} to {bounds[1]}"
    yield ""
    rows = [("length", "paths", "share")]
    for length, count in enumerate(found.counts):
        if count >= SHOWN * total:
            rows.append((str(length), _count(count), _percent(Fraction(count, total))))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        yield "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))
    shown = sum(count for count in found.counts if count >= SHOWN * total)
    if shown < total:
        yield f"and {_percent(Fraction(total - shown, total))} at lengths of less than {_percent(SHOWN)} each"


def _moments(found: Paths) -> str:
    return f"mean {float(found.mean):.6g}, standard deviation {math.sqrt(found.variance):.4g}"


def _count(number: int) -> str:
    """`18,014,398,509,481,984`, or `4.1495e180` where nobody would count the digits."""
    return f"{number:,}" if number < 10**DIGITS else _power(math.log2(number))


def _power(log2: float) -> str:
    """The number with this logarithm, as a power of ten where it is large."""
    log10 = log2 * math.log10(2)
    if log10 < 6:
        return f"{2**log2:.6g}"
    exponent = math.floor(log10)
    digits = f"{10 ** (log10 - exponent):.4f}"
    return f"1.0000e{exponent + 1}" if digits.startswith("10") else f"{digits}e{exponent}"


def _percent(share: Fraction) -> str:
    """With two decimals, and neither none nor all where it is not."""
    if 0 < share < Fraction(1, 20000):
        return "<0.01%"
    if 1 - Fraction(1, 20000) < share < 1:
        return ">99.99%"
    return f"{float(share):.2%}"


# --- for machines -----------------------------------------------------------------------------------------------------


def _data(
    network: Network, unit: LengthUnit, found: Paths, left: Surviving | None, bounds: tuple[int, int] | None
) -> dict[str, Any]:
    """Numbers of paths are text, since few readers of JSON keep more than 53 bits."""
    sys.set_int_max_str_digits(
        0
    )  # the text of an exact number may be long, and nothing that comes in is read after this
    total = found.total
    shares = None if left is None else list(left.shares)
    return {
        "name": network.name, "sha256": network.sha256, "passes": list(network.passes), "unit": unit.value,
        "paths": str(total), "log2_paths": math.log2(total),
        "shortest": found.shortest, "longest": found.longest,
        "mean": float(found.mean), "standard_deviation": math.sqrt(found.variance),
        "distribution": [str(count) for count in found.counts],
        "interval": None if bounds is None else {
            "first": bounds[0], "last": bounds[1],
            "paths": str(found.within(*bounds)), "share": float(found.share(*bounds)),
        },
        "survival": None if left is None else {
            "residual_branches": left.branches, "log2_paths": left.log2_total, "mean": left.mean,
            "share_of_interval": None if bounds is None else left.share(*bounds), "distribution": shares,
        },
    }  # fmt: skip
