"""Parameters added to library blocks later do not appear in specs that do not set them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import rescompile
from rescompile.ir.network import Network, parameters
from rescompile.lang import library
from rescompile.lang.later_parameters import LATER, without_unset
from rescompile.lang.yaml_reader import plain

HEAD = "rescompile: 1\nname: my_net\ninput: [16, 8, 8]\n"
PAIRS = [(word, name) for word, names in LATER.items() for name in names]
Made = Callable[[str], Network]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """Return a function that elaborates a spec, given without its head."""

    def elaborated(text: str) -> Network:
        path = tmp_path / "spec.yaml"
        path.write_text(HEAD + text, encoding="utf-8")
        return rescompile.elaborate(rescompile.load(path))

    return elaborated


def row(word: str, more: str = "") -> str:
    """Return the text of a network of one row."""
    return f"network:\n- layer1: {{block: {word}, depth: 2, width: 16, stride: 2{more}}}\n"


@pytest.mark.parametrize(("word", "name"), PAIRS)
def test_an_unset_parameter_does_not_appear(word: str, name: str, made: Made) -> None:
    """An unset parameter appears neither in the block as read nor in the canonical text."""
    block = str(plain(without_unset(word, library.block(word), lambda *_: False)))
    assert not [later for later in LATER[word] if later in block]
    assert name not in made(row(word)).text


@pytest.mark.parametrize(("word", "name"), PAIRS)
def test_the_default_is_the_block_without_it(word: str, name: str, made: Made) -> None:
    """A parameter set to `identity` appears in the text, and the network has the same parameters and shapes as without it."""
    without, with_default = made(row(word)), made(row(word, f", {name}: identity"))
    assert f"{name}: identity" in with_default.text
    assert list(parameters(with_default)) == list(parameters(without))
    assert (with_default.root.output, with_default.outputs) == (without.root.output, without.outputs)


SETTINGS = {
    "a row": row("basic", ", attention: squeezed"),
    "a row without a block": f"block: basic\n{row('basic', ', attention: squeezed').replace('block: basic, ', '')}",
    "one copy": row("basic", ", attention: {first: identity, rest: squeezed}"),
    "defaults": f"defaults: {{basic: {{attention: squeezed}}}}\n{row('basic')}",
    "a block of the spec": "blocks:\n  twice: {body: [one: {block: basic, width: 16, attention: squeezed}]}\n"
    "network:\n- layer1: {block: twice}\n",
}
SQUEEZED = "blocks:\n  squeezed: {body: [gate: {conv: {channels: in_channels, kernel: 1}}, sigmoid]}\n"


@pytest.mark.parametrize("where", SETTINGS)
def test_a_parameter_can_be_set_anywhere(where: str, made: Made, tmp_path: Path) -> None:
    """Wherever a later parameter is set, it takes effect, and the canonical text gives the same network."""
    text = SETTINGS[where]
    text = SQUEEZED + text.removeprefix("blocks:\n") if text.startswith("blocks:") else SQUEEZED + text
    network = made(text)
    assert [key for key, _ in parameters(network) if key.endswith("se.gate.weight")]
    assert "antialias" not in network.text
    again = tmp_path / "again.yaml"
    again.write_text(network.text, encoding="utf-8")
    assert rescompile.elaborate(rescompile.load(again)).sha256 == network.sha256


def test_another_block_may_have_a_parameter_of_the_name(made: Made) -> None:
    """A parameter of the same name in a block of the spec does not add the later ones to library blocks."""
    blocks = "blocks:\n  basic2: {parameters: {attention: int}, body: [c: {conv: {channels: attention, kernel: 1}}]}\n"
    both = "network:\n- layer1: {block: basic, depth: 1, width: 16}\n- layer2: {block: basic2, attention: 4}\n"
    assert "antialias" not in (text := made(blocks + both).text)
    assert text.count("attention") == 3  # the parameter, its mention and its value


def test_a_place_without_a_stride_has_no_filter(made: Made) -> None:
    """Only the first copy of a strided row has an anti-aliasing filter."""
    network = made("defaults: {bottleneck: {antialias: blurpool}}\n" + row("bottleneck"))
    strides = [line for line in network.text.splitlines() if "kind: reflect" in line]
    assert len(strides) == 1
    first, second = network.root.children[0].children  # type: ignore[union-attr]
    assert "Border" in repr(first)
    assert "Border" not in repr(second)
