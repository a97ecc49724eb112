"""Feature maps of one and three axes, with the library's blocks and in every target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rescompile import build, elaborate, load
from rescompile.analysis.dynamic_shapes import sizes
from rescompile.analysis.receptive_field import Span, of_input, view
from rescompile.backend import load as target
from rescompile.diagnostics.errors import Unavailable, UsageError
from rescompile.explain import explain
from rescompile.ir.interpreter import interpret
from rescompile.ir.network import Network, parameters
from rescompile.passes import apply
from rescompile.weights import draw

BODY = """
rescompile: 1
name: {name}
input: {input}
block: basic
blocks:
  branches:
    body:
      - parallel:
          merge: add
          branches:
            - [conv3: {{conv: {{channels: in_channels, kernel: 3}}}}, bn3: norm]
            - [conv1: {{conv: {{channels: in_channels, kernel: 1}}}}, bn1: norm]
            - [bn: norm]
network:
  - imagenet_stem
  - layer1: {{depth: 1, width: 64}}
  - branches: {{block: branches}}
  - layer2: {{depth: 2, width: 32, stride: 2}}
  - border: {{before: 1, after: 2, kind: replicate}}
  - up: {{conv_transpose: {{channels: 16, kernel: 2, stride: 2}}}}
  - {{norm: {{kind: group, groups: 4}}}}
  - upsample: {{factor: 2, kind: bilinear}}
  - adaptive_avgpool: 3
  - {{block: classifier, classes: 4}}
features: [layer1]
"""
#: The input and the axes of each case.
INPUTS = {"series": ("[2, 45]", "length"), "volume": ("[2, 9, 14, 17]", "depth,height,width")}


def network(name: str, folder: Path) -> Network:
    """Return the network of a case."""
    path = folder / f"{name}.yaml"
    path.write_text(BODY.format(name=name, input=INPUTS[name][0]), "utf-8")
    return elaborate(load(path))


def outputs(net: Network, name: str, weights: Any, x: Any, **given: Any) -> dict[str, Any]:
    """Return the outputs in a target."""
    module = target(name)
    options = {option.name: option.default for option in module.OPTIONS} | given
    return module.evaluate(net, weights, x, **options)


@pytest.mark.parametrize("case", INPUTS)
@pytest.mark.parametrize(
    "name",
    ["onnx", "torch", *(pytest.param(name, marks=pytest.mark.slow) for name in ("source", "flax", "keras", "mlx"))],
)
@pytest.mark.parametrize("mode", ["as it is", "dynamic", "folded", "fused"])
def test_targets_agree_with_the_interpreter(name: str, case: str, mode: str, tmp_path: Path) -> None:
    if (name, mode) == ("keras", "dynamic"):
        pytest.skip("refused")
    net = network(case, tmp_path)
    plain = draw(net, 3)
    passes = {"folded": {"fold_batchnorm": True}, "fused": {"fuse_branches": True}}.get(mode, {})
    changed, weights = apply(net, plain, passes)
    assert changed.passes == tuple(pass_.replace("_", "-") for pass_ in passes)
    free = {"dynamic": INPUTS[case][1]} if mode == "dynamic" and name != "torch" else {}
    larger = [n + 7 for n in net.input[1:]] if mode == "dynamic" else net.input[1:]
    x = np.random.default_rng(0).standard_normal((2, net.input[0], *larger)).astype(np.float32)
    wanted, found = interpret(net, plain, x), outputs(changed, name, weights, x, **free)
    assert wanted.keys() == found.keys() == {"logits", "layer1"}
    for key, value in wanted.items():
        assert np.abs(found[key] - value).max() <= 2e-5 * np.abs(value).max(), key


@pytest.mark.parametrize("case", INPUTS)
def test_analysis(case: str, tmp_path: Path) -> None:
    """Receptive fields and free sizes equal those by hand: 11 positions at stride 4 after the stem and pool, 16 more after a block."""
    net = network(case, tmp_path)
    axes = len(net.input) - 1
    assert view(net.root.children[1], view(net.root.children[0], of_input(net.input))) == (Span(-13, 13, 4),) * axes
    free = sizes(net, INPUTS[case][1])
    assert [axis.name for axis in free.free] == INPUTS[case][1].split(",")
    assert free.outputs["layer1"] == (64, *(f"({axis.name} + 3)//4" for axis in free.free))
    weight = dict(parameters(net))["layer1.0.conv1.weight"]
    assert weight.shape == (64, 64, *[3] * axes)


def test_networks_with_different_axes_are_not_compared(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="only networks with the same number of axes"):
        explain(network("series", tmp_path), ["resnet18"])


@pytest.mark.parametrize(
    ("dynamic", "message"),
    [("height", "which has no height"), ("lenth", "takes the axis length"), ("length,length", "twice")],
)
def test_unknown_axes_are_refused(dynamic: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        build(network("series", tmp_path), "onnx", dynamic=dynamic)


@pytest.mark.parametrize("case", INPUTS)
def test_keras_refuses_dynamic_sizes(case: str, tmp_path: Path) -> None:
    """Dynamic sizes are refused in Keras, whose functional models fix the sizes of windows at construction."""
    with pytest.raises(Unavailable, match=r"takes an (image|input) of known size in Keras"):
        build(network(case, tmp_path), "keras", dynamic=INPUTS[case][1])
