"""The trees of small specs that an early version refused or accepted by mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

import rescompile
from rescompile.diagnostics.errors import SpecError
from rescompile.elaboration.evaluator import MAX_BUILT, whole
from rescompile.ir.network import Network, Parallel, Series, walk
from rescompile.ir.ops import ELSEWHERE, WORDS, Conv, attributes

HEAD = "rescompile: 1\nname: net\ninput: [16, 8, 8]\n"


def network(text: str, folder: Path) -> Network:
    """Return the network of a spec, given without its first lines."""
    path = folder / "net.yaml"
    path.write_text(HEAD + text, encoding="utf-8")
    return rescompile.elaborate(rescompile.load(path))


def names(network: Network) -> list[str]:
    """Return the full names of all named nodes."""
    return list(dict.fromkeys(name for name, node in walk(network.root) if name and getattr(node, "name", None)))


@pytest.mark.parametrize(
    ("written", "channels"),
    [("in_channels * 0.5", 8), ("8.0", 8), ("1.5 * 4 + 2", 8), ("in_channels / 2", 8), ("0.25 * 4 * in_channels", 16)],
)
def test_an_integral_float_is_an_integer(written: str, channels: int, tmp_path: Path) -> None:
    """An integral float is accepted as an integer and converted to int."""
    root = network(f"network: [c1: {{conv: {{channels: {written}, kernel: [3.0, 1]}}}}]\n", tmp_path).root
    (kind,) = (node.kind for _, node in walk(root) if hasattr(node, "kind"))
    assert isinstance(kind, Conv)
    assert (kind.channels, kind.kernel) == (channels, (3, 1))
    assert {type(n) for n in (kind.channels, *kind.kernel)} == {int}


def test_an_integral_float_as_an_argument_and_a_depth(tmp_path: Path) -> None:
    """A parameter with an integer default converts an integral float, as does `depth`."""
    text = """
blocks: {unit: {stage: true, parameters: {expand: 6}, body: [c: {conv: {channels: 8 * expand, kernel: 1}}]}}
network: [row: {block: unit, depth: 1.5 * 2, expand: 4 * 0.5}]
"""
    calls = [node.call for _, node in walk(network(text, tmp_path).root) if isinstance(node, Series) and node.call]
    assert [call.arguments for call in calls] == [{"expand": 2}] * 3
    assert all(type(call.arguments["expand"]) is int for call in calls)


def test_other_floats_are_not_integers() -> None:
    """Floats that are nearly integral or at least 2**53, and Booleans, are not converted."""
    assert [type(whole(value)) for value in (7.000000000000001, 0.1, 1e300, 2.0**53, True)] == [float] * 4 + [bool]
    assert whole([2.0, [3.0, "same"]]) == [2, [3, "same"]]


@pytest.mark.parametrize(("plain", "merges"), [("true", 0), ("false", 1)])
def test_none_in_a_condition(plain: str, merges: int, tmp_path: Path) -> None:
    """A condition may select `none`, which omits the shortcut."""
    text = f"""
parameters: {{plain: {plain}}}
network:
  - residual:
      branch: [c: {{conv: {{channels: 16, kernel: 3}}}}]
      shortcut: {{if: plain, then: none, else: {{if: not plain, then: identity, else: none}}}}
"""
    root = network(text, tmp_path).root
    assert sum(isinstance(node, Parallel) for _, node in walk(root)) == merges


def test_the_block_of_the_spec_used_by_name(tmp_path: Path) -> None:
    """Rows can refer by name to the block that the spec defines."""
    text = "block: unit\nblocks: {unit: {body: [c: {conv: {channels: 8, kernel: 1}}]}}\nnetwork: [a: {block: unit}]\n"
    assert names(network(text, tmp_path)) == ["a", "a.c"]


def test_a_macro_that_names_its_steps_in_a_named_list(tmp_path: Path) -> None:
    """Named steps of a macro keep their names and other ops are named by their word; steps of a macro without names are numbered."""
    text = """
blocks:
  named: {inline: true, body: [conv1: {conv: {channels: 16, kernel: 3}}, act, residual: {branch: [c2: {conv: {channels: 16, kernel: 1}}, act]}]}
  numbered: {inline: true, body: [{conv: {channels: 16, kernel: 3}}, act]}
network:
  - one: [named, last: norm]
  - two: [numbered, numbered]
"""
    found = names(network(text, tmp_path))
    assert [name for name in found if name.startswith("one.")] == [
        "one.conv1", "one.act", "one.0", "one.c2", "one.act_1", "one.last",
    ]  # fmt: skip
    assert [name for name in found if name.startswith("two.")] == ["two.0", "two.1", "two.2", "two.3"]


def test_equal_copies_are_built_once(tmp_path: Path) -> None:
    """Equal copies are built once and numbered, and equal those that are built one by one because of `index`."""
    text = """
blocks:
  unit: {{stage: true, parameters: {{k: 3}}, body: [residual: {{branch: [c: {{conv: {{channels: 16, kernel: k}}}}]}}]}}
network: [row: {{block: unit, depth: 2000, k: {k}}}]
"""
    alike, apart = (network(text.format(k=k), tmp_path) for k in ("1 + 2", "3 + 0 * index"))
    assert alike.root.children[0].children[5:7] == apart.root.children[0].children[5:7]  # type: ignore[union-attr]
    assert names(alike) == names(apart)
    copies, others = alike.root.children[0].children[1:], apart.root.children[0].children[1:]  # type: ignore[union-attr]
    assert all(copy.call.hints is copies[0].call.hints for copy in copies)
    assert [copy.call.index for copy in copies] == [copy.call.index for copy in others] == list(range(1, 2000))


@pytest.mark.parametrize("depth", [MAX_BUILT, 299_999])
def test_too_many_different_copies_are_refused(depth: int, tmp_path: Path) -> None:
    """Too many different copies are refused before they are built."""
    text = "blocks: {{unit: {{body: [{{dropout: 1 / (1 + index)}}]}}}}\nnetwork: [row: {{block: unit, depth: {}}}]\n"
    with pytest.raises(SpecError, match="E0208"):
        network(text.format(depth), tmp_path)


def test_features_inside_merges(tmp_path: Path) -> None:
    """A feature inside a branch becomes an output, as with a side branch at that position."""
    text = "features: [{}]\nnetwork: [residual: {{branch: [c: {{conv: {{channels: 16, kernel: 3}}}}{}, act]}}]\n"
    tapped = network(text.format("c", ""), tmp_path)
    written = network(
        text.format("act", ", side: {body: identity, output: c, mode: always}").replace("features: [act]\n", ""),
        tmp_path,
    )
    assert tapped.outputs == written.outputs == {"logits": (16, 8, 8), "c": (16, 8, 8)}


def test_words_of_other_frameworks_are_not_words_of_the_language() -> None:
    """ELSEWHERE contains no word of the language, so that misspellings of all these words get a suggestion."""
    words = {word for op in WORDS for facts in attributes(op).values() for word in facts.words}
    assert not ELSEWHERE & (WORDS.keys() | words)
