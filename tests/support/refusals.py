"""Errors for wrong input, and the checks that every such error must pass, whatever its wording."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import rescompile
from rescompile.diagnostics.codes import CODES
from rescompile.diagnostics.errors import CheckFailed, Diagnostic, RescompileError, SpecError, UsageError
from rescompile.diagnostics.rendering import FORMS, render
from rescompile.elaboration.expect import unmet

#: The limit on a message with its excerpt, however long the user's line: readable, and short enough for a CI annotation.
LONGEST = 2_000


def refusal(path: str | Path, settings: Sequence[str] = ()) -> RescompileError | None:
    """Return the error that `rescompile validate PATH --set ...` reports, or None if the spec is valid.

    Any exception other than those for wrong input is a bug, and is not caught.
    """
    try:
        spec = rescompile.load(path, settings)
        network = rescompile.elaborate(spec)
    except (SpecError, UsageError) as error:
        return error
    problems = [] if settings else unmet(spec, network)
    return CheckFailed(problems) if problems else None


def text_of(error: RescompileError) -> str:
    """Return the text of an error on stderr."""
    return render(error.diagnostics, "text") + "\n"


def hold(error: RescompileError) -> None:
    """Check an error: a known code, a location inside the text, and a rendering in every format that is short and free
    of control characters, so that a spec cannot write to the terminal."""
    hold_text(error)
    for form in FORMS:
        assert render(error.diagnostics, form)


def hold_text(error: RescompileError) -> None:
    """Check an error without the machine-readable formats."""
    assert error.diagnostics
    for diagnostic in error.diagnostics:
        assert diagnostic.code in CODES
        if not (isinstance(error, UsageError) and diagnostic.code.startswith("E08")):
            _placed(diagnostic)
        text = render([diagnostic], "text")
        assert len(text) < LONGEST, f"{len(text):,} characters: {text[:300]}"
        assert text.replace("\n", "").replace("\t", "").isprintable(), f"control character in {text!r}"


def _placed(diagnostic: Diagnostic) -> None:
    place = diagnostic.place
    assert place is not None, f"no place: {diagnostic.code} {diagnostic.message}"
    lines = re.split(r"\r\n|[\n\r\x85\u2028\u2029]", place.source.text)
    assert 1 <= place.line <= len(lines), f"{place} is past the end: {diagnostic.message}"
    assert 1 <= place.column <= len(lines[place.line - 1]) + 1, f"{place} is past the line: {diagnostic.message}"
    assert place.end > place.column
