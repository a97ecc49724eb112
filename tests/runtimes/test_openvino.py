"""Built files in OpenVINO itself: every family of ops in float32 against the interpreter, bfloat16 and int8 where
the CPU supports them, and the commands that use it.

The handling of OpenVINO's reports is tested with stand-ins in test_runtimes.py, which needs no OpenVINO.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cpu import INT8_SATURATES
from differential import Case, prepared, rms
from typer.testing import CliRunner

import rescompile
from rescompile.bench import equivalent_commands
from rescompile.bench.timed_models import inputs
from rescompile.cli import app
from rescompile.diagnostics.errors import Unavailable, UsageError
from rescompile.ir.interpreter import interpret
from rescompile.ir.network import LOGITS, Network
from rescompile.quantize import quantizer
from rescompile.runtimes import RUNTIMES, Job, accuracy, roofline, verify
from rescompile.runtimes.runtime_check import trials
from rescompile.weights import Weights
from rescompile.weights.batch_statistics import trial

openvino = pytest.importorskip("openvino", reason="an optional runtime: pip install 'rescompile[openvino]'")
pytest.importorskip("torch", reason="the reference for bfloat16 and the commands")

ROW = RUNTIMES["openvino"]
NATIVE = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
NET = "resnet20_cifar"
SMALL = "parameters.n=1"
LAYERS = 8  # seven convolutions and the classifier

#: Rows of specs by what they cover: one network for each kernel that OpenVINO chooses, or rewrite that it applies.
FAMILIES = {
    "norm folded into its convolution": """
  - layer1: {block: basic, depth: 2, width: 16, stride: 2}
""",
    "norm before its convolution": """
  - layer1: {block: preact_bottleneck, depth: 2, width: 4, stride: 2}
""",
    "grouped, depthwise and dilated": """
  - conv2: {conv: {channels: 16, kernel: 3, groups: 4}}
  - bn2: norm
  - leaky_relu: {slope: 0.1}
  - conv3: {conv: {channels: 16, kernel: 3, groups: 16, stride: 2}}
  - bn3: norm
  - relu6
  - conv4: {conv: {channels: 8, kernel: [3, 1], dilation: 2, padding: [2, 0]}}
""",
    "dense": """
  - block1: {block: dense_layer, depth: 3, growth: 4}
  - t: {block: transition}
""",
    "norms of groups, gelu and silu": """
  - gn: {norm: {kind: group, groups: 4}}
  - gelu
  - conv2: {conv: {channels: 8, kernel: 3}}
  - gn2: {norm: {kind: group, groups: 8}}
  - silu
  - conv3: {conv: {channels: 8, kernel: 1}}
  - gelu_tanh
""",
    "elu, hardswish and tanh": """
  - elu: {alpha: 0.7}
  - conv2: {conv: {channels: 8, kernel: 3}}
  - hardswish
  - conv3: {conv: {channels: 8, kernel: 1}}
  - tanh
""",
    "pools that count what they pad, and round up": """
  - maxpool: {kernel: 3, stride: 2, padding: 1, ceil: true}
  - avgpool: {kernel: 3, stride: 2, padding: 1}
  - adaptive_avgpool: [2, 3]
""",
    "up and down again": """
  - parallel:
      merge: concat
      branches:
        - identity
        - [maxpool: {kernel: 2}, conv2: {conv: {channels: 8, kernel: 3}}, upsample: {factor: 2, kind: bilinear}]
        - [avgpool: {kernel: 2}, upsample: 2]
""",
    "gates": """
  - highway: {block: highway, depth: 2}
  - scaled: {parallel: {merge: mul, branches: [identity, [global_avgpool, se: {conv: {channels: 8, kernel: 1}}, sigmoid]]}}
""",
    "parts of the channels": """
  - halves:
      parallel:
        merge: concat
        split: true
        branches: [identity, [conv2: {conv: {channels: in_channels, kernel: 3}}, bn2: norm, act]]
  - paths: {parallel: {merge: concat, split: true, copies: 4, branch: [conv3: {conv: {channels: 2, kernel: 3}}]}}
  - gated: {parallel: {merge: mul, split: true, branches: [identity, sigmoid]}}
""",
    "shortcuts that pad and subsample": """
  - layer1: {block: basic, depth: 2, width: 16, stride: 2, shortcut: pad}
""",
}


def case_of(rows: str, folder: Path, more: str = "") -> Case:
    """Return a small classifier around these rows, with weights, inputs and expected outputs."""
    path = folder / "small.yaml"
    path.write_text(
        f"rescompile: 1\nname: small\ninput: [3, 12, 12]\nnetwork:\n"
        f"  - stem: {{conv: {{channels: 8, kernel: 3, bias: true}}}}\n  - act{rows}"
        f"  - global_avgpool\n  - flatten\n  - fc: {{linear: 10}}\n{more}"
    )
    return prepared(path, 0)


def assert_close_to_float64(case: Case, folder: Path) -> None:
    """Assert that every float32 output is as close to float64 as rounding allows, for batches of eight and one, for
    which OpenVINO chooses different kernels. The file has a dynamic batch, as from `build --for openvino`."""
    path = folder / "small.onnx"
    rescompile.build(case.network, "onnx", case.weights, made_for="openvino").write(path)
    for batch in (8, 1):
        job = Job("small", path, None, case.x[:batch], threads=1)
        ready = (
            ROW.prepare(job, {}) if batch == 8 else ROW.library().prepare(ROW, job, {})
        )  # one child process is enough
        found = ready.outputs()
        assert found.keys() == case.wanted.keys()
        assert set(ready.facts["multiplied"]) == {"f32"}
        for name, wanted in case.wanted.items():
            assert found[name].shape == wanted[:batch].shape
            off = rms(found[name] - wanted[:batch]) / case.scale(name)
            assert off <= case.allowed(name, off), f"{name}: relative error {off:.2g}"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.slow
def test_float32(family: str, tmp_path: Path) -> None:
    """OpenVINO's float32 outputs of every family of ops match the interpreter."""
    assert_close_to_float64(case_of(FAMILIES[family], tmp_path), tmp_path)


def test_outputs_keep_their_names(tmp_path: Path) -> None:
    """An output keeps its name where OpenVINO removes an op without effect and merges the output with its input."""
    assert_close_to_float64(
        case_of("\n  - n1: {subsample: 1}\n  - maxpool: {kernel: 2}\n", tmp_path, "features: [n1]\n"), tmp_path
    )


def test_a_wrong_weight_is_detected(tmp_path: Path) -> None:
    """The comparison detects a bias that is off by 1e-4."""
    case = case_of(FAMILIES["dense"], tmp_path)
    case.weights["stem.bias"] += np.float32(1e-4)
    with pytest.raises(AssertionError, match="relative error"):
        assert_close_to_float64(case, tmp_path)


# --- bfloat16 and int8 ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small() -> tuple[Network, Weights]:
    """Return a small network of the zoo with calibrated weights."""
    network = rescompile.elaborate(rescompile.load(NET, [SMALL]))
    return network, trial(network, 0)


@pytest.mark.skipif("BF16" not in NATIVE, reason="needs a CPU with bfloat16")
@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.slow
def test_bfloat16(batch: int, small: tuple[Network, Weights]) -> None:
    """In bfloat16 the error is within the bound but no smaller than rounding allows, and all layers use bfloat16."""
    network, weights = small
    request = verify.Request(network, (), 0, batch, weights, runtimes=["openvino:threads=1"], precisions=["bf16"])
    (found,) = verify.verify(request)
    assert found.passed
    assert found.error > 2.0**-12
    assert found.facts is not None
    assert found.facts["multiplied"] == {"bf16": LAYERS}


@pytest.mark.skipif("BF16" in NATIVE, reason="needs a CPU without bfloat16")
def test_missing_bfloat16_is_refused(small: tuple[Network, Weights]) -> None:
    """On a CPU without bfloat16, OpenVINO silently computes in float32, and this is refused."""
    network, weights = small
    request = verify.Request(network, (), 0, 1, weights, runtimes=["openvino"], precisions=["bf16"])
    with pytest.raises(Unavailable, match=f"bf16 was requested, but .* in other types: {LAYERS} as f32"):
        list(verify.verify(request))


@pytest.mark.skipif("INT8" not in NATIVE, reason="needs a CPU with int8 instructions")
@pytest.mark.slow
def test_int8(small: tuple[Network, Weights], tmp_path: Path) -> None:
    """The int8 error is at most three times that of the same quantisation simulated in float arithmetic."""
    pytest.importorskip("onnx", reason="needed by the quantiser")
    network, weights = small
    path = tmp_path / "int8.onnx"
    rescompile.build(network, "onnx", weights, made_for="openvino", precision="int8", calibrate=8).write(path)
    for batch in (1, 8):
        x = inputs(network.input, batch, 0)
        exact = interpret(network, weights, x)
        ready = ROW.prepare(Job(NET, path, None, x, "int8", 1), {})
        rounding = accuracy.relative_error(quantizer.simulated(path, x), exact)
        assert accuracy.relative_error(ready.outputs(), exact) <= 3 * rounding
        multiplied = ready.facts["multiplied"]
        assert sum(multiplied.values()) == LAYERS
        assert multiplied.get("u8", 0) + multiplied.get("i8", 0) >= LAYERS - 1
    with pytest.raises(Unavailable, match="fp32 was requested"):
        ROW.prepare(Job(NET, path, None, x, "fp32", 1), {})


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_refusals(small: tuple[Network, Weights], tmp_path: Path) -> None:
    """Unknown options, unsupported precisions, unreadable files and inputs of another shape are refused."""
    network, weights = small
    path = tmp_path / "net.onnx"
    rescompile.build(network, "onnx", weights).write(path)
    x = inputs(network.input, 1, 0)
    with pytest.raises(UsageError, match="openvino has no option 'graph'"):
        ROW.prepare(Job(NET, path, None, x), {"graph": True})
    with pytest.raises(Unavailable, match="openvino does not support fp16"):
        ROW.prepare(Job(NET, path, None, x, "fp16"), {})
    with pytest.raises(UsageError, match="cannot be loaded by OpenVINO"):
        ROW.prepare(Job(NET, Path(__file__), None, x), {})
    with pytest.raises(Unavailable, match="openvino cannot run"):
        ROW.prepare(Job(NET, path, None, np.zeros((1, 4, 32, 32), np.float32)), {})


# --- the commands -----------------------------------------------------------------------------------------------------


def ran(*words: str) -> str:
    """Run a command and return its output."""
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 0, done.output
    return done.stdout


def test_verify() -> None:
    """`verify` passes in float32, and in bfloat16 where the CPU supports it."""
    precisions = [precision for precision in ("fp32", "bf16") if precision == "fp32" or "BF16" in NATIVE]
    words = ["--runtime", "openvino:threads=1", "--precision", ",".join(precisions), "--json"]
    found = json.loads(ran("verify", NET, "--set", SMALL, *words))
    assert [(row["precision"], row["passed"]) for row in found["targets"]] == [(each, True) for each in precisions]
    assert all(row["facts"]["threads"] == 1 for row in found["targets"])


def test_doctor() -> None:
    """`doctor` reports that float32 works, and bfloat16 exactly where the CPU supports it."""
    tried = {trial.precision: trial for trial in trials(ROW)}
    assert list(tried) == ["fp32", "bf16"]
    assert tried["fp32"].passed
    assert tried["bf16"].passed == ("BF16" in NATIVE)


def test_bench_and_its_equivalent_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`bench` measures every supported precision, and the printed benchmark_app command runs in that precision."""
    tool = Path(sys.executable).parent / "benchmark_app"
    if not tool.exists():
        pytest.skip("benchmark_app is not installed")
    monkeypatch.setattr(roofline, "measure", lambda *key: roofline.Roofline(key[1], {1 << 20: 1e10}, 1e10))
    monkeypatch.setattr(equivalent_commands, "TIMES", 5)
    (tmp_path / "kept").mkdir()
    precisions = ["fp32"] if INT8_SATURATES or "INT8" not in NATIVE else ["fp32", "int8"]
    words = [
        "--runtime",
        "openvino",
        "--threads",
        "1",
        "--precision",
        ",".join(precisions),
        "--rounds",
        "5",
        "--slot-ms",
        "0",
    ]
    found = json.loads(ran("bench", NET, "--set", SMALL, *words, "--keep", str(tmp_path / "kept"), "--json"))
    assert [row["precision"] for row in found["rows"]] == precisions
    assert not found["missing"]
    row = found["rows"][-1]
    (line,) = row["again"]
    name, *rest = shlex.split(line)
    assert name == tool.name
    done = subprocess.run([str(tool), *rest], cwd=tmp_path / "kept", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (
        "INFERENCE_PRECISION_HINT: <Type: 'float32'>" in done.stdout
    )  # by default the float ops of an int8 file would run in bfloat16
    assert "INFERENCE_NUM_THREADS: 1" in done.stdout
    assert "input (node: input) : f32 /" in done.stdout.partition("Configuring input")[2]


def test_files_for_openvino_run_elsewhere(tmp_path: Path) -> None:
    """A file built with `--for openvino` is ordinary ONNX, on which ONNX Runtime and OpenVINO agree."""
    file, kept = tmp_path / "net.onnx", tmp_path / "kept.npz"
    ran("build", NET, "--set", SMALL, "--target", "onnx", "--for", "openvino", "-o", str(file))
    ran("run", str(file), "--seed", "0", "--batch", "2", "--save", str(kept))
    network = rescompile.elaborate(rescompile.load(NET, [SMALL]))
    with np.load(kept) as saved:
        logits = saved[LOGITS]
    x = np.random.default_rng(0).standard_normal((2, *network.input), np.float32)
    found = ROW.prepare(Job(NET, file, None, x, threads=1), {}).outputs()[LOGITS]
    assert rms(found - logits) <= 1e-5 * rms(logits)
