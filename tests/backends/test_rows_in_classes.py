"""Rows of copies in a class whose instances have rows of different lengths: copies of another class among them keep
their names, by position or by `members`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from frameworks import FRAMEWORKS

pytest.importorskip("torch", reason="the text is executed with torch: pip install 'rescompile[torch]'")

from sources import agree, compare, drawn, source
from spec_texts import elaborated

from rescompile.codegen.lowering import STYLES
from rescompile.ir.network import Network
from rescompile.passes import apply

#: Positions of the copies of the other class; in one row they follow a stage, or are followed by one, whose length
#: differs.
WHERE = {
    "last": "index == depth - 1",
    "last_two": "index >= depth - 2",
    "before_last": "index == depth - 2",
    "second": "index == 1",
    "ends": "index == 0 or index == depth - 1",
    "several": "index == 0 or index == depth - 3 or index == depth - 1",
}
BLOCKS = """
  NAME:
    HEAD
    body:
    - if: WHERE
      then:
      - residual:
          branch: [squeeze: {conv: {channels: 2, kernel: 1}}, bn: norm, relu, grow: {conv: {channels: 4, kernel: 3}}]
          SHORTCUT
      else: [residual: {branch: [conv1: {conv: {channels: 4, kernel: 3}}], SHORTCUT}]
  row_NAME:
    parameters: {count: int}
    body: [{keep: y}, units: {block: NAME, depth: count}, even: {conv: {channels: 4, kernel: 1}}]
"""
NETWORK = "- NAME: {block: row_NAME, count: 6}\n- longer_NAME: {block: row_NAME, depth: 2, count: 8}\n"


def network_of(members: str, kept: bool, folder: Path) -> Network:
    """Return a network with all rows; if `kept`, their units add the stored input of the row."""
    shortcut = "shortcut: {use: y}" if kept else "shortcut: identity"
    head = ["values: [y]"] * kept + [f"members: {members}"] * bool(members)
    blocks = BLOCKS.replace("    HEAD\n", "".join(f"    {line}\n" for line in head)).replace("SHORTCUT", shortcut)
    return elaborated(
        "rescompile: 1\nname: rows\ninput: [4, 8, 8]\nblocks:"
        + "".join(blocks.replace("NAME", name).replace("WHERE", where) for name, where in WHERE.items())
        + "network:\n"
        + "".join(NETWORK.replace("NAME", name) for name in WHERE)
        + "- global_avgpool\n- flatten\n- fc: {linear: 10}\n",
        folder,
    )


CASES = [(members, kept) for members in ("", "unit{index + 1}") for kept in (False, True)]


@pytest.mark.parametrize(("members", "kept"), CASES)
def test_copies_keep_their_names(members: str, kept: bool, tmp_path: Path) -> None:
    """Numbered rows of any length share a class; rows whose single copies get different names by `members` have a class each."""
    network = network_of(members, kept, tmp_path)
    found = re.findall(r"^class (Row[A-Z]\w+)\(", source(network), re.MULTILINE)
    assert (len(found) == len(WHERE)) == (not members)
    weights, x = drawn(network, 0)
    for style in STYLES:
        compare(network, weights, x, style)


@pytest.mark.parametrize(("members", "kept"), CASES)
@pytest.mark.parametrize("target", FRAMEWORKS)
@pytest.mark.slow_for("True")
def test_frameworks_keep_the_names(target: str, members: str, kept: bool, tmp_path: Path) -> None:
    models = FRAMEWORKS[target].models
    network = network_of(members, kept, tmp_path)
    weights, x = drawn(network, 1)
    with models.in_double():
        model = models.model_of(network, weights)
        shapes = {path: array.shape for path, array in models.values(model).items()}
        assert shapes == {place.path: place.shape for place in models.tensors.places(network)}
        agree(network, weights, x, models.in_evaluation(model, network, x))


LESIONS = ("pair.0.units.2", "pair.1.units.2", "pair.1.units.1", "pair.0.units.1,pair.1.units.2", "pair.1.units.0")


def lesioned(parts: str, folder: Path) -> Network:
    """A block twice, whose rows have the same copies, until a pass removes residual branches of some."""
    network = elaborated(
        "rescompile: 1\nname: rows\ninput: [4, 8, 8]\nblocks:\n"
        "  unit: {body: [residual: {branch: [conv: {channels: 4, kernel: 3}, tanh: {}]}]}\n"
        "  row: {body: [even: {conv: {channels: 4, kernel: 1}}, units: {block: unit, depth: 3}]}\n"
        "network:\n- pair: {block: row, depth: 2}\n",
        folder,
    )
    return apply(network, None, {"drop": parts})[0]


@pytest.mark.parametrize("parts", LESIONS)
def test_equal_rows_of_which_one_lost_a_copy(parts: str, tmp_path: Path) -> None:
    """The rows share the copies that are left, but not their number."""
    network = lesioned(parts, tmp_path)
    weights, x = drawn(network, 0)
    for style in STYLES:
        compare(network, weights, x, style)


@pytest.mark.parametrize("target", FRAMEWORKS)
@pytest.mark.parametrize("parts", LESIONS[:2])
@pytest.mark.slow
def test_frameworks_have_the_copies_that_are_left(target: str, parts: str, tmp_path: Path) -> None:
    models = FRAMEWORKS[target].models
    network = lesioned(parts, tmp_path)
    weights, x = drawn(network, 1)
    with models.in_double():
        model = models.model_of(network, weights)
        agree(network, weights, x, models.in_evaluation(model, network, x))
