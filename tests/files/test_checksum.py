"""The checksum trailer recognises generated files, also after Git or an editor has changed their line endings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rescompile.cli import app
from rescompile.files import checksum

SPEC = """
rescompile: 1
name: small
input: [3, 8, 8]
network: [{conv1: {conv: {channels: 4, kernel: 3}}}, act]
"""


def run(*arguments: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == code, done.output
    return done.output


def source(folder: Path) -> Path:
    """Write a generated Python file and return its path."""
    (folder / "small.yaml").write_text(SPEC, encoding="utf-8")
    run("build", folder / "small.yaml", "-t", "source", "-o", folder / "small.py")
    return folder / "small.py"


def extracted(folder: Path) -> Path:
    """Write a spec extracted from a model, which also has a trailer, and return its path."""
    (folder / "small.yaml").write_text(SPEC, encoding="utf-8")
    run("build", folder / "small.yaml", "-t", "onnx", "-o", folder / "small.onnx")
    run("extract", folder / "small.onnx", "-o", folder / "again.yaml")
    return folder / "again.yaml"


def with_crlf(text: bytes) -> bytes:
    return text.replace(b"\n", b"\r\n")


@pytest.mark.parametrize("write", [source, extracted])
def test_line_endings_of_text_files_are_ignored(write: Callable[[Path], Path], tmp_path: Path) -> None:
    path = write(tmp_path)
    text = path.read_bytes()
    middle = text.index(b"\n", len(text) // 2)
    mixed = text[:middle] + with_crlf(text[middle:])
    for same in (with_crlf(text), mixed):
        path.write_bytes(same)
        assert checksum.state(path) == "ours"
    for other in (
        with_crlf(text.replace(b" ", b"  ", 1)),
        text.replace(b"\n", b"\r"),
        with_crlf(text)[:-2],
        text + b"\n",
    ):
        path.write_bytes(other)
        assert checksum.state(path) in ("edited", "foreign")


def test_check_compares_text_without_line_endings(tmp_path: Path) -> None:
    path = source(tmp_path)
    text = path.read_bytes()
    build = "build", tmp_path / "small.yaml", "-t", "source", "-o", path
    path.write_bytes(with_crlf(text))
    run(*build, "--check")
    run(*build)  # still recognised as generated, so overwritten
    assert path.read_bytes() == text
    path.write_bytes(with_crlf(text.replace(b"F.relu", b"F.silu")))
    shown = run(*build, "--check", code=1).splitlines()
    assert sum(line.startswith(("+ ", "- ")) for line in shown) == 2  # only the changed line


@pytest.mark.parametrize("size", [(1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_line_endings_across_chunks(size: int, tmp_path: Path) -> None:
    """A line ending that spans two of the chunks in which a file is read counts as one."""
    text = b"".join(bytes(chunk) for chunk in checksum.with_checksum([b"#" * size + b"\n\n"], b"# ", b": ", b"\n"))
    for content in (text, with_crlf(text)):
        (tmp_path / "long.py").write_bytes(content)
        assert checksum.state(tmp_path / "long.py") == "ours"


def test_line_endings_of_binary_files_are_not_ignored(tmp_path: Path) -> None:
    data = b"".join(bytes(chunk) for chunk in checksum.with_checksum([b"a\r\nb"], b"", b": "))
    path = tmp_path / "data"
    path.write_bytes(data)
    assert checksum.state(path) == "ours"
    path.write_bytes(data.replace(b"\r\n", b"\n"))
    assert checksum.state(path) == "edited"
