"""Breaks long lines of Python as `ruff format` does, for the few kinds of lines in generated source."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator

WIDTH = 88
_OPEN, _CLOSE = "([{", ")]}"


def laid_out(lines: Iterable[str]) -> Iterator[str]:
    """Yield indented logical lines as physical lines that fit."""
    for line in lines:
        yield from _split(line)


def _split(line: str) -> Iterator[str]:
    """Yield a line, broken at its last bracket if it is too long: the inside on one line, else one part per line."""
    if len(line) <= WIDTH or line.lstrip().startswith(("#", '"""')):
        yield line
        return
    indent = " " * (len(line) - len(line.lstrip(" ")))
    deeper = indent + "    "
    # A condition or a value of several operands has one operand per line, in parentheses.
    for pattern, least in ((r" *(if |elif )(.*)(:)", 2), (r" *(\w+ = |return )(.*)()", 3)):
        statement = re.fullmatch(pattern, line)
        if statement is not None and len(operands := _operands(statement[2])) >= least:
            yield f"{indent}{statement[1]}("
            for operand in operands:
                yield from _split(deeper + operand)
            yield f"{indent}){statement[3]}"
            return
    found = _last_bracket(line)
    if found is None:
        yield line
        return
    while found[0] >= WIDTH and (earlier := _last_bracket(line[: found[0]])) is not None:
        found = earlier  # the last bracket does not fit: an earlier one is broken instead
    start, end = found
    inside = line[start + 1 : end]
    parts = _parts(inside)
    if not parts:
        yield line
        return
    yield line[: start + 1]
    comprehension = len(parts) == 1 and line[start] != "("
    collection = len(parts) > 1 and not re.search(r"[\w)\]]$", line[:start])  # not the arguments of a call
    alone = len(parts) == 1 and line[start] == "(" and line[start - 1 : start] in (" ", "(", "")
    grouped = alone and not inside.endswith(",")  # a parenthesised term, which a comma would turn into a tuple
    parameter = len(parts) == 1 and line.lstrip().startswith("def ")  # the only one, which has a comma
    one_line = grouped or not (alone or collection or parameter)
    if len(deeper + inside) <= WIDTH and not inside.startswith("*") and one_line:
        yield deeper + inside
    else:
        for part in parts:
            comma = "" if grouped or (comprehension and " for " in part) else ","
            whole = deeper + part + comma
            pieces = _operands(part) if len(whole) > WIDTH else [part]
            for at, piece in enumerate(pieces):
                yield from _split(deeper + piece + (comma if at == len(pieces) - 1 else ""))
    yield indent + line[end:]


def _operands(part: str) -> list[str]:
    """Return an argument split before each operator of the lowest precedence at its outermost level."""
    cuts = [at for at, character in _outermost(part) if character == " "]
    for operators in ((" if ", " else "), (" or ",), (" and ",), (" + ", " - "), (" * ", " // ", " / ")):
        if found := [at for at in cuts if part.startswith(operators, at)]:
            return [part[a:b].strip() for a, b in itertools.pairwise([0, *found, len(part)])]
    return [part]


def _last_bracket(line: str) -> tuple[int, int] | None:
    """Return the last bracket pair of the outermost level that is not empty."""
    start, found = 0, None
    for at, character in _outermost(line):
        if character in _OPEN:
            start = at
        elif character in _CLOSE and at > start + 1:
            found = start, at
    return found


def _parts(inside: str) -> list[str]:
    """Return the texts between the commas of the outermost level."""
    commas = [at for at, character in _outermost(inside) if character == ","]
    parts = [inside[a:b].strip(", ") for a, b in itertools.pairwise([0, *commas, len(inside)])]
    return [part for part in parts if part]


def _outermost(text: str) -> Iterator[tuple[int, str]]:
    """Yield the characters outside of strings and inside of no brackets, and the outermost brackets themselves."""
    quoted, depth = False, 0
    for at, character in enumerate(text):
        if character == '"':
            quoted = not quoted
        elif not quoted:
            depth -= character in _CLOSE
            if depth == 0:
                yield at, character
            depth += character in _OPEN
