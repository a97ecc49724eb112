"""Check the promise of `rescompile predict`: that it ranks networks by their time.

Single ops are measured on this machine, as by `rescompile predict --measure`. Then random specs are drawn whose
multiply-adds are within a factor of four: blocks of the zoo with other depths, widths, cardinalities, kernels,
bottleneck ratios and resolutions. They are timed in ONNX Runtime in interleaved rounds, and their order is
compared with that by predicted time, multiply-adds and parameters.

- Spearman's correlation of predicted and measured time is at least 0.9;
- it is larger than those of multiply-adds and of parameters; all intervals are bootstrap intervals over specs.

Exit code: 0 if every promise is kept; 1 if one is missed; 4 if a package is missing.

    python benchmarks/predict.py --json predict.json
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compile import machine, say
from pairs import Interval, Row, Times, arguments, judged, lacking, report

if TYPE_CHECKING:
    from rescompile.ir.network import Network

SPECS, LEAST_MACS, FACTOR, SEED = 50, 4e8, 4, 0
#: A block with its kernel size as a parameter, which the zoo lacks.
KERNELS = """\
rescompile: 1
name: kernels
input: [3, 128, 128]
block: wide_kernel
blocks:
  wide_kernel:
    stage: true
    parameters: {width: int, kernel: 5, stride: {default: 1, only: first}}
    body:
      - conv1: {conv: {channels: width, kernel: kernel, stride: stride}}
      - norm
      - act
network:
  - imagenet_stem
  - layer1: {depth: 2, width: 32}
  - layer2: {depth: 2, width: 64, stride: 2}
  - layer3: {depth: 2, width: 128, stride: 2}
  - layer4: {depth: 2, width: 256, stride: 2}
  - {block: classifier, classes: 1000}
"""


def settings(draw: random.Random) -> tuple[str, list[str]]:
    """Return the name of a zoo spec, or of KERNELS, and random settings for it."""
    kind = draw.choice(("bottleneck", "grouped", "basic", "preact", "dense", "kernels", "separable"))
    side = draw.choice((96, 128, 160, 192, 224, 256))
    changed = [f"input=[3, {side}, {side}]"]
    if kind == "separable":
        return "mobilenet_v1", changed
    if kind == "dense":
        growth = draw.choice((16, 24, 32, 40, 48))
        depths = [draw.randint(2, 8), draw.randint(4, 12), draw.randint(6, 24), draw.randint(4, 16)]
        blocks = [f"features.denseblock{at}.depth={depth}" for at, depth in enumerate(depths, 1)]
        return "densenet121", [*changed, f"parameters.k={growth}", *blocks]
    width, shared = draw.choice((16, 24, 32, 48, 64, 80, 96)), []
    if kind == "grouped":
        cardinality, base = draw.choice(((32, 4), (16, 8), (8, 16), (4, 32), (2, 40), (32, 8)))
        shared = [f"cardinality={cardinality}", f"base_width={base}"]
        width = draw.choice((32, 64))
    if kind in ("bottleneck", "preact"):
        shared = [f"expansion={draw.choice((2, 4))}"]
    if kind == "kernels":
        shared = [f"kernel={draw.choice((3, 5, 7))}"]
    for layer in range(1, 5):
        depth = draw.randint(1, 6 if layer == 3 else 4)
        values = [f"depth={depth}", f"width={width * 2 ** (layer - 1)}", *shared]
        changed += [f"layer{layer}.{value}" for value in values]
    names = {"bottleneck": "resnet50", "grouped": "resnet50", "basic": "resnet18", "preact": "preact_resnet50"}
    return names.get(kind, "kernels"), changed


def drawn(count: int, folder: Path) -> list[tuple[str, Network]]:
    """Draw random networks with multiply-adds in the range, each with its spec and settings as a title."""
    import rescompile
    from rescompile.analysis.cost import cost

    (folder / "kernels.yaml").write_text(KERNELS)
    draw, found, seen = random.Random(SEED), [], set()
    while len(found) < count:
        name, changed = settings(draw)
        title = " ".join([name, *changed])
        network = rescompile.elaborate(
            rescompile.load(str(folder / "kernels.yaml") if name == "kernels" else name, set=changed)
        )
        if title not in seen and LEAST_MACS <= cost(network).macs <= FACTOR * LEAST_MACS:
            found.append((title, network))
            seen.add(title)
    return found


def timed(networks: Sequence[tuple[str, Network]], options: Any, folder: Path) -> Times:
    """Return the seconds of each network from interleaved rounds."""
    from rescompile.bench.measuring import Plan, Timing, measure
    from rescompile.bench.statistics import WarmUp
    from rescompile.bench.timed_models import inputs
    from rescompile.runtimes import RUNTIMES
    from rescompile.runtimes.jobs import job
    from rescompile.weights.batch_statistics import trial

    runtime, timing = RUNTIMES["ort-cpu"], Timing()
    plan = Plan(options.pairs, slot=0.0, warm_up=WarmUp(window=2, runs=10, seconds=1.0))
    with ExitStack() as stack:
        contenders = {}
        for title, network in networks:
            x = inputs(network.input, 1, SEED)
            work = job(runtime, network, trial(network, SEED), x, "fp32", folder, options.threads)
            contenders[title] = stack.enter_context(closing(runtime.prepare(work, {})))
        for done in measure(contenders, plan, timing, options.clock):
            say(f"round {done} of {plan.rounds}")
    return {title: [s for turn in timing.samples(title) for s in turn] for title, _ in networks}


def spearman(first: Any, second: Any, samples: Any) -> Any:
    """Return Spearman's rank correlation (1904) for each resample, a row of indices; NaN where all values of one
    variable are equal."""
    import numpy as np
    from scipy.stats import rankdata

    ranks = [rankdata(np.asarray(values)[samples], axis=-1) for values in (first, second)]
    a, b = (each - each.mean(axis=-1, keepdims=True) for each in ranks)
    with np.errstate(invalid="ignore"):
        return (a * b).sum(axis=-1) / np.sqrt((a * a).sum(axis=-1) * (b * b).sum(axis=-1))


def ranking(times: Times, networks: Sequence[tuple[str, Network]], predicted: Sequence[float]) -> list[Row]:
    """Return the rows of the three correlations and of the two differences, with bootstrap intervals over specs."""
    import numpy as np

    from rescompile.analysis.cost import cost
    from rescompile.bench.statistics import RESAMPLES

    measured = [statistics.median(times[title]) for title, _ in networks]
    whole = np.arange(len(measured))[None]
    samples = np.random.default_rng(SEED).integers(0, len(measured), (RESAMPLES, len(measured)))
    ranked = {
        "predicted time": predicted,
        "multiply-adds": [cost(network).macs for _, network in networks],
        "parameters": [cost(network).parameters for _, network in networks],
    }
    found = {name: (spearman(v, measured, whole), spearman(v, measured, samples)) for name, v in ranked.items()}

    def interval(value: Any, drawn: Any) -> Interval:
        return Interval(float(value[0]), *(float(bound) for bound in np.nanquantile(drawn, (0.025, 0.975))))

    rows = []
    for name, (value, drawn) in found.items():
        span = interval(value, drawn)
        bound, verdict = (0.9, "ok" if span.value >= 0.9 else "MISSED") if name == "predicted time" else (None, "shown")
        rows.append(Row(f"Spearman of measured time and {name}", span.value, ">=", bound, "", span, verdict=verdict))
    ours, drawn = found["predicted time"]
    for other in ("multiply-adds", "parameters"):
        span = interval(ours - found[other][0], drawn - found[other][1])
        rows.append(judged(Row(f"more than that of {other} by", span.value, ">", 0.0, "", span), 0.0))
    return rows


def main() -> int:
    """Measure ops and networks, print the tables, write the JSON file, and return the exit code."""
    options = arguments(__doc__ or "", pairs=30, parts=False)
    described = machine()
    if rows := lacking(("rescompile", "torch", "onnxruntime", "scipy"), ["ranking"]):
        return report(options, described, {}, rows)
    from rescompile.bench import op_times
    from rescompile.bench.predicting import Predictor

    say("single ops")
    probes = op_times.design()
    device = op_times.described(list(op_times.measure(probes, options.threads)), options.threads)
    predictor = Predictor(device)
    with tempfile.TemporaryDirectory(prefix="predict-benchmark-") as name:
        networks = drawn(6 if options.quick else SPECS, Path(name))
        predicted = [sum(predictor.network(network).values()) for _, network in networks]
        times = timed(networks, options, Path(name))
    samples = {
        title: {"measured": times[title], "predicted": [seconds]}
        for (title, _), seconds in zip(networks, predicted, strict=True)
    }
    return report(options, described, samples, ranking(times, networks, predicted))


if __name__ == "__main__":
    sys.exit(main())
