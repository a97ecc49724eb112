"""Sizes per axis as arguments of library blocks whose parameter has an integer default."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the peers are torch modules: pip install torch")

import peers
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from rescompile import build, elaborate, load
from rescompile.diagnostics.errors import SpecError
from rescompile.ir.interpreter import interpret
from rescompile.ir.network import Network, Op, walk

SPEC = """
rescompile: 1
name: strides
input: [16, 12, 20]
blocks:
  halved: {parameters: {stride: 1}, body: [{conv: {channels: 16, kernel: 3, stride: stride if in_channels > 1 else 1}}]}
  counted: {parameters: {stride: 1}, body: [{conv: {channels: 16 * stride, kernel: 3}}]}
network:
  - ROW
"""


def network_of(row: str, folder: Path) -> Network:
    path = folder / "strides.yaml"
    path.write_text(SPEC.replace("ROW", row))
    return elaborate(load(path))


@pytest.mark.parametrize(
    ("row", "peer"),
    [
        ("layer1: {block: basic, depth: 2, width: 32, stride: [1, 2]}", lambda: stage(BasicBlock, 32, 32, (1, 2))),
        ("layer1: {block: bottleneck, depth: 2, width: 8, stride: [3, 2]}", lambda: stage(Bottleneck, 8, 32, (3, 2))),
        ("layer1: {block: basic, depth: 2, width: 32, stride: [2, 2]}", lambda: stage(BasicBlock, 32, 32, 2)),
    ],
)
def test_stages_have_the_strides_of_their_axes(row: str, peer: Callable[[], nn.Module], tmp_path: Path) -> None:
    """Outputs equal those of torchvision's blocks with the same strides, from the interpreter and from generated source."""
    network = network_of(row, tmp_path)
    model = peers.randomised(peer(), (4, 16, 12, 20))
    weights = {f"layer1.{name}": value for name, value in peers.arrays(model).items()}
    x = np.random.default_rng(1).standard_normal((2, 16, 12, 20), np.float32)
    single, double = peers.outputs(model, x)
    bound = peers.bound(single, double)
    assert peers.error(interpret(network, weights, x)["logits"], double) <= bound
    with torch.no_grad():
        found = build(network, "torch", weights).module.eval()(torch.from_numpy(x)).numpy()
    assert peers.error(found, double) <= bound


def stage(block: type[nn.Module], width: int, outputs: int, stride: Any) -> nn.Module:
    """Return two blocks, of which the first has the stride."""
    shortcut = nn.Sequential(nn.Conv2d(16, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
    return nn.Sequential(block(16, width, stride, shortcut), block(outputs, width))


def test_equal_sizes_equal_one_number(tmp_path: Path) -> None:
    """Equal sizes are the same as one number, so that comparisons in a block such as `stride == 1` hold."""
    row = "x: {block: inverted_residual, depth: 1, width: 16, stride: STRIDE, kernel: [3, 5]}"
    one, other = (network_of(row.replace("STRIDE", stride), tmp_path) for stride in ("1", "[1, 1]"))
    assert [node for _, node in walk(one.root)] == [node for _, node in walk(other.root)]
    assert (3, 5) in [getattr(node.kind, "kernel", None) for _, node in walk(one.root) if isinstance(node, Op)]


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ("x: {block: halved, stride: [1, 2]}", None),
        ("x: {block: halved, stride: [1, 2, 2]}", "E0306"),
        ("x: {block: halved, stride: [2]}", "E0306"),
        ("x: {block: counted, stride: [1, 2]}", "E0306"),
        ("x: {block: bottleneck, depth: 2, width: 8, stride_at: [1, 2]}", "E0306"),
    ],
)
def test_only_sizes_take_lists(row: str, code: str | None, tmp_path: Path) -> None:
    """A list is refused where no op takes the parameter as its size, and where it does not have one entry per axis."""
    if code is None:
        assert network_of(row, tmp_path).root.output == (16, 12, 10)
        return
    with pytest.raises(SpecError) as caught:
        network_of(row, tmp_path)
    assert [problem.code for problem in caught.value.diagnostics] == [code]
