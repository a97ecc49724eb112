"""The closed list of operators. Each declares its input, output, parameters and cost, once.

Shapes leave out the batch: `(channels, height, width)` for maps, `(features,)` for vectors.
MACs are multiply-adds of convolution and linear layers; biases, norms, activations, pools and merges count as none.
"""

from __future__ import annotations

from dataclasses import MISSING, fields
from functools import cache

from rescompile.ir.ops.activation import ACTIVATIONS, BOUNDED, Act
from rescompile.ir.ops.convolution import Conv
from rescompile.ir.ops.linear import Linear
from rescompile.ir.ops.norm import Norm
from rescompile.ir.ops.op import SAME, Attribute, Axes, Axis, Kind, Parameter, Shape, Size, attribute
from rescompile.ir.ops.pointwise import Dropout, Identity, Scale
from rescompile.ir.ops.pooling import AdaptiveAvgPool, AvgPool, GlobalAvgPool, MaxPool
from rescompile.ir.ops.resizing import MAX_SIDE, Flatten, PadChannels, Subsample, Upsample

__all__ = [
    "ACTIVATIONS", "BOUNDED", "KINDS", "MAX_SIDE", "SAME", "WORDS", "Act", "AdaptiveAvgPool", "Attribute", "AvgPool", "Axes",
    "Axis", "Conv", "Dropout", "Flatten", "GlobalAvgPool", "Identity", "Kind", "Linear", "MaxPool", "Norm", "PadChannels",
    "Parameter", "Scale", "Shape", "Size", "Subsample", "Upsample", "attribute", "attributes", "main_attribute", "required",
]  # fmt: skip

KINDS: tuple[type[Kind], ...] = (
    Conv, Linear, Norm, Act, MaxPool, AvgPool, GlobalAvgPool, AdaptiveAvgPool, Flatten, Dropout, Scale, Subsample,
    Upsample, PadChannels, Identity,
)  # fmt: skip

#: Every word of an op, with the attributes that the word itself fixes: `relu` is `act: {kind: relu}`.
WORDS: dict[str, tuple[type[Kind], dict[str, str]]] = {
    **{kind.word: (kind, {}) for kind in KINDS},
    **{word: (Act, {"kind": word}) for word in ACTIVATIONS},
}


@cache
def attributes(word: str) -> dict[str, Attribute]:
    """The attributes that a spec may give to this word of an op."""
    kind, fixed = WORDS[word]
    listed = {f.name: f.metadata["attribute"] for f in fields(kind) if f.name not in fixed}
    if "kind" not in fixed:
        return listed
    return {name: facts for name, facts in listed.items() if not facts.only or fixed["kind"] in facts.only}


@cache
def required(word: str) -> tuple[str, ...]:
    """The attributes of this word that have no default."""
    kind, fixed = WORDS[word]
    return tuple(f.name for f in fields(kind) if f.default is MISSING and f.name not in fixed)


@cache
def main_attribute(word: str) -> str | None:
    """The attribute that a bare value stands for, if the word has one."""
    return next((name for name, facts in attributes(word).items() if facts.main), None)
