"""Diagnostics as text, JSON, GitHub annotations or SARIF."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rescompile.errors import CODES, Diagnostic


def render(diagnostics: Sequence[Diagnostic], form: str, colour: bool = False) -> str:
    """All diagnostics in one of FORMS."""
    return FORMS[form](diagnostics) if form != "text" else "\n".join(_text(d, colour) for d in diagnostics)


def _text(diagnostic: Diagnostic, colour: bool) -> str:
    def paint(code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if colour else text

    where = f"{diagnostic.place}: " if diagnostic.place else ""
    lines = [f"{where}{paint('1;31', f'error[{diagnostic.code}]')}: {paint('1', diagnostic.message)}"]
    place = diagnostic.place
    if place is not None and place.source.line(place.line).strip():
        text = place.source.line(place.line)
        number = f"{place.line:>5}"
        width = max(min(place.end, len(text) + 1) - place.column, 1)
        # Tabs stay tabs, so that the carets stand under what they mean.
        indent = "".join("\t" if c == "\t" else " " for c in text[: place.column - 1])
        lines += [f"{number} | {text}", f"{' ' * len(number)} | {indent}{paint('31', '^' * width)}"]
    lines += [f"   {note}" for note in diagnostic.notes]
    if diagnostic.help:
        lines.append(f"   {paint('36', 'help')}: {diagnostic.help}")
    return "\n".join(lines)


def as_data(diagnostic: Diagnostic) -> dict[str, Any]:
    """One diagnostic as JSON has it."""
    place = diagnostic.place
    data: dict[str, Any] = {"code": diagnostic.code, "message": diagnostic.message}
    if place is not None:
        data |= {"file": place.source.name, "line": place.line, "column": place.column, "end_column": place.end}
    return data | {"notes": list(diagnostic.notes), "help": diagnostic.help}


def _json(diagnostics: Sequence[Diagnostic]) -> str:
    return json.dumps({"diagnostics": [as_data(diagnostic) for diagnostic in diagnostics]}, indent=2)


def _github(diagnostics: Sequence[Diagnostic]) -> str:
    """Workflow commands; their values may hold no newline, colon, comma or percent sign as such."""

    def data(text: str) -> str:
        return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")

    def value(text: str) -> str:
        return data(text).replace(":", "%3A").replace(",", "%2C")

    lines = []
    for diagnostic in diagnostics:
        message = "\n".join(
            [diagnostic.message, *diagnostic.notes, *([f"help: {diagnostic.help}"] if diagnostic.help else [])]
        )
        place = diagnostic.place
        where = (
            ""
            if place is None
            else f"file={value(place.source.name)},line={place.line},col={place.column},endColumn={place.end},"
        )
        lines.append(f"::error {where}title={value(diagnostic.code)}::{data(message)}")
    return "\n".join(lines)


def _sarif(diagnostics: Sequence[Diagnostic]) -> str:
    codes = sorted({diagnostic.code for diagnostic in diagnostics})
    rules = [{"id": code, "shortDescription": {"text": CODES[code]}} for code in codes]
    results = []
    for diagnostic in diagnostics:
        text = "\n".join(
            [diagnostic.message, *diagnostic.notes, *([f"help: {diagnostic.help}"] if diagnostic.help else [])]
        )
        result: dict[str, Any] = {"ruleId": diagnostic.code, "level": "error", "message": {"text": text}}
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
