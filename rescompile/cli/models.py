"""`extract`, `run`: commands about models that were built."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from rescompile.cli.common import ForceOption, Format, FormatOption, JsonOption, command, print_json, say
from rescompile.errors import Diagnostic, UsageError


@command
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
        print_json({"spec": recorded.text, "sha256": recorded.sha256, "passes": list(recorded.passes)})
        return
    if output in (None, "-"):
        sys.stdout.write(recorded.text)
    else:
        write_text(sealed([recorded.text.encode()], b"# ", b": ", b"\n"), Path(str(output)), force)
    if recorded.passes:
        say(f"built with {' '.join(f'--{step}' for step in recorded.passes)}")


class Provider(StrEnum):
    """Where a model runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    tensorrt = "tensorrt"


@command
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
        print_json(
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
