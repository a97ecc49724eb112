"""`verify`: whether what is compiled computes what it should."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from rescompile.cli.common import (
    FeaturesOption,
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


@with_passes
@command
def verify(
    spec: SpecArgument,
    targets: Annotated[str, typer.Option(help="Which targets to compare, separated by commas.")] = "onnx,torch,source",
    weights: Annotated[
        str | None, typer.Option(metavar="FILE", help="Weights to verify with. Default: seeded ones, calibrated.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights and input.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Size of the batch.")] = 2,
    set: SetOption = None,
    features: FeaturesOption = None,
    as_json: JsonOption = False,
    format: FormatOption = Format.text,
    *,
    passes: dict[str, Any],
) -> None:
    """Compare each target with float64 on the CPU: its error may be three times that of float32 torch."""
    from rescompile.verification import verify as verdicts

    _, network = elaborated(spec, set, features)
    loaded = None
    if weights is not None:
        from rescompile import checkpoints

        loaded = checkpoints.load(weights, network, say)
    names = [name.strip() for name in targets.split(",")]
    found = []
    if not as_json:
        print(f"{'target':<8}  {'error':>9}  {'bound':>9}")
    for verdict in verdicts(network, names, seed, batch, loaded, passes):
        found.append(verdict)
        if not as_json:
            where = f"  first in {verdict.first}" if verdict.first else ""
            print(
                f"{verdict.target:<8}  {verdict.error:9.2e}  {verdict.bound:9.2e}  {'ok' if verdict.passed else 'differs'}{where}"
            )
    passed = all(verdict.passed for verdict in found)
    if as_json:
        listed = [
            {"target": v.target, "error": v.error, "bound": v.bound, "passed": v.passed, "first": v.first}
            for v in found
        ]
        print_json({"name": network.name, "passed": passed, "targets": listed})
    else:
        print("PASSED" if passed else "FAILED")
    if not passed:
        raise typer.Exit(1)
