"""No texts, cards or lines overlap in the pictures of the zoo, measured in the SVG."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from geometry import mistakes, parse

from rescompile import elaborate, load
from rescompile.drawing import COUNTS, Depth, Picture, by_amount, by_fault, outline, picture
from rescompile.drawing.svg import svg
from rescompile.ir.network import Network
from rescompile.lang import library
from rescompile.passes import apply

DEPTHS: tuple[Depth, ...] = ("rows", "blocks", "ops")
UNET = """
rescompile: 1
name: unet
input: [3, 64, 64]
block: basic
features: [encode1]
network:
  - conv1: {conv: {channels: 16, kernel: 3}}
  - encode1: {depth: 1, width: 16}
  - parallel:
      merge: concat
      branches:
        - identity
        - - encode2: {depth: 2, width: 32, stride: 2}
          - parallel:
              merge: mul
              branches: [identity, [global_avgpool, {conv: {channels: 32, kernel: 1}}, sigmoid]]
          - {upsample: 2}
  - a_very_long_name_of_a_row_that_does_not_fit_on_one_line_of_cards: {depth: 12, width: 16}
  - side: {output: early, mode: training, body: [global_avgpool, flatten, {linear: 10}]}
  - wide: {conv: {channels: 80, kernel: 1}}
  - parallel: {merge: concat, copies: 40, split: true, branch: [{conv: {channels: 2, kernel: 3}}]}
  - head: {conv: {channels: 2, kernel: 1, bias: true}}
"""


def network(name: str, passes: dict[str, Any] | None = None) -> Network:
    """Return a network of the zoo after passes."""
    return apply(elaborate(load(name)), None, passes or {})[0]


def drawn(shown: Picture) -> str:
    """Return the picture as SVG."""
    return svg(shown.scene)


@pytest.mark.sampled(one_in=4)
@pytest.mark.parametrize("name", library.zoo())
def test_pictures_of_the_zoo(name: str) -> None:
    """At every depth, no text overlaps another, leaves its card or is crossed by a line."""
    subject = network(name)
    for depth in DEPTHS:
        drawing = parse(drawn(picture(subject, depth)))
        assert drawing.texts
        assert drawing.cards
        assert mistakes(drawing) == []


@pytest.mark.parametrize("name", ["resnext50_32x4d", "darknet_resnext50"])
@pytest.mark.parametrize("form", ["a", "b", "c"])
@pytest.mark.slow_for("darknet_resnext50")
def test_pictures_of_forms(name: str, form: str) -> None:
    """Pictures of all forms of grouped convolutions are free of overlaps."""
    for depth in DEPTHS:
        assert mistakes(parse(drawn(picture(network(name, {"form": form}), depth)))) == []


@pytest.mark.parametrize("metric", COUNTS)
@pytest.mark.parametrize("depth", DEPTHS)
def test_pictures_with_values(metric: str, depth: Depth) -> None:
    """Pictures with values on cards and a legend are free of overlaps."""
    for name in ("googlenet", "resnet50"):
        opened = outline(network(name), depth)
        assert mistakes(parse(drawn(Picture(opened, by_amount(opened, COUNTS[metric]))))) == []


def test_pictures_with_a_first_difference() -> None:
    """Pictures that mark the first part that differs are free of overlaps."""
    opened = outline(network("resnet50"))
    assert mistakes(parse(drawn(Picture(opened, by_fault(opened, "onnx", "layer3.2"))))) == []


@pytest.mark.parametrize(
    ("name", "other"),
    [("resnet50", "resnet50_v1"), ("resnet50_D", "resnet50"), ("resnet50", "resnet101"), ("googlenet", "inception_v3"),
     ("densenet121", "resnet18"), ("plain_mnist_fc_10", "highway_mnist_fc_10"), ("resnet18", "resnet18")],
)  # fmt: skip
def test_pictures_of_two_networks(name: str, other: str) -> None:
    """Pictures of two networks side by side are free of overlaps, even if these have little in common."""
    pair = Picture(outline(network(name), "rows"), against=outline(network(other), "rows"))
    assert mistakes(parse(drawn(pair))) == []


@pytest.mark.parametrize("depth", DEPTHS)
def test_pictures_of_nested_merges(depth: Depth, tmp_path: Path) -> None:
    """Pictures with nested merges, a long name, side branches and divided channels are free of overlaps."""
    path = tmp_path / "unet.yaml"
    path.write_text(UNET)
    assert mistakes(parse(drawn(picture(elaborate(load(path)), depth)))) == []


@pytest.mark.parametrize(
    ("pattern", "change"),
    [
        (r'(<text class="ink" x=")([\d.]+)(" y="[\d.]+" font-size="13")', 60.0),
        (r'(<text class="muted" x="[\d.]+" y=")([\d.]+)(")', 12.0),
        (r'(textLength=")([\d.]+)(")', 150.0),
        (r'(<rect class="card" x="[\d.]+" y=")([\d.]+)(")', 40.0),
    ],
)
def test_overlaps_are_detected(pattern: str, change: float) -> None:
    """The check detects a text or card in the wrong place, and a text that is too wide."""
    text = drawn(picture(network("resnet50")))
    moved = re.sub(pattern, lambda found: f"{found[1]}{float(found[2]) + change}{found[3]}", text, count=1)
    assert moved != text
    assert mistakes(parse(text)) == []
    assert mistakes(parse(moved))
