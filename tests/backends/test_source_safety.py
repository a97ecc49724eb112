"""No spec can inject code into generated source, and the check of the finished text refuses all that is not needed."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import facts
import pytest
from generator import written
from hostile import harmless, hostile
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="the text is executed with torch: pip install 'rescompile[torch]'")

from sources import (
    empty,
    shapes,
    skeleton,
    source,
    tensors_of,
)
from spec_texts import elaborated

from rescompile.diagnostics.errors import SpecError, UsageError
from rescompile.ir.network import Op, Parallel, Series

Array = NDArray[Any]
checking: Any = import_module("rescompile.codegen.allow_list")
OF_TORCH: Any = import_module("rescompile.backends.torch.allowed").ALLOWED
HOSTILE = 1_000


@cache
def peaceful(folder: Path) -> str:
    """Return the skeleton of the source of the document with harmless words."""
    return skeleton(source(elaborated(written(harmless()), folder)))


@pytest.mark.parametrize("seeds", [range(at, at + 50) for at in range(0, HOSTILE, 50)], ids=str)
@pytest.mark.slow
def test_hostile_words(seeds: range, tmp_path: Path) -> None:
    """Hostile words are refused with a diagnostic, or the file has the program of harmless words, passes its check, and runs."""
    for seed in seeds:
        case = hostile(seed)
        try:
            name = re.sub(r"[/\0]", "_", case.words.get("file", "spec"))[:60] or "spec"
            network = elaborated(json.dumps(case.document, ensure_ascii=False), tmp_path, name)
        except (SpecError, UsageError):
            continue
        text = source(network)
        assert skeleton(text) == peaceful(tmp_path), f"case {seed}: {case.words} changes what the file does"
        assert shapes(empty(text)) == tensors_of(network), f"case {seed}: {case.words}"


def test_hostile_cases_are_both_refused_and_accepted(tmp_path: Path) -> None:
    """The hostile sample contains refused and accepted cases, and few duplicates."""
    accepted = 0
    for seed in range(200):
        try:
            elaborated(json.dumps(hostile(seed).document, ensure_ascii=False), tmp_path)
            accepted += 1
        except (SpecError, UsageError):
            pass
    assert 40 <= accepted <= 160
    assert len({json.dumps(hostile(seed).document) for seed in range(200)}) > 180


BREAKERS = (
    'a"""\nimport os\n"""', "\\", '"', "'", "x\ny", "os; import os", "__import__('os')", "x)\n        eval('1'", "eval", "_x", "a b", "é",
    "{x}", "", "F", "nn", "self",
)  # fmt: skip


@pytest.mark.parametrize("place", ["network", "step", "block", "doc", "reference", "sha256", "output", "argument"])
@pytest.mark.parametrize("word", BREAKERS)
@pytest.mark.slow
def test_hostile_tree(place: str, word: str, tmp_path: Path) -> None:
    """A tree that no spec could give is refused by the last check, or its file is harmless."""
    network = elaborated(written(harmless()), tmp_path)

    def spoiled(node: Any) -> Any:
        changes: dict[str, Any] = {}
        if isinstance(node, Op) and place == "step" and node.name == "conv1":
            changes["name"] = word
        if isinstance(node, Series):
            changes["children"] = tuple(spoiled(child) for child in node.children)
            if node.call and node.call.block == "unit":
                call = node.call
                if place == "block":
                    call = replace(call, block=word)
                if place == "argument":
                    call = replace(call, arguments={word if k == "slope" else k: v for k, v in call.arguments.items()})
                changes["call"] = call
        if isinstance(node, Parallel):
            changes["branches"] = tuple(spoiled(branch) for branch in node.branches)
        if hasattr(node, "child"):
            changes["child"] = spoiled(node.child)
            if place == "output" and node.output_name == "out":
                changes["output_name"] = word
        return replace(node, **changes)

    changes: dict[str, Any] = {"root": spoiled(network.root)}
    if place in ("network", "reference", "sha256"):
        changes["name" if place == "network" else place] = word
    unit = network.definitions["unit"]
    if place == "doc":
        changes["definitions"] = {**network.definitions, "unit": replace(unit, doc=word, reference=word)}
    if place == "block":
        changes["definitions"] = {word: unit}
    if place == "argument":
        given = {word if name == "slope" else name: value for name, value in unit.parameters.items()}
        changes["definitions"] = {**network.definitions, "unit": replace(unit, parameters=given)}
    try:
        text = source(replace(network, **changes))
    except (checking.Refused, SyntaxError, ValueError, AssertionError):
        return
    tree = ast.parse(text)
    calls = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not calls & {"eval", "exec", "open", "compile", "__import__"}
    assert not re.search(r"^\s*(import|from) os", text, re.MULTILINE) or "import os" in str(ast.get_docstring(tree))
    assert {type(node) for node in tree.body} <= {ast.Expr, ast.Import, ast.ImportFrom, ast.ClassDef, ast.FunctionDef}
    assert sum(isinstance(node, ast.Expr) for node in tree.body) == 1


HEAD = "import torch\nimport torch.nn.functional as F\nfrom torch import Tensor, nn\n\n\n"


@pytest.mark.parametrize(
    "attack",
    [
        "import os",
        "import torch.hub",
        "import torch as nn",
        "import torch.nn.functional as getattr",
        "from os import system",
        "from torch import hub",
        "from torch import nn as F",
        "from . import nn",
        "from torch import *",
        "eval('1')",
        "exec('1')",
        "open('/etc/passwd')",
        "print('x')",
        "__import__('os')",
        "breakpoint()",
        "globals()",
        "x = __builtins__",
        "x = ().__class__",
        "x = nn.Module.__subclasses__()",
        "nn._x",
        "F.__dict__",
        "getattr(nn, 'Module')",
        "getattr(nn, '__class__')",
        "getattr(nn, '1', 2)",
        "getattr(nn, name='1')",
        "index = '__class__'\ngetattr(nn, f'{index}')",
        "x = 1\ngetattr(nn, f'{x:d}')",
        "setattr(nn, 'x', 1)",
        "delattr(nn, 'x')",
        "vars(nn)",
        "type('x', (), {})",
        "@eval\ndef f() -> None:\n    return None",
        "@torch.hub.load\nclass A(nn.Module):\n    x = 1",
        "@(lambda f: f)\ndef f() -> None:\n    return None",
        "def eval(x: int) -> int:\n    return x",
        "def super() -> int:\n    return 1",
        "class nn:\n    x = 1",
        "class _A(nn.Module):\n    x = 1",
        "def _f() -> None:\n    return None",
        "def f(getattr: int) -> int:\n    return getattr",
        "def f(__x: int) -> int:\n    return __x",
        "lambda: eval",
        "(lambda open: open)('/etc/passwd')",
        "[open for open in ()][0]('x')",
        "for eval in ():\n    eval('x')",
        "global x",
        "async def f() -> None:\n    return None",
        "def f() -> None:\n    nonlocal x",
        "del nn",
        "assert nn",
        "raise nn",
        "with nn:\n    x = 1",
        "while 1:\n    x = 1",
        "x = {1}",
        "x = {a: 1 for a in ()}",
        "x = (a for a in ())",
        "(x := 1)",
        "x = b'x'",
        "x = 1j",
        "match nn:\n    case 1:\n        x = 1",
        "torch.hub.load('a', 'b')",
        "torch.load('a')",
        "torch.ops.load_library('a')",
        "torch.utils.cpp_extension.load('a', [])",
        "torch.os.system('id')",
        "torch.sys.modules",
        "torch.package.PackageImporter('a')",
        "torch.jit.load('a')",
        "torch.save(nn, 'a')",
        "nn.modules.module.torch.os.system('id')",
        "F.torch.os.system('id')",
        "nn.Module.forward = eval",
        "F.relu = 1",
        "super = 1",
        "nn = 1",
        "torch = 1",
        "range = 1",
        "x = f'{eval}'",
        "x = f'{().__class__}'",
        "x: eval = 1",
        "def f(x: eval) -> int:\n    return 1",
        "def f(x: int = eval('1')) -> int:\n    return x",
        "class A(eval('1')):\n    x = 1",
        "class A(nn.Module, metaclass=eval):\n    x = 1",
        "print",
        "(1).real",
        "'x'.join('y')",
        "'{0.__class__}'.format(nn)",
        "x = 'y'.encode",
    ],
)
def test_check_refuses(attack: str) -> None:
    """The check refuses statements that generated source does not need."""
    with pytest.raises(checking.Refused):
        checking.check(HEAD + attack, OF_TORCH)


def test_everything_written_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """In every style, the text that is returned is the text that was checked; the sources of the zoo pass the check in
    other tests."""
    seen: list[str] = []
    monkeypatch.setattr(import_module("rescompile.codegen.source_text"), "check", lambda text, _: seen.append(text))
    network = facts.network("resnet20_cifar")
    texts = [source(network), source(network, style="flat")]
    assert seen == texts
