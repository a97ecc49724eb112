"""Training of generated MLX modules: one step compared with the generated PyTorch module, both in float64, and random choices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from differential import seeds
from generator import generate

for package in ("torch", "mlx.core"):
    pytest.importorskip(package, reason="runs one of the targets: pip install 'rescompile[torch,mlx]'")

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map
from mlx_models import arrays, by_mlx, by_torch, given, in_double, model_of, source_file
from sources import drawn
from spec_texts import elaborated
from training_steps import agree
from variants import changed, shallow

from rescompile.ir.network import Network, Op, Parallel, walk
from rescompile.ir.ops import Dropout


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    with in_double():
        yield


@pytest.mark.parametrize(
    "name",
    [
        "resnet20_cifar",
        "resnet_time_series",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in (
                "preact_resnet164_cifar",
                "densenet_40_k12_cifar",
                "resnext50_32x4d",
                "googlenet",
                "drn_a_18",
                "nf_resnet50",
                "mc3_18",
            )
        ),
    ],
)
def test_step_is_that_of_torch(name: str) -> None:
    """Gradients and running statistics equal those of PyTorch; outputs include those of training only."""
    network = shallow(name)
    weights, x = drawn(network, 0, batch=12)  # statistics over few values amplify rounding errors
    network = without_dropout(network)
    agree(by_mlx(network, weights, x), by_torch(network, weights, x))


def without_dropout(network: Network) -> Network:
    """Return the network with dropout that drops nothing."""

    def kept(name: str, node: Any) -> Any:
        dropout = isinstance(node, Op) and isinstance(node.kind, Dropout)
        return replace(node, kind=Dropout(0.0), hints={}) if dropout else node

    return changed(network, kept)


@pytest.mark.parametrize("seed", [pytest.param(n, marks=[pytest.mark.slow] if n >= 4 else []) for n in seeds()])
def test_random_step_is_that_of_torch(seed: int, tmp_path: Path) -> None:
    """Random networks without survival take the step of PyTorch, also if activations are recomputed."""
    network = without_dropout(elaborated(generate(seed).text, tmp_path))
    if any(isinstance(node, Parallel) and node.survival for _, node in walk(network.root)):
        return
    source_file.check(network)
    weights, x = drawn(network, seed, batch=4)
    wanted = by_torch(network, weights, x)
    for checkpoint in (False, True):
        agree(by_mlx(replace(network, checkpoint=checkpoint), weights, x), wanted)


NORM = """
rescompile: 1
name: norm
input: [3, 4, 5]
network: [{bn: {norm: {momentum: 0.3}}}, global_avgpool, flatten, {fc: {linear: 2}}]
"""


@pytest.mark.parametrize(("rule", "factor"), [("biased", 1.0), ("unbiased", 40 / 39)])
def test_the_rule_of_running_variances(rule: str, factor: float, tmp_path: Path) -> None:
    """Running statistics over 2 x 4 x 5 values, by hand: 0.7 of the old value and 0.3 of that of the batch."""
    network = elaborated(NORM, tmp_path)
    weights, x = drawn(network, 0, batch=2)
    weights = {name: value.astype(np.float64) for name, value in weights.items()}
    found = by_mlx(network, weights, x, running_variance=rule).statistics
    mean, variance = weights["bn.running_mean"], weights["bn.running_var"]
    assert np.allclose(found["bn.running_mean"], 0.7 * mean + 0.3 * x.mean((0, 2, 3)), rtol=1e-12)
    assert np.allclose(found["bn.running_var"], 0.7 * variance + 0.3 * factor * x.var((0, 2, 3)), rtol=1e-12)


DEEP = """
rescompile: 1
name: deep
input: [3, 6, 6]
blocks:
  unit:
    body:
    - residual:
        branch: [{conv1: {conv: {channels: in_channels, kernel: 3}}}, {bn1: norm}]
    - relu
network:
- conv0: {conv: {channels: 4, kernel: 3}}
- layer1: {block: unit, depth: DEPTH}
- global_avgpool
- flatten
- fc: {linear: 10}
survival: {schedule: {each: [EACH]}, unit: UNIT, rescale: RESCALE}
"""


def deep(folder: Path, each: list[float], unit: str = "batch", rescale: str = "test") -> Network:
    """Return a network of residual units with these survival probabilities."""
    text = DEEP.replace("DEPTH", str(len(each))).replace("EACH", ", ".join(map(str, each)))
    return elaborated(text.replace("UNIT", unit).replace("RESCALE", rescale), folder)


@pytest.mark.parametrize("rescale", ["train", "test"])
@pytest.mark.parametrize("unit", ["batch", "sample"])
def test_deterministic_survival_is_that_of_torch(unit: str, rescale: str, tmp_path: Path) -> None:
    """A step equals that of PyTorch at probabilities of one and, where training does not divide by them, of nearly zero."""
    network = deep(tmp_path, [1.0, 1.0 if rescale == "train" else 1e-12, 1.0], unit, rescale)
    weights, x = drawn(network, 0)
    agree(by_mlx(network, weights, x), by_torch(network, weights, x))


@pytest.mark.parametrize("checkpoint", [False, True])
def test_a_dropped_branch_does_not_run(checkpoint: bool, tmp_path: Path) -> None:
    """A dropped branch keeps its statistics and has zero gradients; half of the branches run at a probability of one half."""
    network = replace(deep(tmp_path, [0.5] * 10), checkpoint=checkpoint)
    weights, x = drawn(network, 0)
    model = model_of(network, weights)
    mx.random.seed(0)
    step = nn.value_and_grad(model, lambda x: mx.mean(model(x) ** 2))
    shares = []
    for _ in range(12):
        before = arrays(model.parameters())
        _, gradients = step(given(x))
        after, slopes = arrays(model.parameters()), arrays(gradients)
        ran = [
            not np.array_equal(before[f"layer1.{at}.bn1.running_var"], after[f"layer1.{at}.bn1.running_var"])
            for at in range(10)
        ]
        assert ran == [bool(np.any(slopes[f"layer1.{at}.conv1.weight"])) for at in range(10)]
        shares.append(sum(ran))
    assert len(set(shares)) > 1
    assert 40 <= sum(shares) <= 80


def test_samples_are_dropped_independently(tmp_path: Path) -> None:
    """With `unit: sample`, some samples of a batch keep a branch, and the others have the output of the shortcut alone."""
    network = deep(tmp_path, [0.5], "sample")
    weights, _ = drawn(network, 0)
    model = model_of(network, weights)
    mx.random.seed(0)
    x = given(np.broadcast_to(np.random.default_rng(0).standard_normal((1, 3, 6, 6)), (64, 3, 6, 6)))
    rows = np.round(np.array(model(x)), 9)
    assert len(np.unique(rows, axis=0)) == 2
    assert 0.2 < np.mean(np.all(rows == rows[0], axis=1)) < 0.8
    assert not np.array_equal(rows, np.round(np.array(model(x)), 9))


DROPPED = """
rescompile: 1
name: dropped
input: [50]
network: [{dropout: 0.3}, {fc: {linear: 20}}]
"""


def test_dropout(tmp_path: Path) -> None:
    """Dropout scales the values it keeps, differs from call to call, and does nothing in evaluation."""
    network = elaborated(DROPPED, tmp_path)
    model = model_of(network, {"fc.weight": np.eye(20, 50), "fc.bias": np.zeros(20)})
    mx.random.seed(0)
    x = mx.ones((200, 50), mx.float64)
    first, second = np.array(model(x)), np.array(model(x))
    assert not np.array_equal(first, second)
    assert np.allclose(np.unique(first), [0, 1 / 0.7])
    assert abs(np.mean(first == 0) - 0.3) < 0.05
    assert np.array_equal(np.array(model.eval()(x)), np.ones((200, 20)))


RECOMPUTED = """
rescompile: 1
name: recomputed
input: [3, 6, 6]
checkpoint: CHECKPOINT
network:
- conv0: {conv: {channels: 4, kernel: 3}}
- unit:
    residual:
      branch: [{conv1: {conv: {channels: 4, kernel: 3}}}, {bn1: norm}, RANDOM, {conv2: {conv: {channels: 4, kernel: 3}}}]
      shortcut: [{conv3: {conv: {channels: 4, kernel: 1}}}]
- global_avgpool
- flatten
- {fc: {linear: 3}}
"""


@pytest.mark.parametrize(
    "random",
    [
        "{drop: {dropout: 0.5}}",
        "{parallel: {merge: shake, branches: [identity, tanh]}}",
        "{parallel: {merge: mean, branches: [identity, tanh, sigmoid]}}",
    ],
)
def test_recomputed_branches_draw_the_same(random: str, tmp_path: Path) -> None:
    """A recomputed branch draws the same random numbers again and moves its statistics once; later random numbers are
    the same, too."""
    found = []
    for checkpoint in ("false", "true"):
        text = RECOMPUTED.replace("CHECKPOINT", checkpoint).replace("RANDOM", random)
        drops = "drop_path: {rate: 0.5, columns: 0.5, unit: sample}\n" if "mean" in random else ""
        network = elaborated(text + drops, tmp_path)
        assert ("recomputed(" in source_file.source(network)) is (checkpoint == "true")
        weights, x = drawn(network, 0)
        mx.random.seed(3)
        found.append((by_mlx(network, weights, x), mx.random.uniform().item()))
    (once, later), (again, later_again) = found
    agree(again, once)
    assert later == later_again


def test_outputs_follow_the_mode() -> None:
    """Auxiliary heads are computed in training only; eval() and train() switch them."""
    network = shallow("googlenet")
    weights, x = drawn(network, 0, batch=2)
    model = model_of(network, weights)
    assert set(model(given(x))) == {"logits", "aux1", "aux2"}
    assert set(model.eval()(given(x))) == {"logits"}
    assert set(model.train()(given(x))) == {"logits", "aux1", "aux2"}


@pytest.mark.slow
def test_twenty_steps_stay_with_torch() -> None:
    """Twenty steps of SGD in float64 have the losses of PyTorch up to rounding."""
    torch: Any = pytest.importorskip("torch")
    from sources import filled, source

    network = shallow("resnet20_cifar")
    weights, x = drawn(network, 0, batch=8)
    model, other = model_of(network, weights), filled(source(network), weights)
    batch, target = given(x), torch.from_numpy(x)
    step = nn.value_and_grad(model, lambda x: mx.mean((model(x) - 1) ** 2))
    optimizer = torch.optim.SGD(other.parameters(), 0.01)
    for _ in range(20):
        mine, gradients = step(batch)
        model.update(tree_map(lambda value, slope: value - 0.01 * slope, model.trainable_parameters(), gradients))
        mx.eval(model.parameters())
        optimizer.zero_grad()
        loss = ((other(target) - 1) ** 2).mean()
        loss.backward()
        optimizer.step()
        assert abs(mine.item() - loss.item()) < 1e-7 * loss.item()
