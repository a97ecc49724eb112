"""`bench`: how long networks take on each runtime."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rescompile.cli.command import command
from rescompile.cli.options import ForceOption, Format, FormatOption, JsonOption, SetOption, with_passes, words
from rescompile.cli.progress import Progress
from rescompile.cli.reporting import print_json, say
from rescompile.cli.specs import elaborated
from rescompile.diagnostics.errors import Diagnostic, OutputError, UsageError, clipped, nearest, one_of

if TYPE_CHECKING:
    from rescompile.bench.running import Bench


@with_passes
@command
def bench(
    specs: Annotated[
        list[str],
        typer.Argument(metavar="SPEC...", help="Spec files (with a / or .yaml), or names of the zoo."),
    ],
    runtime: Annotated[
        str | None,
        typer.Option(
            help="What runs them, separated by commas, with options after a colon: ort-cpu,torch-cpu:compile. "
            "Default: ort-cpu,torch-cpu; with --tune all that are here."
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="fp32, tf32, fp16, bf16 or int8, separated by commas. Default: fp32; with --tune all."),
    ] = None,
    batch: Annotated[str, typer.Option(help="Sizes of the batch, separated by commas.")] = "1",
    compare: Annotated[
        list[str] | None,
        typer.Option(
            "--compare", metavar="PEER", help="A network to measure beside, such as torchvision:resnet50. Repeatable."
        ),
    ] = None,
    beside: Annotated[
        list[str] | None,
        typer.Option(
            "--beside", metavar="PASS", help="Measure the same networks after another pass too: form=a. Repeatable."
        ),
    ] = None,
    output: Annotated[
        str | None, typer.Option("-o", "--output", metavar="FILE", help="Write all samples and facts into a JSON file.")
    ] = None,
    plot: Annotated[
        str | None, typer.Option(metavar="FILE", help="Draw latencies into a .svg or .png file (takes matplotlib).")
    ] = None,
    rounds: Annotated[int, typer.Option(min=5, max=100_000, help="Rounds in which every contender has its turn.")] = 30,
    sittings: Annotated[
        int,
        typer.Option(
            min=1, max=1000, help="Sittings of so many rounds, for each of which all contenders are prepared anew."
        ),
    ] = 1,
    turn: Annotated[
        float,
        typer.Option(
            min=0.0, max=60_000.0, metavar="MS", help="A turn has at least one run, and as many as fill this."
        ),
    ] = 50.0,
    control: Annotated[
        bool,
        typer.Option("--control", help="Measure the first contender twice: what differs between the two is noise."),
    ] = False,
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL@RUNTIME", help="What speed-ups are over. Default: the first peer, or the first row."
        ),
    ] = None,
    tune: Annotated[
        bool, typer.Option("--tune", help="Try runtimes, precisions, layouts and threads, and tell the fastest.")
    ] = False,
    accuracy: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            metavar="ERROR",
            help="With --tune: the relative error against float64 that is allowed. Default: 0.01.",
        ),
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Tell which rows of the spec take how much of the time.")
    ] = False,
    threads: Annotated[
        int | None,
        typer.Option(min=1, max=65_535, help="Threads of the processor. Default: each runtime's own choice."),
    ] = None,
    exporter: Annotated[
        str, typer.Option(help="How torch.onnx.export makes ONNX files of peers: legacy or dynamo.")
    ] = "legacy",
    keep: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Leave the ONNX files that were measured in this empty folder.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights, input and the order of turns.")] = 0,
    set: SetOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
    format: FormatOption = Format.text,
    *,
    passes: dict[str, Any],
) -> None:
    """Measure networks on runtimes: interleaved rounds, intervals, and what was really run."""
    from rescompile.bench import documents, modules, report, tuning
    from rescompile.bench.contenders import Request, TuneRequest
    from rescompile.bench.measuring import Plan
    from rescompile.bench.peers import parted
    from rescompile.bench.running import Bench
    from rescompile.files.output import check_folder, check_ours

    peers = words("compare", ",".join(compare)) if compare else []
    for text in peers:
        parted(text)
    if exporter not in modules.EXPORTERS:
        help = nearest(exporter, modules.EXPORTERS) or "the exporters are legacy and dynamo"
        raise UsageError(Diagnostic("E0802", f"--exporter {exporter}: there is no such exporter", help=help))
    if output == "-":
        raise UsageError(Diagnostic("E0802", "-o names a file", help="--json writes the result to standard output"))
    path = None if output is None else Path(output)
    if path is not None:
        check_folder(path)
        check_ours(path, force)
    if path is not None and plot is not None and path.resolve() == Path(plot).resolve():
        message = f"-o and --plot both name {path}: the figure would take the place of the samples"
        raise UsageError(Diagnostic("E0802", message))
    figure = _figure(plot, force)
    networks = [elaborated(spec, set)[1] for spec in specs]
    names = [network.name for network in networks]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(Diagnostic("E0802", f"two of the specs are called {name}, and rows have that name"))
    runtimes = None if runtime is None else words("runtime", runtime)
    precisions = None if precision is None else words("precision", precision)
    if accuracy is not None and not math.isfinite(accuracy):
        raise UsageError(Diagnostic("E0802", f"--accuracy is a finite error, and this is {accuracy}"))
    search = None
    others = _others(beside or ())
    if tune:
        if others:
            raise UsageError(Diagnostic("E0802", "--tune looks for a way to run one network, and takes no --beside"))
        if peers:
            help = "measure a peer beside the way that --tune finds, in a command of its own"
            raise UsageError(
                Diagnostic("E0802", "--tune looks for a way to run a spec, and takes no --compare", help=help)
            )
        given = [f"--set={text}" for text in set or ()] + _again(passes)
        given += [f"--seed={seed}"] * (seed != 0) + [f"--threads={threads}"] * (threads is not None)
        again = {name: ["rescompile", "bench", spec, *given] for name, spec in zip(names, specs, strict=True)}
        search = TuneRequest(tuning.ACCURACY if accuracy is None else accuracy, again)
    elif accuracy is not None:
        raise UsageError(Diagnostic("E0802", "--accuracy is that of --tune, which is not given"))
    else:
        runtimes, precisions = runtimes or ["ort-cpu", "torch-cpu"], precisions or ["fp32"]
    request = Request(
        networks, passes, peers, runtimes or (), precisions or (), _batches(batch), Plan(rounds, turn / 1e3, seed=seed, sittings=sittings), control, profile, threads,
        exporter, _folder(keep), ["rescompile", *sys.argv[1:]], search, others,
    )  # fmt: skip
    running = Bench(request, say)
    if baseline is not None:
        report.check_baseline(baseline, running.titles())
    try:
        _follow(running)
    finally:
        result = running.result
        if path is not None and (result.rows or result.missing or result.tunings):
            documents.write(result, path, force)
            say(f"{path}: {len(result.rows)} row{'' if len(result.rows) == 1 else 's'} written")
        if (result.rows or result.missing or result.tunings) and not as_json:
            print(report.markdown(result, baseline), end="")
    if as_json:
        print_json(dataclasses.asdict(result))
    if figure is not None and result.rows:
        from rescompile.bench import plots

        plots.draw(result, figure, force)
        say(f"{figure}: written")
    for problem in sorted(running.problems, key=lambda problem: -problem.exit_code):
        raise problem


def _follow(running: Bench) -> None:
    """Measure, telling on a terminal what is going on."""
    with Progress() as progress, contextlib.closing(running.run()) as steps:  # which has its rows when it is closed
        for doing in steps:
            progress.advance(text=doing)


def _others(given: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The passes of `form=a` and `fold-batchnorm`, by what was written. Raises UsageError for what is no pass."""
    from rescompile.passes import PASSES, options

    kinds = {step.option: step.type for step in PASSES}
    for text in given:
        option, equals, value = text.partition("=")
        if option not in kinds:
            help = nearest(option, kinds) or f"the passes are {one_of(kinds)}"
            raise UsageError(Diagnostic("E0802", f"--beside {text}: there is no pass '{option}'", help=help))
        if bool(equals and value) is (kinds[option] is bool):
            wanted = "takes no value" if kinds[option] is bool else "needs a value"
            raise UsageError(Diagnostic("E0802", f"--beside {text}: the pass '{option}' {wanted}"))
        if kinds[option] is int and not (value.isascii() and value.isdecimal() and len(value) < 10):
            message = f"--beside {clipped(text)}: the value of '{option}' is a whole number below 10^9"
            raise UsageError(Diagnostic("E0802", message))
        if given.count(text) > 1:
            raise UsageError(Diagnostic("E0802", f"--beside {text} is given twice"))
    return {text: options([text]) for text in given}


def _again(passes: dict[str, Any]) -> list[str]:
    """The options that turn passes on."""
    from rescompile.passes import PASSES

    on = [step for step in PASSES if passes.get(step.keyword)]
    return [f"--{step.option}" + ("" if step.type is bool else f"={passes[step.keyword]}") for step in on]


def _figure(plot: str | None, force: bool) -> Path | None:
    if plot is None:
        return None
    from rescompile.files import plotting

    return plotting.checked(plot, force)


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
