"""The tree as people and machines read it: rows with shapes, parameters and MACs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, asdict, fields
from itertools import chain
from typing import Any

from rescompile.analysis.cost import Cost, cost
from rescompile.analysis.strides import strides
from rescompile.diagnostics.text_table import table_rows
from rescompile.ir.expressions import show
from rescompile.ir.network import (
    Again,
    Keep,
    Network,
    Node,
    Op,
    Parallel,
    Recall,
    Series,
    Side,
    children,
    join,
    name_of,
    scope,
    value_name,
    walk,
)
from rescompile.ir.ops.op import short_size_text, size_text
from rescompile.records import record


@record
class Row:
    """One line of the printed tree."""

    name: str
    what: str
    node: Node
    level: int
    cost: Cost


def rows(network: Network, depth: int) -> Iterator[Row]:
    """Yield the rows of the tree, `depth` levels of them: 1 is the spec's own rows, 2 their blocks, and so on."""
    for child in network.root.children:
        yield from _rows(child, "", 0, depth)


def _rows(node: Node, path: str, level: int, depth: int) -> Iterator[Row]:
    inner = scope(path, node)
    if isinstance(node, Series) and node.name is None and node.call is None:
        for child in node.children:
            yield from _rows(child, inner, level, depth)
        return
    is_list = isinstance(node, Series) and node.call is None and not _repeats(node)
    own = node.output_name if isinstance(node, Side) else name_of(node)
    name = join(path, own) if own and not isinstance(node, Side) else own or ""
    yield Row(name, describe(node), node, level, cost(node))
    if level + 1 < depth or is_list:  # a list of rows is not a level of its own
        for child in children(node):
            yield from _rows(child, inner, level + 1, depth + is_list)


def _repeats(node: Series) -> bool:
    """Return whether a node is a row: nothing but the copies of a block."""
    copies = [
        isinstance(child, Series) and child.call is not None and child.call.index is not None for child in node.children
    ]
    return node.call is None and bool(copies) and all(copies)


def describe(node: Node) -> str:
    """Return what a node is, in words of the spec."""
    match node:
        case Op():
            facts = [
                f"{field.name}={_shown(getattr(node.kind, field.name))}"
                for field in fields(node.kind)
                if _is_shown(node, field)
            ]
            return " ".join([node.kind.word, *facts])
        case Series():
            if _repeats(node):
                copies = [child for child in node.children if isinstance(child, Series) and child.call]
                return f"{len(copies)} x {_called(*copies)}"
            if not node.children:
                return f"{_called(node)}: identity" if node.call else "identity"
            return _called(node) if node.call else "scope" if isinstance(node.children[0], Parallel) else "list"
        case Parallel():
            words: list[str] = [node.merge]
            if node.split:
                words.append(f"split={'+'.join(map(str, node.sizes))}" if node.sizes else "split")
            if node.unit:
                words.append(f"unit={node.unit}")
            if node.residual:
                words.append("residual")
            if node.survival:
                words.append(f"survival={node.survival.probability:.6g}")
            return " ".join(words)
        case Again():
            return f"again {node.name}"
        case Keep():
            return f"keep {value_name(node.key)}"
        case Recall():
            return f"use {value_name(node.key)}"
        case Side():
            return {"always": "output", "training": "output in training only", "never": "unused"}[node.mode]


def _is_shown(node: Op, field: Any) -> bool:
    value = getattr(node.kind, field.name)
    return field.name != "init" and (field.default is MISSING or value != field.default)


def _called(*copies: Series) -> str:
    """Return a block with its arguments, except those that are its defaults. One that differs among the copies has all of its
    values, unless only the first copy gets it."""
    calls = [copy.call for copy in copies if copy.call is not None]
    defaults, given = calls[0].defaults, []
    for name, first in calls[0].arguments.items():
        others = [call.arguments[name] for call in calls[1:]]
        default = defaults.get(name, first)
        if any(value != default for value in others) and any(value != first for value in others):
            listed = list(map(show, [first, *others]))
            shown = listed if len(listed) < 6 else [*listed[:2], "...", listed[-1]]
            given.append(f"{name}={{each: [{', '.join(shown)}]}}")
        elif name not in defaults or first != default:
            given.append(f"{name}={show(first)}")
    return f"{calls[0].block}({', '.join(given)})" if given else calls[0].block


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return short_size_text(value)
    return show(value)


def count(number: int) -> str:
    """`4.089 G`: four digits with a unit, for tables."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.4g} {unit}"
    return str(number)


def table(network: Network, depth: int, width: int | None = None) -> str:
    """Return the tree as a table, with totals; its lines are at most `width` long."""
    lines = [("name", "what", "output", "parameters", "MACs")]
    for row in rows(network, depth):
        output = size_text(row.node.child.output if isinstance(row.node, Side) else row.node.output)
        label = "  " * row.level + (row.name if row.name else "-")
        what = row.what if len(row.what) <= 76 else row.what[:73] + "..."
        lines.append((label, what, output, f"{row.cost.parameters:,}", count(row.cost.macs)))
    total = cost(network)
    lines.append(("total", "", size_text(network.root.output), f"{total.parameters:,}", count(total.macs)))
    head, *body, last = table_rows(lines, "<<>", width)
    rule = ["-" * max(map(len, chain(head, *body, last)))]
    return "\n".join(chain(head, rule, *body, rule, last))


def summary(network: Network) -> str:
    """Return the lines above the table."""
    outputs = ", ".join(f"{name} [batch, {', '.join(map(str, sizes))}]" for name, sizes in network.outputs.items())
    lines = [
        f"{network.name}: input [batch, {', '.join(map(str, network.input))}] -> {outputs}",
        f"spec sha256 {network.sha256}",
    ]
    if network.passes:
        lines.append(f"passes: {' '.join(network.passes)}")
    if facts := survival(network):
        lines.append(
            f"survival: L = {facts['count']} residuals, p_1 = {facts['first']:.6g}, p_L = {facts['last']:.6g}, "
            f"expected {facts['expected']:.6g}; drawn per {facts['unit']}, rescaled at {facts['rescale']}"
        )
    if how := network.drop_path:
        lines.append(
            f"drop-path: rate {how.rate:.6g}, one column in {how.columns:.6g} of the draws, drawn per {how.unit}"
        )
    if maps := features(network):
        listed = "; ".join(f"{name} {facts['channels']} channels{_by(facts['stride'])}" for name, facts in maps.items())
        lines.append(f"features: {listed}")
    return "\n".join(lines)


def _by(stride: Any) -> str:
    """`, stride 2` or `, stride 1x2`; nothing for a map without a stride."""
    if stride is None:
        return ""
    return f", stride {'x'.join(map(str, stride)) if isinstance(stride, list) else stride}"


def features(network: Network) -> dict[str, dict[str, Any]]:
    """Return the outputs that are maps: their channels and their stride, as one number or, where the axes differ, as one for
    each; None where there is no stride."""
    found, by = {}, strides(network)
    for name, sizes in network.outputs.items():
        if len(sizes) == len(network.input) > 1:
            stride = by[name]
            exact = stride and [int(side) if side.denominator == 1 else float(side) for side in stride]
            found[name] = {"channels": sizes[0], "stride": exact[0] if exact and len(set(exact)) == 1 else exact}
    return found


def survival(network: Network) -> dict[str, Any] | None:
    """Return the survival schedule in force, or None."""
    found = [node.survival for _, node in walk(network.root) if isinstance(node, Parallel) and node.survival]
    if not found:
        return None
    return {
        "count": len(found), "first": found[0].probability, "last": found[-1].probability,
        "expected": sum(s.probability for s in found), "unit": found[0].unit, "rescale": found[0].rescale,
    }  # fmt: skip


def data(network: Network, depth: int) -> dict[str, Any]:
    """Return the tree for machines; the figures are exact."""
    total = cost(network)
    return {
        "name": network.name,
        "sha256": network.sha256,
        "passes": list(network.passes),
        "parameters": total.parameters,
        "macs": total.macs,
        "activation_bytes": total.activations,
        "input_shape": list(network.input),
        "output_shapes": {name: list(sizes) for name, sizes in network.outputs.items()},
        "features": features(network),
        "survival": survival(network),
        "drop_path": asdict(network.drop_path) if network.drop_path else None,
        "stages": [
            {
                "name": row.name, "level": row.level, "what": row.what,
                "input_shape": list(row.node.input), "output_shape": list(row.node.output),
                "parameters": row.cost.parameters, "macs": row.cost.macs,
            }
            for row in rows(network, depth)
        ],
    }  # fmt: skip
