"""Where a thing is defined and where it is mentioned, in this text and in those that belong to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from lsprotocol.types import DocumentHighlight, Location, Position, Range

from rescompile.diagnostics.errors import Place, RescompileError
from rescompile.lang import library
from rescompile.lsp.documents import Document, Documents, uri_of
from rescompile.lsp.names import Entity, Names
from rescompile.lsp.problems import location
from rescompile.lsp.value_walker import Mention

#: Specs beside a text that are searched for mentions.
MAX_BESIDE = 200


def definition(document: Document, position: Position) -> Location | None:
    """Return where the thing at a position is defined, or None for what the language itself defines."""
    mention = document.at(position)
    if mention is None or mention.entity is None:
        return None
    if mention.entity.kind == "spec":
        file = _base_file(document, mention.entity.name)
        return Location(uri_of(file), Range(Position(0, 0), Position(0, 0))) if file is not None else None
    place = defined(document, mention.entity)
    return location(document, place) if place is not None else None


def defined(document: Document, entity: Entity) -> Place | None:
    """Return the place of the definition of a thing, as a document sees it."""
    find = _DEFINED.get(entity.kind)
    return find(document, document.index.names, entity) if find is not None else None


def _block(_: Document, names: Names, entity: Entity) -> Place | None:
    facts = names.block(entity.name)
    return facts.place if facts is not None else None


def _parameter(_: Document, names: Names, entity: Entity) -> Place | None:
    if not entity.owner:
        entry = names.entry("parameters", entity.name)
    else:
        facts = names.block(entity.owner)
        entry = facts.values.get(entity.name) if facts is not None else None
    return entry[0] if entry is not None else None


def _step(document: Document, names: Names, entity: Entity) -> Place | None:
    place = names.row_place(entity.name) if not entity.owner else None
    return place or _kept(document, names, entity)


def _kept(document: Document, _: Names, entity: Entity) -> Place | None:
    return next((mention.place for mention in document.index.of(entity) if mention.defines), None)


_DEFINED: dict[str, Callable[[Document, Names, Entity], Place | None]] = {
    "block": _block, "parameter": _parameter, "step": _step, "kept": _kept,
}  # fmt: skip


def _base_file(document: Document, name: str) -> Path | None:
    """Return the file that `extends` names, if it is there."""
    file = document.path.parent / name if library.is_file(name) else library.zoo_file(name)
    return file if file is not None and file.is_file() else None


def mentions(document: Document, entity: Entity, documents: Documents) -> Iterator[tuple[Document, Mention]]:
    """Yield every mention of a thing with its document: this one, an open one, or a spec beside this one or its definition.

    A name means the same thing where it has the same definition. What has none is looked for in this document alone.
    """
    place = defined(document, entity)
    for other in [document] if place is None else _relatives(document, entity, place, documents):
        found = other.index.of(entity)
        if found and (place is None or _same(defined(other, entity), place)):
            yield from ((other, mention) for mention in found)


def _same(one: Place | None, other: Place) -> bool:
    return one is not None and (one.source.name, one.line, one.column) == (other.source.name, other.line, other.column)


def _relatives(document: Document, entity: Entity, place: Place, documents: Documents) -> Iterator[Document]:
    """Yield the documents that may mention a thing."""
    yield document
    seen = {document.path.resolve()}
    for other in list(documents.open.values()):
        if other.is_spec and other.path.resolve() not in seen:
            seen.add(other.path.resolve())
            yield other
    word = entity.name.rpartition(".")[2]
    folders = {document.path.parent, library.path_of(place.source.name).parent} - library.folders()
    for file in _files(folders):
        if file.resolve() not in seen:
            try:
                text = documents.texts(file).text
            except RescompileError:
                continue
            if word in text:
                yield Document(uri_of(file), text, documents.texts, encoding=documents.encoding)


def _files(folders: Iterable[Path]) -> list[Path]:
    """Return the specs in folders, at most a number of them."""
    found = (file for folder in sorted(folders) if folder.is_dir() for file in sorted(folder.iterdir()))
    specs = [file for file in found if file.suffix in library.SUFFIXES and file.is_file()]
    return specs[:MAX_BESIDE]


def references(document: Document, position: Position, declared: bool, documents: Documents) -> list[Location]:
    """Return where the thing at a position is mentioned, its definition too if `declared`."""
    mention = document.at(position)
    if mention is None or mention.entity is None or mention.entity.kind == "expression":
        return []
    found = mentions(document, mention.entity, documents)
    return [location(other, each.place) for other, each in found if declared or not each.defines]


def highlights(document: Document, position: Position) -> list[DocumentHighlight]:
    """Return the mentions of the thing at a position in its own text."""
    mention = document.at(position)
    if mention is None or mention.entity is None or mention.entity.kind == "expression":
        return []
    return [DocumentHighlight(document.lines.range(each.place)) for each in document.index.of(mention.entity)]
