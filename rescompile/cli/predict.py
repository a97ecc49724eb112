"""`predict`: predicts how long networks take on a device, from times of single ops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rescompile.cli.command import command
from rescompile.cli.options import ForceOption, FormatOption, JsonOption, SetOption
from rescompile.cli.progress import track
from rescompile.cli.reporting import check_output, print_json, say, table
from rescompile.cli.specs import elaborated
from rescompile.diagnostics.errors import UsageError

if TYPE_CHECKING:
    from rescompile.bench.predicting import Device


@command
def predict(
    specs: Annotated[
        list[str] | None,
        typer.Argument(metavar="SPEC...", help="Spec files (with a / or .yaml) or zoo names."),
    ] = None,
    device_file: Annotated[
        str | None, typer.Option("--device-file", metavar="FILE", help="Device file to predict for.")
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure this machine and write the device file first (half a minute).")
    ] = False,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, max=65_535, help="With --measure, use this many CPU threads. Default: the runtime's choice."
        ),
    ] = None,
    set: SetOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
    format: FormatOption = "text",
) -> None:
    """Predict the latency of one input without running a network.

    The prediction is for ONNX Runtime on a CPU.
    """
    from rescompile.analysis.cost import cost
    from rescompile.bench import predicting, statistics

    if device_file is None:
        help = "rescompile predict --measure --device-file FILE measures this machine"
        raise UsageError.of("E0802", "--device-file is missing", help=help)
    if not specs and not measure:
        raise UsageError.of("E0802", "neither a SPEC nor --measure is given")
    if threads is not None and not measure:
        raise UsageError.of("E0802", "--threads needs --measure: a device file has its own number of threads")
    networks = [elaborated(spec, set)[1] for spec in track(specs or (), len(specs or ()), "networks")]
    statistics.require()
    path = Path(device_file)
    device = _measured(path, threads, force) if measure else predicting.read(path)
    predictor = predicting.Predictor(device)
    rows = []
    for network in networks:
        parts, total = predictor.network(network), cost(network)
        rows.append(
            {"network": network.name, "milliseconds": 1e3 * sum(parts.values()), "macs": total.macs,
             "parameters": total.parameters, "parts": {name: 1e3 * seconds for name, seconds in parts.items()}}
        )  # fmt: skip
    if as_json:
        print_json({"runtime": device.runtime, "threads": device.threads, "rows": rows})
    elif rows:
        print(_table(device, rows))


def _table(device: Device, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the predictions as a Markdown table, with the regimes that take the most time."""
    name = (device.machine.get("processor") or {}).get("name", "unknown CPU")
    threads = "" if device.threads is None else f", {device.threads} thread{'s' if device.threads > 1 else ''}"
    lines = [f"{device.runtime} on {name}{threads}, one input; ops measured {device.measured[:10]}", ""]
    listed = [["network", "predicted ms", "MACs", "parameters", "dominated by"]]
    for row in rows:
        parts, total = row["parts"], row["milliseconds"]
        most = sorted(parts, key=lambda part: -parts[part])[:3]
        shares = ", ".join(f"{part} {parts[part] / total:.0%}" for part in most)
        listed.append([row["network"], f"{total:.3g}", f"{row['macs']:,}", f"{row['parameters']:,}", shares])
    return "\n".join([*lines, *table(listed, "<>>><")])


def _measured(path: Path, threads: int | None, force: bool) -> Device:
    """Measure single ops into a file, after checking that it can be written."""
    from rescompile.bench import json_files, op_times

    check_output(path, force)
    probes = op_times.design()
    ops = list(track(op_times.measure(probes, threads), len(probes), "ops"))
    device = op_times.described(ops, threads)
    json_files.write(device, path, force)
    say(f"{path}: {len(ops)} ops written")
    return device
