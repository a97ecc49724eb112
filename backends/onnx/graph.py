"""Network -> ONNX graph: one value name, threaded through the tree. Nodes and initializers are named after the tree."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rescompile.backend import rule
from rescompile.ir.network import EVALUATION, INPUT, LOGITS, TRAINING, Network, Op, Parallel, Side
from rescompile.ir.traversal import ThreadRules, thread

from . import training as form
from .model import Call, Graph
from .ops import RULES, merge
from .versions import DEFAULT_OPSET

if TYPE_CHECKING:
    from rescompile.analysis.dynamic_shapes import Sizes


def graph_of(
    network: Network, sizes: Sizes | None = None, opset: int = DEFAULT_OPSET, training: str | None = None
) -> Graph:
    """Return the graph of a network: in evaluation mode, with the operators of the opset, or in training mode, with
    running variances that are `biased` or `unbiased`."""
    modes = TRAINING if training else EVALUATION
    shapes = network.outputs_of(modes)
    kinds, merged = (form.rules(training == "unbiased"), form.merge) if training else (RULES, merge)
    graph = Graph(taken={INPUT, *shapes}, sizes=sizes, opset=opset)
    outputs: dict[str, str] = {}

    def op(name: str, node: Op, value: str) -> str:
        return rule(kinds, type(node.kind), "onnx")(graph, name, node, node.kind, value)

    def split(name: str, node: Parallel, value: str) -> list[str]:
        if training:
            form.begin(graph, name, node)
        if node.split and len(node.branches) > 1:
            return graph.split(f"{name}.split", value, node.given)
        return [value] * len(node.branches)

    def side(path: str, node: Side, value: str, through: Callable[[str], str]) -> None:
        if node.mode in modes:
            outputs[node.output_name or path] = through(value)

    rules = ThreadRules(op, lambda *branches: merged(graph, *branches), side, split)
    outputs[LOGITS] = thread(network.root, INPUT, rules)
    final = {INPUT: INPUT}  # a value that is an output has the output's name
    again = [name for name in shapes if final.setdefault(outputs[name], name) != name]
    graph.rename(final)
    for name in again:  # the input itself, or a value that is already an output
        graph.calls.append(Call(f"{name}.output", "Identity", [final[outputs[name]]], name, shapes[name], {}))
    if training:
        form.name_updates(graph)
    return graph
