"""The smallest part of a failing document that still fails the same check."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from drawn_documents import Drawn
from examine import examined
from op_rules import Misfit
from reading import read


def shrunk(drawn: Drawn, check: str, tries: int = 150) -> Drawn:
    """Return the document without the rows, steps and keys that the failure does not need."""
    smallest = drawn
    with tempfile.TemporaryDirectory() as folder:
        progress = True
        while progress and tries > 0:
            progress = False
            for document in _smaller(smallest.document):
                tries -= 1
                if tries <= 0:
                    break
                document.pop("expect", None)
                try:
                    candidate = Drawn(drawn.seed, document, read(document))
                except (Misfit, LookupError, ValueError, TypeError, AttributeError):
                    continue
                if any(name == check for _, name, _ in examined(candidate, Path(folder)).faults):
                    smallest, progress = candidate, True
                    break
    return smallest


def _smaller(value: Any) -> Iterator[Any]:
    """Yield the value without one of its parts, large parts first."""
    if isinstance(value, list):
        for at in range(len(value)):
            if len(value) > 1:
                yield [*value[:at], *value[at + 1 :]]
        for at, item in enumerate(value):
            for less in _smaller(item):
                yield [*value[:at], less, *value[at + 1 :]]
    elif isinstance(value, dict):
        if len(value) > 1:
            for key in value:
                if key not in ("rescompile", "name", "input", "network"):
                    yield {k: v for k, v in value.items() if k != key}
        for key, item in value.items():
            if key != "input":
                for less in _smaller(item):
                    yield {**value, key: less}
