"""`bench`: how long networks take on each runtime."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rescompile.cli.command import command
from rescompile.cli.options import (
    ForceOption,
    Format,
    FormatOption,
    JsonOption,
    SetOption,
    with_options,
    with_passes,
    words,
)
from rescompile.cli.progress import Progress
from rescompile.cli.reporting import print_json, say
from rescompile.cli.specs import elaborated
from rescompile.diagnostics.errors import Diagnostic, OutputError, UsageError, clipped, nearest

if TYPE_CHECKING:
    from rescompile.bench.contenders import Request, TuneRequest
    from rescompile.bench.running import Bench


@dataclass(frozen=True, slots=True)
class Options:
    """The options of `bench` that no other command has."""

    runtime: Annotated[
        str | None,
        typer.Option(
            help="What runs them, separated by commas, with options after a colon: ort-cpu,torch-cpu:compile. "
            "Default: ort-cpu,torch-cpu; with --tune all that are here."
        ),
    ] = None
    precision: Annotated[
        str | None,
        typer.Option(help="fp32, tf32, fp16, bf16 or int8, separated by commas. Default: fp32; with --tune all."),
    ] = None
    batch: Annotated[str, typer.Option(help="Sizes of the batch, separated by commas.")] = "1"
    compare: Annotated[
        list[str] | None,
        typer.Option(
            "--compare", metavar="PEER", help="A network to measure beside, such as torchvision:resnet50. Repeatable."
        ),
    ] = None
    beside: Annotated[
        list[str] | None,
        typer.Option(
            "--beside", metavar="PASS", help="Measure the same networks after another pass too: form=a. Repeatable."
        ),
    ] = None
    output: Annotated[
        str | None, typer.Option("-o", "--output", metavar="FILE", help="Write all samples and facts into a JSON file.")
    ] = None
    plot: Annotated[
        str | None, typer.Option(metavar="FILE", help="Draw latencies into a .svg or .png file (takes matplotlib).")
    ] = None
    rounds: Annotated[int, typer.Option(min=5, max=100_000, help="Rounds in which every contender has its turn.")] = 30
    sittings: Annotated[
        int,
        typer.Option(
            min=1, max=1000, help="Sittings of so many rounds, for each of which all contenders are prepared anew."
        ),
    ] = 1
    turn: Annotated[
        float,
        typer.Option(
            min=0.0, max=60_000.0, metavar="MS", help="A turn has at least one run, and as many as fill this."
        ),
    ] = 50.0
    control: Annotated[
        bool,
        typer.Option("--control", help="Measure the first contender twice: what differs between the two is noise."),
    ] = False
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL@RUNTIME", help="What speed-ups are over. Default: the first peer, or the first row."
        ),
    ] = None
    tune: Annotated[
        bool, typer.Option("--tune", help="Try runtimes, precisions, layouts and threads, and tell the fastest.")
    ] = False
    accuracy: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            metavar="ERROR",
            help="With --tune: the relative error against float64 that is allowed. Default: 0.01.",
        ),
    ] = None
    profile: Annotated[
        bool, typer.Option("--profile", help="Tell which rows of the spec take how much of the time.")
    ] = False
    threads: Annotated[
        int | None,
        typer.Option(min=1, max=65_535, help="Threads of the processor. Default: each runtime's own choice."),
    ] = None
    exporter: Annotated[
        str, typer.Option(help="How torch.onnx.export makes ONNX files of peers: legacy or dynamo.")
    ] = "legacy"
    keep: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Leave the ONNX files that were measured in this empty folder.")
    ] = None
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights, input and the order of turns.")] = 0


@with_passes
@with_options(Options)
@command
def bench(
    specs: Annotated[
        list[str],
        typer.Argument(metavar="SPEC...", help="Spec files (with a / or .yaml), or names of the zoo."),
    ],
    options: Options,
    set: SetOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
    format: FormatOption = Format.text,
    *,
    passes: dict[str, Any],
) -> None:
    """Measure networks on runtimes: interleaved rounds, intervals, and what was really run."""
    from rescompile.bench import documents, report
    from rescompile.bench.running import Bench

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
            documents.write(result, path, force)
            say(f"{path}: {len(result.rows)} row{'' if len(result.rows) == 1 else 's'} written")
        if something and not as_json:
            print(report.markdown(result, options.baseline), end="")
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
    with Progress() as progress, contextlib.closing(running.run()) as steps:  # which has its rows when it is closed
        for step in steps:
            progress.advance(text=step)


def _outputs(options: Options, force: bool) -> tuple[Path | None, Path | None]:
    """The files for the result and for the figure. Raises an error where one cannot be written: measuring takes long."""
    from rescompile.files import plotting
    from rescompile.files.output import check_folder, check_ours

    if options.output == "-":
        raise UsageError(Diagnostic("E0802", "-o names a file", help="--json writes the result to standard output"))
    path = None if options.output is None else Path(options.output)
    if path is not None:
        check_folder(path)
        check_ours(path, force)
    if path is not None and options.plot is not None and path.resolve() == Path(options.plot).resolve():
        message = f"-o and --plot both name {path}: the figure would take the place of the samples"
        raise UsageError(Diagnostic("E0802", message))
    return path, None if options.plot is None else plotting.checked(options.plot, force)


def _request(specs: Sequence[str], options: Options, settings: list[str], passes: dict[str, Any]) -> Request:
    """What the command line asks for. Raises UsageError for what cannot be."""
    from rescompile.bench import modules, peers
    from rescompile.bench.contenders import Request
    from rescompile.bench.measuring import Plan

    compared = words("compare", ",".join(options.compare)) if options.compare else []
    for text in compared:
        peers.parted(text)
    if options.exporter not in modules.EXPORTERS:
        help = nearest(options.exporter, modules.EXPORTERS) or "the exporters are legacy and dynamo"
        raise UsageError(Diagnostic("E0802", f"--exporter {options.exporter}: there is no such exporter", help=help))
    networks = [elaborated(spec, settings)[1] for spec in specs]
    names = [network.name for network in networks]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(Diagnostic("E0802", f"two of the specs are called {name}, and rows have that name"))
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
        Plan(options.rounds, options.turn / 1e3, seed=options.seed, sittings=options.sittings),
        control=options.control,
        profile=options.profile,
        threads=options.threads,
        exporter=options.exporter,
        keep=_folder(options.keep),
        command=["rescompile", *sys.argv[1:]],
        tune=tune,
        variants=_variants(options.beside or ()),
    )


def _tune_request(
    specs: Mapping[str, str], options: Options, settings: Sequence[str], passes: Mapping[str, Any]
) -> TuneRequest | None:
    """The search that --tune asks for; `specs` are by the names of their networks."""
    from rescompile.bench import tuning
    from rescompile.bench.contenders import TuneRequest

    accuracy = options.accuracy
    if accuracy is not None and not math.isfinite(accuracy):
        raise UsageError(Diagnostic("E0802", f"--accuracy is a finite error, and this is {accuracy}"))
    if not options.tune:
        if accuracy is not None:
            raise UsageError(Diagnostic("E0802", "--accuracy is that of --tune, which is not given"))
        return None
    if options.beside:
        raise UsageError(Diagnostic("E0802", "--tune looks for a way to run one network, and takes no --beside"))
    if options.compare:
        help = "measure a peer beside the way that --tune finds, in a command of its own"
        raise UsageError(Diagnostic("E0802", "--tune looks for a way to run a spec, and takes no --compare", help=help))
    given = [f"--set={text}" for text in settings] + _pass_options(passes)
    given += [f"--seed={options.seed}"] * (options.seed != 0)
    given += [f"--threads={options.threads}"] * (options.threads is not None)
    again = {name: ["rescompile", "bench", spec, *given] for name, spec in specs.items()}
    return TuneRequest(tuning.ACCURACY if accuracy is None else accuracy, again)


def _variants(given: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The passes of `form=a` and `fold-batchnorm`, by what was written. Raises UsageError for what is no pass."""
    from rescompile.passes import options

    for text in given:
        if given.count(text) > 1:
            raise UsageError(Diagnostic("E0802", f"--beside {clipped(text)} is given twice"))
    return {text: options([text], "--beside") for text in given}


def _pass_options(passes: Mapping[str, Any]) -> list[str]:
    """The options that turn passes on."""
    from rescompile.passes import PASSES

    on = [step for step in PASSES if passes.get(step.keyword)]
    return [f"--{step.name}" + ("" if step.type is bool else f"={passes[step.keyword]}") for step in on]


def _folder(keep: str | None) -> Path | None:
    """The folder to keep files in. Raises OutputError where there is none, or it has something in it."""
    if keep is None:
        return None
    folder = Path(keep)
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else "does not exist"
        raise OutputError(Diagnostic("E1002", f"--keep {folder} {what}"))
    if any(folder.iterdir()):
        raise OutputError(
            Diagnostic("E1001", f"the folder {folder} is not empty", help="name an empty folder with --keep")
        )
    return folder


def _batches(text: str) -> list[int]:
    """The sizes of `1,8,32`. Raises UsageError for anything else."""
    sizes = words("batch", text)
    if not all(size.isascii() and size.isdecimal() and len(size) < 10 and 0 < int(size) <= 1 << 16 for size in sizes):
        raise UsageError(
            Diagnostic("E0802", f"--batch {clipped(text)}: write sizes from 1 to 65536, such as --batch 1,8,32")
        )
    return [int(size) for size in sizes]
