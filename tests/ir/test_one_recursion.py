"""The tree is walked by `walk`, `fold`, `thread` and `rewrite`; whatever else recurses over its nodes has a reason."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NODES = {"Series", "Parallel", "Side"}
#: Folders and files with recursions of their own over the kinds of nodes, and why.
REASONS = {
    "rescompile/codegen": "the way down decides what becomes a class, a list or a bundle, and one visit serves all instances",
    "rescompile/drawing/outline.py": "the way down decides what is a card and what is opened",
    "rescompile/report/layers.py": "the copies of a block may be one line with their number, so not every child is entered",
    "rescompile/explain": "two trees are followed at a time",
    "rescompile/analysis/path_algebra.py": "a fold where a part is closed, and a thread where values cross its border",
    "rescompile/analysis/tree_table.py": "the level of a row, counted from the root, decides which rows below it are shown",
    "rescompile/passes/form.py": "a Series is taken apart and put together again with nodes of several levels side by side",
}


def recursions(text: str) -> Iterator[str]:
    """The functions of a module that reach themselves and tell the kinds of nodes apart."""
    functions = {node.name: node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)}
    called = {name: set(_called(node)) & functions.keys() for name, node in functions.items()}
    for name, node in functions.items():
        reached: set[str] = set()
        todo = set(called[name])
        while todo:
            reached |= todo
            todo = set().union(*(called[each] for each in todo)) - reached
        if name in reached and NODES & set(_told_apart(node)):
            yield name


def _called(function: ast.AST) -> Iterator[str]:
    for node in ast.walk(function):
        if isinstance(node, ast.Call):
            yield from _names(node.func)


def _told_apart(function: ast.AST) -> Iterator[str]:
    for node in ast.walk(function):
        if isinstance(node, ast.MatchClass):
            yield from _names(node.cls)
        elif isinstance(node, ast.Call) and "isinstance" in _names(node.func):
            yield from (name for part in ast.walk(node.args[1]) for name in _names(part))


def _names(node: ast.AST) -> list[str]:
    match node:
        case ast.Name():
            return [node.id]
        case ast.Attribute():
            return [node.attr]
        case _:
            return []


@cache
def own() -> dict[str, list[str]]:
    """The recursions of each file of the package outside of ir/."""
    files = [path for folder in ("rescompile", "backends") for path in (ROOT / folder).rglob("*.py")]
    found = {path.relative_to(ROOT).as_posix(): list(recursions(path.read_text("utf-8"))) for path in files}
    return {path: names for path, names in found.items() if names and not path.startswith("rescompile/ir/")}


def test_nothing_else_recurses_over_the_tree() -> None:
    unexplained = {path: names for path, names in own().items() if not any(path.startswith(known) for known in REASONS)}
    assert not unexplained, "use walk, fold, thread or rewrite of rescompile.ir, or add the reason why not"


def test_every_reason_is_still_needed() -> None:
    assert not [known for known in REASONS if not any(path.startswith(known) for path in own())]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("def f(n):\n match n:\n  case Series(): return [f(c) for c in n.children]", ["f"]),
        ("def f(n):\n if isinstance(n, tree.Side): return g(n)\ndef g(n): return f(n.child)", ["f"]),
        ("class A:\n def f(self, n):\n  if isinstance(n, Op | Parallel): self.f(n)", ["f"]),
        ("def f(n):\n return isinstance(n, Series)", []),
        ("def f(n):\n return f(n.child)", []),
    ],
)
def test_a_recursion_would_be_seen(text: str, found: list[str]) -> None:
    assert list(recursions(text)) == found
