"""What dialects of frameworks with channels-last maps share: values, and ops that they write alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rescompile.codegen.axis_texts import map_axes, ranked, unflattened_axes
from rescompile.codegen.class_plan import ClassPlan, Layer
from rescompile.codegen.docstrings import dropped_branches
from rescompile.codegen.statements import Apply, Expr
from rescompile.codegen.table_dialect import (
    Arguments,
    By,
    Spelling,
    TableDialect,
    Texts,
    args,
    by_name,
    variant,
    weighted_sum,
)
from rescompile.codegen.terms import literal
from rescompile.ir import ops
from rescompile.ir.network import Op, walk
from rescompile.ir.ops import Kind


class ChannelsLast(TableDialect):
    """A dialect of channels-last maps, whose functions of arrays are in the module `functions`."""

    functions: str
    channels_last = True
    longest = 60
    pairs = ((ops.GlobalAvgPool, ops.Flatten),)
    drop_path = "DropPath"
    #: Whether running variances are unbiased.
    unbiased: bool
    #: Paragraphs for the docstring of a network: what training does with a branch that it drops for the whole batch, the
    #: activations that it computes again, and the running variances that are biased.
    dropped: str
    recomputed: str
    biased: str

    def training(self, plan: ClassPlan) -> Iterator[str]:
        """Yield paragraphs about training for the docstring of a network."""
        yield "New models are in training mode: call eval() for inference, and train() to go back."
        yield from dropped_branches(plan, self.dropped)
        if plan.network.checkpoint:
            yield self.recomputed
        if has_batch_norms(plan) and not self.unbiased:
            yield self.biased

    def expression(self, value: Expr) -> str:
        """Return the text of a value. The spatial mean as a vector is one call."""
        match value:
            case Apply(flatten, Apply(mean, inner)) if flatten.kind is ops.Flatten and mean.kind is ops.GlobalAvgPool:
                return f"{self.functions}.mean({self.expression(inner)}, axis={map_axes(mean.sample)})"
        return super().expression(value)

    def concat(self, values: str) -> str:
        """Return the concatenation of the values inside a pair of square brackets."""
        return f"{self.functions}.concatenate([{values}], axis=-1)"


def has_batch_norms(plan: ClassPlan) -> bool:
    """Return whether a network has batch normalisation."""
    kinds = (node.kind for _, node in walk(plan.network.root) if isinstance(node, Op))
    return any(isinstance(kind, ops.Norm) and kind.kind == "batch" for kind in kinds)


#: The functions of Flax and Keras for activations without parameters, where their names differ.
_ACTS = {"gelu_tanh": "gelu", "hardswish": "hard_swish", "hardsigmoid": "hard_sigmoid"}


def activation(functions: str) -> Callable[[Op], str | None]:
    """Return the rule that names the function of an activation in a module of Flax or Keras; none for `prelu`, which has
    parameters."""

    def name(op: Op) -> str | None:
        kind = variant(op)
        return None if kind == "prelu" else f"{functions}.{_ACTS.get(kind, kind)}"

    return name


def of_activation(layer: Layer, texts: Texts) -> Arguments:
    """Return the arguments of the function of an activation in Flax and Keras."""
    match variant(layer.sample):
        case "leaky_relu":
            return args(negative_slope=texts["slope"])
        case "elu":
            return args(alpha=texts["alpha"])
        case "gelu" | "gelu_tanh" as kind:
            return args(approximate=literal(kind == "gelu_tanh"))
    return args()


def array_functions(functions: str) -> dict[type[Kind], Spelling]:
    """Return the ops that are functions of arrays, in the module `functions` or in a file with `channels_last.shared`."""
    return {
        ops.GlobalAvgPool: Spelling("", f"{functions}.mean", _over_map),
        ops.GlobalMaxPool: Spelling("", f"{functions}.max", _over_map),
        ops.AdaptiveAvgPool: Spelling("", ranked("adaptive_avg_pool"), by_name("size")),
        ops.Flatten: Spelling("", "flatten"),
        ops.Scale: Spelling("", "scale", by_name("factor")),
        ops.Subsample: Spelling("", ranked("subsample"), by_name("stride")),
        ops.PadChannels: Spelling("", "pad_channels", by_name("channels")),
        ops.Lrn: Spelling("", "local_response_norm", by_name("size", "alpha", "beta", "k")),
        ops.Reduce: Spelling(
            "", By("by", {by: f"{functions}.{by}" for by in ("mean", "max")}),
            lambda layer, a: args(axis="-1", keepdims="True"),
        ),
        ops.WeightedSum: Spelling("WeightedSum", arguments=weighted_sum),
        ops.Border: Spelling("", ranked("border"), _border),
        ops.Part: Spelling("", "channel_part", by_name("number", "of")),
        ops.Shuffle: Spelling("", "channel_shuffle", by_name("groups")),
        ops.Unflatten: Spelling(
            "", f"{functions}.expand_dims", lambda layer, a: args(axis=unflattened_axes(layer.sample))
        ),
        ops.DepthToSpace: Spelling("", "depth_to_space", by_name("size")),
        ops.SpaceToDepth: Spelling("", "space_to_depth", by_name("size")),
    }  # fmt: skip


def _over_map(layer: Layer, texts: Texts) -> Arguments:
    return args(axis=map_axes(layer.sample), keepdims="True")


def _border(layer: Layer, texts: Texts) -> Arguments:
    mode = {"zeros": "constant", "reflect": "reflect", "replicate": "edge"}[variant(layer.sample)]
    return args(before=texts["before"], after=texts["after"], mode=literal(mode))
