"""The pictures of the README and the pages are what `rescompile draw` draws, and each is shown."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
_SPEC = importlib.util.spec_from_file_location("make_pictures", DOCS / "make_pictures.py")
assert _SPEC is not None
assert _SPEC.loader is not None
make_pictures = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(make_pictures)


@pytest.mark.parametrize("picture", make_pictures.COMMANDS)
def test_pictures_are_up_to_date(picture: str) -> None:
    """`python docs/make_pictures.py` was run after the last change to what pictures show."""
    path = DOCS / "pictures" / f"{picture}.svg"
    assert make_pictures.drawn(make_pictures.COMMANDS[picture]) == path.read_text("utf-8")


def test_every_picture_is_shown() -> None:
    """On a page or in the README; and there is no other."""
    pages = "".join(path.read_text("utf-8") for path in [*DOCS.glob("*.md"), DOCS.parent / "README.md"])
    files = sorted(path.stem for path in (DOCS / "pictures").iterdir())
    assert files == sorted(make_pictures.COMMANDS)
    assert all(f"pictures/{name}.svg" in pages for name in files)
