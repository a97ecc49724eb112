"""Variants of one block in generated source: optional shortcuts and alternative steps become conditions in one class;
variants without a common text get separate classes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from frameworks import FRAMEWORKS

pytest.importorskip("torch", reason="the text is executed with torch: pip install 'rescompile[torch]'")

from sources import agree, compare, drawn, source
from spec_texts import elaborated
from variants import without_hints

from rescompile.codegen.lowering import STYLES

HEAD = """
rescompile: 1
name: varied
input: [4, 8, 8]
blocks:
  squeeze:
    body:
    - parallel:
        merge: mul
        branches: [identity, [global_avgpool, {fc: {conv: {channels: in_channels, kernel: 1, bias: true}}}, sigmoid]]
  pair:
    parameters: {width: int, stride: int}
    body: [{wide: {conv: {channels: 2 * width, kernel: 3, stride: stride}}}, {narrow: {conv: {channels: width, kernel: 1}}}]
  unit:
    parameters:
      width: int
      stride: 1
      paired: false
      attention: {default: identity, type: block}
      activation: {default: relu, one_of: [relu, tanh]}
    body:
    - residual:
        branch:
        - if: paired
          then: {conv1: {block: pair, width: width, stride: stride}}
          else: {conv1: {conv: {channels: width, kernel: 3, stride: stride}}}
        - bn1: norm
        - act: {kind: activation}
        - se: {block: attention}
        - conv2: {conv: {channels: width, kernel: 1, bias: true}}
        shortcut: SHORTCUT
    - act: {kind: activation}
network:
"""
#: Every variant once, all with the default activation.
UNITS = """
- a: {block: unit, width: 6}
- b: {block: unit, width: 6, paired: true}
- c: {block: unit, width: 8, stride: 2, attention: squeeze}
- d: {block: unit, width: 8, paired: true, attention: squeeze}
- e: {block: unit, width: 8}
"""
FUNCTIONAL = """
- f: {block: unit, width: 8, activation: tanh}
- g: {block: unit, width: 9, activation: tanh, attention: squeeze}
"""
TAIL = "- global_avgpool\n- flatten\n- fc: {linear: 10}\n"
IDENTITY = "{if: stride == 1 and in_channels == width, then: identity, else: none}"
PADDED = "{if: stride == 1 and in_channels <= width, then: {pad_channels: width}, else: none}"
PROJECTED = "{if: stride == 1, then: [short: {conv: {channels: width, kernel: 1}}], else: none}"
EITHER = "{if: stride == 1, then: {if: in_channels == width, then: identity, else: [short: [conv: {channels: width, kernel: 1}]]}, else: none}"
SHORTCUTS = {"identity": IDENTITY, "padded": PADDED, "projected": PROJECTED, "either": EITHER}


def spec(shortcut: str, units: str = UNITS) -> str:
    """Return the text of a spec with this shortcut and these units."""
    return f"{HEAD.replace('SHORTCUT', shortcut)}{units.strip()}\n{TAIL}"


def classes(text: str) -> list[str]:
    """Return the names of the classes that a source file defines."""
    return re.findall(r"^class (\w+)\(", text, re.MULTILINE)


@pytest.mark.parametrize("shortcut", SHORTCUTS)
def test_variants_are_one_class(shortcut: str, tmp_path: Path) -> None:
    """Variants share one class in every style, and the module computes what the interpreter computes, with hints and without."""
    network = elaborated(spec(SHORTCUTS[shortcut]), tmp_path)
    # The spec has no condition that separates units with either shortcut from units without one.
    units = ["Unit", "Unit2"] if shortcut == "either" else ["Unit"]
    assert [name for name in classes(source(network)) if name.startswith("Unit")] == units
    weights, x = drawn(network, 0)
    for style in STYLES:
        compare(network, weights, x, style)
    bare = without_hints(network)
    assert "Unit3" in classes(source(bare))
    compare(bare, weights, x)


def test_variants_are_written_as_conditions(tmp_path: Path) -> None:
    text = source(elaborated(spec(IDENTITY), tmp_path))
    constructor, forward = text.partition("class Unit(")[2].partition("class Varied(")[0].split("def forward")
    assert "self.has_shortcut = stride == 1 and in_channels == width\n" in constructor
    assert 'if attention != "identity":\n            self.se = Squeeze(width)\n' in constructor
    assert (
        "if paired:\n            self.conv1: nn.Module = Pair(in_channels, width, stride)\n        else:\n"
        in constructor
    )
    assert "if self.has_shortcut:\n            y += x\n" in forward


def test_variants_of_each_activation_are_one_class(tmp_path: Path) -> None:
    """Units with another activation get a second class, because a class has one activation function; their variants
    still share it."""
    network = elaborated(spec(IDENTITY, UNITS + FUNCTIONAL), tmp_path)
    assert classes(source(network))[-3:] == ["Unit", "Unit2", "Varied"]
    weights, x = drawn(network, 1)
    compare(network, weights, x)


def test_a_class_of_alternatives_only_becomes_two(tmp_path: Path) -> None:
    """Two classes are emitted where conditions around every module would be longer."""
    unit = """
  unit:
    parameters: {width: int, paired: false}
    body:
    - if: paired
      then: {conv1: {block: pair, width: width, stride: 1}}
      else: {conv1: {conv: {channels: width, kernel: 3}}}
network:
"""
    head = HEAD.partition("  unit:")[0].rstrip()
    text = f"{head}{unit}- a: {{block: unit, width: 6}}\n- b: {{block: unit, width: 6, paired: true}}\n{TAIL}"
    network = elaborated(text, tmp_path)
    assert classes(source(network))[-4:] == ["Pair", "Unit", "Unit2", "Varied"]
    weights, x = drawn(network, 2)
    compare(network, weights, x)


def test_recomputed_branches_keep_their_classes(tmp_path: Path) -> None:
    """With `checkpoint`, only the branch of a residual is recomputed, so blocks without a shortcut keep a class of their own."""
    network = elaborated(spec(IDENTITY) + "checkpoint: true\n", tmp_path)
    assert "Unit2" in classes(source(network))
    weights, x = drawn(network, 3)
    compare(network, weights, x)


@pytest.mark.parametrize("shortcut", SHORTCUTS)
@pytest.mark.parametrize("target", FRAMEWORKS)
def test_frameworks_compute_the_same(target: str, shortcut: str, tmp_path: Path) -> None:
    models = FRAMEWORKS[target].models
    network = elaborated(spec(SHORTCUTS[shortcut], UNITS + FUNCTIONAL), tmp_path)
    weights, x = drawn(network, 4)
    with models.in_double():
        agree(network, weights, x, models.in_evaluation(models.model_of(network, weights), network, x))
