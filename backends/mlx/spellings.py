"""The table of ops in MLX: module or function, and its arguments by their MLX names."""

from __future__ import annotations

from collections.abc import Callable

from rescompile.codegen.axis_texts import map_axes, ranked, unflattened_axes
from rescompile.codegen.class_plan import Layer
from rescompile.codegen.table_dialect import Arguments, Spelling, Texts, args, attribute, conv_weights, variant
from rescompile.codegen.terms import literal, python
from rescompile.ir import ops
from rescompile.ir.network import Op
from rescompile.ir.ops import Kind, rank

#: Defaults of MLX and of the functions in support.py; arguments equal to their default are omitted.
DEFAULTS = {
    "stride": "1", "padding": "0", "dilation": "1", "groups": "1", "bias": "True", "eps": "1e-05", "momentum": "0.1",
    "output_padding": "0", "scale": "True", "shift": "True", "mode": '"constant"', "init": "0.25", "gamma": "1.0", "softmax": "False",
    "scale_init": "1.0", "ceil": "False", "count_pad": "True", "negative_slope": "0.01", "alpha": "1.0",
}  # fmt: skip

#: Class of a convolution by the treatment of its weights, and its further arguments.
_WEIGHTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "plain": ("nn.Conv", ()),
    "standardised": ("StandardisedConv", ("eps",)),
    "scaled": ("ScaledConv", ("eps", "gamma")),
}


def by_axes(name: str) -> Callable[[Op], str]:
    """Return the name of a module that exists for each number of axes: `nn.MaxPool` -> `nn.MaxPool2d`."""
    return lambda op: f"{name}{rank(op.input)}d"


def conv_class(layer: Layer) -> str:
    """Return the class of a convolution: that of MLX for volumes has one group."""
    name = by_axes(_WEIGHTS[conv_weights(layer.sample)][0])(layer.sample)
    return "GroupedConv3d" if name == "nn.Conv3d" and python(layer.attributes["groups"]) != "1" else name


def _conv(layer: Layer, a: Texts) -> Arguments:
    groups = () if conv_class(layer) == "nn.Conv3d" else ("groups",)
    names = ("stride", "padding", "dilation", *groups, "bias", *_WEIGHTS[conv_weights(layer.sample)][1])
    return args(python(layer.channels), a["channels"], a["kernel"], **{name: a[name] for name in names})


def _conv_transpose(layer: Layer, a: Texts) -> Arguments:
    names = ("stride", "padding", "dilation", "output_padding", "groups", "bias")
    return args(python(layer.channels), a["channels"], a["kernel"], **{name: a[name] for name in names})


def norm_class(op: Op) -> str:
    """Return the class of a normalisation."""
    return {"batch": "nn.BatchNorm", "group": "nn.GroupNorm", "instance": "nn.InstanceNorm", "layer": "nn.LayerNorm"}[
        variant(op)
    ]


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
            return _per_channel(layer), {"init": literal(attribute(layer, "slope_init"))}
        case "leaky_relu":
            return args(negative_slope=a["slope"])
        case "elu":
            return args(alpha=a["alpha"])
        case "gelu_tanh":
            return args('"tanh"')
    return args()


def _applied_act(layer: Layer, a: Texts) -> Arguments:
    return args() if variant(layer.sample) == "gelu_tanh" else _act(layer, a)


def _per_channel(layer: Layer) -> list[str]:
    """Return the number of learned values as arguments; none for a single value, the default."""
    return [python(layer.channels)] if attribute(layer, "per") == "channel" else []


def _affine(layer: Layer, a: Texts) -> Arguments:
    names = ("scale", "shift", "scale_init")
    return _per_channel(layer), {name: literal(attribute(layer, name)) for name in names}


def _weighted_sum(layer: Layer, a: Texts) -> Arguments:
    by_softmax = variant(layer.sample) == "softmax"
    return args(a["ranges"], softmax=literal(by_softmax), **({} if by_softmax else {"eps": a["eps"]}))


def _border(layer: Layer, a: Texts) -> Arguments:
    mode = {"zeros": "constant", "reflect": "reflect", "replicate": "edge"}[variant(layer.sample)]
    return args(before=a["before"], after=a["after"], mode=literal(mode))


def _upsample(layer: Layer, a: Texts) -> Arguments:
    mode = {"nearest": "nearest", "bilinear": "linear"}[variant(layer.sample)]
    return args(a["factor"], mode=literal(mode))


def _global(layer: Layer, a: Texts) -> Arguments:
    return args(axis=map_axes(layer.sample), keepdims="True")


TABLE: dict[type[Kind], Spelling] = {
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
    ops.GlobalAvgPool: Spelling("", "mx.mean", _global),
    ops.GlobalMaxPool: Spelling("", "mx.max", _global),
    ops.AdaptiveAvgPool: Spelling("", ranked("adaptive_avg_pool"), lambda layer, a: args(size=a["size"])),
    ops.Flatten: Spelling("", "flatten"),
    ops.Dropout: Spelling("nn.Dropout", arguments=lambda layer, a: args(a["rate"])),
    ops.Scale: Spelling("", "scale", lambda layer, a: args(factor=a["factor"])),
    ops.Subsample: Spelling("", ranked("subsample"), lambda layer, a: args(stride=a["stride"])),
    ops.Upsample: Spelling("nn.Upsample", arguments=_upsample),
    ops.PadChannels: Spelling("", "pad_channels", lambda layer, a: args(channels=a["channels"])),
    ops.Identity: Spelling("nn.Identity"),
    ops.ConvTranspose: Spelling(by_axes("ConvTranspose"), arguments=_conv_transpose),
    ops.Lrn: Spelling(
        "", "local_response_norm",
        lambda layer, a: args(size=a["size"], alpha=a["alpha"], beta=a["beta"], k=a["k"]),
    ),
    ops.Softmax: Spelling(
        "",
        lambda op: "mx.softmax" if getattr(op.kind, "ranges") is None else "range_softmax",  # noqa: B009
        lambda layer, a: args(axis="-1") if attribute(layer, "ranges") is None else args(ranges=a["ranges"]),
    ),
    ops.Reduce: Spelling(
        "",
        lambda op: f"mx.{getattr(op.kind, 'by')}",  # noqa: B009
        lambda layer, a: args(axis="-1", keepdims="True"),
    ),
    ops.Affine: Spelling("Affine", arguments=_affine),
    ops.WeightedSum: Spelling("WeightedSum", arguments=_weighted_sum),
    ops.Border: Spelling("", ranked("border"), _border),
    ops.Part: Spelling("", "channel_part", lambda layer, a: args(number=a["number"], of=a["of"])),
    ops.Shuffle: Spelling("", "channel_shuffle", lambda layer, a: args(groups=a["groups"])),
    ops.Unflatten: Spelling("", "mx.expand_dims", lambda layer, a: args(axis=unflattened_axes(layer.sample))),
    ops.DepthToSpace: Spelling("", "depth_to_space", lambda layer, a: args(size=a["size"])),
    ops.SpaceToDepth: Spelling("", "space_to_depth", lambda layer, a: args(size=a["size"])),
}  # fmt: skip
