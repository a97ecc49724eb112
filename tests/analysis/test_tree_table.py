"""The text of the printed tree: arguments that differ between copies, and the layers on the path of a block."""

from __future__ import annotations

from pathlib import Path

import pytest

import rescompile
from rescompile.analysis.tree_table import describe
from rescompile.explain.facts import kind_of
from rescompile.explain.stages import structure
from rescompile.ir.network import Network

UNIT = """
  unit:
    stage: true
    parameters: {width: int, stride: {default: 1, only: first}, dilation: 1}
    body: [c: {conv: {channels: width, kernel: 3, stride: stride, dilation: dilation}}]
"""
SQUEEZE = """
  unit:
    stage: true
    body:
      - residual:
          branch:
            - c1: {conv: {channels: 8, kernel: 3}}
            - parallel:
                merge: mul
                branches:
                  - identity
                  - [global_avgpool, fc1: {conv: {channels: 2, kernel: 1}}, act, fc2: {conv: {channels: 8, kernel: 1}}, sigmoid]
            - c2: {conv: {channels: 8, kernel: 1}}
"""


def network(block: str, row: str, folder: Path) -> Network:
    """Return a network of one row."""
    path = folder / "net.yaml"
    path.write_text(
        f"rescompile: 1\nname: net\ninput: [8, 32, 32]\nblocks:{block}network: [a: {{block: unit, {row}}}]\n"
    )
    return rescompile.elaborate(rescompile.load(path))


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ("depth: 3, width: 16, stride: 2", "3 x unit(width=16, stride=2)"),
        ("depth: 3, width: 16 + 8 * index", "3 x unit(width={each: [16, 24, 32]})"),
        ("depth: 8, width: 16 + 8 * index", "8 x unit(width={each: [16, 24, ..., 72]})"),
        ("depth: 2, width: 16, dilation: {first: 1, rest: 2}", "2 x unit(width=16, dilation={each: [1, 2]})"),
        ("depth: 2, width: 16, dilation: 1", "2 x unit(width=16)"),
    ],
)
def test_arguments_of_copies(row: str, text: str, tmp_path: Path) -> None:
    """An argument that differs between copies is shown with its values, shortened in the middle."""
    assert describe(network(UNIT, row, tmp_path).root.children[0]) == text


def test_squeeze_and_excitation_is_beside_the_path(tmp_path: Path) -> None:
    """The layers of squeeze-and-excitation are not among those on the path of a block."""
    (stage,) = structure(network(SQUEEZE, "depth: 2", tmp_path)).stages
    assert kind_of(stage.units[0]) == "3x3-1x1"
