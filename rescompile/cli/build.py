"""`build`: a spec becomes an artifact of a target."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rescompile.cli.common import (
    FeaturesOption,
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
    from rescompile.spec import Spec


@with_passes
@command
def build(
    spec: SpecArgument,
    target: Annotated[
        str, typer.Option("--target", "-t", help="What to make: onnx, or a target of an installed backend.")
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            metavar="PATH",
            help="Where to write; - is standard output. Default: the network's name in this folder.",
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
            help="fp16: weights and nodes of an ONNX file in float16, input and outputs in float32. Default: fp32."
        ),
    ] = None,
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
    """Compile a spec to a target, such as an ONNX file."""
    from rescompile import backend
    from rescompile.building import build as compile_spec
    from rescompile.output import check_ours, write_stdout

    if no_weights and weights:
        raise UsageError(Diagnostic("E0802", "--weights and --no-weights exclude one another"))
    if check and output == "-":
        raise UsageError(Diagnostic("E0802", "--check compares with a file, and -o - is none"))
    if output == "-" and as_json:
        raise UsageError(Diagnostic("E0802", "-o - and --json exclude one another: both write to standard output"))
    if output == "":
        raise UsageError(Diagnostic("E0802", "-o names no file"))
    given = {"opset": opset, "batch": batch, "precision": precision, "style": style}
    own = [(key, value) for key, value in given.items() if value is not None]
    options = _once([*_assignments(option), *own])
    suffix = backend.load(target).SUFFIX
    loaded, network = elaborated(spec, set, features)
    path = Path(output or network.name + suffix)
    if output != "-" and (path.is_dir() or str(output or "").endswith("/")):
        path = path / (network.name + suffix)
    if not set:
        _expect(loaded, network)
    if output != "-" and not check:
        check_ours(path, force)
    artifact = compile_spec(
        network, target, weights, seed=seed, structure_only=no_weights, say=say, **options, **passes
    )
    if check:
        _compare(artifact, path)
        return
    if output == "-":
        write_stdout(artifact.files("-"))
        return
    started = time.perf_counter()
    with _Progress(sum(file.size for file in artifact.files(path.name))) as progress:
        written = artifact.write(path, force, progress.advance)
    _tell_built(artifact, written, time.perf_counter() - started, as_json)


def _compare(artifact: Any, path: Path) -> None:
    """Hold the files on disk to those that would be written. Raises CheckFailed, after the difference of a text was shown."""
    from rescompile.errors import CheckFailed

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
    from rescompile.errors import CheckFailed
    from rescompile.expectations import unmet

    if problems := unmet(spec, network):
        raise CheckFailed(problems)


def _tell_built(artifact: Any, written: list[Path], seconds: float, as_json: bool) -> None:
    from rescompile.cost import cost

    network = artifact.network
    total, size = cost(network), sum(path.stat().st_size for path in written)
    if as_json:
        print_json(
            {
                "name": network.name, "files": [str(path) for path in written], "bytes": size, "sha256": network.sha256,
                "passes": list(network.passes), "parameters": total.parameters, "macs": total.macs, **artifact.facts,
            }
        )  # fmt: skip
        return
    lines = artifact.facts.get("lines")
    how_much = f"{lines} lines" if lines else f"{size / 2**20:.1f} MiB"
    say(
        f"{written[-1]}: {how_much}, {total.parameters:,} parameters, {total.macs / 1e9:.3f} GMACs, written in {seconds:.2f} s"
    )
    for name, sizes in {"input": artifact.facts.get("input"), **artifact.facts.get("outputs", {})}.items():
        if sizes:
            say(f"  {name} [{', '.join(map(str, sizes))}]")
    if len(written) > 1:
        say(f"  weights in {', '.join(str(path) for path in written[:-1])}")


class _Progress:
    """A bar on a terminal, once writing has taken a second."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.started, self.shown = total, 0, time.monotonic(), False
        self.wanted = total > 0 and sys.stderr.isatty()

    def __enter__(self) -> _Progress:
        return self

    def advance(self, size: int) -> None:
        self.done += size
        if self.wanted and time.monotonic() - self.started > 1:
            self.shown = True
            share = min(self.done / self.total, 1.0)
            sys.stderr.write(f"\r[{'#' * int(share * 40):<40}] {share:4.0%}")
            sys.stderr.flush()

    def __exit__(self, *_: object) -> None:
        if self.shown:
            sys.stderr.write("\r" + " " * 50 + "\r")
