"""Renames a block, a parameter, a step or a kept value with all its mentions, or refuses."""

from __future__ import annotations

from collections.abc import Callable

from lsprotocol.types import Position, PrepareRenamePlaceholder, TextEdit, WorkspaceEdit

from rescompile.diagnostics.errors import Place
from rescompile.ir import names as naming
from rescompile.ir import ops
from rescompile.lang import library
from rescompile.lang.spec.values import TAKEN
from rescompile.lsp.documents import Document, Documents
from rescompile.lsp.names import Entity
from rescompile.lsp.navigation import defined, mentions
from rescompile.lsp.value_walker import Mention, unquoted

_RENAMED = ("block", "parameter", "step", "kept")


class CannotRename(Exception):
    """A rename that is refused, with the reason."""


def prepared(document: Document, position: Position) -> PrepareRenamePlaceholder | None:
    """Return the range and the present name of what can be renamed at a position; None where nothing can."""
    mention = document.at(position)
    if mention is None or mention.entity is None or mention.entity.kind not in _RENAMED:
        return None
    try:
        _check_definition(document, mention.entity)
    except CannotRename:
        return None
    place = unquoted(mention.place)
    return PrepareRenamePlaceholder(document.lines.range(place), last(mention.entity))


def rename(document: Document, position: Position, new: str, documents: Documents) -> WorkspaceEdit:
    """Return the edits that rename the thing at a position.

    Raises CannotRename if it comes with rescompile, the name is invalid or taken, or a spec would no longer be valid.
    """
    mention = document.at(position)
    if mention is None or mention.entity is None or mention.entity.kind not in _RENAMED:
        raise CannotRename("only blocks, parameters, steps and kept values can be renamed")
    entity = mention.entity
    _check_definition(document, entity)
    _check_name(document, entity, new)
    edits: dict[str, list[TextEdit]] = {}
    changed: dict[str, tuple[Document, set[tuple[int, int]]]] = {}
    for other, each in mentions(document, entity, documents):
        span = _span(other, each, last(entity))
        _, spans = changed.setdefault(other.uri, (other, set()))
        if span not in spans:
            spans.add(span)
            edits.setdefault(other.uri, []).append(TextEdit(other.lines.span(*span), new))
    _check_result([(other, _replaced(other.text, spans, new)) for other, spans in changed.values()], documents)
    return WorkspaceEdit(changes=edits)


def last(entity: Entity) -> str:
    """Return the name of a thing without those around it."""
    return entity.name.rpartition(".")[2]


def _check_definition(document: Document, entity: Entity) -> None:
    place = defined(document, entity)
    if place is None:
        raise CannotRename(f"'{entity.name}' is not defined")
    file = library.path_of(place.source.name)
    if file != document.path and any(file.is_relative_to(folder) for folder in library.folders()):
        raise CannotRename(f"'{entity.name}' is defined in {place.source.name}, which comes with rescompile")


def _check_name(document: Document, entity: Entity, new: str) -> None:
    """Raise CannotRename for a name that is invalid, or already that of another thing."""
    index = document.index
    if entity.kind == "step":
        reason = None if "{" in new and naming.TEMPLATE.fullmatch(new) else naming.refusal(new)
        scope = entity.name.rpartition(".")[0]
        taken = bool(index.of(Entity("step", f"{scope}.{new}" if scope else new, entity.owner)))
        reserved = new in naming.RESERVED or (new in ops.WORDS and not ops.may_be_name(new))
    else:
        valid = naming.IDENTIFIER.fullmatch(new) and len(new) <= 64
        reason = None if valid else "use a-z, A-Z, 0-9 and _, and do not start with a digit"
        reserved = new in TAKEN or (entity.kind == "block" and new in ops.WORDS)
        taken = _TAKEN[entity.kind](document, entity.owner, new)
    if reason is not None:
        raise CannotRename(f"'{new}' is not a valid name: {reason}")
    if reserved:
        raise CannotRename(f"'{new}' is a reserved word")
    if taken:
        raise CannotRename(f"there already is a {entity.kind} '{new}'")


def _has_value(document: Document, owner: str, name: str) -> bool:
    names = document.index.names
    block = names.block(owner) if owner else None
    return name in (block.values if block is not None else names.parameters)


#: Whether a name is that of another thing already, by the kind of thing and its owner.
_TAKEN: dict[str, Callable[[Document, str, str], bool]] = {
    "block": lambda document, _, name: name in document.index.names.blocks,
    "parameter": _has_value,
    "kept": lambda document, owner, name: bool(document.index.of(Entity("kept", name, owner))),
}


def _span(document: Document, mention: Mention, name: str) -> tuple[int, int]:
    """Return the indices of a mention's name in the text. Raises CannotRename if it is not written there as such."""
    place: Place = mention.place
    for each in (place, unquoted(place)):
        start, end = document.lines.start(each), document.lines.end(each)
        if document.text[start:end] == name:
            return start, end
    raise CannotRename(f"the mention of '{name}' at {place} is written in another way; change it by hand")


def _replaced(text: str, spans: set[tuple[int, int]], new: str) -> str:
    for start, end in sorted(spans, reverse=True):
        text = text[:start] + new + text[end:]
    return text


def _check_result(changed: list[tuple[Document, str]], documents: Documents) -> None:
    """Raise CannotRename if a valid spec would become invalid, since the new name means something else somewhere."""
    after = Documents()
    after.encoding = documents.encoding
    for document in documents.open.values():
        after.put(document.uri, document.text)
    for document, text in changed:
        after.put(document.uri, text)
    for document, _ in changed:
        if document.checked.network is not None and (wrong := after.open[document.uri].checked.diagnostics):
            if document.checked.diagnostics:
                continue  # a published figure that is not met, which has nothing to do with names
            raise CannotRename(f"the spec would no longer be valid: {wrong[0].place}: {wrong[0].message}")
