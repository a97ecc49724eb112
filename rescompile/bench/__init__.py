"""Benchmarks: interleaved rounds, confidence intervals, result files, tables, figures, comparisons, tuning, predictions.

This package times what `rescompile.runtimes` prepares; it calls no library that runs networks except torch, for references.
"""

from __future__ import annotations

from typing import Any

from rescompile.diagnostics.notebook_views import NOTEBOOK_VIEWS


def _result(result: Any) -> str:
    from rescompile.bench import notebook

    return notebook.result_html(result)


def _comparison(comparison: Any) -> str:
    from rescompile.bench import notebook

    return notebook.comparison_html(comparison)


NOTEBOOK_VIEWS |= {"Result": _result, "Comparison": _comparison}
