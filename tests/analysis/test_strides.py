"""Strides of maps come from windows, not from sizes that a border or an odd input changes."""

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
    """c1 has stride 2, whatever 47 by 23 is; upsampling divides; an adaptive pool has none."""
    path = tmp_path / "net.yaml"
    head = f"rescompile: 1\nname: net\ninput: [3, {side}, {side}]\nfeatures: [c1, p, u, gate]\nnetwork:"
    path.write_text(head + STEPS.replace("\n", "\n  "), encoding="utf-8")
    found = {name: facts["stride"] for name, facts in features(rescompile.elaborate(rescompile.load(path))).items()}
    assert found == {"logits": None, "c1": 2, "gate": None, "p": [2, 4], "u": [0.5, 4]}
