"""Weights adapted to another number of classes or of input channels, as requested by options."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Literal, get_args

import numpy as np

from rescompile.analysis.heads import heads
from rescompile.diagnostics.errors import CheckFailed, UsageError
from rescompile.ir.network import Network, Op, Parallel, Side
from rescompile.ir.ops import Conv, Shape
from rescompile.ir.traversal import ThreadRules, thread
from rescompile.records import record
from rescompile.weights.initialisation import draw
from rescompile.weights.key_matching import unread
from rescompile.weights.mapping import Array, Weights
from rescompile.weights.tensors import Tensor

Status = Literal["kept", "adapted", "new"]
STATUSES: tuple[Status, ...] = get_args(Status)


@record
class Line:
    """The origin of one tensor of the network: `source` is its name in the old weights, `how` what changed."""

    name: str
    status: Status
    source: str | None = None
    how: str = ""


def adapted(
    tensors: Mapping[str, Tensor], network: Network, classes: str | None, in_channels: str | None, seed: int
) -> tuple[dict[str, Tensor], dict[str, Line]]:
    """Return the tensors with those of classifiers and first convolutions adapted, and a line for each of these.

    `classes` is `new` (a new classifier) or `keep` (classes keep their indices, further ones are new); `in_channels` is `sum`
    or `repeat`, as in timm. Raises UsageError for an option without effect, and CheckFailed for an impossible adaptation.
    """
    result, lines = dict(tensors), dict[str, Line]()
    sides = unread(network)
    absent = sides.keys() - {name for name, side in sides.items() if side in {sides.get(key) for key in tensors}}
    ways: tuple[tuple[str, str, str | None, Adapter, Iterable[tuple[str, Op]]], ...] = (
        ("classes", "classes", classes, partial(_classes, fresh=draw(network, seed)), heads(network)),
        ("in-channels", "input channels", in_channels, _channels, entries(network)),
    )
    for option, what, value, adapt, ops in ways:
        if value is None:
            continue
        adapted_before = len(lines)
        for path, op in ops:
            own = {f"{path}.{parameter.name}": parameter for parameter in op.kind.parameters(op.input)}
            for name, parameter in own.items():
                if name in absent:
                    continue  # a missing auxiliary head is reported elsewhere
                if change := adapt(name, result.get(name), parameter.shape, value):
                    result[name], lines[name] = change
        if len(lines) == adapted_before:
            reason = f"the checkpoint does not differ from {network.name} in its number of {what} alone"
            raise UsageError.of("E0802", f"--{option} {value} does not apply: {reason}")
    return result, lines


#: A function from a name, the old tensor or None, the wanted shape and the value of the option to the new tensor and its line;
#: None if the shapes are equal or differ in another way.
Adapter = Callable[[str, Tensor | None, Shape, str], "tuple[Tensor, Line] | None"]


def _classes(name: str, old: Tensor | None, wanted: Shape, word: str, fresh: Weights) -> tuple[Tensor, Line] | None:
    new = partial(fresh.__getitem__, name)
    if old is None:
        return (Tensor(wanted, "F32", new), Line(name, "new", None, "not in the file")) if word == "new" else None
    if old.shape == wanted or not old.shape or old.shape[1:] != wanted[1:]:
        return None
    were, are = old.shape[0], wanted[0]
    if word == "new":
        return Tensor(wanted, "F32", new), Line(name, "new", None, f"{were} classes before, {are} now")
    kept = min(were, are)
    rest = f", the other {are - kept} new" if are > kept else ""
    make = partial(_rows, old, new, kept)
    return replace(old, shape=wanted, make=make), Line(
        name, "adapted", name, f"the first {kept} of {were} classes{rest}"
    )


def _channels(name: str, old: Tensor | None, wanted: Shape, word: str) -> tuple[Tensor, Line] | None:
    if old is None or len(old.shape) != 4 or len(wanted) != 4:
        return None
    were, are = old.shape[1], wanted[1]
    if were == are or (*old.shape[:1], *old.shape[2:]) != (*wanted[:1], *wanted[2:]):
        return None
    if word == "sum" and are != 1:
        message = f"--in-channels sum produces one input channel, but {name} needs {are} (the file has {were})"
        raise CheckFailed.of("E0702", message, help="use --in-channels repeat")
    how = f"{were} input channels summed" if word == "sum" else f"{were} input channels repeated to {are}"
    make = partial(_summed, old) if word == "sum" else partial(_repeated, old, are)
    return replace(old, shape=wanted, make=make), Line(name, "adapted", name, how)


def _rows(old: Tensor, fresh: Callable[[], Array], kept: int) -> Array:
    value = fresh().copy()
    value[:kept] = old.make()[:kept]
    return value


def _summed(old: Tensor) -> Array:
    """Return one input channel, whose result for a grey image equals that of the old channels for its copies."""
    return np.asarray(old.make().sum(axis=1, keepdims=True))


def _repeated(old: Tensor, channels: int) -> Array:
    """Return the channels repeated in order, scaled so that outputs keep their magnitude."""
    value = old.make()
    repeated: Array = value[:, np.arange(channels) % value.shape[1]] * np.float32(value.shape[1] / channels)
    return repeated


def entries(network: Network) -> list[tuple[str, Op]]:
    """Return the convolutions that read the image: those without a merge or an op with parameters before them."""
    convolutions: list[tuple[str, Op]] = []

    def op(path: str, op: Op, is_image: bool) -> bool:
        # Standardised weights would change with the number of channels.
        if is_image and isinstance(op.kind, Conv) and op.kind.groups == 1 and op.kind.is_plain:
            convolutions.append((path, op))
        return is_image and not op.kind.parameters(op.input)

    def side(_: str, __: Side, is_image: bool, through: Callable[[bool], bool]) -> None:
        through(is_image)

    def split(_: str, node: Parallel, is_image: bool) -> list[bool]:
        return [is_image and not node.split] * len(node.branches)  # a branch of a split reads only some channels

    thread(network.root, True, ThreadRules[bool](op, lambda *_: False, side, split))
    return convolutions
