"""Measure the options behind the recipes of `--for` and the int8 schemes on a CPU: which options make an ONNX file
load or run faster.

Files of one network with the same weights are timed in one process, with a control: a second copy of the plain
file. Loading is the creation of a session; running is one inference of batch 1 on one thread. Rejected int8
schemes are shown as well: merges, pools, concatenations and norms quantised too (`everything`), and signed
activations (`signed`).

Networks with grouped convolutions are measured with the pass `--join-groups` too: 16 channels per group in
float32, the block of ONNX Runtime's blocked layout with AVX-512, and 32 in int8, relative to the int8 file with
the spec's groups.

Exit code: 0 if every promise is kept; 1 if one is missed; 4 if one is undecided.

    python benchmarks/recipes.py --cpu-time --json recipes.json
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from compile import chosen, machine
from pairs import WORST_CONTROL, Clock, Row, Times, arguments, interleave, report, timed, unmeasured

import rescompile
from rescompile.diagnostics.errors import RescompileError
from rescompile.quantize import calibration, quantizer
from rescompile.quantize.quantizer import Scheme
from rescompile.runtimes import RUNTIMES, Job
from rescompile.weights.batch_statistics import trial

NETWORKS = ("resnet50", "densenet121", "darknet53")
#: Networks with groups of 2 to 16 channels, one of which does not divide evenly, and the channels to join groups to.
GROUPED = ("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d", "resnext50_8x14d", "darknet_resnext50")
CHANNELS = {"fp32": 16, "int8": 32}
ON = ("ort-cpu", "openvino")
INPUTS = 4  # for calibration, which does not affect times
EVERYTHING = (
    "Conv",
    "Gemm",
    "MatMul",
    "Add",
    "MaxPool",
    "AveragePool",
    "GlobalAveragePool",
    "Concat",
    "BatchNormalization",
)
OTHERS = {"everything": Scheme("QUInt8", EVERYTHING), "signed": Scheme("QInt8", ("Conv", "Gemm", "MatMul"))}
#: Promised ratios to the plain file. Loading times vary too much for a control within 2%, so they are shown without a
#: promise. Running is promised to be no slower, within the deviation allowed to a control.
LOADING: Mapping[str, float | None] = {"folded": None, "batch 1": None}
RUNNING: Mapping[str, float | None] = {
    "folded": 1 + WORST_CONTROL, "batch 1": None, "int8": 0.7, "everything": None, "signed": None,
}  # fmt: skip
#: Joined groups relative to separate ones; `--for ort-cpu` joins them in int8 files, for which no loss is promised.
JOINING: Mapping[str, tuple[str, str, float | None]] = {
    "16 channels in a group": ("joined", "folded", None),
    "int8, 32 channels in a group": ("joined int8", "int8", 1 + WORST_CONTROL),
}


def written(name: str, folder: Path) -> dict[str, Path]:
    """Write the variants of a network's file, and return their paths by variant."""
    network = rescompile.elaborate(rescompile.load(name))
    weights = trial(network, 0)
    options: dict[str, dict[str, Any]] = {
        "plain": {}, "control": {}, "folded": {"fold_batchnorm": True}, "batch 1": {"batch": 1},
        "int8": {"precision": "int8", "calibrate": INPUTS},
    }  # fmt: skip
    files = {}
    for title, given in options.items():
        files[title] = folder / f"{name}_{title}.onnx"
        rescompile.build(network, "onnx", weights, **given).write(files[title])
    data = calibration.drawn(network.input, INPUTS, 0)
    for title, scheme in OTHERS.items():
        model = quantizer.convert(files["folded"], (make() for make in data.calibration), scheme, name)
        files[title] = folder / f"{name}_{title}.onnx"
        files[title].write_bytes(model.SerializeToString())
    return files


def written_joined(name: str, folder: Path) -> dict[str, Path]:
    """Write the files of a network with grouped convolutions, joined and not, all with folded norms."""
    network = rescompile.elaborate(rescompile.load(name))
    weights = trial(network, 0)
    int8 = {"precision": "int8", "calibrate": INPUTS}
    options: dict[str, dict[str, Any]] = {
        "folded": {}, "control": {}, "joined": {"join_groups": CHANNELS["fp32"]},
        "int8": int8, "joined int8": {**int8, "join_groups": CHANNELS["int8"]},
    }  # fmt: skip
    files = {title: folder / f"{name}_{title}.onnx" for title in options}
    for title, given in options.items():
        rescompile.build(network, "onnx", weights, fold_batchnorm=True, **given).write(files[title])
    return files


def loader(runtime: str, path: Path) -> Callable[[], object]:
    """Return a function that creates a session of a file with the runtime's own library."""
    if runtime == "openvino":
        import openvino

        core = openvino.Core()
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}

        def load() -> object:
            model = core.read_model(str(path))
            model.reshape([1, *(size.get_length() for size in list(model.inputs[0].partial_shape)[1:])])
            return core.compile_model(model, "CPU", settings)

        return load
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return lambda: onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def runners(name: str, runtime: str, files: Mapping[str, Path]) -> dict[str, Callable[[], object]]:
    """Return one inference of each file, after checking that it runs in the file's precision."""
    size = rescompile.elaborate(rescompile.load(name)).input
    x = np.random.default_rng(0).standard_normal((1, *size), np.float32)
    found: dict[str, Callable[[], object]] = {}
    for title, path in files.items():
        precision = "int8" if title in ("int8", "joined int8", *OTHERS) else "fp32"
        found[title] = RUNTIMES[runtime].prepare(Job(name, path, None, x, precision, 1), {}).run
    return found


def measured(name: str, runtime: str, rounds: int, clock: Clock, samples: dict[str, Times]) -> list[Row]:
    """Measure one network in one runtime, and return its rows."""
    label = f"{name} in {runtime}"
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        files = written(name, Path(folder))
        loading = {title: loader(runtime, files[title]) for title in ("plain", "control", *LOADING)}
        for what, contenders, bounds in (
            ("loading", loading, LOADING),
            ("running", runners(name, runtime, files), RUNNING),
        ):
            times = samples[f"{label}, {what}"] = interleave(contenders, rounds, f"{label}, {what}", clock)
            for title, bound in bounds.items():
                promise = f"{label}, {what}: {title} / plain"
                rows.append(timed(promise, times, title, "plain", ("control", "plain"), bound))
    return rows


def measured_joined(name: str, runtime: str, rounds: int, clock: Clock, samples: dict[str, Times]) -> list[Row]:
    """Measure one network with grouped convolutions in one runtime, and return its rows. The bounds apply to ONNX
    Runtime on CPUs only, whose recipe includes the pass."""
    label = f"{name} in {runtime}, running"
    with tempfile.TemporaryDirectory() as folder:
        contenders = runners(name, runtime, written_joined(name, Path(folder)))
        times = samples[label] = interleave(contenders, rounds, label, clock)
    return [
        timed(f"{label}: {what}", times, ours, base, ("control", "folded"), bound if runtime == "ort-cpu" else None)
        for what, (ours, base, bound) in JOINING.items()
    ]


def main() -> int:
    """Run the requested measurements, and report."""
    options = arguments(__doc__ or "", 30)
    samples: dict[str, Times] = {}
    rows: list[Row] = []
    for label in chosen([f"{name} in {runtime}" for name in (*NETWORKS, *GROUPED) for runtime in ON], options.only):
        name, _, runtime = label.partition(" in ")
        why = RUNTIMES[runtime].missing()
        if why is not None:
            rows.append(unmeasured(label, why))
            continue
        try:
            measure = measured_joined if name in GROUPED else measured
            rows += measure(name, runtime, options.pairs, options.clock, samples)
        except RescompileError as error:
            rows.append(unmeasured(label, error.diagnostics[0].message))
    return report(options, machine(), samples, rows)


if __name__ == "__main__":
    sys.exit(main())
