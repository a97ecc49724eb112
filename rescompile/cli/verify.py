"""`verify`: whether what is compiled computes what it should."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

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
from rescompile.diagnostics.errors import Diagnostic, Unavailable, UsageError

if TYPE_CHECKING:
    from rescompile.runtimes.verify import Verdict


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
    from rescompile.runtimes.verify import Request, verify

    runtimes = words("runtime", runtime) if runtime is not None else []
    precisions = words("precision", "fp32" if precision is None else precision)
    chosen = words("targets", targets) if targets is not None else [] if runtimes else _installed()
    _, network = elaborated(spec, set, features)
    loaded = None
    if weights is not None:
        from rescompile.weights import checkpoints

        loaded = checkpoints.load(weights, network, say)
    if precision is not None and not runtimes:
        raise UsageError(Diagnostic("E0802", "--precision is that of runtimes", help="say which: --runtime ort-cpu"))
    if dynamic is not None and runtimes:
        message = "--dynamic and --runtime exclude one another: a runtime is given a file of one size"
        raise UsageError(Diagnostic("E0802", message))
    request = Request(network, chosen, seed, batch, loaded, passes, runtimes, precisions, dynamic)
    shape = list(request.shape)
    if dynamic is not None and not as_json:
        print(f"input {shape}")
    verdicts: list[Verdict] = []
    for verdict in verify(request):
        if not as_json:
            _print(verdict, runtimes, first=not verdicts)
        verdicts.append(verdict)
    passed = all(verdict.passed for verdict in verdicts)
    if as_json:
        listed = [
            {
                "target": v.target, "runtime": v.runtime, "precision": v.precision, "error": v.error, "bound": v.bound,
                "passed": v.passed, "first": v.first, "facts": v.facts,
            }
            for v in verdicts
        ]  # fmt: skip
        print_json({"name": network.name, "input": shape, "passed": passed, "targets": listed})
    else:
        print("PASSED" if passed else "FAILED")
    if not passed:
        raise typer.Exit(1)


def _installed() -> list[str]:
    """Every target that can be verified here; what others lack is reported. Raises Unavailable where there is none."""
    from rescompile import backend

    found = {target: backend.missing(target, evaluation=True) for target in backend.targets()}
    lacking = {target: reason for target, reason in found.items() if reason is not None}
    for target, reason in lacking.items():
        say(f"{target} is not verified: {reason.message}" + (f" ({reason.help})" if reason.help else ""))
    if len(lacking) == len(found):
        raise Unavailable(Diagnostic("E0901", "no target can be verified here", help="pip install 'rescompile[run]'"))
    return [target for target in found if target not in lacking]


def _print(verdict: Verdict, runtimes: list[str], first: bool) -> None:
    """One row of the table, below its head if it is the first."""
    ending = ("ok" if verdict.passed else "differs") + (f"  first in {verdict.first}" if verdict.first else "")
    figures = f"{verdict.error:9.2e}  {verdict.bound:9.2e}  {ending}"
    rows = [("target", "runtime", "precision", f"{'error':>9}  {'bound':>9}")] if first else []
    rows.append((verdict.target, verdict.runtime or "", verdict.precision, figures))
    width = max(map(len, ("runtime", *runtimes)))
    for target, runtime, precision, rest in rows:
        where = f"{runtime:<{width}}  {precision:<{len('precision')}}  " if runtimes else ""
        print(f"{target:<8}  {where}{rest}")
