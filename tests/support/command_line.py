"""Helpers that run `rescompile` in this process, in a new process or on a terminal, and read what a terminal shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from rescompile.cli import app


def invoke(*arguments: str | Path) -> Result:
    """Run a command in this process; any exception other than SystemExit fails the test."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


def run_after(code: str, *arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command as a process that first executes `code`, for example to hide a package."""
    start = f"import sys\n{code}\nsys.argv[0] = 'rescompile'\nfrom rescompile.cli import main\nmain()"
    command = [sys.executable, "-c", start, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


def run_on_terminal(command: Sequence[str | Path], **env: str) -> tuple[int, str]:
    """Return the exit code and the output of a process whose standard streams are a terminal."""
    pty = pytest.importorskip("pty", reason="needs pseudo-terminals")
    parent, child = pty.openpty()
    environment = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "TERM")}
    process = subprocess.Popen(
        [str(word) for word in command], stdin=child, stdout=child, stderr=child,
        env={**environment, "TERM": "xterm", **env},
    )  # fmt: skip
    os.close(child)
    output = b""
    while True:
        try:
            chunk = os.read(parent, 1 << 16)
        except OSError:  # Linux signals in this way that the other end is closed
            break
        if not chunk:
            break
        output += chunk
    os.close(parent)
    return process.wait(timeout=60), output.decode()


def screen(output: str) -> list[str]:
    """Return the lines that a terminal shows after this output of a progress bar: text, CR, LF, "up" and "erase"."""
    lines, row, column = [""], 0, 0
    for code, text in re.findall(r"(\x1b\[[\d;?]*[A-Za-z]|\r|\n)|([^\x1b\r\n]+)", output):
        if text:
            lines[row] = lines[row][:column].ljust(column) + text + lines[row][column + len(text) :]
            column += len(text)
        elif code == "\r":
            column = 0
        elif code == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif code.endswith("A"):
            row -= int(code[2:-1] or 1)
        elif code == "\x1b[2K":
            lines[row] = ""
    return lines
