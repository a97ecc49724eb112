"""Output shapes, tensors and MACs of each op, implemented a second time from docs/language.md.

This module imports nothing from rescompile: the expected network must not depend on the code under test.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Shape = tuple[int, ...]
Attributes = Mapping[str, Any]
#: The names of the sizes of a map in expressions, by the length of its shape.
AXES = {2: ("length",), 3: ("height", "width"), 4: ("height", "width")}


class Misfit(Exception):
    """A document from which no network can be built, according to this reading of the language."""


#: The attributes of each op with their types and defaults; ... marks required ones.
_LAYER = {"bias_init": ("real", 0.0), "init": ("real", "he_normal_fan_out"), "init_scale": ("real", 1.0)}
_WINDOW = {"kernel": ("size", ...), "stride": ("size", None), "padding": ("size", (0, 0)), "ceil": ("bool", False)}
ATTRIBUTES: dict[str, dict[str, tuple[str, Any]]] = {
    "conv": {
        "channels": ("int", ...), "kernel": ("size", ...), "stride": ("size", (1, 1)), "padding": ("size", "same"),
        "dilation": ("size", (1, 1)), "groups": ("int", 1), "bias": ("bool", False), **_LAYER,
        "weights": ("word", "plain"), "eps": ("real", 1e-5), "gamma": ("real", 1.0),
    },
    "linear": {"features": ("int", ...), "bias": ("bool", True), **_LAYER},
    "norm": {
        "kind": ("word", "batch"), "groups": ("int", 32), "eps": ("real", 1e-5), "momentum": ("real", 0.1),
        "scale_init": ("real", 1.0),
    },
    "act": {
        "kind": ("word", "relu"), "slope": ("real", 0.01), "alpha": ("real", 1.0), "per": ("word", "channel"),
        "slope_init": ("real", 0.25),
    },
    "maxpool": _WINDOW,
    "avgpool": {**_WINDOW, "count_pad": ("bool", True)},
    "global_avgpool": {},
    "adaptive_avgpool": {"size": ("size", ...)},
    "flatten": {},
    "dropout": {"rate": ("real", ...)},
    "scale": {"factor": ("real", ...)},
    "subsample": {"stride": ("size", ...)},
    "upsample": {"factor": ("size", ...), "kind": ("word", "nearest")},
    "pad_channels": {"channels": ("int", ...)},
    "identity": {},
    "conv_transpose": {
        "channels": ("int", ...), "kernel": ("size", ...), "stride": ("size", (1, 1)), "padding": ("size", (0, 0)),
        "output_padding": ("size", (0, 0)), "dilation": ("size", (1, 1)), "groups": ("int", 1), "bias": ("bool", False), **_LAYER,
    },
    "lrn": {"size": ("int", 5), "alpha": ("real", 1e-4), "beta": ("real", 0.75), "k": ("real", 1.0)},
    "softmax": {"ranges": ("int", None)},
    "global_maxpool": {},
    "reduce": {"by": ("word", ...)},
    "affine": {
        "per": ("word", "channel"), "scale": ("bool", True), "shift": ("bool", True), "scale_init": ("real", 1.0),
    },
    "border": {"before": ("size", (0, 0)), "after": ("size", (0, 0)), "kind": ("word", "zeros")},
    "shuffle": {"groups": ("int", ...)},
    "weighted_sum": {"ranges": ("int", ...), "kind": ("word", "fast"), "eps": ("real", 1e-4)},
    "part": {"number": ("int", ...), "of": ("int", ...)},
    "unflatten": {"to": ("word", "map"), "rank": ("int", 2)},
    "depth_to_space": {"size": ("int", ...)},
    "space_to_depth": {"size": ("int", ...)},
}  # fmt: skip
MAIN = {
    "linear": "features", "act": "kind", "adaptive_avgpool": "size", "dropout": "rate", "scale": "factor",
    "subsample": "stride", "upsample": "factor", "pad_channels": "channels", "softmax": "ranges", "reduce": "by",
    "shuffle": "groups", "weighted_sum": "ranges", "unflatten": "to", "depth_to_space": "size", "space_to_depth": "size",
}  # fmt: skip
ACTS = (
    "relu",
    "sigmoid",
    "tanh",
    "leaky_relu",
    "elu",
    "relu6",
    "silu",
    "gelu",
    "gelu_tanh",
    "hardswish",
    "hardsigmoid",
    "prelu",
)
#: Attributes that apply to one kind only; for convolutions, `weights` decides.
ONLY = {
    ("norm", "groups"): "group",
    ("norm", "momentum"): "batch",
    ("act", "slope"): "leaky_relu",
    ("act", "alpha"): "elu",
    ("act", "per"): "prelu",
    ("act", "slope_init"): "prelu",
    ("weighted_sum", "eps"): "fast",
}
WORDS = (*ATTRIBUTES, *ACTS)
#: Words that are literals as values of attributes.
LITERALS = {
    *(
        "same",
        "batch",
        "group",
        "instance",
        "layer",
        "nearest",
        "bilinear",
        "channel",
        "one",
        "mean",
        "max",
        "zeros",
        "reflect",
        "plain",
        "map",
        "rows",
        "standardised",
        "scaled",
        "fast",
        "softmax",
    ),
    *("replicate", "torch_default", "he_normal_fan_in", "he_normal_fan_out", *ACTS),
}


@dataclass(frozen=True)
class Made:
    """An op on an input shape: all of its attributes, its output shape, its tensors and its MACs."""

    attributes: dict[str, Any]
    output: Shape
    tensors: tuple[tuple[str, Shape], ...] = ()
    macs: int = 0


def made(word: str, given: Attributes, shape: Shape) -> Made:
    """Return an op with these attributes. Raises Misfit if it does not fit the input shape."""
    facts = {name: _for_axes(default, shape) for name, (_, default) in ATTRIBUTES[word].items()}
    missing = [name for name, default in facts.items() if default is ... and name not in given]
    if missing:
        raise Misfit(f"{word} needs {missing}")
    own = {**facts, **given}
    for (op, name), kind in ONLY.items():
        if op == word and own["kind"] != kind:
            own[name] = facts[name]
    if word == "conv" and own["weights"] != "scaled":
        own["gamma"] = facts["gamma"]
    if word == "conv" and own["weights"] == "plain":
        own["eps"] = facts["eps"]
    return _RULES.get(word, lambda own, shape: Made(own, shape))(own, shape)


def _for_axes(default: Any, shape: Shape) -> Any:
    """Return a default value; a size is repeated for each axis of the map."""
    return default[:1] * (len(shape) - 1) if isinstance(default, tuple) else default


def window(sizes: Sequence[int], own: Attributes) -> tuple[int, ...]:
    """Return the size of a map after a sliding window."""
    found = []
    dilation = own.get("dilation", (1,) * len(sizes))
    for n, k, s, p, d in zip(sizes, own["kernel"], own["stride"], own["padding"], dilation, strict=True):
        room = n + 2 * p - d * (k - 1) - 1
        if room < 0 or s > n:
            raise Misfit(f"a window of {k} with stride {s} on {n}")
        size = room // s + 1
        if own.get("ceil") and room % s and size * s < n + p:  # no window starts in the padding behind the map
            size += 1
        found.append(size)
    return tuple(found)


def _map(shape: Shape) -> Shape:
    if len(shape) not in AXES:
        raise Misfit(f"no map: {shape}")
    return shape


def _image(shape: Shape) -> Shape:
    if len(shape) != 3:
        raise Misfit(f"no map of two axes: {shape}")
    return shape


def _conv(own: dict[str, Any], shape: Shape) -> Made:
    channels, *sizes = _map(shape)
    if own["padding"] == "same":
        if any(k % 2 == 0 for k in own["kernel"]):
            raise Misfit("same padding of an even kernel")
        own["padding"] = tuple((k - 1) * d // 2 for k, d in zip(own["kernel"], own["dilation"], strict=True))
    new, groups = own["channels"], own["groups"]
    if new % groups or channels % groups:
        raise Misfit(f"{groups} groups of {channels} and {new}")
    size = window(sizes, own)
    weight = (new, channels // groups, *own["kernel"])
    if own["weights"] != "plain" and math.prod(weight[1:]) == 1:
        raise Misfit("one weight for each channel")
    more = [("bias", (new,))] if own["bias"] else []
    if own["weights"] == "scaled":
        more.append(("gain", (new, *(1 for _ in weight[1:]))))
    return Made(own, (new, *size), (("weight", weight), *more), math.prod(weight) * math.prod(size))


def _linear(own: dict[str, Any], shape: Shape) -> Made:
    if len(shape) != 1:
        raise Misfit("linear on a map")
    weight = own["features"], shape[0]
    bias = [("bias", weight[:1])] if own["bias"] else []
    return Made(own, weight[:1], (("weight", weight), *bias), math.prod(weight))


def _norm(own: dict[str, Any], shape: Shape) -> Made:
    channels, groups = shape[:1], own["groups"]
    tensors: list[tuple[str, Shape]] = [("weight", channels), ("bias", channels)]
    if own["kind"] == "batch":
        tensors += [("running_mean", channels), ("running_var", channels), ("num_batches_tracked", ())]
    elif own["kind"] == "group" and (shape[0] % groups or math.prod(shape) == groups):
        raise Misfit(f"{groups} groups of {shape}")
    elif own["kind"] == "instance" and math.prod(shape) == shape[0]:
        raise Misfit("instances of one value")
    elif own["kind"] == "layer" and shape[0] == 1:
        raise Misfit("a layer of one value")
    return Made(own, shape, tuple(tensors))


def _conv_transpose(own: dict[str, Any], shape: Shape) -> Made:
    channels, *sizes = _map(shape)
    new, groups = own["channels"], own["groups"]
    if (
        new % groups
        or channels % groups
        or any(e >= s for e, s in zip(own["output_padding"], own["stride"], strict=True))
    ):
        raise Misfit("groups, or output padding")
    names = ("kernel", "stride", "padding", "output_padding", "dilation")
    rules = zip(sizes, *(own[name] for name in names), strict=True)
    size = tuple((n - 1) * s - 2 * p + d * (k - 1) + e + 1 for n, k, s, p, e, d in rules)
    if min(size) < 1:
        raise Misfit("nothing is left")
    weight = (channels, new // groups, *own["kernel"])
    bias = [("bias", (new,))] if own["bias"] else []
    return Made(own, (new, *size), (("weight", weight), *bias), math.prod(weight) * math.prod(sizes))


def _act(own: dict[str, Any], shape: Shape) -> Made:
    slopes = [("weight", shape[:1] if own["per"] == "channel" else (1,))] if own["kind"] == "prelu" else []
    return Made(own, shape, tuple(slopes))


def _affine(own: dict[str, Any], shape: Shape) -> Made:
    if not (own["scale"] or own["shift"]):
        raise Misfit("neither scale nor shift")
    values = shape[:1] if own["per"] == "channel" else (1,)
    return Made(own, shape, tuple((name, values) for name, key in (("weight", "scale"), ("bias", "shift")) if own[key]))


def _divided(key: str) -> Callable[[dict[str, Any], Shape], Made]:
    """Return the rule of an op that divides the channels into groups and keeps the shape."""

    def rule(own: dict[str, Any], shape: Shape) -> Made:
        if shape[0] % (own[key] or 1):
            raise Misfit(f"{shape[0]} channels in {own[key]} parts")
        return Made(own, shape)

    return rule


def _lrn(own: dict[str, Any], shape: Shape) -> Made:
    if own["size"] % 2 == 0:
        raise Misfit("an even number of neighbours")
    return Made(own, _map(shape))


def _border(own: dict[str, Any], shape: Shape) -> Made:
    sizes = []
    for n, before, after in zip(_map(shape)[1:], own["before"], own["after"], strict=True):
        if own["kind"] != "zeros" and min(before, after) < 0:
            raise Misfit("a mirror that cuts")
        if n <= -min(before, 0) - min(after, 0) or (own["kind"] == "reflect" and max(before, after) >= n):
            raise Misfit("a side that is too short")
        sizes.append(n + before + after)
    return Made(own, (shape[0], *sizes))


def _depth_to_space(own: dict[str, Any], shape: Shape) -> Made:
    block = own["size"]
    if _image(shape)[0] % block**2:
        raise Misfit("channels that make no blocks")
    return Made(own, (shape[0] // block**2, shape[1] * block, shape[2] * block))


def _space_to_depth(own: dict[str, Any], shape: Shape) -> Made:
    block = own["size"]
    if any(n % block for n in _image(shape)[1:]):
        raise Misfit("a map that makes no blocks")
    return Made(own, (shape[0] * block**2, shape[1] // block, shape[2] // block))


def _part(own: dict[str, Any], shape: Shape) -> Made:
    if shape[0] % own["of"] or own["number"] >= own["of"]:
        raise Misfit("no such range of the channels")
    return Made(own, (shape[0] // own["of"], *shape[1:]))


def _weighted_sum(own: dict[str, Any], shape: Shape) -> Made:
    if shape[0] % own["ranges"]:
        raise Misfit("ranges that do not divide the channels")
    return Made(own, (shape[0] // own["ranges"], *shape[1:]), (("weight", (own["ranges"],)),))


def _unflatten(own: dict[str, Any], shape: Shape) -> Made:
    if len(shape) != 1:
        raise Misfit("unflatten of a map")
    ones = (1,) * own["rank"]
    return Made(own, (1, shape[0], *ones[1:]) if own["to"] == "rows" else (shape[0], *ones))


def _pool(own: dict[str, Any], shape: Shape) -> Made:
    own["stride"] = own["stride"] or own["kernel"]
    if any(2 * p > k for p, k in zip(own["padding"], own["kernel"], strict=True)):
        raise Misfit("more padding than half the kernel")
    return Made(own, (_map(shape)[0], *window(shape[1:], own)))


def _subsample(own: dict[str, Any], shape: Shape) -> Made:
    ones = (1,) * len(own["stride"])
    return Made(own, (shape[0], *window(_map(shape)[1:], {**own, "kernel": ones, "padding": (0,) * len(ones)})))


def _upsample(own: dict[str, Any], shape: Shape) -> Made:
    return Made(own, (_map(shape)[0], *(n * f for n, f in zip(shape[1:], own["factor"], strict=True))))


def _pad_channels(own: dict[str, Any], shape: Shape) -> Made:
    if own["channels"] < _map(shape)[0]:
        raise Misfit("fewer channels than there are")
    return Made(own, (own["channels"], *shape[1:]))


_RULES: dict[str, Callable[[dict[str, Any], Shape], Made]] = {
    "conv": _conv,
    "linear": _linear,
    "norm": _norm,
    "maxpool": _pool,
    "avgpool": _pool,
    "global_avgpool": lambda own, shape: Made(own, (_map(shape)[0], *(1 for _ in shape[1:]))),
    "adaptive_avgpool": lambda own, shape: Made(own, (_map(shape)[0], *own["size"])),
    "flatten": lambda own, shape: Made(own, (math.prod(shape),)),
    "subsample": _subsample,
    "upsample": _upsample,
    "pad_channels": _pad_channels,
    "conv_transpose": _conv_transpose,
    "act": _act,
    "lrn": _lrn,
    "softmax": _divided("ranges"),
    "global_maxpool": lambda own, shape: Made(own, (_map(shape)[0], *(1 for _ in shape[1:]))),
    "reduce": lambda own, shape: Made(own, (1, *_map(shape)[1:])),
    "affine": _affine,
    "border": _border,
    "shuffle": lambda own, shape: _divided("groups")(own, _map(shape)),
    "part": _part,
    "weighted_sum": _weighted_sum,
    "unflatten": _unflatten,
    "depth_to_space": _depth_to_space,
    "space_to_depth": _space_to_depth,
}


def merged(merge: str, shapes: Sequence[Shape]) -> Shape:
    """Return the shape of merged branches. Raises Misfit if the branches cannot be merged."""
    first = shapes[0]
    if any(len(shape) != len(first) for shape in shapes):
        raise Misfit("maps and vectors together")
    if merge == "concat":
        if any(shape[1:] != first[1:] for shape in shapes):
            raise Misfit("concat of maps of different sizes")
        return sum(shape[0] for shape in shapes), *first[1:]
    full = max(shapes, key=math.prod)
    factors = [(full[0], *(1 for _ in full[1:])), (1, *full[1:])]
    if any(shape != full and not (merge == "mul" and shape in factors) for shape in shapes):
        raise Misfit(f"{merge} of {shapes}")
    return full
