"""`drop_path`: which averaged branches training keeps, drawn per merge or as columns of the whole network (Larsson et al. 2017)."""

from __future__ import annotations

import itertools
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drop_path import COLUMN_PRODUCTS, FACTORS, SAMPLES, is_near
from spec_texts import elaborated

import rescompile
from rescompile import backend
from rescompile.codegen.dialect import Dialect
from rescompile.diagnostics.errors import SpecError, Unavailable, UsageError
from rescompile.ir.interpreter import interpret
from rescompile.weights.batch_statistics import trial

torch = pytest.importorskip("torch", reason="training needs torch: pip install torch")


def factors(how: str, folder: Path) -> Any:
    """Return the module of FACTORS in training mode."""
    torch.manual_seed(0)
    return rescompile.build(elaborated(f"{FACTORS}drop_path: {how}\n", folder), "torch").module.train()


@pytest.mark.parametrize("rate", [0.15, 0.6])
def test_each_branch_is_dropped_but_not_all(rate: float, tmp_path: Path) -> None:
    """Each set of branches occurs as often as independent draws imply, and one branch stays where these drop all; the
    output is the mean of the kept branches, and only these receive gradients."""
    drop = factors(f"{{rate: {rate}, columns: 0, unit: sample}}", tmp_path).second.mean
    drop.column = torch.full([SAMPLES], -1)
    given = [torch.full((SAMPLES, 1), float(2**at), requires_grad=True) for at in range(3)]
    found = drop(given)
    shares = torch.cat(torch.autograd.grad(found.sum(), given), 1)
    kept = shares > 0
    assert bool(kept.any(1).all())
    assert torch.allclose(shares, kept / kept.sum(1, keepdim=True))
    assert torch.allclose(found[:, 0], (shares * torch.tensor([1.0, 2.0, 4.0])).sum(1))
    for chosen in itertools.product((False, True), repeat=3):
        size = sum(chosen)
        probability = (1 - rate) ** size * rate ** (3 - size) + (rate**3 / 3 if size == 1 else 0)
        frequency = float((kept == torch.tensor(chosen)).all(1).double().mean())
        assert is_near(frequency, probability if size else 0), chosen


def test_one_column_of_the_whole_network(tmp_path: Path) -> None:
    """Every merge keeps the branch of one column, and each column occurs equally often; a merge without that column
    changes nothing."""
    module = factors("{rate: 0.3, columns: 1, unit: sample}", tmp_path)
    found = module(torch.ones(SAMPLES, 1))[:, 0]
    frequencies = [float((found == column).double().mean()) for column in COLUMN_PRODUCTS]
    assert sum(frequencies) == 1
    assert all(is_near(frequency, 1 / 3) for frequency in frequencies)


@pytest.mark.parametrize("columns", [0.25, 0.5])
def test_the_share_of_columns(columns: float, tmp_path: Path) -> None:
    """One column is chosen for all merges with the given probability; otherwise each merge draws its own branches."""
    module = factors(f"{{rate: 0.5, columns: {columns}, unit: sample}}", tmp_path)
    found = module(torch.ones(SAMPLES, 1))[:, 0]
    first, second = module.first.mean.column, module.second.mean.column
    assert torch.equal(first, second)
    assert is_near(float((first == -1).double().mean()), 1 - columns)
    assert all(is_near(float((first == at).double().mean()), columns / 3) for at in range(3))
    assert torch.equal(found[first >= 0], torch.tensor(COLUMN_PRODUCTS, dtype=found.dtype)[first[first >= 0]])
    # The third branch alone, or one of six other sets after one of three sets of the first merge.
    assert len(set(found[first == -1].tolist())) == 1 + 6 * 3


def test_a_batch_has_one_draw(tmp_path: Path) -> None:
    """With `unit: batch`, all samples of a batch keep the same branches, and other steps may keep others."""
    module = factors("{rate: 0.5, columns: 0.5, unit: batch}", tmp_path)
    steps = [module(torch.ones(5, 1)) for _ in range(50)]
    assert all(len(set(step[:, 0].tolist())) == 1 for step in steps)
    assert len({float(step[0, 0]) for step in steps}) > 3


def test_gradients_of_a_fractal_network() -> None:
    """A step with one column trains the convolutions of one level only."""
    settings = ["parameters.widths=[4, 4, 4, 4, 4]", "drop_path.columns=1"]
    module = rescompile.build(rescompile.elaborate(rescompile.load("fractalnet20_cifar", settings)), "torch").module
    met = set()
    for seed in range(12):
        torch.manual_seed(seed)
        module.zero_grad()
        module.train()(torch.randn(4, 3, 32, 32)).square().sum().backward()
        trained = [name for name, value in module.named_parameters() if "conv" in name and value.grad.any()]
        (level,) = {name.count("first") + name.count("second") for name in trained}
        assert len(trained) == 5 * 2**level
        met.add(level)
    assert met == {0, 1, 2}


@pytest.mark.parametrize("target", ["onnx", "torch", "flax", "keras", "mlx"])
@pytest.mark.slow_for("keras", "flax")
def test_evaluation_is_the_mean(target: str) -> None:
    """Evaluation computes the mean of all branches, also in TorchScript."""
    if lacking := backend.missing(target, evaluation=True):
        pytest.skip(f"not installed: {lacking}")
    network = rescompile.elaborate(rescompile.load("fractalnet20_cifar", ["parameters.widths=[4, 8, 8, 8, 8]"]))
    weights = trial(network)
    x = np.random.default_rng(1).standard_normal((2, *network.input), np.float32)
    exact = interpret(network, weights, x)["logits"]
    emitted = backend.load(target)
    found = emitted.evaluate(network, weights, x, **backend.checked(emitted, target, {}))["logits"]  # type: ignore[attr-defined]
    assert np.abs(found - exact).max() <= 1e-5 * np.abs(exact).max()
    if target == "torch":
        module = rescompile.build(network, target, weights=weights).module.eval()
        assert torch.allclose(torch.jit.script(module)(torch.from_numpy(x)), module(torch.from_numpy(x)))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("{rate: 1, columns: 0.5, unit: batch}", "'rate' must be"),
        ("{rate: 0.1, columns: 1.5, unit: batch}", "'columns' is a probability"),
        ("{rate: 0, columns: 0, unit: batch}", "nothing is ever dropped"),
    ],
)
def test_invalid_settings_are_refused(how: str, message: str, tmp_path: Path) -> None:
    """Invalid probabilities, and a network without averaged branches, are errors in the spec."""
    with pytest.raises(SpecError, match="E0605") as wrong:
        elaborated(f"{FACTORS}drop_path: {how}\n", tmp_path)
    assert message in str(wrong.value)
    with pytest.raises(SpecError, match="no 'merge: mean' of several branches"):
        elaborated(
            f"{FACTORS.replace('merge: mean', 'merge: add')}drop_path: {{rate: 0.1, columns: 0, unit: batch}}\n",
            tmp_path,
        )


def test_frameworks_without_drop_path_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    """A framework without drop-path is refused by name; without the key, the network builds."""
    dialect = import_module("rescompile.backends.mlx.dialect").Mlx
    monkeypatch.setattr(dialect, "drop_path", Dialect.drop_path)
    with pytest.raises(Unavailable, match="source of MLX has no drop-path"):
        rescompile.build("fractalnet40_cifar", "mlx")
    plain = rescompile.load("fractalnet40_cifar", ["drop_path=null"])
    assert b"Fractal" in rescompile.build(plain, "mlx").to_bytes()


def test_onnx_training_refuses_drop_path() -> None:
    """ONNX training refuses `drop_path`, because it would train a different network."""
    with pytest.raises(UsageError, match="drop_path"):
        rescompile.build("fractalnet40_cifar", "onnx", training="unbiased")
