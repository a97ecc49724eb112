"""The planner segments a row equally often at any depth, so its work does not grow with the square of the depth."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

import rescompile
from rescompile.codegen.planned_classes import Registry
from rescompile.codegen.planner import plan_classes
from rescompile.ir.network import Series

SPEC = """
rescompile: 1
name: deep
input: [4, 8, 8]
blocks:
  basic:
    stage: true
    parameters: {{width: int}}
    body: [{{residual: {{branch: [{{conv1: {{conv: {{channels: width, kernel: 3}}}}}}]}}}}]
network:
- layer1: {{block: basic, depth: {depth}, width: 4}}
"""


@pytest.mark.parametrize("unrolled", [False, True])
def test_rows_are_segmented_equally_often_at_any_depth(
    unrolled: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls: Counter[int] = Counter()
    right = Registry.segments

    def counted(self: Registry, row: Series) -> object:
        calls[len(row.children)] += 1
        return right(self, row)

    monkeypatch.setattr(Registry, "segments", counted)
    for depth in (5, 50):
        path = tmp_path / f"deep{depth}.yaml"
        path.write_text(SPEC.format(depth=depth), encoding="utf-8")
        plan_classes(rescompile.elaborate(rescompile.load(str(path))), (), unrolled)
    assert calls[5] == calls[50] > 0
