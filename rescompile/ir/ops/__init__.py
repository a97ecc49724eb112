"""The closed list of operators. Each declares its input, output, parameters and cost, once.

Shapes leave out the batch: `(channels, height, width)` for maps of two axes, `(channels, length)` and `(channels, depth, height, width)` for those of
one and three, `(features,)` for vectors.
MACs are multiply-adds of convolution and linear layers; biases, norms, activations, pools and merges count as none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import MISSING, fields
from functools import cache

from rescompile.diagnostics.errors import nearest
from rescompile.ir.ops.activation import ACTIVATIONS, BOUNDED, Act, Softmax
from rescompile.ir.ops.convolution import Conv, ConvTranspose
from rescompile.ir.ops.linear import DEFAULT_INIT, Linear, fill
from rescompile.ir.ops.norm import Lrn, Norm
from rescompile.ir.ops.op import (
    AXIS_NAMES,
    MAX_SIDE,
    Attribute,
    Axes,
    Axis,
    Draw,
    Fill,
    Kind,
    Parameter,
    Shape,
    Size,
    attribute,
    rank,
)
from rescompile.ir.ops.pointwise import Affine, Dropout, Identity, Scale, WeightedSum
from rescompile.ir.ops.pooling import AdaptiveAvgPool, AvgPool, GlobalAvgPool, GlobalMaxPool, MaxPool, Reduce
from rescompile.ir.ops.resizing import (
    Border,
    DepthToSpace,
    Flatten,
    PadChannels,
    Part,
    Shuffle,
    SpaceToDepth,
    Subsample,
    Unflatten,
    Upsample,
)

__all__ = [
    "ACTIVATIONS", "AXIS_NAMES", "BOUNDED", "DEFAULT_INIT", "ELSEWHERE", "KINDS", "LATER", "MAX_SIDE", "WEIGHTED", "WORDS", "Act", "AdaptiveAvgPool", "Affine",
    "Attribute", "AvgPool", "Axes", "Axis", "Border", "Conv", "ConvTranspose", "DepthToSpace", "Draw", "Dropout", "Fill", "Flatten",
    "GlobalAvgPool", "GlobalMaxPool", "Identity", "Kind", "Linear", "Lrn", "MaxPool", "Norm", "PadChannels",
    "Parameter", "Part", "Reduce", "Scale", "Shape", "Shuffle", "Size", "Softmax", "SpaceToDepth", "Subsample", "Unflatten",
    "Upsample", "WeightedSum", "attribute", "attributes", "default_sizes", "fill", "main_attribute", "may_be_name", "rank", "required", "similar",
]  # fmt: skip

KINDS: tuple[type[Kind], ...] = (
    Conv, Linear, Norm, Act, MaxPool, AvgPool, GlobalAvgPool, AdaptiveAvgPool, Flatten, Dropout, Scale, Subsample,
    Upsample, PadChannels, Identity, ConvTranspose, Lrn, Softmax, GlobalMaxPool, Reduce, Affine, Border, Shuffle, Unflatten,
    DepthToSpace, SpaceToDepth, Part, WeightedSum,
)  # fmt: skip

#: Layers whose weights are multiplied with what comes in: those that the depth of a network counts.
WEIGHTED = (Conv, ConvTranspose, Linear)

#: Every word of an op, with the attributes that the word itself fixes: `relu` is `act: {kind: relu}`.
WORDS: dict[str, tuple[type[Kind], dict[str, str]]] = {
    **{kind.word: (kind, {}) for kind in KINDS},
    **{word: (Act, {"kind": word}) for word in ACTIVATIONS},
}
#: The words of ops, of their attributes and of library blocks that format 1 did not have in its first release: a spec that
#: already uses one as a name keeps its meaning.
LATER = frozenset(
    {
        "hardsigmoid", "prelu", "softmax", "lrn", "conv_transpose", "global_maxpool", "reduce", "affine", "border", "shuffle",
        "unflatten", "part", "depth_to_space", "space_to_depth", "channel", "instance", "layer", "max", "mean", "one", "reflect",
        "replicate", "zeros", "plain", "standardised", "scaled", "map", "rows",
        "weighted_sum", "fast",
        "depthwise_separable", "inverted_residual", "squeeze_excitation",
        "blurpool", "cbam", "cbam_conv", "efficient_channel_attention", "selective_kernel",
    }
)  # fmt: skip

#: Ops and kinds of other frameworks that this list lacks: who writes one did not mistype a similar word.
ELSEWHERE = frozenset(
    {
        "rrelu", "selu", "celu", "glu", "geglu", "swiglu", "mish", "softmin", "log_softmax", "softplus", "softsign", "softshrink",
        "hardshrink", "tanhshrink", "hardtanh", "logsigmoid", "log_sigmoid", "threshold", "rms", "layer_norm", "instance_norm",
        "rms_norm", "local_response_norm", "deconv", "channel_shuffle", "pixel_shuffle", "pixel_unshuffle", "adaptive_maxpool",
        "lppool", "maxunpool", "attention", "embedding",
    }
)  # fmt: skip


def similar(word: str, known: Iterable[str]) -> str | None:
    """`did you mean 'relu6'?` for a misspelt word of an op or of one of its attributes, or None."""
    return None if word.lower() in ELSEWHERE else nearest(word, known)


@cache
def attributes(word: str) -> dict[str, Attribute]:
    """Return the attributes that a spec may give to this word of an op."""
    kind, fixed = WORDS[word]
    listed = {f.name: f.metadata["attribute"] for f in fields(kind) if f.name not in fixed}
    if kind.chooser not in fixed:
        return listed
    return {name: facts for name, facts in listed.items() if not facts.only or fixed[kind.chooser] in facts.only}


@cache
def required(word: str) -> tuple[str, ...]:
    """Return the attributes of this word that have no default."""
    kind, fixed = WORDS[word]
    return tuple(f.name for f in fields(kind) if f.default is MISSING and f.name not in fixed)


@cache
def default_sizes(word: str, axes: int) -> dict[str, Size]:
    """Return the defaults of the sizes of a word on maps with this many axes, where they differ from those of its class, which
    has two."""
    listed = fields(WORDS[word][0]) if axes in AXIS_NAMES and axes != 2 else ()
    return {f.name: f.default[:1] * axes for f in listed if isinstance(f.default, tuple)}


@cache
def main_attribute(word: str) -> str | None:
    """Return the attribute that a bare value stands for, if the word has one."""
    return next((name for name, facts in attributes(word).items() if facts.main), None)


def may_be_name(word: str) -> bool:
    """Return whether this word of an op may be the name of a step: one that came later, or one after which nothing but a step
    can stand, since its kind has no attributes."""
    kind, _ = WORDS[word]
    return word in LATER or not fields(kind)
