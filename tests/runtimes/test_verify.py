"""`verify` says PASSED where every target computes the network, and names the first part that does not."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import rescompile
from rescompile import backend
from rescompile.cli import app
from rescompile.ir import ops
from rescompile.ir.interpreter import interpret
from rescompile.ir.network import Network, Op, Series, Side, walk
from rescompile.ir.precision import FLOATS
from rescompile.runtimes.accuracy import FLOOR, floor, relative_error
from rescompile.runtimes.verify import Request, tap_all, verify
from rescompile.weights.calibrated import trial

pytest.importorskip("torch", reason="one of the targets, and what another is run in")
pytest.importorskip("onnxruntime", reason="one of the targets is run in ONNX Runtime")

SMALL = "resnet20_cifar"
TARGETS = ["onnx", "torch", "source"]


def network(**settings: str) -> Network:
    """A small network of the zoo."""
    return rescompile.elaborate(rescompile.load(SMALL, set=[f"{key}={value}" for key, value in settings.items()]))


def changed(node: Any, path: tuple[str, ...], eps: float) -> Any:
    """The tree with the norms of one part changed: another function under the same names."""
    if isinstance(node, Op):
        return (
            dataclasses.replace(node, kind=ops.Norm(eps=eps)) if isinstance(node.kind, ops.Norm) and not path else node
        )
    if isinstance(node, Series):
        if node.name is not None:
            if path and node.name != path[0]:
                return node
            path = path[1:]
        return dataclasses.replace(node, children=tuple(changed(child, path, eps) for child in node.children))
    if isinstance(node, Side):
        return node
    branches = tuple(changed(branch, path, eps) for branch in node.branches)
    return dataclasses.replace(node, branches=branches)


def test_rounding_is_not_enlarged() -> None:
    """The weights that are tried leave float32 its seven digits in fifty layers: shifts about zero, as new networks have them,
    make an error of 3e-5, under which a small mistake would hide."""
    deep = rescompile.elaborate(rescompile.load("resnet50", ["input=[3, 64, 64]"]))
    weights, x = trial(deep, 0), np.random.default_rng(0).standard_normal((2, 3, 64, 64), np.float32)
    exact = interpret(deep, weights, x)
    assert relative_error(interpret(deep, weights, x, "fp32"), exact) < 3e-6


def test_every_target_passes() -> None:
    """A correct compiler is within the bound, which is above nothing but rounding."""
    verdicts = list(verify(Request(network(), TARGETS)))
    assert [verdict.target for verdict in verdicts] == TARGETS
    for verdict in verdicts:
        assert verdict.passed
        assert verdict.first is None
        assert 0 < verdict.error <= verdict.bound
        assert FLOOR <= verdict.bound < 1e-4
    assert verdicts[1].error == verdicts[2].error  # the same text


LONG_MEAN = """
rescompile: 1
name: long_mean
input: [3, 32, 32]
network:
- conv1: {conv: {channels: 16, kernel: 3}}
- norm
- global_avgpool
"""


def long_mean(tmp_path: Path) -> Network:
    """A mean of 1024 values of both signs, and nothing behind it."""
    path = tmp_path / "long_mean.yaml"
    path.write_text(LONG_MEAN)
    return rescompile.elaborate(rescompile.load(path))


@pytest.mark.parametrize("seed", range(3))
def test_a_sum_of_many_values_is_no_mistake(seed: int, tmp_path: Path) -> None:
    """ONNX Runtime adds a map up value by value, and torch by pairs: three times torch's error was too little for a right file."""
    (verdict,) = verify(Request(long_mean(tmp_path), ["onnx"], seed=seed))
    assert verdict.passed


def test_what_a_sum_value_by_value_may_be_off() -> None:
    """As plain loops over float32 are, and not ten times that: the bound is one of rounding still."""
    values = np.random.default_rng(0).standard_normal((512, 1024), np.float32) + np.float32(1)
    total = np.zeros(512, np.float32)
    for column in values.T:
        total += column
    exact = values.mean(1, dtype=np.float64)
    error = relative_error({"mean": total / np.float32(1024)}, {"mean": exact})
    allowed = floor(network(input="[3,128,128]"), FLOATS["fp32"].bits)  # its last map is 32x32
    assert allowed / 10 < error < allowed


@pytest.mark.parametrize("options", [{"fold_batchnorm": True}, {"drop": "layer2.1"}, {"swap": "layer2.1,layer2.2"}])
def test_passes_are_verified(options: dict[str, Any]) -> None:
    """An exact pass is held to the network without it; a lesion is another network, in every target alike."""
    assert all(verdict.passed for verdict in verify(Request(network(), ["onnx", "torch"], passes=options)))


@pytest.mark.parametrize("part", ["layer1.1", "layer3.0"])
def test_the_first_wrong_part_is_named(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that computes one part wrong is found out, and the part is named."""
    onnx = backend.load("onnx")
    right: Any = onnx.evaluate
    path = tuple(part.split("."))

    def wrong(network: Network, weights: Any, x: Any, **options: Any) -> Any:
        root = network.root
        children = tuple(
            changed(child, path, 0.5) if isinstance(child, Series) and child.name == path[0] else child
            for child in root.children
        )
        other = dataclasses.replace(network, root=dataclasses.replace(root, children=children))
        return right(other, weights, x, **options)

    monkeypatch.setattr(onnx, "evaluate", wrong)
    (verdict,) = verify(Request(network(), ["onnx"]))
    assert not verdict.passed
    assert verdict.first == f"{part}.add"  # where the wrong branch comes out


def test_what_is_not_finite_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """An output that is no number is no small error."""
    torch = backend.load("torch")
    right: Any = torch.evaluate

    def wrong(network: Network, weights: Any, x: Any, **options: Any) -> Any:
        outputs = right(network, weights, x, **options)
        return {name: np.full_like(value, math.nan) for name, value in outputs.items()}

    monkeypatch.setattr(torch, "evaluate", wrong)
    assert not all(verdict.passed for verdict in verify(Request(network(), ["torch"])))


def test_every_part_is_tapped() -> None:
    """The search for the first wrong part sees every row and every block."""
    tapped = tap_all(network())
    outputs = {node.output_name for _, node in walk(tapped.root) if isinstance(node, Side)}
    assert {"conv1", "layer1", "layer1.0", "layer2.2", "layer3.2", "fc"} <= outputs


def test_command() -> None:
    """The last line says it all, and so does the exit code."""
    done = CliRunner().invoke(app, ["verify", SMALL, "--targets", "onnx"])
    assert done.exit_code == 0
    assert done.output.splitlines()[-1] == "PASSED"
    data = json.loads(CliRunner().invoke(app, ["verify", SMALL, "--targets", "torch,onnx", "--json"]).stdout)
    assert data["passed"] is True
    assert [target["target"] for target in data["targets"]] == ["torch", "onnx"]


WITHOUT_TORCH = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ImportError("No module named 'torch'", name="torch")

sys.meta_path.insert(0, Blocked())
from rescompile.__main__ import main
main()
"""


@pytest.mark.parametrize("words", [["--targets", "onnx"], []], ids=["onnx", "what is installed"])
def test_without_torch(words: list[str]) -> None:
    """An ONNX file is verified where torch is not installed, by the same reference and bound; other targets are told of."""
    here = CliRunner().invoke(app, ["verify", SMALL, "--targets", "onnx,torch", "--json"])
    wanted, by_torch = json.loads(here.stdout)["targets"]
    command = [sys.executable, "-c", WITHOUT_TORCH, "verify", SMALL, *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)["targets"]
    assert found == wanted
    assert by_torch["passed"]
    assert by_torch["bound"] == wanted["bound"]
    assert ("source is not verified" in done.stderr) == (not words)


def test_every_installed_target_is_verified_by_default() -> None:
    """No list of targets is written down: it is that of the backends that can be evaluated here."""
    data = json.loads(CliRunner().invoke(app, ["verify", SMALL, "--json"]).stdout)
    assert [target["target"] for target in data["targets"]] == list(backend.built_in())


def test_interpreter_agrees_with_torch_in_float64() -> None:
    """The reference of this command is what torch computes in double precision, to rounding."""
    import torch

    maker: Any = backend.load("torch")
    for name, size in (("resnet50", 64), ("densenet121", 64), ("googlenet", 64)):
        net = rescompile.elaborate(rescompile.load(name, [f"input=[3, {size}, {size}]"]))
        weights, x = trial(net, 0), np.random.default_rng(1).standard_normal((1, *net.input))
        with torch.no_grad():
            wanted = maker.make(net, weights).eval().double()(torch.tensor(x))
        wanted = wanted if isinstance(wanted, dict) else {"logits": wanted}
        assert relative_error(interpret(net, weights, x), {key: value.numpy() for key, value in wanted.items()}) < 1e-12


def test_command_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A difference is exit code 1, and FAILED."""
    monkeypatch.setattr("rescompile.runtimes.accuracy.TIMES", 0)
    monkeypatch.setattr("rescompile.runtimes.accuracy.FLOOR", 0.0)
    monkeypatch.setattr("rescompile.runtimes.accuracy.UNIT", 0.0)
    done = CliRunner().invoke(app, ["verify", SMALL, "--targets", "onnx"])
    assert done.exit_code == 1
    assert done.output.splitlines()[-1] == "FAILED"


def test_an_error_that_is_infinite_is_null(monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON has no infinity, and an output that is missing is infinitely far off."""
    monkeypatch.setattr("rescompile.runtimes.accuracy.relative_error", lambda outputs, exact: float("inf"))
    done = CliRunner().invoke(app, ["verify", SMALL, "--targets", "onnx", "--json"])
    assert done.exit_code == 1
    data = json.loads(done.stdout, parse_constant=pytest.fail)
    assert [(each["error"], each["passed"]) for each in data["targets"]] == [(None, False)]


def test_an_unknown_target_is_refused() -> None:
    """With the nearest one that there is."""
    done = CliRunner().invoke(app, ["verify", SMALL, "--targets", "onxn"])
    assert done.exit_code == 2
    assert "'onnx'" in done.output


# --- runtimes ---------------------------------------------------------------------------------------------------------


def test_runtimes_and_precisions_pass() -> None:
    """Each runtime in each precision that it has, compared with the interpreter in the same: bfloat16 may be further off."""
    verdicts = list(
        verify(Request(network(), [], runtimes=["ort-cpu", "torch-cpu:channels_last"], precisions=["fp32", "bf16"]))
    )
    assert [(verdict.target, verdict.runtime, verdict.precision) for verdict in verdicts] == [
        ("onnx", "ort-cpu", "fp32"),
        ("torch", "torch-cpu:channels_last", "fp32"),
        ("torch", "torch-cpu:channels_last", "bf16"),
    ]
    for verdict in verdicts:
        assert verdict.passed
        assert verdict.facts is not None
        assert verdict.facts["tf32"] is False
    assert verdicts[0].bound == verdicts[1].bound < 1e-4 < verdicts[2].error
    assert verdicts[0].facts is not None
    assert verdicts[0].facts["obtained"] == "CPUExecutionProvider"


def test_another_precision_is_no_excuse(monkeypatch: pytest.MonkeyPatch) -> None:
    """A runtime that computes fp32 in bfloat16 fails, and the first part that shows it is named."""
    from rescompile.runtimes import torch as torch_runtime

    wrong = {"fp32": dataclasses.replace(FLOATS["fp32"], dtype="bfloat16")}
    monkeypatch.setattr(torch_runtime, "PRECISIONS", wrong)
    (verdict,) = verify(Request(network(), [], runtimes=["torch-cpu"]))
    assert not verdict.passed
    assert verdict.first == "conv1"
    done = CliRunner().invoke(app, ["verify", SMALL, "--runtime", "torch-cpu"])
    assert done.exit_code == 1
    assert "differs  first in conv1" in done.stdout
    assert done.stdout.splitlines()[-1] == "FAILED"


def test_command_with_runtimes() -> None:
    """`--runtime` alone verifies runtimes, with `--targets` both; the facts of each are in the data."""
    done = CliRunner().invoke(app, ["verify", SMALL, "--runtime", "ort-cpu:threads=1", "--targets", "torch", "--json"])
    rows = json.loads(done.stdout)["targets"]
    assert [(row["target"], row["runtime"], row["precision"]) for row in rows] == [
        ("torch", None, "fp32"),
        ("onnx", "ort-cpu:threads=1", "fp32"),
    ]
    assert rows[0]["facts"] is None
    assert rows[1]["facts"]["placement"].keys() == {"CPUExecutionProvider"}
    text = CliRunner().invoke(app, ["verify", SMALL, "--runtime", "ort-cpu"]).stdout
    assert text.splitlines()[0].split() == ["target", "runtime", "precision", "error", "bound"]
    assert text.splitlines()[1].split()[:3] == ["onnx", "ort-cpu", "fp32"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--runtime", "ort-cup"], 4, "did you mean 'ort-cpu'?"),
        (["--runtime", "ort-cpu", "--precision", "bf16"], 4, "it does not run bf16"),
        (["--runtime", "ort-cpu", "--precision", "fp23"], 2, "did you mean 'fp32'?"),
        (["--runtime", "ort-cpu", "--precision", "int8"], 2, "int8 cannot be verified"),
        (["--runtime", "ort-cpu", "--precision", ","], 2, "--precision ',' has an empty entry"),
        (["--runtime", "torch-cpu:fast"], 2, "no option 'fast'"),
        (["--precision", "bf16"], 2, "--runtime"),
        (["--targets", "onnx,,torch"], 2, "--targets 'onnx,,torch' has an empty entry"),
        (["--targets", ""], 2, "has an empty entry"),
        (["--targets", "onnx,torch,onnx"], 2, "contains onnx twice"),
        (["--runtime", "ort-cpu,"], 2, "--runtime 'ort-cpu,' has an empty entry"),
        (["--runtime", ""], 2, "has an empty entry"),
        (["--runtime", "ort-cpu", "--precision", ""], 2, "has an empty entry"),
        (["--runtime", "ort-cpu", "--precision", "fp32,fp32"], 2, "contains fp32 twice"),
    ],
)
def test_what_cannot_be_verified_is_refused(words: list[str], code: int, message: str) -> None:
    """Before anything is computed or printed."""
    done = CliRunner().invoke(app, ["verify", SMALL, *words])
    assert done.exit_code == code
    assert message in done.stderr
    assert not done.stdout


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """With exit code 4 and what it would need."""
    from rescompile.runtimes import ort_session

    monkeypatch.setattr(ort_session, "has_gpu", lambda: False)
    done = CliRunner().invoke(app, ["verify", SMALL, "--runtime", "ort-cuda"])
    assert done.exit_code == 4
    assert "error[E0901]: ort-cuda cannot run here" in done.stderr
    assert "NVIDIA GPU" in done.stderr
