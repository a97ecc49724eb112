"""The graph of an ONNX file, without its weights: which external files it needs, and whether an output already is a
probability."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from rescompile.diagnostics.errors import UsageError, clipped
from rescompile.files.protobuf_reader import Field, entry, fields, text

#: Operators that keep the order of the classes and do not change probabilities.
_PASSING = {
    "Cast", "CastLike", "Clip", "DequantizeLinear", "Dropout", "Flatten", "Identity", "QuantizeLinear", "Reshape", "Squeeze",
    "Transpose", "Unsqueeze",
}  # fmt: skip
#: What an operator at the end of a graph computes.
_ENDS = {
    "BatchNormalization": "features",
    "HardSigmoid": "probabilities",
    "LayerNormalization": "features",
    "LogSoftmax": "log-probabilities",
    "LpNormalization": "features",
    "QLinearSigmoid": "probabilities",
    "QLinearSoftmax": "probabilities",
    "Sigmoid": "probabilities",
    "Softmax": "probabilities",
}
_MOST_NESTED = 64


@dataclass(slots=True)
class _Node:
    operator: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)


@dataclass(slots=True)
class OnnxGraph:
    """The nodes of a graph by the values that they compute; the functions of the model by name, each with its outputs; and the
    files with its weights. `is_read` is false for a file in another format, such as ORT's."""

    nodes: dict[str, _Node] = field(default_factory=dict)
    functions: dict[str, tuple[list[str], dict[str, _Node]]] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)
    is_read: bool = False

    def activation(self, output: str) -> str:
        """Return what an output contains: `probabilities` or `log-probabilities` if the graph ends in a softmax or a
        sigmoid, in any equivalent form, `features` if it ends in a norm, else `logits`."""
        return self._activation(output, self.nodes, 0)

    def _activation(self, value: str, nodes: dict[str, _Node], depth: int) -> str:
        for _ in range(len(nodes)):
            node = nodes.get(value)
            if node is None or not node.inputs:
                break
            if node.operator in self.functions and depth < _MOST_NESTED:
                outputs, inner = self.functions[node.operator]
                at = node.outputs.index(value)
                if at < len(outputs):
                    return self._activation(outputs[at], inner, depth + 1)
            found = _ENDS.get(node.operator) or self._written_out(node, nodes)
            if found is not None:
                return found
            if node.operator == "Log" and self._activation(node.inputs[0], nodes, depth + 1) == "probabilities":
                return "log-probabilities"
            if node.operator not in _PASSING:
                break
            value = node.inputs[0]
        return "logits"

    @staticmethod
    def _written_out(node: _Node, nodes: dict[str, _Node]) -> str | None:
        """Return `probabilities` for exp(x) / sum(exp(x)) and 1 / (1 + exp(-x)), else None."""
        if node.operator not in ("Div", "Reciprocal"):
            return None
        below = nodes.get(node.inputs[-1], _Node())
        if below.operator == "ReduceSum" and below.inputs[:1] == node.inputs[:1]:
            above = nodes.get(node.inputs[0], _Node())
            return "probabilities" if above.operator == "Exp" else None
        terms = [nodes.get(name, _Node()).operator for name in below.inputs]
        return "probabilities" if below.operator == "Add" and "Exp" in terms else None


def read(path: str | os.PathLike[str]) -> OnnxGraph:
    """Read the graph of a file. For a file that is not an ONNX model, an empty graph is returned, and the runtime reports
    the error."""
    found = OnnxGraph()
    try:
        with open(path, "rb") as file:
            for part in fields(file, 0, os.fstat(file.fileno()).st_size):
                if part.number == 7:
                    found.is_read = True
                    _read_graph(file, part, found, found.nodes, 0)
                elif part.number == 25:
                    _read_function(file, part, found)
    except (OSError, ValueError):
        return OnnxGraph(files=found.files)
    return found


def check_files(path: str | os.PathLike[str], graph: OnnxGraph) -> None:
    """Raise UsageError if a model refers to external data outside its folder, since that could be any file."""
    folder = os.path.dirname(os.fspath(path)) or "."
    allowed = {os.path.realpath(folder), os.path.dirname(os.path.realpath(path))}
    for name in sorted(graph.files):
        outside = os.path.realpath(os.path.join(folder, name))
        if not any(os.path.commonpath((inside, outside)) == inside for inside in allowed):
            message = f"{os.fspath(path)} refers to external data in {clipped(name)}, which is not in its folder"
            raise UsageError.of("E0801", message, help="move the external data into the folder of the model")


def digest(path: Path) -> str:
    """Return the SHA-256 of a model, including its external data."""
    sha256 = hashlib.sha256()
    for part in sorted(path.parent.glob(f"{path.name}*")):
        with part.open("rb") as file:
            sha256.update(hashlib.file_digest(file, "sha256").digest())
    return sha256.hexdigest()


def _read_graph(file: BinaryIO, at: Field, found: OnnxGraph, nodes: dict[str, _Node], depth: int) -> None:
    """Read a GraphProto: its nodes, and the external files of its initializers, including sparse ones."""
    for part in fields(file, at.start, at.end):
        if part.number == 1:
            _read_node(file, part, found, nodes, depth)
        elif part.number == 5:
            _read_tensor(file, part, found)
        elif part.number == 15:
            _read_sparse(file, part, found)


def _read_function(file: BinaryIO, at: Field, found: OnnxGraph) -> None:
    """Read a FunctionProto."""
    name, outputs = "", list[str]()
    nodes: dict[str, _Node] = {}
    for part in fields(file, at.start, at.end):
        if part.number == 1:
            name = text(file, part)
        elif part.number == 5:
            outputs.append(text(file, part))
        elif part.number == 7:
            _read_node(file, part, found, nodes, 0)
    found.functions[name] = (outputs, nodes)


def _read_node(file: BinaryIO, at: Field, found: OnnxGraph, nodes: dict[str, _Node], depth: int) -> None:
    """Read a NodeProto, and the tensors and graphs in its attributes."""
    node = _Node()
    for part in fields(file, at.start, at.end):
        if part.number in (1, 2):
            (node.inputs if part.number == 1 else node.outputs).append(text(file, part))
        elif part.number == 4:
            node.operator = text(file, part)
        elif part.number == 5:
            _read_attribute(file, part, found, depth)
    nodes.update(dict.fromkeys(node.outputs, node))


def _read_attribute(file: BinaryIO, at: Field, found: OnnxGraph, depth: int) -> None:
    if depth > _MOST_NESTED:
        raise ValueError("graphs are nested too deeply")
    for part in fields(file, at.start, at.end):
        if part.number in (5, 10):
            _read_tensor(file, part, found)
        elif part.number in (6, 11):
            _read_graph(file, part, found, {}, depth + 1)
        elif part.number in (22, 23):
            _read_sparse(file, part, found)


def _read_sparse(file: BinaryIO, at: Field, found: OnnxGraph) -> None:
    """Read a SparseTensorProto: its values and indices."""
    for part in fields(file, at.start, at.end):
        if part.number in (1, 2):
            _read_tensor(file, part, found)


def _read_tensor(file: BinaryIO, at: Field, found: OnnxGraph) -> None:
    """Read where the values of a TensorProto are stored."""
    entries: Iterable[Field] = (part for part in fields(file, at.start, at.end) if part.number == 13)
    found.files.update(value for key, value in (entry(file, part) for part in entries) if key == "location")
