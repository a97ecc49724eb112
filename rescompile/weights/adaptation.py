"""Weights adapted to another number of classes or of input channels; nothing is done that was not asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np

from rescompile.diagnostics.errors import CheckFailed, Diagnostic, UsageError
from rescompile.ir.network import Network, Node, Op, Side, walk
from rescompile.ir.ops import Conv, Linear, Shape
from rescompile.ir.traversal import ThreadRules, thread
from rescompile.weights.drawing import draw
from rescompile.weights.mapping import Array, Weights
from rescompile.weights.tensors import Tensor

Status = Literal["kept", "adapted", "new"]
STATUSES: tuple[Status, ...] = ("kept", "adapted", "new")


@dataclass(frozen=True, slots=True)
class Line:
    """What became of one tensor of the network: `source` is its name in the old weights, `how` what was done to it."""

    name: str
    status: Status
    source: str | None = None
    how: str = ""


def adapted(
    tensors: Mapping[str, Tensor], network: Network, classes: str | None, in_channels: str | None, seed: int
) -> tuple[dict[str, Tensor], dict[str, Line]]:
    """The tensors with those of classifiers and of the first convolutions adapted, and a line for each of these.

    `classes` is `new` (a new classifier) or `keep` (classes keep their numbers, any further ones are new); `in_channels` is
    `sum` or `repeat`, as timm does. Raises UsageError for an option that finds nothing to adapt, and CheckFailed for an
    adaptation that cannot be made.
    """
    made, lines = dict(tensors), dict[str, Line]()
    ways: tuple[tuple[str, str | None, Adapter, Iterable[tuple[str, Op]]], ...] = (
        ("classes", classes, partial(_classes, fresh=draw(network, seed)), heads(network)),
        ("in-channels", in_channels, _channels, entries(network)),
    )
    for option, word, adapt, ops in ways:
        if word is None:
            continue
        before = len(lines)
        for path, op in ops:
            own = {f"{path}.{parameter.name}": parameter for parameter in op.kind.parameters(op.input)}
            for name, parameter in own.items():
                if name in made and (done := adapt(name, made[name], parameter.shape, word)):
                    made[name], lines[name] = done
        if len(lines) == before:
            message = (
                f"--{option} {word} finds nothing to adapt: the shapes are those of {network.name}, or differ otherwise"
            )
            raise UsageError(Diagnostic("E0802", message))
    return made, lines


#: From name, old tensor, wanted shape and the option's word to the new tensor and its line; None where they differ
#: otherwise, or not at all.
Adapter = Callable[[str, Tensor, Shape, str], "tuple[Tensor, Line] | None"]


def _classes(name: str, old: Tensor, wanted: Shape, word: str, fresh: Weights) -> tuple[Tensor, Line] | None:
    if old.shape == wanted or not old.shape or old.shape[1:] != wanted[1:]:
        return None
    were, are = old.shape[0], wanted[0]
    new = partial(fresh.__getitem__, name)
    if word == "new":
        return Tensor(wanted, "F32", new), Line(name, "new", None, f"{were} classes before, {are} now")
    kept = min(were, are)
    rest = f", the other {are - kept} new" if are > kept else ""
    make = partial(_rows, old, new, kept)
    return replace(old, shape=wanted, make=make), Line(
        name, "adapted", name, f"the first {kept} of {were} classes{rest}"
    )


def _channels(name: str, old: Tensor, wanted: Shape, word: str) -> tuple[Tensor, Line] | None:
    if len(old.shape) != 4 or len(wanted) != 4 or old.shape == wanted or _beside(old.shape) != _beside(wanted):
        return None
    were, are = old.shape[1], wanted[1]
    if word == "sum" and are != 1:
        message = f"{name} has {were} input channels, and the network {are}: 'sum' makes one of them"
        raise CheckFailed(Diagnostic("E0702", message, help="--in-channels repeat"))
    how = f"{were} input channels summed" if word == "sum" else f"{were} input channels repeated to {are}"
    make = partial(_summed, old) if word == "sum" else partial(_repeated, old, are)
    return replace(old, shape=wanted, make=make), Line(name, "adapted", name, how)


def _beside(shape: Shape) -> Shape:
    return (shape[0], *shape[2:])


def _rows(old: Tensor, fresh: Callable[[], Array], kept: int) -> Array:
    value = fresh().copy()
    value[:kept] = old.make()[:kept]
    return value


def _summed(old: Tensor) -> Array:
    """For a grey image: the same answer as for that image in every channel."""
    return np.asarray(old.make().sum(axis=1, keepdims=True))


def _repeated(old: Tensor, channels: int) -> Array:
    """The channels over and over, scaled so that inputs of the same size give outputs of the same size."""
    value = old.make()
    repeated: Array = value[:, np.arange(channels) % value.shape[1]] * np.float32(value.shape[1] / channels)
    return repeated


def heads(network: Network) -> Iterator[tuple[str, Op]]:
    """The classifiers: the last op with parameters, if it is a linear layer or a convolution, of the network itself and of
    each side branch."""
    owners = [("", network.root), *((p, n.child) for p, n in walk(network.root) if isinstance(n, Side))]
    for path, node in owners:
        ops = [(name, op) for name, op in _ops(node, path) if op.kind.parameters(op.input)]
        if ops and isinstance(ops[-1][1].kind, Conv | Linear):
            yield ops[-1]


def _ops(node: Node, path: str) -> list[tuple[str, Op]]:
    """The ops of a node, but for those of its side branches."""
    ops: list[tuple[str, Op]] = []
    thread(node, None, ThreadRules(lambda name, op, _: ops.append((name, op)), merge=lambda *_: None), path)
    return ops


def entries(network: Network) -> list[tuple[str, Op]]:
    """The convolutions that see the image: those before which there is nothing that owns parameters."""
    found: list[tuple[str, Op]] = []

    def op(path: str, op: Op, is_image: bool) -> bool:
        if is_image and isinstance(op.kind, Conv) and op.kind.groups == 1:
            found.append((path, op))
        return is_image and not op.kind.parameters(op.input)

    def side(_: str, __: Side, is_image: bool, through: Callable[[bool], bool]) -> None:
        through(is_image)

    rules = ThreadRules[bool](
        op,
        merge=lambda *_: False,
        side=side,
        split=lambda _, node, is_image: [is_image and not node.split] * len(node.branches),  # else some channels only
    )
    thread(network.root, True, rules)
    return found
