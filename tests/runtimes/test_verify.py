"""`verify` passes if every target computes the network, and otherwise names the first part that differs."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

import rescompile
from rescompile import backend
from rescompile.cli import app
from rescompile.ir import ops
from rescompile.ir.interpreter import interpret
from rescompile.ir.network import Network, Op, Series, Side, parameters, walk
from rescompile.ir.op_evaluation import OPS
from rescompile.ir.precision import FLOATS
from rescompile.passes import fold_batchnorm
from rescompile.runtimes.accuracy import FLOOR, NEAR, Reference, floor, relative_error
from rescompile.runtimes.verify import Request, conclusion, tap_all, verify
from rescompile.weights import draw, from_arrays
from rescompile.weights.batch_statistics import trial

pytest.importorskip("torch", reason="needed by the torch and source targets")
pytest.importorskip("onnxruntime", reason="runs the ONNX target")

SMALL = "resnet20_cifar"
TARGETS = ["onnx", "torch", "source"]


def network(**settings: str) -> Network:
    """Return a small network of the zoo."""
    return rescompile.elaborate(rescompile.load(SMALL, set=[f"{key}={value}" for key, value in settings.items()]))


def changed(node: Any, path: tuple[str, ...], eps: float) -> Any:
    """Return the tree with another epsilon in the norms of one part: a different function with the same names."""
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


def test_trial_weights_do_not_amplify_rounding() -> None:
    """The trial weights keep float32 accurate over fifty layers. With norm shifts near zero, as in new networks, the
    error would be 3e-5 and hide small mistakes."""
    deep = rescompile.elaborate(rescompile.load("resnet50", ["input=[3, 64, 64]"]))
    weights, x = trial(deep, 0), np.random.default_rng(0).standard_normal((2, 3, 64, 64), np.float32)
    exact = interpret(deep, weights, x)
    assert relative_error(interpret(deep, weights, x, "fp32"), exact) < 3e-6


@pytest.mark.parametrize("name", ["fixup_resnet110_cifar", "rezero_resnet56_cifar", "skipinit_wrn_16_4"])
def test_no_trial_weight_is_zero(name: str) -> None:
    """Trial weights have no zero tensor: branches initialised with zero would hide every mistake in them, and such a
    classifier all others."""
    net = rescompile.elaborate(rescompile.load(name, ["parameters.n=1"]))
    weights = trial(net)
    assert all(np.any(weights[tensor]) for tensor, _ in parameters(net) if tensor.endswith(".weight"))


def test_every_target_passes() -> None:
    """A correct compiler is within the bound, and the bound is no larger than rounding requires."""
    verdicts = list(verify(Request(network(), TARGETS)))
    assert [verdict.target for verdict in verdicts] == TARGETS
    for verdict in verdicts:
        assert verdict.passed
        assert verdict.first is None
        assert 0 < verdict.error <= verdict.bound
        assert FLOOR <= verdict.bound < 1e-4
    assert verdicts[1].error == verdicts[2].error  # both run the same source


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
    """Return a network that ends in a mean of 1024 values of both signs."""
    path = tmp_path / "long_mean.yaml"
    path.write_text(LONG_MEAN)
    return rescompile.elaborate(rescompile.load(path))


@pytest.mark.parametrize("seed", range(3))
def test_a_long_sum_passes(seed: int, tmp_path: Path) -> None:
    """A long sum passes although ONNX Runtime adds sequentially and is less accurate than torch's pairwise sum."""
    (verdict,) = verify(Request(long_mean(tmp_path), ["onnx"], seed=seed))
    assert verdict.passed


def test_the_bound_of_a_sequential_sum() -> None:
    """The bound allows the error of a sequential float32 sum, but not ten times that."""
    values = np.random.default_rng(0).standard_normal((512, 1024), np.float32) + np.float32(1)
    total = np.zeros(512, np.float32)
    for column in values.T:
        total += column
    exact = values.mean(1, dtype=np.float64)
    error = relative_error({"mean": total / np.float32(1024)}, {"mean": exact})
    allowed = floor(network(input="[3,128,128]"), FLOATS["fp32"].bits)  # the last feature map is 32x32
    assert allowed / 10 < error < allowed


def test_errors_of_subnormal_numbers() -> None:
    """Below the smallest normal number of a type, an error is relative to the spacing of numbers there: 1e-49 is 0 in float32."""
    exact = {"y": np.array([1e-49, -2e-49])}
    assert relative_error({"y": np.zeros(2, np.float32)}, exact) < FLOOR
    assert relative_error({"y": np.array([1e-44, 0], np.float32)}, exact) < 1e-6
    assert relative_error({"y": np.array([1e-30, 0], np.float32)}, exact) > 1
    assert relative_error({"y": np.array([1e-49, -1e-49])}, exact) == pytest.approx(0.5**0.5 / 2.5**0.5)
    assert relative_error({"y": np.zeros(2, np.float16)}, {"y": np.array([1e-9, 0])}) < 2**-11


ONE_VALUE = """
rescompile: 1
name: one_value
input: [3, 8, 8]
network:
- conv1: {conv: {channels: 64, kernel: 3}}
- tanh
- conv2: {conv: {channels: 64, kernel: 3}}
- tanh
- global_avgpool
- flatten
- fc: {linear: 1}
"""


@pytest.mark.parametrize("seed", [101, 125, 201, 360, 414, 651])
def test_the_bound_of_one_value_uses_many_evaluations(seed: int, tmp_path: Path) -> None:
    """Three evaluations of the interpreter may round well by chance, and for these seeds a correct file exceeded their
    bound; with more evaluations it passes, and an error far beyond the bound still fails."""
    (tmp_path / "one_value.yaml").write_text(ONE_VALUE)
    net = rescompile.elaborate(rescompile.load(tmp_path / "one_value.yaml"))
    weights, x = draw(net, seed), np.random.default_rng(seed).standard_normal((1, *net.input), np.float32)
    reference, onnx = Reference(net, weights, x), backend.load("onnx")
    assert onnx.evaluate is not None
    error = reference.error(onnx.evaluate(net, weights, x, **backend.checked(onnx, "onnx", {})))
    few = reference.bound("fp32")
    assert error <= reference.bound("fp32", error=error)
    assert few <= reference.bound("fp32", error=2 * few) < 1e-3
    assert reference.bound("fp32", error=NEAR * few) == few


EQUAL_VALUES = """
rescompile: 1
name: equal_values
input: [6, 2, 1]
network:
- maxpool: {kernel: 3, stride: 1, padding: 1}
- conv1: {conv: {channels: 4, kernel: [1, 3]}}
- norm1: {norm: {kind: instance}}
"""


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.slow_for("1", "2", "3")
def test_a_norm_of_equal_values_passes(seed: int, tmp_path: Path) -> None:
    """Equal values have a variance of 0, so a norm divides by the root of its eps and amplifies the rounding of x *
    factor + shift 316 times; the interpreter in float32 does so too."""
    (tmp_path / "equal_values.yaml").write_text(EQUAL_VALUES)
    net = rescompile.elaborate(rescompile.load(tmp_path / "equal_values.yaml"))
    weights = from_arrays({**draw(net, seed), "norm1.bias": np.array([0.3, 0.7, -0.4, 0.6], np.float32)}, net)
    assert all(verdict.passed for verdict in verify(Request(net, TARGETS, weights=weights, seed=seed)))


OFF_CENTRE = """
rescompile: 1
name: off_centre
input: [4, 32, 32]
network:
- norm1: {norm: {kind: instance}}
"""


@pytest.mark.parametrize("seed", range(4))
def test_sequential_sums_of_a_norm_pass(seed: int, tmp_path: Path) -> None:
    """A sequential float32 mean is less exact than numpy's, and a channel of close values far from 0 amplifies its
    error; this passes, and a forgotten shift still fails."""
    (tmp_path / "off_centre.yaml").write_text(OFF_CENTRE)
    net = rescompile.elaborate(rescompile.load(tmp_path / "off_centre.yaml"))
    x = (10 + np.random.default_rng(seed).standard_normal((1, *net.input))).astype(np.float32)
    weights = from_arrays({**draw(net, seed), "norm1.bias": np.full(4, 0.1, np.float32)}, net)
    reference = Reference(net, weights, x)

    def mean(values: NDArray[np.float32]) -> NDArray[np.float32]:
        return (np.cumsum(values.reshape(4, -1), 1)[:, -1] / np.float32(1024)).reshape(1, 4, 1, 1)

    factor = 1 / np.sqrt(mean(np.square(x - mean(x))) + np.float32(1e-5))
    plain = x * factor - mean(x) * factor
    error = reference.error({"logits": plain + np.float32(0.1)})
    assert reference.bound("fp32") < error <= reference.bound("fp32", error=error)
    forgotten = reference.error({"logits": plain})
    assert forgotten > reference.bound("fp32", error=forgotten)


#: ConvMixer's order conv - relu - norm: with a small batch some channels are dead, different ones in each block.
DYING = """
rescompile: 1
name: dying
input: [3, 28, 28]
blocks:
  mixer:
    stage: true
    let: {w: in_channels}
    body:
      - residual: {branch: [dw: {conv: {channels: w, kernel: 7, groups: w, bias: true}}, relu, bn1: norm]}
      - pw: {conv: {channels: w, kernel: 1, bias: true}}
      - relu
      - bn2: norm
network:
  - stem: {conv: {channels: 64, kernel: 7, stride: 7, padding: 0, bias: true}}
  - relu
  - bn0: norm
  - blocks: {block: mixer, depth: 32}
  - global_avgpool
  - flatten
  - head: {linear: 10}
"""
#: A batch of one with one value per channel, a dead map, a constant map, and layers of one channel.
ONE_VALUE_PER_CHANNEL = """
rescompile: 1
name: one_value_per_channel
input: [1, 1, 1]
network:
  - c1: {conv: {channels: 1, kernel: 1, bias: true}}
  - relu
  - b1: norm
  - relu
  - b2: norm
  - scale: 0
  - b3: norm
  - c2: {conv: {channels: 7, kernel: 1}}
  - b4: norm
  - flatten
  - b5: norm
  - fc: {linear: 2}
"""


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("text", [DYING, ONE_VALUE_PER_CHANNEL], ids=["dying", "one value"])
def test_dead_channels_pass(text: str, batch: int, seed: int, tmp_path: Path) -> None:
    """Channels without variance are not amplified, so correct targets pass with a bound that still detects mistakes."""
    path = tmp_path / "network.yaml"
    path.write_text(text)
    net = rescompile.elaborate(rescompile.load(path))
    (verdict,) = verify(Request(net, ["onnx"], seed=seed, batch=batch))
    assert verdict.passed
    assert verdict.bound < 1e-3


@pytest.mark.parametrize(
    "words",
    [
        ["build", "--target", "onnx", "--precision", "int8", "-o"],
        ["paths", "--gradients", "--plot"],
    ],
    ids=["int8", "gradients"],
)
def test_statistics_of_one_value_per_channel(words: list[str], tmp_path: Path) -> None:
    """Calibration accepts 1x1 maps, for which torch's batch statistics of one image are an error."""
    path = tmp_path / "network.yaml"
    path.write_text(ONE_VALUE_PER_CHANNEL.replace("  - scale: 0\n", ""))  # the scale of 0 would block every gradient
    command, *options = words
    done = CliRunner().invoke(app, [command, str(path), *options, str(tmp_path / "out.png")])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("options", [{"fold_batchnorm": True}, {"drop": "layer2.1"}, {"swap": "layer2.1,layer2.2"}])
def test_passes_are_verified(options: dict[str, Any]) -> None:
    """An exact pass is compared with the network without it; a lesion with itself, on every target."""
    assert all(verdict.passed for verdict in verify(Request(network(), ["onnx", "torch"], passes=options)))


@pytest.mark.parametrize("part", ["layer1.1", "layer3.0"])
def test_the_first_wrong_part_is_named(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a backend computes one part wrong, `verify` fails and names that part."""
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
    assert verdict.first == f"{part}.add"  # where the wrong branch is merged


def test_outputs_that_are_not_finite_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN outputs fail as "not finite", and the target is named as the one at fault."""
    torch = backend.load("torch")
    right: Any = torch.evaluate

    def wrong(network: Network, weights: Any, x: Any, **options: Any) -> Any:
        outputs = right(network, weights, x, **options)
        return {name: np.full_like(value, math.nan) for name, value in outputs.items()}

    monkeypatch.setattr(torch, "evaluate", wrong)
    verdicts = list(verify(Request(network(), ["onnx", "torch"])))
    assert [verdict.status for verdict in verdicts] == ["ok", "not finite"]
    assert list(conclusion(verdicts)) == ["torch is at fault: onnx agrees with the interpreter"]


# --- attribution of mistakes ------------------------------------------------------------------------------------------


def norms_in_onnx(patch: pytest.MonkeyPatch) -> None:
    rules: Any = import_module("rescompile.backends.onnx.ops").RULES
    right = rules[ops.Norm]

    def wrong(graph: Any, name: str, op: Op, kind: ops.Norm, value: str) -> Any:
        return right(graph, name, op, dataclasses.replace(kind, eps=0.5), value)

    patch.setitem(rules, ops.Norm, wrong)


def activations_in_source(patch: pytest.MonkeyPatch) -> None:
    acts: Any = import_module("rescompile.backends.torch.spellings").ACTS
    patch.setitem(acts, "relu", acts["silu"])


def the_source_is_run_for_training(patch: pytest.MonkeyPatch) -> None:
    file: Any = import_module("rescompile.backends.torch.source_file")
    patch.setattr(file, "_SCRIPT", file._SCRIPT.replace("module.eval()", "module.train()"))


def weights_of_the_module(patch: pytest.MonkeyPatch) -> None:
    module: Any = import_module("rescompile.backends.torch.module")
    right = module._tensor
    patch.setattr(module, "_tensor", lambda array: right(array[::-1] if array.ndim else array))


def a_pass(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(fold_batchnorm._Folder, "before", lambda self, name: lambda: np.abs(self.weights[name]))


def the_interpreter(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(OPS, ops.Act, lambda op, x, tensors: np.abs(x))


@pytest.mark.parametrize(
    ("plant", "message"),
    [
        (norms_in_onnx, "onnx is at fault: source and torch agree with the interpreter"),
        (activations_in_source, "source and torch share one mistake: onnx agrees with the interpreter"),
        (the_source_is_run_for_training, "source is at fault: onnx and torch agree with the interpreter"),
        (weights_of_the_module, "torch is at fault: onnx and source agree with the interpreter"),
        (a_pass, "the pass fold-batchnorm is at fault: after it the interpreter, too, computes something else"),
        (the_interpreter, "onnx, source and torch compute the same: what they share is at fault, or the interpreter"),
    ],
)
@pytest.mark.slow_for(
    "the_source_is_run_for_training", "norms_in_onnx", "the_interpreter", "activations_in_source", "a_pass"
)
def test_a_mistake_is_attributed_to_its_place(
    plant: Callable[[pytest.MonkeyPatch], None], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistake planted in one place is attributed to that place and to no other."""
    plant(monkeypatch)
    smaller = [word for at in (1, 2, 3) for word in ("--set", f"layer{at}.depth=1")]
    words = ["--set", "input=[3, 16, 16]", *smaller, *(["--fold-batchnorm"] if plant is a_pass else [])]
    done = CliRunner().invoke(app, ["verify", SMALL, "--targets", "onnx,source,torch", *words])
    assert done.exit_code == 1
    assert done.stdout.splitlines()[-2:] == [message, "FAILED"]


def test_a_wrong_runtime_is_named_instead_of_its_target(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong runtime is named as the one at fault, not the target whose file it runs."""
    from rescompile.runtimes import torch as torch_runtime

    wrong = {"fp32": dataclasses.replace(FLOATS["fp32"], dtype="bfloat16")}
    monkeypatch.setattr(torch_runtime, "PRECISIONS", wrong)
    verdicts = list(verify(Request(network(), ["torch"], runtimes=["torch-cpu"])))
    assert list(conclusion(verdicts)) == ["torch-cpu is at fault: torch agrees with the interpreter"]


# --- values that are not finite ---------------------------------------------------------------------------------------

GROWING = """
rescompile: 1
name: growing
input: [3, 8, 8]
network:
  - conv1: {conv: {channels: 8, kernel: 3}}
  - residual: {branch: [{a: {scale: 60000}}, {b: {scale: 60000}}], shortcut: [{c: {scale: 2}}]}
  - conv2: {conv: {channels: 8, kernel: 3}}
"""


def growing(tmp_path: Path) -> Network:
    """Return a network whose values are too large for float16 but not for float32."""
    path = tmp_path / "growing.yaml"
    path.write_text(GROWING)
    return rescompile.elaborate(rescompile.load(path))


def test_an_overflow_of_the_network_is_not_blamed_on_a_target(tmp_path: Path) -> None:
    """Where the network itself overflows, the first such value is named and no target is compared or blamed."""
    request = Request(growing(tmp_path), ["onnx"], weights=None)
    reference = Reference(request.network, trial(request.network), np.ones(request.shape, np.float32))
    assert reference.overflow("fp32") is None
    assert reference.overflow("fp16") in ("the output of a in fp16", "the output of b in fp16")
    weights = trial(request.network)
    weights = weights.replaced({"conv2.weight": lambda: np.full((8, 8, 3, 3), 3e38, np.float32)})
    (verdict,) = verify(dataclasses.replace(request, weights=weights))
    assert (verdict.status, verdict.passed) == ("not compared", False)
    assert verdict.first == "the output of conv2 in fp32"
    (line,) = conclusion([verdict])
    assert line.startswith("the network itself is not finite with these weights, from the output of conv2 in fp32 on")


@pytest.mark.parametrize("name", ["conv1.weight", "layer2.0.bn1.running_var", "fc.bias"])
def test_the_first_tensor_that_is_not_finite_is_named(name: str) -> None:
    """A NaN in a weight is reported by the name of the tensor, not by the ops that it affects."""
    net = network()
    weights = trial(net)
    weights = weights.replaced({name: lambda: np.full_like(trial(net)[name], math.nan)})
    verdicts = list(verify(Request(net, ["onnx", "torch"], weights=weights)))
    assert [verdict.first for verdict in verdicts] == [f"the weight {name} in fp64"] * 2


def test_every_part_is_tapped() -> None:
    """The search for the first wrong part compares every row and every block."""
    tapped = tap_all(network())
    outputs = {node.output_name for _, node in walk(tapped.root) if isinstance(node, Side)}
    assert {"conv1", "layer1", "layer1.0", "layer2.2", "layer3.2", "fc"} <= outputs


def test_command() -> None:
    """The last line is PASSED, the exit code is 0, and `--json` lists the targets in the given order."""
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
@pytest.mark.slow_for("what is installed")
def test_without_torch(words: list[str]) -> None:
    """Without torch, ONNX is verified with the same reference and bound; targets that cannot run are reported."""
    here = CliRunner().invoke(app, ["verify", SMALL, "--targets", "onnx,torch", "--json"])
    wanted, by_torch = json.loads(here.stdout)["targets"]
    command = [sys.executable, "-c", WITHOUT_TORCH, "verify", SMALL, *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = {row["target"]: row for row in json.loads(done.stdout)["targets"]}
    assert {"onnx"} <= rows.keys() <= {"flax", "keras", "mlx", "onnx"}
    assert rows["onnx"] == wanted
    assert by_torch["passed"]
    assert by_torch["bound"] == wanted["bound"]
    assert ("source is not verified" in done.stderr) == (not words)


@pytest.mark.slow
def test_every_installed_target_is_verified_by_default() -> None:
    """By default all targets that can be evaluated here are verified."""
    data = json.loads(CliRunner().invoke(app, ["verify", SMALL, "--json"]).stdout)
    assert [target["target"] for target in data["targets"]] == list(backend.built_in())


def test_interpreter_agrees_with_torch_in_float64() -> None:
    """The interpreter agrees with torch in float64 to rounding."""
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
    """A difference gives exit code 1 and FAILED in the last line."""
    monkeypatch.setattr("rescompile.runtimes.accuracy.TIMES", 0)
    monkeypatch.setattr("rescompile.runtimes.accuracy.FLOOR", 0.0)
    monkeypatch.setattr("rescompile.runtimes.accuracy.UNIT", 0.0)
    done = CliRunner().invoke(app, ["verify", SMALL, "--targets", "onnx"])
    assert done.exit_code == 1
    assert done.output.splitlines()[-1] == "FAILED"


def test_an_infinite_error_is_null_in_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """An infinite error, as of a missing output, is null in JSON."""
    monkeypatch.setattr("rescompile.runtimes.accuracy.relative_error", lambda outputs, exact: float("inf"))
    done = CliRunner().invoke(app, ["verify", SMALL, "--targets", "onnx", "--json"])
    assert done.exit_code == 1
    data = json.loads(done.stdout, parse_constant=pytest.fail)
    assert [(each["error"], each["passed"]) for each in data["targets"]] == [(None, False)]


def test_the_error_of_each_part() -> None:
    """`--parts` measures every part, in order and within rounding; without it there are none."""
    done = CliRunner().invoke(app, ["verify", SMALL, "--targets", "onnx", "--parts", "--json"])
    (row,) = json.loads(done.stdout)["targets"]
    assert next(iter(row["parts"])) == "conv1"
    assert [*row["parts"]][-1] == "logits"
    assert {"layer1", "layer1.0", "layer3"} < row["parts"].keys()
    assert all(0 <= error < 1e-5 for error in row["parts"].values())
    assert row["parts"]["logits"] == pytest.approx(row["error"], rel=0.5)
    text = CliRunner().invoke(app, ["verify", SMALL, "--targets", "onnx", "--parts"]).stdout
    assert [line.split()[0] for line in text.splitlines()[2:-1]] == [*row["parts"]]
    plain = CliRunner().invoke(app, ["verify", SMALL, "--targets", "onnx", "--json"])
    assert json.loads(plain.stdout)["targets"][0]["parts"] is None


def test_an_unknown_target_is_refused() -> None:
    """An unknown target is refused with the nearest match as help."""
    done = CliRunner().invoke(app, ["verify", SMALL, "--targets", "onxn"])
    assert done.exit_code == 2
    assert "'onnx'" in done.output


# --- runtimes ---------------------------------------------------------------------------------------------------------


def test_runtimes_and_precisions_pass() -> None:
    """Each runtime passes in each of its precisions; bfloat16 has a larger bound than float32."""
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


def test_a_runtime_in_another_precision_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A runtime that computes fp32 in bfloat16 fails, and the first part that differs is named."""
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
    """`--runtime` alone verifies runtimes only, with `--targets` both; JSON contains the facts of each run."""
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
        (["--runtime", "ort-cpu", "--precision", "bf16"], 4, "it does not support bf16"),
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
def test_invalid_requests_are_refused(words: list[str], code: int, message: str) -> None:
    """Invalid requests are refused before anything is computed or printed."""
    done = CliRunner().invoke(app, ["verify", SMALL, *words])
    assert done.exit_code == code
    assert message in done.stderr
    assert not done.stdout


def test_a_missing_gpu_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CUDA runtime without a GPU exits with 4 and states what it needs."""
    from rescompile.runtimes import ort_session

    monkeypatch.setattr(ort_session, "has_gpu", lambda: False)
    done = CliRunner().invoke(app, ["verify", SMALL, "--runtime", "ort-cuda"])
    assert done.exit_code == 4
    assert "error[E0901]: ort-cuda cannot run here" in done.stderr
    assert "NVIDIA GPU" in done.stderr


#: A step that runs again at a lower rank, and two steps named after attributes of modules, each with the targets that
#: refuse it.
REFUSED = {
    "- it: prelu\n- global_avgpool\n- flatten\n- again: it": ("keras",),
    "- rngs: {conv: {channels: 4, kernel: 1}}\n- items: {conv: {channels: 4, kernel: 1}}\n- global_avgpool": (
        "flax",
        "mlx",
    ),
}


@pytest.mark.parametrize(("step", "refusing"), REFUSED.items(), ids=["again", "names"])
def test_by_default_targets_that_refuse_the_network_are_left_out(
    step: str, refusing: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default, targets that refuse the network are listed with the reason and the others are verified; a target
    given by `--targets` is an error."""
    if lacking := [name for name in refusing if backend.missing(name, evaluation=True)]:
        pytest.skip(f"not installed: {lacking}")
    spec = tmp_path / "small.yaml"
    rows = (
        "- c0: {conv: {channels: 4, kernel: 3}}",
        "- c1: {conv: {channels: 4, kernel: 3}}",
        step,
    )
    spec.write_text("\n".join(["rescompile: 1", "name: small", "input: [3, 8, 8]", "network:", *rows, ""]))
    targets = ("onnx", *refusing)
    done = CliRunner().invoke(app, ["verify", str(spec), "--targets", ",".join(targets)])
    assert done.exit_code == 4
    assert "error[E0901]" in done.stderr
    monkeypatch.setattr(backend, "targets", lambda: targets)
    done = CliRunner().invoke(app, ["verify", str(spec), "--json"])
    assert done.exit_code == 0, done.stderr
    assert [(row["target"], row["passed"]) for row in json.loads(done.stdout)["targets"]] == [("onnx", True)]
    assert [line.split(" is not verified: ")[0] for line in done.stderr.splitlines()] == list(refusing)
    monkeypatch.setattr(backend, "targets", lambda: refusing)
    done = CliRunner().invoke(app, ["verify", str(spec)])
    assert done.exit_code == 4
    assert "no target that can be evaluated here supports small" in done.stderr
