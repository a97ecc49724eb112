"""Completion: puts a placeholder at the cursor, closes the text around it until it can be read, and offers what may stand there."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from lsprotocol.types import (
    CompletionItem,
    CompletionItemKind,
    MarkupContent,
    MarkupKind,
    Position,
    Range,
    TextEdit,
)

from rescompile.diagnostics.errors import BREAK, RescompileError, Source
from rescompile.lang.inheritance import base_of
from rescompile.lang.yaml_reader import Mapping as Values
from rescompile.lang.yaml_reader import read_whatever
from rescompile.lsp.docs import about
from rescompile.lsp.documents import Document
from rescompile.lsp.index import Index
from rescompile.lsp.names import Entity
from rescompile.lsp.offers import OFFERS, Cursor, Item
from rescompile.lsp.positions import Lines
from rescompile.lsp.value_walker import Mention

_BEFORE, _AFTER = re.compile(r"[\w.]*$"), re.compile(r"\w*")
#: Quoted text and comments, in which brackets mean nothing.
_ASIDE = re.compile(r"\"[^\"]*\"|'[^']*'|(?:^|\s)#.*")
#: Stands where the cursor is; long enough to be no name of anybody.
MARK = "completed_here_by_the_editor"
_CLOSING = {"{": "}", "[": "]"}
_KINDS = {
    "key": CompletionItemKind.Property, "op": CompletionItemKind.Function, "attribute": CompletionItemKind.Field,
    "block": CompletionItemKind.Class, "parameter": CompletionItemKind.Variable, "step": CompletionItemKind.Module,
    "spec": CompletionItemKind.File, "kept": CompletionItemKind.Value, "builtin": CompletionItemKind.Constant, "word": CompletionItemKind.EnumMember,
}  # fmt: skip


def completion(document: Document, position: Position) -> list[CompletionItem]:
    """Return what may stand at a position; nothing where any text may."""
    if not document.is_spec and isinstance(document.values, Values):
        return []  # another YAML file
    at = document.lines.index(position)
    start, end = _word(document.text, at)
    typed = document.text[start:at]
    for text in _closed(document.text, start, end):
        if (found := _mark(document, text, start)) is not None:
            index, mention = found
            break
    else:
        return []
    defined = dict.fromkeys(each.entity for each in index.mentions if each.defines and each.entity is not None)
    cursor = Cursor(index.names, document.path, typed, _taken(index, mention), tuple(defined))
    items = {item.entity: item for offer, owner in mention.offers for item in OFFERS[offer](cursor, owner)}
    has_colon = document.text[end : end + 1] == ":"
    where = document.lines.span(start, end)
    return [_made(document, item, where, has_colon) for item in items.values()]


def resolve(item: CompletionItem, documents: Mapping[str, Document]) -> CompletionItem:
    """Return an item with its documentation, among the open documents."""
    data = item.data
    if isinstance(data, dict) and (document := documents.get(data["uri"])) is not None:
        text = about(Entity(*data["entity"]), document.index.names)
        item.documentation = MarkupContent(MarkupKind.Markdown, text) if text else None
    return item


def _made(document: Document, item: Item, where: Range, has_colon: bool) -> CompletionItem:
    name = item.entity.name
    return CompletionItem(
        label=name,
        kind=_KINDS[item.entity.kind],
        detail=item.detail or None,
        text_edit=TextEdit(where, f"{name}: " if item.is_key and not has_colon else name),
        data={"uri": document.uri, "entity": list(item.entity)},
    )


def _word(text: str, at: int) -> tuple[int, int]:
    """Return the range of the word or dotted path around an index."""
    start = at - len(_BEFORE.search(text[:at])[0])  # type: ignore[index]  # it may be empty
    return start, at + len(_AFTER.match(text, at)[0])  # type: ignore[index]


def _closed(text: str, start: int, end: int) -> Iterator[str]:
    """Yield texts with a placeholder from `start` to `end`, as a value and as a key.

    First with the rest of the text, then with the brackets closed instead of the rest of the line, then with nothing after it.
    """
    before, after = text[:start], text[end:]
    rest = after[match.start() :] if (match := BREAK.search(after)) else ""
    line = before[max((match.end() for match in BREAK.finditer(before)), default=0) :]
    opened: list[str] = []
    for bracket in _ASIDE.sub("", line):
        if bracket in _CLOSING:
            opened.append(_CLOSING[bracket])
        elif opened and bracket == opened[-1]:
            opened.pop()
    closing = "".join(reversed(opened))
    for tail in (after, f"{closing}{rest}", closing):
        yield f"{before}{MARK}{tail}"
        if not tail.startswith(":"):
            yield f"{before}{MARK}: {tail}"


def _mark(document: Document, text: str, start: int) -> tuple[Index, Mention] | None:
    """Return what the placeholder is in a text, with the index of that text; None if it is part of something else."""
    values = read_whatever(Source(document.source.name, text), cuts=0)
    if not isinstance(values, Values):
        return None
    try:
        base = base_of(values, document.path, document.texts)
    except RescompileError:
        base = None
    index = Index(values, base, Lines(text))
    as_key = (each for each in index.mentions if each.is_key and each.path[-1:] == (MARK,))
    mention = next(as_key, None) or index.at(start)
    return (index, mention) if mention is not None else None


def _taken(index: Index, mention: Mention) -> frozenset[str]:
    """Return the keys beside a key, or the keys that a value has."""
    around = mention.path[:-1] if mention.is_key else mention.path
    beside = (str(each.path[-1]) for each in index.mentions if each.is_key and each.path[:-1] == around)
    return frozenset(beside) - {MARK}
