"""`doctor` reports what works, what is missing and how to install it; it always exits with 0."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from rescompile.cli import app
from rescompile.diagnostics.errors import Diagnostic, Unavailable
from rescompile.ir.precision import PRECISIONS
from rescompile.runtimes import RUNTIMES
from rescompile.runtimes import onnxruntime as ort_runtime
from rescompile.runtimes import torch as torch_runtime
from rescompile.runtimes.runtime_check import trials

pytest.importorskip("torch", reason="doctor must find torch working")
pytest.importorskip("onnxruntime", reason="doctor must find ONNX Runtime working")


def report() -> dict[str, Any]:
    """Return the output of `doctor --json`, with runtimes keyed by name."""
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert done.exit_code == 0, done.output
    data: dict[str, Any] = json.loads(done.stdout)
    return {**data, "runtimes": {row["name"]: row for row in data["runtimes"]}}


def test_installed_runtimes_work() -> None:
    """Installed runtimes work: each precision has an error within its bound, but not below what its rounding allows."""
    data = report()
    assert list(data["runtimes"]) == list(RUNTIMES)
    assert {target["name"] for target in data["targets"] if target["works"]} >= {"onnx", "source", "torch"}
    for name, precisions in {"ort-cpu": ["fp32"], "torch-cpu": ["fp32", "bf16"]}.items():
        row = data["runtimes"][name]
        assert row["works"]
        assert row["reason"] is row["needs"] is None
        assert [trial["precision"] for trial in row["precisions"]] == precisions
        for trial in row["precisions"]:
            assert PRECISIONS[trial["precision"]].unit / 64 < trial["error"] <= trial["bound"]
            assert trial["facts"]["precision"] == trial["precision"]
    for row in data["runtimes"].values():
        assert row["works"] or row["needs"] or any(trial["reason"] for trial in row["precisions"])


def test_text() -> None:
    """The text output has one line per runtime, with the precisions that work."""
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 0
    lines = [line for line in done.stdout.splitlines() if line.startswith("runtime")]
    assert [line.split()[1] for line in lines] == list(RUNTIMES)
    assert any("ort-cpu" in line and "works" in line and "fp32" in line for line in lines)


def test_a_missing_library_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing library is reported with the command that installs it, and the other runtimes are still checked."""

    def nothing() -> Any:
        raise Unavailable(Diagnostic("E0902", "not installed"))

    monkeypatch.setattr(ort_runtime, "library", nothing)
    data = report()["runtimes"]
    assert data["ort-cpu"]["reason"] == "ONNX Runtime is not installed"
    assert data["ort-cpu"]["needs"] == "pip install 'rescompile[run]'"
    assert not data["ort-cpu"]["precisions"]
    assert data["torch-cpu"]["works"]
    text = CliRunner().invoke(app, ["doctor"]).stdout
    assert "ONNX Runtime is not installed\n" in text
    assert "needs pip install 'rescompile[run]'\n" in text


def test_a_broken_library_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that raises and one whose numbers are wrong are reported as not working, without a traceback."""
    right = torch_runtime.Module.outputs
    monkeypatch.setattr(torch_runtime.Module, "outputs", lambda self: {"logits": 1.01 * right(self)["logits"]})

    def broken(*arguments: Any) -> Any:
        raise OSError("libwrong.so.1: cannot open")

    monkeypatch.setattr(ort_runtime, "Session", broken)
    rows = {name: {trial.precision: trial for trial in trials(RUNTIMES[name])} for name in ("ort-cpu", "torch-cpu")}
    assert not rows["ort-cpu"]["fp32"].passed
    assert rows["ort-cpu"]["fp32"].reason == "OSError: libwrong.so.1: cannot open"
    assert not rows["torch-cpu"]["fp32"].passed
    assert rows["torch-cpu"]["fp32"].reason == "its output is wrong"
    assert rows["torch-cpu"]["fp32"].error == pytest.approx(0.01, rel=0.01)
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 0
    assert "libwrong.so.1" in done.stdout
    assert "its output is wrong" in done.stdout


def test_a_library_that_cannot_be_loaded_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception while a library is imported becomes the reported reason, for runtimes and for targets."""

    def broken(*arguments: Any) -> Any:
        raise OSError("libgomp.so.1: cannot open")

    monkeypatch.setattr(torch_runtime, "missing", broken)
    monkeypatch.setattr("rescompile.backend.load", broken)
    data = report()
    assert (
        data["runtimes"]["torch-cpu"]["reason"] == "its library cannot be loaded (OSError: libgomp.so.1: cannot open)"
    )
    assert {target["reason"] for target in data["targets"]} == {"OSError: libgomp.so.1: cannot open"}


def test_an_output_of_nan_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """A runtime whose output is NaN does not pass the check."""
    monkeypatch.setattr(
        torch_runtime.Module, "outputs", lambda self: {"logits": np.full((2, 4), np.nan, dtype=np.float32)}
    )
    assert not any(trial.passed for trial in trials(RUNTIMES["torch-cpu"]))
