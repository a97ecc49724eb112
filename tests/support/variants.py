"""Variants of networks: shallow ones, trees without hints, and trees whose hints no longer match."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import facts

from rescompile.diagnostics.errors import SpecError
from rescompile.ir.network import Network, Node, Op, Parallel, Series, Side, join, name_of, scope, walk
from rescompile.ir.ops import Act, Conv, Norm

Change = Callable[[str, Node], Node]


def shallow(name: str) -> Network:
    """Return a network of the zoo with at most three copies per row and a small input, where possible: every construct
    is still present, and the interpreter is fast."""
    network = facts.network(name)
    deep = {
        path.rpartition(".")[0]
        for path, node in walk(network.root)
        if isinstance(node, Series) and node.call and (node.call.depth or 0) > 3
    }
    rows = [f"{row}.depth=3" for row in sorted(deep) if row]
    for size in (8, 32, 188, None):  # 188 is the smallest input of a U-Net without padding
        channels, *axes = network.input
        smaller = [] if size is None or not axes else [f"input={[channels, *(size for _ in axes)]}"]
        for settings in ((*rows, *smaller), smaller):
            try:
                return facts.network(name, *settings)
            except SpecError:
                continue
    return network


def rebuilt(node: Node, change: Change, path: str = "") -> Node:
    """Return the tree with every node replaced by `change` of its full name and the node, children first."""
    inner = scope(path, node)
    match node:
        case Series():
            node = replace(node, children=tuple(rebuilt(child, change, inner) for child in node.children))
        case Parallel():
            branches = tuple(rebuilt(branch, change, inner) for branch in node.branches)
            node = replace(node, branches=branches)  # type: ignore[arg-type]
        case Side():
            node = replace(node, child=rebuilt(node.child, change, inner))  # type: ignore[arg-type]
    return change(join(path, name_of(node)), node)


def changed(network: Network, change: Change) -> Network:
    """Return the network with every node changed."""
    return replace(network, root=rebuilt(network.root, change))  # type: ignore[arg-type]


def without_hints(network: Network) -> Network:
    """Return the same tree without the expressions from which its numbers came."""

    def bare(_: str, node: Node) -> Node:
        if isinstance(node, Op):
            return replace(node, hints={}, when=None, origin=None)
        if isinstance(node, Side):
            return replace(node, origin=None)
        node = replace(node, when=None, origin=None)
        return replace(node, call=replace(node.call, hints={})) if isinstance(node, Series) and node.call else node

    return replace(changed(network, bare), parameters={}, definitions={})


def other_kernel(network: Network, random: Random) -> Network | None:
    """Return the network with a larger kernel in one convolution of one copy of its block."""

    def wider(kind: Any) -> Any:
        padding = tuple(p + d for p, d in zip(kind.pads, kind.dilation, strict=True))
        return replace(kind, kernel=tuple(k + 2 for k in kind.kernel), padding=padding)

    return _elsewhere(network, random, Conv, wider)


def other_dilation(network: Network, random: Random) -> Network | None:
    """Return the network with a larger dilation in one convolution."""

    def wider(kind: Any) -> Any:
        padding = tuple(p + (k - 1) // 2 for p, k in zip(kind.pads, kind.kernel, strict=True))
        return replace(kind, dilation=tuple(d + 1 for d in kind.dilation), padding=padding)

    return _elsewhere(
        network, random, Conv, wider, lambda kind: all(k % 2 for k in kind.kernel) and max(kind.kernel) > 1
    )


def other_eps(network: Network, random: Random) -> Network | None:
    """Return the network with another epsilon in one norm."""
    return _elsewhere(network, random, Norm, lambda kind: replace(kind, eps=0.25))


def _elsewhere(
    network: Network, random: Random, kind: type, change: Callable[[Any], Any], fits: Callable[[Any], bool] = bool
) -> Network | None:
    """Return the network with one op of a kind changed, or None if there is none."""
    places = [path for path, node in walk(network.root) if isinstance(node, Op) and isinstance(node.kind, kind)
              and (fits is bool or fits(node.kind))]  # fmt: skip
    if not places:
        return None
    place = random.choice(places)
    return changed(
        network,
        lambda path, node: replace(node, kind=change(node.kind)) if isinstance(node, Op) and path == place else node,
    )


def other_activation(network: Network, random: Random) -> Network | None:
    """Return the network with another activation in one of its parts."""
    acts = [path for path, node in walk(network.root) if isinstance(node, Op) and isinstance(node.kind, Act)]
    parts = sorted({path.split(".")[0] for path in acts if "." in path})
    if not parts:
        return None
    part = random.choice(parts)

    def other(path: str, node: Node) -> Node:
        if isinstance(node, Op) and isinstance(node.kind, Act) and path.startswith(f"{part}."):
            return replace(node, kind=replace(node.kind, kind="sigmoid" if node.kind.kind == "tanh" else "tanh"))
        return node

    return changed(network, other)


def without_a_block(network: Network, random: Random) -> Network | None:
    """Return the network without one copy of a block that keeps the shape, at any position of its row."""
    copies = [
        path for path, node in walk(network.root)
        if isinstance(node, Series) and node.call and node.call.index is not None and node.name
        and node.input == node.output and not any(isinstance(inner, Side) for _, inner in walk(node))
    ]  # fmt: skip
    if not copies:
        return None
    place = random.choice(copies)

    def shorter(path: str, node: Node) -> Node:
        if not isinstance(node, Series):
            return node
        inner = scope("", node) if path == "" else path
        kept = tuple(
            child for child in node.children if join(inner, name_of(child)) != place or child.input != child.output
        )
        return replace(node, children=kept)

    return changed(network, shorter)


#: Changes that a pass could make, after which some hints no longer match.
STALE = (other_kernel, other_dilation, other_eps, other_activation, without_a_block)
