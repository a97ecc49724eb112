"""`verify`: whether what is compiled computes what it should."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from rescompile.cli.command import command
from rescompile.cli.options import (
    FeaturesOption,
    Format,
    FormatOption,
    JsonOption,
    SetOption,
    SpecArgument,
    with_passes,
    words,
)
from rescompile.cli.reporting import print_json, say
from rescompile.cli.specs import elaborated
from rescompile.diagnostics.errors import Diagnostic, UsageError


@with_passes
@command
def verify(
    spec: SpecArgument,
    targets: Annotated[
        str | None,
        typer.Option(
            help="Which targets to compare, separated by commas. Default: onnx,torch,source without --runtime."
        ),
    ] = None,
    runtime: Annotated[
        str | None,
        typer.Option(
            help="Runtimes to compare, separated by commas, such as ort-cpu,torch-cpu:compile. Not with --dynamic."
        ),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="Precisions of the runtimes, separated by commas. Default: fp32.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(metavar="FILE", help="Weights to verify with. Default: seeded ones, calibrated.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights and input.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Size of the batch.")] = 2,
    dynamic: Annotated[
        str | None,
        typer.Option(
            metavar="AXES", help="Axes of the image to leave free: height,width, or one of them. Not with --runtime."
        ),
    ] = None,
    set: SetOption = None,
    features: FeaturesOption = None,
    as_json: JsonOption = False,
    format: FormatOption = Format.text,
    *,
    passes: dict[str, Any],
) -> None:
    """Compare targets and runtimes with float64: an error may be three times that of plain torch in the same precision.

    With --dynamic the targets leave these axes free, and are compared at another size than the spec's.
    """
    from rescompile.runtimes.verify import TARGETS, other_size
    from rescompile.runtimes.verify import verify as verdicts

    chosen = words("runtime", runtime) if runtime is not None else []
    names = words("targets", targets) if targets is not None else [] if runtime is not None else TARGETS
    precisions = words("precision", "fp32" if precision is None else precision)
    _, network = elaborated(spec, set, features)
    loaded = None
    if weights is not None:
        from rescompile.weights import checkpoints

        loaded = checkpoints.load(weights, network, say)
    if precision is not None and runtime is None:
        raise UsageError(Diagnostic("E0802", "--precision is that of runtimes", help="say which: --runtime ort-cpu"))
    if dynamic is not None and runtime is not None:
        message = "--dynamic and --runtime exclude one another: a runtime is given a file of one size"
        raise UsageError(Diagnostic("E0802", message))
    shape = [batch, *(network.input if dynamic is None else other_size(network, dynamic))]
    if dynamic is not None and not as_json:
        print(f"input {shape}")
    found: list[Any] = []
    widths = max(map(len, ("runtime", *chosen))), len("precision")

    def shown(target: str, runtime: str, precision: str, rest: str) -> None:
        where = f"{runtime:<{widths[0]}}  {precision:<{widths[1]}}  " if chosen else ""
        print(f"{target:<8}  {where}{rest}")

    for verdict in verdicts(network, names, seed, batch, loaded, passes, chosen, precisions, dynamic):
        if not as_json and not found:
            shown("target", "runtime", "precision", f"{'error':>9}  {'bound':>9}")
        found.append(verdict)
        if not as_json:
            ending = ("ok" if verdict.passed else "differs") + (f"  first in {verdict.first}" if verdict.first else "")
            figures = f"{verdict.error:9.2e}  {verdict.bound:9.2e}  {ending}"
            shown(verdict.target, verdict.runtime or "", verdict.precision, figures)
    passed = all(verdict.passed for verdict in found)
    if as_json:
        listed = [
            {
                "target": v.target, "runtime": v.runtime, "precision": v.precision, "error": v.error, "bound": v.bound,
                "passed": v.passed, "first": v.first, "facts": v.facts,
            }
            for v in found
        ]  # fmt: skip
        print_json({"name": network.name, "input": shape, "passed": passed, "targets": listed})
    else:
        print("PASSED" if passed else "FAILED")
    if not passed:
        raise typer.Exit(1)
