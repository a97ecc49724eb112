"""Where steps stand in the second reading of the language: scopes of names, what expressions may mention, and the library's blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from op_rules import AXES, WORDS, Misfit, Shape

COMBINATORS = ("residual", "parallel", "side", "if")
#: Keys of steps that have no name.
NOT_NAMES = frozenset((*COMBINATORS, *WORDS, "block", "keep", "use", "again"))
LIBRARY = Path(__file__).parents[2] / "rescompile" / "blocks"


@cache
def library() -> dict[str, Any]:
    """The blocks that come with the language."""
    return {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(LIBRARY.glob("*.yaml"))}


@dataclass
class Scope:
    """A scope of names: its path, and how far the numbers have come where its steps are numbered."""

    path: str = ""
    numbered: bool = False
    count: int = 0
    named: bool = False

    def inside(self, name: str, numbered: bool = False) -> Scope:
        """A scope in this one."""
        return Scope(f"{self.path}{name}.", numbered)

    def next(self) -> str | None:
        """The number of the next step without a name."""
        self.count += self.numbered
        if self.numbered and self.named:
            raise Misfit("names and numbers in one list")
        return str(self.count - 1) if self.numbered else None

    def of_macro(self, body: Sequence[Any]) -> Scope:
        """The scope for a macro without a name: in a numbered list, one that names some of its steps numbers none."""
        names = [
            step for step in body if isinstance(step, dict) and len(step) == 1 and next(iter(step)) not in NOT_NAMES
        ]
        if not self.numbered or not names:
            return self
        self.named = True
        return Scope(self.path)

    def claim(self, taken: set[str], name: str) -> str:
        """Take a name. Raises Misfit where it is taken, or where the other steps have numbers."""
        full = self.path + name
        if full in taken:
            raise Misfit(f"two steps are {full}")
        taken.add(full)
        self.named = True
        if self.numbered and self.count:
            raise Misfit("names and numbers in one list")
        return full

    def unnumbered(self) -> Scope:
        """The same scope for what takes no number."""
        return Scope(self.path)


@dataclass(frozen=True)
class Frame:
    """What can be named in expressions; `copy` are the index and depth of the repetition of the block itself."""

    names: Mapping[str, Any]
    inside: bool = False

    def at(self, shape: Shape, **more: Any) -> dict[str, Any]:
        """The names where the channels, and the sizes of a map, are those of a shape."""
        return {**sizes(shape), **self.names, "in_channels": shape[0], **more}


def sizes(shape: Shape) -> dict[str, int]:
    """The names of the size of a map, which any other thing of these names hides."""
    names = AXES.get(len(shape), ())
    return dict(zip(names, shape[len(shape) - len(names) :], strict=True))
