"""Standardised weights are computed before passes and narrow precisions are applied, so the network computes the same function."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rescompile
from rescompile.ir.interpreter import interpret
from rescompile.ir.network import LOGITS, Network, parameters
from rescompile.passes import apply
from rescompile.weights import from_arrays

SPEC = """
rescompile: 1
name: standardised
input: [3, 12, 12]
defaults: {conv: {weights: standardised, eps: 1e-4}}
survival: {schedule: uniform, last: 0.5, unit: batch, rescale: test}
blocks:
  unit:
    body:
    - residual:
        branch:
        - conv1: {conv: {channels: 8, kernel: 3, weights: scaled, gamma: 1.7}}
        - relu
        - conv2: {conv: {channels: 8, kernel: 3, groups: 4, weights: scaled, gamma: 1.7}}
        - bn: norm
        - relu
        - conv3: {conv: {channels: 12, kernel: 1, bias: true}}
network:
- stem: {conv: {channels: 12, kernel: 3}}
- relu
- layer1: {block: unit}
- relu
- global_avgpool
- flatten
- fc: {linear: 10}
"""
Given = tuple[Network, dict[str, Any], np.ndarray[Any, Any]]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Given:
    """Return the network, weights that differ from all initial values, and an input."""
    path = tmp_path_factory.mktemp("spec") / "spec.yaml"
    path.write_text(SPEC, encoding="utf-8")
    network = rescompile.elaborate(rescompile.load(path))
    rng = np.random.default_rng(0)
    weights = {
        name: rng.uniform(0.5, 1.5, parameter.shape).astype(np.float32)
        for name, parameter in parameters(network)
        if parameter.dtype == "float32"
    }
    return network, weights, rng.standard_normal((2, 3, 12, 12)).astype(np.float32)


@pytest.mark.parametrize("option", [{"fold_batchnorm": True}, {"form": "a"}, {"form": "b"}, {"join_groups": 4}])
def test_passes_keep_the_function(given: Given, option: dict[str, Any]) -> None:
    """Passes keep the outputs, although folded norms and survival factors, split channels and added zeros would change
    standardisation."""
    network, weights, x = given
    changed, values = apply(network, from_arrays(weights, network), option)
    assert values is not None
    names = [name for name, _ in parameters(changed)]
    assert not [name for name in names if name.endswith("gain")]
    found = interpret(changed, {name: values[name] for name in names if name in values}, x)[LOGITS]
    wanted = interpret(network, weights, x)[LOGITS]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-6 * np.abs(wanted).max())


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_narrow_precisions_have_plain_weights(given: Given, precision: str, tmp_path: Path) -> None:
    """Narrow precisions have plain weights, because they would lose the deviations of small ones; `verify` passes."""
    network, weights, _ = given
    calibrate = 8 if precision == "int8" else None
    artifact = rescompile.build(network, "onnx", weights, precision=precision, calibrate=calibrate, verify=True)
    artifact.write(tmp_path / "model.onnx")
    assert "fold-batchnorm" in artifact.network.passes
