"""Multiply-adds by convention equal the figures of the tools themselves for torchvision's networks (tests/facts/counters.yaml)."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from rescompile import elaborate, load
from rescompile.analysis.conventions import CONVENTIONS, GROUPS, counts
from rescompile.analysis.cost import cost
from rescompile.diagnostics.errors import Source
from rescompile.ir.network import Network
from rescompile.lang.load import from_document
from rescompile.lang.yaml_reader import read


@cache
def facts() -> dict[str, Any]:
    """Return the figures of the tools."""
    return yaml.safe_load((Path(__file__).parents[1] / "facts" / "counters.yaml").read_text(encoding="utf-8"))


def figures(network: Network) -> dict[str, int]:
    """Return the total of each convention by name."""
    return {each.convention.name: each.total for each in counts(network)}


TOOLS = ("fvcore", "thop", "ptflops", "ptflops-aten", "torch")
#: Networks that call functions instead of modules, with the tools whose figures differ for that reason: thop does not count
#: functions, ptflops counts them once, and no tool counts `x.mean([2, 3])` as a pool.
FUNCTIONS = {
    "densenet121": ("thop", "ptflops"), "densenet161": ("thop", "ptflops"), "googlenet": ("ptflops",), "inception_v3": ("thop", "ptflops"),
    "mobilenetv2_100": ("thop", "ptflops"), "mnasnet_100": ("fvcore", "thop", "ptflops"),
    "shufflenet_v2_x1_0": ("fvcore", "thop", "ptflops"), "convnext_tiny": ("thop", "ptflops"),
}  # fmt: skip


@pytest.mark.parametrize("row", facts()["networks"], ids=lambda row: row["id"])
def test_totals_equal_the_figures_of_the_tools(row: dict[str, Any]) -> None:
    """The total equals every tool's figure exactly, and torchvision's published figure to its last digit."""
    found = figures(elaborate(load(row["id"])))
    assert round(found["torchvision"] / 1e9, 3) == row["published"]
    seen = [tool for tool in TOOLS if tool not in FUNCTIONS.get(row["id"], ())]
    assert {tool: found[tool] for tool in seen} == {tool: row[tool] for tool in seen}
    for tool in FUNCTIONS.get(row["id"], ()):
        assert 0 < found[tool] - row[tool] < 0.005 * found[tool]


def test_every_kind_of_op() -> None:
    """Totals also agree for ops that torchvision's networks lack: other norms, activations, transposed convolutions, upsampling."""
    small = facts()["small"]
    spec = {"rescompile": 1, "name": "small", "input": small["input"], "network": small["network"]}
    network = elaborate(from_document(read(Source("small", yaml.safe_dump(spec)))))
    found = figures(network)
    assert {tool: found[tool] for tool in TOOLS} == {tool: small[tool] for tool in TOOLS}
    parts = {group for each in counts(network) for group, value in each.parts.items() if value}
    assert parts == set(GROUPS)


def test_the_first_convention_is_that_of_the_cost() -> None:
    """The first convention counts as `show` and `list` do."""
    network = elaborate(load("resnet50"))
    assert CONVENTIONS[0].name == "rescompile"
    assert figures(network)["rescompile"] == cost(network).macs == figures(network)["torch"] / 2
