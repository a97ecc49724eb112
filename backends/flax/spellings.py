"""The table of ops in Flax: module or function, and its arguments by their Flax and JAX names."""

from __future__ import annotations

from rescompile.codegen.axis_texts import ranked, size_tuple, size_values, suffix
from rescompile.codegen.channels_last_dialect import activation, array_functions, of_activation
from rescompile.codegen.class_plan import Layer
from rescompile.codegen.table_dialect import (
    Arguments,
    Spelling,
    Texts,
    args,
    attribute,
    conv_class,
    interpolation,
    of_weights,
    old_share,
    per_channel,
    per_group,
    variant,
    weight_fill,
)
from rescompile.codegen.terms import literal, python
from rescompile.ir import ops
from rescompile.ir.network import Op
from rescompile.ir.ops import Draw, Kind

#: Defaults of Flax and of the functions in support.py; arguments equal to their default are omitted. Padding has no
#: default: that depends on the size of the map.
DEFAULTS = {
    "strides": "1", "kernel_dilation": "1", "feature_group_count": "1", "use_bias": "True", "use_scale": "True",
    "output_padding": "0", "ceil": "False", "count_pad": "True", "negative_slope": "0.01", "alpha": "1.0", "mode": '"constant"',
    "init": "0.25", "scale_init": "1.0", "eps": "1e-05", "gamma": "1.0", "softmax": "False",
}  # fmt: skip
#: The name of a distribution, and what it passes to `variance_scaling`.
_INITIALISERS = {
    "he_normal_fan_out": ("HE_FAN_OUT", 2.0, '"fan_out", "normal"'),
    "he_normal_fan_in": ("HE_FAN_IN", 2.0, '"fan_in", "normal"'),
    "torch_default": ("TORCH_DEFAULT", 1 / 3, '"fan_in", "uniform"'),
}
_RNGS = {"rngs": "rngs"}


def _constant_init(value: float) -> str:
    return "nnx.initializers.zeros" if value == 0 else f"nnx.initializers.constant({literal(value)})"


def _kernel_init(layer: Layer) -> dict[str, str]:
    """Return the initialiser of a kernel."""
    fill = weight_fill(layer)
    if not isinstance(fill, Draw):
        return {"kernel_init": _constant_init(fill)}
    name, variance, rest = _INITIALISERS[fill.rule]
    scaled = f"nnx.initializers.variance_scaling({literal(variance * fill.factor**2)}, {rest})"
    return {"kernel_init": name if fill.factor == 1 else scaled}


def _bias_init(layer: Layer, fan: str) -> dict[str, str]:
    """Return the initialiser of a bias if it differs from that of Flax; `fan` contains the arguments for one that
    depends on the weights."""
    value = attribute(layer, "bias_init")
    if not attribute(layer, "bias") or value == 0:
        return {}
    return {"bias_init": f"bias_uniform({fan})" if value == "torch_default" else _constant_init(value)}


def _conv_class(op: Op) -> str:
    """Return the class of a convolution: that of Flax takes maps with any number of axes."""
    name = conv_class(op, "")
    return f"{name}{suffix(op)}" if name else "nnx.Conv"


def _conv(layer: Layer, a: Texts) -> Arguments:
    """Return the arguments of a convolution or a transposed one, whose kernel is that of the opposite direction."""
    transposed = layer.kind is ops.ConvTranspose
    kernel = size_tuple(layer.attributes["kernel"], layer.sample)
    inputs = layer.attributes["channels"] if transposed else layer.channels
    fan = f"{per_group(inputs, layer.attributes['groups'])}, {kernel}"
    return args(
        python(layer.channels), a["channels"], kernel_size=kernel, strides=a["stride"], padding=a["padding"],
        **({"output_padding": a["output_padding"]} if transposed else {}), kernel_dilation=a["dilation"],
        feature_group_count=a["groups"], use_bias=a["bias"], **({} if transposed else of_weights(layer, a)),
        **_kernel_init(layer), **_bias_init(layer, fan), **_RNGS,
    )  # fmt: skip


def _linear(layer: Layer, a: Texts) -> Arguments:
    return args(
        python(layer.channels), a["features"],
        use_bias=a["bias"], **_kernel_init(layer), **_bias_init(layer, python(layer.channels)), **_RNGS,
    )  # fmt: skip


def norm_class(op: Op) -> str:
    """Return the class of a normalisation."""
    return f"nnx.{variant(op).capitalize()}Norm"


def _norm(layer: Layer, a: Texts) -> Arguments:
    """Return the arguments of a norm: the fast variance of Flax cancels if the mean is large, and only batch
    normalisation has the default `epsilon`."""
    kind = variant(layer.sample)
    given = {"num_groups": a["groups"]} if kind == "group" else {}
    if kind == "batch":
        given["momentum"] = old_share(layer.attributes["momentum"])
    if kind != "batch" or a["eps"] != "1e-05":
        given["epsilon"] = a["eps"]
    scale = attribute(layer, "scale_init")
    start = {} if scale == 1 else {"scale_init": _constant_init(scale)}
    return args(python(layer.channels), **given, use_fast_variance="False", **start, **_RNGS)


def _pool(layer: Layer, a: Texts) -> Arguments:
    """Return the arguments of Flax's functions, or of those in support.py that round up and take integers as sizes."""
    rest = {"count_include_pad": a["count_pad"]} if a.get("count_pad", "True") != "True" else {}
    if pool_function(layer).startswith("nnx."):
        kernel, stride, padding = (
            size_values(layer.attributes[name], layer.sample) for name in ("kernel", "stride", "padding")
        )
        pads = {"padding": literal(tuple((size, size) for size in padding))} if any(padding) else {}
        return args(window_shape=literal(kernel), strides=literal(stride), **pads, **rest)
    counted = {"count_pad": a["count_pad"]} if "count_pad" in a else {}
    pads = {} if a["padding"] == "0" else {"padding": a["padding"]}
    return args(kernel=a["kernel"], stride=a["stride"], **pads, ceil=a["ceil"], **counted)


def pool_function(layer: Layer) -> str:
    """Return the function of a pool: Flax's own unless it rounds up, or its sizes are not literals."""
    name = "avg_pool" if layer.kind is ops.AvgPool else "max_pool"
    sizes = [layer.attributes[each] for each in ("kernel", "stride", "padding", "ceil")]
    plain = all(term.head == "constant" for term in sizes) and not sizes[-1].value
    return f"nnx.{name}" if plain else f"{name}{suffix(layer.sample)}"


def _act(layer: Layer, a: Texts) -> Arguments:
    if variant(layer.sample) == "prelu":
        return per_channel(layer), {"init": literal(attribute(layer, "slope_init"))}
    return of_activation(layer, a)


def _affine(layer: Layer, a: Texts) -> Arguments:
    names = {"use_scale": "scale", "use_bias": "shift", "scale_init": "scale_init"}
    return per_channel(layer), {word: literal(attribute(layer, name)) for word, name in names.items()}


def _upsample(layer: Layer, a: Texts) -> Arguments:
    return args(factor=a["factor"], method=literal(interpolation(layer.sample)))


TABLE: dict[type[Kind], Spelling] = {
    **array_functions("jnp"),
    ops.Conv: Spelling(_conv_class, arguments=_conv),
    ops.Linear: Spelling("nnx.Linear", arguments=_linear),
    ops.Norm: Spelling(norm_class, arguments=_norm),
    ops.Act: Spelling(lambda op: "PReLU" if variant(op) == "prelu" else "", activation("nnx"), _act),
    ops.MaxPool: Spelling("", "", _pool),
    ops.AvgPool: Spelling("", "", _pool),
    ops.Dropout: Spelling("nnx.Dropout", arguments=lambda layer, a: args(a["rate"], **_RNGS)),
    ops.Upsample: Spelling("", ranked("upsample"), _upsample),
    ops.Identity: Spelling("", "nnx.identity"),
    ops.ConvTranspose: Spelling(ranked("ConvTranspose"), arguments=_conv),
    ops.Softmax: Spelling(
        "",
        lambda op: "nnx.softmax" if getattr(op.kind, "ranges") is None else "range_softmax",  # noqa: B009
        lambda layer, a: args() if attribute(layer, "ranges") is None else args(ranges=a["ranges"]),
    ),
    ops.Affine: Spelling("Affine", arguments=_affine),
}  # fmt: skip
