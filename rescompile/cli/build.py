"""`build`: a spec becomes an artifact of a target."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rescompile.cli.command import command
from rescompile.cli.options import (
    DynamicOption,
    FeaturesOption,
    ForceOption,
    Format,
    FormatOption,
    JsonOption,
    SetOption,
    SpecsArgument,
    with_passes,
)
from rescompile.cli.progress import Progress
from rescompile.cli.reporting import print_json, report, say
from rescompile.cli.specs import elaborated, spec_files
from rescompile.diagnostics.errors import Diagnostic, RescompileError, UsageError

if TYPE_CHECKING:
    from rescompile.ir.network import Network
    from rescompile.lang.spec.spec import Spec


@with_passes
@command
def build(
    specs: SpecsArgument,
    target: Annotated[
        str,
        typer.Option(
            "--target", "-t", help="What to make: onnx, source, torch, or the target of an installed backend."
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            metavar="PATH",
            help="Where to write: a file, a folder, or - for standard output. Default: the network's name in this folder.",
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            metavar="FILE",
            help="Weights to use: safetensors, or a .pth, .pt or .bin of torch. Default: new ones by the spec's init.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of new weights.")] = 0,
    no_weights: Annotated[bool, typer.Option("--no-weights", help="Leave the weights out: structure only.")] = False,
    style: Annotated[
        str | None, typer.Option(help="Style of source: classes (default), or flat: one class per block.")
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Write nothing; exit 1, and show how, if the file is not what would be written."),
    ] = False,
    opset: Annotated[int | None, typer.Option(help="ONNX opset, 17 to 21. Default: 17.")] = None,
    batch: Annotated[int | None, typer.Option(help="Fix the batch to this size. Default: free.")] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="fp16: weights and nodes of an ONNX file in float16, input and outputs in float32. int8: convolutions and matrix products in whole numbers. Default: fp32."
        ),
    ] = None,
    calibrate: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER|N",
            help="What int8 is calibrated with: a folder of images or of .npy files, or N inputs drawn from the seed. Default: 32.",
        ),
    ] = None,
    made_for: Annotated[
        str | None,
        typer.Option(
            "--for",
            metavar="RUNTIME",
            help="The options that fit a runtime, where others are not given: ort-cpu, openvino, ort-cuda or ort-tensorrt.",
        ),
    ] = None,
    dynamic: DynamicOption = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="NAME=VALUE", help="An option of another target. Repeatable."),
    ] = None,
    set: SetOption = None,
    features: FeaturesOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
    format: FormatOption = Format.text,
    *,
    passes: dict[str, Any],
) -> None:
    """Compile specs to a target, such as an ONNX file."""
    from rescompile import backend
    from rescompile.files.output import check_ours, write_stdout
    from rescompile.lang import library
    from rescompile.pipeline import build as compile_spec

    if no_weights and weights:
        raise UsageError(Diagnostic("E0802", "--weights and --no-weights exclude one another"))
    if check and output == "-":
        raise UsageError(Diagnostic("E0802", "--check compares with a file, and -o - is none"))
    if output == "-" and as_json:
        raise UsageError(Diagnostic("E0802", "-o - and --json exclude one another: both write to standard output"))
    if output == "":
        raise UsageError(Diagnostic("E0802", "-o names no file"))
    given = {
        "opset": opset,
        "batch": batch,
        "precision": precision,
        "dynamic": dynamic,
        "style": style,
        "made_for": made_for,
    }
    own = [(key, value) for key, value in given.items() if value is not None]
    options = _once([*_assignments(option), *own])
    suffix = backend.load(target).SUFFIX
    files = list(spec_files(specs))
    several = files != specs or len(files) > 1
    folder = several or Path(output or "").is_dir() or str(output).endswith("/")
    if several and output is not None and not (Path(output).is_dir() or output.endswith("/")):
        raise UsageError(
            Diagnostic("E0802", f"{len(files)} specs go into a folder, and -o {output} is no folder that exists")
        )
    if several and weights:
        raise UsageError(Diagnostic("E0802", f"--weights are those of one network, and there are {len(files)} specs"))

    def one(spec: str) -> dict[str, Any] | None:
        """Build one spec: what there is to say of what was written, if anything was."""
        loaded, network = elaborated(spec, set, features)
        path = Path(output or "") / (network.name + suffix) if folder or output is None else Path(output)
        if path in made:
            raise UsageError(Diagnostic("E0802", f"{spec} and {made[path]} both make {path}"))
        made[path] = spec
        if not set:
            _expect(loaded, network)
        if output != "-" and not check:
            read = {"the spec": library.spec_path(spec), "the file of --weights": weights}
            _no_input(path, read, f"-o {path}")
            check_ours(path, force)
        artifact = compile_spec(
            network,
            target,
            weights,
            seed=seed,
            structure_only=no_weights,
            say=say,
            calibrate=calibrate,
            **options,
            **passes,
        )
        if check:
            _compare(artifact, path)
            return None
        if output == "-":
            write_stdout(artifact.files("-"))
            return None
        started = time.perf_counter()
        planned = list(artifact.files(path.name))
        for file in planned:
            _no_input(path.parent / file.name, read, f"{path.parent / file.name}, which goes with -o {path},")
        with Progress(sum(file.size for file in planned)) as progress:
            written = artifact.write(path, force, progress.advance)
        return _told(artifact, written, time.perf_counter() - started, as_json, weights is None)

    made: dict[Path, str] = {}
    if not several:
        data = one(files[0])
        if as_json and data is not None:
            print_json(data)
        return
    from rescompile.diagnostics.rendering import as_data

    entries: list[dict[str, Any]] = []
    problems: list[Diagnostic] = []
    worst = 0
    for spec in files:  # what is wrong with one keeps none of the others from being built
        try:
            entries.append({"spec": spec, "ok": True, **(one(spec) or {}), "diagnostics": []})
        except RescompileError as error:
            entries.append({"spec": spec, "ok": False, "diagnostics": [as_data(found) for found in error.diagnostics]})
            problems += [found for found in error.diagnostics if found not in problems]
            worst = max(worst, error.exit_code)
    if as_json:
        print_json({"specs": entries})
    elif problems or format is not Format.text:
        report(problems, format.value)
    if format is Format.text and not as_json:
        say(f"{len(files)} specs, {sum(not entry['ok'] for entry in entries)} not built")
    if worst:
        raise typer.Exit(worst)


def _no_input(path: Path, inputs: Mapping[str, str | Path | None], said: str) -> None:
    """Raises UsageError where a file to write is one that is read: that would be its end, where it is ours without a word."""
    for what, file in inputs.items():
        if file is not None and path.exists() and Path(file).exists() and path.samefile(file):
            raise UsageError(Diagnostic("E0802", f"{said} is {what} itself"))


def _compare(artifact: Any, path: Path) -> None:
    """Hold the files on disk to those that would be written. Raises CheckFailed, after the difference of a text was shown."""
    from rescompile.diagnostics.errors import CheckFailed

    for file in artifact.files(path.name):
        there = path.parent / file.name
        wanted = b"".join(bytes(chunk) for chunk in file.chunks())
        if not there.is_file():
            raise CheckFailed(Diagnostic("E0705", f"{there} does not exist"))
        found = there.read_bytes()
        if found != wanted:
            if there.suffix == ".py":
                _show_difference(found, wanted, there)
            raise CheckFailed(
                Diagnostic("E0705", f"{there} is not what its spec gives", help="build it again without --check")
            )


def _show_difference(found: bytes, wanted: bytes, path: Path) -> None:
    import difflib

    old, new = (text.decode("utf-8", "replace").splitlines(keepends=True) for text in (found, wanted))
    sys.stdout.writelines(difflib.unified_diff(old, new, str(path), "what the spec gives"))


def _assignments(options: list[str] | None) -> Iterator[tuple[str, str]]:
    for text in options or ():
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(Diagnostic("E0802", f"--option {text}: write --option name=value"))
        yield name, value


def _once(given: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Options by name. Raises UsageError for one that is given twice."""
    names = [name for name, _ in given]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(Diagnostic("E0802", f"the option '{name}' is given twice"))
    return dict(given)


def _expect(spec: Spec, network: Network) -> None:
    from rescompile.diagnostics.errors import CheckFailed
    from rescompile.elaboration.expect import unmet

    if problems := unmet(spec, network):
        raise CheckFailed(problems)


def _told(artifact: Any, written: list[Path], seconds: float, as_json: bool, new_weights: bool) -> dict[str, Any]:
    """What was built, as data; people are told now."""
    from rescompile.analysis.cost import cost

    network = artifact.network
    total, size = cost(network), sum(path.stat().st_size for path in written)
    data = {
        "name": network.name, "files": [str(path) for path in written], "bytes": size, "sha256": network.sha256,
        "passes": list(network.passes), "parameters": total.parameters, "macs": total.macs, **artifact.facts,
    }  # fmt: skip
    if as_json:
        return data
    lines = artifact.facts.get("lines")
    how_much = f"{lines} lines" if lines else f"{size / 2**20:.1f} MiB"
    say(
        f"{written[-1]}: {how_much}, {total.parameters:,} parameters, {total.macs / 1e9:.3f} GMACs, written in {seconds:.2f} s"
    )
    for name, sizes in {"input": artifact.facts.get("input"), **artifact.facts.get("outputs", {})}.items():
        if sizes:
            say(f"  {name} [{', '.join(map(str, sizes))}]")
    if free := artifact.facts.get("free"):
        from rescompile.analysis.dynamic_shapes import describe_sizes

        say(f"  {describe_sizes(free)}")
    for line in _more(artifact, new_weights):
        say(f"  {line}")
    if len(written) > 1:
        say(f"  weights in {', '.join(str(path) for path in written[:-1])}")
    return data


def _more(artifact: Any, new_weights: bool) -> Iterator[str]:
    """What a recipe came to, and what int8 costs."""
    facts = artifact.facts
    if "for" in facts:
        from rescompile.runtimes.recipes import told

        size = facts["input"][0]
        chosen = {"precision": facts["precision"], "batch": size if isinstance(size, int) else None}
        yield told(facts["for"], chosen, artifact.network.passes)
    if "int8" not in facts:
        return
    cost, calibrated = facts["int8"], facts["calibration"]
    yield f"int8, calibrated with {calibrated['inputs']} inputs: {calibrated['data']}"
    if not cost["inputs"]:
        yield "nothing was kept apart to check it with: give at least 5 inputs"
        return
    same = "" if cost["agreed"] is None else f", and the same first class for {cost['agreed']} of them"
    yield f"off by {cost['error']:.2g} from float32 on {cost['inputs']} other inputs{same}"
    if new_weights:
        yield "with new weights this says nothing about the accuracy on a task"
