"""Multi-output backbones: the feature maps after named parts of a network become outputs besides `logits`."""

from __future__ import annotations

from collections.abc import Sequence

from rescompile.diagnostics.errors import ShapeError, nearest
from rescompile.ir.network import Node, Parallel, Series, Side, name_of, walk
from rescompile.ir.refitting import runs_again
from rescompile.ir.traversal import rewrite


def add_features(root: Series, paths: Sequence[str]) -> Series:
    """Return the tree with a side branch of mode `always` after each named part; the output is named after the part.

    A part is an op or a scope, inside merges too, but not in a side branch. Raises ShapeError for a path that names no
    part.
    """
    computed = {path for path, node in walk(root, into=Series | Parallel) if name_of(node) is not None}
    for path in paths:
        if path not in computed:
            raise ShapeError("E0602", *_why_not(root, path))
    for path in filter(runs_again(root), paths):
        message = f"'{path}' runs again elsewhere, so it has more than one output"
        raise ShapeError("E0602", message, path, "write a 'side' with an 'output' where the map is wanted")
    if len(set(paths)) != len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise ShapeError("E0602", f"the feature '{twice}' is listed twice", twice)

    def tap(path: str, node: Node) -> Node | tuple[Node, Node]:
        if path not in paths or name_of(node) is None:
            return node
        return node, Side(Series((), node.output, node.output), path, "always", node.output)

    return rewrite(root, tap)


def _why_not(root: Series, path: str) -> tuple[str, str, str | None]:
    """Return message, path and help for a path that names no part, or one in a side branch."""
    names = [name for name, node in walk(root) if name and name_of(node) is not None]
    if path in names:
        return (
            f"'{path}' is inside a side branch, so it cannot be an output",
            path,
            "name it as the 'output' of a 'side'",
        )
    top = [name for name in names if "." not in name]
    return f"the network has no part '{path}'", path, nearest(path, names) or f"the parts are {', '.join(top[:12])}"
