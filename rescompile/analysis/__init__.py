"""What follows from a network without its weights: cost, paths, dynamic shapes, receptive fields, its table."""

from __future__ import annotations

from types import ModuleType

from rescompile.diagnostics.notebook_views import NOTEBOOK_VIEWS


def _views() -> ModuleType:
    from rescompile.analysis import path_views  # imported when a notebook shows one

    return path_views


NOTEBOOK_VIEWS |= {
    "Paths": lambda paths: _views().paths_html(paths),
    "Surviving": lambda surviving: _views().surviving_html(surviving),
}
