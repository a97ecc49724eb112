"""Twenty steps of SGD in all frameworks agree within float32 rounding: benchmarks/training_steps.py."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

MISSING = [package for package in ("torch", "flax", "keras", "mlx") if find_spec(package) is None]
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "training_steps.py"


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.skipif(bool(MISSING), reason="trains in each framework: pip install 'rescompile[torch,flax,keras,mlx]'")
def test_frameworks_stay_within_rounding() -> None:
    """The command of docs/frameworks.md, on smaller batches, prints each framework, and each is within rounding."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--batch", "4"], env={**os.environ, "OMP_NUM_THREADS": "1", "KERAS_BACKEND": "torch"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    names = [line.split("|")[1].strip() for line in done.stdout.splitlines()[2:]]
    assert names == ["rounding", "PyTorch", "Flax", "Keras", "MLX"]


def test_the_figure_is_the_output_of_the_command() -> None:
    """The table in docs/frameworks.md has the rows that the command prints, each within three times the effect of rounding."""
    page = (SCRIPT.parents[1] / "docs" / "frameworks.md").read_text("utf-8")
    lines = (
        page.partition("| | last loss | losses | logits |\n|---|---|---|---|\n")[2].partition("\n\n")[0].splitlines()
    )
    rows = {
        cells[1]: [float(cell) for cell in cells[2:5]]
        for cells in ([c.strip() for c in line.split("|")] for line in lines)
    }
    assert list(rows) == ["rounding", "PyTorch", "Flax", "Keras", "MLX"]
    assert all(row[1] <= 3 * rows["rounding"][1] and row[2] <= 3 * rows["rounding"][2] for row in rows.values())
