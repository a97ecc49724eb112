"""Parallel copies that make up a whole block are loops in generated source if they are equal or their numbers count up;
copies that follow no rule are written one by one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from frameworks import FRAMEWORKS

pytest.importorskip("torch", reason="the text is executed with torch: pip install 'rescompile[torch]'")

from sources import agree, compare, drawn, source
from spec_texts import elaborated
from torch import jit
from variants import without_hints

from rescompile.codegen.execution import executed
from rescompile.codegen.lowering import STYLES
from rescompile.ir.network import Network

SPEC = """
rescompile: 1
name: varied
input: [12, 8, 8]
blocks:
  mixed:
    parameters: {paths: int, width: int}
    let: {table: [2, 5, 3, 4]}
    body: [{parallel: {merge: MERGE, split: SPLIT, copies: paths, branch: BRANCH}}]
network:
- a: {block: mixed, paths: 3, width: 12}
- even1: {conv: {channels: 12, kernel: 1}}
- b: {block: mixed, paths: 2, width: 8}
- even2: {conv: {channels: 12, kernel: 1}}
- c: {block: mixed, paths: 4, width: 8}
- even3: {conv: {channels: 12, kernel: 1}}
- d: {block: mixed, paths: 1, width: 4}
- global_avgpool
- flatten
- fc: {linear: 10}
"""
#: The steps of a copy, and a part of the loop for it.
RULES = {
    "equal": ("{conv: {channels: width / paths, kernel: 1, bias: true, bias_init: 1}}", "width // paths, 1)"),
    "kernel": ("{conv: {channels: in_channels, kernel: 3 + 2 * copy, groups: in_channels}}", "3 + 2 * index"),
    "dilation": ("{conv: {channels: in_channels, kernel: 3, dilation: copy + 1}}", "dilation=index + 1"),
    "channels": ("{conv: {channels: 2 + copy, kernel: 1}}", "2 + index"),
    "several": ("[conv1: {conv: {channels: 4 * copy + 4, kernel: 1}}, bn: norm, relu, conv2: {conv: {channels: 2, kernel: 1}}]", "copy.conv1 = "),
    "list": ("[{conv: {channels: 2, kernel: 3}}, norm, relu]", "nn.Sequential("),
}  # fmt: skip
#: Steps whose copies follow no rule, or are not lists of layers.
UNRULED = {
    "table": "{conv: {channels: 'table[copy]', kernel: 1}}",
    "residual": "{residual: {branch: [conv1: {conv: {channels: in_channels, kernel: 3}}]}}",
    "condition": "[{if: copy > 0, then: {conv: {channels: in_channels, kernel: 3}}}, norm]",
}


def network_of(branch: str, split: bool, folder: Path, merge: str = "concat") -> Network:
    """Return a network of blocks with these copies."""
    text = SPEC.replace("BRANCH", branch).replace("SPLIT", str(split).lower()).replace("MERGE", merge)
    return elaborated(text, folder)


CASES = [(rule, merge) for rule in RULES for merge in ("concat", "add") if (rule, merge) != ("channels", "add")]


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize(("rule", "merge"), CASES)
@pytest.mark.slow_for("add")
def test_copies_by_a_rule_are_a_loop(rule: str, merge: str, split: bool, tmp_path: Path) -> None:
    """One class serves all counts, and in each style it has the names and the values of the tree."""
    branch, part = RULES[rule]
    network = network_of(branch, split, tmp_path, merge)
    text = source(network)
    assert re.findall(r"^class (\w+)\(", text, re.MULTILINE) == ["Mixed", "Varied"]
    assert "for index in range(paths):" in text
    assert part in text
    weights, x = drawn(network, 0)
    for style in STYLES:
        compare(network, weights, x, style)
    compare(without_hints(network), weights, x)
    _, build = executed(network, text)
    jit.script(build())


@pytest.mark.parametrize("case", UNRULED)
def test_other_copies_are_written_one_by_one(case: str, tmp_path: Path) -> None:
    network = network_of(UNRULED[case], True, tmp_path)
    text = source(network)
    assert "for index in range" not in text
    weights, x = drawn(network, 1)
    compare(network, weights, x)


@pytest.mark.parametrize(("rule", "merge"), CASES)
@pytest.mark.parametrize("target", FRAMEWORKS)
@pytest.mark.slow_for("add")
def test_frameworks_compute_the_same(target: str, rule: str, merge: str, tmp_path: Path) -> None:
    models = FRAMEWORKS[target].models
    network = network_of(RULES[rule][0], True, tmp_path, merge)
    weights, x = drawn(network, 2)
    with models.in_double():
        model = models.model_of(network, weights)
        shapes = {path: array.shape for path, array in models.values(model).items()}
        assert shapes == {place.path: place.shape for place in models.tensors.places(network)}
        agree(network, weights, x, models.in_evaluation(model, network, x))
