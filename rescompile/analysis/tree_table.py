"""The tree as people and machines read it: rows with shapes, parameters and MACs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from typing import Any

from rescompile.analysis.cost import Cost, cost
from rescompile.diagnostics.text_table import text_table
from rescompile.ir.expressions import show
from rescompile.ir.network import Network, Node, Op, Parallel, Series, Side, children, join, scope, walk


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the printed tree."""

    name: str
    what: str
    node: Node
    level: int
    cost: Cost


def rows(network: Network, depth: int) -> Iterator[Row]:
    """The rows of the tree, `depth` levels of them: 1 is the spec's own rows, 2 their blocks, and so on."""
    for child in network.root.children:
        yield from _rows(child, "", 0, depth)


def _rows(node: Node, path: str, level: int, depth: int) -> Iterator[Row]:
    inner = scope(path, node)
    if isinstance(node, Series) and node.name is None and node.call is None:
        for child in node.children:
            yield from _rows(child, inner, level, depth)
        return
    is_list = isinstance(node, Series) and node.call is None and not _repeats(node)
    own = node.output_name if isinstance(node, Side) else node.name
    name = join(path, own) if own and not isinstance(node, Side) else own or ""
    yield Row(name, describe(node), node, level, cost(node))
    if level + 1 < depth or is_list:  # a list of rows is not a level of its own
        for child in children(node):
            yield from _rows(child, inner, level + 1, depth + is_list)


def _repeats(node: Series) -> bool:
    """Whether a node is a row: nothing but the copies of a block."""
    copies = [
        isinstance(child, Series) and child.call is not None and child.call.index is not None for child in node.children
    ]
    return node.call is None and bool(copies) and all(copies)


def describe(node: Node) -> str:
    """What a node is, in words of the spec."""
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
                return f"{len(copies)} x {_called(copies[0])}"
            if not node.children:
                return f"{_called(node)}: identity" if node.call else "identity"
            return _called(node) if node.call else "scope" if isinstance(node.children[0], Parallel) else "list"
        case Parallel():
            words: list[str] = [node.merge]
            if node.split:
                words.append("split")
            if node.residual:
                words.append("residual")
            if node.survival:
                words.append(f"survival={node.survival.probability:.6g}")
            return " ".join(words)
        case Side():
            return {"always": "output", "training": "output in training only", "never": "unused"}[node.mode]


def _is_shown(node: Op, field: Any) -> bool:
    value = getattr(node.kind, field.name)
    return field.name != "init" and (field.default is MISSING or value != field.default)


def _called(node: Series) -> str:
    assert node.call is not None
    defaults = node.call.defaults
    given = {
        name: value for name, value in node.call.arguments.items() if name not in defaults or value != defaults[name]
    }
    arguments = ", ".join(f"{name}={show(value)}" for name, value in given.items())
    return f"{node.call.block}({arguments})" if arguments else node.call.block


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return str(value[0]) if value[0] == value[1] else "x".join(str(n) for n in value)
    return show(value)


def shape(sizes: tuple[int, ...]) -> str:
    """`64x56x56`"""
    return "x".join(str(n) for n in sizes)


def count(number: int) -> str:
    """`4.089 G`: four digits with a unit, for tables."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.4g} {unit}"
    return str(number)


def table(network: Network, depth: int) -> str:
    """The tree as a table, with totals."""
    lines = [("name", "what", "output", "parameters", "MACs")]
    for row in rows(network, depth):
        output = shape(row.node.child.output) if isinstance(row.node, Side) else shape(row.node.output)
        label = "  " * row.level + (row.name if row.name else "-")
        what = row.what if len(row.what) <= 76 else row.what[:73] + "..."
        lines.append((label, what, output, f"{row.cost.parameters:,}", count(row.cost.macs)))
    total = cost(network)
    lines.append(("total", "", shape(network.root.output), f"{total.parameters:,}", count(total.macs)))
    head, *body, last = text_table(lines, "<<>")
    rule = "-" * len(head)
    return "\n".join([head, rule, *body, rule, last])


def summary(network: Network) -> str:
    """The lines above the table."""
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
    if maps := features(network):
        listed = "; ".join(
            f"{name} {facts['channels']} channels, stride {_by(facts['stride'])}" for name, facts in maps.items()
        )
        lines.append(f"features: {listed}")
    return "\n".join(lines)


def _by(stride: Any) -> str:
    """`2` or `1x2`."""
    return "x".join(map(str, stride)) if isinstance(stride, list) else str(stride)


def features(network: Network) -> dict[str, dict[str, Any]]:
    """The outputs that are maps: their channels and their stride, as one number or, where they differ, as height and width."""
    found = {}
    for name, sizes in network.outputs.items():
        if len(sizes) == len(network.input) == 3:
            ratios = [n / m for n, m in zip(network.input[1:], sizes[1:], strict=True)]
            strides = [int(stride) if stride.is_integer() else round(stride, 4) for stride in ratios]
            found[name] = {"channels": sizes[0], "stride": strides if len(set(strides)) > 1 else strides[0]}
    return found


def survival(network: Network) -> dict[str, Any] | None:
    """The survival schedule in force, or None."""
    found = [node.survival for _, node in walk(network.root) if isinstance(node, Parallel) and node.survival]
    if not found:
        return None
    return {
        "count": len(found), "first": found[0].probability, "last": found[-1].probability,
        "expected": sum(s.probability for s in found), "unit": found[0].unit, "rescale": found[0].rescale,
    }  # fmt: skip


def data(network: Network, depth: int) -> dict[str, Any]:
    """The tree for machines; the figures are exact."""
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
        "stages": [
            {
                "name": row.name, "level": row.level, "what": row.what,
                "input_shape": list(row.node.input), "output_shape": list(row.node.output),
                "parameters": row.cost.parameters, "macs": row.cost.macs,
            }
            for row in rows(network, depth)
        ],
    }  # fmt: skip
