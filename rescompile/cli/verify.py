"""`verify`: whether targets and runtimes compute what the spec means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from rescompile.cli.command import command
from rescompile.cli.options import (
    FeaturesOption,
    Format,
    FormatOption,
    JsonOption,
    SetOption,
    SpecArgument,
    option,
    with_options,
    with_passes,
    words,
)
from rescompile.cli.reporting import print_json, say
from rescompile.cli.specs import elaborated
from rescompile.diagnostics.errors import Diagnostic, Unavailable, UsageError

if TYPE_CHECKING:
    from rescompile.runtimes.verify import Verdict


@dataclass(frozen=True, slots=True)
class Options:
    """The options of `verify` that no other command has."""

    targets: str | None = option("Targets to verify, such as onnx,torch. Default: all; none with --runtime.")
    runtime: str | None = option("Runtimes to verify, such as ort-cpu,torch-cpu:compile. Not with --dynamic.")
    precision: str | None = option("Precisions of the runtimes, such as fp32,bf16. Default: fp32.")
    weights: str | None = option("Weights to verify with. Default: random, norms calibrated.", metavar="FILE")
    seed: int = option("Seed of random weights and of the input.", 0, min=0)
    batch: int = option("Batch size.", 2, min=1)
    dynamic: str | None = option("Make image axes dynamic: height,width or one. Not with --runtime.", metavar="AXES")

    def check(self) -> None:
        """Raise UsageError where options cannot be used together."""
        if self.precision is not None and self.runtime is None:
            message = "--precision needs --runtime: targets are compared in fp32"
            raise UsageError(Diagnostic("E0802", message, help="add a runtime, such as --runtime ort-cpu"))
        if self.dynamic is not None and self.runtime is not None:
            message = "--dynamic and --runtime cannot be used together: the file for a runtime has one image size"
            raise UsageError(Diagnostic("E0802", message))


@with_passes
@with_options(Options)
@command
def verify(
    spec: SpecArgument,
    options: Options,
    set: SetOption = None,
    features: FeaturesOption = None,
    as_json: JsonOption = False,
    format: FormatOption = Format.text,
    *,
    passes: dict[str, Any],
) -> None:
    """Compare the outputs of targets and runtimes with the float64 interpreter, on the same weights.

    The tolerance is three times the interpreter's error in the same precision. With --dynamic, these axes are dynamic and targets
    are tested at a size other than the spec's.
    """
    from rescompile.runtimes.verify import Request, verify

    runtimes = words("runtime", options.runtime) if options.runtime is not None else []
    precisions = words("precision", "fp32" if options.precision is None else options.precision)
    targets = words("targets", options.targets) if options.targets is not None else [] if runtimes else _evaluable()
    _, network = elaborated(spec, set, features)
    weights = None
    if options.weights is not None:
        from rescompile.weights import checkpoints

        weights = checkpoints.load(options.weights, network, say)
    options.check()
    request = Request(
        network, targets, options.seed, options.batch, weights, passes, runtimes, precisions, options.dynamic
    )
    shape = list(request.shape)
    if options.dynamic is not None and not as_json:
        print(f"input {shape}")
    verdicts: list[Verdict] = []
    for verdict in verify(request):
        if not as_json:
            _print(verdict, runtimes, first=not verdicts)
        verdicts.append(verdict)
    passed = all(verdict.passed for verdict in verdicts)
    if as_json:
        rows = [_row(verdict) for verdict in verdicts]
        print_json({"name": network.name, "input": shape, "passed": passed, "targets": rows})
    else:
        print("PASSED" if passed else "FAILED")
    if not passed:
        raise typer.Exit(1)


def _row(verdict: Verdict) -> dict[str, Any]:
    """A verdict as data."""
    names = ("target", "runtime", "precision", "error", "bound", "passed", "first", "facts")
    return {name: getattr(verdict, name) for name in names}


def _evaluable() -> list[str]:
    """Every target whose artifacts can be evaluated here; people are told why the others cannot. Raises Unavailable where
    there is none."""
    from rescompile import backend

    found = {target: backend.missing(target, evaluation=True) for target in backend.targets()}
    lacking = {target: reason for target, reason in found.items() if reason is not None}
    for target, reason in lacking.items():
        say(f"{target} is not verified: {reason.message}" + (f" ({reason.help})" if reason.help else ""))
    if len(lacking) == len(found):
        raise Unavailable(Diagnostic("E0901", "no target can be evaluated here", help="pip install 'rescompile[run]'"))
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
