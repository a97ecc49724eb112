"""`bench`: measures the latency of networks on each runtime."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rescompile.cli.command import command
from rescompile.cli.options import ForceOption, FormatOption, JsonOption, Passes, SetOption, option, words
from rescompile.cli.progress import Progress
from rescompile.cli.reporting import check_output, print_json, say, table
from rescompile.cli.specs import elaborated
from rescompile.diagnostics.errors import OutputError, UsageError, clipped, nearest
from rescompile.records import record

if TYPE_CHECKING:
    from rescompile.bench.benchmark import Bench
    from rescompile.bench.contenders import Request, TuneRequest


@record
class Options:
    """The options that only `bench` has."""

    runtime: str | None = option("Runtimes to measure, such as torch-cpu:compile. Default: ort-cpu,torch-cpu.")
    precision: str | None = option("Precisions to measure: fp32, tf32, fp16, bf16 or int8. Default: fp32.")
    batch: str = option("Batch sizes to measure, such as 1,8.", "1")
    compare: list[str] | None = option(
        "Measure a peer as well, such as torchvision:resnet50. Repeatable.", metavar="PEER"
    )
    variant: list[str] | None = option(
        "Measure the networks after a pass as well, such as form=a. Repeatable.", metavar="PASS"
    )
    output: str | None = option("Write all samples and facts to a JSON file.", None, "-o", "--output", metavar="FILE")
    plot: str | None = option("Draw latencies to a .svg or .png file (needs matplotlib).", metavar="FILE")
    rounds: int = option("Number of rounds; each contender gets one slot per round.", 30, min=5, max=100_000)
    sessions: int = option("Number of sessions; contenders are prepared again in each.", 1, min=1, max=1000)
    slot_ms: float = option(
        "Length of a slot in ms; each slot has at least one run.", 50.0, min=0.0, max=60_000.0, metavar="MS"
    )
    control: bool = option("Measure a second copy of the first contender, to estimate the noise.", False, "--control")
    baseline: str | None = option(
        "Baseline for speed-ups. Default: the first peer, or the first row.", metavar="MODEL@RUNTIME"
    )
    tune: bool = option("Search runtimes, precisions, layouts and threads for the fastest.", False, "--tune")
    accuracy: float | None = option(
        "With --tune, allow this error against float64. Default: 0.01.", min=0.0, metavar="ERROR"
    )
    profile: bool = option("Report the share of time spent in each row of the spec.", False, "--profile")
    threads: int | None = option("Use this many CPU threads. Default: the runtime's choice.", min=1, max=65_535)
    exporter: str = option("torch ONNX exporter for peers: legacy or dynamo.", "legacy")
    keep: str | None = option("Keep the measured ONNX files in this empty folder.", metavar="FOLDER")
    seed: int = option("Seed of weights, inputs and the order of slots.", 0, min=0)


@command
def bench(
    specs: Annotated[
        list[str],
        typer.Argument(metavar="SPEC...", help="Spec files (with a / or .yaml) or zoo names."),
    ],
    options: Options,
    set: SetOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
    format: FormatOption = "text",
    *,
    passes: Passes,
) -> None:
    """Measure the latency of networks on each runtime.

    Rounds are interleaved, and medians have confidence intervals.
    """
    from rescompile.bench import json_files, report
    from rescompile.bench.benchmark import Bench

    path, figure = _outputs(options, force)
    running = Bench(_request(specs, options, set or [], passes), say)
    if options.baseline is not None:
        report.check_baseline(options.baseline, running.titles())
    try:
        _follow(running)
    finally:
        result = running.result
        something = bool(result.rows or result.missing or result.tunings)
        if path is not None and something:
            json_files.write(result, path, force)
            say(f"{path}: {len(result.rows)} row{'' if len(result.rows) == 1 else 's'} written")
        if something and not as_json:
            print(report.markdown(result, options.baseline, table), end="")
    if as_json:
        print_json(dataclasses.asdict(result))
    if figure is not None and result.rows:
        from rescompile.bench import plots

        plots.draw(result, figure, force)
        say(f"{figure}: written")
    for problem in sorted(running.problems, key=lambda problem: -problem.exit_code):
        raise problem


def _follow(running: Bench) -> None:
    """Measure, and show the progress on a terminal."""
    with Progress(unit="steps") as progress, contextlib.closing(running.run()) as steps:  # closing it records its rows
        for step in steps:
            progress.at(step.done, step.total, step)


def _outputs(options: Options, force: bool) -> tuple[Path | None, Path | None]:
    """Return the files of the result and the figure. Raises an error if one cannot be written; called before measuring,
    which takes long."""
    from rescompile.files import plotting

    if options.output == "-":
        raise UsageError.of("E0802", "-o takes a file", help="--json writes the result to standard output")
    path = None if options.output is None else Path(options.output)
    if path is not None:
        check_output(path, force)
    if path is not None and options.plot is not None and path.resolve() == Path(options.plot).resolve():
        raise UsageError.of("E0802", f"-o and --plot both name {path}: the figure would replace the samples")
    return path, None if options.plot is None else plotting.checked(options.plot, force)


def _request(specs: Sequence[str], options: Options, settings: list[str], passes: dict[str, Any]) -> Request:
    """Return the request of a command line. Raises UsageError for invalid or conflicting options."""
    from rescompile.bench import peers, torch_modules
    from rescompile.bench.contenders import Request
    from rescompile.bench.measuring import Plan

    compared = words("compare", ",".join(options.compare)) if options.compare else []
    for text in compared:
        peers.parse(text)
    if options.exporter not in torch_modules.EXPORTERS:
        help = nearest(options.exporter, torch_modules.EXPORTERS) or "the exporters are legacy and dynamo"
        raise UsageError.of("E0802", f"unknown exporter '{options.exporter}'", help=help)
    networks = [elaborated(spec, settings)[1] for spec in specs]
    names = [network.name for network in networks]
    for name in names:
        if names.count(name) > 1:
            raise UsageError.of("E0802", f"two of the specs are named {name}, so their rows could not be distinguished")
    runtimes = [] if options.runtime is None else words("runtime", options.runtime)
    precisions = [] if options.precision is None else words("precision", options.precision)
    tune = _tune_request(dict(zip(names, specs, strict=True)), options, settings, passes)
    if tune is None:
        runtimes, precisions = runtimes or ["ort-cpu", "torch-cpu"], precisions or ["fp32"]
    return Request(
        networks,
        passes,
        compared,
        runtimes,
        precisions,
        _batches(options.batch),
        Plan(options.rounds, options.slot_ms / 1e3, seed=options.seed, sessions=options.sessions),
        control=options.control,
        profile=options.profile,
        threads=options.threads,
        exporter=options.exporter,
        keep=_folder(options.keep),
        command=["rescompile", *sys.argv[1:]],
        tune=tune,
        variants=_variants(options.variant or ()),
    )


def _tune_request(
    specs: Mapping[str, str], options: Options, settings: Sequence[str], passes: Mapping[str, Any]
) -> TuneRequest | None:
    """Return the search of --tune, or None; `specs` maps the names of networks to specs."""
    from rescompile.bench import tuning
    from rescompile.bench.contenders import TuneRequest

    accuracy = options.accuracy
    if accuracy is not None and not math.isfinite(accuracy):
        raise UsageError.of("E0802", f"--accuracy must be finite, but is {accuracy}")
    if not options.tune:
        if accuracy is not None:
            raise UsageError.of("E0802", "--accuracy needs --tune")
        return None
    if options.variant:
        raise UsageError.of("E0802", "--tune and --variant cannot be used together")
    if options.compare:
        help = "compare with the command that --tune recommends"
        raise UsageError.of("E0802", "--tune and --compare cannot be used together", help=help)
    given = [f"--set={text}" for text in settings] + _pass_options(passes)
    given += [f"--seed={options.seed}"] * (options.seed != 0)
    given += [f"--threads={options.threads}"] * (options.threads is not None)
    again = {name: ["rescompile", "bench", spec, *given] for name, spec in specs.items()}
    return TuneRequest(tuning.ACCURACY if accuracy is None else accuracy, again)


def _variants(given: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the passes of `form=a` and `fold-batchnorm`, by their text. Raises UsageError for an unknown pass."""
    from rescompile.passes import options

    for text in given:
        if given.count(text) > 1:
            raise UsageError.of("E0802", f"--variant {clipped(text)} is given twice")
    return {text: options([text], "--variant") for text in given}


def _pass_options(passes: Mapping[str, Any]) -> list[str]:
    """Return the options that enable passes, as typed."""
    from rescompile.passes import PASSES

    on = [step for step in PASSES if passes.get(step.keyword)]
    return [f"--{step.name}" + ("" if step.type is bool else f"={passes[step.keyword]}") for step in on]


def _folder(keep: str | None) -> Path | None:
    """Return the folder to keep files in. Raises OutputError if it does not exist or is not empty."""
    if keep is None:
        return None
    folder = Path(keep)
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise OutputError.of("E1002", f"--keep {folder} {what}")
    if any(folder.iterdir()):
        raise OutputError.of("E1001", f"--keep {folder} is not empty", help="name an empty folder")
    return folder


def _batches(text: str) -> list[int]:
    """Return the sizes in `1,8,32`. Raises UsageError for anything else."""
    sizes = words("batch", text)
    if not all(size.isascii() and size.isdecimal() and len(size) < 10 and 0 < int(size) <= 1 << 16 for size in sizes):
        raise UsageError.of("E0802", f"--batch {clipped(text)} must be sizes from 1 to 65536, such as --batch 1,8,32")
    return [int(size) for size in sizes]
