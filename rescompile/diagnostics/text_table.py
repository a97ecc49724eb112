"""Tables as text: columns of a terminal, and Markdown."""

from __future__ import annotations

from collections.abc import Sequence

Rows = Sequence[Sequence[str]]


def text_table(rows: Rows, align: str = "<") -> list[str]:
    """The lines of a table whose columns are as wide as their widest cell. `align` has `<` or `>` for each column; its last
    letter also stands for the columns after it."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligned = align.ljust(len(widths), align[-1])
    return [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, aligned, widths, strict=True)).rstrip()
        for row in rows
    ]


def markdown_table(rows: Rows, align: str = "<") -> list[str]:
    """The lines of the same table in Markdown; the first row is its head."""
    head, *rest = rows
    aligned = align.ljust(len(head), align[-1])
    rule = ["---:" if side == ">" else "---" for side in aligned]
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *rest)]
