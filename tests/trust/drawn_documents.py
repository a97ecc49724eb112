"""A random document with its reading, and documents as YAML."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml
from reading import Reading


@dataclass(frozen=True)
class Drawn:
    """A random document, its seed, and its reading."""

    seed: int
    document: dict[str, Any]
    reading: Reading

    @property
    def text(self) -> str:
        """The document as YAML, in a style that depends on the seed."""
        return written(self.document, (None, False, True)[self.seed % 3])


def written(document: Any, style: bool | None = False) -> str:
    """Return a document as YAML: in block style, in flow style, or in flow style for short values only (None)."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, default_flow_style=style, width=10**6)


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    def ignore_aliases(self, data: Any) -> bool:
        """Return True: specs cannot contain anchors."""
        return True
