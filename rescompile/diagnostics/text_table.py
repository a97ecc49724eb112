"""Tables as text: columns of a terminal, Markdown, and HTML."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from html import escape
from itertools import zip_longest

Rows = Sequence[Sequence[str]]
#: Prints a table: its rows, the first of which is its head, and the alignment of its columns.
Table = Callable[[Rows, str], list[str]]

#: Between two columns.
_GAP = "  "
#: Where a word that is too long for its column is broken: after these, else anywhere.
_PIECES = re.compile(r"[^,;:/(.|@-]*[,;:/(.|@-]*")
#: Columns of text are not narrower than this.
_NARROWEST = 10


def text_table(rows: Rows, align: str = "<", width: int | None = None, *, head: bool = True) -> list[str]:
    """Return the lines of a table whose columns are as wide as their widest cell. `align` has `<` or `>` for each column; its
    last letter also stands for the columns after it. See `table_rows` for `width` and `head`."""
    return [line for lines in table_rows(rows, align, width, head=head) for line in lines]


def table_rows(
    rows: Rows, align: str = "<", width: int | None = None, *, head: bool = True, least: Sequence[int] = ()
) -> list[list[str]]:
    """Return the lines of each row of a table.

    With a `width`, no line is longer: cells of text are broken into several lines, and numbers, which are aligned to the right,
    are not. A table that cannot be this narrow becomes a list, with a line for each cell. `head` is whether the first row names
    the columns; `least` has the widths of columns whose other rows are printed elsewhere.
    """
    if not rows:
        return []
    aligned = align.ljust(len(rows[0]), align[-1])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    widths = [max(pair) for pair in zip_longest(widths, least, fillvalue=0)]
    if width is not None and _total(widths) > width:
        narrow = _narrowed(rows, aligned, widths, width, head)
        if narrow is None:
            return _listed(rows, width, head)
        widths = narrow
    return [_lines(row, aligned, widths) for row in rows]


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _narrowed(rows: Rows, align: str, widths: Sequence[int], width: int, head: bool) -> list[int] | None:
    """Return widths of columns that fit, taken from the widest ones; None if there are none."""
    body = rows[head:]
    least = []
    for at, side in enumerate(align[: len(widths)]):
        title = max(map(len, rows[0][at].split()), default=0) if head else 0
        cells = [len(row[at]) if side == ">" else min(len(row[at]), _NARROWEST) for row in body]
        least.append(max(title, *cells, 0))
    narrow = list(widths)
    while _total(narrow) > width:
        at = max(range(len(narrow)), key=lambda at: (narrow[at] > least[at], narrow[at]))
        if narrow[at] <= least[at]:
            return None
        narrow[at] -= 1
    return narrow


def _lines(row: Sequence[str], align: str, widths: Sequence[int]) -> list[str]:
    """Return the lines of one row."""
    cells = [wrapped(cell, width) for cell, width in zip(row, widths, strict=True)]
    height = max(map(len, cells))
    lines = zip(*(cell + [""] * (height - len(cell)) for cell in cells), strict=True)
    return [
        _GAP.join(f"{part:{side}{width}}" for part, side, width in zip(line, align, widths, strict=False)).rstrip()
        for line in lines
    ]


def _listed(rows: Rows, width: int, head: bool) -> list[list[str]]:
    """Return a table as a list: each row as lines of a column's name and its cell, or of cells below the first one."""
    if not head:
        return [
            [*wrapped(row[0], width), *(f"  {line}" for cell in row[1:] if cell for line in wrapped(cell, width - 2))]
            for row in rows
        ]
    names, *body = rows
    aside = min(max(map(len, names)), max(width - _NARROWEST - len(_GAP), 1))
    blocks = []
    for row in body:
        cells = [(name, cell) for name, cell in zip(names, row, strict=True) if cell]
        widths = aside, max(width - aside - len(_GAP), 1)
        blocks.append([line for pair in cells for line in _lines(pair, "<<", widths)])
    return [[*block, *([""] * (block is not blocks[-1]))] for block in blocks]


def wrapped(text: str, width: int) -> list[str]:
    """Return a text as lines of at most `width`, broken at spaces, or within words that are longer. Later lines are indented
    like the first."""
    if len(text) <= width:
        return [text]
    indent = text[: len(text) - len(text.lstrip())][: max(width - _NARROWEST, 0)]
    lines, line = [], indent
    for word in text.split():
        for at, piece in enumerate(_pieces(word, width - len(indent))):
            space = " " if at == 0 and line != indent else ""
            if line != indent and len(line) + len(space) + len(piece) > width:
                lines.append(line)
                line, space = indent, ""
            line += space + piece
    return [*lines, line]


def _pieces(word: str, width: int) -> Iterator[str]:
    """Yield a word, or its pieces if it is longer than a line."""
    if len(word) <= width:
        yield word
        return
    for piece in filter(None, _PIECES.findall(word)):
        yield from (piece[at : at + width] for at in range(0, len(piece), width))


def html_table(rows: Rows, align: str = "<") -> str:
    """Return the same table in HTML, with every cell escaped."""
    sides = ["right" if side == ">" else "left" for side in align.ljust(len(rows[0]), align[-1])]
    head, *body = (
        "".join(
            f'<{tag} style="text-align: {side}">{escape(cell)}</{tag}>' for cell, side in zip(row, sides, strict=False)
        )
        for tag, row in zip(("th", *("td" for _ in rows[1:])), rows, strict=True)
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(f'<tr>{row}</tr>' for row in body)}</tbody></table>"


def markdown_table(rows: Rows, align: str = "<") -> list[str]:
    """Return the lines of the same table in Markdown; the first row is its head."""
    head, *rest = rows
    aligned = align.ljust(len(head), align[-1])
    rule = ["---:" if side == ">" else "---" for side in aligned]
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *rest)]
