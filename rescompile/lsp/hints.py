"""Inlay hints: what each row of a network produces and costs, at the end of its line."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

from lsprotocol.types import InlayHint

from rescompile.analysis import tree_table
from rescompile.analysis.cost import Cost
from rescompile.ir.network import Side
from rescompile.ir.ops.op import size_text
from rescompile.lsp.documents import Document

#: More changed lines than this are not compared with one another.
_COMPARED = 400
_STALE = "of the last valid state of this file"


def hints(document: Document, first: int = 0, last: int | None = None) -> list[InlayHint]:
    """Return the hints on the lines `first` to `last` of the editor.

    Where the text is not a network, they are those of its last valid state, on the lines where these rows are now.
    """
    valid = document.valid if document.is_spec else None
    if valid is None:
        return []
    labels = dict(labels_of(valid))
    if valid is not document:
        moved = moved_lines(valid, document)
        labels = {moved[line]: label for line, label in labels.items() if line in moved}
    return [
        InlayHint(
            position=document.lines.end_of_line(line),
            label=label,
            tooltip=None if valid is document else _STALE,
            padding_left=True,
        )
        for line, label in sorted(labels.items())
        if first <= line and (last is None or line <= last)
    ]


def labels_of(document: Document) -> list[tuple[int, str]]:
    """Return the lines of a valid document, from 0, on which rows begin, each with what they produce and cost together."""
    network = document.checked.network
    assert network is not None
    rows = list(tree_table.rows(network, 1))
    by_line: dict[int, list[tree_table.Row]] = {}
    for row in rows:
        origin = row.node.origin
        at = (origin.file, origin.line) if origin is not None else _list_place(document, row.name)
        if at[0] == document.source.name:
            by_line.setdefault(document.lines.number(at[1]), []).append(row)
    for line, row in _set_rows(document, rows).items():
        by_line.setdefault(line, [row])
    return [(line, label([row for row in here if row.level == here[0].level])) for line, here in by_line.items()]


def _set_rows(document: Document, listed: Sequence[tree_table.Row]) -> dict[int, tree_table.Row]:
    """Return the lines on which `set` changes one of these rows, each with this row."""
    rows = {row.name: row for row in listed}
    changed: dict[int, set[str]] = {}
    for mention in document.index.mentions:
        if (
            mention.path[:1] == ("set",)
            and mention.is_key
            and mention.entity is not None
            and mention.entity.name in rows
        ):
            changed.setdefault(document.lines.number(mention.place.line), set()).add(mention.entity.name)
    inmost = {line: max(names, key=len) for line, names in changed.items()}
    return {
        line: rows[name] for line, name in inmost.items() if all(_is_around(other, name) for other in changed[line])
    }


def _is_around(outer: str, inner: str) -> bool:
    return inner == outer or inner.startswith(f"{outer}.")


def _list_place(document: Document, name: str) -> tuple[str, int]:
    """Return the file and line of a list of rows, which alone does not remember where it is from."""
    place = document.index.names.row_place(name)
    return (place.source.name, place.line) if place is not None else ("", 0)


def label(rows: list[tree_table.Row]) -> str:
    """`-> 256x56x56, 215.8 k parameters, 667.9 M MACs` of rows one after the other."""
    last = rows[-1].node
    output = size_text(last.child.output if isinstance(last, Side) else last.output)
    total = Cost(sum(row.cost.parameters for row in rows), sum(row.cost.macs for row in rows))
    return f"-> {output}, {tree_table.count(total.parameters)} parameters, {tree_table.count(total.macs)} MACs"


def moved_lines(before: Document, now: Document) -> dict[int, int]:
    """Return where the lines of an earlier text are in the present one; an edited line stays itself."""
    old, new = ([each.lines.line(n) for n in range(each.lines.count)] for each in (before, now))
    start = _common(old, new)
    end = _common(old[start:][::-1], new[start:][::-1])
    moved = {n: n for n in range(start)} | {len(old) - n: len(new) - n for n in range(1, end + 1)}
    middle_old, middle_new = old[start : len(old) - end], new[start : len(new) - end]
    if max(len(middle_old), len(middle_new)) > _COMPARED:
        return moved
    for kind, a, b, c, d in SequenceMatcher(None, middle_old, middle_new, autojunk=False).get_opcodes():
        if kind == "equal" or (kind == "replace" and b - a == d - c):
            moved |= {start + a + n: start + c + n for n in range(b - a)}
    return moved


def _common(one: list[str], other: list[str]) -> int:
    """Return how many lines both begin with."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
