"""Diagnostics as text, JSON, GitHub annotations or SARIF."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from rescompile.diagnostics.codes import CODES
from rescompile.diagnostics.errors import MAX_SHOWN, Diagnostic, Place, not_shown, printable

_LINE, _MESSAGE = 110, 4000


def render(diagnostics: Sequence[Diagnostic], form: str, colour: bool = False) -> str:
    """Return diagnostics in one of the formats of FORMS, or the first of them as text."""
    if form != "text":
        return FORMS[form](diagnostics)
    return "\n".join([*(_text(each, colour) for each in diagnostics[:MAX_SHOWN]), *not_shown(diagnostics)])


def _text(diagnostic: Diagnostic, colour: bool) -> str:
    def paint(code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if colour else text

    place = diagnostic.place
    where = f"{printable(str(place))}: " if place else ""
    lines = [f"{where}{paint('1;31', f'error[{diagnostic.code}]')}: {paint('1', diagnostic.message[:_MESSAGE])}"]
    if place is not None and place.source.line(place.line).strip():
        lines += _excerpt(place, paint)
    lines += [f"   {note}" for note in diagnostic.notes]
    if diagnostic.help:
        lines.append(f"   {paint('36', 'help')}: {diagnostic.help}")
    return "\n".join(lines)


def _excerpt(place: Place, paint: Callable[[str, str], str]) -> list[str]:
    """Return the line with carets under the place; a long line is cut around it. Tabs are kept, so that the carets align."""
    text, column = place.source.line(place.line), place.column - 1
    width = max(min(place.end - 1, len(text)) - column, 1)
    before, after = "", ""
    if len(text) > _LINE:
        start = max(column - _LINE // 2, 0)
        before, after = "..." if start else "", "..." if start + _LINE < len(text) else ""
        text, column = text[start : start + _LINE], column - start
        width = min(width, _LINE - column)
    indent = "".join("\t" if c == "\t" else " " for c in before + text[:column])
    number = f"{place.line:>5}"
    shown = "".join(c if c.isprintable() or c == "\t" else "?" for c in text)
    return [f"{number} | {before}{shown}{after}", f"{' ' * len(number)} | {indent}{paint('31', '^' * width)}"]


def as_data(diagnostic: Diagnostic) -> dict[str, Any]:
    """Return a diagnostic as data for JSON."""
    place = diagnostic.place
    data: dict[str, Any] = {"code": diagnostic.code, "message": diagnostic.message}
    if place is not None:
        data |= {"file": place.source.name, "line": place.line, "column": place.column, "end_column": place.end}
    return data | {"notes": list(diagnostic.notes), "help": diagnostic.help}


def _json(diagnostics: Sequence[Diagnostic]) -> str:
    return json.dumps({"diagnostics": [as_data(diagnostic) for diagnostic in diagnostics]}, indent=2)


def paragraph(diagnostic: Diagnostic) -> str:
    """Return the message with its notes and help, a line each."""
    help = [f"help: {diagnostic.help}"] if diagnostic.help else []
    return "\n".join([diagnostic.message, *diagnostic.notes, *help])


def _github(diagnostics: Sequence[Diagnostic]) -> str:
    """Return workflow commands of GitHub; newlines, colons, commas and percent signs in their values are escaped."""

    def data(text: str) -> str:
        return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")

    def value(text: str) -> str:
        return data(text).replace(":", "%3A").replace(",", "%2C")

    lines = []
    for diagnostic in diagnostics:
        place, where = diagnostic.place, ""
        if place is not None:
            where = f"file={value(printable(place.source.name))},line={place.line},col={place.column},endColumn={place.end},"
        lines.append(f"::error {where}title={value(diagnostic.code)}::{data(paragraph(diagnostic))}")
    return "\n".join(lines)


def _sarif(diagnostics: Sequence[Diagnostic]) -> str:
    codes = sorted({diagnostic.code for diagnostic in diagnostics})
    rules = [{"id": code, "shortDescription": {"text": CODES[code]}} for code in codes]
    results = []
    for diagnostic in diagnostics:
        message = {"text": paragraph(diagnostic)}
        result: dict[str, Any] = {"ruleId": diagnostic.code, "level": "error", "message": message}
        place = diagnostic.place
        if place is not None:
            region = {"startLine": place.line, "startColumn": place.column, "endColumn": place.end}
            location = {"artifactLocation": {"uri": place.source.name}, "region": region}
            result["locations"] = [{"physicalLocation": location}]
        results.append(result)
    tool = {"driver": {"name": "rescompile", "rules": rules}}
    log = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": tool, "results": results}],
    }
    return json.dumps(log, indent=2)


FORMS = {"json": _json, "github": _github, "sarif": _sarif}
