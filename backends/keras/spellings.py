"""The table of ops in Keras: layer or function, and its arguments by their Keras names."""

from __future__ import annotations

from collections.abc import Callable

from rescompile.codegen.axis_texts import ranked, suffix
from rescompile.codegen.channels_last_dialect import activation, array_functions, of_activation
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
    conv_weights,
    of_weights,
    old_share,
    per_group,
    variant,
    weight_fill,
)
from rescompile.codegen.terms import literal, python
from rescompile.ir import ops
from rescompile.ir.network import Op
from rescompile.ir.ops import Draw, Kind, rank

#: Defaults of Keras and of the functions in support.py; arguments equal to their default are omitted.
DEFAULTS = {
    "strides": "1", "padding": "0", "dilation_rate": "1", "groups": "1", "use_bias": "True", "use_scale": "True",
    "output_padding": "0", "ceil": "False", "count_pad": "True", "negative_slope": "0.2", "alpha": "1.0",
    "mode": '"zeros"', "bias_initializer": '"zeros"', "gamma_initializer": '"ones"', "per_channel": "True", "scale_init": "1.0",
    "eps": "1e-05", "gamma": "1.0", "softmax": "False", "interpolation": '"nearest"',
}  # fmt: skip
#: The function of a distribution, and what it passes to `VarianceScaling`.
_INITIALISERS = {
    "he_normal_fan_out": ("he_fan_out()", 2.0, '"fan_out", "untruncated_normal"'),
    "he_normal_fan_in": ("he_fan_in()", 2.0, '"fan_in", "untruncated_normal"'),
    "torch_default": ("torch_default()", 1 / 3, '"fan_in", "uniform"'),
}


#: Classes by the number of axes for ops that a function builds where Keras lacks something.
_LAYERS: dict[type[Kind], str] = {
    ops.MaxPool: "layers.MaxPooling{}D",
    ops.AvgPool: "layers.AveragePooling{}D",
    ops.ConvTranspose: "layers.Conv{}DTranspose",
}


def layer_class(layer: Layer) -> str:
    """Return the class of the layer that a convolution or a pool is, or that its function builds."""
    name = _LAYERS.get(layer.kind) or f"{conv_class(layer.sample, 'layers.Conv')}{{}}D"
    return name.format(rank(layer.sample.input))


def by_axes(name: str) -> Callable[[Op], str]:
    """Return the name of a layer that exists for each number of axes: `layers.Conv` -> `layers.Conv2D`."""
    return lambda op: f"{name}{rank(op.input)}D"


def _has(layer: Layer, name: str, text: str) -> bool:
    """Return whether an attribute is a literal with this text."""
    return python(layer.attributes[name]) in (text, f"({text}, {text})")


def needs_function(layer: Layer) -> bool:
    """Return whether a function builds a convolution or a pool, because Keras lacks its padding, its rounding or its
    weights, or refuses its stride together with its dilation."""
    if not _has(layer, "padding", "0"):
        return True
    if layer.kind is not ops.Conv:
        return not _has(layer, "ceil", "False")
    return conv_weights(layer.sample) != "plain" or not (_has(layer, "stride", "1") or _has(layer, "dilation", "1"))


def _constant_init(value: float) -> str:
    """Return an initialiser that fills a tensor with a constant."""
    words = {0.0: '"zeros"', 1.0: '"ones"'}
    return words.get(float(value)) or f"keras.initializers.Constant({literal(value)})"


def _kernel_init(layer: Layer) -> dict[str, str]:
    """Return the initialiser of a kernel."""
    fill = weight_fill(layer)
    if not isinstance(fill, Draw):
        return {"kernel_initializer": _constant_init(fill)}
    function, variance, rest = _INITIALISERS[fill.rule]
    scaled = f"keras.initializers.VarianceScaling({literal(variance * fill.factor**2)}, {rest})"
    return {"kernel_initializer": function if fill.factor == 1 else scaled}


def _bias_init(layer: Layer, fan: str) -> dict[str, str]:
    """Return the initialiser of a bias; `fan` contains the arguments for one that depends on the weights."""
    value = attribute(layer, "bias_init") if attribute(layer, "bias") else 0
    uniform = f"bias_uniform{suffix(layer.sample)}({fan})"
    return {"bias_initializer": uniform if value == "torch_default" else _constant_init(value)}


def _conv(layer: Layer, a: Texts) -> Arguments:
    other = {} if conv_weights(layer.sample) == "plain" else {"layer": layer_class(layer)}
    fan = f"{per_group(layer.channels, layer.attributes['groups'])}, {a['kernel']}"
    return args(
        a["channels"], a["kernel"],
        strides=a["stride"], padding="0" if _has(layer, "padding", "0") else a["padding"], dilation_rate=a["dilation"],
        groups=a["groups"], use_bias=a["bias"], **other, **of_weights(layer, a),
        **_kernel_init(layer), **_bias_init(layer, fan),
    )  # fmt: skip


def _conv_transpose(layer: Layer, a: Texts) -> Arguments:
    fan = f"{per_group(layer.attributes['channels'], layer.attributes['groups'])}, {a['kernel']}"
    return args(
        a["channels"], a["kernel"],
        strides=a["stride"], padding=a["padding"], output_padding=a["output_padding"], dilation_rate=a["dilation"],
        use_bias=a["bias"], **_kernel_init(layer), **_bias_init(layer, fan),
    )  # fmt: skip


def _linear(layer: Layer, a: Texts) -> Arguments:
    return args(
        a["features"],
        use_bias=a["bias"], **_kernel_init(layer), **_bias_init(layer, python(layer.channels)),
    )  # fmt: skip


#: The class of each normalisation.
_NORMS = {
    "batch": "layers.BatchNormalization",
    "group": "layers.GroupNormalization",
    "instance": "layers.GroupNormalization",
    "layer": "layers.LayerNormalization",
}


def _norm(layer: Layer, a: Texts) -> Arguments:
    """Return the arguments of a norm: `epsilon` defaults to 1e-3 in Keras; -1 groups means one per channel."""
    kind = variant(layer.sample)
    groups = {"group": (a.get("groups", ""),), "instance": ("-1",)}.get(kind, ())
    given = {"momentum": old_share(layer.attributes["momentum"])} if kind == "batch" else {}
    return args(*groups, **given, epsilon=a["eps"], gamma_initializer=_constant_init(attribute(layer, "scale_init")))


def _pool(layer: Layer, a: Texts) -> Arguments:
    if not needs_function(layer):
        # The strides of a Keras pool default to its size.
        return args(a["kernel"], a["stride"]) if a["stride"] == "1" else args(a["kernel"], strides=a["stride"])
    counted = {"count_pad": a["count_pad"]} if "count_pad" in a else {}
    return args(a["kernel"], a["stride"], padding=a["padding"], ceil=a["ceil"], **counted)


def _act(layer: Layer, a: Texts) -> Arguments:
    if variant(layer.sample) != "prelu":
        return of_activation(layer, a)
    rank = len(layer.sample.input)
    shared = tuple(range(1, rank + (attribute(layer, "per") == "one")))
    return args(
        alpha_initializer=_constant_init(attribute(layer, "slope_init")),
        **({"shared_axes": f"[{', '.join(map(str, shared))}]"} if shared else {}),
    )


def _affine(layer: Layer, a: Texts) -> Arguments:
    return args(
        per_channel=literal(attribute(layer, "per") != "one"),
        use_scale=literal(attribute(layer, "scale")),
        use_bias=literal(attribute(layer, "shift")),
        scale_init=literal(float(attribute(layer, "scale_init"))),
    )


def _upsampling(op: Op) -> str:
    """Return the layer of an upsampling, or the function for one that Keras lacks: linear, except along two axes."""
    missing = variant(op) == "bilinear" and rank(op.input) != 2
    return ranked("upsample_linear")(op) if missing else by_axes("layers.UpSampling")(op)


def _upsample(layer: Layer, a: Texts) -> Arguments:
    way = {"interpolation": literal(variant(layer.sample))} if rank(layer.sample.input) == 2 else {}
    return args(a["factor"], **way)


TABLE: dict[type[Kind], Spelling] = {
    **array_functions("ops"),  # some are layers in Keras, or take their sizes by position: below
    ops.Conv: Spelling(ranked("conv"), arguments=_conv),
    ops.Linear: Spelling("layers.Dense", arguments=_linear),
    ops.Norm: Spelling(By("kind", _NORMS), arguments=_norm),
    ops.Act: Spelling(lambda op: "layers.PReLU" if variant(op) == "prelu" else "", activation("ops"), _act),
    ops.MaxPool: Spelling("", ranked("max_pool"), _pool),
    ops.AvgPool: Spelling("", ranked("avg_pool"), _pool),
    ops.GlobalAvgPool: Spelling("", by_axes("layers.GlobalAveragePooling"), lambda layer, a: args(keepdims="True")),
    ops.GlobalMaxPool: Spelling("", by_axes("layers.GlobalMaxPooling"), lambda layer, a: args(keepdims="True")),
    ops.AdaptiveAvgPool: Spelling("", ranked("adaptive_avg_pool"), by_place("size")),
    ops.Flatten: Spelling("", ranked("flatten")),
    ops.Dropout: Spelling("", "layers.Dropout", by_place("rate")),
    ops.Scale: Spelling("", "scale", by_place("factor")),
    ops.Subsample: Spelling("", ranked("subsample"), by_place("stride")),
    ops.Upsample: Spelling("", _upsampling, _upsample),
    ops.PadChannels: Spelling("", "pad_channels", by_place("channels")),
    ops.Identity: Spelling("", ""),
    ops.ConvTranspose: Spelling(ranked("conv_transpose"), arguments=_conv_transpose),
    ops.Lrn: Spelling("", "local_response_norm", by_place("size", "alpha", "beta", "k")),
    ops.Softmax: Spelling(
        "",
        lambda op: "ops.softmax" if getattr(op.kind, "ranges") is None else "range_softmax",  # noqa: B009
        lambda layer, a: args() if attribute(layer, "ranges") is None else args(a["ranges"]),
    ),
    ops.Affine: Spelling("Affine", arguments=_affine),
    ops.Border: Spelling(
        "", ranked("border"), lambda layer, a: args(a["before"], a["after"], mode=literal(variant(layer.sample)))
    ),
    ops.Shuffle: Spelling("", "channel_shuffle", by_place("groups")),
    ops.DepthToSpace: Spelling("", "depth_to_space", by_place("size")),
    ops.SpaceToDepth: Spelling("", "space_to_depth", by_place("size")),
}  # fmt: skip
