"""`paths`: computes the distribution of the paths of a network."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rescompile.cli.command import command
from rescompile.cli.options import (
    ForceOption,
    FormatOption,
    JsonOption,
    Passes,
    Selection,
    SetOption,
    SpecArgument,
    option,
)
from rescompile.cli.reporting import columns, print_json, say
from rescompile.cli.specs import elaborated
from rescompile.diagnostics.errors import CheckFailed, UsageError
from rescompile.diagnostics.text_table import text_table
from rescompile.records import record

if TYPE_CHECKING:
    from rescompile.analysis.paths import Paths, Surviving
    from rescompile.ir.network import Network
    from rescompile.runtimes.path_gradients import PathGradients
    from rescompile.weights import Array, Weights
    from rescompile.weights.checkpoints import WeightsFile


@record
class Options:
    """The options that only `paths` has."""

    unit: Literal["blocks", "layers"] = option(
        "What a path length counts: branches of blocks, or convolutions and linear layers.", "blocks"
    )
    interval: str | None = option("Report the share of paths with these lengths, inclusive.", metavar="FIRST:LAST")
    plot: str | None = option("Draw the distribution to a .svg or .png file (needs matplotlib).", metavar="FILE")
    gradients: bool = option("Measure the gradient along paths of each length (needs torch).", False, "--gradients")
    weights: str | None = option("Weights for --gradients. Default: random, norms calibrated.", metavar="FILE")
    data: str | None = option("Inputs for --gradients, a .npy file. Default: random normal.", metavar="FILE")
    labels: str | None = option("Classes of the inputs, a .npy file. Default: random.", metavar="FILE")
    samples: int | None = option("Number of paths to sample for each length. Default: 32.", min=1, max=1_000_000)
    seed: int | None = option("Seed of the random values for --gradients. Default: 0.", min=0)

    def measuring(self) -> dict[str, Any]:
        """Return the given options that apply only to a measurement."""
        values = {name: getattr(self, name) for name in ("weights", "data", "labels", "samples", "seed")}
        return {name: value for name, value in values.items() if value is not None}


@record
class Results:
    """The paths of a network: `surviving` with stochastic depth, `measured` with --gradients."""

    network: Network
    options: Options
    paths: Paths
    surviving: Surviving | None
    bounds: tuple[int, int] | None
    measured: PathGradients | None


@command
def paths(
    spec: SpecArgument,
    options: Options,
    selection: Selection,
    set: SetOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
    format: FormatOption = "text",
    *,
    passes: Passes,
) -> None:
    """Count the paths from input to output by their length."""
    from rescompile.analysis import path_views
    from rescompile.analysis import paths as counting
    from rescompile.passes import apply

    bounds = _interval(options.interval)
    if not options.gradients:
        for name in options.measuring():
            raise UsageError.of("E0802", f"--{name} needs --gradients")
    weights_file = selection.of(options.weights)
    file = None
    if options.plot is not None:
        from rescompile.files.plotting import checked

        file = checked(options.plot, force)
    if options.gradients:
        from rescompile.runtimes.path_gradients import torch_module

        torch_module()  # fails early if torch is missing
    _, network = elaborated(spec, set)
    weights: Weights | None = None
    arrays: list[Array | None] = []
    if options.gradients:
        files = {"data": options.data, "labels": options.labels}
        arrays = [None if name is None else _array(key, name) for key, name in files.items()]
        weights = _weights(network, weights_file, options.seed or 0)
    network, weights = apply(network, weights, passes)
    distribution = counting.paths(network, options.unit)
    if not distribution.total:
        message = f"{network.name} has no path from its input to its output: each one passes through 'scale: 0'"
        raise CheckFailed.of("E0603", message)
    surviving = counting.surviving(network, options.unit)
    measured = None if weights is None else _measured(network, weights, arrays, options)
    results = Results(network, options, distribution, surviving, bounds, measured)
    if file is not None:
        from rescompile.files.atomic_write import write_bytes

        drawn = path_views.figure(file.suffix, network.name, distribution, surviving, measured, bounds)
        write_bytes(drawn, file, force)
        say(f"{file}: written")
    if as_json:
        print_json(_data(results))
        return
    for row in _lines(results):
        print(row)


def _measured(network: Network, weights: Weights, arrays: Sequence[Array | None], options: Options) -> PathGradients:
    from rescompile.runtimes.path_gradients import SAMPLES, path_gradients

    samples, seed = options.samples or SAMPLES, options.seed or 0
    return path_gradients(network, weights, *arrays, unit=options.unit, samples=samples, seed=seed)


def _weights(network: Network, file: WeightsFile | None, seed: int) -> Weights:
    """Return the weights to measure with, before any pass."""
    if file is not None:
        from rescompile.weights import checkpoints

        return checkpoints.load(file, network, say)
    from rescompile.weights import draw
    from rescompile.weights.batch_statistics import calibrated

    return calibrated(network, draw(network, seed), seed)


def _array(option: str, name: str) -> Array:
    """Return the array of a .npy file; pickled objects are refused."""
    from rescompile.files import file_types
    from rescompile.weights import numpy_files

    file_types.check_file(name)
    try:
        return numpy_files.read(Path(name))
    except numpy_files.Unreadable as error:
        raise UsageError.of("E0801", f"--{option} {name}: {error}", help=error.help) from None


def _interval(text: str | None) -> tuple[int, int] | None:
    """Return the bounds of `19:35`. Raises UsageError for anything else."""
    if text is None:
        return None
    parts = text.split(":")
    if len(parts) != 2 or not all(part.isdecimal() and part.isascii() and len(part) < 10 for part in parts):
        raise UsageError.of("E0802", f"--interval {text}: write two lengths, such as --interval 19:35")
    first, last = map(int, parts)
    if first > last:
        raise UsageError.of(
            "E0802", f"--interval {text} is empty", help=f"write the smaller length first: {last}:{first}"
        )
    return first, last


# --- for people -------------------------------------------------------------------------------------------------------


def _lines(results: Results) -> Iterator[str]:
    from rescompile.analysis import path_views

    distribution, surviving, bounds, measured = results.paths, results.surviving, results.bounds, results.measured
    total, lengths = path_views.summary(distribution)
    yield f"{results.network.name}: {total}"
    yield lengths
    if bounds is not None:
        yield f"{path_views.percent(distribution.share(*bounds))} have length {bounds[0]} to {bounds[1]}"
    if surviving is not None:
        yield path_views.surviving_summary(surviving)
        if bounds is not None:
            share = path_views.percent(Fraction(surviving.share(*bounds)))
            yield f"  {share} of those have length {bounds[0]} to {bounds[1]}"
    if measured is not None:
        yield from _gradient_lines(measured, bounds, results.options)
    yield ""
    rows, rest = path_views.rows(distribution, measured)
    yield from text_table(rows, ">", columns())
    if rest:
        yield rest


def _gradient_lines(measured: PathGradients, bounds: tuple[int, int] | None, options: Options) -> Iterator[str]:
    """Yield the measurement, its data, and the lengths that carry the gradient."""
    from rescompile.analysis.path_views import percent

    weights = options.weights or "random weights with calibrated norms, not a trained network"
    data, labels = options.data or "noise", options.labels or "random labels"
    yield f"gradient of the loss at the input along {measured.samples} path{'' if measured.samples == 1 else 's'} of each length: {weights}; {data} and {labels}"
    if measured.effective is None:
        yield "  the gradient at the input is zero"
        return
    for first, last in dict.fromkeys([measured.effective, *([bounds] if bounds else [])]):
        share, of_paths = Fraction(measured.share(first, last)), measured.paths.share(first, last)
        yield (
            f"  {percent(share)} of it flows through paths of length {first} to {last} ({percent(of_paths)} of all paths)"
        )


# --- for machines -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _long_numbers() -> Iterator[None]:
    """Let integers of any length become text, which Python limits for the whole process because of hostile input."""
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        yield
    finally:
        sys.set_int_max_str_digits(limit)


@_long_numbers()
def _data(results: Results) -> dict[str, Any]:
    """Return the results as data; numbers of paths are text, since few JSON readers keep more than 53 bits."""
    network, options, distribution, surviving = results.network, results.options, results.paths, results.surviving
    bounds, measured, total = results.bounds, results.measured, distribution.total
    origin = {"weights": options.weights, "data": options.data, "labels": options.labels, "seed": options.seed or 0}
    shares = None if surviving is None else list(surviving.shares)
    return {
        "name": network.name, "sha256": network.sha256, "passes": list(network.passes), "unit": options.unit,
        "paths": str(total), "log2_paths": math.log2(total),
        "shortest": distribution.shortest, "longest": distribution.longest,
        "mean": float(distribution.mean), "standard_deviation": math.sqrt(distribution.variance),
        "distribution": [str(count) for count in distribution.counts],
        "interval": None if bounds is None else {
            "first": bounds[0], "last": bounds[1],
            "paths": str(distribution.within(*bounds)), "share": float(distribution.share(*bounds)),
        },
        "survival": None if surviving is None else {
            "residual_branches": surviving.branches, "log2_paths": surviving.log2_total, "mean": surviving.mean,
            "share_of_interval": None if bounds is None else surviving.share(*bounds), "distribution": shares,
        },
        "gradients": None if measured is None else {
            **origin, "samples": measured.samples, "effective": measured.effective,
            "share_of_interval": None if bounds is None else measured.share(*bounds),
            "magnitude": [None if along is None else along.mean for along in measured.magnitudes],
            "standard_error": [None if along is None else along.error for along in measured.magnitudes],
            "distribution": list(measured.shares),
        },
    }  # fmt: skip
