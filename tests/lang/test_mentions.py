"""The names mentioned by values and steps are those in their expressions, not substrings of their text."""

from __future__ import annotations

from pathlib import Path

import rescompile
from rescompile.lang.spec.mentions import mentions
from rescompile.lang.spec.spec import Spec

TEXT = """
rescompile: 1
name: net
input: [3, 8, 8]
parameters: {width: 8, classes: 4, half: classes / 2}
defaults: {basic: {width: 8}}
blocks:
  plain: {parameters: {k: 3}, body: [conv1: {conv: {channels: k, kernel: 3}}]}
  named: {parameters: {k: 3}, body: ["conv{index}": {conv: {channels: k, kernel: 3}}]}
  hidden: {parameters: {k: 3}, body: [residual: {branch: [{if: depth > 1, then: {dropout: 0.5}}], shortcut: identity}]}
  nested: {parameters: {k: 3}, body: [parallel: {merge: add, copies: k, branch: {act: {kind: relu, when: index > 0}}}]}
network:
  - stem: {conv: {channels: width, kernel: 3}}
  - layer1: {block: basic, depth: 2}
  - s1: {block: plain, depth: 1}
  - s2: {block: named, depth: 1}
  - s3: {block: hidden, depth: 2}
  - s4: {block: nested, depth: 1}
  - {block: classifier, classes: half}
"""


def spec(folder: Path) -> Spec:
    """Return the spec of TEXT."""
    path = folder / "net.yaml"
    path.write_text(TEXT)
    return rescompile.load(path)


def test_mentions_of_steps(tmp_path: Path) -> None:
    """Names are found in all expressions: in step names, conditions, branches, copies and attributes."""
    found = {word: set(mentions(block.body)) for word, block in spec(tmp_path).blocks.items()}
    assert not found["plain"] & {"index", "depth"}
    assert "index" in found["named"]
    assert "depth" in found["hidden"]
    assert {"k", "index"} <= found["nested"]


def test_a_value_per_copy_depends_on_the_copy(tmp_path: Path) -> None:
    """A list of values per copy counts as a mention of `index`."""
    path = tmp_path / "net.yaml"
    path.write_text(
        TEXT.replace("layer1: {block: basic, depth: 2}", "layer1: {block: basic, depth: 2, stride: {each: [1, 2]}}")
    )
    (row,) = [row.step for row in rescompile.load(path).network or [] if getattr(row, "name", "") == "layer1"]
    assert set(mentions(row.arguments)) == {"index"}


def test_recorded_parameters(tmp_path: Path) -> None:
    """A parameter used only by another one is not recorded; one whose name is also a key of `defaults` is."""
    network = rescompile.elaborate(spec(tmp_path))
    assert dict(network.parameters) == {"width": 8, "half": 2}
