"""The table of ops in PyTorch: module, function, arguments, and what may work in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rescompile.codegen.class_plan import Layer
from rescompile.codegen.table_dialect import Arguments, Spelling, Texts, args
from rescompile.codegen.terms import literal, python
from rescompile.ir import ops
from rescompile.ir.network import Op
from rescompile.ir.ops import Kind

#: Defaults of torch; arguments at their default are left out.
DEFAULTS = {
    "stride": "1", "padding": "0", "dilation": "1", "groups": "1", "bias": "True", "eps": "1e-05", "momentum": "0.1",
    "ceil_mode": "False", "count_include_pad": "True", "negative_slope": "0.01", "alpha": "1.0",
}  # fmt: skip


# --- arguments --------------------------------------------------------------------------------------------------------


def _conv(layer: Layer, a: Texts) -> Arguments:
    rest = {name: a[name] for name in ("stride", "padding", "dilation", "groups", "bias")}
    return args(python(layer.channels), a["channels"], a["kernel"], **rest)


def _norm(layer: Layer, a: Texts) -> Arguments:
    if norm_class(layer.sample) == "nn.GroupNorm":
        return args(a["groups"], python(layer.channels), eps=a["eps"])
    return args(python(layer.channels), eps=a["eps"], momentum=a["momentum"])


def norm_class(op: Op) -> str:
    """The class of a normalisation."""
    if variant(op) == "group":
        return "nn.GroupNorm"
    return "nn.BatchNorm2d" if len(op.input) == 3 else "nn.BatchNorm1d"


def variant(op: Op) -> str:
    """The `kind` of an op."""
    return str(getattr(op.kind, "kind"))  # noqa: B009


def _pool(layer: Layer, a: Texts) -> Arguments:
    stride = {} if a["stride"] == a["kernel"] else {"stride": a["stride"]}
    counted = {"count_include_pad": a["count_pad"]} if "count_pad" in a else {}
    window = [a["kernel"], *(f"{name}={value}" for name, value in stride.items())]  # the default stride is the kernel
    return window, {"padding": a["padding"], "ceil_mode": a["ceil"], **counted}


#: Module and function of each activation.
ACTS: dict[str, tuple[str, str]] = {
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
}
#: Further arguments of activations.
ACT_ARGUMENTS: dict[str, Callable[[Texts], Arguments]] = {
    "leaky_relu": lambda a: args(negative_slope=a["slope"]),
    "elu": lambda a: args(alpha=a["alpha"]),
    "gelu_tanh": lambda a: args(approximate='"tanh"'),
}


def _act(layer: Layer, a: Texts) -> Arguments:
    name = variant(layer.sample)
    return ACT_ARGUMENTS[name](a) if name in ACT_ARGUMENTS else args()


def _acts_in_place(layer: Layer) -> Mapping[str, str]:
    """An activation can overwrite its input if backward follows from the result: a slope must keep the sign. That of elu
    does follow, but as a difference that cancels small values."""
    name, slope = variant(layer.sample), layer.attributes.get("slope")
    keeps_sign = slope is not None and slope.head == "constant" and slope.value > 0
    return {"inplace": "True"} if name in ("relu", "relu6") or (name == "leaky_relu" and keeps_sign) else {}


def _upsample(layer: Layer, a: Texts) -> Arguments:
    return args(scale_factor=a["factor"], mode=f'"{variant(layer.sample)}"')


def _interpolate(layer: Layer, a: Texts) -> Arguments:
    """torch.jit.script needs floats here; unlike the module, the function does not convert integers."""
    value = layer.attributes["factor"].value
    floats = tuple(map(float, value)) if isinstance(value, tuple) else float(value)
    return _upsample(layer, {"factor": literal(floats)})


def _stride(layer: Layer, a: Texts) -> Arguments:
    value = layer.attributes["stride"].value
    return args(*map(literal, value)) if isinstance(value, tuple) else args(a["stride"], a["stride"])


TABLE: dict[type[Kind], Spelling] = {
    ops.Conv: Spelling("nn.Conv2d", arguments=_conv, fresh=True),
    ops.Linear: Spelling(
        "nn.Linear", arguments=lambda layer, a: args(python(layer.channels), a["features"], bias=a["bias"]), fresh=True
    ),
    ops.Norm: Spelling(norm_class, arguments=_norm, fresh=True),
    ops.Act: Spelling(lambda op: ACTS[variant(op)][0], lambda op: ACTS[variant(op)][1], _act, in_place=_acts_in_place),
    ops.MaxPool: Spelling("nn.MaxPool2d", "F.max_pool2d", _pool),
    ops.AvgPool: Spelling("nn.AvgPool2d", "F.avg_pool2d", _pool),
    ops.GlobalAvgPool: Spelling("nn.AdaptiveAvgPool2d", "F.adaptive_avg_pool2d", lambda layer, a: args("1")),
    ops.AdaptiveAvgPool: Spelling("nn.AdaptiveAvgPool2d", "F.adaptive_avg_pool2d", lambda layer, a: args(a["size"])),
    ops.Flatten: Spelling("nn.Flatten", "torch.flatten", applied=lambda layer, a: args("1")),
    ops.Dropout: Spelling("nn.Dropout", arguments=lambda layer, a: args(a["rate"])),
    ops.Scale: Spelling("Scale", arguments=lambda layer, a: args(a["factor"])),
    ops.Subsample: Spelling("Subsample", arguments=_stride),
    ops.Upsample: Spelling("nn.Upsample", "F.interpolate", _upsample, applied=_interpolate),
    ops.PadChannels: Spelling("PadChannels", arguments=lambda layer, a: args(a["channels"])),
    ops.Identity: Spelling("nn.Identity"),
}
