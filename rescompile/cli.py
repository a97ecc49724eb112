"""The command line. Data goes to standard output, everything else to standard error; exit codes are stable:

0 done; 1 a check failed; 2 wrong usage or no such input; 3 invalid spec; 4 target, runtime or extra not available;
5 output could not be written or is not ours to overwrite; 130 interrupted.

Imports stay inside the commands, so that each one loads only what it uses.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rescompile.errors import Diagnostic, OutputError, RescompileError, SpecError, UsageError

if TYPE_CHECKING:
    from rescompile.network import Network
    from rescompile.spec import Spec

EXIT_CODES = (
    "Exit codes: 0 done; 1 a check failed; 2 wrong usage or no such input; 3 invalid spec; "
    "4 target, runtime or extra not available; 5 output not written; 130 interrupted."
)

app = typer.Typer(
    name="rescompile", no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False,
    help="A spec compiler for residual-family networks: a YAML table becomes ONNX graphs.", epilog=EXIT_CODES,
)  # fmt: skip


class Format(StrEnum):
    """How diagnostics are written."""

    text = "text"
    json = "json"
    github = "github"
    sarif = "sarif"


SpecArgument = Annotated[
    str, typer.Argument(metavar="SPEC", help="A spec file (with a / or .yaml), or a name of the zoo.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Change the spec, such as layer3.depth=23. Repeatable."),
]
FormatOption = Annotated[Format, typer.Option("--format", help="How diagnostics are written.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the command's data as JSON; implies --format json.")]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Overwrite a file that rescompile did not write, or that was changed since.")
]


def main() -> None:
    """Entry point of the console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    app()


# --- what all commands share ------------------------------------------------------------------------------------------


def _command(function: Callable[..., None]) -> Callable[..., None]:
    """A command whose errors become diagnostics and exit codes, never tracebacks."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
            if sys.stdout is None:
                raise OutputError(Diagnostic("E1002", "standard output is closed"))
            sys.stdout.flush()
        except RescompileError as error:
            form = "json" if kwargs.get("as_json") else kwargs.get("format", Format.text).value
            _report(error.diagnostics, form)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            _say("interrupted")
            raise typer.Exit(130) from None
        except BrokenPipeError:
            _forget_output()  # the reader went away, as in `rescompile list | head`: nothing is wrong
            raise typer.Exit(0) from None
        except MemoryError:
            _report([Diagnostic("E0901", "there is not enough memory for this")], "text")
            raise typer.Exit(4) from None
        except OSError as error:
            _forget_output()
            where = f": {error.filename}" if error.filename else ""
            _report([Diagnostic("E1002", f"{error.strerror or error}{where}")], "text")
            raise typer.Exit(OutputError.exit_code) from None

    return wrapped


def _forget_output() -> None:
    """Send what is still buffered for standard output nowhere: the interpreter would fail on it again at exit."""
    with contextlib.suppress(AttributeError, OSError):  # closed, or no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _with_passes(function: Callable[..., None]) -> Callable[..., None]:
    """A command that takes the options of the pass table; they arrive in its `passes`."""
    from rescompile.passes import PASSES

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        chosen = {step.keyword: kwargs.pop(step.keyword) for step in PASSES}
        function(*args, passes={key: value for key, value in chosen.items() if value}, **kwargs)

    signature = inspect.signature(function, eval_str=True)
    kept = [parameter for parameter in signature.parameters.values() if parameter.name != "passes"]
    added = [
        inspect.Parameter(
            step.keyword, inspect.Parameter.KEYWORD_ONLY, default=False if step.type is bool else None,
            annotation=Annotated[step.type if step.type is bool else step.type | None, typer.Option(f"--{step.option}", help=step.help)],
        )
        for step in PASSES
    ]  # fmt: skip
    wrapped.__signature__ = signature.replace(parameters=[*kept, *added])  # type: ignore[attr-defined]
    wrapped.__annotations__ = {p.name: p.annotation for p in [*kept, *added]}
    del wrapped.__wrapped__
    return wrapped


def _report(diagnostics: Sequence[Diagnostic], form: str) -> None:
    from rescompile.rendering import render

    stream = sys.stderr if form == "text" else sys.stdout
    if stream is not None:
        print(render(diagnostics, form, colour=form == "text" and _colour(stream)), file=stream)


def _colour(stream: Any) -> bool:
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _say(text: str) -> None:
    if sys.stderr is not None:
        print(text, file=sys.stderr)


def _print_json(data: Any) -> None:
    print(json.dumps(data, indent=2))


def _elaborated(spec: str, settings: list[str] | None) -> tuple[Spec, Network]:
    from rescompile.elaboration import elaborate, more_problems
    from rescompile.loading import load

    try:
        loaded = load(spec, settings or ())
    except SpecError as error:
        if error.rest is not None:
            raise SpecError(dict.fromkeys([*error.diagnostics, *more_problems(error.rest)])) from None
        raise
    return loaded, elaborate(loaded)


# --- build ------------------------------------------------------------------------------------------------------------


@app.command(epilog=EXIT_CODES)
@_with_passes
@_command
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
            help="Weights to use, a safetensors file. Default: new ones by the spec's init.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of new weights.")] = 0,
    no_weights: Annotated[bool, typer.Option("--no-weights", help="Leave the weights out: structure only.")] = False,
    opset: Annotated[int | None, typer.Option(help="ONNX opset, 17 to 21. Default: 17.")] = None,
    batch: Annotated[int | None, typer.Option(help="Fix the batch to this size. Default: free.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="NAME=VALUE", help="An option of another target. Repeatable."),
    ] = None,
    set: SetOption = None,
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
    if output == "-" and as_json:
        raise UsageError(Diagnostic("E0802", "-o - and --json exclude one another: both write to standard output"))
    if output == "":
        raise UsageError(Diagnostic("E0802", "-o names no file"))
    own = [(key, value) for key, value in (("opset", opset), ("batch", batch)) if value is not None]
    options = _once([*_assignments(option), *own])
    suffix = backend.load(target).SUFFIX
    loaded, network = _elaborated(spec, set)
    path = Path(output or network.name + suffix)
    if output != "-" and (path.is_dir() or str(output or "").endswith("/")):
        path = path / (network.name + suffix)
    if not set:
        _expect(loaded, network)
    if output != "-":
        check_ours(path, force)
    artifact = compile_spec(network, target, weights, seed=seed, structure_only=no_weights, **options, **passes)
    if output == "-":
        write_stdout(artifact.files("-"))
        return
    started = time.perf_counter()
    with _Progress(sum(file.size for file in artifact.files(path.name))) as progress:
        written = artifact.write(path, force, progress.advance)
    _tell_built(artifact, written, time.perf_counter() - started, as_json)


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
        _print_json(
            {
                "name": network.name, "files": [str(path) for path in written], "bytes": size, "sha256": network.sha256,
                "passes": list(network.passes), "parameters": total.parameters, "macs": total.macs, **artifact.facts,
            }
        )  # fmt: skip
        return
    _say(
        f"{written[-1]}: {size / 2**20:.1f} MiB, {total.parameters:,} parameters, {total.macs / 1e9:.3f} GMACs, written in {seconds:.2f} s"
    )
    for name, sizes in {"input": artifact.facts.get("input"), **artifact.facts.get("outputs", {})}.items():
        if sizes:
            _say(f"  {name} [{', '.join(map(str, sizes))}]")
    if len(written) > 1:
        _say(f"  weights in {', '.join(str(path) for path in written[:-1])}")


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


# --- validate ---------------------------------------------------------------------------------------------------------


@app.command(epilog=EXIT_CODES)
@_command
def validate(
    specs: Annotated[
        list[str], typer.Argument(metavar="SPEC...", help="Spec files, folders of them, or names of the zoo.")
    ],
    set: SetOption = None,
    as_json: JsonOption = False,
    format: FormatOption = Format.text,
) -> None:
    """Check specs: their language, their shapes, and the figures that they expect."""
    from rescompile.cost import cost
    from rescompile.expectations import unmet
    from rescompile.rendering import as_data

    results: list[dict[str, Any]] = []
    problems: list[Diagnostic] = []
    invalid = failed = missing = 0
    for path in _spec_files(specs):
        found: Sequence[Diagnostic] = ()
        entry: dict[str, Any] = {"spec": path, "ok": False}
        try:
            spec, network = _elaborated(path, set)
        except (SpecError, UsageError) as error:
            invalid += isinstance(error, SpecError)
            missing += isinstance(error, UsageError)
            found = error.diagnostics
        else:
            total = cost(network)
            found = [] if set else unmet(spec, network)
            failed += bool(found)
            entry |= {
                "ok": not found,
                "name": network.name,
                "parameters": total.parameters,
                "macs": total.macs,
                "sha256": network.sha256,
            }
        problems += [diagnostic for diagnostic in found if diagnostic not in problems]
        results.append(entry | {"diagnostics": [as_data(diagnostic) for diagnostic in found]})
        if format is Format.text and not as_json and not found:
            print(f"{path}: ok, {entry['parameters']:,} parameters, {entry['macs'] / 1e9:.4g} GMACs")
    if as_json:
        _print_json({"specs": results})
    elif problems or format is not Format.text:
        _report(problems, format.value)
    if format is Format.text and not as_json and len(results) > 1:
        _say(f"{len(results)} specs, {invalid} invalid, {failed} unlike their figures")
    if invalid or failed or missing:
        raise typer.Exit(SpecError.exit_code if invalid else UsageError.exit_code if missing else 1)


def _spec_files(arguments: list[str]) -> Iterator[str]:
    for argument in arguments:
        folder = Path(argument)
        if folder.is_dir():
            found = sorted(path for pattern in ("*.yaml", "*.yml") for path in folder.rglob(pattern))
            if not found:
                raise UsageError(Diagnostic("E0801", f"the folder {argument} holds no .yaml file"))
            yield from (str(path) if "/" in str(path) else f"./{path}" for path in found)
        else:
            yield argument


# --- show, list, schema, extract --------------------------------------------------------------------------------------


@app.command(epilog=EXIT_CODES)
@_with_passes
@_command
def show(
    spec: SpecArgument,
    depth: Annotated[
        int, typer.Option(min=1, help="Levels of the tree: 1 rows, 2 their blocks, 3 the steps of blocks, and so on.")
    ] = 1,
    set: SetOption = None,
    as_json: JsonOption = False,
    format: FormatOption = Format.text,
    *,
    passes: dict[str, Any],
) -> None:
    """Show the tree of a network: shapes, parameters and MACs of every stage and block."""
    from rescompile import printing
    from rescompile.passes import apply

    _, network = _elaborated(spec, set)
    network, _ = apply(network, None, passes)
    if as_json:
        _print_json(printing.data(network, depth))
        return
    print(printing.summary(network))
    print()
    print(printing.table(network, depth))


@app.command(name="list", epilog=EXIT_CODES)
@_command
def list_zoo(
    family: Annotated[str | None, typer.Option(help="Only networks of this family.")] = None,
    as_json: JsonOption = False,
    format: FormatOption = Format.text,
) -> None:
    """List the networks of the zoo."""
    from rescompile import library
    from rescompile.errors import nearest
    from rescompile.merging import resolve
    from rescompile.reader import plain

    entries = []
    for name, path in library.zoo().items():
        document = plain(resolve(path, ()))
        entries.append(
            {
                "name": name,
                "family": document.get("family"),
                "description": document.get("description"),
                "reference": document.get("reference"),
            }
        )
    if family is not None:
        families = {str(entry["family"]) for entry in entries}
        if family not in families:
            raise UsageError(
                Diagnostic(
                    "E0801",
                    f"there is no family '{family}'",
                    help=nearest(family, families) or f"the families are {', '.join(sorted(families))}",
                )
            )
        entries = [entry for entry in entries if entry["family"] == family]
    if as_json:
        _print_json({"networks": entries})
        return
    wide = max(len(entry["name"]) for entry in entries)
    family_wide = max(len(entry["family"] or "") for entry in entries)
    for entry in entries:
        print(f"{entry['name']:<{wide}}  {entry['family'] or '':<{family_wide}}  {entry['description'] or ''}".rstrip())


@app.command(name="schema", epilog=EXIT_CODES)
@_command
def print_schema(
    output: Annotated[
        str | None, typer.Option("-o", "--output", metavar="PATH", help="Where to write. Default: standard output.")
    ] = None,
    force: ForceOption = False,
) -> None:
    """Print the JSON Schema of spec files (draft 7), for editors."""
    from rescompile.output import write_text
    from rescompile.schema import text

    if output in (None, "-"):
        sys.stdout.write(b"".join(text()).decode())
    else:
        write_text(text(), Path(str(output)), force)


@app.command(epilog=EXIT_CODES)
@_command
def extract(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX model that rescompile built.")],
    output: Annotated[
        str | None, typer.Option("-o", "--output", metavar="PATH", help="Where to write. Default: standard output.")
    ] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
    format: FormatOption = Format.text,
) -> None:
    """Get back the spec that a model was built from; its passes are told on standard error."""
    import hashlib

    from rescompile import backend
    from rescompile.errors import CheckFailed
    from rescompile.output import write_text
    from rescompile.seal import sealed

    if not model.is_file():
        raise UsageError(Diagnostic("E0801", f"{model} {'is a folder' if model.is_dir() else 'does not exist'}"))
    if output not in (None, "-") and Path(str(output)).exists() and Path(str(output)).samefile(model):
        raise UsageError(Diagnostic("E0802", f"-o {output} is the model itself"))
    recorded = backend.extract(model)
    if recorded is None:
        raise UsageError(Diagnostic("E0801", f"{model} records no spec: rescompile did not build it"))
    if hashlib.sha256(recorded.text.encode()).hexdigest() != recorded.sha256:
        raise CheckFailed(
            Diagnostic("E0703", f"the spec recorded in {model} does not have the SHA-256 recorded beside it")
        )
    if as_json:
        _print_json({"spec": recorded.text, "sha256": recorded.sha256, "passes": list(recorded.passes)})
        return
    if output in (None, "-"):
        sys.stdout.write(recorded.text)
    else:
        write_text(sealed([recorded.text.encode()], b"# ", b": ", b"\n"), Path(str(output)), force)
    if recorded.passes:
        _say(f"built with {' '.join(f'--{step}' for step in recorded.passes)}")


# --- run --------------------------------------------------------------------------------------------------------------


class Provider(StrEnum):
    """Where a model runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    tensorrt = "tensorrt"


@app.command(name="run", epilog=EXIT_CODES)
@_command
def run_model(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX model.")],
    provider: Annotated[
        Provider, typer.Option(help="Where to run; auto takes a GPU if ONNX Runtime has one.")
    ] = Provider.auto,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the input.")] = 0,
    batch: Annotated[int | None, typer.Option(min=1, help="Size of a free batch axis. Default: 1.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Timed runs after the first.")] = 5,
    as_json: JsonOption = False,
    format: FormatOption = Format.text,
) -> None:
    """Run a model in ONNX Runtime on seeded input: shapes, time, and the provider that was obtained."""
    from rescompile.runtime import run

    result = run(model, provider.value, seed, batch, repeats)
    if as_json:
        outputs = {
            name: {"shape": list(a.shape), "mean": float(a.mean()), "std": float(a.std())}
            for name, a in result.outputs.items()
        }
        _print_json(
            {
                "provider": result.provider, "inputs": result.inputs, "outputs": outputs,
                "load_seconds": result.load_seconds, "first_seconds": result.first_seconds, "seconds": result.seconds,
            }
        )  # fmt: skip
        return
    for name, sizes in result.inputs.items():
        print(f"{name} {sizes}")
    for name, array in result.outputs.items():
        print(f"{name} {list(array.shape)}, mean {array.mean():.6g}, standard deviation {array.std():.6g}")
    print(
        f"{result.provider}: {result.seconds * 1e3:.2f} ms (median of {repeats}), first run {result.first_seconds * 1e3:.2f} ms, load {result.load_seconds * 1e3:.0f} ms"
    )


# --- global options ---------------------------------------------------------------------------------------------------


def _version(wanted: bool) -> None:
    if wanted:
        from rescompile.version import __version__

        print(f"rescompile {__version__}")
        raise typer.Exit


@app.callback()
def _global(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass
