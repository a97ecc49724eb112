"""Network -> ONNX graph: the name of one value, threaded through the tree. Nodes and initializers have the names of the tree."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rescompile.backend import rule
from rescompile.ir.network import INPUT, LOGITS, Network, Op, Parallel, Side
from rescompile.ir.traversal import ThreadRules, thread

from .model import Call, Graph
from .ops import RULES, merge

if TYPE_CHECKING:
    from rescompile.analysis.dynamic_shapes import Sizes


def graph_of(network: Network, sizes: Sizes | None = None) -> Graph:
    """The graph of a network, in evaluation mode."""
    shapes = network.outputs
    graph = Graph(taken={INPUT, *shapes}, sizes=sizes)
    outputs: dict[str, str] = {}

    def op(name: str, node: Op, value: str) -> str:
        return rule(RULES, type(node.kind), "onnx")(graph, name, node, node.kind, value)

    def split(name: str, node: Parallel, value: str) -> list[str]:
        count = len(node.branches)
        if node.split and count > 1:
            return graph.split(f"{name}.split", value, count, node.given)
        return [value] * count

    def side(path: str, node: Side, value: str, through: Callable[[str], str]) -> None:
        if node.mode == "always":
            outputs[node.output_name or path] = through(value)

    rules = ThreadRules(op, lambda *branches: merge(graph, *branches), side, split)
    outputs[LOGITS] = thread(network.root, INPUT, rules)
    final = {INPUT: INPUT}  # a value that is an output takes the output's name
    again = [name for name in shapes if final.setdefault(outputs[name], name) != name]
    graph.rename(final)
    for name in again:  # the input itself, or a value that is an output already
        graph.calls.append(Call(f"{name}.output", "Identity", [final[outputs[name]]], name, shapes[name], {}))
    return graph
