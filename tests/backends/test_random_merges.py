"""`merge: mean` and `merge: shake`: the mean in evaluation, random shares in training, and independent ones for
gradients (Gastaldi 2017)."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import rescompile
from rescompile import backend
from rescompile.analysis.paths import paths
from rescompile.codegen.dialect import Dialect
from rescompile.diagnostics.errors import SpecError, Unavailable, UsageError
from rescompile.ir.interpreter import interpret
from rescompile.ir.network import Network
from rescompile.weights.batch_statistics import trial

torch = pytest.importorskip("torch", reason="training needs torch: pip install torch")

HEAD = "rescompile: 1\nname: mixed\ninput: [4, 6, 6]\n"
UNITS = """
block: unit
blocks:
  unit:
    stage: true
    parameters: {width: int}
    body:
      - residual:
          branch:
            parallel: {merge: shake, copies: 3, branch: [act, conv1: {conv: {channels: width, kernel: 3}}, bn1: norm]}
network:
  - layer1: {depth: 3, width: 4}
  - parallel: {merge: mean, branches: [identity, [conv2: {conv: {channels: 4, kernel: 3}}, act], tanh]}
  - parallel: {merge: shake, unit: batch, branches: [identity, conv3: {conv: {channels: 4, kernel: 1}}]}
  - parallel: {merge: shake, branches: [act]}
"""


def elaborated(text: str, folder: Path) -> Network:
    path = folder / "mixed.yaml"
    path.write_text(HEAD + text.lstrip("\n"), encoding="utf-8")
    return rescompile.elaborate(rescompile.load(path))


@pytest.mark.parametrize("target", ["onnx", "torch", "flax", "keras", "mlx"])
@pytest.mark.slow_for("keras", "flax")
def test_evaluation_is_the_mean(target: str, tmp_path: Path) -> None:
    """Every target evaluates the mean of the branches, and each branch counts as a path."""
    if lacking := backend.missing(target, evaluation=True):
        pytest.skip(f"not installed: {lacking}")
    network = elaborated(UNITS, tmp_path)
    weights = trial(network)
    x = np.random.default_rng(1).standard_normal((2, *network.input), np.float32)
    exact = interpret(network, weights, x)["logits"]
    emitted = backend.load(target)
    found = emitted.evaluate(network, weights, x, **backend.checked(emitted, target, {}))["logits"]  # type: ignore[attr-defined]
    assert np.abs(found - exact).max() <= 1e-5 * np.abs(exact).max()
    summed = elaborated(
        UNITS.replace("merge: mean", "merge: add").replace("shake, unit: batch", "add").replace("shake", "add"),
        tmp_path,
    )
    assert paths(network, "layers") == paths(summed, "layers")


def shares(text: str, folder: Path, batch: int, branches: int) -> tuple[np.ndarray, np.ndarray]:
    """Return sum(share_i 2^-i) of each sample in a training step, and the shares of its gradients [batch, branches]."""
    network = elaborated(
        f"network:\n  - parallel: {{merge: shake{text}, branches: [{', '.join(['identity'] * branches)}]}}\n", folder
    )
    source = rescompile.build(network, "source").to_bytes().decode()
    scope: dict[str, object] = {"__name__": "mixed"}
    exec(compile(source, "mixed", "exec"), scope)
    mix = scope["shake"]
    assert callable(mix)
    torch.manual_seed(0)
    given = [torch.full((batch, 2, 3), 2.0**-at, dtype=torch.float64, requires_grad=True) for at in range(branches)]
    mixed = mix(given, True, text == "")
    gradients = torch.stack(torch.autograd.grad(mixed.sum(), given), 1)
    assert bool((gradients == gradients[..., :1, :1]).all())  # one share for all values of a sample
    return mixed.detach().numpy()[:, 0, 0], gradients.numpy()[..., 0, 0]


@pytest.mark.parametrize("branches", [2, 3])
def test_shares_are_convex_and_independent(branches: int, tmp_path: Path) -> None:
    """Shares of gradients add up to 1 and are uniform on the simplex, for each sample; shares of values are distributed
    alike and independent."""
    count = 20_000
    values, gradients = shares("", tmp_path, count, branches)
    assert np.allclose(gradients.sum(1), 1)
    assert gradients.min() >= 0
    # A flat Dirichlet distribution: mean 1/n, variance (n - 1) / (n^2 (n + 1)); five standard errors.
    mean, variance = 1 / branches, (branches - 1) / branches**2 / (branches + 1)
    assert np.abs(gradients.mean(0) - mean).max() < 5 * np.sqrt(variance / count)
    assert np.abs(gradients.var(0) / variance - 1).max() < 0.05
    # The value is the sum of share_i 2^-i.
    weights = 2.0 ** -np.arange(branches)
    spread = variance * (weights**2).sum() - 2 * (1 / branches**2 / (branches + 1)) * sum(
        a * b for i, a in enumerate(weights) for b in weights[:i]
    )
    assert abs(values.mean() - weights.mean()) < 5 * np.sqrt(spread / count)
    assert abs(values.var() / spread - 1) < 0.05
    assert abs(np.corrcoef(values, gradients @ weights)[0, 1]) < 5 / np.sqrt(count)


def test_a_batch_has_one_draw(tmp_path: Path) -> None:
    """With `unit: batch`, all samples have the same shares."""
    values, gradients = shares(", unit: batch", tmp_path, 7, 2)
    assert len(set(values)) == len({tuple(each) for each in gradients}) == 1
    assert values[0] != gradients[0] @ [1, 0.5]


def test_the_mean_of_training_is_that_of_evaluation(tmp_path: Path) -> None:
    """The mean over many draws in training equals evaluation, where nothing else is random; the module can be scripted."""
    network = elaborated(
        "network:\n  - parallel: {merge: shake, branches: [conv1: {conv: {channels: 3, kernel: 1}}, conv2: {conv: {channels: 3, kernel: 1}}]}\n",
        tmp_path,
    )
    module = rescompile.build(network, "torch").module
    x = torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(0)).expand(20_000, -1, -1, -1)
    torch.manual_seed(1)
    with torch.no_grad():
        drawn, mean = module.train()(x), module.eval()(x[:1])
    error = drawn.std(0) / np.sqrt(len(x))
    assert bool(((drawn.mean(0) - mean[0]).abs() <= 5 * error + 1e-6).all())
    assert float(drawn.std(0).mean()) > 0
    scripted = torch.jit.script(module.eval())
    assert torch.allclose(scripted(x[:2]), module(x[:2]))


def test_unsupported_random_merges_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit without random shares, the training form of ONNX, and dialects without `shake` are refused."""
    with pytest.raises(SpecError) as wrong:
        elaborated("network:\n  - parallel: {merge: add, unit: batch, branches: [identity, act]}\n", tmp_path)
    assert wrong.value.diagnostics[0].code == "E0104"
    with pytest.raises(UsageError, match="shake"):
        rescompile.build(elaborated(UNITS, tmp_path), "onnx", training="unbiased")
    monkeypatch.setattr(import_module("rescompile.backends.mlx.dialect").Mlx, "shaken", Dialect.shaken)
    with pytest.raises(Unavailable, match="MLX source does not support the merge 'shake'"):
        rescompile.build(elaborated(UNITS, tmp_path), "mlx")
