"""What a notebook shows of a result or a comparison: its figure and its tables, as HTML that needs nothing else."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from rescompile.bench import plots, report
from rescompile.bench.comparing import Comparison
from rescompile.bench.results import Result
from rescompile.diagnostics.errors import Unavailable
from rescompile.diagnostics.text_table import Rows, Table, html_table

#: What stands for a table in a text until the text is escaped.
_MARK = "\x00{}\x00"


def result_html(result: Result) -> str:
    """Return the figure of a result, if matplotlib is installed, and what `bench` prints."""
    figure = ""
    if result.rows:
        try:
            svg = plots.figure(result, ".svg").decode()
            figure = svg[svg.index("<svg") :]
        except Unavailable:  # the tables are complete without it
            pass
    return figure + _html(lambda table: report.markdown(result, None, table))


def comparison_html(comparison: Comparison) -> str:
    """Return what `compare` prints, without a limit for regressions."""
    return _html(lambda table: report.changes(comparison, float("inf"), table))


def _html(print_with: Callable[[Table], str]) -> str:
    """Return a report as HTML; `print_with` prints it with a function for its tables."""
    tables: list[str] = []

    def table(rows: Rows, align: str) -> list[str]:
        tables.append(html_table(rows, align))
        return [_MARK.format(len(tables) - 1)]

    text = f'<pre style="white-space: pre-wrap">{escape(print_with(table).strip())}</pre>'
    for at, shown in enumerate(tables):
        text = text.replace(_MARK.format(at), f'</pre>{shown}<pre style="white-space: pre-wrap">')
    return text.replace('<pre style="white-space: pre-wrap"></pre>', "")
