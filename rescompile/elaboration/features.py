"""Multi-output backbones: the maps after named parts of a network become outputs beside `logits`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rescompile.diagnostics.errors import ShapeError, nearest
from rescompile.ir.network import Node, Series, Side, join, name_of, walk


def add_features(root: Series, paths: Sequence[str]) -> Series:
    """The tree with a side branch of mode `always` after each named part; the output is called as the part.

    A part is an op or a scope outside of merges. Raises ShapeError for a path that names none.
    """
    wanted = list(paths)
    wanted_once = set(wanted)
    found: set[str] = set()

    def visit(series: Series, path: str) -> Series:
        children: list[Node] = []
        for child in series.children:
            full = join(path, name_of(child))
            children.append(visit(child, full) if isinstance(child, Series) else child)
            if name_of(child) is not None and full in wanted_once and full not in found:
                found.add(full)
                tap = Series((), child.output, child.output)
                children.append(Side(tap, full, "always", child.output))
        return replace(series, children=tuple(children))

    changed = visit(root, "")
    for path in wanted:
        if path not in found:
            raise ShapeError("E0602", *_why_not(root, path))
    if len(set(wanted)) != len(wanted):
        twice = next(path for path in wanted if wanted.count(path) > 1)
        raise ShapeError("E0602", f"the feature '{twice}' is asked for twice", twice)
    return changed


def _why_not(root: Series, path: str) -> tuple[str, str, str | None]:
    """Message, path and help for a path that names no map outside of merges."""
    names = [name for name, node in walk(root) if name and name_of(node) is not None]
    if path in names:
        outer = path
        while "." in outer:
            outer = outer.rpartition(".")[0]
            if outer in names:
                return f"'{path}' is inside a merge, so its map is no map of the network", path, f"'{outer}' is outside"
        return f"'{path}' is inside a merge, so its map is no map of the network", path, None
    top = [name for name in names if "." not in name]
    return f"the network has no part '{path}'", path, nearest(path, names) or f"its parts are {', '.join(top[:12])}"
