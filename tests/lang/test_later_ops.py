"""Forward compatibility: a word added to format 1 later does not change specs that use it as a name.

Every spec here is elaborated as it is, and again after the word has become an op of each form, an attribute value, or a block.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from rescompile import elaborate, load
from rescompile.diagnostics.errors import SpecError
from rescompile.ir import ops
from rescompile.ir.names import RESERVED
from rescompile.ir.network import Network, Op, walk
from rescompile.lang import library
from rescompile.lang.json_schema import schema
from rescompile.lang.spec.values import TAKEN
from rescompile.records import record

#: The words of ops, attribute values and library blocks in the first release of format 1; new ones must be in `ops.LATER`.
FIRST_OPS = {
    "conv", "linear", "norm", "act", "maxpool", "avgpool", "global_avgpool", "adaptive_avgpool", "flatten", "dropout", "scale",
    "subsample", "upsample", "pad_channels", "identity", "relu", "sigmoid", "tanh", "leaky_relu", "elu", "relu6", "silu", "gelu",
    "gelu_tanh", "hardswish",
}  # fmt: skip
FIRST_WORDS = {
    "same", "torch_default", "he_normal_fan_out", "he_normal_fan_in", "batch", "group", "relu", "sigmoid", "tanh", "leaky_relu",
    "elu", "relu6", "silu", "gelu", "gelu_tanh", "hardswish", "nearest", "bilinear",
}  # fmt: skip
FIRST_BLOCKS = {
    "avgpool_pad", "avgpool_projection", "bare_projection", "basic", "basic_conv", "bottleneck", "cifar_stem",
    "classifier", "conv_classifier", "conv_norm_act", "darknet_basic", "darknet_bottleneck", "darknet_classifier",
    "darknet_conv", "darknet_dense", "darknet_resnet", "darknet_stage", "darknet_transition", "darknet_unit",
    "deep_stem", "dense_head", "dense_layer", "drn_unit", "exclusive_gate_basic", "googlenet_aux", "highway",
    "highway_fc", "imagenet_stem", "inception", "inception_a", "inception_aux", "inception_b", "inception_c",
    "inception_d", "inception_e", "norm_classifier", "pad", "plain_fc", "preact_basic", "preact_bottleneck",
    "projection", "projection_always", "scaled_basic", "separable_conv", "shortcut_gate_basic", "transition",
    "vgg_conv", "vgg_head", "vgg_stage", "wrn_conv", "wrn_projection", "wrn_unit",
}  # fmt: skip


@record(slots=False)
class Plain(ops.Kind):
    """An op without attributes."""

    word = "fresh"


@record(slots=False)
class Count(ops.Kind):
    """An op whose main value is a number or an expression."""

    word = "fresh"
    times: int = ops.attribute("int", "how often", 1, main=True)
    width: int = ops.attribute("int", "an attribute called like a parameter of a block", 1)


@record(slots=False)
class Sized(ops.Kind):
    """An op whose main value is a list."""

    word = "fresh"
    size: ops.Size = ops.attribute("size", "a size", main=True)


@record(slots=False)
class Worded(ops.Kind):
    """An op without a main attribute, whose attributes have the names of an op and of a block."""

    word = "fresh"
    scale: bool = ops.attribute("bool", "whether it scales", True)
    unit: str = ops.attribute("word", "a word", "map", words=("map", "channels"))


KINDS = (Plain, Count, Sized, Worded)
#: What a new word may be: an op (by form), an attribute value (None), or a library block.
CHANGES = (*KINDS, None, "library")
Grow = Callable[..., None]


@pytest.fixture
def grow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Grow]:
    """Return a function that adds words to format 1, `fresh` by default, as an op, an attribute value or a library block."""

    def add(kind: type[ops.Kind] | str | None = None, *words: str) -> None:
        _forget()
        words = words or ("fresh",)
        if kind == "library":
            listed = {**library.blocks(), **dict.fromkeys(words, library.blocks()["pad"])}
            monkeypatch.setattr(library, "blocks", lambda: listed)
        for word in words if kind not in (None, "library") else ():
            monkeypatch.setitem(ops.WORDS, word, (kind, {}))
        monkeypatch.setattr(ops, "LATER", frozenset(words))

    yield add
    _forget()


def _forget() -> None:
    for cached in (ops.attributes, ops.required, ops.main_attribute):
        cached.cache_clear()


HEAD = "rescompile: 1\nname: a\ninput: [4, 8, 8]\n"
UNIT = """
blocks:
  unit: {inline: true, parameters: {width: 4}, body: [conv: {channels: width, kernel: 1}]}
  user: {body: [norm]}
network:
"""
OWN = """
blocks:
  fresh: {parameters: {width: 4}, body: [conv: {channels: width, kernel: 1}]}
  user: {parameters: {shortcut: {default: fresh, type: block}}, body: [x: {block: shortcut}, y: {block: fresh, width: 8}]}
"""
#: Specs that use `fresh` as a name.
SPECS: dict[str, str] = {
    # a block of the spec
    "block": f"{OWN}network: [x: {{block: fresh, width: 8}}, y: fresh, user: {{block: user}}]",
    "bare word in a list": f"{OWN}network: [x: [fresh, fresh]]",
    "argument": f"{OWN}network: [x: {{block: user, shortcut: fresh}}]",
    "repeated": f"{OWN}network: [fresh: {{block: fresh, depth: 2, width: {{each: [2, 3]}}}}]",
    "block of the spec": f"{OWN}block: fresh\nnetwork: [fresh: {{depth: 2, width: 3}}, x: {{depth: 1}}]",
    "defaults": f"{OWN}defaults: {{fresh: {{width: index + 1}}}}\nblock: fresh\nnetwork: [fresh: {{depth: 3}}]",
    "block and step": f"{OWN}network: [fresh: fresh, f: [fresh: [conv: {{channels: 2, kernel: 1}}]]]",
    "set of a block": f"{OWN}network: [x: fresh, y: fresh]\nset: {{x.width: 3, y: {{block: fresh, width: 5}}}}",
    "set of a bare block": f"{OWN}defaults: {{fresh: {{width: 2}}}}\nnetwork: [x: [fresh]]\nset: {{x.fresh.width: 3}}",
    # a step
    "op": f"{UNIT}  - fresh: {{conv: {{channels: 2, kernel: 1}}}}",
    "word of an op": f"{UNIT}  - fresh: relu\n  - x: {{fresh: norm}}",
    "word of a block": f"{UNIT}  - fresh: transition\n  - x: {{fresh: user}}",
    "main value of an op": f"{UNIT}  - fresh: {{dropout: 0.5}}\n  - x: {{fresh: {{scale: 2}}}}",
    "op of the same attribute": f"{UNIT}  - fresh: {{scale: {{factor: 2}}}}",
    "list": f"{UNIT}  - fresh: [norm, relu]\n  - x: {{fresh: [a: norm, b: [relu]]}}\n  - y: {{fresh: []}}",
    "use": f"{UNIT}  - fresh: {{block: unit, width: 3}}\n  - x: {{fresh: {{block: unit, depth: 2}}}}",
    "row": f"block: basic{UNIT}  - fresh: {{depth: 2, width: 4}}",
    "merges": f"""{UNIT}
  - a: {{fresh: {{parallel: {{merge: add, branches: [identity, fresh: relu]}}}}}}
  - b: {{fresh: {{residual: {{branch: {{fresh: norm}}}}}}}}
  - fresh: {{side: {{body: {{linear_: flatten}}, output: o, mode: always}}}}
  - c: {{fresh: {{if: in_channels > 1, then: relu}}}}""",
    "nested names": f"{UNIT}  - fresh: {{width: relu}}\n  - x: {{fresh: {{unit: user}}}}",
    "in a block": """
blocks:
  user:
    parameters: {fresh: {default: unit, type: block}, width: {default: unit, type: block}, times: 2}
    body: [fresh: width, x: fresh, y: {block: fresh}, z: [fresh, fresh], v: {fresh: {unit: fresh}}]
  unit: {parameters: {fresh: 2}, let: {times: fresh * 2}, body: [conv: {channels: times, kernel: 1}]}
  choice: {parameters: {size: {one_of: [fresh, other]}}, body: [{if: size == fresh, then: relu}]}
network: [a: {block: user}, b: {block: choice, size: fresh}]""",
    "parameter": f"parameters: {{fresh: 2}}{UNIT}  - fresh: {{conv: {{channels: fresh, kernel: 1}}}}",
    "set of a step": f"{UNIT}  - fresh: {{conv: {{channels: 2, kernel: 1}}}}\nset: {{fresh.channels: 3}}",
    "set of a row": f"{UNIT}  - x: [fresh: relu]\n  - fresh: [a: norm]\nset: {{x.fresh: tanh, fresh.a.eps: 0.5}}",
    "set of a use": f"{UNIT}  - fresh: {{block: unit}}\nset: {{fresh.width: 2}}",
}  # fmt: skip
#: Invalid specs that use `fresh` as a name.
REFUSED: dict[str, str] = {
    "unknown argument": f"{OWN}network: [x: {{block: fresh, with: 8}}]",
    "block as a step's name": f"{OWN}network: [x: {{fresh: {{width: 8}}}}]",
    "argument of another type": f"{OWN}network: [x: {{block: user, shortcut: frsh}}, y: {{block: fresh, width: 0.5}}]",
    "defaults of a block": f"{OWN}defaults: {{fresh: {{times: 3}}}}\nnetwork: [x: fresh]",
    "defaults that are not a mapping": f"{OWN}defaults: {{fresh: 3}}\nnetwork: [x: fresh]",
    "unused": f"{OWN}defaults: {{fresh: {{width: 3}}}}\nnetwork: [relu]",
    "inside a step": f"{UNIT}  - fresh: {{conv: {{channels: 2, kernel: 2}}}}\n  - x: {{fresh: [conv: {{kernel: 1}}]}}",
    "twice": f"{UNIT}  - fresh: relu\n  - fresh: norm",
    "inside a step of a block": """
blocks:
  user: {parameters: {kernel: 2}, body: [fresh: {conv: {channels: 2, kernel: kernel}}]}
network: [x: {block: user}]""",
}


def network(text: str, folder: Path, *settings: str) -> Network:
    """Return the network of a spec."""
    path = folder / "spec.yaml"
    path.write_text(HEAD + text, "utf-8")
    return elaborate(load(path, settings))


def refused(text: str, folder: Path) -> list[str]:
    """Return the messages of an invalid spec."""
    with pytest.raises(SpecError) as caught:
        network(text, folder)
    return [f"{d.place} {d.code} {d.message} {d.help} {d.notes}" for d in caught.value.diagnostics]


@pytest.mark.parametrize("kind", CHANGES)
def test_specs_keep_their_meaning(kind: type[ops.Kind] | str | None, grow: Grow, tmp_path: Path) -> None:
    """The tree, canonical text and hash of every spec are unchanged, also those of the canonical text."""
    before = {name: network(text, tmp_path) for name, text in SPECS.items()}
    grow(kind)
    for name, expected in before.items():
        found = network(SPECS[name], tmp_path)
        assert (found.text, found.sha256, found.root) == (expected.text, expected.sha256, expected.root), name
        (tmp_path / "canonical.yaml").write_text(found.text)
        again = elaborate(load(tmp_path / "canonical.yaml"))
        assert (again.text, again.root) == (expected.text, expected.root), name


@pytest.mark.parametrize("kind", CHANGES)
@pytest.mark.parametrize("name", ["googlenet", "densenet121", "wrn18_2_imagenet", "drn_d_22", "resnext50_32x4d"])
def test_the_zoo_keeps_its_meaning(name: str, kind: type[ops.Kind] | str | None, grow: Grow) -> None:
    """The tree and text of a zoo network are unchanged if every key of its spec and blocks becomes a later word."""
    expected = elaborate(load(name))
    keys = set(re.findall(r"([A-Za-z_]\w*):", expected.text))
    grow(kind, *(keys - ops.WORDS.keys() - RESERVED - library.blocks().keys()))
    assert len(ops.LATER) > 10
    found = elaborate(load(name))
    assert (found.text, found.root) == (expected.text, expected.root)


@pytest.mark.parametrize("kind", CHANGES)
def test_messages_are_unchanged(kind: type[ops.Kind] | str | None, grow: Grow, tmp_path: Path) -> None:
    """The messages of every invalid spec are unchanged."""
    before = {name: refused(text, tmp_path) for name, text in REFUSED.items()}
    grow(kind)
    assert {name: refused(text, tmp_path) for name, text in REFUSED.items()} == before


@pytest.mark.parametrize("kind", CHANGES)
def test_blocks_of_bases_and_settings(kind: type[ops.Kind] | str | None, grow: Grow, tmp_path: Path) -> None:
    """Blocks inherited from a base, and paths of `--set` with the word, keep their meaning."""
    (tmp_path / "base.yaml").write_text(HEAD + OWN + "network: [fresh: fresh, x: [fresh]]\nset: {fresh.width: 3}")
    child = "rescompile: 1\nname: a\nextends: base.yaml\n"
    changes = [
        (child + "set: {x: {block: fresh, width: 7}}", ()),
        (child + "network: [x: {block: fresh}]\ndefaults: {fresh: {width: 2}}", ("x.width=5",)),
        (child + "network: [a: fresh, b: fresh]", ("a={block: fresh, width: 5}", "b.width=2", "defaults.fresh.width=6")),
        (child + "blocks: {fresh: {parameters: {width: 2}, body: [relu]}}", ("x.fresh.width=9",)),
    ]  # fmt: skip

    def networks() -> Iterator[Any]:
        for text, settings in changes:
            (tmp_path / "child.yaml").write_text(text)
            found = elaborate(load(tmp_path / "child.yaml", settings))
            yield found.text, found.root

    before = list(networks())
    grow(kind)
    assert list(networks()) == before


def kinds(found: Network) -> list[ops.Kind]:
    """Return the ops of a network, without convolutions."""
    return [node.kind for _, node in walk(found.root) if isinstance(node, Op) and not isinstance(node.kind, ops.Conv)]


#: Rows that use the new op, by its form, with the resulting op.
ROWS: dict[type[ops.Kind], dict[str, ops.Kind]] = {
    Plain: {"fresh": Plain(), "fresh: {when: k > 1}": Plain(), "fresh: {}": Plain(), "x: {fresh: {when: true}}": Plain()},
    Count: {
        "fresh": Count(), "fresh: 3": Count(3), "fresh: k": Count(2), "x: {fresh: 2 * k}": Count(4), "fresh: {times: k}": Count(2),
        "fresh: {width: 2}": Count(1, 2), "fresh: {width: 2, times: 3}": Count(3, 2), "x: {fresh: {width: k}}": Count(1, 2),
    },
    Sized: {"fresh: 2": Sized((2, 2)), "fresh: [k, 1]": Sized((2, 1)), "fresh: {size: [1, 2]}": Sized((1, 2))},
    Worded: {
        "fresh": Worded(), "fresh: {scale: false}": Worded(False), "fresh: {unit: channels}": Worded(True, "channels"),
        "x: {fresh: {unit: channels, scale: false}}": Worded(False, "channels"),
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_the_new_op_can_be_used(kind: type[ops.Kind], grow: Grow, tmp_path: Path) -> None:
    """If the spec does not use the word as a name, it is the op, in rows, blocks, defaults and `--set`."""
    grow(kind)
    for row, expected in ROWS[kind].items():
        rows = f"[{row}]" if "{" in row or ":" not in row else f"[{{{row}}}]"
        assert kinds(network(f"parameters: {{k: 2}}\nnetwork: [norm, dropout: k / 4, x_: {rows}]", tmp_path))[2:] == [
            expected
        ]
        block = f"blocks: {{b: {{parameters: {{k: 2}}, body: {rows}}}}}\nnetwork: [x_: {{block: b}}]"
        assert kinds(network(block, tmp_path)) == [expected]
    name = next(iter(ops.attributes("fresh")), None)
    if name is not None:
        value: Any = {"scale": "false", "unit": "channels"}.get(name, "7")
        first = "{fresh: 2}" if kind is Sized else "fresh"
        network(f"defaults: {{fresh: {{{name}: {value}}}}}\nnetwork: [{first}]", tmp_path)
        found = kinds(network(f"network: [x: [{first}]]", tmp_path, f"x.fresh.{name}={value}"))
        assert found[0] == kind(**{name: {"7": 7, "false": False}[value] if kind is not Sized else (7, 7)})


def test_mistakes_with_a_later_op(grow: Grow, tmp_path: Path) -> None:
    """A value that is neither a valid step nor a valid value of the op is reported as the likelier of the two."""
    grow(Count)
    for row, code, message in (
        ("fresh: {tiems: 2}", "E0402", "fresh has no attribute 'tiems'"),
        ("fresh: {cnov: {channels: 2}}", "E0110", "unknown op 'cnov'"),
        ("fresh: [relu, rleu]", "E0401", "unknown op or block 'rleu'"),
        ("fresh: 0.5", "E0304", "fresh.times must be an integer"),
        ("fresh: {times: 2, block: relu}", "E0401", "'relu' is an op"),
    ):
        assert f" {code} {message}" in refused(f"network: [{{{row}}}]", tmp_path)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_the_json_schema_accepts_both_uses(kind: type[ops.Kind], grow: Grow) -> None:
    """The JSON Schema accepts the word both as an op and as a name."""
    import yaml

    grow(kind)
    checker = jsonschema.Draft7Validator(schema())
    rows = [yaml.safe_load(row if "{" in row else f"{{{row}}}") if ":" in row else row for row in ROWS[kind]]
    specs = [{**yaml.safe_load(HEAD), "network": rows}, *(yaml.safe_load(HEAD + text) for text in SPECS.values())]
    assert [error.message for spec in specs for error in checker.iter_errors(spec)] == []


# --- words of values --------------------------------------------------------------------------------------------------


def test_new_words_are_listed_as_later() -> None:
    """Every word since the first release is in `ops.LATER`, so that no spec changes its meaning."""
    assert ops.WORDS.keys() - ops.LATER == FIRST_OPS
    taken = {word for op in ops.WORDS for facts in ops.attributes(op).values() for word in facts.words}
    assert taken - ops.LATER == FIRST_WORDS
    assert library.blocks().keys() - ops.LATER == FIRST_BLOCKS
    assert not TAKEN & taken


@pytest.mark.parametrize("word", ["identity", "flatten", "global_avgpool"])
@pytest.mark.parametrize("step", ["norm", "{conv: {channels: 4, kernel: 1}}", "[norm, relu]", "{block: unit}", "unit"])
def test_an_op_without_attributes_names_a_step(word: str, step: str, tmp_path: Path) -> None:
    """The word of an op without attributes can name a step, as in timm's RepVGG, where `identity` names a norm."""
    text = "blocks: {unit: {body: [b: norm]}}\nnetwork: [x: [NAME: STEP, NAME2: identity]]".replace("STEP", step)
    named, other = (network(text.replace("NAME", name), tmp_path) for name in (word, "other"))
    paths = [path.replace("other", word) for path, _ in walk(other.root)]
    assert [path for path, _ in walk(named.root)] == paths
    assert f"x.{word}" in {".".join(path.split(".")[:2]) for path in paths}


@pytest.mark.parametrize("value", ["{when: 1 > 2}", "{of: 3}", "3", "true", "{kind: batch}"])
def test_such_a_word_with_other_values_is_the_op(value: str, tmp_path: Path) -> None:
    """With `when` the word is still the op, and other values are errors of an op without attributes."""
    text = f"network: [norm, identity: {value}]"
    if "when" in value:
        assert len(list(walk(network(text, tmp_path).root))) == len(
            list(walk(network("network: [norm]", tmp_path).root))
        )
    else:
        assert refused(text, tmp_path)[0].split()[1] in ("E0104", "E0402")


@pytest.mark.parametrize("word", sorted({*FIRST_WORDS, "first", "rest", "each", "floor", "map", "size", "channels"}))
def test_words_of_values_can_be_names(word: str, tmp_path: Path) -> None:
    """As a parameter, let, step or block, such a word means the same as any other name."""
    text = """
parameters: {NAME: 2}
defaults: {conv: {kernel: NAME - 1}}
blocks:
  unit: {parameters: {NAME: int}, body: [conv: {channels: NAME, kernel: 1}, x: {block: let, NAME: NAME + 1}]}
  let: {parameters: {NAME: 1}, let: {other: NAME}, body: ["s{NAME}": {conv: {channels: other, kernel: 1}}]}
  lets: {let: {NAME: in_channels + 1}, body: [conv: {channels: NAME, kernel: NAME - 3}]}
  OWN: {inline: true, parameters: {NAME: 1}, body: [relu]}
network:
  - row: {block: unit, depth: 2, NAME: {first: NAME, rest: 3}}
  - both: {block: unit, depth: 2, NAME: {each: [NAME, 3]}}
  - STEP: {conv: {channels: NAME, padding: 0}}
  - last: [{block: lets}, {block: OWN, NAME: NAME}]
set: {row.NAME: NAME, STEP.channels: NAME + 1}
"""
    own = "own" if word in ops.WORDS else word
    step = "step" if word in ops.WORDS else word

    def found(name: str, block: str, step: str) -> Any:
        made = network(text.replace("NAME", name).replace("OWN", block).replace("STEP", step), tmp_path)
        return [
            (["-" if part in (block, step) else part for part in path.split(".")], getattr(node, "kind", None))
            for path, node in walk(made.root)
        ]

    assert found(word, own, step) == found("qqq", "zzz", "yyy")


def test_a_later_word_of_an_attribute(grow: Grow, tmp_path: Path) -> None:
    """A name in scope takes precedence over a later word of an attribute; with a word of the first release it is ambiguous."""
    text = "parameters: {reflect: 1}\nnetwork: [conv: {channels: 2, kernel: 3, padding: reflect}]"
    before = network(text, tmp_path)
    facts = ops.attributes("conv")
    object.__setattr__(facts["padding"], "words", ("same", "reflect"))
    try:
        grow(None, "reflect")
        facts_now = ops.attributes("conv")
        assert "reflect" in facts_now["padding"].words
        found = network(text, tmp_path)
        assert (found.root, found.text) == (before.root, before.text)
        grow(None, "other")
        assert " E0310 'reflect' is ambiguous" in refused(text, tmp_path)[0]
    finally:
        object.__setattr__(facts["padding"], "words", ("same",))


def test_a_later_block_of_the_library(grow: Grow, tmp_path: Path) -> None:
    """A spec that uses a later library block contains it in its canonical text, which gives the same network."""
    grow("library")
    text = "network: [x: {block: fresh, channels: 8, stride: 2}, {if: in_channels < 8, then: {block: fresh, channels: 9, stride: 1}}]"
    found = network(text, tmp_path)
    assert "\n  fresh:\n" in found.text
    (tmp_path / "canonical.yaml").write_text(found.text)
    again = elaborate(load(tmp_path / "canonical.yaml"))
    assert (again.text, again.root) == (found.text, found.root)
