"""The classifiers of a network: the last layers before its outputs."""

from __future__ import annotations

from collections.abc import Iterator

from rescompile.ir.network import Network, Node, Op, Series, Side, walk
from rescompile.ir.ops import Conv, Linear, Norm
from rescompile.ir.traversal import ThreadRules, thread


def heads(network: Network) -> Iterator[tuple[str, Op]]:
    """Yield the classifiers of the network and of each side branch: the last op with parameters, if it is a linear layer or a
    convolution."""
    owners = [("", network.root), *((p, n.child) for p, n in walk(network.root) if isinstance(n, Side))]
    for path, node in owners:
        if (last := _last(node, path)) is not None and isinstance(last[1].kind, Conv | Linear):
            yield last


def gives_features(root: Series) -> bool:
    """Whether the output is a vector, but not of the scores of classes: a norm makes it, as the last layer of an embedding."""
    last = _last(root, "")
    return len(root.output) == 1 and last is not None and isinstance(last[1].kind, Norm)


def _last(node: Node, path: str) -> tuple[str, Op] | None:
    """Return the last op with parameters, without those of side branches."""
    ops: list[tuple[str, Op]] = []
    rules = ThreadRules(lambda name, op, _: ops.append((name, op)), lambda *_: None, outside=lambda *_: None)
    thread(node, None, rules, path)
    owners = [(name, op) for name, op in ops if op.kind.parameters(op.input)]
    return owners[-1] if owners else None
