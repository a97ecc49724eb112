"""The table of ops in PyTorch: module, function, arguments, and what may work in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rescompile.codegen.axis_texts import by_axes, ranked
from rescompile.codegen.class_plan import Layer
from rescompile.codegen.table_dialect import (
    Arguments,
    By,
    Spelling,
    Texts,
    args,
    attribute,
    by_place,
    conv_class,
    interpolation,
    of_weights,
    per_channel,
    variant,
    weighted_sum,
)
from rescompile.codegen.terms import literal, python
from rescompile.ir import ops
from rescompile.ir.network import Op
from rescompile.ir.ops import Kind, rank

#: Defaults of torch; arguments equal to their default are omitted.
DEFAULTS = {
    "stride": "1", "padding": "0", "dilation": "1", "groups": "1", "bias": "True", "eps": "1e-05", "momentum": "0.1",
    "output_padding": "0", "scale": "True", "shift": "True", "mode": '"constant"',
    "init": "0.25", "gamma": "1.0", "softmax": "False", "scale_init": "1.0", "ceil_mode": "False", "count_include_pad": "True", "negative_slope": "0.01", "alpha": "1.0",
}  # fmt: skip


# --- arguments --------------------------------------------------------------------------------------------------------


def _conv(layer: Layer, a: Texts) -> Arguments:
    names = ("stride", "padding", "dilation", "groups", "bias")
    rest = {name: a[name] for name in names} | of_weights(layer, a)
    return args(python(layer.channels), a["channels"], a["kernel"], **rest)


def _conv_transpose(layer: Layer, a: Texts) -> Arguments:
    names = ("stride", "padding", "output_padding", "groups", "bias", "dilation")
    return args(python(layer.channels), a["channels"], a["kernel"], **{name: a[name] for name in names})


def _norm(layer: Layer, a: Texts) -> Arguments:
    match variant(layer.sample):
        case "group":
            return args(a["groups"], python(layer.channels), eps=a["eps"])
        case "instance":
            return args(python(layer.channels), eps=a["eps"], affine="True")
        case "layer":
            return args(python(layer.channels), eps=a["eps"])
    return args(python(layer.channels), eps=a["eps"], momentum=a["momentum"])


def norm_class(op: Op) -> str:
    """Return the class of a normalisation."""
    axes = rank(op.input)
    return {
        "batch": f"nn.BatchNorm{axes or 1}d",
        "group": "nn.GroupNorm",
        "instance": f"nn.InstanceNorm{axes}d",
        "layer": f"LayerNorm{axes}d" if axes else "nn.LayerNorm",
    }[variant(op)]


def _pool(layer: Layer, a: Texts) -> Arguments:
    stride = {} if a["stride"] == a["kernel"] else {"stride": a["stride"]}
    counted = {"count_include_pad": a["count_pad"]} if "count_pad" in a else {}
    window = [a["kernel"], *(f"{name}={value}" for name, value in stride.items())]  # the default stride is the kernel
    return window, {"padding": a["padding"], "ceil_mode": a["ceil"], **counted}


#: Module and function of each activation.
ACTS: dict[str, tuple[str, str | None]] = {
    "relu": ("nn.ReLU", "F.relu"),
    "sigmoid": ("nn.Sigmoid", "torch.sigmoid"),
    "tanh": ("nn.Tanh", "torch.tanh"),
    "leaky_relu": ("nn.LeakyReLU", "F.leaky_relu"),
    "elu": ("nn.ELU", "F.elu"),
    "relu6": ("nn.ReLU6", "F.relu6"),
    "silu": ("nn.SiLU", "F.silu"),
    "gelu": ("nn.GELU", "F.gelu"),
    "gelu_tanh": ("nn.GELU", "F.gelu"),
    "hardswish": ("nn.Hardswish", "F.hardswish"),
    "hardsigmoid": ("nn.Hardsigmoid", "F.hardsigmoid"),
    "prelu": ("nn.PReLU", None),
}
#: Further arguments of activations.
ACT_ARGUMENTS: dict[str, Callable[[Texts], Arguments]] = {
    "leaky_relu": lambda a: args(negative_slope=a["slope"]),
    "elu": lambda a: args(alpha=a["alpha"]),
    "gelu_tanh": lambda a: args(approximate='"tanh"'),
}


def _act(layer: Layer, a: Texts) -> Arguments:
    name = variant(layer.sample)
    if name == "prelu":
        return per_channel(layer), {"init": literal(attribute(layer, "slope_init"))}
    return ACT_ARGUMENTS[name](a) if name in ACT_ARGUMENTS else args()


def _affine(layer: Layer, a: Texts) -> Arguments:
    given = {name: literal(attribute(layer, name)) for name in ("scale", "shift", "scale_init")}
    return per_channel(layer) or ["1"], given


def _unflattened(layer: Layer, a: Texts) -> Arguments:
    """Return the arguments for the shape of an unflattened vector."""
    ends = (1,) * (rank(layer.sample.output) - 1)
    return args("1", literal((1, -1, *ends) if attribute(layer, "to") == "rows" else (-1, 1, *ends)))


def _border(layer: Layer, a: Texts) -> Arguments:
    """Return the arguments of a border; torch lists the last axis first."""
    pairs = zip(reversed(attribute(layer, "before")), reversed(attribute(layer, "after")), strict=True)
    return args(literal(tuple(n for pair in pairs for n in pair)))


def _pad(layer: Layer, a: Texts) -> Arguments:
    mode = {"zeros": '"constant"', "reflect": '"reflect"', "replicate": '"replicate"'}[variant(layer.sample)]
    return _border(layer, a)[0], {"mode": mode}


def _acts_in_place(layer: Layer) -> Mapping[str, str]:
    """Return the in-place argument of an activation whose backward needs only its result: a slope must keep the sign.
    Elu's backward needs only the result too, but as a difference that cancels small values."""
    name, slope = variant(layer.sample), layer.attributes.get("slope")
    keeps_sign = slope is not None and slope.head == "constant" and slope.value > 0
    return {"inplace": "True"} if name in ("relu", "relu6") or (name == "leaky_relu" and keeps_sign) else {}


def _upsample(layer: Layer, a: Texts) -> Arguments:
    return args(scale_factor=a["factor"], mode=literal(interpolation(layer.sample)))


def _interpolate(layer: Layer, a: Texts) -> Arguments:
    """Return the arguments of an interpolation as floats: torch.jit.script requires them, and the function does not
    convert integers."""
    value = layer.attributes["factor"].value
    floats = tuple(map(float, value)) if isinstance(value, tuple) else float(value)
    return _upsample(layer, {"factor": literal(floats)})


def _stride(layer: Layer, a: Texts) -> Arguments:
    value = layer.attributes["stride"].value
    return args(*map(literal, value)) if isinstance(value, tuple) else args(*[a["stride"]] * rank(layer.sample.input))


_BORDERS = {"zeros": "nn.ZeroPad", "reflect": "nn.ReflectionPad", "replicate": "nn.ReplicationPad"}

TABLE: dict[type[Kind], Spelling] = {
    ops.Conv: Spelling(lambda op: by_axes(conv_class(op, "nn.Conv"))(op), arguments=_conv, fresh=True),
    ops.Linear: Spelling(
        "nn.Linear", arguments=lambda layer, a: args(python(layer.channels), a["features"], bias=a["bias"]), fresh=True
    ),
    ops.Norm: Spelling(norm_class, arguments=_norm, fresh=True),
    ops.Act: Spelling(lambda op: ACTS[variant(op)][0], lambda op: ACTS[variant(op)][1], _act, in_place=_acts_in_place),
    ops.MaxPool: Spelling(by_axes("nn.MaxPool"), by_axes("F.max_pool"), _pool),
    ops.AvgPool: Spelling(by_axes("nn.AvgPool"), by_axes("F.avg_pool"), _pool),
    ops.GlobalAvgPool: Spelling(
        by_axes("nn.AdaptiveAvgPool"), by_axes("F.adaptive_avg_pool"), lambda layer, a: args("1")
    ),
    ops.AdaptiveAvgPool: Spelling(by_axes("nn.AdaptiveAvgPool"), by_axes("F.adaptive_avg_pool"), by_place("size")),
    ops.Flatten: Spelling("nn.Flatten", "torch.flatten", applied=lambda layer, a: args("1")),
    ops.Dropout: Spelling("nn.Dropout", arguments=by_place("rate")),
    ops.Scale: Spelling("Scale", arguments=by_place("factor")),
    ops.Subsample: Spelling(ranked("Subsample"), arguments=_stride),
    ops.Upsample: Spelling("nn.Upsample", "F.interpolate", _upsample, applied=_interpolate),
    ops.PadChannels: Spelling(ranked("PadChannels"), arguments=by_place("channels")),
    ops.Identity: Spelling("nn.Identity"),
    ops.ConvTranspose: Spelling(by_axes("nn.ConvTranspose"), arguments=_conv_transpose, fresh=True),
    ops.Lrn: Spelling("nn.LocalResponseNorm", "F.local_response_norm", by_place("size", "alpha", "beta", "k")),
    ops.Softmax: Spelling(
        lambda op: "nn.Softmax" if getattr(op.kind, "ranges") is None else "RangeSoftmax",  # noqa: B009
        lambda op: "torch.softmax" if getattr(op.kind, "ranges") is None else None,  # noqa: B009
        lambda layer, a: args("1" if attribute(layer, "ranges") is None else a["ranges"]),
    ),
    ops.GlobalMaxPool: Spelling(
        by_axes("nn.AdaptiveMaxPool"), by_axes("F.adaptive_max_pool"), lambda layer, a: args("1")
    ),
    ops.Reduce: Spelling(
        By("by", {"mean": "ChannelMean", "max": "ChannelMax"}),
        By("by", {"mean": "torch.mean", "max": "torch.amax"}),
        applied=lambda layer, a: args("1", keepdim="True"),
    ),
    ops.Affine: Spelling("Affine", arguments=_affine, fresh=True),
    ops.WeightedSum: Spelling("WeightedSum", arguments=weighted_sum, fresh=True),
    ops.Border: Spelling(lambda op: by_axes(_BORDERS[variant(op)])(op), "F.pad", _border, applied=_pad),
    ops.Shuffle: Spelling("nn.ChannelShuffle", "F.channel_shuffle", by_place("groups")),
    ops.Part: Spelling("Part", arguments=by_place("number", "of")),
    ops.Unflatten: Spelling("nn.Unflatten", "torch.unflatten", _unflattened),
    ops.DepthToSpace: Spelling("nn.PixelShuffle", "F.pixel_shuffle", by_place("size")),
    ops.SpaceToDepth: Spelling("nn.PixelUnshuffle", "F.pixel_unshuffle", by_place("size")),
}
