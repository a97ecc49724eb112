"""The printed tree of every network equals a golden file, which `pytest --update-golden` rewrites for review."""

from __future__ import annotations

from pathlib import Path

import facts
import pytest
from typer.testing import CliRunner

from rescompile.cli import app

FOLDER = Path(__file__).parent / "golden" / "trees"
LONGEST = 150  # lines of a file that can still be reviewed


def printed(name: str, depth: int) -> str:
    """Return the output of `rescompile show NAME --depth N`."""
    done = CliRunner().invoke(app, ["show", name, "--depth", str(depth)])
    assert done.exit_code == 0, done.output
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("name", facts.zoo())
@pytest.mark.sampled(one_in=2)
def test_tree(name: str, update_golden: bool) -> None:
    """The tree equals the golden file, at depth 3 or the largest smaller depth with at most 150 lines."""
    texts = (printed(name, depth) for depth in (3, 2, 1))
    text = next(text for text in texts if text.count("\n") <= LONGEST)
    path = FOLDER / f"{name}.txt"
    if update_golden:
        path.write_text(text, encoding="utf-8", newline="\n")
    assert path.is_file(), f"{path.name} is missing: run pytest --update-golden, and review the new file"
    assert text == path.read_text(encoding="utf-8")


def test_no_file_is_left_over() -> None:
    """Every golden file belongs to a network of the zoo."""
    assert {path.stem for path in FOLDER.glob("*.txt")} <= set(facts.zoo())
