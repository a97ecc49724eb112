"""Training of generated Flax modules: one step compared with the generated PyTorch module, both in float64, and random choices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import facts
import numpy as np
import pytest
from differential import seeds
from generator import generate

for package in ("torch", "jax", "flax"):
    pytest.importorskip(package, reason="runs one of the targets: pip install 'rescompile[torch,flax]'")

import jax
import jax.numpy as jnp
from drop_path import COLUMN_PRODUCTS, FACTORS, SAMPLES, is_near
from flax import nnx
from flax_models import arrays, by_flax, by_torch, drawing, in_double, model_of, source_file
from random_numbers import in_torch
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
                "mc3_18",
            )
        ),
    ],
)
@pytest.mark.slow_for("resnet20_cifar")
def test_step_is_that_of_torch(name: str) -> None:
    """Gradients and running statistics equal those of PyTorch, with its variances; outputs include those of training only."""
    network = shallow(name)
    weights, x = drawn(network, 0, batch=12)  # statistics over few values amplify rounding errors
    network = without_dropout(network)
    agree(by_flax(network, weights, x, running_variance="unbiased"), by_torch(network, weights, x))


def without_dropout(network: Network) -> Network:
    """Return the network with dropout that drops nothing."""

    def kept(name: str, node: Any) -> Any:
        dropout = isinstance(node, Op) and isinstance(node.kind, Dropout)
        return replace(node, kind=Dropout(0.0), hints={}) if dropout else node

    return changed(network, kept)


@pytest.mark.parametrize("seed", [pytest.param(n, marks=[pytest.mark.slow] if n >= 2 else []) for n in seeds()])
@pytest.mark.slow_for("1")
def test_random_step_is_that_of_torch(seed: int, tmp_path: Path) -> None:
    """Random networks without survival take the step of PyTorch, also if activations are recomputed."""
    network = without_dropout(elaborated(generate(seed).text, tmp_path))
    if any(isinstance(node, Parallel) and node.survival for _, node in walk(network.root)):
        return
    source_file.check(network)
    weights, x = drawn(network, seed, batch=4)
    for checkpoint in (False, True):
        here = replace(network, checkpoint=checkpoint)
        agree(by_flax(here, weights, x, running_variance="unbiased"), by_torch(network, weights, x))


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
    found = by_flax(network, weights, x, running_variance=rule).statistics
    assert np.allclose(found["bn.mean"], 0.7 * weights["bn.running_mean"] + 0.3 * x.mean((0, 2, 3)), rtol=1e-12)
    assert np.allclose(found["bn.var"], 0.7 * weights["bn.running_var"] + 0.3 * factor * x.var((0, 2, 3)), rtol=1e-12)


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
    agree(by_flax(network, weights, x, running_variance="unbiased"), by_torch(network, weights, x))


def test_a_dropped_branch_does_not_run(tmp_path: Path) -> None:
    """A dropped branch keeps its statistics and has zero gradients; half of the branches run at a probability of one half."""
    network = deep(tmp_path, [0.5] * 10)
    weights, x = drawn(network, 0)
    model = model_of(network, weights)
    step = nnx.jit(nnx.value_and_grad(lambda model, x: jnp.mean(model(x) ** 2)))
    given, shares = jnp.asarray(np.moveaxis(x, 1, -1)), []
    for _ in range(12):
        before = arrays(nnx.state(model, nnx.BatchStat))
        _, gradients = step(model, given)
        after, slopes = arrays(nnx.state(model, nnx.BatchStat)), arrays(gradients)
        ran = [not np.array_equal(before[f"layer1.{at}.bn1.var"], after[f"layer1.{at}.bn1.var"]) for at in range(10)]
        assert ran == [bool(np.any(slopes[f"layer1.{at}.conv1.kernel"])) for at in range(10)]
        shares.append(sum(ran))
    assert len(set(shares)) > 1
    assert 40 <= sum(shares) <= 80


def test_samples_are_dropped_independently(tmp_path: Path) -> None:
    """With `unit: sample`, some samples of a batch keep a branch, and the others have the output of the shortcut alone."""
    network = deep(tmp_path, [0.5], "sample")
    weights, _ = drawn(network, 0)
    model = model_of(network, weights)
    x = jnp.asarray(np.broadcast_to(np.random.default_rng(0).standard_normal((1, 6, 6, 3)), (64, 6, 6, 3)))
    rows = {tuple(row) for row in np.round(np.asarray(model(x)), 9)}
    assert len(rows) == 2
    share = np.mean(np.all(np.round(np.asarray(model(x)), 9) == np.array(min(rows)), axis=1))
    assert 0.2 < share < 0.8


MERGES = """
rescompile: 1
name: merges
input: [3, 6, 6]
network:
- conv0: {conv: {channels: 4, kernel: 3}}
- residual:
    branch:
    - parallel: {merge: shake, branches: [{conv1: {conv: {channels: 4, kernel: 3}}}, tanh]}
    - parallel: {merge: mean, branches: [{bn1: norm}, identity]}
- global_avgpool
- flatten
- fc: {linear: 10}
drop_path: {rate: 0.5, columns: 0.5, unit: sample}
survival: {schedule: {each: [1]}, unit: batch, rescale: train}
"""


def test_recomputed_and_skipped_branches_draw_the_same(tmp_path: Path) -> None:
    """Under nnx.remat and nnx.cond, shares and dropped branches equal those of PyTorch with the same random numbers."""
    network = elaborated(MERGES, tmp_path)
    weights, x = drawn(network, 0)
    with in_torch(0) as numbers:
        wanted = by_torch(network, weights, x)
    for checkpoint in (False, True):
        with drawing(numbers):
            here = replace(network, checkpoint=checkpoint)
            agree(by_flax(here, weights, x, running_variance="unbiased"), wanted)


def test_steps_of_split_models_in_one_scan(tmp_path: Path) -> None:
    """In a scan over steps, the state keeps its types, and each step draws its own column."""
    network = elaborated(f"{FACTORS}drop_path: {{rate: 0.3, columns: 1, unit: sample}}\n", tmp_path)
    graph, state = nnx.split(model_of(network, {}))

    def step(state: Any, x: Any) -> tuple[Any, Any]:
        model = nnx.merge(graph, state)
        found = model(x)
        return nnx.state(model), found

    _, found = jax.jit(lambda state, x: jax.lax.scan(step, state, x))(state, jnp.ones((SAMPLES // 10, 10, 1)))
    values = np.asarray(found).ravel()
    assert len({tuple(each) for each in values[:200].reshape(20, 10)}) > 10
    assert all(is_near(float((values == column).mean()), 1 / 3) for column in COLUMN_PRODUCTS)


DROPPED = """
rescompile: 1
name: dropped
input: [50]
network: [{dropout: 0.3}, {fc: {linear: 20}}]
"""


def test_dropout(tmp_path: Path) -> None:
    """Dropout scales the values it keeps, differs from call to call, and does nothing in evaluation."""
    network = elaborated(DROPPED, tmp_path)
    weights, _ = drawn(network, 0)
    eye = {"fc.weight": np.eye(20, 50), "fc.bias": np.zeros(20)}
    assert eye.keys() == weights.keys()
    model = model_of(network, eye)
    x = jnp.ones((200, 50))
    first, second = np.asarray(model(x)), np.asarray(model(x))
    assert not np.array_equal(first, second)
    assert np.allclose(np.unique(first), [0, 1 / 0.7])
    assert abs(np.mean(first == 0) - 0.3) < 0.05
    model.eval()
    assert np.array_equal(np.asarray(model(x)), np.ones((200, 20)))


HEAD = """
rescompile: 1
name: head
input: [3, 4, 4]
network:
- aux: {side: {body: [{pool: global_avgpool}, {flat: flatten}, {fc: {linear: 2}}], output: aux, mode: training}}
- global_avgpool
- flatten
- fc: {linear: 2}
"""


def test_outputs_follow_the_mode(tmp_path: Path) -> None:
    """Auxiliary heads are computed in training only; eval() and train() switch them."""
    network = elaborated(HEAD, tmp_path)
    weights, x = drawn(network, 0, batch=2)
    model = model_of(network, weights)
    given = jnp.asarray(np.moveaxis(x, 1, -1))
    assert set(model(given)) == {"logits", "aux"}
    model.eval()
    assert set(model(given)) == {"logits"}
    model.train()
    assert set(model(given)) == {"logits", "aux"}


@pytest.mark.slow
def test_twenty_steps_stay_with_torch() -> None:
    """Twenty steps of SGD in float64 have the losses of PyTorch up to rounding."""
    torch: Any = pytest.importorskip("torch")
    from sources import filled, source

    network = facts.network("resnet20_cifar", *(f"layer{row}.depth=1" for row in (1, 2, 3)), "input=[3,8,8]")
    weights, x = drawn(network, 0, batch=8)
    model, other = model_of(network, weights, running_variance="unbiased"), filled(source(network), weights)
    given, target = jnp.asarray(np.moveaxis(x, 1, -1)), torch.from_numpy(x)

    @nnx.jit
    def step(model: Any, x: Any) -> Any:
        loss, gradients = nnx.value_and_grad(lambda model, x: jnp.mean((model(x) - 1) ** 2))(model, x)
        params = nnx.state(model, nnx.Param)
        nnx.update(model, jax.tree.map(lambda value, slope: value - 0.01 * slope, params, gradients))
        return loss

    optimizer = torch.optim.SGD(other.parameters(), 0.01)
    for _ in range(20):
        mine = float(step(model, given))
        optimizer.zero_grad()
        loss = ((other(target) - 1) ** 2).mean()
        loss.backward()
        optimizer.step()
        assert abs(mine - loss.item()) < 1e-7 * loss.item()
