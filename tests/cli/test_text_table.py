"""Text and Markdown tables."""

from __future__ import annotations

from rescompile.diagnostics.text_table import markdown_table, text_table

ROWS = [("name", "count", "ms"), ("a", "10", ""), ("long name", "7", "1.25")]


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    """Columns are as wide as their widest cell, the last letter of `align` repeats, and lines are right-stripped."""
    assert text_table(ROWS, "<>") == ["name       count    ms", "a             10", "long name      7  1.25"]
    assert text_table(ROWS)[1] == "a          10"
    assert text_table([]) == []


def test_markdown() -> None:
    """The first row becomes the header, and the rule below it sets the alignment."""
    assert markdown_table(ROWS, "<>")[:3] == ["| name | count | ms |", "| --- | ---: | ---: |", "| a | 10 |  |"]
