"""The code that docs/frameworks.md shows side by side is that of the files, and its targets are all that there are."""

from __future__ import annotations

import ast
import re

import facts
import pytest
from doc_pages import DOCS, fences

import rescompile

PAGE = DOCS / "frameworks.md"
SHOWN = {fence.marks["file"]: fence.text for fence in fences(PAGE) if fence.marks.get("file", "").startswith("in_")}
TARGETS = {"in_pytorch.py": "source", "in_flax.py": "flax", "in_mlx.py": "mlx", "in_keras.py": "keras"}


def functions(text: str) -> dict[str, str]:
    """The functions of a text by name, methods with their class, without docstrings."""
    found = {}
    for node in ast.parse(text).body:
        inside = node.body if isinstance(node, ast.ClassDef) else [node]
        for item in inside:
            if isinstance(item, ast.FunctionDef):
                if ast.get_docstring(item) is not None:
                    item.body = item.body[1:]
                name = item.name if item is node else f"{getattr(node, 'name', '')}.{item.name}"
                found[name] = ast.unparse(item)
    return found


def test_five_frameworks_are_side_by_side() -> None:
    """Source for four frameworks, and the graph of ONNX, which its console block checks."""
    assert set(SHOWN) == {*TARGETS, "in_onnx.py"}


@pytest.mark.parametrize("file", TARGETS)
def test_shown_code_is_that_of_the_files(file: str) -> None:
    """Every function that the page shows is in the file that the target writes, statement by statement."""
    text = rescompile.build(facts.network("resnet18"), TARGETS[file], structure_only=TARGETS[file] != "source")
    written = functions(text.to_bytes().decode())
    shown = functions(SHOWN[file])
    assert shown
    assert {name: written.get(name) for name in shown} == shown


def test_the_tests_that_the_page_names_exist() -> None:
    """Every figure and claim names the test or the program behind it by its path."""
    names = re.findall(r"`((?:tests|benchmarks)/[\w/]+\.py)`", PAGE.read_text("utf-8"))
    assert names
    assert [name for name in names if not (DOCS.parent / name).is_file()] == []
