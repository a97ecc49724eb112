"""Scopes of the second reading: names of steps, names in expressions, and the blocks of the library."""

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
    """Return the blocks of the library by name."""
    return {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(LIBRARY.glob("*.yaml"))}


@dataclass
class Scope:
    """A scope of step names: its path, and the count of numbered steps if steps are numbered."""

    path: str = ""
    numbered: bool = False
    count: int = 0
    named: bool = False

    def inside(self, name: str, numbered: bool = False) -> Scope:
        """Return the scope of this name in this scope."""
        return Scope(f"{self.path}{name}.", numbered)

    def next(self) -> str | None:
        """Return the number of the next step without a name, or None if steps are not numbered."""
        self.count += self.numbered
        if self.numbered and self.named:
            raise Misfit("names and numbers in one list")
        return str(self.count - 1) if self.numbered else None

    def of_macro(self, body: Sequence[Any]) -> Scope:
        """Return the scope of a macro without a name: in a numbered list, its steps have no numbers if any of them has
        a name."""
        names = [
            step for step in body if isinstance(step, dict) and len(step) == 1 and next(iter(step)) not in NOT_NAMES
        ]
        if not self.numbered or not names:
            return self
        self.named = True
        return Scope(self.path)

    def claim(self, taken: set[str], name: str) -> str:
        """Return the full name of a step. Raises Misfit if the name is taken, or if the other steps have numbers."""
        full = self.path + name
        if full in taken:
            raise Misfit(f"two steps are {full}")
        taken.add(full)
        self.named = True
        if self.numbered and self.count:
            raise Misfit("names and numbers in one list")
        return full

    def unnumbered(self) -> Scope:
        """Return the same scope without numbers."""
        return Scope(self.path)


@dataclass(frozen=True)
class Frame:
    """The names that expressions can use; `inside` is true in the body of a block."""

    names: Mapping[str, Any]
    inside: bool = False

    def at(self, shape: Shape, **more: Any) -> dict[str, Any]:
        """Return the names for a step with this input shape."""
        return {**sizes(shape), **self.names, "in_channels": shape[0], **more}


def sizes(shape: Shape) -> dict[str, int]:
    """Return the names of the sizes of a map; other values of these names hide them."""
    names = AXES.get(len(shape), ())
    return dict(zip(names, shape[len(shape) - len(names) :], strict=True))
