"""The README's commands print what it shows, and its figures are those of committed benchmark runs."""

from __future__ import annotations

import json
import re
import shlex
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "README.md").read_text("utf-8")
#: The page with the figures that the README omits.
COMPARISON = (ROOT / "docs/comparison.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def matches(shown: str, printed: str) -> bool:
    """Return whether the output is as shown; `...` matches anything, including lines."""
    pattern = re.escape(shown.strip()).replace(re.escape("..."), ".*?")
    return re.fullmatch(pattern, printed.strip(), re.DOTALL) is not None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Create a folder in which the README's relative paths are valid."""
    (tmp_path / "specs").symlink_to(ROOT / "specs")
    return tmp_path


@pytest.mark.slow
def test_console(folder: Path) -> None:
    """All console blocks run in order in one folder, and print what the README shows."""
    pytest.importorskip("onnxruntime", reason="one command runs a model: pip install 'rescompile[run]'")
    commands = 0
    for language, block in BLOCKS:
        if language != "console":
            continue
        for command, shown in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
            words = shlex.split(command)
            assert words[0] == "rescompile"
            done = subprocess.run(
                [sys.executable, "-m", *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            assert matches(shown, done.stdout), f"$ {command}\n{done.stdout}"
            commands += 1
    assert commands >= 4


def test_python(folder: Path) -> None:
    """The Python block runs and writes the file."""
    code = next(block for language, block in BLOCKS if language == "python" and "import rescompile" in block)
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)
    assert (folder / "densenet121.onnx").stat().st_size > 25 << 20


def test_source(folder: Path) -> None:
    """The source code in the README is part of the generated file."""
    shown = next(block for language, block in BLOCKS if language == "python" and "def forward" in block)
    command = [sys.executable, "-m", "rescompile", "build", "resnext50_32x4d", "--target", "source", "-o", "-"]
    text = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout
    assert re.sub(r"  # of class.*", "", shown) in text


def test_yaml() -> None:
    """The spec in the README consists of lines of the zoo's spec."""
    shown = next(block for language, block in BLOCKS if language == "yaml")
    kept = (ROOT / "specs/resnext50_32x4d.yaml").read_text().splitlines()
    for line in shown.splitlines():
        assert line.split("  #")[0].rstrip() in kept


def test_make() -> None:
    """The two `make` commands of the README are targets of the Makefile, and CI runs both."""
    commands = re.findall(r"^    (make \w+)", TEXT, re.MULTILINE)
    assert commands == ["make demo", "make test"]
    runs = (ROOT / ".ci/run").read_text()
    for command in commands:
        assert re.search(rf"^{command}$", runs, re.MULTILINE)
        assert re.search(rf"^{command.split()[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_figures_of_modules() -> None:
    """Each ratio in the table of modules is that of the committed runs."""
    promises = {
        promise["promise"]: promise
        for run in ("torch_module", "train")
        for promise in json.loads((ROOT / f"benchmarks/results/{run}.json").read_text())["promises"]
    }
    assert {promise["verdict"] for promise in promises.values()} <= {"ok", "shown"}
    table = COMPARISON.split("<!-- figures: modules -->")[1].split("<!-- end -->")[0]
    shown = [line.split("|")[2].strip() for line in table.splitlines() if line.startswith("|")][2:]
    measured = []
    for kind in (" forward: time", " training step: time", " saved for backward: bytes"):
        values = [promise["measured"] for name, promise in promises.items() if kind in name]
        assert len(values) == 8
        low, high = f"{min(values):.3f}", f"{max(values):.3f}"
        measured.append(low if low == high else f"{low} to {high}")
    single = (
        "blocks skipped: cost of constant depth",
        "masks: cost of constant depth",
        "checkpoint: bytes kept for backward, of those without",
    )
    assert shown == [*measured, *(f"{promises[name]['measured']:.3f}" for name in single)]


def _runtimes(pattern: str) -> dict[str, dict[str, Any]]:
    """Return the rows of committed runs of runtime.py by promise."""
    paths = sorted((ROOT / "benchmarks/results").glob(pattern))
    rows = [row for path in paths for row in json.loads(path.read_text())["promises"]]
    found = {row["promise"]: row for row in rows}
    assert len(found) == len(rows)
    return found


def test_figures_of_runtimes() -> None:
    """Each range, and each geometric mean of speed-ups, in the table of runtimes is that of the committed runs. Rows that
    the first run left undecided were measured again, and only for these the second result counts."""
    first, again = _runtimes("runtime_*.json"), _runtimes("runtime_again/*.json")
    assert again.keys() <= first.keys()
    promises = [again.get(name, row) if row["verdict"] == "UNDECIDED" else row for name, row in first.items()]
    verdicts = [promise["verdict"] for promise in promises]
    assert set(verdicts) == {"ok", "same program", "shown", "no AMX"}
    number = ("no", "one", "two", "three")[verdicts.count("same program")]
    assert f"except in {number} rows of batch 8" in " ".join(COMPARISON.split())
    table = COMPARISON.split("<!-- figures: runtime -->")[1].split("<!-- end -->")[0]
    shown = [line.split("|")[2].strip() for line in table.splitlines() if line.startswith("|")][2:]
    measured = []
    for kind, digits in (
        (" onnx, batch 1: time", 3), (" onnx, batch 8: time", 3),
        (" compile, batch 1: time", 3), (" compile, batch 8: time", 3),
        (" plan, batch 1: speed-up", 2), (" plan, batch 8: speed-up", 2),
        (" reduced, batch 1: speed-up", 2), (" reduced, batch 8: speed-up", 2),
    ):  # fmt: skip
        rows = [promise for promise in promises if kind in promise["promise"]]
        assert len(rows) == (6 if "speed-up" in kind else 10)
        values = [row["measured"] for row in rows]
        text = f"{min(values):.{digits}f} to {max(values):.{digits}f}"
        means = [
            p["measured"] for p in promises if p["promise"].startswith(f"{kind.split(':')[0].strip()}: geometric mean")
        ]
        measured.append(text + "".join(f", geometric mean {mean:.2f}" for mean in means))
    assert shown == measured


def test_figures() -> None:
    """Each time and memory in the table of compilers is that of the committed run."""
    results = json.loads((ROOT / "benchmarks/results/compile.json").read_text())
    table, again = (
        text.split("<!-- figures: benchmarks -->")[1].split("<!-- end -->")[0] for text in (TEXT, COMPARISON)
    )
    assert table == again
    measured = {
        name: f"{statistics.median(s['seconds'] for s in samples):.2f} s, {max(s['peak_bytes'] for s in samples) / 2**20:.0f} MiB"
        for name, samples in results["samples"].items()
    }
    rows = {
        "resnet50": "resnet50",
        "densenet121": "densenet121",
        "pre-activation ResNet-1001": "preact_resnet1001_cifar",
    }
    for shown, name in rows.items():
        cells = [
            cell.strip()
            for cell in next(line for line in table.splitlines() if line.startswith(f"| {shown} "))[1:].split("|")
        ]
        assert cells[1] == measured[f"{name} build"]
        assert cells[2] == measured[f"{name} default exporter"]
        assert cells[3] == measured[f"{name} legacy exporter"]
