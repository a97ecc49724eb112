"""The printed tree of every network, as a file that is read in review like code. `pytest --update-golden` rewrites them."""

from __future__ import annotations

from pathlib import Path

import facts
import pytest
from typer.testing import CliRunner

from rescompile.cli import app

FOLDER = Path(__file__).parent / "golden" / "trees"
LONGEST = 150  # lines of a file that somebody still reads


def printed(name: str, depth: int) -> str:
    """What `rescompile show NAME --depth N` prints."""
    done = CliRunner().invoke(app, ["show", name, "--depth", str(depth)])
    assert done.exit_code == 0, done.output
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("name", facts.zoo())
@pytest.mark.sampled(one_in=2)
def test_tree(name: str, update_golden: bool) -> None:
    """The tree at depth 3, or at the next lesser depth that keeps the file short."""
    texts = (printed(name, depth) for depth in (3, 2, 1))
    text = next(text for text in texts if text.count("\n") <= LONGEST)
    path = FOLDER / f"{name}.txt"
    if update_golden:
        path.write_text(text, encoding="utf-8", newline="\n")
    assert path.is_file(), f"{path.name} is missing: run pytest --update-golden, and read what it wrote"
    assert text == path.read_text(encoding="utf-8")


def test_no_file_is_left_over() -> None:
    """A network that was renamed or removed takes its file with it."""
    assert {path.stem for path in FOLDER.glob("*.txt")} <= set(facts.zoo())
