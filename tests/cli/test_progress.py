"""Progress bars: rate and remaining time, on a terminal only, for all work that can take more than a second."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import typer
from command_line import screen
from safetensors.numpy import save_file

import rescompile
from rescompile.cli import app, progress, reporting
from rescompile.cli.progress import Progress, track
from rescompile.ir.network import parameters

NETWORK = {
    "block": "basic",
    "network": ["cifar_stem", {"layer1": {"depth": 1, "width": 16}}, {"block": "classifier", "classes": 10}],
}


class Terminal(io.StringIO):
    """A stream that reports to be a terminal."""

    def isatty(self) -> bool:
        """Return True."""
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Return a terminal for standard error, with a clock that advances ten seconds at each reading."""
    now = iter(range(0, 10**9, 10))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(now)))
    stream = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    return stream


def test_rate_and_time_left(terminal: Terminal) -> None:
    """A bar shows the percentage, the rate and the time left, and is erased at the end and before messages."""
    with redirect_stderr(terminal), Progress(100, "specs") as bar:
        bar.advance(25, "resnet50")
        shown = terminal.getvalue()
        found = re.search(r"25%  ([\d.]+) specs/s, (\d+):(\d\d) left", shown)
        assert found
        rate, left = float(found[1]), 60 * int(found[2]) + int(found[3])
        assert rate * left == pytest.approx(75, rel=0.02)
        reporting.say("a message")
        bar.advance(25)
        reporting.say("another")
    assert [line.strip() for line in screen(terminal.getvalue()) if line.strip()] == ["a message", "another"]


def test_units_and_parts(terminal: Terminal) -> None:
    """Bytes are shown in MiB and long times in hours; a new part starts from zero; the percentage requires a total."""
    with redirect_stderr(terminal), Progress(1 << 40, "MiB", 1 << 20) as bar:
        bar.advance(1 << 20)
    assert re.search(r"0%  [\d.]+ MiB/s, \d+:\d\d:\d\d left", terminal.getvalue())
    with redirect_stderr(terminal), Progress(unit="steps") as bar:
        shown = len(terminal.getvalue())
        bar.at(0, 0, "weights")
        assert "weights" in terminal.getvalue()[shown:]
        assert "%" not in terminal.getvalue()[shown:]
        bar.at(3, 4, "round 3 of 4")
        bar.at(1, 30, "session 1")
        assert "75%" in terminal.getvalue()
        assert bar.done == 1
        assert bar.total == 30


def test_bars_do_not_nest(terminal: Terminal) -> None:
    """The bar of nested work is not shown, and the outer bar continues."""
    with redirect_stderr(terminal):
        for _ in track(range(3), 3, "specs"):
            with Progress(10, "MiB") as inner:
                inner.advance(5)
    assert "MiB" not in terminal.getvalue()
    assert "100%" in terminal.getvalue()
    assert reporting.wipe is None


@pytest.fixture
def run(terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return a function that runs a command in a folder with three specs and returns its standard error."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "specs").mkdir()
    for name in "abc":
        spec = {"rescompile": 1, "name": name, "input": [3, 32, 32], **NETWORK}
        (tmp_path / "specs" / f"{name}.yaml").write_text(json.dumps(spec))
    (tmp_path / "out").mkdir()
    network = rescompile.elaborate(rescompile.load("specs/a.yaml"))
    save_file({name: np.ones(each.shape, each.dtype) for name, each in parameters(network)}, "w.safetensors")

    def invoke(*arguments: str) -> str:
        terminal.truncate(0)
        terminal.seek(0)
        with redirect_stderr(terminal), redirect_stdout(io.StringIO()):
            typer.main.get_command(app).main(list(arguments), standalone_mode=False)
        return terminal.getvalue()

    return invoke


@pytest.mark.parametrize(
    ("arguments", "unit"),
    [
        (["validate", "specs"], "specs"),
        (["list"], "networks"),
        (["build", "specs", "-t", "source", "-o", "out"], "specs"),
        (["build", "specs/a.yaml", "-t", "onnx", "-o", "out/"], "MiB"),
        (["build", "specs/a.yaml", "-t", "onnx", "-o", "out/", "--precision", "int8", "--calibrate", "4"], "calibration inputs"),
        (["weights", "convert", "w.safetensors", "specs/a.yaml", "-o", "v.safetensors"], "MiB"),
        (["verify", "specs/a.yaml", "--targets", "onnx,torch"], "comparisons"),
        (["verify", "specs/a.yaml", "--runtime", "ort-cpu,ort-cpu:threads=1"], "comparisons"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else value,
)  # fmt: skip
def test_commands_show_their_progress(arguments: list[str], unit: str, run: Callable[..., str]) -> None:
    """Every long command shows its rate and the time left."""
    if arguments[0] != "list":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("torch")
    assert re.search(rf"\d+%  [\d.e+-]+ {unit}/s, [\d:]+ left", run(*arguments))


def test_no_progress_with_json(run: Callable[..., str]) -> None:
    """`--json` disables the bar, but not that of the next command in the same process."""
    assert "%" not in run("validate", "specs", "--json")
    assert reporting.shows_progress
    assert "%" in run("validate", "specs")
