"""Constructors of small trees, and every op on a grid of its attributes, for tests of single ops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from itertools import product
from typing import Any

import numpy as np

from rescompile.diagnostics.errors import ShapeError
from rescompile.ir.network import Merge, Network, Node, Op, Parallel, Series, Survival, merge_shape, parameters
from rescompile.ir.ops import (
    ACTIVATIONS,
    Act,
    AdaptiveAvgPool,
    Affine,
    AvgPool,
    Border,
    Conv,
    ConvTranspose,
    DepthToSpace,
    Dropout,
    Flatten,
    GlobalAvgPool,
    GlobalMaxPool,
    Identity,
    Kind,
    Linear,
    Lrn,
    MaxPool,
    Norm,
    PadChannels,
    Part,
    Reduce,
    Scale,
    Shape,
    Shuffle,
    Softmax,
    SpaceToDepth,
    Subsample,
    Unflatten,
    Upsample,
    WeightedSum,
)  # fmt: skip
from rescompile.ir.window_evaluation import Array

Weights = dict[str, Array]


# Each constructor derives its output shape, so that a test reads like a block.


def op(name: str, kind: Kind, shape: Shape) -> Op:
    return Op(name, kind, shape, kind.output(shape))


def series(shape: Shape, *steps: Callable[[Shape], Node], name: str | None = None) -> Series:
    children: list[Node] = []
    at = shape
    for step in steps:
        children.append(step(at))
        at = children[-1].output
    return Series(tuple(children), shape, at, name)


def parallel(
    shape: Shape, merge: Merge, *branches: Series, residual: bool = False, survival: Survival | None = None
) -> Parallel:
    output = merge_shape(merge, [branch.output for branch in branches])
    return Parallel("merge", branches, merge, shape, output, residual, survival)


def a(name: str, kind: Kind) -> Callable[[Shape], Op]:
    """Return a step of `series` that is an op."""
    return lambda shape: op(name, kind, shape)


def network(root: Series) -> Network:
    return Network("test", root)


def random_weights(net: Network, seed: int = 0) -> Weights:
    """Return random values for every tensor; variances are positive, and no tensor has its initial value."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.uniform(0.5, 2, p.shape) if name.endswith("running_var") else rng.standard_normal(p.shape)
        for name, p in parameters(net)
    }


def random_input(shape: Shape, batch: int = 2, seed: int = 1) -> Array:
    return np.random.default_rng(seed).standard_normal((batch, *shape))


def grid(make: Callable[..., Kind], shapes: list[Shape], **choices: list[Any]) -> Iterator[tuple[Kind, Shape]]:
    """Yield every combination of attributes that is valid for one of the shapes."""
    for values in product(*choices.values()):
        for shape in shapes:
            try:
                kind = make(**dict(zip(choices, values, strict=True)))
                kind.output(shape)
            except ShapeError:
                continue
            yield kind, shape


WINDOWS: dict[str, list[Any]] = {
    "kernel": [(1, 1), (2, 2), (3, 3), (2, 3), (5, 1)],
    "stride": [None, (1, 1), (2, 2), (3, 2)],
    "padding": [(0, 0), (1, 1), (1, 0), (0, 1), (2, 0)],
    "ceil": [False, True],
}
MAPS: list[Shape] = [(2, 7, 8), (1, 6, 5)]

#: The cases with two axes, and those of vectors.
IMAGES: list[tuple[Kind, Shape]] = [
    *grid(
        Conv,
        [(4, 9, 8), (6, 5, 7)],
        channels=[12],
        kernel=[(1, 1), (3, 3), (2, 3), (5, 1)],
        stride=[(1, 1), (2, 2), (1, 3)],
        padding=["same", (0, 0), (2, 1)],
        dilation=[(1, 1), (2, 2), (1, 3)],
        groups=[1, 2, 4, 6],
        bias=[False, True],
    ),
    *grid(
        Conv,
        [(4, 9, 8), (6, 5, 7)],
        channels=[12],
        kernel=[(1, 1), (2, 3)],
        padding=[(0, 0), (2, 1)],
        groups=[1, 2],
        bias=[False, True],
        weights=["standardised", "scaled"],
        eps=[1e-5, 0.1],
        gamma=[1.0, 1.7],
    ),
    *grid(Linear, [(7,), (1,)], features=[1, 5], bias=[False, True]),
    *grid(Norm, [(3, 4, 5), (6,)], eps=[1e-5, 1e-3, 0.0, 1.0]),
    *grid(Norm, [(6, 4, 5), (6, 1, 1), (6,)], kind=["group"], groups=[1, 2, 3, 6], eps=[1e-5, 0.0, 1.0]),
    *grid(Act, [(3, 4, 5), (6,)], kind=[kind for kind in ACTIVATIONS if kind not in ("leaky_relu", "elu", "prelu")]),
    *grid(Act, [(3, 4, 5), (6,)], kind=["leaky_relu"], slope=[0.01, 0.2, -0.5]),
    *grid(Act, [(3, 4, 5), (6,)], kind=["elu"], alpha=[1.0, 0.3, 0.0]),
    *grid(Act, [(3, 4, 5), (6,)], kind=["prelu"], per=["channel", "one"]),
    *grid(MaxPool, MAPS, **WINDOWS),
    *grid(AvgPool, MAPS, **WINDOWS, count_pad=[True, False]),
    *grid(GlobalAvgPool, [(3, 4, 5), (2, 1, 1)]),
    *grid(AdaptiveAvgPool, [(2, 7, 7), (2, 5, 8), (1, 1, 3)], size=[(1, 1), (2, 3), (4, 4), (7, 7), (9, 5)]),
    *grid(Flatten, [(3, 4, 5), (3, 1, 1), (6,)]),
    *grid(Dropout, [(3, 4, 5), (6,)], rate=[0.0, 0.5, 1.0]),
    *grid(Scale, [(3, 4, 5), (6,)], factor=[0.0, 1.0, 0.17, -2.5]),
    *grid(Subsample, [(3, 4, 5), (2, 7, 7)], stride=[(1, 1), (2, 2), (3, 1), (4, 5)]),
    *grid(
        Upsample,
        [(3, 4, 5), (2, 1, 1), (1, 7, 2)],
        factor=[(1, 1), (2, 2), (3, 2), (1, 5), (7, 32)],
        kind=["nearest", "bilinear"],
    ),
    *grid(PadChannels, [(3, 4, 5)], channels=[3, 4, 8]),
    *grid(Identity, [(3, 4, 5), (6,)]),
    *grid(
        ConvTranspose,
        [(4, 5, 4), (6, 1, 3)],
        channels=[6, 12],
        kernel=[(1, 1), (2, 2), (3, 4)],
        stride=[(1, 1), (2, 2), (3, 1)],
        padding=[(0, 0), (1, 1), (0, 2)],
        output_padding=[(0, 0), (1, 1), (0, 1)],
        dilation=[(1, 1), (2, 3)],
        groups=[1, 2],
        bias=[False, True],
    ),
    *grid(Norm, [(6, 4, 5), (3, 1, 2)], kind=["instance"], eps=[1e-5, 0.0, 1.0]),
    *grid(Norm, [(6, 4, 5), (6, 1, 1), (6,), (2, 3, 1)], kind=["layer"], eps=[1e-5, 0.0, 1.0]),
    *grid(Lrn, [(3, 4, 5), (8, 2, 1)], size=[1, 3, 5, 9], alpha=[1e-4, 0.5], beta=[0.75, 2.0], k=[1.0, 2.0]),
    *grid(Softmax, [(6, 4, 5), (6, 1, 1), (6,)], ranges=[None, 2, 3, 6]),
    *grid(GlobalMaxPool, [(3, 4, 5), (2, 1, 1)]),
    *grid(Reduce, [(3, 4, 5), (1, 1, 2)], by=["mean", "max"]),
    *grid(Affine, [(3, 4, 5), (6,)], per=["channel", "one"], scale=[True, False], shift=[True, False]),
    *grid(WeightedSum, [(6, 4, 5), (6,)], ranges=[1, 2, 3, 6], kind=["fast", "softmax"], eps=[1e-4, 0.5]),
    *grid(
        Border,
        [(3, 4, 5), (1, 2, 9)],
        before=[(0, 0), (1, 2), (-1, 0), (3, -2)],
        after=[(0, 0), (2, 1), (0, -3), (-1, 1)],
        kind=["zeros", "reflect", "replicate"],
    ),
    *grid(Shuffle, [(12, 4, 5), (6, 1, 1)], groups=[1, 2, 3, 4, 6]),
    *grid(Part, [(12, 4, 5), (6, 1, 1), (6,)], number=[0, 1, 2], of=[1, 2, 3, 6]),
    *grid(Unflatten, [(6,)], to=["map", "rows"], rank=[1, 2, 3]),
    *grid(DepthToSpace, [(36, 2, 3), (4, 1, 1)], size=[1, 2, 3, 6]),
    *grid(SpaceToDepth, [(3, 6, 12), (1, 2, 2)], size=[1, 2, 3, 6]),
]


def at_rank(kind: Kind, shape: Shape, axes: int) -> tuple[Kind, Shape] | None:
    """Return a case for maps with one or three axes, derived from two: the last axis, or both and one between them.
    None if the op is invalid."""

    def turned(size: tuple[int, ...]) -> tuple[int, ...]:
        return size[1:] if axes == 1 else (size[0], max(1, sum(size) // 2), size[1])

    sizes = {f.name: getattr(kind, f.name) for f in fields(kind) if isinstance(getattr(kind, f.name), tuple)}
    try:
        other = replace(kind, **{name: turned(size) for name, size in sizes.items()})
        shape = shape[0], *turned(shape[1:])
        other.output(shape)
    except ShapeError:
        return None
    return other, shape


def others() -> Iterator[tuple[Kind, Shape]]:
    """Yield cases with one and three axes, a selection of the thousands."""
    for axes in (1, 3):
        made = (at_rank(kind, shape, axes) for kind, shape in IMAGES if len(shape) == 3)
        different = list(dict.fromkeys(case for case in made if case is not None))
        per_word = Counter(kind.word for kind, _ in different)
        for word, count in per_word.items():
            yield from [case for case in different if case[0].word == word][:: max(1, count // EACH)]


#: The number of cases of each op with one or three axes.
EACH = 60
CASES: list[tuple[Kind, Shape]] = [*IMAGES, *others()]
