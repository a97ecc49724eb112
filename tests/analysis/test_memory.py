"""The memory of activations equals that of the live values of the ONNX graph, whose shapes are inferred by onnx."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from rescompile import build, elaborate, load
from rescompile.analysis.memory import memory
from rescompile.ir.network import INPUT, LOGITS, Network

onnx = pytest.importorskip("onnx", reason="pip install onnx")

NETWORKS = ("resnet18", "densenet121", "seresnet50", "googlenet")
SPEC = """
rescompile: 1
name: kept
input: [3, 16, 16]
network:
  - conv1: {conv: {channels: 8, kernel: 3}}
  - keep: y
  - conv2: {conv: {channels: 8, kernel: 3}}
  - tap: {side: {output: early, mode: always, body: [{conv3: {conv: {channels: 4, kernel: 1}}}]}}
  - conv4: {conv: {channels: 8, kernel: 3}}
  - use: y
  - conv5: {conv: {channels: 2, kernel: 3}}
"""


def by_graph(network: Network) -> dict[str, int]:
    """Return the bytes that are alive while each node of the graph runs, by the name of the node."""
    model = onnx.load_from_string(build(network, "onnx", structure_only=True, batch=1).to_bytes())
    graph = onnx.shape_inference.infer_shapes(model).graph
    known = [*graph.input, *graph.value_info, *graph.output]
    sizes = {each.name: 4 * math.prod(d.dim_value for d in each.type.tensor_type.shape.dim) for each in known}
    last: dict[str, int] = {each.name: len(graph.node) for each in graph.output}
    born = {INPUT: 0}  # the other inputs are the weights
    for at, node in enumerate(graph.node):
        for name in (*node.input, *node.output):
            last[name] = max(last.get(name, 0), at)
        born |= dict.fromkeys(node.output, at)
    return {
        node.name: sum(sizes[name] for name, start in born.items() if start <= at <= last[name])
        for at, node in enumerate(graph.node)
    }


def pairs_of_live_bytes(network: Network) -> list[tuple[str, Any, Any]]:
    """Return the name, our bytes and the graph's bytes of each op that is a node of the graph under the same name."""
    graph = by_graph(network)
    return [(each.name, each.live, graph[each.name]) for each in memory(network) if each.name in graph]


@pytest.mark.parametrize("name", NETWORKS)
def test_live_bytes_equal_those_of_the_graph(name: str) -> None:
    """The live bytes of every op that is a node of the graph are equal, and more than 80% of the ops are."""
    network = elaborate(load(name))
    found = pairs_of_live_bytes(network)
    assert len(found) > 0.8 * len(memory(network))
    assert [(name, ours) for name, ours, _ in found] == [(name, theirs) for name, _, theirs in found]


def test_kept_values_and_outputs(tmp_path: Path) -> None:
    """A kept value is alive until its last use, and an output until the end."""
    path = tmp_path / "kept.yaml"
    path.write_text(SPEC)
    live = {each.name: each.live for each in memory(elaborate(load(path)))}
    image, wide, small = (4 * channels * 256 for channels in (3, 8, 4))
    assert live["conv1"] == image + wide
    assert live["conv2"] == 2 * wide
    assert live["conv4"] == 3 * wide + small
    assert live["conv5"] == wide + small + 4 * 2 * 256


def test_a_network_that_computes_nothing(tmp_path: Path) -> None:
    """A network that computes nothing has no live values, but still an output."""
    path = tmp_path / "empty.yaml"
    path.write_text("rescompile: 1\nname: empty\ninput: [3, 8, 8]\nnetwork: [identity, flatten]\n")
    network = elaborate(load(path))
    assert memory(network) == []
    assert list(network.outputs) == [LOGITS]
