"""Check the promises about the run time of compiled networks, measured by `rescompile.bench`.

- `onnx`: our ONNX files against those that torch.onnx.export writes for torchvision's and timm's networks, in ONNX
  Runtime;
- `compile`: our modules against torchvision's and timm's own, all under torch.compile;
- `plan`: the configuration that `rescompile bench --tune` finds in fp32, against eager torch in fp32;
- `reduced`: the same in any precision with an error of at most 5% against float64, promised only for CPUs with AMX.

Contenders are timed in at least 30 interleaved rounds, with a control: a second copy of the first of them. The
rounds are divided into sessions, for each of which all are prepared again, since the same program differs by up
to 1% from one preparation to the next. If the control is wider than 2%, the row is undecided.

A ratio of times keeps its promise of not being slower if the upper end of its 95% interval is at most 1.01, or 1
plus the half-width of the control's interval if that is more. It misses the promise if the lower end is above
that bound, and is undecided if the interval contains the bound: it then needs more sessions. The ratio of two
equal programs is 1 within the half-width of the control, so a bound of exactly that would be missed every second
time, however precise the measurement; equality therefore means within 1%. If ONNX Runtime makes the same kernels
of both files, with the same attributes and weight shapes, the row reads `same program` instead of undecided.
Speed-ups and their mean must keep their bounds with the lower ends of their intervals.

Peers' files are as their exporter writes them, which is what torchvision's users have; both have a fixed batch.

Exit code: 0 if every measured promise is kept; 1 if one is missed; 4 if one is undecided or could not be measured
because a package is missing. 130 after an interruption, with the finished rows in the file.

    python benchmarks/runtime.py --json runtime.json
"""

from __future__ import annotations

import math
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compile import chosen, machine, say
from pairs import LEAST_ROUNDS, Interval, Row, Times, arguments, judged, lacking, record, report, unmeasured

if TYPE_CHECKING:
    from rescompile.bench.results import BenchRow, Result

#: Peers with the same parameters and multiply-adds. timm's darknet53 has another slope, which takes the same time.
PEERS = {
    "resnet50": ("torchvision:resnet50", "timm:resnet50"),
    "resnext50_32x4d": ("torchvision:resnext50_32x4d", "timm:resnext50_32x4d"),
    "wide_resnet50_2": ("torchvision:wide_resnet50_2", "timm:wide_resnet50_2"),
    "densenet121": ("torchvision:densenet121", "timm:densenet121"),
    "preact_resnet50": ("timm:resnetv2_50",),
    "darknet53": ("timm:darknet53",),
}
BATCHES = (1, 8)
#: The runtime of each kind of measurement.
AGAINST_PEERS = {"onnx": "ort-cpu", "compile": "torch-cpu:compile"}
#: The precisions of each search, and its bounds at batch 1: for the geometric mean, and for each network.
SEARCHES = {"plan": ("fp32",), "reduced": ()}
BOUNDS: Mapping[str, tuple[float, float | None]] = {"plan": (1.7, 1.5), "reduced": (6.0, None)}
#: The accepted error: bfloat16 has eight bits and an error of 0.5% to 3% in these networks.
ACCURACY = 5e-2
#: Differences up to this count as equal.
EQUAL = 0.01
SLOT = 0.05


def names() -> list[str]:
    """Return the names of all measurements in order: batch 1, which has most promises, first."""
    kinds = (*AGAINST_PEERS, *SEARCHES)
    return [f"{network} {kind}, batch {batch}" for batch in BATCHES for kind in kinds for network in PEERS]


def measured(network: str, kind: str, batch: int, options: Any, folder: Path) -> Result:
    """Run bench for a network, against its peers or as a search for the fastest configuration. ONNX files are kept
    in `folder`."""
    import rescompile
    from rescompile.bench.benchmark import Bench
    from rescompile.bench.contenders import Request, TuneRequest
    from rescompile.bench.measuring import Plan

    changed = ["input=[3, 64, 64]"] if options.quick else []
    tree = rescompile.elaborate(rescompile.load(network, set=changed))
    sessions = options.sessions if kind in AGAINST_PEERS else 1  # 1% does not matter to a speed-up of 2
    rounds = LEAST_ROUNDS if options.quick else math.ceil(options.pairs / sessions)
    plan = Plan(rounds, slot=0.0 if options.quick else SLOT, sessions=sessions)
    if kind in AGAINST_PEERS:
        request = Request([tree], {}, PEERS[network], [AGAINST_PEERS[kind]], ["fp32"], [batch], plan)
    else:
        tune = TuneRequest(ACCURACY, {network: ["rescompile", "bench", network]})
        request = Request([tree], {}, (), _cpu_runtimes(), SEARCHES[kind], [batch], plan, tune=tune)
    bench = Bench(replace(request, control=True, threads=options.threads, clock=options.clock, keep=folder), say)
    with closing(bench.run()) as steps:
        for _ in steps:
            pass
    for problem in bench.problems:
        raise problem
    return bench.result


def kernels(path: Path) -> Counter[str]:
    """Return the kernels that ONNX Runtime makes of a file: operator, attributes and weight shapes of each."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = f"{folder}/optimized.onnx"
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        graph = onnx.load(options.optimized_model_filepath).graph
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    found: Counter[str] = Counter()
    for node in graph.node:
        given = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
        if given.get("dilations") == [1, 1]:  # the default
            del given["dilations"]
        weights = [shapes[name] for name in node.input if name in shapes]
        found[f"{node.domain} {node.op_type} {sorted(given.items())} {weights}"] += 1
    return found


def _cpu_runtimes() -> list[str]:
    from rescompile.bench.contenders import available_runtimes
    from rescompile.runtimes import RUNTIMES

    return [name for name in available_runtimes() if RUNTIMES[name].device == "cpu"]


def against_peers(name: str, result: Result, folder: Path) -> list[Row]:
    """Return the ratios of our times to those of each peer."""
    from rescompile.bench import statistics
    from rescompile.runtimes.onnx_graph import digest

    ours, *peers = result.rows
    files = {digest(path): path for path in folder.glob("*.onnx")}  # none under torch.compile
    rows = []
    for peer in peers:
        found, noise = plain(statistics.ratio(ours.times, peer.times)), control(result)
        row = Row(f"{name}: time of {peer.model}'s", found.value, "<=", 1.0, "x", found, noise)
        row = judged(row, 1.0 + max(EQUAL, noise.half_width))
        if row.verdict == "UNDECIDED" and files and kernels(files[ours.artifact]) == kernels(files[peer.artifact]):
            row = replace(row, verdict="same program")
        rows.append(row)
    return rows


def speed_up(name: str, result: Result, bound: float | None) -> Row:
    """Return the speed-up of the configuration with the smallest median over eager torch in fp32."""
    from rescompile.bench import statistics

    (base,) = (row for row in result.rows if (row.runtime, row.precision) == ("torch-cpu", "fp32"))
    best = fastest(result)
    title = f"{name}: speed-up by {best.runtime} in {best.precision}, error {best.error:.1e}"
    found = plain(statistics.ratio(base.times, best.times))
    row = Row(title, found.value, ">=", bound, "x", found, control(result))
    return row if bound is None else judged(row, bound)


def fastest(result: Result) -> BenchRow:
    """Return the row with the smallest median."""
    return min(result.rows, key=lambda row: row.summary.p50)


def control(result: Result) -> Interval:
    """Return the ratio of the first contender to its second copy."""
    (found,) = result.controls
    return plain(found.ratio)


def plain(found: Any) -> Interval:
    """Convert an interval of bench to one of these tables."""
    return Interval(found.value, found.low, found.high)


def mean(kind: str, rows: Sequence[Row]) -> Row:
    """Return the geometric mean of speed-ups at batch 1. Networks are measured independently, so the squared
    half-widths of their logarithms add up."""
    title = f"{kind}, batch 1: geometric mean of {len(rows)} networks"
    spans = [row.interval for row in rows if row.interval is not None]
    value = math.exp(sum(math.log(span.value) for span in spans) / len(spans))
    wide = math.hypot(*(math.log(span.high / span.low) / 2 for span in spans)) / len(spans)
    bound = BOUNDS[kind][0]
    row = Row(title, value, ">=", bound, "x", Interval(value, value / math.exp(wide), value * math.exp(wide)))
    if any(each.control is None or not each.control.good for each in rows) or len(rows) < len(PEERS):
        return replace(row, verdict="UNDECIDED")
    return judged(row, bound)


def amx() -> bool:
    """Return whether this CPU has AMX, instructions that multiply matrices of reduced precision."""
    from rescompile.runtimes.device import describe

    return any(feature.startswith("amx_") for feature in describe()["processor"]["features"])


def measure(options: Any, described: dict[str, Any]) -> tuple[dict[str, Times], list[Row], bool]:
    """Run all requested measurements; return samples, rows, and whether all were measured. The file is written after
    each group, so that Ctrl-C keeps what is finished."""
    from rescompile.diagnostics.errors import RescompileError

    samples: dict[str, Times] = {}
    rows: list[Row] = []
    sped: dict[str, list[Row]] = {kind: [] for kind in SEARCHES}
    has_amx = amx()
    for name in chosen(names(), options.only):
        title, batch = name.split(", batch ")
        network, kind = title.split()
        say(f"{name}: {options.pairs} rounds")
        with tempfile.TemporaryDirectory() as folder:
            try:
                result = measured(network, kind, int(batch), options, Path(folder))
            except RescompileError as error:  # the other measurements still run
                rows.append(unmeasured(name, f"not measured: {error.diagnostics[0].message}"))
                continue
            except KeyboardInterrupt:
                return samples, rows + means(sped, has_amx), False
            if kind in AGAINST_PEERS:
                rows += against_peers(name, result, Path(folder))
        samples[name] = {
            f"{row.model} on {row.runtime}, {row.precision}": [second for turn in row.samples for second in turn]
            for row in result.rows
        }
        if kind in SEARCHES:
            promised = int(batch) == 1 and (kind != "reduced" or has_amx)
            rows.append(speed_up(name, result, BOUNDS[kind][1] if promised else None))
            if int(batch) == 1:
                sped[kind].append(rows[-1])
        record(options, described, samples, rows + means(sped, has_amx))
    return samples, rows + means(sped, has_amx), True


def means(sped: Mapping[str, Sequence[Row]], has_amx: bool) -> list[Row]:
    """Return the mean of each search that was run."""
    made = {kind: mean(kind, rows) for kind, rows in sped.items() if rows}
    return [
        row if kind != "reduced" or has_amx else replace(row, bound=None, verdict="no AMX")
        for kind, row in made.items()
    ]


def main() -> int:
    """Measure, print both tables, write the JSON file, and return the exit code."""
    options = arguments(__doc__ or "", pairs=50, sessions=10)
    described = machine()
    needed = ("rescompile", "torch", "torchvision", "timm", "onnxruntime", "scipy")
    if rows := lacking(needed, chosen(names(), options.only)):
        return report(options, described, {}, rows)
    import torch

    torch.set_num_threads(options.threads)
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    described["processors_allowed"] = cores
    samples, rows, whole = measure(options, described)
    code = report(options, described, samples, rows)
    return code if whole else 130


if __name__ == "__main__":
    sys.exit(main())
