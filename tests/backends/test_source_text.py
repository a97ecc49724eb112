"""The text that `--target source` writes: imports, length, tensors, and reports of tools."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import facts
import pytest
from differential import seeds
from generator import generate
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="the text is executed with torch: pip install 'rescompile[torch]'")

from sources import (
    empty,
    shapes,
    source,
    tensors_of,
    text_of,
)
from spec_texts import elaborated

from rescompile.passes import apply

Array = NDArray[Any]

#: Networks with more tensors are left out where every block has a class.
FLAT = 130


def has_flat(name: str) -> bool:
    """Return whether a network of the zoo is small enough for a text with a class for each block."""
    return facts.size(name)[2] <= FLAT


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the files of the whole zoo in both styles, and of the random specs, as they are and folded."""
    folder: Path = tmp_path_factory.mktemp("files")
    specs: Path = tmp_path_factory.mktemp("specs")
    for name in facts.zoo():
        (folder / f"{name}.py").write_text(text_of(name), encoding="utf-8")
        if has_flat(name):
            (folder / f"{name}_flat.py").write_text(source(facts.network(name), style="flat"), encoding="utf-8")
    for seed in seeds():
        network = elaborated(generate(seed).text, specs)
        folded, _ = apply(network, None, {"fold_batchnorm": True})
        for style, text in (
            ("", source(network)),
            ("_flat", source(network, style="flat")),
            ("_folded", source(folded)),
        ):
            (folder / f"random_{seed}{style}.py").write_text(text, encoding="utf-8")
    return folder


_SECOND = """
import hashlib, json, sys
from rescompile import backend, elaborate, load
write = backend.load("source").source
print(json.dumps({name: hashlib.sha256(write(elaborate(load(name))).encode()).hexdigest() for name in sys.argv[1:]}))
"""


@pytest.fixture(scope="module")
def started(files: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, subprocess.Popen[str]]:
    """Start slow processes together, so that they run during other tests: the tools, and a second process that writes
    the zoo with another hash seed."""
    cache = str(tmp_path_factory.mktemp("mypy"))
    commands = {
        "mypy": ["-m", "mypy", "--strict", "--config-file=", "--cache-dir", cache, "."],
        "again": ["-c", _SECOND, *facts.zoo()],
        "format": ["-m", "ruff", "format", "--isolated", "--no-cache", "--diff", "."],
        "check": ["-m", "ruff", "check", "--isolated", "--no-cache", "--output-format", "concise", "."],
    }
    return {
        name: subprocess.Popen(
            [sys.executable, *command],
            cwd=files,
            env={**os.environ, "PYTHONHASHSEED": "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for name, command in commands.items()
    }


ALLOWED = {
    "collections",
    "collections.abc",
    "contextlib",
    "math",
    "torch",
    "torch.nn.functional",
    "torch.utils.checkpoint",
}


@pytest.mark.parametrize("name", facts.zoo())
@pytest.mark.sampled(one_in=3)
def test_imports(name: str) -> None:
    """Files import torch and a few modules of Python, and run nothing but imports and definitions."""
    tree = ast.parse(text_of(name))
    assert ast.get_docstring(tree), "the file has no docstring"
    for statement in tree.body[1:]:
        if isinstance(statement, ast.Import):
            assert {alias.name for alias in statement.names} <= ALLOWED
        elif isinstance(statement, ast.ImportFrom):
            assert statement.module in ALLOWED
        else:
            assert isinstance(statement, ast.ClassDef | ast.FunctionDef)
    assert facts.network(name).sha256 in text_of(name)


@pytest.mark.usefixtures("started")
@pytest.mark.slow
def test_lines() -> None:
    """Files are as short as handwritten ones."""
    assert text_of("resnet50").count("\n") <= 130
    assert text_of("densenet121").count("\n") <= 120


@pytest.mark.parametrize(
    ("shallow", "deep"),
    [
        ("resnet50", "resnet152"),
        ("preact_resnet164_cifar", "preact_resnet1001_cifar"),
        ("resnet20_cifar", "resnet1202_cifar"),
        ("stochastic_depth_110", "stochastic_depth_1202"),
        ("densenet121", "densenet264"),
        ("densenet_40_k12_cifar", "densenet_100_k12_cifar"),
        ("highway_mnist_fc_10", "highway_mnist_fc_100"),
        ("plain18", "plain34"),
        ("wrn_22_10", "wrn_40_4"),
        ("preact_resnet50", "preact_resnet200"),
        ("plain_mnist_fc_10", "plain_mnist_fc_100"),
    ],
)
def test_depth_costs_no_lines(shallow: str, deep: str) -> None:
    """A deeper network differs in numbers and names only."""
    assert _code(text_of(shallow)) == _code(text_of(deep))


@pytest.mark.parametrize("form", ["a", "b"])
@pytest.mark.slow
def test_paths_cost_no_lines(form: str) -> None:
    """Copies side by side are written once: one loop makes them, and one calls them."""
    networks = (facts.network(name) for name in ("resnext50_32x4d", "resnext101_64x4d"))
    narrow, wide = (apply(network, None, {"form": form})[0] for network in networks)
    assert source(narrow).count("\n") <= 165
    assert _code(source(narrow)) == _code(source(wide))
    assert source(narrow, style="flat").count("\n") > 16 * 32


def _code(text: str) -> str:
    """Return the kinds of statements in their order, without docstrings, whose lines depend on the quoted reference,
    and without the line breaks of long names."""
    statements = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.stmt)]
    return " ".join(type(node).__name__ for node in statements)


@pytest.mark.parametrize("name", facts.zoo())
@pytest.mark.sampled(one_in=3)
def test_state_dict(name: str) -> None:
    """The state dict has the keys of the tree in its order, with its shapes."""
    network = facts.network(name)
    assert shapes(empty(text_of(name))) == tensors_of(network)


@pytest.mark.parametrize("name", [name for name in facts.zoo() if has_flat(name)])
@pytest.mark.sampled
def test_state_dict_of_flat_text(name: str) -> None:
    """The state dict is the same in the flat style, where each block has a class of its own, with numbers only."""
    text = source(facts.network(name), style="flat")
    assert shapes(empty(text)) == tensors_of(facts.network(name))
    assert not re.search(r"^def \w+_stage\(", text, re.MULTILINE)


def test_sizes_have_a_number_for_each_axis() -> None:
    """Sizes are typed with a number for each axis, because mypy refuses others for convolutions."""
    text = text_of("mc3_18")
    assert "conv_stride: tuple[int, int, int]" in text
    assert "tuple[int, ...]" not in text


@pytest.mark.parametrize("tool", ["format", "check", "mypy"])
@pytest.mark.slow
def test_tools_accept_all_files(tool: str, started: dict[str, subprocess.Popen[str]]) -> None:
    """All files are unchanged by `ruff format`, and clean under `ruff check` and `mypy --strict`."""
    output, _ = started[tool].communicate()
    assert started[tool].returncode == 0, output[-3000:]


@pytest.mark.slow
def test_text_is_reproducible(started: dict[str, subprocess.Popen[str]]) -> None:
    """A second process with another hash seed, which elaborates the networks again, writes the same text."""
    output, _ = started["again"].communicate()
    assert json.loads(output) == {name: hashlib.sha256(text_of(name).encode()).hexdigest() for name in facts.zoo()}
