"""Ops as the cards of a picture name them: `3×3 conv, 64, stride 2`."""

from __future__ import annotations

import re
from collections.abc import Callable

from rescompile.explain.op_wording import item
from rescompile.ir.network import Again, Keep, Node, Op, Recall, Side, value_name
from rescompile.ir.ops import (
    Act,
    Affine,
    AvgPool,
    Conv,
    ConvTranspose,
    Dropout,
    Flatten,
    Identity,
    Kind,
    Linear,
    Lrn,
    MaxPool,
    Norm,
    Scale,
    Shape,
    Size,
    Softmax,
    WeightedSum,
)

#: Ops that change values one by one or channel by channel; a card shows them below the layer that they follow.
POINTWISE = (Norm, Act, Dropout, Scale, Affine, WeightedSum, Lrn, Softmax, Flatten, Identity)


def _window(sizes: Size) -> str:
    return size_text(sizes) if len(sizes) > 1 else f"{sizes[0]}-wide"


def _number(sizes: Size) -> str:
    return str(sizes[0]) if len(set(sizes)) == 1 else size_text(sizes)


def _conv(op: Op) -> str:
    kind = op.kind
    assert isinstance(kind, Conv | ConvTranspose)
    word = "conv" if isinstance(kind, Conv) else "transposed conv"
    depthwise = kind.groups > 1 and kind.groups == kind.channels == op.input[0]
    facts = [
        f"stride {_number(kind.stride)}" if max(kind.stride) > 1 else "",
        f"{kind.groups} groups" if kind.groups > 1 and not depthwise else "",
        f"dilation {_number(kind.dilation)}" if max(kind.dilation) > 1 else "",
    ]
    kernel = f"{_window(kind.kernel)} {'depthwise ' * depthwise}{word}"
    return ", ".join([f"{kernel}, {kind.channels}", *filter(None, facts)])


def _pool(op: Op) -> str:
    kind = op.kind
    assert isinstance(kind, MaxPool)
    facts = [f"stride {_number(kind.steps)}" if kind.steps != kind.kernel else "", "ceil" if kind.ceil else ""]
    word = "average" if isinstance(kind, AvgPool) else "max"
    return ", ".join([f"{_window(kind.kernel)} {word} pool", *filter(None, facts)])


#: The titles that are shorter on a card than in a sentence.
_TITLES: dict[type[Kind], Callable[[Op], str]] = {
    Conv: _conv,
    ConvTranspose: _conv,
    MaxPool: _pool,
    AvgPool: _pool,
    Linear: lambda op: f"linear, {op.output[0]}",
}


def op_title(op: Op) -> str:
    """Return the title of the card of an op."""
    say = _TITLES.get(type(op.kind))
    return say(op) if say else times(item(op))


def times(text: str) -> str:
    """Sizes such as `3x3` with the sign that means times."""
    return re.sub(r"(?<=\d)x(?=\d)", "×", text)


def size_text(shape: Shape) -> str:
    """`64×56×56`"""
    return "×".join(map(str, shape))


def is_pointwise(op: Op) -> bool:
    """Return whether a card shows the op below the layer that it follows."""
    return isinstance(op.kind, POINTWISE)


def value_title(node: Node) -> str | None:
    """`keep y`, `use y` or `again mlp`; None for a node that is not one of them."""
    if isinstance(node, Again):
        return f"again {node.name}"
    if isinstance(node, Keep | Recall):
        return f"{'keep' if isinstance(node, Keep) else 'use'} {value_name(node.key)}"
    return None


def side_title(node: Side) -> str:
    """Return the words at the end of a side branch."""
    how = {"always": "output", "training": "output, training only", "never": "unused"}[node.mode]
    return f"{node.output_name}: {how}" if node.output_name else how
