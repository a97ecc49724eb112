"""Training of generated Keras models: one step compared with the generated PyTorch module, both in float64, and random choices."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.update(KERAS_BACKEND="torch", KERAS_TORCH_DEVICE="cpu")
for package in ("torch", "keras"):
    pytest.importorskip(package, reason="runs the target: pip install 'rescompile[torch,keras]'")

from keras_models import by_keras, by_torch, keras, model_of, module, set_precision, source_file
from sources import drawn
from spec_texts import elaborated
from training_steps import agree
from variants import changed, shallow

from rescompile.ir.network import Network, Op
from rescompile.ir.ops import Dropout


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    set_precision("float64")
    yield
    set_precision("float32")


def without_dropout(network: Network) -> Network:
    """Return the network with dropout that drops nothing."""

    def kept(name: str, node: Any) -> Any:
        dropout = isinstance(node, Op) and isinstance(node.kind, Dropout)
        return replace(node, kind=Dropout(0.0), hints={}) if dropout else node

    return changed(network, kept)


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
def test_keras_step_is_that_of_torch(name: str) -> None:
    """Gradients and running statistics equal those of PyTorch, with its variances; outputs include those of training only."""
    network = without_dropout(shallow(name))
    weights, x = drawn(network, 0, batch=12)  # statistics over few values amplify rounding errors
    agree(by_keras(network, weights, x, running_variance="unbiased"), by_torch(network, weights, x))


NORM = """
rescompile: 1
name: norm
input: [3, 4, 5]
network: [{bn: {norm: {momentum: 0.3}}}, global_avgpool, flatten, {fc: {linear: 2}}]
"""


@pytest.mark.parametrize(("rule", "factor"), [("biased", 1.0), ("unbiased", 40 / 39)])
def test_the_rule_of_running_variances_in_keras(rule: str, factor: float, tmp_path: Path) -> None:
    """Running statistics over 2 x 4 x 5 values, by hand: 0.7 of the old value and 0.3 of that of the batch."""
    network = elaborated(NORM, tmp_path)
    weights, x = drawn(network, 0, batch=2)
    weights = {name: value.astype(np.float64) for name, value in weights.items()}
    found = by_keras(network, weights, x, running_variance=rule).statistics
    assert np.allclose(found["bn/moving_mean"], 0.7 * weights["bn.running_mean"] + 0.3 * x.mean((0, 2, 3)), rtol=1e-12)
    variance = 0.7 * weights["bn.running_var"] + 0.3 * factor * x.var((0, 2, 3))
    assert np.allclose(found["bn/moving_variance"], variance, rtol=1e-12)


AGAIN = """
rescompile: 1
name: again
input: [3, 6, 6]
network:
- conv1: {conv: {channels: 4, kernel: 3}}
- unit: [{conv2: {conv: {channels: 4, kernel: 3}}}, {bn2: norm}]
- parallel:
    merge: add
    branches:
    - [{conv3: {conv: {channels: 4, kernel: 3}}}, tanh, {again: unit}]
    - [{again: unit}, relu]
- global_avgpool
- flatten
- fc: {linear: 10}
"""


def test_each_run_of_a_layer_is_trained(tmp_path: Path) -> None:
    """Gradients are summed over the runs of a layer, and each run updates the running statistics in turn."""
    network = elaborated(AGAIN, tmp_path)
    weights, x = drawn(network, 0, batch=6)
    agree(by_keras(network, weights, x, running_variance="unbiased"), by_torch(network, weights, x))


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
def test_certain_survival_in_keras_is_that_of_torch(unit: str, rescale: str, tmp_path: Path) -> None:
    """With survival probabilities of one, a step equals that of PyTorch."""
    network = deep(tmp_path, [1.0, 1.0], unit, rescale)
    weights, x = drawn(network, 0)
    agree(by_keras(network, weights, x, running_variance="unbiased"), by_torch(network, weights, x))


@pytest.mark.parametrize("rescale", ["train", "test"])
@pytest.mark.parametrize("unit", ["batch", "sample"])
def test_dropped_branches(unit: str, rescale: str, tmp_path: Path) -> None:
    """A branch is kept as a whole, scaled as the spec requires, or dropped, per batch or per sample; the file's
    docstring mentions that running statistics still move."""
    network = deep(tmp_path, [0.25], unit, rescale)
    whole = deep(tmp_path, [1.0], unit, rescale)
    weights, _ = drawn(network, 0)
    x = np.broadcast_to(np.random.default_rng(0).standard_normal((1, 3, 6, 6)), (40, 3, 6, 6))
    kept = {**weights, "layer1.0.bn1.weight": weights["layer1.0.bn1.weight"] * (4 if rescale == "train" else 1)}
    kept["layer1.0.bn1.bias"] = weights["layer1.0.bn1.bias"] * (4 if rescale == "train" else 1)
    without = {
        **weights,
        "layer1.0.bn1.weight": kept["layer1.0.bn1.weight"] * 0,
        "layer1.0.bn1.bias": kept["layer1.0.bn1.bias"] * 0,
    }
    expected = [module.outputs(model_of(whole, each), x, training=True)["logits"][0] for each in (kept, without)]
    model = model_of(network, weights)
    ran = []
    for _ in range(12):
        found = module.outputs(model, x, training=True)["logits"]
        rows = [np.allclose(row, expected[0]) for row in found]
        assert all(is_kept or np.allclose(row, expected[1]) for is_kept, row in zip(rows, found, strict=True))
        assert unit == "sample" or len(set(rows)) == 1
        ran.append(np.mean(rows))
    assert 0 < np.mean(ran) < 0.6
    assert "the running statistics in them move" in " ".join(source_file.source(network).split())


def test_dropout_in_keras(tmp_path: Path) -> None:
    """Dropout scales the values it keeps, and does nothing in evaluation."""
    text = "rescompile: 1\nname: dropped\ninput: [50]\nnetwork: [{dropout: 0.3}, {fc: {linear: 50}}]\n"
    network = elaborated(text, tmp_path)
    model = model_of(network, {"fc.weight": np.eye(50), "fc.bias": np.zeros(50)})
    x = np.ones((200, 50))
    first = module.outputs(model, x, training=True)["logits"]
    assert np.allclose(np.unique(first), [0, 1 / 0.7])
    assert abs(np.mean(first == 0) - 0.3) < 0.05
    assert np.array_equal(module.outputs(model, x)["logits"], x)


@pytest.mark.slow
def test_fit_lowers_the_loss() -> None:
    """`compile` and `fit` train the model as any Keras model."""
    set_precision("float32")
    network = shallow("resnet20_cifar")
    weights, x = drawn(network, 0, batch=16)
    model = model_of(network, weights)
    model.compile(keras.optimizers.SGD(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    labels = np.arange(16) % 10
    given = np.moveaxis(x, 1, -1).astype(np.float32)
    history = model.fit(given, labels, batch_size=16, epochs=8, verbose=0).history["loss"]
    assert history[-1] < history[0] / 2
