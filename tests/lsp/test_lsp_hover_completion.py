"""The language server's hovers and completions, over the protocol and as functions of a text with a cursor."""

from __future__ import annotations

from pathlib import Path

import pytest
from lsp_client import Editor
from lsprotocol.types import CompletionItem

from rescompile.lang import library
from rescompile.lang.key_docs import BUILTIN_DOCS, KEY_DOCS
from rescompile.lang.spec.blocks import Block, ParameterDefinition
from rescompile.lang.spec.rows import Use
from rescompile.lang.spec.spec import Expect, Preprocess, Spec, Survival
from rescompile.lang.spec.steps import If, Parallel, Residual, Side
from rescompile.lsp.completion import completion
from rescompile.lsp.documents import Document
from rescompile.lsp.hover import hover
from rescompile.lsp.offers import OFFERS, WORDS

HEAD = "rescompile: 1\nname: x\ninput: [3, 32, 32]\nparameters: {classes: 10}\nblock: basic\n"
BLOCK = """rescompile: 1
name: x
input: [3, 32, 32]
parameters: {k: 2, wide: 8 * k}
blocks:
  mine:
    description: a block of mine
    parameters:
      width: int    # output channels
    let: {inner: width * 2}
    body:
      - conv1: {conv: {channels: inner, kernel: 3}}
      - conv{inner}: {conv: {channels: width, kernel: 3, padding: same}}
network:
  - a: {block: mine, width: wide}
  - b: {block: mine, width: 32, depth: 2}
"""


def hovered(text: str, mark: str = "|") -> str:
    """Return the hover at the mark in a text, as Markdown."""
    at = text.index(mark)
    document = Document("file:///nowhere/x.yaml", text.replace(mark, "", 1))
    found = hover(document, document.lines.position(at))
    return found.contents.value if found else ""  # type: ignore[union-attr]


def offered(text: str) -> dict[str, CompletionItem]:
    """Return the completions at the mark in a text, by label."""
    at = text.index("|")
    document = Document("file:///nowhere/x.yaml", text.replace("|", "", 1))
    return {item.label: item for item in completion(document, document.lines.position(at))}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (BLOCK.replace("network:", "net|work:"), ["The rows of the network"]),
        (BLOCK.replace("- a:", "- |a:"), ["`mine(width=16)`: 3x32x32 → 16x32x32, 5,472 parameters"]),
        (BLOCK.replace("block: mine, width: wide", "block: m|ine, width: wide"), ["a block of mine", "`width: int` output channels"]),
        (BLOCK.replace("channels: inner", "channels: in|ner"), ["inner: width * 2", "Here: `32`, `64`"]),
        (BLOCK.replace("{inner: width * 2}", "{inner: width |* 2}"), ["`width * 2` = `32`, `64`"]),
        (BLOCK.replace("conv{inner}", "conv{in|ner}"), ["A let of the block `mine`"]),
        (BLOCK.replace("      width: int", "      wid|th: int"), ["output channels", "Here: `16`, `32`"]),
        (BLOCK.replace("width: wide", "width: wi|de"), ["wide: 8 * k", "Here: `16`"]),
        (BLOCK.replace("width: wide", "wi|dth: wide"), ["A parameter of the block `mine`"]),
        (BLOCK.replace("padding: same", "padding: sa|me"), ["or `same`", "Default: `same`"]),
        (BLOCK.replace("width: 32, depth", "width: 3|2, depth"), ["A parameter of the block `mine`"]),
        (BLOCK.replace("padding: same", "pad|ding: same"), ["a list of one for each axis or `same`", "Default: `same`"]),
        (BLOCK.replace("{conv: {channels: inner", "{co|nv: {channels: inner"), ["Convolution over all axes of the map", "`groups`: number of channel groups", "`conv`: 3x32x32 → 32x32x32"]),
        ("rescompile: 1\nname: x\nextends: resnet50\nset: {lay|er3.depth: 2}\n", ["`2 x bottleneck(width=256, stride=2)`: 512x28x28 → 1024x14x14"]),
        ("rescompile: 1\nname: x\nextends: res|net50\n", ["ResNet-50", "He et al. 2015"]),
        ("rescompile: 1\nname: x\nextends: resnet50\ndefaults: {bottleneck: {short|cut: none}}\n", ["A parameter of the block `bottleneck`", "Here: `none`"]),
        (HEAD.replace("parameters: {classes: 10}\n", "") + "network:\n  - cifar_stem\n  - l: {depth: 1, width: in_chan|nels}\n", ["The channels of the input", "`in_channels` = `16`"]),
        (BLOCK.replace("width: 32, depth: 2", "width: 8 |* (index + 1), depth: 2"), ["`8 * (index + 1)` = `8`, `16`"]),
        (BLOCK.replace("{channels: width, kernel", "{channels: in_chan|nels, kernel"), ["`in_channels` = `32`, `64`"]),
    ],
)  # fmt: skip
def test_hover(text: str, expected: list[str]) -> None:
    """A hover contains the documentation of the word at the cursor, and its values and shapes in this network."""
    found = hovered(text)
    assert [part for part in expected if part not in found] == [], found


def test_hover_above_an_invalid_line() -> None:
    """Hovers work above a line that is not valid YAML."""
    assert hovered(BLOCK + "|") == ""
    broken = BLOCK.replace("    description: a", "    descrip|tion: a") + "  - c: {block: [\n"
    assert "One line about the block" in hovered(broken)


@pytest.mark.parametrize(
    ("text", "included", "excluded"),
    [
        (HEAD + "netw|", ["network", "survival"], ["input", "conv"]),
        (HEAD + "network:\n  - cif|\n", ["cifar_stem", "conv", "relu", "residual"], ["network"]),
        (HEAD + "network:\n  - l: {depth: 3, wi|\n  - classifier\n", ["width", "stride", "when"], ["depth", "conv"]),
        (HEAD + "network:\n  - l:\n      depth: 3\n      wi|\n  - classifier\n", ["width", "stride"], ["depth"]),
        (HEAD + "network:\n  - l: {block: |}\n", ["bottleneck", "transition"], ["depth", "relu"]),
        (HEAD + "network:\n  - l: {block: bottleneck, shortcut: |}\n", ["none", "avgpool_projection"], ["conv"]),
        (HEAD + "network:\n  - c: {conv: {kernel: 3, |}}\n", ["channels", "groups", "when"], ["kernel", "rate"]),
        (HEAD + "network:\n  - c: {conv: {padding: |}}\n", ["same"], ["kernel"]),
        (HEAD + "network:\n  - c: {conv: {channels: 2 * cl|}}\n", ["classes", "in_channels", "floor"], ["conv"]),
        (HEAD + "network:\n  - act: |\n", ["relu6", "gelu"], ["conv"]),
        (HEAD + "network:\n  - residual: {|\n", ["branch", "shortcut", "gate"], ["conv"]),
        (HEAD + "network:\n  - parallel: {merge: |, branches: [act]}\n", ["add", "concat", "mul"], ["conv"]),
        (HEAD + "defaults: {norm: {ki|\n", ["kind", "eps"], ["conv"]),
        (HEAD + "network:\n  - keep: fine\n  - use: |\n", ["fine"], ["conv"]),
        (HEAD + "network:\n  - |\n", ["keep", "use", "again", "conv"], ["fine"]),
        (HEAD + "network:\n  - a: [b: act]\n  - c: tanh\n  - again: |\n", ["a", "c"], ["b", "a.b", "conv"]),
        (HEAD + "defaults: {|}\n", ["conv", "basic"], ["kernel"]),
        (HEAD + "survival: {schedule: |}\n", ["linear", "uniform"], ["conv"]),
        (HEAD + "blocks:\n  mine:\n    pa|\n", ["parameters", "body"], ["input"]),
        (HEAD + "blocks:\n  mine:\n    parameters: {w: |}\n", ["int", "size", "bool"], ["conv"]),
        (HEAD + "blocks:\n  mine:\n    parameters: {w: int}\n    let: {v: |}\n", ["w", "in_channels"], ["classes"]),
        (HEAD + "blocks: {mine: {body: [act]}}\nnetwork:\n  - x: {block: mi|}\n", ["mine", "basic"], []),
        ("rescompile: 1\nextends: resnet1|", ["resnet101", "resnet152"], ["conv"]),
        ("rescompile: 1\nextends: resnet50\nset: {|", ["layer3", "parameters.classes", "input"], ["conv"]),
        ("rescompile: 1\nextends: resnet50\nset: {layer3.|", ["layer3.depth", "layer3.shortcut"], ["layer3.kernel"]),
        ("rescompile: 1\nextends: resnet50\nset: {defaults.conv.|", ["defaults.conv.bias"], []),
        ("rescompile: 1\nextends: resnet50\nfeatures: [|]", ["layer4"], ["conv"]),
        ("|", ["rescompile", "name"], ["conv"]),
        (HEAD + "description: a |word", [], ["a", "conv"]),
        ("services: {web: {im|}}", [], ["conv", "name"]),
    ],
)
def test_completion(text: str, included: list[str], excluded: list[str]) -> None:
    """Valid words at the cursor are offered, and others are not."""
    found = offered(text)
    assert ([word for word in included if word not in found], [word for word in excluded if word in found]) == ([], [])


def test_text_edits_of_completions() -> None:
    """A key is inserted with its colon unless there is one, and a path replaces its typed beginning."""
    item = offered(HEAD + "network:\n  - l: {depth: 3, wi|\n")["width"]
    assert item.text_edit.new_text == "width: "  # type: ignore[union-attr]
    item = offered(HEAD + "network:\n  - l: {depth: 3, wi|: 3}\n")["width"]
    assert item.text_edit.new_text == "width"  # type: ignore[union-attr]
    item = offered("rescompile: 1\nextends: resnet50\nset: {layer3.de|")["layer3.depth"]
    assert item.text_edit.range.start.character == len("set: {")  # type: ignore[union-attr]


def test_every_key_is_documented() -> None:
    """The table of documentation has exactly the keys of the models."""
    models = {
        "spec": Spec, "block": Block, "parameter": ParameterDefinition, "residual": Residual, "parallel": Parallel,
        "side": Side, "survival": Survival, "preprocess": Preprocess, "expect": Expect, "row": Use,
    }  # fmt: skip
    for owner, model in models.items():
        assert set(KEY_DOCS[owner]) == set(model.model_fields), owner
    assert set(KEY_DOCS["if"]) == {field.alias or name for name, field in If.model_fields.items()}


def test_offered_words_are_valid() -> None:
    """Every word that completion offers for a key is allowed by its schema."""
    schema = {
        "survival": Survival,
        "preprocess": Preprocess,
        "parallel": Parallel,
        "side": Side,
        "parameter": ParameterDefinition,
    }
    for slot, words in WORDS.items():
        owner, _, _ = slot.partition(".")
        text = str(schema.get(owner, Spec).model_json_schema())
        assert all(f"'{word}'" in text for word in words), slot


def test_every_offer_has_a_source() -> None:
    """Every type of offer in texts of the zoo has a function that lists its words."""
    assert BUILTIN_DOCS
    for path in [*library.zoo().values()][::9]:
        index = Document(path.as_uri(), path.read_text("utf-8")).index
        assert index is not None
        assert {offer for mention in index.mentions for offer, _ in mention.offers} <= set(OFFERS)


@pytest.mark.process
def test_over_the_protocol(tmp_path: Path) -> None:
    """Hover, completion and the documentation of an item reach an editor."""
    with Editor(tmp_path) as editor:
        editor.open("x.yaml", BLOCK)
        found = editor.ask("hover", "x.yaml", 5, 3)
        assert "a block of mine" in found["contents"]["value"]
        assert found["range"] == {"start": {"line": 5, "character": 2}, "end": {"line": 5, "character": 6}}
        items = {item["label"]: item for item in editor.ask("completion", "x.yaml", 14, 16)}
        item = editor.request("completionItem/resolve", **items["mine"])
        assert "a block of mine" in item["documentation"]["value"]
