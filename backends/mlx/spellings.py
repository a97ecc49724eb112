"""The table of ops in MLX: module or function, and its arguments by their MLX names."""

from __future__ import annotations

from rescompile.codegen.axis_texts import by_axes, ranked
from rescompile.codegen.channels_last_dialect import array_functions
from rescompile.codegen.class_plan import Layer
from rescompile.codegen.table_dialect import (
    Arguments,
    Spelling,
    Texts,
    args,
    attribute,
    by_place,
    conv_class,
    of_weights,
    per_channel,
    variant,
)
from rescompile.codegen.terms import literal, python
from rescompile.ir import ops
from rescompile.ir.network import Op
from rescompile.ir.ops import Kind

#: Defaults of MLX and of the functions in support.py; arguments equal to their default are omitted.
DEFAULTS = {
    "stride": "1", "padding": "0", "dilation": "1", "groups": "1", "bias": "True", "eps": "1e-05", "momentum": "0.1",
    "output_padding": "0", "scale": "True", "shift": "True", "mode": '"constant"', "init": "0.25", "gamma": "1.0", "softmax": "False",
    "scale_init": "1.0", "ceil": "False", "count_pad": "True", "negative_slope": "0.01", "alpha": "1.0",
}  # fmt: skip


def conv_module(layer: Layer) -> str:
    """Return the class of a convolution: that of MLX for volumes has one group."""
    name = by_axes(conv_class(layer.sample, "nn.Conv"))(layer.sample)
    return "GroupedConv3d" if name == "nn.Conv3d" and python(layer.attributes["groups"]) != "1" else name


def _conv(layer: Layer, a: Texts) -> Arguments:
    groups = () if conv_module(layer) == "nn.Conv3d" else ("groups",)
    rest = {name: a[name] for name in ("stride", "padding", "dilation", *groups, "bias")} | of_weights(layer, a)
    return args(python(layer.channels), a["channels"], a["kernel"], **rest)


def _conv_transpose(layer: Layer, a: Texts) -> Arguments:
    names = ("stride", "padding", "dilation", "output_padding", "groups", "bias")
    return args(python(layer.channels), a["channels"], a["kernel"], **{name: a[name] for name in names})


def norm_class(op: Op) -> str:
    """Return the class of a normalisation."""
    return f"nn.{variant(op).capitalize()}Norm"


def _norm(layer: Layer, a: Texts) -> Arguments:
    match variant(layer.sample):
        case "batch":
            return args(python(layer.channels), eps=a["eps"], momentum=a["momentum"])
        case "group":
            return args(a["groups"], python(layer.channels), eps=a["eps"], pytorch_compatible="True")
        case "instance":
            return args(python(layer.channels), eps=a["eps"], affine="True")
    return args(python(layer.channels), eps=a["eps"])


def _pool(layer: Layer, a: Texts) -> Arguments:
    """Return the arguments of MLX's pools, whose stride defaults to the kernel, or of the functions in support.py."""
    if plain_pool(layer):
        stride = [] if a["stride"] == a["kernel"] else [a["stride"]]
        return [a["kernel"], *stride], {"padding": a["padding"]}
    rest = {name: a[name] for name in ("ceil", "count_pad") if name in a}
    return args(kernel=a["kernel"], stride=a["stride"], padding=a["padding"], **rest)


def plain_pool(layer: Layer) -> bool:
    """Return whether MLX provides a pool: it rounds down, and an average includes the padding."""
    ceil, padding = python(layer.attributes["ceil"]), python(layer.attributes["padding"])
    counts = "count_pad" not in layer.attributes or python(layer.attributes["count_pad"]) == "True" or padding == "0"
    return ceil == "False" and counts


#: Module and function of each activation without parameters.
ACTS: dict[str, tuple[str, str]] = {
    "relu": ("nn.ReLU", "nn.relu"),
    "sigmoid": ("nn.Sigmoid", "mx.sigmoid"),
    "tanh": ("nn.Tanh", "mx.tanh"),
    "leaky_relu": ("nn.LeakyReLU", "nn.leaky_relu"),
    "elu": ("nn.ELU", "nn.elu"),
    "relu6": ("nn.ReLU6", "nn.relu6"),
    "silu": ("nn.SiLU", "nn.silu"),
    "gelu": ("nn.GELU", "nn.gelu"),
    "gelu_tanh": ("nn.GELU", "nn.gelu_approx"),
    "hardswish": ("nn.Hardswish", "nn.hardswish"),
    "hardsigmoid": ("", "hard_sigmoid"),
}


def _act(layer: Layer, a: Texts) -> Arguments:
    match variant(layer.sample):
        case "prelu":
            return per_channel(layer), {"init": literal(attribute(layer, "slope_init"))}
        case "leaky_relu":
            return args(negative_slope=a["slope"])
        case "elu":
            return args(alpha=a["alpha"])
        case "gelu_tanh":
            return args('"tanh"')
    return args()


def _applied_act(layer: Layer, a: Texts) -> Arguments:
    return args() if variant(layer.sample) == "gelu_tanh" else _act(layer, a)


def _affine(layer: Layer, a: Texts) -> Arguments:
    names = ("scale", "shift", "scale_init")
    return per_channel(layer), {name: literal(attribute(layer, name)) for name in names}


def _upsample(layer: Layer, a: Texts) -> Arguments:
    mode = {"nearest": "nearest", "bilinear": "linear"}[variant(layer.sample)]
    return args(a["factor"], mode=literal(mode))


TABLE: dict[type[Kind], Spelling] = {
    **array_functions("mx"),
    ops.Conv: Spelling(arguments=_conv),
    ops.Linear: Spelling("nn.Linear", arguments=lambda layer, a: args(python(layer.channels), a["features"], bias=a["bias"])),
    ops.Norm: Spelling(norm_class, arguments=_norm),
    ops.Act: Spelling(
        lambda op: "nn.PReLU" if variant(op) == "prelu" else ACTS[variant(op)][0],
        lambda op: None if variant(op) == "prelu" else ACTS[variant(op)][1],
        _act, _applied_act,
    ),
    ops.MaxPool: Spelling(by_axes("nn.MaxPool"), ranked("max_pool"), _pool),
    ops.AvgPool: Spelling(by_axes("nn.AvgPool"), ranked("avg_pool"), _pool),
    ops.Dropout: Spelling("nn.Dropout", arguments=by_place("rate")),
    ops.Upsample: Spelling("nn.Upsample", arguments=_upsample),
    ops.Identity: Spelling("nn.Identity"),
    ops.ConvTranspose: Spelling(by_axes("ConvTranspose"), arguments=_conv_transpose),
    ops.Softmax: Spelling(
        "",
        lambda op: "mx.softmax" if getattr(op.kind, "ranges") is None else "range_softmax",  # noqa: B009
        lambda layer, a: args(axis="-1") if attribute(layer, "ranges") is None else args(ranges=a["ranges"]),
    ),
    ops.Affine: Spelling("Affine", arguments=_affine),
}  # fmt: skip
