"""Network -> ONNX, written directly: no framework, no tracing, a batch axis that stays free.

One table row per op says which node it becomes; the walk threads one value through the tree. Node and initializer names
are the names of the tree.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rescompile.backend import Artifact, Option, Recorded, origin, rule
from rescompile.diagnostics.errors import CheckFailed, Diagnostic, UsageError
from rescompile.ir import ops
from rescompile.ir.network import INPUT, LOGITS, Network, Node, Op, Parallel, Series, Side, join, scope
from rescompile.ir.ops import Shape
from rescompile.version import __version__
from rescompile.weights import Array, Weights

from .file import TYPES, Call, Model, Tensor, Value, described, files
from .protobuf import fields

if TYPE_CHECKING:
    from rescompile.analysis.dynamic_shapes import Sizes

SUFFIX = ".onnx"
PRODUCER = ("rescompile", __version__)
DYNAMIC, PRECISION, MADE_FOR = "rescompile.dynamic", "rescompile.precision", "rescompile.for"
OPSET, BATCH, WEIGHTS = "rescompile.opset", "rescompile.batch", "rescompile.weights"
CALIBRATION = "rescompile.calibration"
#: The first opset that has all operators used here, which most runtimes read.
LEAST = 17
OPTIONS = (
    Option("opset", int, LEAST, "ONNX opset of the graph", LEAST, 21),
    Option("batch", int, None, "fix the batch to this size instead of leaving it free", 1, 1 << 20),
    Option(
        "precision",
        str,
        "fp32",
        "fp16 holds weights and computes in float16; int8 multiplies whole numbers",
        words=("fp32", "fp16", "int8"),
    ),
    Option("dynamic", str, None, "axes of the image to leave free: height,width"),
    Option("made_for", str, None, "the runtime whose recipe gave the options, to be recorded"),
)


def emit(network: Network, weights: Weights | None, **options: Any) -> Artifact:
    """The network as an ONNX model: input `input`, output `logits`, then the outputs of side branches that are always
    computed. Without weights the parameters are inputs of the graph.

    In fp16 weights and nodes are float16, and the input and the outputs stay float32, so that the file takes the place of
    the other one. Raises CheckFailed, when it is written, for a weight that float16 cannot hold. Raises UsageError for int8,
    which takes data beside the network: `rescompile.build` has them."""
    if options["precision"] == "int8":
        raise UsageError(Diagnostic("E0802", "a network becomes int8 by data", help="use rescompile.build"))
    sizes = _sizes(network, options["dynamic"])
    graph = graph_of(network, sizes)
    if options["precision"] == "fp16":
        _halve(graph, network)
        weights = weights.replaced({name: _halved(weights, name) for name in weights}) if weights is not None else None
    batch = options["batch"] or "batch"
    shape = sizes.input if sizes else network.input
    outputs = sizes.outputs if sizes else network.outputs
    inputs = [Value(INPUT, (batch, *shape))]
    if weights is None:
        inputs += [
            Value(tensor.name, tensor.shape, tensor.dtype) for tensor in graph.tensors if tensor.constant is None
        ]
    tensors = [tensor for tensor in graph.tensors if weights is not None or tensor.constant is not None]
    model = Model(
        network.name,
        graph.calls,
        tensors,
        inputs,
        [Value(name, (batch, *shape)) for name, shape in outputs.items()],
        options["opset"],
        PRODUCER,
        _metadata(network, weights, sizes, options),
    )
    facts = _facts(network, sizes, len(graph.calls), options)
    return Artifact(network, SUFFIX, lambda name: files(model, weights, name), facts)


def rewritten(
    network: Network, weights: Weights, model: bytes, nodes: int, calibration: Mapping[str, Any], facts: Mapping[str, Any],
    **options: Any,
) -> Artifact:  # fmt: skip
    """An artifact of a model that somebody else's tool made of ours: the bytes of a ModelProto without metadata, which gets
    that of ours, what it was calibrated with beside it, and the seal."""
    sizes = _sizes(network, options["dynamic"])
    record = {CALIBRATION: json.dumps(calibration, sort_keys=True)}
    metadata = {**_metadata(network, weights, sizes, options), **record}
    facts = {**_facts(network, sizes, nodes, options), **facts}
    return Artifact(network, SUFFIX, lambda name: [described(model, metadata, name)], facts)


def _metadata(
    network: Network, weights: Weights | None, sizes: Sizes | None, options: Mapping[str, Any]
) -> dict[str, str]:
    """What a model records of its origin: what is not said is the default."""
    metadata = {
        "rescompile.spec": network.text,
        "rescompile.sha256": network.sha256,
        "rescompile.passes": json.dumps(network.passes),
    }
    if options["precision"] != "fp32":
        metadata[PRECISION] = options["precision"]
    if options["made_for"] is not None:
        metadata[MADE_FOR] = options["made_for"]
    if options["opset"] != LEAST:
        metadata[OPSET] = str(options["opset"])
    if options["batch"] is not None:
        metadata[BATCH] = str(options["batch"])
    if (source := origin(weights)) is not None:
        metadata[WEIGHTS] = source
    if network.preprocess:
        metadata["rescompile.preprocess"] = json.dumps(network.preprocess, sort_keys=True)
    if sizes:
        metadata[DYNAMIC] = json.dumps(sizes.data())
    return metadata


def _facts(network: Network, sizes: Sizes | None, nodes: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """Statements about a model, for people and for --json."""
    batch = options["batch"] or "batch"
    outputs = sizes.outputs if sizes else network.outputs
    return {
        "input": [batch, *(sizes.input if sizes else network.input)],
        "outputs": {name: [batch, *shape] for name, shape in outputs.items()},
        "nodes": nodes,
        "opset": options["opset"],
        "precision": options["precision"],
        **({"for": options["made_for"]} if options["made_for"] is not None else {}),
        **({"free": sizes.data()} if sizes else {}),
    }


def _sizes(network: Network, dynamic: str | None) -> Sizes | None:
    """What is free of the image. Raises UsageError where something fixes it."""
    if dynamic is None:
        return None
    from rescompile.analysis.dynamic_shapes import sizes  # most files are of one size

    return sizes(network, dynamic)


def extract(path: Path) -> Recorded | None:
    """What a model records of the spec it came from; None where it records nothing. Raises UsageError for another file."""
    found: dict[str, str] = {}
    numbers = set()
    try:
        with path.open("rb") as file:
            for number, value in fields(file, wanted=14):
                numbers.add(number)
                if number == 14:
                    key, text = (part.decode() for _, part in fields(io.BytesIO(value)))
                    found[key] = text
        if not {1, 7} <= numbers:
            raise ValueError("it has no version or no graph")
    except (OSError, ValueError) as error:
        raise UsageError(Diagnostic("E0801", f"{path} cannot be read as an ONNX model: {error}")) from None
    if "rescompile.spec" not in found:
        return None
    try:
        passes = tuple(json.loads(found.get("rescompile.passes", "[]")))
        return Recorded(found["rescompile.spec"], found.get("rescompile.sha256", ""), passes, tuple(_recorded(found)))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise UsageError(Diagnostic("E0801", f"what {path} records beside its spec cannot be read")) from None


def _recorded(found: Mapping[str, str]) -> Iterator[str]:
    """The options that a model was built with, as they are typed. A precision is said with a recipe too, which may have another."""
    if MADE_FOR in found:
        yield f"for={found[MADE_FOR]}"
    if PRECISION in found or MADE_FOR in found:
        yield f"precision={found.get(PRECISION, 'fp32')}"
    for key, option in ((OPSET, "opset"), (BATCH, "batch")):
        if key in found:
            yield f"{option}={found[key]}"
    if DYNAMIC in found:
        yield f"dynamic={','.join(json.loads(found[DYNAMIC]))}"
    if WEIGHTS in found:
        yield found[WEIGHTS]
    if CALIBRATION in found:
        calibration = json.loads(found[CALIBRATION])
        seed = calibration.get("seed")  # of inputs that were drawn
        yield "calibrate=FOLDER" if seed is None else f"calibrate={calibration['inputs']}"
        if seed and not found.get(WEIGHTS, "").startswith("seed="):
            yield f"seed={seed}"


# --- the graph --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Graph:
    """The nodes and initializers made so far. Every value is called after the node that makes it."""

    calls: list[Call] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)  # names of values, those of inputs and outputs from the start
    sizes: Sizes | None = None

    def free(self, name: str) -> tuple[bool, bool]:
        """Whether height and width are free where this op is. A rule may use no size that is."""
        return self.sizes.ops[name] if self.sizes else (False, False)

    def call(self, name: str, operator: str, inputs: Iterable[str], shape: Shape, **attributes: Any) -> str:
        """Add a node and return the name of its value."""
        value = self.value(name)
        self.calls.append(Call(name, operator, list(inputs), value, shape, attributes))
        return value

    def value(self, name: str) -> str:
        """The name of a new value."""
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        return name

    def split(self, name: str, value: str, count: int, shape: Shape) -> list[str]:
        """Add a node that takes a value apart into `count` ranges of its channels, and return the names of these values.

        Sizes are an input: opsets before 18 have no `num_outputs`, and from it on one of the two is needed."""
        sizes = self.constant(f"{name}.sizes", np.full(count, shape[0], np.int64))
        first, *others = [self.value(f"{name}.{at}") for at in range(count)]
        self.calls.append(Call(name, "Split", [value, sizes], first, shape, {"axis": 1}, others))
        return [first, *others]

    def weights(self, name: str, op: Op, *parts: str) -> list[str]:
        """Add the named parameters of an op as initializers and return their names."""
        owned = {parameter.name: parameter for parameter in op.kind.parameters(op.input)}
        for part in parts:
            self.tensors.append(Tensor(f"{name}.{part}", owned[part].shape))
        return [f"{name}.{part}" for part in parts]

    def constant(self, name: str, value: Array) -> str:
        """Add a constant as an initializer and return its name."""
        self.tensors.append(Tensor(name, value.shape, value.dtype.name, value))
        return name

    def number(self, name: str, value: float) -> str:
        """Add a single number as a constant and return its name."""
        return self.constant(name, np.array(value, np.float32))

    def numbers(self, name: str, count: int, value: float) -> str:
        """Add one number, so many times, as a constant and return its name."""
        return self.constant(name, np.full(count, value, np.float32))

    def rename(self, names: Mapping[str, str]) -> None:
        """Call values otherwise, where they are made and wherever they are used."""
        for call in self.calls:
            call.output = names.get(call.output, call.output)
            call.others = [names.get(value, value) for value in call.others]
            call.inputs = [names.get(value, value) for value in call.inputs]


def graph_of(network: Network, sizes: Sizes | None = None) -> Graph:
    """The graph of a network, in evaluation mode."""
    shapes = network.outputs
    graph = Graph(taken={INPUT, *shapes}, sizes=sizes)
    outputs: dict[str, str] = {}
    outputs[LOGITS] = _thread(network.root, "", INPUT, graph, outputs)
    called = {INPUT: INPUT}  # what values are called in the end
    again = [name for name in shapes if called.setdefault(outputs[name], name) != name]
    graph.rename(called)
    for name in again:  # the input itself, or a value that is an output already
        graph.calls.append(Call(f"{name}.output", "Identity", [called[outputs[name]]], name, shapes[name], {}))
    return graph


def _thread(node: Node, path: str, value: str, graph: Graph, outputs: dict[str, str]) -> str:
    """Add what computes `node` from `value`, and return the value after it."""
    match node:
        case Op():
            return rule(RULES, type(node.kind), "onnx")(graph, join(path, node.name), node, node.kind, value)
        case Series():
            inner = scope(path, node)
            for child in node.children:
                value = _thread(child, inner, value, graph, outputs)
            return value
        case Parallel():
            count = len(node.branches)
            name = join(path, node.name)
            given = [value] * count
            if node.split and count > 1:
                given = graph.split(f"{name}.split", value, count, node.given)
            branches = [
                _thread(branch, path, part, graph, outputs) for branch, part in zip(node.branches, given, strict=True)
            ]
            return _merge(graph, name, node, branches)
        case Side(mode="always"):
            outputs[node.output_name or path] = _thread(node.child, path, value, graph, outputs)
    return value


def _merge(graph: Graph, name: str, node: Parallel, branches: list[str]) -> str:
    shape = node.output
    if node.survival is not None and node.survival.rescale == "test":
        factor = graph.number(f"{name}.survival.factor", node.survival.probability)
        branches[0] = graph.call(f"{name}.survival", "Mul", [branches[0], factor], node.branches[0].output)
    if node.merge == "concat":
        return graph.call(name, "Concat", branches, shape, axis=1)
    if node.merge == "gate":  # g b + (1 - g) s = s + g (b - s)
        branch, gate, shortcut = branches
        difference = graph.call(f"{name}.difference", "Sub", [branch, shortcut], shape)
        gated = graph.call(f"{name}.gated", "Mul", [gate, difference], shape)
        return graph.call(name, "Add", [gated, shortcut], shape)
    operator = {"add": "Add", "mul": "Mul"}[node.merge]
    value = branches[0]
    for at, branch in enumerate(branches[1:], 1):
        last = at == len(branches) - 1
        value = graph.call(name if last else f"{name}.{at}", operator, [value, branch], shape)
    return value


def _halve(graph: Graph, network: Network) -> None:
    """Make a graph of float32 one of float16, between casts of its input and its outputs."""
    taken = graph.taken | {call.output for call in graph.calls}

    def inner(name: str) -> str:
        while (name := f"{name}_half") in taken:
            pass
        return name

    outputs = network.outputs
    called = {name: inner(name) for name in (INPUT, *outputs)}
    graph.rename(called)
    first = Call(called[INPUT], "Cast", [INPUT], called[INPUT], network.input, {"to": TYPES["float16"]})
    last = [
        Call(f"{name}.cast", "Cast", [called[name]], name, shape, {"to": TYPES["float32"]})
        for name, shape in outputs.items()
    ]
    graph.calls = [first, *graph.calls, *last]
    scales = {call.inputs[2] for call in graph.calls if call.operator == "Resize"}  # which are float32 in any graph
    graph.tensors = [
        replace(
            tensor, dtype="float16", constant=None if tensor.constant is None else tensor.constant.astype(np.float16)
        )
        if tensor.dtype == "float32" and tensor.name not in scales
        else tensor
        for tensor in graph.tensors
    ]


def _halved(weights: Weights, name: str) -> Callable[[], Array]:
    """What makes a weight in float16."""

    def make() -> Array:
        value = weights[name]
        if value.dtype != np.float32:
            return value
        with np.errstate(over="ignore"):
            half = value.astype(np.float16)
        if np.isinf(half).any() and not np.isinf(value).any():
            message = f"{name} has values up to {np.abs(value).max():.3g}, and float16 ends at 65504"
            raise CheckFailed(Diagnostic("E0702", message, help="fold norms, or build in fp32"))
        return half

    return make


# --- one row per op ---------------------------------------------------------------------------------------------------

Rule = Callable[[Graph, str, Op, Any, str], str]


def _conv(graph: Graph, name: str, op: Op, kind: ops.Conv, value: str) -> str:
    weights = graph.weights(name, op, "weight", *(("bias",) if kind.bias else ()))
    return graph.call(
        name, "Conv", [value, *weights], op.output,
        kernel_shape=kind.kernel, strides=kind.stride, pads=(*kind.pads, *kind.pads), dilations=kind.dilation, group=kind.groups,
    )  # fmt: skip


def _linear(graph: Graph, name: str, op: Op, kind: ops.Linear, value: str) -> str:
    weights = graph.weights(name, op, "weight", *(("bias",) if kind.bias else ()))
    return graph.call(name, "Gemm", [value, *weights], op.output, transB=1)


def _norm(graph: Graph, name: str, op: Op, kind: ops.Norm, value: str) -> str:
    return _NORMS[kind.kind](graph, name, op, kind, value)


def _batch_norm(graph: Graph, name: str, op: Op, kind: ops.Norm, value: str) -> str:
    weights = graph.weights(name, op, "weight", "bias", "running_mean", "running_var")
    return graph.call(name, "BatchNormalization", [value, *weights], op.output, epsilon=kind.eps)


def _group_norm(graph: Graph, name: str, op: Op, kind: ops.Norm, value: str) -> str:
    """Instance normalisation of whole groups, then a scale and a shift for each channel in one pass over the map.

    GroupNormalization is another operator in opset 18 than in 21, and ONNX Runtime has a kernel for neither. The shapes leave
    height and width open: 0 keeps a size, -1 takes what is left. Free sizes may be large ones.
    """
    channels, groups, width = op.input[0], kind.groups, op.input[2:]
    scale, shift = graph.weights(name, op, "weight", "bias")
    exact = len(op.input) == 1 or (math.prod(op.input) // groups <= LONG_SUM and not any(graph.free(name)))
    if groups == channels and exact:
        return graph.call(name, "InstanceNormalization", [value, scale, shift], op.output, epsilon=kind.eps)
    grouped = (groups, math.prod(op.input[:2]) // groups, *width)
    apart = graph.constant(f"{name}.apart", np.array([0, groups, -1, *(0 for _ in width)], np.int64))
    together = [0, channels, *(-1 for _ in op.input[1:2]), *(0 for _ in width)]
    back = graph.constant(f"{name}.together", np.array(together, np.int64))
    value = graph.call(f"{name}.groups", "Reshape", [value, apart], grouped)
    if exact:
        unit = graph.numbers(f"{name}.ones", groups, 1), graph.numbers(f"{name}.zeros", groups, 0)
        value = graph.call(f"{name}.normal", "InstanceNormalization", [value, *unit], grouped, epsilon=kind.eps)
    else:
        mean = _mean_by_rows(graph, f"{name}.mean", value, grouped)
        value = graph.call(f"{name}.centered", "Sub", [value, mean], grouped)
        square = graph.call(f"{name}.square", "Mul", [value, value], grouped)
        spread = _mean_by_rows(graph, f"{name}.variance", square, grouped)
        spread = graph.call(f"{name}.positive", "Add", [spread, graph.number(f"{name}.eps", kind.eps)], (groups, 1, 1))
        spread = graph.call(f"{name}.deviation", "Sqrt", [spread], (groups, 1, 1))
        value = graph.call(f"{name}.normal", "Div", [value, spread], grouped)
    value = graph.call(f"{name}.channels", "Reshape", [value, back], op.output)
    unit = graph.numbers(f"{name}.no_mean", channels, 0), graph.numbers(f"{name}.no_variance", channels, 1)
    return graph.call(name, "BatchNormalization", [value, scale, shift, *unit], op.output, epsilon=0.0)


#: ONNX Runtime adds up an instance in one go. Beyond so many values the rounding of that sum shows: at 2^19 it is some fifty
#: times what torch has. Means of rows, and then of those, do without, at twice the time.
LONG_SUM = 1 << 15


def _mean_by_rows(graph: Graph, name: str, value: str, shape: Shape) -> str:
    """The mean of each group of a map [groups, rows, width], as a map of 1x1."""
    groups, rows, width = shape
    apart = graph.constant(f"{name}.apart", np.array([0, -1, 1, 0], np.int64))
    together = graph.constant(f"{name}.together", np.array([0, groups, -1, 1], np.int64))
    value = graph.call(f"{name}.rows", "Reshape", [value, apart], (groups * rows, 1, width))
    value = graph.call(f"{name}.of_rows", "GlobalAveragePool", [value], (groups * rows, 1, 1))
    value = graph.call(f"{name}.column", "Reshape", [value, together], (groups, rows, 1))
    return graph.call(name, "GlobalAveragePool", [value], (groups, 1, 1))


def _operator(operator: str, **attributes: str) -> Rule:
    """The rule for one node; `attributes` says which attribute of the op gives one of the node."""

    def rule(graph: Graph, name: str, op: Op, kind: ops.Kind, value: str) -> str:
        given = {there: getattr(kind, here) for there, here in attributes.items()}
        return graph.call(name, operator, [value], op.output, **given)

    return rule


def _relu6(graph: Graph, name: str, op: Op, kind: ops.Act, value: str) -> str:
    limits = [graph.number(f"{name}.{key}", number) for key, number in (("min", 0), ("max", 6))]
    return graph.call(name, "Clip", [value, *limits], op.output)


def _silu(graph: Graph, name: str, op: Op, kind: ops.Act, value: str) -> str:
    gate = graph.call(f"{name}.sigmoid", "Sigmoid", [value], op.output)
    return graph.call(name, "Mul", [value, gate], op.output)


def _gelu(graph: Graph, name: str, op: Op, kind: ops.Act, value: str) -> str:
    """0.5 x (1 + erf(x / sqrt 2)), in the order in which ONNX Runtime finds it and makes one kernel of it. As an operator of
    its own it exists from opset 20 on."""
    root = graph.number(f"{name}.root", math.sqrt(2))
    part = graph.call(f"{name}.divided", "Div", [value, root], op.output)
    return _gaussian(graph, name, op, value, graph.call(f"{name}.erf", "Erf", [part], op.output))


def _gelu_tanh(graph: Graph, name: str, op: Op, kind: ops.Act, value: str) -> str:
    """0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))."""
    three, share = graph.number(f"{name}.three", 3), graph.number(f"{name}.share", 0.044715)
    factor = graph.number(f"{name}.factor", math.sqrt(2 / math.pi))
    part = graph.call(f"{name}.cube", "Pow", [value, three], op.output)
    part = graph.call(f"{name}.cubic", "Mul", [part, share], op.output)
    part = graph.call(f"{name}.sum", "Add", [value, part], op.output)
    part = graph.call(f"{name}.scaled", "Mul", [part, factor], op.output)
    return _gaussian(graph, name, op, value, graph.call(f"{name}.tanh", "Tanh", [part], op.output))


def _gaussian(graph: Graph, name: str, op: Op, value: str, inner: str) -> str:
    """0.5 x (1 + inner)."""
    one, half = graph.number(f"{name}.one", 1), graph.number(f"{name}.half", 0.5)
    part = graph.call(f"{name}.plus", "Add", [inner, one], op.output)
    part = graph.call(f"{name}.product", "Mul", [value, part], op.output)
    return graph.call(name, "Mul", [part, half], op.output)


def _act(graph: Graph, name: str, op: Op, kind: ops.Act, value: str) -> str:
    return _ACTS[kind.kind](graph, name, op, kind, value)


def _end_pads(op: Op, kind: ops.MaxPool) -> tuple[int, ...]:
    """Padding at the end that makes rounding down give the output size, ceil or not, on maps of any size."""
    return tuple(
        axis.plus - p + k - s
        for axis, k, s, p in zip(kind.axes(op.input), kind.kernel, kind.steps, kind.padding, strict=True)
    )


def _maxpool(graph: Graph, name: str, op: Op, kind: ops.MaxPool, value: str) -> str:
    return graph.call(
        name, "MaxPool", [value], op.output,
        kernel_shape=kind.kernel, strides=kind.steps, pads=(*kind.padding, *_end_pads(op, kind)),
    )  # fmt: skip


def _avgpool(graph: Graph, name: str, op: Op, kind: ops.AvgPool, value: str) -> str:
    pads, end, counted = kind.padding, _end_pads(op, kind), kind.count_pad and any(kind.padding)
    if counted and any(e > p for e, p in zip(end, pads, strict=True)):
        # Zeros of the padding count in the mean, what rounding up reaches beyond it does not: make the zeros real.
        padded = (op.input[0], *(n + 2 * p for n, p in zip(op.input[1:], pads, strict=True)))
        amounts = graph.constant(f"{name}.pads", np.array([0, 0, *pads, 0, 0, *pads], np.int64))
        value = graph.call(f"{name}.padding", "Pad", [value, amounts], padded)
        end, pads, counted = tuple(e - p for e, p in zip(end, pads, strict=True)), (0, 0), False
    return graph.call(
        name, "AveragePool", [value], op.output,
        kernel_shape=kind.kernel, strides=kind.steps, pads=(*pads, *end), count_include_pad=int(counted),
    )  # fmt: skip


def _global_avgpool(graph: Graph, name: str, op: Op, kind: ops.GlobalAvgPool, value: str) -> str:
    return graph.call(name, "GlobalAveragePool", [value], op.output)


def _adaptive_avgpool(graph: Graph, name: str, op: Op, kind: ops.AdaptiveAvgPool, value: str) -> str:
    """A plain average pool where the bins are equal; else one matrix product per axis, since means are linear."""
    sizes, free = op.input[1:], graph.free(name)
    if any(free) and kind.size == (1, 1):
        return graph.call(name, "GlobalAveragePool", [value], op.output)
    if any(free):
        rows, columns = (
            _bins_at_run_time(graph, f"{name}.{word}", value, 2 + at, out) if free[at]
            else graph.constant(f"{name}.{word}", _bins(sizes[at], out))
            for at, (word, out) in enumerate(zip(("rows", "columns"), kind.size, strict=True))
        )  # fmt: skip
        columns = graph.call(f"{name}.columns.turned", "Transpose", [columns], (sizes[1], kind.size[1]), perm=(1, 0))
        half = graph.call(f"{name}.height", "MatMul", [rows, value], (op.input[0], kind.size[0], sizes[1]))
        return graph.call(name, "MatMul", [half, columns], op.output)
    if kind.size == sizes:
        return value
    if all(n % out == 0 for n, out in zip(sizes, kind.size, strict=True)):
        window = tuple(n // out for n, out in zip(sizes, kind.size, strict=True))
        return graph.call(name, "AveragePool", [value], op.output, kernel_shape=window, strides=window)
    rows = graph.constant(f"{name}.rows", _bins(sizes[0], kind.size[0]))
    columns = graph.constant(f"{name}.columns", np.ascontiguousarray(_bins(sizes[1], kind.size[1]).T))
    half = graph.call(f"{name}.height", "MatMul", [rows, value], (op.input[0], kind.size[0], sizes[1]))
    return graph.call(name, "MatMul", [half, columns], op.output)


def _bins(n: int, out: int) -> Array:
    """The matrix of means over torch's adaptive bins: row i covers floor(i n / out) to ceil((i + 1) n / out)."""
    matrix = np.zeros((out, n), np.float32)
    for i in range(out):
        start, end = i * n // out, -(-(i + 1) * n // out)
        matrix[i, start:end] = 1 / (end - start)
    return matrix


def _bins_at_run_time(graph: Graph, name: str, value: str, axis: int, out: int) -> str:
    """The matrix of `_bins` for an axis of a value, whatever its size n: j is in row i where j * out is above i n - out and
    below (i + 1) n."""

    def number(key: str, given: object) -> str:
        return graph.constant(f"{name}.{key}", np.array(given, np.int64))

    def call(key: str, operator: str, *inputs: str, **attributes: int) -> str:
        return graph.call(f"{name}.{key}", operator, inputs, (), **attributes)

    size = call("size", "Shape", value, start=axis, end=axis + 1)
    count = number("count", [out])
    limit = call("limit", "Squeeze", call("scaled", "Mul", size, count))
    positions = call("positions", "Range", number("first", 0), limit, number("step", out))
    starts = call("starts", "Mul", number("bins", [[i] for i in range(out)]), size)
    below = call("below", "Less", positions, call("ends", "Add", starts, size))
    above = call("above", "Greater", positions, call("before", "Sub", starts, count))
    both = call("both", "And", above, below)
    inside = call("inside", "Where", both, graph.number(f"{name}.one", 1), graph.number(f"{name}.zero", 0))
    return call("means", "Div", inside, call("sums", "ReduceSum", inside, number("across", [1]), keepdims=1))


def _flatten(graph: Graph, name: str, op: Op, kind: ops.Flatten, value: str) -> str:
    return value if len(op.input) == 1 else graph.call(name, "Flatten", [value], op.output, axis=1)


def _pass_by(graph: Graph, name: str, op: Op, kind: ops.Kind, value: str) -> str:
    return value


def _scale(graph: Graph, name: str, op: Op, kind: ops.Scale, value: str) -> str:
    factor = graph.number(f"{name}.factor", kind.factor)
    return graph.call(name, "Mul", [value, factor], op.output)


def _subsample(graph: Graph, name: str, op: Op, kind: ops.Subsample, value: str) -> str:
    limits = {"starts": [0, 0], "ends": [2**62, 2**62], "axes": [2, 3], "steps": list(kind.stride)}
    constants = [graph.constant(f"{name}.{key}", np.array(numbers, np.int64)) for key, numbers in limits.items()]
    return graph.call(name, "Slice", [value, *constants], op.output)


def _upsample(graph: Graph, name: str, op: Op, kind: ops.Upsample, value: str) -> str:
    """By scales rather than sizes, so that height and width can stay open."""
    scales = graph.constant(f"{name}.scales", np.array([1, 1, *kind.factor], np.float32))
    return graph.call(name, "Resize", [value, "", scales], op.output, **_UPSAMPLES[kind.kind])


def _pad_channels(graph: Graph, name: str, op: Op, kind: ops.PadChannels, value: str) -> str:
    if op.input == op.output:
        return value
    pads = np.array([0, 0, 0, 0, 0, kind.channels - op.input[0], 0, 0], np.int64)
    return graph.call(name, "Pad", [value, graph.constant(f"{name}.pads", pads)], op.output)


_NORMS: dict[str, Rule] = {"batch": _batch_norm, "group": _group_norm}
_ACTS: dict[str, Rule] = {
    "relu": _operator("Relu"),
    "sigmoid": _operator("Sigmoid"),
    "tanh": _operator("Tanh"),
    "leaky_relu": _operator("LeakyRelu", alpha="slope"),
    "elu": _operator("Elu", alpha="alpha"),
    "relu6": _relu6,
    "silu": _silu,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "hardswish": _operator("HardSwish"),
}
#: Attributes of Resize that make it torch's interpolate.
_UPSAMPLES = {
    "nearest": {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    "bilinear": {"mode": "linear", "coordinate_transformation_mode": "half_pixel"},
}
RULES: dict[type[ops.Kind], Rule] = {
    ops.Conv: _conv,
    ops.Linear: _linear,
    ops.Norm: _norm,
    ops.Act: _act,
    ops.MaxPool: _maxpool,
    ops.AvgPool: _avgpool,
    ops.GlobalAvgPool: _global_avgpool,
    ops.AdaptiveAvgPool: _adaptive_avgpool,
    ops.Flatten: _flatten,
    ops.Dropout: _pass_by,
    ops.Scale: _scale,
    ops.Subsample: _subsample,
    ops.Upsample: _upsample,
    ops.PadChannels: _pad_channels,
    ops.Identity: _pass_by,
}
