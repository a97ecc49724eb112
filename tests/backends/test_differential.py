"""Random valid specs: the ONNX file in ONNX Runtime against the interpreter of the tree in float64.

A small sample runs with the other tests. Many more, or some that failed:

    RESCOMPILE_RANDOM=1000 pytest tests/backends/test_differential.py        # seeds 0 to 999
    RESCOMPILE_RANDOM=235,1112 pytest tests/backends/test_differential.py    # these seeds

`differential.py` says how far an output may be off.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import yaml
from differential import OPSETS, SAMPLE, compare, prepared, seeds
from generator import generate, written
from numpy.typing import NDArray

import rescompile
from rescompile import backend
from rescompile.ir import ops
from rescompile.ir.network import Mode, Network, Node, Op, Parallel, Series, Side, parameters, walk
from rescompile.ir.ops import KINDS, LATER

Array = NDArray[Any]


def remade(data: bytes, folder: Path, **options: Any) -> bytes:
    """The file built again from what it records of itself: its canonical spec and its passes."""
    (folder / "model.onnx").write_bytes(data)
    recorded = backend.extract(folder / "model.onnx")
    assert recorded is not None
    (folder / "extracted.yaml").write_text(recorded.text, encoding="utf-8")
    passes = {name.replace("-", "_"): True for name in recorded.passes}
    return rescompile.build(rescompile.load(folder / "extracted.yaml"), "onnx", **passes, **options).to_bytes()


# --- the sample -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("axes", "seed"), [(2, seed) for seed in seeds()] + [(n, seed) for n in (1, 3) for seed in range(12)]
)
def test_random_network(axes: int, seed: int, tmp_path: Path) -> None:
    """Valid, with the outputs that its text means; its ONNX agrees with the interpreter, folded or not."""
    generated = generate(seed, seed % 4 == 3, axes)
    path = tmp_path / f"random_{seed}.yaml"
    path.write_text(generated.text, encoding="utf-8")
    case = prepared(path, seed)
    assert dict(case.network.outputs) == generated.outputs
    if generated.parameters is not None:
        assert sum(parameter.size for _, parameter in parameters(case.network)) == generated.parameters
    assert all(np.isfinite(values).all() for values in case.wanted.values())
    opset = OPSETS[seed % len(OPSETS)]
    compare(case, opset=opset)
    compare(case, opset=opset, fold_batchnorm=True)


@pytest.mark.slow
def test_the_bound_is_tight(tmp_path: Path) -> None:
    """What rounding excuses is far below what any mistake makes: else the comparison would prove nothing."""
    allowed: list[float] = []
    for seed in range(SAMPLE):
        path = tmp_path / f"random_{seed}.yaml"
        path.write_text(generate(seed).text, encoding="utf-8")
        case = prepared(path, seed)
        allowed += [case.allowed(name) for name in case.wanted]
    assert np.median(allowed) < 2e-6
    assert max(allowed) < 1e-3


@pytest.mark.parametrize("seed", seeds())
@pytest.mark.slow
def test_canonical_text_gives_the_same_bytes(seed: int, tmp_path: Path) -> None:
    """`extract`, then `build` with the recorded passes: drawn weights included, for every construct of the language."""
    path = tmp_path / f"random_{seed}.yaml"
    path.write_text(generate(seed).text, encoding="utf-8")
    spec, options = rescompile.load(path), {"seed": seed, "opset": OPSETS[seed % len(OPSETS)]}
    for passes in ({}, {"fold_batchnorm": True}):
        data = rescompile.build(spec, "onnx", **passes, **options).to_bytes()
        assert remade(data, tmp_path, **options) == data


def test_every_pool(tmp_path: Path) -> None:
    """Each pool on an odd and an even map side: every padding, stride and rounding, each axis with its own."""
    windows = itertools.product([[3, 3], [2, 3], [4, 2]], [[1, 1], [2, 3], [3, 2]], [[0, 0], [1, 0], [0, 1], [1, 1]])
    pools = [
        {word: {"kernel": kernel, "stride": stride, "padding": padding, "ceil": ceil, **counted}}
        for kernel, stride, padding in windows
        for ceil in (False, True)
        for word, counted in (("maxpool", {}), ("avgpool", {}), ("avgpool", {"count_pad": False}))
    ]
    sides = [{"side": {"body": pool, "output": f"out{at}", "mode": "always"}} for at, pool in enumerate(pools)]
    path = tmp_path / "pools.yaml"
    document = {"rescompile": 1, "name": "pools", "input": [2, 9, 8], "network": [*sides, "identity"]}
    path.write_text(written(document), encoding="utf-8")
    case = prepared(path, 0)
    assert len(case.wanted) == 1 + 216
    compare(case)


# --- the generator ----------------------------------------------------------------------------------------------------


def test_a_seed_gives_one_text() -> None:
    """Always the same for one seed, so that a failure can be looked into, and another for every other."""
    texts = [generate(seed).text for seed in range(SAMPLE)]
    assert texts == [generate(seed).text for seed in range(SAMPLE)]
    assert len(set(texts)) == SAMPLE


@cache
def sample() -> tuple[tuple[Any, Network], ...]:
    """The documents of the small sample and their trees."""
    with tempfile.TemporaryDirectory() as folder:
        pairs = []
        for seed in range(SAMPLE):
            path = Path(folder) / f"{seed}.yaml"
            path.write_text(generate(seed).text, encoding="utf-8")
            pairs.append(
                (yaml.safe_load(path.read_text(encoding="utf-8")), rescompile.elaborate(rescompile.load(path)))
            )
    return tuple(pairs)


def nodes() -> Iterator[Node]:
    """Every node of the sample's trees."""
    for _, network in sample():
        for _, node in walk(network.root):
            yield node


def test_the_sample_reaches_every_op_and_attribute() -> None:
    """Every op; every attribute at its default and elsewhere, numbers with two values beside, pairs that are uneven."""
    found: dict[tuple[str, str], set[Any]] = {}
    for node in nodes():
        if isinstance(node, Op):
            for attribute in fields(node.kind):  # type: ignore[arg-type]
                found.setdefault((node.kind.word, attribute.name), set()).add(getattr(node.kind, attribute.name))
            found.setdefault((node.kind.word, ""), set())
    first = [kind for kind in KINDS if kind.word not in LATER]  # later ones: tests/trust and test_ops.py
    assert {word for word, _ in found} == {kind.word for kind in first}
    for kind in first:
        for attribute in fields(kind):  # type: ignore[arg-type]
            values, facts = found[kind.word, attribute.name], attribute.metadata["attribute"]
            if attribute.name == "init_scale":  # of initial values alone: tests/weights/test_fixup.py
                continue
            if facts.only and LATER.issuperset(facts.only):
                continue
            least = len(set(facts.words) - LATER) if facts.type == "word" else 2
            assert len(values) >= least, f"{kind.word}.{attribute.name} is {values} everywhere"
            if facts.type == "size":
                assert any(height != width for height, width in values), f"{kind.word}.{attribute.name} is never uneven"
            if attribute.default not in (MISSING, None) and facts.type != "size":
                assert attribute.default in values, f"{kind.word}.{attribute.name} is never {attribute.default}"
    assert any(node.input[0] % 2 and min(node.input[1:]) > 4 for node in nodes() if len(node.input) == 3)


def test_the_sample_reaches_every_combinator() -> None:
    """Every merge, residual or not, and of parts of the channels; every kind of side branch; every survival schedule with every way to rescale."""
    merges = {(node.merge, node.residual) for node in nodes() if isinstance(node, Parallel)}
    assert merges == {("add", True), ("gate", True), ("add", False), ("concat", False), ("mul", False)}
    assert {n.merge for n in nodes() if isinstance(n, Parallel) and n.split and len(n.branches) > 1} == {
        "add",
        "concat",
    }
    assert {node.mode for node in nodes() if isinstance(node, Side)} == set(get_args(Mode))
    kept = {n.survival for n in nodes() if isinstance(n, Parallel) and n.survival}
    assert {(survival.unit, survival.rescale) for survival in kept} == set(
        itertools.product(("batch", "sample"), ("test", "train"))
    )
    schedules = [document["survival"]["schedule"] for document, _ in sample() if "survival" in document]
    assert {"each" if isinstance(schedule, dict) else schedule for schedule in schedules} == {
        "each", "linear", "linear_zero_based", "uniform",
    }  # fmt: skip
    assert any(node.survival and node.merge == "gate" for node in nodes() if isinstance(node, Parallel))
    ranks = {len(network.root.output) for _, network in sample()}
    assert ranks == {1, 3}, "linear heads, and outputs that are maps"
    assert {len(network.input) for _, network in sample()} == {1, 3}


def test_the_sample_reaches_every_form_of_the_language() -> None:
    """Every form of a step, and every form of a value per block, in a place that the network really goes through."""
    forms: set[str] = set()
    for document, network in sample():
        forms |= set(_Forms(document, network).all())
    assert forms == FORMS, f"missing {sorted(FORMS - forms)}, unknown {sorted(forms - FORMS)}"


FORMS = {
    *(f"op {word}" for word in ops.WORDS if word not in ops.LATER),  # later ones: tests/trust and test_ops.py
    *("bare word", "attributes", "main value", "name", "numbered list", "group", "when on an op", "when on a block"),
    *("then", "else", "branches", "copies", "side without a name", "side with a name"),
    *("identity shortcut", "shortcut", "no shortcut", "gate", "gate and shortcut", "library shortcut"),
    *("block of the spec", "block of the library", "block once", "block with depth", "block by name", "spec's block"),
    *("members of the row", "members of the block", "inline", "stage", "let", "when of a block", "name template"),
    *("type int", "type real", "type bool", "type list", "type block", "type size", "one_of", "default expression"),
    *("only first", "only first, yet each", "each in a row", "first and rest in a row", "first and rest of an op"),
    *("list in a row", "expression in a row", "list of an op", "expression of an op", "when per copy"),
    *("defaults of an op", "defaults of a block", "first and rest in defaults", "parameters", "features", "init"),
}


class _Forms:
    """The forms of a document that its tree was made from: a step counts if a node has its origin in it."""

    def __init__(self, document: Any, network: Network) -> None:
        self.document = document
        self.blocks = document.get("blocks", {})
        self.gone_through: set[str] = set()
        for _, node in walk(network.root):
            if isinstance(node, Op | Series | Parallel | Side) and node.origin is not None:
                steps = node.origin.path.split(".")
                self.gone_through |= {".".join(steps[:length]) for length in range(1, len(steps) + 1)}
        self.used = {node.call.block for _, node in walk(network.root) if isinstance(node, Series) and node.call}

    def all(self) -> Iterator[str]:
        yield from (key for key in ("parameters", "features", "init") if key in self.document)
        for word, given in self.document.get("defaults", {}).items():
            yield "defaults of an op" if word in ops.WORDS else "defaults of a block"
            yield from ("first and rest in defaults" for item in given.values() if isinstance(item, dict))
        for at, step in enumerate(self.document["network"]):
            yield from self.step(step, f"network.{at}")
        for word, block in self.blocks.items():
            if word not in self.used:
                continue
            yield from (key for key in ("inline", "stage", "let") if key in block)
            yield from (form for key, form in _OF_A_BLOCK.items() if key in block)
            for definition in block.get("parameters", {}).values():
                yield from self.parameter(definition)
            for at, step in enumerate(block["body"]):
                yield from self.step(step, f"blocks.{word}.body.{at}")

    def parameter(self, definition: Any) -> Iterator[str]:
        facts = definition if isinstance(definition, dict) else {"default": definition}
        if definition in ("int", "real", "bool", "list", "block", "size"):
            facts = {"type": definition}
        default = facts.get("default")
        kinds = {bool: "bool", int: "int", float: "real", list: "list"}
        if kind := facts.get("type") or kinds.get(type(default)):
            yield f"type {kind}"
        if isinstance(default, str) and "one_of" not in facts and facts.get("type") != "block":
            yield "default expression"
        yield from (form for key, form in (("only", "only first"), ("one_of", "one_of")) if key in facts)

    def step(self, step: Any, path: str) -> Iterator[str]:
        if path not in self.gone_through:
            return
        if isinstance(step, str):
            yield from ("bare word", f"op {step}") if step in ops.WORDS else ()
        elif isinstance(step, list):
            yield "group"
            yield from self.each(step, path)
        elif "block" in step:
            yield from self.use(step, path)
        elif "if" in step:
            yield from ("then", *self.step(step["then"], f"{path}.then")) if f"{path}.then" in self.gone_through else ()
            yield from ("else", *self.step(step["else"], f"{path}.else")) if f"{path}.else" in self.gone_through else ()
        else:
            ((key, value),) = step.items()
            yield from self.keyed(key, value, f"{path}.{key}")

    def each(self, steps: list[Any], path: str) -> Iterator[str]:
        for at, step in enumerate(steps):
            yield from self.step(step, f"{path}.{at}")

    def keyed(self, key: str, value: Any, path: str) -> Iterator[str]:
        if key in ops.WORDS:
            yield from self.op(key, value)
        elif key == "residual":
            yield from self.residual(value, path)
        elif key == "parallel":
            yield "copies" if "copies" in value else "branches"
            yield from self.each(value.get("branches", []), f"{path}.branches")
            yield from self.step(value["branch"], f"{path}.branch") if "branch" in value else ()
        elif key == "side":
            yield "side without a name"
            yield from self.step(value["body"], f"{path}.body")
        else:
            yield "name template" if "{" in key else "name"
            if isinstance(value, list):
                yield "numbered list"
                yield from self.each(value, path)
            elif isinstance(value, dict) and {"block", "depth"} & value.keys():
                yield from self.use(value, path)
            elif isinstance(value, dict) and "side" in value:
                yield from ("side with a name", *self.step(value["side"]["body"], f"{path}.side.body"))
            else:
                yield from self.step(value, path)

    def op(self, word: str, value: Any) -> Iterator[str]:
        yield from (f"op {word}", "attributes" if isinstance(value, dict) else "main value")
        given = value if isinstance(value, dict) else {"": value}
        yield from ("when on an op" for key in given if key == "when")
        for key, item in given.items():
            if isinstance(item, dict):
                yield "first and rest of an op"
            elif isinstance(item, list):
                yield "list of an op"
            elif isinstance(item, str) and key != "when" and " " in item:
                yield "expression of an op"

    def residual(self, parts: Any, path: str) -> Iterator[str]:
        yield from self.step(parts["branch"], f"{path}.branch")
        shortcut = parts.get("shortcut", "identity")
        if "gate" in parts:
            yield "gate" if shortcut == "identity" else "gate and shortcut"
            yield from self.step(parts["gate"], f"{path}.gate")
        elif shortcut == "none":
            yield "no shortcut"
        elif shortcut == "identity":
            yield "identity shortcut"
        else:
            yield "library shortcut" if "block" in shortcut else "shortcut"
            if "block" not in shortcut:
                yield from self.step(shortcut, f"{path}.shortcut")

    def use(self, use: Any, path: str) -> Iterator[str]:
        if path not in self.gone_through:
            return
        word = use.get("block", self.document.get("block"))
        yield "block of the spec" if word in self.blocks else "block of the library"
        yield "block with depth" if "depth" in use else "block once"
        if "when" in use:
            yield "when per copy" if "index" in str(use["when"]) else "when on a block"
        yield from (form for key, form in (("name", "block by name"), ("members", "members of the row")) if key in use)
        if "block" not in use:
            yield "spec's block"
        parameters = self.blocks.get(word, {}).get("parameters", {})
        for key, item in use.items():
            if isinstance(item, dict):
                yield "each in a row" if "each" in item else "first and rest in a row"
                if "each" in item and "only" in str(parameters.get(key)):
                    yield "only first, yet each"
            elif isinstance(item, list):
                yield "list in a row"
            elif isinstance(item, str) and " " in item and key != "when":
                yield "expression in a row"


_OF_A_BLOCK = {"members": "members of the block", "when": "when of a block"}
