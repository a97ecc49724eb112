"""A bidirectional pyramid (BiFPN, Tan et al. 2020, EfficientDet), repeated: each layer keeps each level again.

With the fusions that section 3.3 of the paper compares: plain sums, softmax weights, and fast normalised fusion.
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

from rescompile import build, elaborate, load
from rescompile.analysis.cost import cost
from rescompile.analysis.paths import paths

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
    description: "sum of maps - act - depthwise 3x3 - 1x1 - norm"
    inline: true
    parameters: {{maps: int}}
    body:
      - combine: {{weighted_sum: {{ranges: maps, kind: fast}}}}
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
      - parallel: {{merge: concat, branches: [{{use: "p[i]"}}, identity]}}
      - {{block: fused, maps: 2}}
      - keep: "t[i]"
  up:
    description: "A level, what came of it on the way down, and the new one below it"
    values: [p, t]
    let: {{i: index + 1}}
    body:
      - use: "p[i - 1]"
      - maxpool: {{kernel: 3, stride: 2, padding: 1}}
      - if: i < depth
        then: {{parallel: {{merge: concat, branches: [{{use: "t[i]"}}, identity]}}}}
      - parallel: {{merge: concat, branches: [{{use: "p[i]"}}, identity]}}
      - {{block: fused, maps: 3 if i < depth else 2}}
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


class Combine(nn.Module):
    """A sum of maps, with learned weights unless it is plain."""

    def __init__(self, fusion: str, maps: int) -> None:
        super().__init__()
        self.fusion = fusion
        self.weight = nn.Parameter(torch.ones(maps)) if fusion != "add" else None

    def forward(self, *maps: Tensor) -> Tensor:
        if self.weight is None:
            return sum(maps)
        shares = torch.softmax(self.weight, 0)
        if self.fusion == "fast":
            shares = torch.relu(self.weight) / (torch.relu(self.weight).sum() + 0.0001)
        return (torch.stack(maps, -1) * shares).sum(-1)


class Fused(nn.Module):
    """The layers after a sum."""

    def __init__(self, fusion: str, maps: int) -> None:
        super().__init__()
        self.combine = Combine(fusion, maps)
        self.conv_dw = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS, bias=False)
        self.conv_pw = nn.Conv2d(CHANNELS, CHANNELS, 1)
        self.bn = nn.BatchNorm2d(CHANNELS)

    def forward(self, *maps: Tensor) -> Tensor:
        return self.bn(self.conv_pw(self.conv_dw(silu(self.combine(*maps)))))


class Layer(nn.Module):
    """Figure 3d of the paper: top-down to the finest level, and bottom-up again."""

    def __init__(self, fusion: str) -> None:
        super().__init__()
        self.down = nn.ModuleList(Fused(fusion, 2) for _ in range(LEVELS - 1))
        self.up = nn.ModuleList(Fused(fusion, 3 if at < LEVELS - 1 else 2) for at in range(1, LEVELS))

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        middle = [inputs[-1]]
        for fused, level in zip(self.down, reversed(inputs[:-1]), strict=True):
            middle.insert(0, fused(level, interpolate(middle[0], scale_factor=2.0)))
        outputs = [middle[0]]
        for at, fused in enumerate(self.up, 1):
            between = [middle[at]] if at < LEVELS - 1 else []
            outputs.append(fused(inputs[at], *between, max_pool2d(outputs[-1], 3, 2, 1)))
        return outputs


class Net(nn.Module):
    """Levels of strided convolutions, and layers on them; the output contains all levels, in the order of their names."""

    def __init__(self, fusion: str) -> None:
        super().__init__()
        widths = [3, *[CHANNELS] * LEVELS]
        convs = (nn.Conv2d(a, CHANNELS, 3, 2, 1, bias=False) for a in widths[:-1])
        self.body = nn.ModuleList(nn.ModuleDict({"conv": conv}) for conv in convs)
        self.layers = nn.ModuleList(Layer(fusion) for _ in range(LAYERS))

    def forward(self, x: Tensor) -> Tensor:
        levels: list[Tensor] = []
        for step in self.body:
            x = step["conv"](x)
            levels.append(x)
        for layer in self.layers:
            levels = layer(levels)
        return torch.cat([level.flatten(1) for level in (levels[-1], *levels[:-1])], 1)


def spec(fusion: str, folder: Path) -> Path:
    """Write the spec with one of the fusions, and return its path."""
    text = SPEC.replace("kind: fast", f"kind: {fusion}")
    if fusion == "add":
        text = SPEC.replace("merge: concat", "merge: add").replace("      - combine", "      # combine")
    path = folder / "bifpn.yaml"
    path.write_text(text)
    return path


@pytest.fixture(params=["add", "softmax", "fast"])
def fusion(request: pytest.FixtureRequest) -> str:
    """Return each kind of fusion in turn."""
    return str(request.param)


def drawn(fusion: str) -> nn.Module:
    """Return the peer with fusion weights of both signs."""
    model = peers.randomised(Net(fusion), (4, 3, 64, 64))
    for at, (name, weight) in enumerate(model.named_parameters()):
        if name.endswith("combine.weight"):
            weight.data = torch.tensor([1.5, 0.25, 0.7][: len(weight)]).roll(at) - 0.3
    return model


def test_a_pyramid_in_both_directions(fusion: str, tmp_path: Path) -> None:
    """Weights load by name, and all levels agree after three layers, each of which reads four levels of the previous one."""
    model = drawn(fusion)
    x = np.random.default_rng(1).standard_normal((2, 3, 64, 64), np.float32)
    single, double = peers.outputs(model, x)
    outputs = ran(build(load(spec(fusion, tmp_path)), "onnx", peers.arrays(model)).to_bytes(), {"input": x})
    assert len(outputs) == LEVELS
    assert peers.error(peers.joined(outputs), double) <= peers.bound(single, double)


def test_weights_of_a_fusion_are_learned(fusion: str, tmp_path: Path) -> None:
    """In training, the gradients of all parameters equal those of the peer in float64."""
    model = drawn(fusion).train()
    module = build(load(spec(fusion, tmp_path)), "torch", peers.arrays(model)).module.train()
    model.double(), module.double()
    x = torch.from_numpy(np.random.default_rng(1).standard_normal((2, 3, 64, 64)))
    for value in (model(x), torch.cat([level.flatten(1) for level in module(x).values()], 1)):
        value.square().mean().backward()
    wanted = dict(model.named_parameters())
    assert sum(name.endswith("combine.weight") for name in wanted) == (0 if fusion == "add" else LAYERS * 6)
    for name, parameter in module.named_parameters():
        assert wanted[name].grad.abs().max() > 0, name
        torch.testing.assert_close(parameter.grad, wanted[name].grad, rtol=1e-9, atol=1e-12)


def test_paths_of_a_fusion_are_those_of_its_sum(tmp_path: Path) -> None:
    """A weighted sum has the paths and multiply-adds of a plain sum."""
    found = []
    for fusion in ("add", "fast"):
        network = elaborate(load(spec(fusion, tmp_path)))
        found.append((paths(network, "layers"), cost(network).macs))
    assert found[0] == found[1]
