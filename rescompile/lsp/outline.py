"""The outline of a text and what an editor can fold."""

from __future__ import annotations

from collections.abc import Iterator

from lsprotocol.types import DocumentSymbol, FoldingRange, FoldingRangeKind, SymbolKind

from rescompile.lang.yaml_reader import Items, Located, Mapping, Scalar
from rescompile.lsp.documents import Document
from rescompile.lsp.names import value_at
from rescompile.lsp.value_walker import Mention, Path

_KINDS = {
    "key": SymbolKind.Namespace, "step": SymbolKind.Module, "block": SymbolKind.Class, "op": SymbolKind.Function,
    "parameter": SymbolKind.Variable,
}  # fmt: skip


def symbols(document: Document) -> list[DocumentSymbol]:
    """Return the keys of a spec; inside them its parameters, its blocks with their parameters and steps, and its rows."""
    top: list[DocumentSymbol] = []
    around: list[tuple[Path, DocumentSymbol]] = []
    for mention in sorted(filter(_is_listed, document.index.mentions), key=lambda m: (m.place.line, m.place.column)):
        symbol = _symbol(document, mention)
        while around and mention.path[: len(around[-1][0])] != around[-1][0]:
            around.pop()
        siblings = around[-1][1].children if around else top
        assert isinstance(siblings, list)
        siblings.append(symbol)
        around.append((mention.path, symbol))
    return top


def _is_listed(mention: Mention) -> bool:
    """Return whether a mention is part of the outline: a key of the spec, a definition, or a row without a name."""
    if mention.entity is None or mention.entity.kind not in _KINDS:
        return False
    is_row = mention.path[:1] == ("network",) and len(mention.path) == 2 and not mention.is_key
    return mention.defines or is_row or (mention.is_key and len(mention.path) == 1)


def _symbol(document: Document, mention: Mention) -> DocumentSymbol:
    entity, lines = mention.entity, document.lines
    assert entity is not None
    node = value_at(document.values, mention.path)
    word = document.index.names.word_of(node) if entity.kind == "step" else None
    start, end = lines.start(mention.place), lines.end(mention.place)
    return DocumentSymbol(
        name=entity.name.rpartition(".")[2] or entity.name,
        kind=_KINDS[entity.kind],
        range=lines.span(start, max(end, _end(document, node) if node is not None else end)),
        selection_range=lines.span(start, end),
        detail=word,
        children=[],
    )


def _end(document: Document, node: Located) -> int:
    """Return the index at which the last part of a value ends."""
    match node:
        case Scalar():
            return document.lines.end(node.place) if node.value is not None else document.lines.start(node.place)
        case Items():
            return max((_end(document, item) for item in node.items), default=document.lines.start(node.place))
        case Mapping():
            ends = (max(document.lines.end(key), _end(document, value)) for key, value in node.entries.values())
            return max(ends, default=document.lines.start(node.place))


def folds(document: Document) -> list[FoldingRange]:
    """Return every value of several lines, from the line of its key, and every comment of several lines."""
    found = dict(_value_folds(document, document.values)) if document.is_spec and document.values is not None else {}
    ranges = [FoldingRange(start, end, kind=FoldingRangeKind.Region) for start, end in sorted(found.items())]
    return [*ranges, *_comments(document)] if document.is_spec else []


def _value_folds(document: Document, node: Located) -> Iterator[tuple[int, int]]:
    """Yield the first and last line of every value of several lines, the outermost of a line last."""
    match node:
        case Items():
            parts = [(item.place, item) for item in node.items]
        case Mapping():
            parts = list(node.entries.values())
        case _:
            return
    for place, value in parts:
        yield from _value_folds(document, value)
        if not isinstance(value, Scalar):
            start, end = document.lines.number(place.line), document.lines.position(_end(document, value)).line
            if end > start:
                yield start, end


def _comments(document: Document) -> Iterator[FoldingRange]:
    """Comments of several lines."""
    start: int | None = None
    for number in range(document.lines.count + 1):
        is_comment = document.lines.line(number).lstrip().startswith("#")
        if is_comment and start is None:
            start = number
        elif not is_comment and start is not None:
            if number - start > 1:
                yield FoldingRange(start, number - 1, kind=FoldingRangeKind.Comment)
            start = None
