"""The classifiers of a network: the last layers before its outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rescompile.ir.network import Network, Node, Op, Series, Side, walk
from rescompile.ir.ops import Conv, Linear, Norm
from rescompile.ir.traversal import ThreadRules, thread

#: Ops by their full names.
Ops = Mapping[str, Op]


def heads(network: Network) -> Iterator[tuple[str, Op]]:
    """Yield the classifiers of the network and of each side branch: the last ops with parameters, if all of them are linear
    layers or convolutions."""
    owners = [("", network.root), *((p, n.child) for p, n in walk(network.root) if isinstance(n, Side))]
    for path, node in owners:
        last = _last(node, path)
        if all(isinstance(op.kind, Conv | Linear) for op in last.values()):
            yield from last.items()


def gives_features(root: Series) -> bool:
    """Whether the output is a vector, but not of the scores of classes: a norm makes it, as the last layer of an embedding."""
    return len(root.output) == 1 and any(isinstance(op.kind, Norm) for op in _last(root, "").values())


def _last(node: Node, path: str) -> Ops:
    """Return the ops with parameters from which a value reaches the end of a part without passing another one: one op, or
    those at the ends of the branches of a merge. Values from outside of the part have none."""
    rules = ThreadRules[Ops](
        lambda name, op, before: {name: op} if op.kind.parameters(op.input) else before,
        lambda _, __, ends: {name: op for end in ends for name, op in end.items()},
        outside=lambda *_: {},
    )
    return thread(node, {}, rules, path)
