"""Fixup's initial weights (Zhang et al. 2019): those of the zoo's network follow the rule of the authors' code, in every target."""

from __future__ import annotations

from typing import Any

import facts
import numpy as np
import pytest
from numpy.typing import NDArray

from rescompile import build
from rescompile.ir.network import parameters
from rescompile.weights import draw

UNITS = 54  # three stages of 18


def authors(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Return the standard deviation and the mean of a tensor in fixup_resnet_cifar.py of hongyi-zhang/Fixup: `normal_`
    for conv1 of each unit, `constant_` 0 for conv2 and the linear layer, PyTorch's default for the convolution before
    the units."""
    match name.split("."):
        case [_, _, "conv1", "weight"]:
            return np.sqrt(2 / (shape[0] * np.prod(shape[2:]))) * UNITS ** (-0.5), 0
        case ["conv1", "weight"]:
            return np.prod(shape[1:]) ** -0.5 / 3**0.5, 0
        case [_, _, "scale2", "weight"]:
            return 0, 1
    return 0, 0


def ratio_to_rule(name: str, values: NDArray[Any]) -> float:
    """Return the sum of squares of a tensor relative to that of the rule; constants are compared exactly."""
    deviation, mean = authors(name, values.shape)
    if deviation == 0:
        assert (values == mean).all(), name
        return 1
    return float(np.square((values - mean) / deviation).mean())


def test_drawn_weights_follow_the_rule() -> None:
    """The variance of every tensor is within six standard errors of the rule."""
    network = facts.network("fixup_resnet110_cifar")
    weights = draw(network, 1)
    ratios = {name: ratio_to_rule(name, weights[name]) for name, _ in parameters(network)}
    units = {name: ratio for name, ratio in ratios.items() if name.endswith(".conv1.weight")}
    assert len(units) == UNITS
    for name, ratio in units.items():
        assert abs(ratio - 1) < 6 * (2 / weights[name].size) ** 0.5, name
    assert abs(ratios["conv1.weight"] - 1) < 6 * (0.8 / weights["conv1.weight"].size) ** 0.5
    assert abs(np.abs(weights["conv1.weight"]).max() * 27**0.5 - 1) < 0.02


def test_a_unit_is_initially_the_identity() -> None:
    """With zero branches, a unit of equal shape is the identity on its input, which is not negative."""
    from rescompile.ir.interpreter import interpret

    network = facts.network("fixup_resnet110_cifar", "parameters.n=2", "features=[layer1.0, layer1.1]")
    x = np.random.default_rng(0).standard_normal((2, 3, 32, 32))
    found = interpret(network, draw(network), x)
    assert np.array_equal(found["layer1.0"], found["layer1.1"])
    assert not found["logits"].any()


@pytest.mark.parametrize("target", ["onnx", "torch"])
def test_targets_draw_the_same_numbers(target: str) -> None:
    """Targets write the numbers that `draw` returns."""
    network = facts.network("fixup_resnet110_cifar", "parameters.n=1")
    wanted = draw(network, 5)
    artifact: Any = build(network, target, seed=5)
    if target == "torch":
        found = {name: value.numpy() for name, value in artifact.module.state_dict().items()}
    else:
        onnx = pytest.importorskip("onnx")
        tensors = onnx.load_from_string(artifact.to_bytes()).graph.initializer
        found = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in tensors}
    for name, _ in parameters(network):
        assert np.array_equal(found[name], wanted[name]), name
