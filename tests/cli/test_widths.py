"""Tables fit a terminal of 60, 80 or 120 columns: no line is longer, and no text is cut off."""

from __future__ import annotations

import io
import sys
from collections import Counter
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import typer
from safetensors.numpy import save_file

from rescompile.cli import app, reporting
from rescompile.diagnostics.text_table import markdown_table, table_rows, text_table, wrapped

WINDOWS = (60, 80, 120)
ROWS = [
    ("network", "runtime", "ms"),
    ("resnext50_32x4d", "torch-cpu:compile:channels_last", "12.5"),
    ("a name of words", "ort-cpu", "1,234.5"),
]


def letters(text: str) -> Counter[str]:
    """Count the characters of a text without spaces and rules, which wrapping must not change."""
    return Counter("".join(text.split()).replace("-", ""))


@pytest.mark.parametrize("width", range(20, 61, 5))
def test_a_table_fits(width: int) -> None:
    """No line is longer than the window, no text is lost, and numbers are not broken."""
    lines = text_table(ROWS, "<<>", width)
    assert max(map(len, lines)) <= width
    assert not letters("".join(chain(*ROWS))) - letters("".join(lines))
    assert any(line.endswith("1,234.5") for line in lines)
    assert text_table(ROWS, "<<>", 200) == text_table(ROWS, "<<>")


def test_narrow_tables() -> None:
    """Long cells are wrapped within their column; a table that is still too wide becomes a list without empty cells."""
    wide = [("a", "b", "n"), ("one two three", "torch-cpu:compile", "1")]
    assert table_rows(wide, "<<>", 26) == [
        ["a           b            n"],
        ["one two     torch-cpu:   1", "three       compile"],
    ]
    assert text_table([("a", "b"), ("1" * 30, "2" * 30)], ">", 40) == [f"a  {'1' * 30}", f"b  {'2' * 30}"]
    listed = text_table([("x", "12" * 20), ("", "y")], "<>", 20, head=False)
    assert listed == ["x", f"  {'12' * 9}", f"  {'12' * 9}", "  1212", "", "  y"]


def test_wrapping() -> None:
    """Lines break between words, and in longer words after punctuation; the indent of a tree is kept."""
    assert wrapped("one two three", 8) == ["one two", "three"]
    assert wrapped("    layer1.0.downsample", 16) == ["    layer1.0.", "    downsample"]
    assert wrapped("x" * 10, 4) == ["xxxx", "xxxx", "xx"]
    assert wrapped("", 4) == [""]


class Terminal(io.StringIO):
    """A stream that reports to be a terminal."""

    def isatty(self) -> bool:
        """Return True."""
        return True


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., str]:
    """Return a function that runs a command in a pipe, or on a terminal of given width, and returns its output."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, columns: int | None = None) -> str:
        with monkeypatch.context() as patch:
            stream = io.StringIO() if columns is None else Terminal()
            patch.setattr(sys, "stdout", stream)
            patch.setenv("COLUMNS", str(columns or 80))
            typer.main.get_command(app).main(list(arguments), standalone_mode=False)
        return stream.getvalue()

    return run


COMMANDS = [
    ("list",),
    ("show", "resnext50_32x4d"),
    ("show", "densenet121", "--depth", "3"),
    ("explain", "preact_resnet50"),
    ("paths", "resnet110_cifar"),
    ("weights", "inspect", "w.safetensors"),
    ("verify", "resnet20_cifar", "--runtime", "ort-cpu,ort-cpu:threads=1", "--parts"),
    pytest.param(("doctor",), marks=pytest.mark.slow),
]


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda words: words[0])
def test_output_of_commands_fits(arguments: tuple[str, ...], shown: Callable[..., str]) -> None:
    """Apart from summary lines, the output on a terminal fits its width and contains all text of the output in a pipe."""
    if arguments[0] in ("verify", "doctor"):
        pytest.importorskip("onnxruntime")
    if arguments[0] == "weights":
        save_file({f"{'deep.' * 20}weight": np.zeros((1, 2, 3)), "bias": np.zeros(3)}, "w.safetensors")
    piped = shown(*arguments)
    for width in WINDOWS:
        printed = shown(*arguments, columns=width)
        long = [line for line in printed.splitlines() if len(line) > width]
        summary = ("spec sha256", f"{arguments[1]}:" if len(arguments) > 1 else "-", "length in", "the other")
        assert all(line.startswith(summary) for line in long), long
        assert not letters(piped) - letters(printed)


def test_markdown_in_a_pipe_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tables of `bench`, `compare` and `predict` are Markdown in a pipe, and fit the window on a terminal."""
    assert reporting.table(ROWS, "<<>") == markdown_table(ROWS, "<<>")
    monkeypatch.setattr(sys, "stdout", Terminal())
    for width in WINDOWS:
        monkeypatch.setenv("COLUMNS", str(width))
        assert reporting.table(ROWS, "<<>") == text_table(ROWS, "<<>", width)
