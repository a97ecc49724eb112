"""What follows from a network without its weights: cost, paths, dynamic shapes, receptive fields, its table."""

from __future__ import annotations

from typing import Any

from rescompile.diagnostics.notebook_views import NOTEBOOK_VIEWS


def _paths(paths: Any) -> str:
    from rescompile.analysis import path_views

    return path_views.paths_html(paths)


def _surviving(surviving: Any) -> str:
    from rescompile.analysis import path_views

    return path_views.surviving_html(surviving)


NOTEBOOK_VIEWS |= {"Paths": _paths, "Surviving": _surviving}
