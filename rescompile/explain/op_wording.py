"""Descriptions of ops, merges and lists of steps in words."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby

from rescompile.explain.stages import MARK, Step, Steps, has_shortcut
from rescompile.ir.network import Again, Keep, Op, Parallel, Recall, value_name
from rescompile.ir.ops import (
    Act,
    AdaptiveAvgPool,
    AvgPool,
    Conv,
    Dropout,
    GlobalAvgPool,
    GlobalMaxPool,
    Kind,
    Linear,
    MaxPool,
    Norm,
    PadChannels,
    Part,
    Reduce,
    Scale,
    Size,
    Subsample,
    Upsample,
)
from rescompile.ir.ops.op import short_size_text, size_text

#: The maximum number of steps listed; the rest is counted.
STEPS = 30


def window(sizes: Size) -> str:
    """Return `3x3`, or `3-wide` on maps of one axis."""
    return size_text(sizes) if len(sizes) > 1 else f"{sizes[0]}-wide"


def _with(name: str, *numbers: str | None) -> str:
    """Return a name with its numbers, as far as there are any: `3x3 max pool (stride 2)`."""
    given = ", ".join(number for number in numbers if number is not None)
    return f"{name} ({given})" if given else name


def _conv(kind: Conv) -> str:
    return _with(
        f"{window(kind.kernel)} convolution",
        f"{kind.channels} channels",
        f"stride {short_size_text(kind.stride)}" if max(kind.stride) > 1 else None,
        f"{kind.groups} groups" if kind.groups > 1 else None,
        f"dilation {short_size_text(kind.dilation)}" if max(kind.dilation) > 1 else None,
        None if kind.is_plain else f"{kind.weights} weights",
    )


def _pool(kind: MaxPool) -> str:
    return _with(
        f"{window(kind.kernel)} {'average' if isinstance(kind, AvgPool) else 'max'} pool",
        f"stride {short_size_text(kind.steps)}" if kind.steps != kind.kernel else None,
        "sizes rounded up" if kind.ceil else None,
    )


def act(kind: Act) -> str:
    """Return an activation with its constant."""
    words = {
        "leaky_relu": f"leaky relu (slope {kind.slope:.6g})",
        "elu": "elu" if kind.alpha == 1 else f"elu (alpha {kind.alpha:.6g})",
        "gelu_tanh": "gelu (tanh)",
    }
    return words.get(kind.kind, kind.kind)


def _norm(kind: Norm) -> str:
    groups = f"{kind.groups} group{'s' * (kind.groups > 1)}" if kind.kind == "group" else None
    return _with(f"{kind.kind} norm", groups)


#: The words for an op in a list.
WORDS: dict[type[Kind], Callable[..., str]] = {
    Conv: _conv,
    MaxPool: _pool,
    AvgPool: _pool,
    Act: act,
    Norm: _norm,
    Linear: lambda kind: f"linear layer ({kind.features} outputs)",
    GlobalAvgPool: lambda kind: "global average pool",
    GlobalMaxPool: lambda kind: "global max pool",
    Reduce: lambda kind: f"{kind.by} over channels",
    Part: lambda kind: f"part {kind.number + 1} of {kind.of}",
    AdaptiveAvgPool: lambda kind: f"adaptive average pool ({size_text(kind.size)})",
    Dropout: lambda kind: f"dropout {kind.rate:.6g}",
    Scale: lambda kind: f"scale by {kind.factor:.6g}",
    Subsample: lambda kind: _with(
        "subsampling", f"stride {short_size_text(kind.stride)}" if max(kind.stride) > 3 else None
    ),
    Upsample: lambda kind: f"{kind.kind} upsampling ({short_size_text(kind.factor)}x)",
    PadChannels: lambda kind: "zero channels",
}


def item(step: Step) -> str:
    """Return a step in words."""
    if isinstance(step, Op):
        say = next((WORDS[kind] for kind in type(step.kind).__mro__ if kind in WORDS), None)
        return say(step.kind) if say else step.kind.word.replace("_", " ")
    if isinstance(step, Parallel):
        if has_shortcut(step):
            return "a residual branch" if step.residual else "a gate"
        return f"branches{' on parts of the channels' if step.split else ''}, merged by {step.merge}"
    if isinstance(step, Again):
        return f"'{step.name}' again, with the same parameters"
    if isinstance(step, Keep | Recall):
        name, index = step.key
        return f"{'keeping' if isinstance(step, Keep) else 'using'} the value {value_name((name.rstrip(MARK), index))}"
    return f"an auxiliary branch ({step.mode})"


def listed(inside: Steps) -> str:
    """Return a list of steps in words; equal neighbours are counted."""
    groups = [(word, len(list(group))) for word, group in groupby(item(step) for step in inside)]
    words = [f"{number} x {word}" if number > 1 else word for word, number in groups]
    if len(words) > STEPS:
        words[STEPS:] = [f"and {len(words) - STEPS} more"]
    return ", ".join(words) or "nothing"


def times(number: int) -> str:
    """Return `once`, `twice`, `3 times`"""
    return {1: "once", 2: "twice"}.get(number, f"{number} times")
