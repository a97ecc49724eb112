"""Ops, merges and lists of them in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

from rescompile.explain.stages import Step, Steps, has_shortcut
from rescompile.ir.network import Op, Parallel
from rescompile.ir.ops import (
    Act,
    AdaptiveAvgPool,
    AvgPool,
    Conv,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Kind,
    Linear,
    MaxPool,
    Norm,
    PadChannels,
    Scale,
    Size,
    Subsample,
    Upsample,
)

#: A list tells so many steps; the rest is counted.
STEPS = 30


def size(sizes: Size) -> str:
    """`3x3`"""
    return f"{sizes[0]}x{sizes[1]}"


def shown(shape: Sequence[int]) -> str:
    """`3x224x224`"""
    return "x".join(map(str, shape))


def _conv(kind: Conv) -> str:
    words = [f"{size(kind.kernel)} convolution of {kind.channels}"]
    if kind.stride != (1, 1):
        words.append(f"stride {_number(kind.stride)}")
    if kind.groups > 1:
        words.append(f"{kind.groups} groups")
    if kind.dilation != (1, 1):
        words.append(f"dilation {_number(kind.dilation)}")
    return " with ".join([words[0], " and ".join(words[1:])]) if words[1:] else words[0]


def _pool(kind: MaxPool) -> str:
    what = "average" if isinstance(kind, AvgPool) else "max"
    beside = ([f"stride {_number(kind.steps)}"] if kind.steps != kind.kernel else []) + (
        ["sizes rounded up"] if kind.ceil else []
    )
    return f"{size(kind.kernel)} {what} pool" + (f" with {' and '.join(beside)}" if beside else "")


def act(kind: Act) -> str:
    """An activation with its constant."""
    words = {
        "leaky_relu": f"leaky relu of slope {kind.slope:.6g}",
        "elu": "elu" if kind.alpha == 1 else f"elu of alpha {kind.alpha:.6g}",
        "gelu_tanh": "gelu by tanh",
    }
    return words.get(kind.kind, kind.kind)


#: How an op is called in a list of them.
WORDS: dict[type[Kind], Callable[..., str]] = {
    Conv: _conv,
    MaxPool: _pool,
    AvgPool: _pool,
    Act: act,
    Linear: lambda kind: f"linear layer of {kind.features}",
    Norm: lambda kind: (
        f"norm of {kind.groups} group{'s' if kind.groups > 1 else ''}" if kind.kind == "group" else f"{kind.kind} norm"
    ),
    GlobalAvgPool: lambda kind: "global average pool",
    AdaptiveAvgPool: lambda kind: f"average pool to {size(kind.size)}",
    Flatten: lambda kind: "flattening",
    Dropout: lambda kind: f"dropout {kind.rate:.6g}",
    Scale: lambda kind: f"factor {kind.factor:.6g}",
    Subsample: lambda kind: f"every {_number(kind.stride)}th position" if max(kind.stride) > 3 else "subsampling",
    Upsample: lambda kind: f"{kind.kind} upsampling by {_number(kind.factor)}",
    PadChannels: lambda kind: "channels of zeros",
}


def item(step: Step) -> str:
    """A step in words."""
    if isinstance(step, Op):
        say = next((WORDS[kind] for kind in type(step.kind).__mro__ if kind in WORDS), None)
        return say(step.kind) if say else step.kind.word.replace("_", " ")
    if isinstance(step, Parallel):
        if has_shortcut(step):
            return "a residual branch" if step.residual else "a gate"
        return f"branches{' on parts of the channels' if step.split else ''}, merged by {step.merge}"
    return f"an auxiliary branch ({step.mode})"


def listed(inside: Steps) -> str:
    """A list of steps in words; what comes several times is told once."""
    groups = [(word, len(list(group))) for word, group in groupby(item(step) for step in inside)]
    words = [f"{number} x {word}" if number > 1 else word for word, number in groups]
    if len(words) > STEPS:
        words[STEPS:] = [f"and {len(words) - STEPS} more"]
    return ", ".join(words) or "nothing"


def _number(pair: Size) -> str:
    return str(pair[0]) if pair[0] == pair[1] else size(pair)


def times(number: int) -> str:
    """`once`, `twice`, `3 times`"""
    return {1: "once", 2: "twice"}.get(number, f"{number} times")
