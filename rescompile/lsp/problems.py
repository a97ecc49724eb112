"""Diagnostics of the compiler as those of the protocol, each in the document that is edited."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lsprotocol.types import Diagnostic, DiagnosticRelatedInformation, DiagnosticSeverity, Location, Position, Range

from rescompile.diagnostics.errors import Diagnostic as Problem
from rescompile.diagnostics.errors import Place, Source
from rescompile.diagnostics.rendering import paragraph
from rescompile.lang import library
from rescompile.lang.yaml_reader import Mapping
from rescompile.lsp.documents import Document, uri_of
from rescompile.lsp.positions import Lines

SOURCE = "rescompile"
#: A place in a note: `(blocks/bottleneck.yaml:9)`; one in a message: `the other is on line 7`, `at specs/resnet50.yaml:7`.
_IN_NOTE = re.compile(r"\((?P<file>[^()\s]+):(?P<line>\d+)\)")
_IN_MESSAGE = re.compile(r"\b(?:on line |at (?P<file>\S+\.ya?ml):)(?P<line>\d+)")


def problems(document: Document) -> list[Diagnostic]:
    """Return every mistake of a document; nothing where it is not a spec."""
    return [problem_in(document, problem) for problem in document.checked.diagnostics] if document.is_spec else []


def problem_in(document: Document, problem: Problem) -> Diagnostic:
    """One mistake. One in another file is shown at `extends`, with its place as a related one."""
    place, related = problem.place, list(_related(document, problem))
    if place is not None and place.source != document.source:
        related.insert(0, DiagnosticRelatedInformation(location(document, place), problem.message))
        place = _extends(document)
    return Diagnostic(
        range=document.lines.range(place) if place else Range(Position(0, 0), document.lines.end_of_line(0)),
        message=paragraph(problem),
        severity=DiagnosticSeverity.Error,
        code=problem.code,
        source=SOURCE,
        related_information=related or None,
    )


def _extends(document: Document) -> Place | None:
    """Return the place of the base, through which mistakes of other files reach a document."""
    node = document.values.get("extends") if isinstance(document.values, Mapping) else None
    return None if node is None else node.place


def _related(document: Document, problem: Problem) -> Iterator[DiagnosticRelatedInformation]:
    """Yield the places in the notes and the message of a mistake: steps of blocks, and what came first."""
    texts = [(_IN_NOTE, note) for note in problem.notes] + [(_IN_MESSAGE, problem.message)]
    own = problem.place.source.name if problem.place is not None else document.source.name
    for pattern, text in texts:
        for match in pattern.finditer(text):
            name = match["file"] or own
            source = document.source if name == document.source.name else Source(name, "")
            if source is document.source or library.path_of(name).is_file():
                place = Place(source, int(match["line"]), 1, 2)
                yield DiagnosticRelatedInformation(location(document, place), text)


def location(document: Document, place: Place) -> Location:
    """Return a place as the protocol has it, in this document or in another file."""
    if place.source == document.source:
        return Location(document.uri, document.lines.range(place))
    uri = uri_of(library.path_of(place.source.name))
    if not place.source.text:  # only the line is known
        return Location(uri, Range(Position(place.line - 1, 0), Position(place.line - 1, 0)))
    return Location(uri, Lines(place.source.text, document.lines.encoding).range(place))
