"""`verify`: checks whether targets and runtimes compute what the spec means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from rescompile.cli.command import command
from rescompile.cli.options import (
    FeaturesOption,
    FormatOption,
    JsonOption,
    Passes,
    Selection,
    SetOption,
    SpecArgument,
    option,
    words,
)
from rescompile.cli.progress import track
from rescompile.cli.reporting import clear, columns, print_json, say
from rescompile.cli.specs import elaborated
from rescompile.diagnostics.errors import Diagnostic, Unavailable, UsageError
from rescompile.diagnostics.text_table import table_rows, text_table
from rescompile.records import record

if TYPE_CHECKING:
    from rescompile.runtimes.verify import Verdict


@record
class Options:
    """The options that only `verify` has."""

    targets: str | None = option("Targets to verify, such as onnx,torch. Default: all; none with --runtime.")
    runtime: str | None = option("Runtimes to verify, such as ort-cpu,torch-cpu:compile. Not with --dynamic.")
    precision: str | None = option("Precisions of the runtimes, such as fp32,bf16. Default: fp32.")
    weights: str | None = option("Weights to verify with. Default: random, norms calibrated.", metavar="FILE")
    seed: int = option("Seed of random weights and of the input.", 0, min=0)
    batch: int = option("Batch size.", 2, min=1, max=1 << 20)
    dynamic: str | None = option("Make axes dynamic, such as height,width. Not with --runtime.", metavar="AXES")
    parts: bool = option("Report the error of each part too.", False, "--parts")

    def check(self) -> None:
        """Raise UsageError if options cannot be used together."""
        if self.precision is not None and self.runtime is None:
            message = "--precision needs --runtime: targets are compared in fp32"
            raise UsageError.of("E0802", message, help="add a runtime, such as --runtime ort-cpu")
        if self.dynamic is not None and self.runtime is not None:
            message = "--dynamic and --runtime cannot be used together: the file for a runtime has one image size"
            raise UsageError.of("E0802", message)


@command
def verify(
    spec: SpecArgument,
    options: Options,
    selection: Selection,
    set: SetOption = None,
    features: FeaturesOption = None,
    as_json: JsonOption = False,
    format: FormatOption = "text",
    *,
    passes: Passes,
) -> None:
    """Compare the outputs of targets and runtimes with a reference.

    The reference is the float64 interpreter on the same weights, and the tolerance is three times its error in the same
    precision. With --dynamic, these axes are dynamic and targets are tested at a size other than the spec's.
    """
    from rescompile.runtimes.verify import Request, conclusion, verify

    runtimes = words("runtime", options.runtime) if options.runtime is not None else []
    precisions = words("precision", "fp32" if options.precision is None else options.precision)
    targets = words("targets", options.targets) if options.targets is not None else [] if runtimes else _evaluable()
    _, network = elaborated(spec, set, features)
    weights = None
    if (file := selection.of(options.weights)) is not None:
        from rescompile.weights import checkpoints

        weights = checkpoints.load(file, network, say)
    options.check()
    request = Request(
        network, targets, options.seed, options.batch, weights, passes, runtimes, precisions, options.dynamic,
        options.parts, None if options.targets is not None else _not_verified,
    )  # fmt: skip
    shape = list(request.shape)
    if options.dynamic is not None and not as_json:
        print(f"input {shape}")
    verdicts: list[Verdict] = []
    for verdict in track(verify(request), len(targets) + len(runtimes) * len(precisions), "comparisons"):
        if not as_json:
            clear()
            _print(verdict, runtimes, first=not verdicts)
        verdicts.append(verdict)
    if not verdicts:
        raise Unavailable.of("E0901", f"no target that can be evaluated here supports {network.name}")
    passed = all(verdict.passed for verdict in verdicts)
    if as_json:
        rows = [_row(verdict) for verdict in verdicts]
        report = {"passed": passed, "targets": rows, "conclusion": list(conclusion(verdicts))}
        print_json({"name": network.name, "sha256": network.sha256, "input": shape, **report})
    else:
        for line in conclusion(verdicts):
            print(line)
        print("PASSED" if passed else "FAILED")
    if not passed:
        raise typer.Exit(1)


def _row(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as data for JSON."""
    names = ("target", "runtime", "precision", "error", "bound", "passed", "status", "first", "facts", "parts")
    return {name: getattr(verdict, name) for name in names}


def _evaluable() -> list[str]:
    """Return every target whose artifacts can be evaluated here; a note is printed for each of the others. Raises
    Unavailable if there is none."""
    from rescompile import backend

    found = {target: backend.missing(target, evaluation=True) for target in backend.targets()}
    lacking = {target: reason for target, reason in found.items() if reason is not None}
    for target, reason in lacking.items():
        _not_verified(target, reason)
    if len(lacking) == len(found):
        raise Unavailable.of("E0901", "no target can be evaluated here", help="pip install 'rescompile[run]'")
    return [target for target in found if target not in lacking]


def _not_verified(target: str, reason: Diagnostic) -> None:
    """Print why a target is left out."""
    say(f"{target} is not verified: {reason.message}" + (f" ({reason.help})" if reason.help else ""))


def _print(verdict: Verdict, runtimes: list[str], first: bool) -> None:
    """Print one row of the table, preceded by the header if it is the first."""
    where = f"  first in {verdict.first}" if verdict.first and verdict.status != "not compared" else ""
    figures = (f"{verdict.error:.2e}", f"{verdict.bound:.2e}", f"{verdict.status}{where}")
    names, run = (["runtime", "precision"], [verdict.runtime or "", verdict.precision]) if runtimes else ([], [])
    least = (8, *((max(map(len, ("runtime", *runtimes))), len("precision")) if runtimes else ()), 9, 9)
    rows = [["target", *names, "error", "bound", ""], [verdict.target, *run, *figures]]
    for lines in table_rows(rows, f"<{'<' * len(names)}>><", columns(), least=least)[not first :]:
        print("\n".join(lines))
    errors = [(f"  {name}", f"{error:.2e}") for name, error in (verdict.parts or {}).items()]
    for line in text_table(errors, "<>", columns(), head=False):
        print(line)
