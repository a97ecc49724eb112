"""Typical compiler bugs, each planted into rescompile for one test: a test suite that detects them proves something.

A bug in the ONNX backend or in a pass does not affect the tree, so the interpreter of the tree detects it. A bug in
elaboration misleads the interpreter too; the networks of this module, computed by hand from the meaning of their text,
detect those. This module contains only the bugs and these networks; `test_mutants.py` runs them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rescompile import elaboration
from rescompile.diagnostics.errors import Source
from rescompile.elaboration import stochastic_depth
from rescompile.elaboration.blocks import BlockBuilder
from rescompile.elaboration.evaluator import Evaluator
from rescompile.elaboration.merges import MergeBuilder
from rescompile.elaboration.site import Site
from rescompile.elaboration.steps import StepBuilder
from rescompile.ir.network import Node, Op, Parallel, Series, Side
from rescompile.ir.op_evaluation import OPS
from rescompile.ir.ops import (
    Act,
    AdaptiveAvgPool,
    AvgPool,
    Conv,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Kind,
    Linear,
    MaxPool,
    Norm,
    PadChannels,
    Scale,
    Subsample,
    Upsample,
    convolution,
    pooling,
    window,
)
from rescompile.ir.traversal import ThreadRules
from rescompile.lang import library
from rescompile.lang.spec.values import Each, FirstRest
from rescompile.lang.yaml_reader import read
from rescompile.passes import fold_batchnorm as folding

Array = NDArray[Any]
onnx: Any = import_module("rescompile.backends.onnx.artifact")
onnx_artifact: Any = import_module("rescompile.backends.onnx.artifact")
onnx_graph: Any = import_module("rescompile.backends.onnx.graph")
onnx_ops: Any = import_module("rescompile.backends.onnx.ops")
Patch = pytest.MonkeyPatch

#: The bugs by name: those in passes and backends, and those in elaboration.
OF_BACKENDS: dict[str, Callable[[Patch], None]] = {}
OF_THE_TREE: dict[str, Callable[[Patch], None]] = {}


def planted(where: dict[str, Callable[[Patch], None]]) -> Callable[[Callable[[Patch], None]], Callable[[Patch], None]]:
    """Register a function that plants a bug under its name."""

    def enlist(plant: Callable[[Patch], None]) -> Callable[[Patch], None]:
        where[plant.__name__] = plant
        return plant

    return enlist


# --- the ONNX backend: one wrong rule ---------------------------------------------------------------------------------


def rule(name: str, kind: type[Kind], change: Callable[..., str]) -> None:
    """Plant a bug in the rule of one op: `change` gets the right rule and its arguments."""

    def plant(patch: Patch) -> None:
        right = onnx_ops.RULES[kind]
        patch.setitem(onnx_ops.RULES, kind, lambda graph, *rest: change(right, graph, *rest))

    OF_BACKENDS[name] = plant


def other(**changes: Callable[[Any], Any]) -> Callable[..., str]:
    """Return the right rule for an op with other attributes."""

    def change(right: Any, graph: Any, name: str, op: Op, kind: Any, value: str) -> str:
        return right(graph, name, op, replace(kind, **{key: new(kind) for key, new in changes.items()}), value)

    return change


def edited(edit: Callable[[Any, Op, Any], None]) -> Callable[..., str]:
    """Return the right rule, whose last node is then edited."""

    def change(right: Any, graph: Any, name: str, op: Op, kind: Any, value: str) -> str:
        made = right(graph, name, op, kind, value)
        if graph.calls and graph.calls[-1].name == name:
            edit(graph.calls[-1], op, kind)
        return made

    return change


def left_out(right: Any, graph: Any, name: str, op: Op, kind: Any, value: str) -> str:
    return value


def shifted_pads(call: Any, op: Op, kind: Conv) -> None:
    if min(kind.pads) > 0:
        height, width = kind.pads
        call.attributes["pads"] = (height - 1, width - 1, height + 1, width + 1)


def swapped(*places: int) -> Callable[[Any, Op, Any], None]:
    def edit(call: Any, op: Op, kind: Any) -> None:
        first, second = places
        call.inputs[first], call.inputs[second] = call.inputs[second], call.inputs[first]

    return edit


def without_bias(call: Any, op: Op, kind: Any) -> None:
    del call.inputs[2:]


def untransposed(call: Any, op: Op, kind: Linear) -> None:
    if op.input == op.output:
        call.attributes["transB"] = 0


def without_relu(right: Any, graph: Any, name: str, op: Op, kind: Act, value: str) -> str:
    return value if kind.kind == "relu" else right(graph, name, op, kind, value)


def overhang_counted(right: Any, graph: Any, name: str, op: Op, kind: AvgPool, value: str) -> str:
    pads = (*kind.padding, *onnx_ops._end_pads(op, kind))
    facts = {"kernel_shape": kind.kernel, "strides": kind.steps, "count_include_pad": int(kind.count_pad)}
    return graph.call(name, "AveragePool", [value], op.output, pads=pads, **facts)


def padded_in_front(right: Any, graph: Any, name: str, op: Op, kind: PadChannels, value: str) -> str:
    pads = graph.constant(f"{name}.pads", np.array([0, kind.channels - op.input[0], *[0] * 6], np.int64))
    return graph.call(name, "Pad", [value, pads], op.output)


def from_the_second(right: Any, graph: Any, name: str, op: Op, kind: Subsample, value: str) -> str:
    made = right(graph, name, op, kind, value)
    starts = f"{name}.starts"
    graph.tensors[starts] = replace(graph.tensors[starts], constant=np.array([1, 1], np.int64))
    return made


def rows_first(right: Any, graph: Any, name: str, op: Op, kind: Flatten, value: str) -> str:
    if len(op.input) == 3:
        channels, height, width = op.input
        value = graph.call(f"{name}.moved", "Transpose", [value], (height, width, channels), perm=(0, 2, 3, 1))
    return right(graph, name, op, kind, value)


def dropping(right: Any, graph: Any, name: str, op: Op, kind: Dropout, value: str) -> str:
    kept = graph.constant(f"{name}.kept", np.array(1 - kind.rate, np.float32))
    return graph.call(name, "Mul", [value, kept], op.output)


def largest(call: Any, op: Op, kind: Any) -> None:
    call.operator = "GlobalMaxPool"


def turned(call: Any, op: Op, kind: MaxPool) -> None:
    pads = call.attributes["pads"]
    call.attributes["pads"] = (*pads[2:], *pads[:2])


rule("conv_stride_turned", Conv, other(stride=lambda kind: kind.stride[::-1]))
rule("conv_padding_shifted_to_the_end", Conv, edited(shifted_pads))
rule("conv_dilation_ignored", Conv, other(dilation=lambda kind: (1, 1)))
rule("conv_groups_ignored", Conv, edited(lambda call, op, kind: call.attributes.update(group=1)))
rule("conv_bias_dropped", Conv, edited(without_bias))
rule("linear_bias_dropped", Linear, edited(without_bias))
rule("linear_not_transposed_where_square", Linear, edited(untransposed))
rule("norm_eps_ignored", Norm, other(eps=lambda kind: 1e-5))
rule("norm_mean_and_variance_swapped", Norm, edited(swapped(3, 4)))
rule("norm_scale_and_shift_swapped", Norm, edited(swapped(1, 2)))
rule("group_norm_of_one_group", Norm, other(groups=lambda kind: 1))
rule("relu_missing", Act, without_relu)
rule("elu_alpha_always_the_default", Act, other(alpha=lambda kind: 1.0))
rule("upsample_turned", Upsample, other(factor=lambda kind: kind.factor[::-1]))
rule("upsample_always_nearest", Upsample, other(kind=lambda kind: "nearest"))
rule("leaky_slope_always_the_default", Act, other(slope=lambda kind: 0.01))
rule("maxpool_padding_turned", MaxPool, edited(turned))
rule("avgpool_padding_counted_the_other_way", AvgPool, other(count_pad=lambda kind: not kind.count_pad))
rule("avgpool_counts_what_rounding_up_adds", AvgPool, overhang_counted)
rule("global_avgpool_takes_the_largest", GlobalAvgPool, edited(largest))
rule("flatten_rows_first", Flatten, rows_first)
rule("dropout_in_evaluation", Dropout, dropping)
rule("scale_forgotten", Scale, left_out)
rule("subsample_from_the_second", Subsample, from_the_second)
rule("pad_channels_in_front", PadChannels, padded_in_front)
rule("adaptive_avgpool_transposed", AdaptiveAvgPool, other(size=lambda kind: kind.size[::-1]))

# --- the ONNX backend: merges and the graph ---------------------------------------------------------------------------


def merge(name: str, change: Callable[[Parallel, list[str]], tuple[Parallel, list[str]]]) -> None:
    """Plant a bug in the merge of branches."""

    def plant(patch: Patch) -> None:
        right = onnx_graph.merge

        def wrong(graph: Any, full: str, node: Parallel, branches: list[str]) -> str:
            return right(graph, full, *change(node, branches))

        patch.setattr(onnx_graph, "merge", wrong)

    OF_BACKENDS[name] = plant


def only(word: str, change: Callable[[list[str]], list[str]]) -> Callable[..., tuple[Parallel, list[str]]]:
    """Return a change of the branches of one kind of merge."""
    return lambda node, branches: (node, change(branches) if node.merge == word else branches)


merge("concat_reversed", only("concat", lambda branches: branches[::-1]))
merge("gate_inverted", only("gate", lambda branches: branches[::-1]))
merge("gate_and_branch_swapped", only("gate", lambda branches: [branches[1], branches[0], branches[2]]))
merge(
    "concat_of_a_split_reversed",
    lambda node, given: (node, given[::-1] if node.split and node.merge == "concat" else given),
)
merge("last_addend_forgotten", only("add", lambda branches: branches[: max(2, len(branches) - 1)]))
merge("mul_as_add", lambda node, branches: (replace(node, merge="add") if node.merge == "mul" else node, branches))
merge("survival_factor_dropped", lambda node, branches: (replace(node, survival=None), branches))
merge("survival_factor_on_the_shortcut", lambda node, branches: (node, branches[::-1] if node.residual else branches))
merge(
    "survival_factor_beside_rescale_train",
    lambda node, branches: (
        replace(node, survival=replace(node.survival, rescale="test")) if node.survival else node,
        branches,
    ),
)


@planted(OF_BACKENDS)
def parts_of_a_split_in_another_order(patch: Patch) -> None:
    right = onnx_graph.Graph.split
    patch.setattr(onnx_graph.Graph, "split", lambda *given: right(*given)[::-1])


@planted(OF_BACKENDS)
def ceil_ignored(patch: Patch) -> None:
    patch.setattr(onnx_ops, "_end_pads", lambda op, kind: kind.padding)


@planted(OF_BACKENDS)
def adaptive_bins_by_whole_division(patch: Patch) -> None:
    def bins(n: int, out: int) -> Array:
        matrix, step = np.zeros((out, n), np.float32), max(n // out, 1)
        for i in range(out):
            matrix[i, min(i * step, n - 1) : (i + 1) * step] = 1 / step
        return matrix

    patch.setattr(onnx_ops, "_bins", bins)


@planted(OF_BACKENDS)
def sigmoid_as_tanh(patch: Patch) -> None:
    patch.setitem(onnx_ops._ACTS, "sigmoid", onnx_ops._ACTS["tanh"])


@planted(OF_BACKENDS)
def gelu_always_approximate(patch: Patch) -> None:
    patch.setitem(onnx_ops._ACTS, "gelu", onnx_ops._ACTS["gelu_tanh"])


@planted(OF_BACKENDS)
def bilinear_asymmetric(patch: Patch) -> None:
    patch.setitem(onnx_ops._UPSAMPLES["bilinear"], "coordinate_transformation_mode", "asymmetric")


@planted(OF_BACKENDS)
def bilinear_with_aligned_corners(patch: Patch) -> None:
    patch.setitem(onnx_ops._UPSAMPLES["bilinear"], "coordinate_transformation_mode", "align_corners")


@planted(OF_BACKENDS)
def weights_of_two_convs_swapped(patch: Patch) -> None:
    right = onnx_artifact.graph_of

    def wrong(network: Any, sizes: Any = None) -> Any:
        graph = right(network, sizes)
        shapes = {tensor.name: tensor.shape for tensor in graph.tensors.values()}
        first: dict[Any, Any] = {}
        for call in graph.calls:
            if call.operator == "Conv":
                twin = first.setdefault(shapes[call.inputs[1]], call)
                if twin is not call:
                    twin.inputs[1], call.inputs[1] = call.inputs[1], twin.inputs[1]
                    break
        return graph

    patch.setattr(onnx_artifact, "graph_of", wrong)


@planted(OF_BACKENDS)
def constants_in_half_precision(patch: Patch) -> None:
    right = onnx_graph.Graph.constant

    def wrong(self: Any, name: str, value: Array) -> str:
        return right(self, name, value if value.dtype == np.int64 else value.astype(np.float16).astype(np.float32))

    patch.setattr(onnx_graph.Graph, "constant", wrong)


@planted(OF_BACKENDS)
def side_output_without_its_body(patch: Patch) -> None:
    right = onnx_graph.thread

    def wrong(root: Series, first: str, rules: ThreadRules[str]) -> str:
        def side(path: str, node: Side, value: str, through: Callable[[str], str]) -> None:
            def around(start: str) -> str:
                through(start)
                return start

            rules.side(path, node, value, around)

        return right(root, first, replace(rules, side=side))

    patch.setattr(onnx_graph, "thread", wrong)


@planted(OF_BACKENDS)
def batch_of_one(patch: Patch) -> None:
    right = onnx.emit
    patch.setattr(onnx, "emit", lambda network, weights, **options: right(network, weights, **{**options, "batch": 1}))


# --- folding norms ----------------------------------------------------------------------------------------------------


def fold(name: str, change: Callable[[Any, str, str, Norm], Mapping[str, Callable[[Array], Array]]]) -> None:
    """Plant a bug in the result of folding: `change` gets the right values of `weight` and `bias`."""

    def plant(patch: Patch) -> None:
        right = folding._Folder.fold

        def wrong(self: Any, op: Op, norm: Norm, layer: str, full: str) -> Any:
            made = right(self, op, norm, layer, full)
            for part, spoil in change(self.weights, layer, full, norm).items():
                maker = self.makers[f"{layer}.{part}"]
                self.makers[f"{layer}.{part}"] = lambda maker=maker, spoil=spoil: spoil(maker()).astype(np.float32)
            return made

        patch.setattr(folding._Folder, "fold", wrong)

    OF_BACKENDS[name] = plant


def factor(weights: Any, norm_name: str, eps: float) -> Array:
    return weights[f"{norm_name}.weight"] / np.sqrt(weights[f"{norm_name}.running_var"] + eps)


def without_bias(weights: Any, layer: str, norm_name: str, norm: Norm) -> Any:
    if f"{layer}.bias" not in weights:
        return {}
    lost = weights[f"{layer}.bias"] * factor(weights, norm_name, norm.eps)
    return {"bias": lambda bias: bias - lost}


def without_shift(weights: Any, layer: str, norm_name: str, norm: Norm) -> Any:
    return {"bias": lambda bias: bias - weights[f"{norm_name}.bias"]}


def without_mean(weights: Any, layer: str, norm_name: str, norm: Norm) -> Any:
    return {"bias": lambda bias: bias + weights[f"{norm_name}.running_mean"] * factor(weights, norm_name, norm.eps)}


def without_eps(weights: Any, layer: str, norm_name: str, norm: Norm) -> Any:
    ratio = factor(weights, norm_name, 0) / factor(weights, norm_name, norm.eps)
    return {"weight": lambda weight: weight * ratio.reshape(-1, *[1] * (weight.ndim - 1))}


def along_the_inputs(weights: Any, layer: str, norm_name: str, norm: Norm) -> Any:
    def weight(right: Array) -> Array:
        scale = factor(weights, norm_name, norm.eps).reshape(-1, *[1] * (right.ndim - 1))
        return right / scale * scale.swapaxes(0, 1) if right.shape[0] == right.shape[1] else right

    return {"weight": weight}


fold("fold_forgets_the_bias_of_the_layer", without_bias)
fold("fold_forgets_the_shift", without_shift)
fold("fold_forgets_the_mean", without_mean)
fold("fold_uses_variance_without_eps", without_eps)
fold("fold_scales_inputs_where_square", along_the_inputs)


def reads(name: str, change: Callable[[ThreadRules[Any]], Mapping[str, Any]]) -> None:
    """Plant a bug in the search for the norm of a layer: `change` returns rules other than the right ones."""

    def plant(patch: Patch) -> None:
        right = folding.thread
        patch.setattr(folding, "thread", lambda root, value, rules: right(root, value, replace(rules, **change(rules))))

    OF_BACKENDS[name] = plant


def of_op(changed: Callable[[Any, str, Op, Any], Any]) -> Callable[[ThreadRules[Any]], Mapping[str, Any]]:
    return lambda rules: {"op": partial(changed, rules.op)}


reads("fold_across_a_side_output", lambda rules: {"side": lambda path, node, layer, through: through(None)})
reads(
    "fold_past_an_activation",
    of_op(lambda right, name, node, layer: layer if isinstance(node.kind, Act) else right(name, node, layer)),
)
# All branches of a merge share the layer before it.
reads(
    "fold_into_what_a_shortcut_reads_too",
    lambda rules: {"split": lambda path, node, layer: [layer, *[None] * (len(node.branches) - 1)]},
)


@planted(OF_BACKENDS)
def fold_of_group_norms_too(patch: Patch) -> None:
    """A group norm is folded like a batch norm with statistics 0 and 1."""
    right_thread, right_fold = folding.thread, folding._Folder.fold

    def thread(root: Node, first: Any, rules: ThreadRules[Any]) -> Any:
        def op(name: str, node: Op, layer: Any) -> Any:
            if isinstance(node.kind, Norm):
                node = replace(node, kind=replace(node.kind, kind="batch"))
            return rules.op(name, node, layer)

        return right_thread(root, first, replace(rules, op=op))

    def fold(self: Any, op: Op, norm: Norm, layer: str, full: str) -> None:
        if norm.kind == "group":
            shape = norm.parameters(op.input)[0].shape
            constants = {f"{full}.running_mean": np.zeros(shape), f"{full}.running_var": np.ones(shape)}
            before = self.before
            patch.setattr(self, "before", lambda name: (lambda: constants[name]) if name in constants else before(name))
        right_fold(self, op, norm, layer, full)

    patch.setattr(folding, "thread", thread)
    patch.setattr(folding._Folder, "fold", fold)


@planted(OF_BACKENDS)
def fold_scales_no_bias_by_survival(patch: Patch) -> None:
    right = folding._Folder.scale_last

    def wrong(self: Any, *arguments: Any) -> Any:
        before = dict(self.makers)
        made = right(self, *arguments)
        for name in [
            name for name in self.makers if name.endswith(".bias") and self.makers[name] is not before.get(name)
        ]:
            del self.makers[name]
            self.makers |= {name: before[name]} if name in before else {}
        return made

    patch.setattr(folding._Folder, "scale_last", wrong)


# --- elaboration ------------------------------------------------------------------------------------------------------


def in_block(name: str, word: str, old: str, new: str) -> None:
    """Plant a bug in a block of the library."""

    def plant(patch: Patch) -> None:
        right = library.block
        source = library.source(library.blocks()[word])
        assert old in source.text, f"{word} no longer says {old!r}"
        wrong = read(Source(source.name, source.text.replace(old, new)))
        patch.setattr(library, "block", lambda other: wrong if other == word else right(other))

    OF_THE_TREE[name] = plant


in_block("stride_on_the_wrong_conv", "bottleneck", "stride_at: 2 ", "stride_at: 1 ")
in_block(
    "preactivation_not_shared", "preact_bottleneck", "both if in_channels != width * expansion else branch", "branch"
)
in_block("no_act_between_the_convs", "basic", "- act\n        - aa:", "- aa:")


@planted(OF_THE_TREE)
def first_and_rest_swapped(patch: Patch) -> None:
    right = FirstRest.at
    patch.setattr(FirstRest, "at", lambda self, index: right(self, 0 if index else 1))


@planted(OF_THE_TREE)
def each_shifted_by_one(patch: Patch) -> None:
    right = Each.at
    patch.setattr(Each, "at", lambda self, index: right(self, (index + 1) % len(self.each)))


@planted(OF_THE_TREE)
def only_first_ignored(patch: Patch) -> None:
    right = BlockBuilder._written
    patch.setattr(BlockBuilder, "_written", lambda self, use, word, site, copy: right(self, use, word, site, {}))


@planted(OF_THE_TREE)
def defaults_before_arguments(patch: Patch) -> None:
    right = BlockBuilder.bind

    def wrong(self: Any, use: Any, word: str, *rest: Any) -> Any:
        defaults = self.spec.defaults.get(word, {})
        given = {name: raw for name, raw in use.arguments.items() if name not in defaults}
        return right(self, SimpleNamespace(arguments=given), word, *rest)

    patch.setattr(BlockBuilder, "bind", wrong)


@planted(OF_THE_TREE)
def copies_of_a_block_all_like_the_first(patch: Patch) -> None:
    patch.setattr(BlockBuilder, "varies", lambda self, word: False)


@planted(OF_THE_TREE)
def conditions_inverted(patch: Patch) -> None:
    right = Evaluator.condition
    patch.setattr(Evaluator, "condition", lambda self, *given: not right(self, *given))


@planted(OF_THE_TREE)
def no_shortcut_as_identity(patch: Patch) -> None:
    right = StepBuilder.residual

    def wrong(self: Any, step: Any, site: Site) -> Any:
        if self._is_none(step.residual.shortcut, site):
            step = step.model_copy(update={"residual": step.residual.model_copy(update={"shortcut": None})})
        return right(self, step, site)

    patch.setattr(StepBuilder, "residual", wrong)


def merged(name: str, change: Callable[[list[Series], str], list[Series]]) -> None:
    """Plant a bug in the order of branches in the tree."""

    def plant(patch: Patch) -> None:
        right = MergeBuilder.build

        def wrong(self: Any, branches: list[Series], word: str, *rest: Any, **more: Any) -> Any:
            return right(self, change(branches, word), word, *rest, **more)

        patch.setattr(MergeBuilder, "build", wrong)

    OF_THE_TREE[name] = plant


merged("branches_in_reverse", lambda branches, word: branches[::-1] if word == "concat" else branches)
merged("gate_after_shortcut", lambda b, word: [b[0], b[2], b[1]] if word == "gate" else b)


@planted(OF_THE_TREE)
def schedule_from_zero(patch: Patch) -> None:
    def wrong(schedule: Any, count: int) -> list[float]:
        return [1 - index / max(count - 1, 1) * (1 - schedule.last) for index in range(count)]

    patch.setattr(stochastic_depth, "probabilities", wrong)


@planted(OF_THE_TREE)
def schedule_from_the_end(patch: Patch) -> None:
    right = stochastic_depth.probabilities
    patch.setattr(stochastic_depth, "probabilities", lambda schedule, count: right(schedule, count)[::-1])


@planted(OF_THE_TREE)
def nested_residuals_counted(patch: Patch) -> None:
    right = stochastic_depth.probabilities
    patch.setattr(stochastic_depth, "probabilities", lambda schedule, count: right(schedule, count + 1)[:count])


@planted(OF_THE_TREE)
def same_padding_ignores_dilation(patch: Patch) -> None:
    right = Conv.__post_init__

    def wrong(self: Conv) -> None:
        if self.padding == "same":
            object.__setattr__(self, "padding", tuple((k - 1) // 2 for k in self.kernel))
        right(self)

    patch.setattr(Conv, "__post_init__", wrong)


@planted(OF_THE_TREE)
def pool_stride_defaults_to_one(patch: Patch) -> None:
    right = MaxPool.__post_init__

    def wrong(self: MaxPool) -> None:
        if self.stride is None:
            object.__setattr__(self, "stride", (1, 1))
        right(self)

    patch.setattr(MaxPool, "__post_init__", wrong)


@planted(OF_THE_TREE)
def last_window_may_start_in_padding(patch: Patch) -> None:
    right = window.window_size

    def wrong(sizes: Any, kernel: Any, stride: Any, pads: Any, dilation: Any = (1, 1), ceil: bool = False) -> Any:
        if not ceil:
            return right(sizes, kernel, stride, pads, dilation)
        return tuple(
            -(-(n + 2 * p - d * (k - 1) - 1) // s) + 1
            for n, k, s, p, d in zip(sizes, kernel, stride, pads, dilation, strict=True)
        )

    for module in (convolution, pooling):
        patch.setattr(module, "window_size", wrong)


@planted(OF_THE_TREE)
def features_taken_too_early(patch: Patch) -> None:
    right = elaboration.add_features

    def moved(series: Series) -> Series:
        children: list[Node] = []
        for child in series.children:
            if isinstance(child, Side) and children and children[-1].input == child.input:
                children.insert(-1, child)
            else:
                children.append(moved(child) if isinstance(child, Series) else child)
        return replace(series, children=tuple(children))

    patch.setattr(elaboration, "add_features", lambda root, paths: moved(right(root, paths)))


# --- networks by hand -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hand:
    """A few ops on named weights, for expected outputs written by hand; an op has a bias only if `bias` is true."""

    weights: Mapping[str, Array]
    x: Array

    def own(self, name: str, *parts: str) -> dict[str, Array]:
        """Return the tensors of one op in the precision of the input."""
        return {part: np.asarray(self.weights[f"{name}.{part}"], self.x.dtype) for part in parts}

    def conv(self, name: str, x: Array, *, bias: bool = False, **attributes: Any) -> Array:
        """Return the output of a convolution; `padding` defaults to 0."""
        own = self.own(name, "weight", *(["bias"] if bias else []))
        height, width = own["weight"].shape[2:]
        sizes = {key: (n, n) if isinstance(n, int) and key != "groups" else n for key, n in attributes.items()}
        kind = Conv(len(own["weight"]), (height, width), bias=bias, **{"padding": (0, 0), **sizes})
        return OPS[Conv](kind, x, own)

    def norm(self, name: str, x: Array, eps: float = 1e-5) -> Array:
        """Return the output of a batch norm."""
        return OPS[Norm](Norm(eps=eps), x, self.own(name, "weight", "bias", "running_mean", "running_var"))


@dataclass(frozen=True)
class Known:
    """A spec and its outputs, computed from the meaning of its text."""

    text: str
    outputs: Callable[[Hand], dict[str, Array]]


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


def leaky(x: Array, slope: float) -> Array:
    return np.where(x > 0, x, np.asarray(slope, x.dtype) * x)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


BY_HAND: dict[str, Known] = {}


def known(text: str) -> Callable[[Callable[[Hand], dict[str, Array]]], Any]:
    """Register a spec with its outputs, under the name of the function that computes them."""

    def enlist(outputs: Callable[[Hand], dict[str, Array]]) -> Any:
        name = outputs.__name__
        BY_HAND[name] = Known(f"rescompile: 1\nname: {name}\n{text}", outputs)
        return outputs

    return enlist


@known("""
input: [4, 9, 8]
defaults: {unit: {slope: 0.4, shift: 0.5}, norm: {eps: 0.3}}
blocks:
  unit:
    parameters: {stride: {default: 1, only: first}, eps: real, slope: 0.2, shift: 2.0, k: 3}
    body:
      - conv: {channels: 4, kernel: k, stride: stride}
      - norm: {eps: eps}
      - leaky_relu: {slope: slope}
      - scale: shift
network:
  - stage: {block: unit, depth: 3, stride: 2, eps: {first: 0.5, rest: 0.05}, slope: {each: [0.1, 0.3, -0.2]}}
  - bn: norm
  - more: {block: unit, depth: 2, eps: 0.01, stride: {each: [1, 2]}}
""")
def values_per_copy(hand: Hand) -> dict[str, Array]:
    """A row takes precedence over defaults, and these over the block; `first` and `rest`; `each`; and a stride that
    applies to the first copy only, unless given per copy."""
    x = hand.x
    for index, (stride, eps, slope) in enumerate([(2, 0.5, 0.1), (1, 0.05, 0.3), (1, 0.05, -0.2)]):
        x = hand.conv(f"stage.{index}.conv", x, stride=stride, padding=1)
        x = leaky(hand.norm(f"stage.{index}.norm", x, eps), slope) * 0.5
    x = hand.norm("bn", x, 0.3)
    for index, stride in enumerate([1, 2]):
        x = hand.conv(f"more.{index}.conv", x, stride=stride, padding=1)
        x = leaky(hand.norm(f"more.{index}.norm", x, 0.01), 0.4) * 0.5
    return {"logits": x}


@known("""
input: [4, 7, 6]
blocks:
  plain:
    body:
      - conv: {channels: 4, kernel: 3, bias: {first: true, rest: false}}
      - norm: {eps: {each: [0.5, 0.02, 0.2]}}
network:
  - stage: {block: plain, depth: 3}
""")
def values_per_copy_of_an_op(hand: Hand) -> dict[str, Array]:
    """An op in a block may have a value per copy, even if nothing else in the block depends on the copy."""
    x = hand.x
    for index, eps in enumerate([0.5, 0.02, 0.2]):
        x = hand.norm(f"stage.{index}.norm", hand.conv(f"stage.{index}.conv", x, padding=1, bias=index == 0), eps)
    return {"logits": x}


@known("""
input: [4, 9, 9]
network:
  - layer1: {block: bottleneck, depth: 2, width: 6, stride: 2, base_width: 32, cardinality: 2, expansion: 2}
""")
def bottleneck(hand: Hand) -> dict[str, Array]:
    """The 3x3 convolution has the stride; two groups of half the width; a projection if the shape changes."""
    x = hand.x
    for index, stride in enumerate([2, 1]):
        path = f"layer1.{index}"
        y = relu(hand.norm(f"{path}.bn1", hand.conv(f"{path}.conv1", x)))
        y = relu(hand.norm(f"{path}.bn2", hand.conv(f"{path}.conv2", y, stride=stride, padding=1, groups=2)))
        y = hand.norm(f"{path}.bn3", hand.conv(f"{path}.conv3", y))
        if index == 0:
            x = hand.norm(f"{path}.downsample.1", hand.conv(f"{path}.downsample.0", x, stride=stride))
        x = relu(y + x)
    return {"logits": x}


@known("""
input: [5, 8, 7]
network:
  - layer1: {block: preact_bottleneck, depth: 2, width: 3, stride: 2, expansion: 2}
""")
def preact_bottleneck(hand: Hand) -> dict[str, Array]:
    """If the channels change, the shortcut takes the output of the first norm and activation, otherwise the sum itself."""
    x = hand.x
    for index, stride in enumerate([2, 1]):
        path = f"layer1.{index}"
        first = relu(hand.norm(f"{path}.bn1", x))
        y = relu(hand.norm(f"{path}.bn2", hand.conv(f"{path}.conv1", first)))
        y = relu(hand.norm(f"{path}.bn3", hand.conv(f"{path}.conv2", y, stride=stride, padding=1)))
        shortcut = hand.conv(f"{path}.downsample.0", first, stride=stride) if index == 0 else x
        x = hand.conv(f"{path}.conv3", y) + shortcut
    return {"logits": x}


@known("""
input: [6, 5, 7]
network:
  - parallel:
      merge: concat
      split: true
      branches: [identity, [c1: {conv: {channels: in_channels + 1, kernel: 1}}]]
  - halves: {parallel: {merge: concat, split: true, branches: [{parallel: {merge: concat, branches: [identity, tanh]}}]}}
  - paths: {parallel: {merge: add, split: true, copies: in_channels // 7, branch: [c2: {conv: {channels: 3, kernel: 1}}, {scale: copy + 2}]}}
""")
def split_channels(hand: Hand) -> dict[str, Array]:
    """The first branch gets the first channels, and all get equally many; parts may be merged in other ways than by
    concat."""
    x = np.concatenate([hand.x[:, :3], hand.conv("c1", hand.x[:, 3:])], axis=1)
    x = np.concatenate([x, np.tanh(x)], axis=1)
    return {"logits": 2 * hand.conv("paths.0.c2", x[:, :7]) + 3 * hand.conv("paths.1.c2", x[:, 7:])}


@known("""
input: [3, 8, 8]
network:
  - conv: {channels: 4, kernel: 3}
  - layer1: {block: basic, depth: 1, width: 4}
  - layer2: {block: basic, depth: 1, width: 4, shortcut: none}
  - dense: {block: dense_layer, depth: 2, growth: 2, bottleneck: 0}
  - squeeze:
      parallel:
        merge: mul
        branches: [identity, [global_avgpool, fc: {conv: {channels: in_channels, kernel: 1}}, sigmoid]]
""")
def library_blocks(hand: Hand) -> dict[str, Array]:
    """No activation precedes the addition; `none` removes the addition; the output of a dense layer follows its
    input."""
    x = hand.conv("conv", hand.x, padding=1)
    for path, kept in (("layer1.0", True), ("layer2.0", False)):
        y = relu(hand.norm(f"{path}.bn1", hand.conv(f"{path}.conv1", x, padding=1)))
        y = hand.norm(f"{path}.bn2", hand.conv(f"{path}.conv2", y, padding=1))
        x = relu(y + x if kept else y)
    for path in ("dense.denselayer1", "dense.denselayer2"):
        new = hand.conv(f"{path}.conv1", relu(hand.norm(f"{path}.norm1", x)), padding=1)
        x = np.concatenate([x, new], axis=1)
    return {"logits": x * sigmoid(hand.conv("squeeze.fc", x.mean(axis=(2, 3), keepdims=True)))}


@known("""
input: [4, 8, 8]
blocks:
  unit:
    members: unit{index + 1}
    let: {wide: in_channels * 2}
    body:
      - c1: {conv: {channels: wide, kernel: 1}}
      - if: index % 2 == 0
        then: relu
        else: tanh
      - scale: {factor: 3, when: index > 0}
      - c2: {conv: {channels: wide / 2, kernel: [3, 5], dilation: [2, 1]}}
network:
  - stage: {block: unit, depth: 3}
  - maxpool: {kernel: 2}
features: [stage.unit1.c2, stage.unit2, stage.unit2.c2]
""")
def conditions_and_features(hand: Hand) -> dict[str, Array]:
    """Conditions that depend on the copy; a let, evaluated at the block's input; features after their part."""
    x, taken = hand.x, {}
    for index, (act, factor) in enumerate([(relu, 1), (np.tanh, 3), (relu, 3)]):
        path = f"stage.unit{index + 1}"
        y = act(hand.conv(f"{path}.c1", x)) * factor
        x = hand.conv(f"{path}.c2", y, padding=(2, 2), dilation=(2, 1))
        taken[index] = x
    batch, channels, height, width = x.shape
    pooled = x.reshape(batch, channels, height // 2, 2, width // 2, 2).max(axis=(3, 5))
    return {"logits": pooled, "stage.unit1.c2": taken[0], "stage.unit2.c2": taken[1], "stage.unit2": taken[1]}


@known("""
input: [2, 7, 7]
network:
  - maxpool: {kernel: 2, padding: 1, ceil: true}
  - pad_channels: 3
  - subsample: [1, 2]
  - fc: {conv: {channels: 2, kernel: 1}}
  - adaptive_avgpool: [3, 2]
""")
def pools(hand: Hand) -> dict[str, Array]:
    """A window that would start in the padding at the end is omitted; zeros come last; the 3 bins of a map of size 4
    overlap."""
    padded = np.pad(hand.x, ((0, 0), (0, 0), (1, 0), (1, 0)), constant_values=-np.inf)
    x = padded.reshape(len(padded), 2, 4, 2, 4, 2).max(axis=(3, 5))[:, :, :, ::2]
    x = hand.conv("fc", np.concatenate([x, np.zeros_like(x[:, :1])], axis=1))
    return {"logits": (x[:, :, :3] + x[:, :, 1:]) / 2}


@known("""
input: [3, 6, 7]
network:
  - residual: {branch: {c1: {conv: {channels: 3, kernel: 1}}}}
  - residual:
      branch:
        - c2: {conv: {channels: 3, kernel: 3}}
        - residual: {branch: {c3: {conv: {channels: 3, kernel: 1}}}}
      gate: [g: {conv: {channels: 3, kernel: 1, bias: true}}, sigmoid]
  - avgpool: {kernel: 3, stride: 3, padding: 1, ceil: true}
  - residual:
      branch: {c4: {conv: {channels: 5, kernel: 1}}}
      shortcut: {c5: {conv: {channels: out_channels, kernel: 1}}}
survival: {schedule: linear, last: 0.4, unit: batch, rescale: test}
""")
def survival_of_three(hand: Hand) -> dict[str, Array]:
    """p = 0.8, 0.6, 0.4 for the three outermost residuals: for the branch, not for gates, shortcuts or inner residuals."""
    x = hand.x + np.asarray(0.8, hand.x.dtype) * hand.conv("c1", hand.x)
    y = hand.conv("c2", x, padding=1)
    y = y + hand.conv("c3", y)
    gate = sigmoid(hand.conv("g", x, bias=True))
    x = gate * (np.asarray(0.6, x.dtype) * y) + (1 - gate) * x
    # Windows of 3 on 6 rows and 7 columns start at -1: rows -1..1, 2..4, 5..7, where row 6 is padding and row 7 is outside.
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    rows, columns = [slice(0, 3), slice(3, 6), slice(6, 8)], [slice(0, 3), slice(3, 6), slice(6, 9)]
    x = np.stack([np.stack([padded[:, :, r, c].mean(axis=(2, 3)) for c in columns], -1) for r in rows], -2)
    return {"logits": hand.conv("c5", x) + np.asarray(0.4, x.dtype) * hand.conv("c4", x)}
