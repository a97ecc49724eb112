"""The training form of ONNX files: a step compared with PyTorch, and dropout and survival compared with their definitions."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

import rescompile
from rescompile.cli import app
from rescompile.ir.network import Network
from rescompile.weights import draw

onnxruntime = pytest.importorskip("onnxruntime", reason="runs the graphs")
torch = pytest.importorskip("torch", reason="takes the steps that the graphs are compared with")

HEAD = "rescompile: 1\nname: small\ninput: [3, 8, 8]\n"
#: Networks with norms of every kind and of vectors, other momenta, a head for training, and several outputs.
NETWORKS = {
    "residual": """
network:
  - conv1: {conv: {channels: 8, kernel: 3}}
  - bn1: {norm: {momentum: 0.3, eps: 0.01}}
  - relu
  - side: {output: aux, mode: training, body: [pool: global_avgpool, flatten, head: {linear: 5}]}
  - residual: {branch: [{conv2: {conv: {channels: 8, kernel: 3}}}, {bn2: norm}], shortcut: [proj: [conv: {channels: 8, kernel: 1}, norm]]}
  - side: {output: map, mode: always, body: [gn: {norm: {kind: group, groups: 2}}]}
  - global_avgpool
  - flatten
  - fc1: {linear: 6}
  - bn3: norm
  - fc: {linear: 10}
""",
    "concatenation": """
network:
  - stem: {conv: {channels: 4, kernel: 3}}
  - dense: {block: layer, depth: 3}
  - norm
  - flatten
  - fc: {linear: 10}
blocks:
  layer:
    body:
      - parallel: {merge: concat, branches: [identity, [norm, relu, conv: {channels: 4, kernel: 3}]]}
""",
}


def network(text: str, folder: Path, *settings: str) -> Network:
    """Return the network of a spec without its head."""
    path = folder / "small.yaml"
    path.write_text(HEAD + text, "utf-8")
    return rescompile.elaborate(rescompile.load(path, settings))


def session(net: Network, folder: Path, arrays: Any, **options: Any) -> Any:
    """Return a session of the training form, whose file passes the full check of onnx."""
    path = folder / "training.onnx"
    rescompile.build(net, "onnx", arrays, **{"training": "biased", **options}).write(path, force=True)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def outputs(model: Any, x: Any) -> dict[str, Any]:
    """Return the outputs of a run by name."""
    names = [output.name for output in model.get_outputs()]
    return dict(zip(names, model.run(names, {"input": x}), strict=True))


def inputs(net: Network, batch: int = 4) -> Any:
    """Return a seeded batch."""
    return np.random.default_rng(0).standard_normal((batch, *net.input), np.float32)


@pytest.mark.parametrize("opset", [14, 17, 21])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_is_that_of_pytorch(name: str, opset: int, tmp_path: Path) -> None:
    """All outputs, those for training included, and all running statistics after one step equal those of PyTorch up to rounding."""
    net = network(NETWORKS[name], tmp_path)
    arrays, x = dict(draw(net, 1)), inputs(net)
    model = session(net, tmp_path, arrays, training="unbiased", opset=opset)
    found, again = outputs(model, x), outputs(model, x)
    for key, value in found.items():
        assert np.array_equal(value, again[key]), f"{key}: a run changes the weights"
    module = rescompile.build(net, "torch", arrays).module.train()
    given = module(torch.from_numpy(x))
    expected = given if isinstance(given, dict) else {"logits": given}
    state = module.state_dict()
    new = {key: value for key, value in state.items() if key.endswith(("running_mean", "running_var"))}
    computed = {f"{key}.computed" for key in new if key.endswith("var")}
    assert found.keys() == expected.keys() | {f"{key}.new" for key in new} | computed
    for key, value in {**expected, **{f"{key}.new": value for key, value in new.items()}}.items():
        np.testing.assert_allclose(found[key], value.detach().numpy(), rtol=1e-5, atol=1e-5, err_msg=key)
    assert any(np.abs(found[f"{key}.new"] - arrays[key]).max() > 1e-3 for key in new)


def test_biased_variances(tmp_path: Path) -> None:
    """Running variances follow the definition of ONNX: the mean square deviation of the batch, weighted by the momentum."""
    net = network("network: [bn: {norm: {momentum: 0.25}}]", tmp_path)
    x = inputs(net, 3)
    arrays = {**draw(net), "bn.running_var": np.array([2, 3, 4], np.float32)}
    found = outputs(session(net, tmp_path, arrays), x)
    expected = 0.75 * arrays["bn.running_var"] + 0.25 * x.var((0, 2, 3))
    np.testing.assert_allclose(found["bn.running_var.new"], expected, rtol=1e-5)
    np.testing.assert_allclose(found["bn.running_mean.new"], 0.25 * x.mean((0, 2, 3)), rtol=1e-5)


def test_dropout(tmp_path: Path) -> None:
    """A fraction `rate` of the values is 0, different ones in each run, and the rest is divided by 1 - rate."""
    onnxruntime.set_seed(5)  # seeds 0 and 1 start with the same draws
    net = network("network: [dropout: 0.3]", tmp_path)
    x = inputs(net, 64)
    model = session(net, tmp_path, {})
    first, second = (outputs(model, x)["logits"] for _ in range(2))
    kept = first != 0
    np.testing.assert_allclose(first[kept], x[kept] / np.float32(0.7), rtol=1e-6)
    assert abs(kept.mean() - 0.7) < 5 * np.sqrt(0.21 / x.size)
    assert not np.array_equal(first, second)


SURVIVAL = """
survival: {schedule: {each: [0.6, 0.3]}, unit: batch, rescale: train}
network:
  - residual: {branch: [{conv1: {conv: {channels: 3, kernel: 3}}}, {bn1: norm}]}
  - residual: {branch: [{conv2: {conv: {channels: 3, kernel: 3}}}, {bn2: norm}]}
"""


@pytest.mark.parametrize("rescale", ["train", "test"])
def test_branches_survive_for_the_whole_batch(rescale: str, tmp_path: Path) -> None:
    """Each run is one of the four that PyTorch can draw, as often as the schedule implies, and the norms of a dropped
    branch keep their statistics."""
    onnxruntime.set_seed(5)  # seeds 0 and 1 start with the same draws
    net = network(SURVIVAL, tmp_path, f"survival.rescale={rescale}")
    arrays, x = dict(draw(net, 3)), inputs(net, 2)
    possible = {}
    for drawn in product((True, False), repeat=2):
        y = torch.from_numpy(x)
        for at, (kept, share) in enumerate(zip(drawn, (0.6, 0.3), strict=True), 1):
            branch = torch.nn.functional.conv2d(y, torch.from_numpy(arrays[f"conv{at}.weight"]), padding=1)
            branch = torch.nn.functional.batch_norm(branch, None, None, training=True)
            y = y + branch / (share if rescale == "train" else 1) if kept else y
        possible[drawn] = y.numpy()
    model, runs, count = session(net, tmp_path, arrays), 400, dict.fromkeys(possible, 0)
    for _ in range(runs):
        found = outputs(model, x)
        drawn = tuple(
            bool((found[f"bn{at}.running_mean.new"] != arrays[f"bn{at}.running_mean"]).any()) for at in (1, 2)
        )
        assert drawn == tuple(
            bool((found[f"bn{at}.running_var.new"] != arrays[f"bn{at}.running_var"]).any()) for at in (1, 2)
        )
        np.testing.assert_allclose(found["logits"], possible[drawn], rtol=1e-4, atol=1e-4)
        count[drawn] += 1
    for drawn, times in count.items():
        p = (0.6 if drawn[0] else 0.4) * (0.3 if drawn[1] else 0.7)
        assert abs(times - runs * p) < 5 * np.sqrt(runs * p * (1 - p))


@pytest.mark.parametrize("rescale", ["train", "test"])
def test_branches_survive_for_each_sample(rescale: str, tmp_path: Path) -> None:
    """Each sample keeps its branch or drops it; norms see the whole batch, so their statistics change in every run."""
    onnxruntime.set_seed(5)  # seeds 0 and 1 start with the same draws
    text = SURVIVAL.replace("each: [0.6, 0.3]", "each: [0.6]").replace("unit: batch", "unit: sample")
    text = "\n".join(line for line in text.splitlines() if "conv2" not in line)
    net = network(text, tmp_path, f"survival.rescale={rescale}")
    arrays, x = dict(draw(net, 3)), inputs(net, 400)
    branch = torch.nn.functional.conv2d(torch.from_numpy(x), torch.from_numpy(arrays["conv1.weight"]), padding=1)
    branch = torch.nn.functional.batch_norm(branch, None, None, training=True).numpy()
    found = outputs(session(net, tmp_path, arrays), x)
    off = found["logits"] - x
    kept = np.abs(off).max((1, 2, 3)) > 0
    np.testing.assert_allclose(off[kept], branch[kept] / (0.6 if rescale == "train" else 1), rtol=1e-3, atol=1e-4)
    assert abs(kept.sum() - 240) < 5 * np.sqrt(400 * 0.24)
    assert (found["bn1.running_mean.new"] != arrays["bn1.running_mean"]).all()


def test_build_reports_outputs_and_rebuilds_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`build` reports the outputs of the file, and a file built from its own record has the same bytes."""
    monkeypatch.chdir(tmp_path)
    network(NETWORKS["residual"], tmp_path)
    words = ["./small.yaml", "-t", "onnx", "--training", "unbiased", "-o"]
    data = json.loads(invoke("build", *words, "a.onnx", "--json").stdout)
    graph = onnx.load("a.onnx").graph
    shown = [output.name for output in graph.output if not output.name.endswith(".computed")]
    assert [*data["outputs"], *data["updates"]] == shown
    stderr = invoke("extract", "a.onnx", "-o", "again.yaml").stderr
    again = stderr[stderr.index("built with") :].splitlines()[0].split()[2:]
    invoke("build", "./again.yaml", "-t", "onnx", "-o", "b.onnx", *again)
    assert Path("a.onnx").read_bytes() == Path("b.onnx").read_bytes()


def test_parameters_as_inputs(tmp_path: Path) -> None:
    """Without weights, the old statistics are inputs and the new ones outputs."""
    net = network("network: [bn: norm]", tmp_path)
    path = tmp_path / "structure.onnx"
    rescompile.build(net, "onnx", training="biased", structure_only=True).write(path)
    model = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    x, arrays = inputs(net), dict(draw(net))
    names = {value.name for value in model.get_inputs()} - {"input"}
    found = model.run(["bn.running_mean.new"], {"input": x, **{name: arrays[name] for name in names}})[0]
    np.testing.assert_allclose(found, 0.1 * x.mean((0, 2, 3)), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--precision", "fp16"], "--training and --precision fp16 cannot be used together"),
        (["--precision", "int8"], "--training and --precision int8 cannot be used together"),
        (["--softmax"], "--training and --softmax cannot be used together"),
        (["--fold-batchnorm"], "--training and --fold-batchnorm cannot be used together"),
        (["--opset", "13"], "--training and --opset 13 cannot be used together"),
        (["--dynamic", "height,width"], "--training and --dynamic cannot be used together"),
        (["--verify"], "--verify and --training cannot be used together"),
    ],
)
def test_options_that_contradict_training_are_refused(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Options that contradict the training form are refused by name, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    network(NETWORKS["residual"], tmp_path)
    done = invoke("build", "./small.yaml", "-t", "onnx", "--training", "biased", "-o", "x.onnx", *words, code=2)
    assert message in " ".join(done.stderr.split())
    assert not Path("x.onnx").exists()


def invoke(*words: str, code: int = 0) -> Any:
    """Run a command in this process."""
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == code, done.output
    return done
