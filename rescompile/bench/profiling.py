"""Attributes time to rows of the spec: the nodes of a profiled run are assigned to the rows that they come from.

Names are the same everywhere, so the name of a runtime's node finds its row in the tree. ONNX Runtime names a fused node after
its last node with a suffix (`layer1.0.act_nchwc`), or after its first with the prefix `fused `; a node that produces an output
may have the output's name. Nodes that belong to no row are listed separately: layout changes that a runtime adds, and in torch
what the network does between its parts. Profiled runs are slower than timed ones, so only the shares are meaningful.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from rescompile.analysis.cost import cost
from rescompile.analysis.tree_table import rows
from rescompile.bench.results import Share
from rescompile.ir.network import LOGITS, Network, Node, Op, Parallel, Series, Side, walk
from rescompile.ir.ops import Dropout

#: The name of the part for nodes that belong to no row of the spec.
OTHER = "(other)"


def shares(network: Network, nodes: Iterable[tuple[str, float]]) -> list[Share]:
    """Return the share of each row of the spec in the time of profiled nodes, and in the multiply-adds, in the order of the
    spec."""
    parts, macs = owners(network)
    seconds = dict.fromkeys([*macs, OTHER], 0.0)
    for name, time in nodes:
        seconds[owner(name, parts) or OTHER] += time
    total, work = sum(seconds.values()) or 1.0, sum(macs.values()) or 1
    return [
        Share(part, time, time / total, macs.get(part, 0) / work)
        for part, time in seconds.items()
        if part != OTHER or time
    ]


def owners(network: Network) -> tuple[dict[str, str], dict[str, int]]:
    """Return the row of each name of the tree and of each output, and the multiply-adds of each row. A side branch that only
    names an existing feature map is not a row, since nothing runs for it."""
    shown = list(rows(network, 1))
    levels = [*(row.level for row in shown[1:]), 0]
    listed = [
        row for row, after in zip(shown, levels, strict=True) if after <= row.level
    ]  # a list consists of its rows
    every = list(walk(network.root))
    parts: dict[str, str] = {}
    outputs: dict[str, str] = {}
    macs: dict[str, int] = {}
    at = 0
    last = OTHER
    for row in listed:
        while every[at][1] is not row.node:
            at += 1
        inside = every[at : at + sum(1 for _ in walk(row.node))]
        at += len(inside)
        if isinstance(row.node, Side) and not row.node.child.children:
            outputs[row.node.output_name or row.name] = last
            continue
        call = row.node.call if isinstance(row.node, Series) else None
        title = row.name or (call.block if call else row.what)
        while title in macs:
            title += "'"
        parts |= {name: title for name, _ in inside if name}
        outputs |= {node.output_name or name: title for name, node in inside if isinstance(node, Side)}
        macs[title] = cost(row.node).macs
        if not isinstance(row.node, Side) and any(_runs(node) for _, node in inside):
            last = title
    return {LOGITS: last, **outputs, **parts}, macs


def _runs(node: Node) -> bool:
    """Return whether a node is executed by itself."""
    return isinstance(node, Parallel) or (isinstance(node, Op) and not isinstance(node.kind, Dropout))


def owner(name: str, parts: Mapping[str, str]) -> str | None:
    """Return the row of a node, whose name is one of the tree's, or one with a suffix."""
    name = name.removeprefix("fused ")
    while name:
        if name in parts:
            return parts[name]
        name = re.sub(r"[._/]?[^._/]*$", "", name)
    return None


def table(profile: Sequence[Share]) -> list[str]:
    """Return lines such as `transition2: 11% of time, 3% of MACs`."""
    width = max((len(share.part) for share in profile), default=0)
    return [
        f"{share.part + ':':<{width + 1}} {share.time:5.1%} of time, {share.macs:5.1%} of MACs" for share in profile
    ]
