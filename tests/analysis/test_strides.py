"""Strides of feature maps are computed from the ops, not from map sizes, which depend on padding and odd inputs."""

from __future__ import annotations

from pathlib import Path

import pytest

import rescompile
from rescompile.analysis.tree_table import features

STEPS = """
- c1: {conv: {channels: 4, kernel: 3, stride: 2, padding: 0}}
- parallel: {merge: mul, branches: [identity, [global_avgpool, {gate: {conv: {channels: 4, kernel: 1}}}, sigmoid]]}
- p: {maxpool: {kernel: 3, stride: [1, 2], padding: 1}}
- u: {upsample: [4, 1]}
- parallel: {merge: concat, branches: [identity, {conv: {channels: 2, kernel: 3}}]}
- adaptive_avgpool: 3
"""


@pytest.mark.parametrize("side", [32, 33, 47])
def test_strides_do_not_depend_on_the_size(side: int, tmp_path: Path) -> None:
    """The strides are the same for all input sizes: upsampling divides them, and behind an adaptive pool there is none."""
    path = tmp_path / "net.yaml"
    head = f"rescompile: 1\nname: net\ninput: [3, {side}, {side}]\nfeatures: [c1, p, u, gate]\nnetwork:"
    path.write_text(head + STEPS.replace("\n", "\n  "), encoding="utf-8")
    strides = {name: facts["stride"] for name, facts in features(rescompile.elaborate(rescompile.load(path))).items()}
    assert strides == {"logits": None, "c1": 2, "gate": None, "p": [2, 4], "u": [0.5, 4]}
