"""Names in generated code, which never collide with names of Python, of a framework or of the file itself."""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

#: Python's keywords and builtins, and names that generated files use in every framework.
PYTHON = frozenset(
    [*keyword.kwlist, *dir(builtins), "self", "stage", "index", "depth", "position", "outputs", "initialise"]
)


class Counted(NamedTuple):
    """Names made of a prefix and equally spaced numbers."""

    prefix: str
    first: int
    step: int = 1


def counted(names: Sequence[str]) -> Counted | None:
    """Return the rule of counting names: layer1, layer2 are `layer` from 1 in steps of 1; None if there is no such
    rule."""
    prefix = names[0].rstrip("0123456789")
    numbers = [name.removeprefix(prefix) for name in names]
    if not all(number.isdecimal() and str(int(number)) == number for number in numbers):
        return None
    first = int(numbers[0])
    step = int(numbers[1]) - first if len(names) > 1 else 1
    if step < 1 or list(names) != [f"{prefix}{first + at * step}" for at in range(len(names))]:
        return None
    return Counted(prefix, first, step)


def python_name(name: str, others: Collection[str], reserved: Collection[str]) -> str:
    """Return the name of an argument or variable: the name in the spec, with _ appended if it is reserved."""
    if name not in reserved and not name.startswith("_"):
        return name
    free = (name.lstrip("_") or "p") + "_"
    while free in others or free in reserved:
        free += "_"
    return free


def snake(name: str) -> str:
    """Return a name in snake case: `DenseLayer` -> dense_layer."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


class Allocator:
    """Allocates unique names for classes, functions and stages, separate from variables and reserved names."""

    def __init__(self, variables: Collection[str], reserved: Collection[str]) -> None:
        self.taken = {*reserved, *variables}

    def name(self, wanted: str) -> str:
        """Return the wanted name, with a number appended if it is taken."""
        wanted = wanted.lstrip("_") or "part"
        name, again = wanted, 1
        while name in self.taken:
            again += 1
            name = f"{wanted}{again}" if not wanted[-1].isdigit() else f"{wanted}_{again}"
        self.taken.add(name)
        return name

    def class_name(self, word: str) -> str:
        """Return a class name: `dense_layer` -> DenseLayer, `wrn_40_2` -> Wrn40_2."""
        name = ""
        for part in word.split("_"):
            name += "_" * (name[-1:].isdigit() and part[:1].isdigit()) + part[:1].upper() + part[1:]
        return self.name(name)
