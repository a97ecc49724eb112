"""Breaks long lines of Python as `ruff format` does, for the few kinds of lines in generated source."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

WIDTH = 88
_OPEN, _CLOSE = "([{", ")]}"


def laid_out(lines: Iterable[str]) -> Iterator[str]:
    """Yield indented logical lines as physical lines that fit."""
    for line in lines:
        indent = len(line) - len(line.lstrip(" "))
        yield from _split(line, indent)


def _split(line: str, indent: int) -> Iterator[str]:
    """Yield a line, broken at its last bracket if it is too long: the inside on one line, else one part per line."""
    if len(line) <= WIDTH or line.lstrip().startswith(("#", '"""')):
        yield line
        return
    condition = re.fullmatch(r" *((?:if|elif) )(.*):", line)
    if condition is not None and len(operands := _operands(condition[2])) > 1:
        yield f"{' ' * indent}{condition[1]}("
        for operand in operands:
            yield from _split(" " * (indent + 4) + operand, indent + 4)
        yield " " * indent + "):"
        return
    statement = re.fullmatch(r" *((?:\w+ = |return ))(.*)", line)
    if statement is not None and len(operands := _operands(statement[2])) > 2:
        yield f"{' ' * indent}{statement[1]}("
        for operand in operands:
            yield from _split(" " * (indent + 4) + operand, indent + 4)
        yield " " * indent + ")"
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
    deeper = " " * (indent + 4)
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
                yield from _split(deeper + piece + (comma if at == len(pieces) - 1 else ""), indent + 4)
    yield " " * indent + line[end:]


def _operands(part: str) -> list[str]:
    """Return an argument split before each operator of the lowest precedence at its outermost level."""
    depth, cuts = 0, []
    for at, character in _code(part):
        depth += (character in _OPEN) - (character in _CLOSE)
        cuts += [at] if depth == 0 and character == " " else []
    for operators in ((" if ", " else "), (" or ",), (" and ",), (" + ", " - "), (" * ", " // ", " / ")):
        found = [at for at in cuts if part.startswith(operators, at)]
        if found:
            return [part[a:b].strip() for a, b in zip([0, *found], [*found, len(part)], strict=True)]
    return [part]


def _last_bracket(line: str) -> tuple[int, int] | None:
    """Return the last bracket pair of the outermost level."""
    depth, start, found = 0, 0, None
    for at, character in _code(line):
        if character in _OPEN:
            if depth == 0:
                start = at
            depth += 1
        elif character in _CLOSE:
            depth -= 1
            if depth == 0 and at > start + 1:
                found = start, at
    return found


def _parts(inside: str) -> list[str]:
    """Return the texts between the commas of the outermost level."""
    parts, depth, begin = [], 0, 0
    for at, character in _code(inside):
        if character in _OPEN:
            depth += 1
        elif character in _CLOSE:
            depth -= 1
        elif character == "," and depth == 0:
            parts.append(inside[begin:at].strip())
            begin = at + 1
    parts.append(inside[begin:].strip())
    return [part for part in parts if part]


def _code(text: str) -> Iterator[tuple[int, str]]:
    """Yield the characters outside of strings."""
    quoted = False
    for at, character in enumerate(text):
        if character == '"':
            quoted = not quoted
        elif not quoted:
            yield at, character
