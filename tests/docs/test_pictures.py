"""The pictures of the README and the pages are up to date, and each is shown."""

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
    """Every picture equals the output of its command; to renew it, run `python docs/make_pictures.py`."""
    path = DOCS / "pictures" / f"{picture}.svg"
    assert make_pictures.drawn(make_pictures.COMMANDS[picture]) == path.read_text("utf-8")


def test_every_picture_is_used() -> None:
    """The pictures are exactly these, and each is shown in the README or on a page."""
    pages = "".join(path.read_text("utf-8") for path in [*DOCS.glob("*.md"), DOCS.parent / "README.md"])
    files = sorted(path.stem for path in (DOCS / "pictures").iterdir())
    assert files == sorted(make_pictures.COMMANDS)
    assert all(f"pictures/{name}.svg" in pages for name in files)
