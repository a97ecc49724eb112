"""The tree is traversed by `walk`, `fold`, `thread` and `rewrite`; any other recursion over its nodes has a stated reason."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NODES = {"Series", "Parallel", "Side"}
#: Folders and files with other recursions over types of nodes, and the reasons.
REASONS = {
    "rescompile/codegen": "the traversal decides top-down what becomes a class, a list or a bundle, and visits all instances at once",
    "rescompile/drawing/outline.py": "the traversal decides top-down what is a card and what is expanded",
    "rescompile/report/layers.py": "the copies of a block may be one line with their number, so not every child is visited",
    "rescompile/explain": "two trees are traversed at a time",
    "rescompile/analysis/path_algebra.py": "a fold if a part is closed, and a thread if values cross its border",
    "rescompile/analysis/tree_table.py": "the level of a row, counted from the root, decides which rows below it are shown",
    "rescompile/passes/form.py": "a Series is taken apart and put together again with nodes of several levels side by side",
}


def recursions(text: str) -> Iterator[str]:
    """Yield the recursive functions of a module that distinguish types of nodes."""
    functions = {node.name: node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)}
    called = {name: set(_called(node)) & functions.keys() for name, node in functions.items()}
    for name, node in functions.items():
        reached: set[str] = set()
        todo = set(called[name])
        while todo:
            reached |= todo
            todo = set().union(*(called[each] for each in todo)) - reached
        if name in reached and NODES & set(_distinguished(node)):
            yield name


def _called(function: ast.AST) -> Iterator[str]:
    for node in ast.walk(function):
        if isinstance(node, ast.Call):
            yield from _names(node.func)


def _distinguished(function: ast.AST) -> Iterator[str]:
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
def recursions_by_file() -> dict[str, list[str]]:
    """Return the recursive functions of each file outside ir/."""
    files = [path for folder in ("rescompile", "backends") for path in (ROOT / folder).rglob("*.py")]
    found = {path.relative_to(ROOT).as_posix(): list(recursions(path.read_text("utf-8"))) for path in files}
    return {path: names for path, names in found.items() if names and not path.startswith("rescompile/ir/")}


def test_nothing_else_recurses_over_the_tree() -> None:
    unexplained = {
        path: names
        for path, names in recursions_by_file().items()
        if not any(path.startswith(known) for known in REASONS)
    }
    assert not unexplained, "use walk, fold, thread or rewrite of rescompile.ir, or add the reason why not"


def test_every_reason_is_still_needed() -> None:
    assert not [known for known in REASONS if not any(path.startswith(known) for path in recursions_by_file())]


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
def test_recursions_are_detected(text: str, found: list[str]) -> None:
    assert list(recursions(text)) == found
