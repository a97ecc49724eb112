"""What a notebook shows of a network or a result, put here by the packages that draw it, which its own module cannot import."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

#: The function that returns the HTML of a value, by the name of its class.
NOTEBOOK_VIEWS: dict[str, Callable[[Any], str]] = {}


class NotebookView:
    """A class with a view in `NOTEBOOK_VIEWS`; without one, a notebook shows the representation as text."""

    __slots__ = ()

    def _repr_html_(self) -> str | None:
        """Return what a notebook shows, as HTML."""
        view = NOTEBOOK_VIEWS.get(type(self).__name__)
        return view(self) if view else None
