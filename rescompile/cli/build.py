"""`build`: compiles specs to a target."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rescompile.cli.command import command
from rescompile.cli.options import (
    FeaturesOption,
    ForceOption,
    FormatOption,
    JsonOption,
    Passes,
    Selection,
    SetOption,
    SpecsArgument,
    TargetOptions,
    option,
)
from rescompile.cli.progress import Progress, track
from rescompile.cli.reporting import is_same_file, print_json, report, say
from rescompile.cli.specs import elaborated, spec_files
from rescompile.diagnostics.errors import CheckFailed, Diagnostic, RescompileError, UsageError
from rescompile.options import assignment
from rescompile.records import record

if TYPE_CHECKING:
    from rescompile.ir.network import Network
    from rescompile.weights.checkpoints import WeightsFile


@record
class Options:
    """The options that only `build` has and no target declares."""

    output: str | None = option(
        "Output: a file, a folder, or - for standard output. Default: the network's name.",
        None,
        "-o",
        "--output",
        metavar="PATH",
    )
    weights: str | None = option("Weights file: safetensors, torch, Keras or NumPy. Default: random.", metavar="FILE")
    seed: int = option("Seed of random weights.", 0)
    no_weights: bool = option("Write the graph only, without weights.", False, "--no-weights")
    calibrate_norms: bool = option(
        "Set the norm statistics of random weights from a seeded batch.", False, "--calibrate-norms"
    )
    verify: bool = option("Run the file and compare its outputs before it replaces an earlier file.", False, "--verify")
    compare: bool = option("Write nothing; exit 1 and print a diff if the file differs.", False, "--check")
    calibrate: str | None = option(
        "Calibration data for int8: images, .npy files, or N random inputs. Default: 32.", metavar="FOLDER|N"
    )

    def check(self) -> None:
        """Raise UsageError for options that cannot be used together."""
        if self.no_weights and self.weights:
            raise UsageError.of("E0802", "--weights and --no-weights cannot be used together")
        if self.compare and self.output == "-":
            raise UsageError.of("E0802", "--check compares with a file, but -o - is standard output")
        if self.verify and (self.compare or self.output == "-"):
            other = "--check" if self.compare else "-o -"
            raise UsageError.of("E0802", f"--verify needs a file to write, so {other} cannot be used with it")
        if self.output == "":
            raise UsageError.of("E0802", "-o needs the name of a file")


@command
def build(
    specs: SpecsArgument,
    target: Annotated[
        str,
        typer.Option(
            "--target", "-t", help="Target: flax, keras, mlx, onnx, source, torch, or one from an installed backend."
        ),
    ],
    options: Options,
    selection: Selection,
    target_options: TargetOptions,
    others: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="NAME=VALUE", help="An option of an installed backend. Repeatable."),
    ] = None,
    set: SetOption = None,
    features: FeaturesOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
    format: FormatOption = "text",
    *,
    passes: Passes,
) -> None:
    """Compile specs to a target, such as an ONNX file."""
    from rescompile import backend

    options.check()
    if options.output == "-" and as_json:
        raise UsageError.of("E0802", "-o - and --json cannot be used together: both write to standard output")
    given = _once([*_assignments(others), *target_options.items()])
    suffix = backend.load(target).SUFFIX
    files = list(spec_files(specs))
    several = files != specs or len(files) > 1
    if several:
        _check_several(files, options)
    builder = _Builder(
        target,
        options,
        selection.of(options.weights),
        {**given, **passes},
        set,
        features,
        force,
        as_json,
        suffix,
        several,
    )
    if several:
        _build_all(builder, files, format)
        return
    data = builder.build(files[0])
    if as_json and data is not None:
        print_json(data)


def _check_several(files: Sequence[str], options: Options) -> None:
    """Raise UsageError for options that apply to a single spec only."""
    output = options.output
    if output is not None and not (Path(output).is_dir() or output.endswith("/")):
        raise UsageError.of("E0802", f"{len(files)} specs need a folder, but -o {output} is not an existing folder")
    if options.weights:
        raise UsageError.of("E0802", f"--weights takes one spec, but {len(files)} were given")


def _build_all(builder: _Builder, files: Sequence[str], format: str) -> None:
    """Build several specs; an error in one does not stop the others. After an interruption, the files built so far are
    reported too."""
    from rescompile.diagnostics.rendering import as_data

    entries: list[dict[str, Any]] = []
    problems: list[Diagnostic] = []
    worst = 0
    try:
        for spec in track(files, len(files), "specs"):
            try:
                entries.append({"spec": spec, "ok": True, **(builder.build(spec) or {}), "diagnostics": []})
            except RescompileError as error:
                entries.append(
                    {"spec": spec, "ok": False, "diagnostics": [as_data(each) for each in error.diagnostics]}
                )
                problems += [each for each in error.diagnostics if each not in problems]
                worst = max(worst, error.exit_code)
    finally:
        left = len(files) - len(entries)
        if builder.as_json:
            print_json({"specs": entries, "interrupted": left > 0})
        elif problems or format != "text":
            report(problems, format)
        if format == "text" and not builder.as_json:
            failed = sum(not entry["ok"] for entry in entries)
            say(f"{len(files)} specs, {failed} failed{f', {left} not reached' if left else ''}")
    if worst:
        raise typer.Exit(worst)


@dataclass(slots=True)
class _Builder:
    """Builds specs one after the other. `written` maps each file to the spec that it was built from."""

    target: str
    options: Options
    weights: WeightsFile | None
    compiler_options: Mapping[str, Any]
    set: list[str] | None
    features: str | None
    force: bool
    as_json: bool
    suffix: str
    several: bool
    written: dict[Path, str] = field(default_factory=dict)

    def path(self, network: Network) -> Path:
        """Return the file of a network: the given one, or one in a folder with the network's name."""
        output = self.options.output
        folder = self.several or output is None or Path(output).is_dir() or output.endswith("/")
        return Path(output or "") / (network.name + self.suffix) if folder else Path(output or "")

    def build(self, spec: str) -> dict[str, Any] | None:
        """Build one spec and print a report. Returns the report as data, or None if no file was written."""
        from rescompile.cli import build_report
        from rescompile.elaboration.expect import unmet
        from rescompile.files.atomic_write import check_ours, write_stdout
        from rescompile.lang import library
        from rescompile.pipeline import Request, execute

        options = self.options
        loaded, network = elaborated(spec, self.set, self.features)
        path = self.path(network)
        if path in self.written:
            raise UsageError.of("E0802", f"{spec} and {self.written[path]} would both be written to {path}")
        self.written[path] = spec
        if not self.set and (problems := unmet(loaded, network)):
            raise CheckFailed(problems)
        inputs = {"the spec": library.spec_path(spec), f"the --weights file {options.weights}": options.weights}
        if options.output != "-" and not options.compare:
            _no_input(path, inputs, path)
            check_ours(path, self.force)
        artifact = execute(
            Request(
                network, self.target, self.weights, options.seed, options.no_weights, options.calibrate,
                options.calibrate_norms, options.verify,
                self.compiler_options, say, track,
            )
        )  # fmt: skip
        if options.compare:
            build_report.compare(artifact, path)
            return None
        if options.output == "-":
            write_stdout(artifact.files("-"))
            return None
        started = time.perf_counter()
        planned = list(artifact.files(path.name))
        for file in planned:
            _no_input(path.parent / file.name, inputs, path)
        with Progress(sum(file.size for file in planned), "MiB", 1 << 20) as progress:
            written = artifact.write(path, self.force, progress.advance)
        if not self.as_json:
            for line in build_report.describe(
                artifact, written, time.perf_counter() - started, options.weights is None
            ):
                say(line)
            if options.weights is not None and "preprocess" in artifact.facts:
                say(f"  {build_report.images(artifact, network, options.weights)}")
        return build_report.as_data(artifact, written)


def _no_input(path: Path, inputs: Mapping[str, str | Path | None], output: Path) -> None:
    """Raise UsageError if a file to write, which is `output` or belongs to it, is also an input."""
    for what, file in inputs.items():
        if file is not None and is_same_file(path, file):
            raise UsageError.of("E0802", f"-o {output} would overwrite {what}")


def _assignments(options: list[str] | None) -> Iterator[tuple[str, str]]:
    """Yield the names and values of --option NAME=VALUE."""
    for name, value in map(assignment, options or ()):
        if value is None:
            raise UsageError.of("E0802", f"--option {name}: write --option {name}=VALUE")
        yield name, value


def _once(given: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return options by name. Raises UsageError for a repeated option."""
    names = [name for name, _ in given]
    for name in names:
        if names.count(name) > 1:
            raise UsageError.of("E0802", f"the option '{name}' is given twice")
    return dict(given)
