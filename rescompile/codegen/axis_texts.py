"""Texts of functions and modules by the number of axes of the map: templates, and the words that fill them.

Names for two axes have no suffix, those for one and three end in `1d` and `3d`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from string import Template
from typing import Any

from rescompile.codegen.terms import literal, python
from rescompile.ir.expressions import Term
from rescompile.ir.network import Op
from rescompile.ir.ops import AXIS_NAMES, rank

#: The end of a name by the number of axes; none for vectors, and for maps of two axes.
_SUFFIXES = {0: "", 1: "1d", 2: "", 3: "3d"}
#: How a file writes a size as a tuple, or as itself where one number is a size already. A size of one axis is a number.
_SIZES = {
    "each": {1: "({},)", 2: "pair({})", 3: "triple({})"},
    "given": {1: "{}", 2: "pair({})", 3: "triple({})"},
}
#: What the axes of a map count, along one and several axes.
_COUNTED = {
    1: ("position", "positions"),
    2: ("row and column", "rows and columns"),
    3: ("slice, row and column", "slices, rows and columns"),
}


def at_axes(texts: Mapping[str, str], own: Mapping[int, Mapping[str, str]]) -> dict[str, str]:
    """Return functions and modules from templates, with the `own` words of a framework by the number of axes. One whose
    name depends on that number exists for each."""
    words = {axes: {**_axis_words(axes), **own[axes]} for axes in (2, 1, 3)}
    return {
        _filled(name, axes, words[axes]): _filled(text, axes, words[axes])
        for name, text in texts.items()
        for axes in (words if "$" in name else (2,))
    }


def _filled(text: str, axes: int, words: Mapping[str, str]) -> str:
    """Return a text for maps with this many axes."""
    text = re.sub(r"\$(each|given)\(([\w.]+)\)", lambda call: _SIZES[call[1]][axes].format(call[2]), text)
    return Template(text).substitute(words)


def _axis_words(axes: int) -> dict[str, str]:
    """Return the words of texts for maps with this many axes."""
    names, inner = AXIS_NAMES[axes], range(1, axes + 1)
    position, positions = _COUNTED[axes]
    number = literal((1,) * axes) if axes > 1 else "1"
    whole = f"tuple[{', '.join(['int'] * axes)}]"
    return {
        "n": str(axes),
        "d": _SUFFIXES[axes],
        "letters": "".join(name[0] for name in names).upper(),
        "last": str(axes + 1),
        "dimensions": str(axes + 2),
        "position": position,
        "positions": positions,
        # types and sizes
        "tuple": whole,
        "size": "int" if axes == 1 else f"int | {whole}",
        "one": number,
        "zero": number.replace("1", "0"),
        # all axes after each other
        "axes": literal(tuple(inner)),
        "names": ", ".join(names),
        "product": " * ".join(names),
        "units": literal((1,) * axes),
        "inputs": literal((0, *inner)),
        "outer": literal((*inner, axes + 1)),
        "first": literal((axes + 1, *inner)),
        "turned": ", ".join(map(str, (*range(axes), axes + 2, axes + 1, axes))),
        "ones": ", ".join("1" for _ in names),
        "steps": ", ".join(f"::{name}" for name in names),
        "flips": ", ".join("::-1" for _ in names),
        "colons": ", ".join(":" for _ in names),
        "enlarged": ", ".join(f"x.shape[{at}] * {name}" for at, name in zip(inner, names, strict=True)),
        "around": ", ".join(f"({name}, {name})" for name in names),
        "beyond": ", ".join(f"(0, pads[{at}][1] - {name})" for at, name in enumerate(names)),
    }


def suffix(op: Op) -> str:
    """Return the end of the names of functions for the maps that an op takes."""
    return _SUFFIXES[rank(op.input)]


def ranked(name: str) -> Callable[[Op], str]:
    """Return the name of a function that exists for each number of axes."""
    return lambda op: f"{name}{suffix(op)}"


def by_axes(name: str) -> Callable[[Op], str]:
    """Return the name of a module whose name ends in the number of axes: `nn.MaxPool` -> `nn.MaxPool2d`."""
    return lambda op: f"{name}{rank(op.input)}d"


def of_all_axes(*names: str) -> tuple[str, ...]:
    """Return the names of modules as `by_axes` does, for each number of axes."""
    return tuple(f"{name}{axes}d" for axes in AXIS_NAMES for name in names)


def listed_axes(first: int, count: int) -> str:
    """Return `count` axes of an array as an argument: a number, or a tuple."""
    return literal(tuple(range(first, first + count))) if count > 1 else str(first)


def map_axes(op: Op) -> str:
    """Return the axes of the map that an op takes, without batch and channels, as an argument."""
    return listed_axes(1, rank(op.input))


def unflattened_axes(op: Op) -> str:
    """Return the axes that a vector becomes: a map of one position, or the rows of one channel."""
    first = {"map": 1, "rows": 2}[getattr(op.kind, "to")]  # noqa: B009
    return listed_axes(first, rank(op.output))


def size_values(term: Term, op: Op) -> tuple[Any, ...]:
    """Return a literal size as a number for each axis of the map that an op takes."""
    value: Any = term.value
    return value if isinstance(value, tuple) else (value,) * rank(op.input)


def size_tuple(term: Term, op: Op) -> str:
    """Return a size as a tuple with a number for each axis of the map that an op takes."""
    if term.head == "constant":
        return literal(size_values(term, op))
    return _SIZES["each"][rank(op.input)].format(python(term))
