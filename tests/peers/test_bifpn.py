"""A bidirectional pyramid (BiFPN, Tan et al. 2020, EfficientDet), repeated: each level is kept again by each layer of it.

With plain sums, as one of the fusions that the paper compares. The weights of its fast normalised fusion have no word.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ort import ran

torch = pytest.importorskip("torch", reason="the peer is a torch model: pip install torch")
pytest.importorskip("onnxruntime", reason="our side runs in ONNX Runtime: pip install 'rescompile[run]'")

import peers
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d, silu

from rescompile import build, load

LEVELS, LAYERS, CHANNELS = 4, 3, 8

SPEC = f"""
rescompile: 1
name: bifpn
input: [3, 64, 64]
parameters: {{channels: {CHANNELS}, levels: {LEVELS}, layers: {LAYERS}}}
blocks:
  level:
    description: "The map before, at half its size, is another level"
    values: [p]
    parameters: {{channels: int}}
    body:
      - conv: {{channels: channels, kernel: 3, stride: 2}}
      - keep: "p[index]"
  fused:
    description: "act - depthwise 3x3 - 1x1 - norm"
    inline: true
    body:
      - silu
      - conv_dw: {{conv: {{channels: in_channels, kernel: 3, groups: in_channels}}}}
      - conv_pw: {{conv: {{channels: in_channels, kernel: 1, bias: true}}}}
      - bn: norm
  down:
    description: "A level and the one above it, from the second highest to the lowest"
    values: [p, t]
    let: {{i: depth - 1 - index}}
    body:
      - if: index == 0
        then: {{use: "p[i + 1]"}}
        else: {{use: "t[i + 1]"}}
      - upsample: 2
      - parallel: {{merge: add, branches: [identity, {{use: "p[i]"}}]}}
      - fused
      - keep: "t[i]"
  up:
    description: "A level, what came of it on the way down, and the new one below it"
    values: [p, t]
    let: {{i: index + 1}}
    body:
      - use: "p[i - 1]"
      - maxpool: {{kernel: 3, stride: 2, padding: 1}}
      - parallel: {{merge: add, branches: [identity, {{use: "p[i]"}}]}}
      - if: i < depth
        then: {{parallel: {{merge: add, branches: [identity, {{use: "t[i]"}}]}}}}
      - fused
      - keep: "p[i]"
  bifpn_layer:
    values: [p]
    parameters: {{levels: int}}
    body:
      - down: {{block: down, depth: levels - 1}}
      - keep: "p[0]"
      - up: {{block: up, depth: levels - 1}}
network:
  - body: {{block: level, depth: levels, channels: channels}}
  - layers: {{block: bifpn_layer, depth: layers, levels: levels}}
  - side: {{body: {{use: "p[0]"}}, output: p0, mode: always}}
  - side: {{body: {{use: "p[1]"}}, output: p1, mode: always}}
  - side: {{body: {{use: "p[2]"}}, output: p2, mode: always}}
"""


class Fused(nn.Module):
    """What becomes of a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_dw = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS, bias=False)
        self.conv_pw = nn.Conv2d(CHANNELS, CHANNELS, 1)
        self.bn = nn.BatchNorm2d(CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv_pw(self.conv_dw(silu(x))))


class Layer(nn.Module):
    """Figure 3d of the paper: down to the finest level, and up again."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(Fused() for _ in range(LEVELS - 1))
        self.up = nn.ModuleList(Fused() for _ in range(LEVELS - 1))

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        middle = [inputs[-1]]
        for fused, level in zip(self.down, reversed(inputs[:-1]), strict=True):
            middle.insert(0, fused(level + interpolate(middle[0], scale_factor=2.0)))
        outputs = [middle[0]]
        for at, fused in enumerate(self.up, 1):
            between = middle[at] if at < LEVELS - 1 else 0
            outputs.append(fused(inputs[at] + between + max_pool2d(outputs[-1], 3, 2, 1)))
        return outputs


class Net(nn.Module):
    """Levels of strided convolutions, and layers on them; all levels are the output, in the order of their names."""

    def __init__(self) -> None:
        super().__init__()
        widths = [3, *[CHANNELS] * LEVELS]
        convs = (nn.Conv2d(a, CHANNELS, 3, 2, 1, bias=False) for a in widths[:-1])
        self.body = nn.ModuleList(nn.ModuleDict({"conv": conv}) for conv in convs)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))

    def forward(self, x: Tensor) -> Tensor:
        levels: list[Tensor] = []
        for step in self.body:
            x = step["conv"](x)
            levels.append(x)
        for layer in self.layers:
            levels = layer(levels)
        return torch.cat([level.flatten(1) for level in (levels[-1], *levels[:-1])], 1)


def test_a_pyramid_in_both_directions(tmp_path: Path) -> None:
    """Parameters by name, and all levels, after three layers that each read four levels of the one before."""
    path = tmp_path / "bifpn.yaml"
    path.write_text(SPEC)
    model = peers.randomised(Net(), (4, 3, 64, 64))
    x = np.random.default_rng(1).standard_normal((2, 3, 64, 64), np.float32)
    single, double = peers.outputs(model, x)
    outputs = ran(build(load(path), "onnx", peers.arrays(model)).to_bytes(), {"input": x})
    assert len(outputs) == LEVELS
    assert peers.error(peers.joined(outputs), double) <= peers.bound(single, double)
