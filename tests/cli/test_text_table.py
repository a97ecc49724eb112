"""Tables as text."""

from __future__ import annotations

from rescompile.diagnostics.text_table import markdown_table, text_table

ROWS = [("name", "count", "ms"), ("a", "10", ""), ("long name", "7", "1.25")]


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    """The last letter of `align` stands for the columns after it; no line ends in blanks."""
    assert text_table(ROWS, "<>") == ["name       count    ms", "a             10", "long name      7  1.25"]
    assert text_table(ROWS)[1] == "a          10"
    assert text_table([]) == []


def test_markdown() -> None:
    """The first row is the head, and the rule below it aligns the columns."""
    assert markdown_table(ROWS, "<>")[:3] == ["| name | count | ms |", "| --- | ---: | ---: |", "| a | 10 |  |"]
