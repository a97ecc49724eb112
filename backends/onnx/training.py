"""The training form of a graph: batch statistics in norms, dropout, and residual branches that do not always survive.

Each run draws new random values. ONNX defines BatchNormalization with the biased variance of a batch; with `unbiased`,
running variances are updated with n / (n - 1) times that, for n values per channel, as in PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from rescompile.diagnostics.errors import UsageError
from rescompile.ir import ops
from rescompile.ir.network import TRAINING, Network, Node, Op, Parallel, scope_of, walk

from . import ops as inference
from .file import TYPES
from .model import Call, Graph

#: The opset that introduced the training mode of BatchNormalization.
FIRST_OPSET = 14
_STATISTICS = ("running_mean", "running_var")


def check(network: Network, options: Mapping[str, Any]) -> None:
    """Raise UsageError for options that do not apply to the training form."""
    others = {
        f"--precision {options['precision']}": options["precision"] != "fp32",
        "--softmax": options["softmax"],
        "--fold-batchnorm": "fold-batchnorm" in network.passes,
        f"--opset {options['opset']}": options["opset"] < FIRST_OPSET,
        "--dynamic": options["dynamic"] is not None and network.outputs_of(TRAINING).keys() != network.outputs.keys(),
        "a merge 'shake', whose gradient ONNX cannot express": any(
            isinstance(node, Parallel) and node.merge == "shake" for _, node in walk(network.root)
        ),
        "drop_path": network.drop_path is not None,
    }
    for other, given in others.items():
        if given:
            message = f"--training and {other} cannot be used together"
            raise UsageError.of("E0802", message, help=_HELP.get(other.split()[0]))


_HELP = {
    "--opset": f"norms have a training mode from opset {FIRST_OPSET} on",
    "--fold-batchnorm": "a folded network has no norms to train: fold after training",
    "--softmax": "losses take logits",
    "drop_path": "train the source of a framework, or build with --set drop_path=null to train without it",
    "--dynamic": "heads that only training computes have one size",
}


def updates(graph: Graph) -> dict[str, ops.Shape]:
    """Return the outputs that are new running statistics, with their shapes, followed by the norm outputs that nodes
    compute them from. ONNX Runtime would write a value that is not an output over the old statistics, and over every
    weight with the same values (microsoft/onnxruntime#29878)."""
    given = {value: shape for call in graph.calls if _is_norm(call) for value, shape in call.others.items()}
    return {value: graph.tensors[name].shape for name, value in graph.updates.items()} | given


def _is_norm(call: Call) -> bool:
    return call.operator == "BatchNormalization" and "training_mode" in call.attributes


def name_updates(graph: Graph) -> None:
    """Rename the new running statistics to the names of the old ones, with `.new` appended."""
    names = {value: graph.value(f"{name}.new") for name, value in graph.updates.items()}
    graph.rename(names)
    graph.updates = {name: names[value] for name, value in graph.updates.items()}


def _norm(graph: Graph, name: str, op: Op, kind: ops.Norm, value: str, unbiased: bool = False) -> str:
    """Add batch statistics and new running ones; the old ones have the weight 1 - momentum. If the norm runs again, the
    old ones are those that its previous run computed."""
    output = inference.RULES[ops.Norm](graph, name, op, kind, value)
    if kind.kind != "batch":
        return output
    node, share = graph.calls[-1], 1 - kind.momentum
    node.attributes |= {"momentum": share, "training_mode": 1}
    node.inputs = [graph.updates.get(each, each) for each in node.inputs]
    old = node.inputs[-1]
    for part in _STATISTICS:
        new = graph.value(f"{name}.{part}.computed")
        node.others[new] = op.input[:1]
        graph.updates[f"{name}.{part}"] = new
    if unbiased:
        variance = f"{name}.running_var"
        graph.updates[variance] = _unbiased(graph, variance, old, op.input[0], share, value)
    return output


def _unbiased(graph: Graph, name: str, before: str, channels: int, share: float, value: str) -> str:
    """Add nodes that make the batch's part of a new running variance unbiased; `before` is the old one."""
    shape = (channels,)
    values = graph.call(f"{name}.values", "Size", [value], ())
    size = graph.call(f"{name}.size", "Cast", [values], (), to=TYPES["float32"])
    count = graph.call(f"{name}.count", "Div", [size, graph.number(f"{name}.channels", channels)], ())
    others = graph.call(f"{name}.others", "Sub", [count, graph.number(f"{name}.one", 1)], ())
    ratio = graph.call(f"{name}.ratio", "Div", [count, others], ())
    old = graph.call(f"{name}.old", "Mul", [before, graph.number(f"{name}.share", share)], shape)
    batch = graph.call(f"{name}.batch", "Sub", [graph.updates[name], old], shape)
    return graph.call(
        f"{name}.unbiased", "Add", [old, graph.call(f"{name}.scaled", "Mul", [batch, ratio], shape)], shape
    )


def _dropout(graph: Graph, name: str, op: Op, kind: ops.Dropout, value: str) -> str:
    rate = graph.number(f"{name}.rate", kind.rate)
    always = graph.constant(f"{name}.training", np.array(True))
    return graph.call(name, "Dropout", [value, rate, always], op.output)


def _batch_norms(part: Node, path: str) -> dict[str, None]:
    """Return the batch norms in a part that lives in the scope `path`, in execution order."""
    kinds = ((name, node.kind) for name, node in walk(part, path, again=True) if isinstance(node, Op))
    return {name: None for name, kind in kinds if isinstance(kind, ops.Norm) and kind.kind == "batch"}


def rules(unbiased: bool) -> dict[type[ops.Kind], inference.Rule]:
    """Return the rule of each op in training mode."""
    return {**inference.RULES, ops.Norm: partial(_norm, unbiased=unbiased), ops.Dropout: _dropout}


def begin(graph: Graph, name: str, node: Parallel) -> None:
    """Record the running statistics before a branch that the whole batch may drop: a dropped branch leaves them
    unchanged."""
    if node.survival is not None and node.survival.unit == "batch":
        graph.begun[name] = dict(graph.updates)


def merge(graph: Graph, name: str, node: Parallel, branches: list[str]) -> str:
    """Add the merge of the branches of a node. The first one survives with its probability, drawn once or per sample;
    norms in a branch that the whole batch drops keep their statistics, as if the branch had not been computed."""
    if node.survival is None:
        return inference.MERGES[node.merge](graph, name, node, branches)
    survival, shape = node.survival, node.branches[0].output
    kept = _drawn(graph, f"{name}.survival", node, branches[0])
    branch = branches[0]
    if survival.rescale == "train" and survival.probability > 0:
        share = graph.number(f"{name}.survival.share", survival.probability)
        branch = graph.call(f"{name}.survival.rescaled", "Div", [branch, share], shape)
    zero = graph.number(f"{name}.survival.zero", 0)
    branch = graph.call(f"{name}.survival", "Where", [kept, branch, zero], shape)
    if survival.unit == "batch":
        before = graph.begun[name]
        dropped, *others = (_batch_norms(branch, scope_of(name)) for branch in node.branches)
        for path in dropped:
            if any(path in other for other in others):
                message = (
                    f"--training cannot be used with {path}, which runs in a branch that {name} may drop and in another"
                )
                raise UsageError.of("E0802", message, help="draw per sample, with 'unit: sample' in 'survival'")
            for parameter in (f"{path}.{part}" for part in _STATISTICS):
                old, new = before.get(parameter, parameter), graph.updates[parameter]
                shape = graph.tensors[parameter].shape
                graph.updates[parameter] = graph.call(f"{parameter}.kept", "Where", [kept, new, old], shape)
    return inference.MERGES[node.merge](graph, name, node, [branch, *branches[1:]])


def _drawn(graph: Graph, name: str, node: Parallel, branch: str) -> str:
    """Add the draw of the survivors: one bool, or one per sample."""
    assert node.survival is not None
    limit = graph.number(f"{name}.probability", node.survival.probability)
    if node.survival.unit == "batch":
        blank = graph.numbers(f"{name}.blank", 1, 0)
    else:
        size = graph.call(f"{name}.size", "Shape", [branch], ())
        first = graph.integers(f"{name}.first", [0])
        batch = graph.call(f"{name}.batch", "Gather", [size, first], ())
        ones = graph.integers(f"{name}.ones", [1 for _ in node.output])
        samples = graph.call(f"{name}.samples", "Concat", [batch, ones], (), axis=0)
        blank = graph.call(f"{name}.blank", "ConstantOfShape", [samples], ())
    drawn = graph.call(f"{name}.drawn", "RandomUniformLike", [blank], (), low=0.0, high=1.0)
    return graph.call(f"{name}.kept", "Less", [drawn, limit], ())
