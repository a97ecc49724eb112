"""Which networks take images of other sizes than the spec's: the valid sizes, and the sizes after each op.

Every op declares the size of an axis after it (`ops.Axis`) as floor((times * n + plus) / by); one that declares nothing fixes
the size. Sizes are threaded through the tree as functions of the input's. Where branches join, the functions must be equal. Two
that are equal for some n only are so periodically, since floor((n + by) / by) = floor(n / by) + 1, so checking one period is
enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cache
from typing import Any

from rescompile.diagnostics.errors import Place, Source, UsageError, nearest, one_of
from rescompile.ir.network import LOGITS, Network, Op, Parallel, Side
from rescompile.ir.ops import AXIS_NAMES, Axis, Flatten, Shape, rank
from rescompile.ir.ops.op import size_text
from rescompile.ir.provenance import Origin
from rescompile.ir.traversal import ThreadRules, thread
from rescompile.records import record

FIXED = "E0809"
#: Longer periods than this are not searched: their branches count as agreeing at one size only.
LONGEST = 1 << 14


@record
class Extent:
    """A size as a function of the input's: steps one after the other, merged where two can be one."""

    steps: tuple[Axis, ...] = ()

    def __call__(self, n: int) -> int:
        for step in self.steps:
            n = step(n)
        return n

    @property
    def constant(self) -> int | None:
        """The size, where it does not depend on the input."""
        return self.steps[-1].plus if self.steps and not self.steps[-1].times else None

    @property
    def slope(self) -> Fraction:
        """The growth of the size with the input's."""
        return Fraction(math.prod(step.times for step in self.steps), self.period)

    @property
    def period(self) -> int:
        """The period after which the function repeats, up to a constant."""
        return math.prod(step.by for step in self.steps)

    def after(self, step: Axis) -> Extent:
        """This size after one more step."""
        times, plus, by = step.times, step.plus, step.by
        if not times:
            return Extent((Axis(0, plus // by),))
        divisor = math.gcd(times, by)
        times, plus, by = times // divisor, plus // divisor, by // divisor
        if (times, plus, by) == (1, 0, 1):
            return self
        if self.steps:
            last, before = self.steps[-1], Extent(self.steps[:-1])
            if last.by == 1:
                return before.after(Axis(times * last.times, times * last.plus + plus, by))
            if times == 1:
                return before.after(Axis(last.times, last.plus + plus * last.by, last.by * by))
        return Extent((*self.steps, Axis(times, plus, by)))

    def least(self, size: int) -> int:
        """Return the least input from which on this is `size` or more; 1 for a constant."""
        if self.constant is not None:
            return 1
        for step in reversed(self.steps):
            size = -((step.plus - size * step.by) // step.times)
        return max(size, 1)

    def text(self, name: str) -> str | int:
        """Return the function as an expression in the input's name, such as `(height + 31)//32`; a constant as a number."""
        if self.constant is not None:
            return self.constant
        text = name
        for step in self.steps:
            atom = text if text == name else f"({text})"
            text = f"{step.times}*{atom}" if step.times > 1 else atom if step.plus or step.by > 1 else text
            if step.plus:
                text = f"{text} {'+' if step.plus > 0 else '-'} {abs(step.plus)}"
            if step.by > 1:
                text = f"({text})//{step.by}" if step.plus or step.times > 1 else f"{text}//{step.by}"
        return text


Extents = tuple[Extent, ...]
Through = Callable[[Extents | None], Extents | None]


@record
class Free:
    """A free axis of the input and the sizes n that the network takes: `minimum` or more, with n % every in `rests`.

    `size` is the spec's. From `two` on, every size that is not constant is 2 or more. Each `stride`, a multiple of `every`,
    adds the same amount to all sizes.
    """

    name: str
    size: int
    minimum: int
    every: int = 1
    rests: tuple[int, ...] = (0,)
    two: int = field(default=1, compare=False)
    stride: int = field(default=1, compare=False)

    def takes(self, n: int) -> bool:
        """Return whether the network takes this size."""
        return n >= self.minimum and n % self.every in self.rests

    def check(self, n: int) -> None:
        """Raises UsageError for a size that the network does not take."""
        if not self.takes(n):
            modulo = f" and equal {self.remainders}" if self.every > 1 else ""
            message = f"invalid {self.name} {n}: it must be at least {self.minimum}{modulo}"
            raise UsageError.of("E0802", message, help=f"the next valid {self.name} is {self.after(n)}")

    def after(self, n: int) -> int:
        """Return the least valid size from `n` on."""
        n = max(n, self.minimum)
        return next(size for size in range(n, n + self.every) if self.takes(size))

    @property
    def words(self) -> str:
        """The valid sizes in words."""
        if len(self.rests) > 1:
            return f"of at least {self.minimum} and equal to {self.remainders}"
        steps = f", in steps of {self.every}" if self.every > 1 else ""
        return f"of at least {self.minimum}{steps}"

    @property
    def remainders(self) -> str:
        """The remainders of valid sizes: `0 or 1 modulo 32`."""
        return f"{one_of(map(str, self.rests))} modulo {self.every}"

    def data(self) -> dict[str, Any]:
        """Return what a file records of the axis."""
        return {"size": self.size, "minimum": self.minimum, "every": self.every, "rests": list(self.rests)}

    @classmethod
    def of(cls, name: str, data: Mapping[str, Any]) -> Free:
        """Return an axis as it was recorded."""
        return cls(name, data["size"], data["minimum"], data["every"], tuple(data["rests"]))


@record
class Sizes:
    """The free axes of a network, the sizes of its input and outputs (text where they are free), and for every op by its
    full name which axes of its input are free."""

    free: tuple[Free, ...]
    input: tuple[int | str, ...]
    outputs: Mapping[str, tuple[int | str, ...]]
    ops: Mapping[str, tuple[bool, ...]]

    def data(self) -> dict[str, Any]:
        """Return what a file records of the free axes."""
        return {axis.name: axis.data() for axis in self.free}


def describe_sizes(data: Mapping[str, Any]) -> str:
    """Return the valid sizes in words: `any height and width of at least 33`."""
    listed: dict[str, list[str]] = {}
    for name, facts in data.items():
        listed.setdefault(Free.of(name, facts).words, []).append(name)
    return "; ".join(f"any {' and '.join(names)} {which}" for which, names in listed.items())


def sizes(network: Network, wanted: str, training: bool = False) -> Sizes:
    """Return the sizes in a network for inputs whose axes in `wanted`, such as "height,width", are free.

    With `training`, side branches of mode `training` count too. Raises UsageError where there is no such axis, and where an op
    or a join fixes its size.
    """
    source = Source("--dynamic", wanted)
    names = _named(source, network)
    axes = [_Axis(name, n, name in names) for name, n in zip(axis_names(network.input), network.input[1:], strict=True)]
    walk = _Walk(training, axes, source)
    for axis in axes:
        if axis.free and axis.name in network.sizes:
            message = f"the spec computes values from '{axis.name}', which are fixed to one input size"
            raise walk.refusal([axis], message, None, network.sizes[axis.name])
    start = tuple(Extent() if axis.free else Extent((Axis(0, axis.size),)) for axis in axes)
    end = thread(network.root, start, ThreadRules[Extents | None](walk.op, walk.joined, walk.side))
    walk.shapes[LOGITS] = walk.dimensions(network.root.output, end)
    outputs = {name: walk.shapes[name] for name in network.outputs}
    shape = (network.input[0], *(axis.name if axis.free else axis.size for axis in axes))
    return Sizes(tuple(axis.valid() for axis in axes if axis.free), shape, outputs, walk.ops)


def axis_names(shape: Shape) -> tuple[str, ...]:
    """Return the names of the axes of a map; none for a vector."""
    return AXIS_NAMES.get(rank(shape), ())


def _named(source: Source, network: Network) -> list[str]:
    """Return the axes that the option names. Raises UsageError for others, and where the network has no such axis."""
    names: list[str] = []
    known = {name for axes in AXIS_NAMES.values() for name in axes}
    axes = axis_names(network.input)
    at = 1
    for word in source.text.split(","):
        name, place = word.strip(), Place(source, 1, at, at + max(len(word), 1))
        at += len(word) + 1
        if name not in known:
            listed = axes or AXIS_NAMES[2]
            several = f"{','.join(listed)}, or {'one' if len(listed) == 2 else 'some'} of them"
            other = f"write {several if len(listed) > 1 else listed[0]}; the batch is dynamic already"
            message = (
                f"--dynamic takes the {'axes' if len(listed) > 1 else 'axis'} {one_of(listed, 'and')}, not '{name}'"
            )
            raise UsageError.of("E0802", message, place, help=nearest(name, listed) or other)
        if name in names:
            raise UsageError.of("E0802", f"--dynamic names '{name}' twice", place)
        names.append(name)
    if absent := [name for name in names if name not in axes]:
        message = f"the input of {network.name} is {list(network.input)}, which has no {one_of(absent, 'and')}"
        has = f"its {'axes are' if len(axes) > 1 else 'only axis is'} {one_of(axes, 'and')}" if axes else None
        raise UsageError.of(FIXED, message, Place(source, 1, 1, 1 + len(source.text)), help=has)
    return names


Rests = tuple[int, frozenset[int]]


@dataclass(slots=True)
class _Axis:
    """An axis of the input with what the walk finds: the least input, that from which on all sizes are 2 or more, the stride that
    adds the same amount to each size, and the inputs at which all joins agree."""

    name: str
    size: int
    free: bool
    minimum: int = 1
    two: int = 1
    stride: int = 1
    rests: Rests = (1, frozenset({0}))

    def agree(self, one: Extent, other: Extent) -> bool:
        """Return whether two branches can be joined at infinitely many sizes; those sizes are noted."""
        if one == other:
            return True
        found = _agreement(one, other)
        if found is None or math.lcm(self.rests[0], found[0]) > LONGEST:
            return False
        self.rests = _both(self.rests, found)
        return True

    def valid(self) -> Free:
        """Return the axis with its valid sizes."""
        every, rests = self.rests
        free = Free(self.name, self.size, self.minimum, every, tuple(sorted(rests)))
        return replace(free, minimum=free.after(1), two=free.after(self.two), stride=math.lcm(self.stride, every))


@dataclass(slots=True)
class _Walk:
    """The rules of the walk; for every op which axes of its input are free, and the shape of every output."""

    training: bool
    axes: Sequence[_Axis]
    source: Source
    ops: dict[str, tuple[bool, ...]] = field(default_factory=dict)
    shapes: dict[str, tuple[int | str, ...]] = field(default_factory=dict)

    def op(self, name: str, node: Op, value: Extents | None) -> Extents | None:
        """Return the sizes after an op."""
        if value is None or all(extent.constant is not None for extent in value):
            self.ops.setdefault(name, (False,) * rank(node.input))
            return _constant(node.output)
        own = [extent.constant is None for extent in value]
        was = self.ops.get(name, own)  # where the same step ran before
        self.ops[name] = tuple(either or before for either, before in zip(own, was, strict=True))
        rules = node.kind.axes(node.input)
        if rules is None:
            fixed = [axis for axis, free in zip(self.axes, own, strict=True) if free]
            raise self.refusal(fixed, *_why(node, name), node.origin)
        after = []
        for axis, extent, rule, n in zip(self.axes, value, rules, node.input[1:], strict=True):
            if extent.constant is None:
                axis.minimum = max(axis.minimum, extent.least(rule.least))
                axis.two = max(axis.two, extent.least(2))
                if axis.size < axis.minimum:
                    message = f"{name} has an input of size {n}, but a dynamic input must be at least {rule.least} here"
                    raise self.refusal([axis], message, None, node.origin)
            after.append(_after(extent, rule))
            axis.stride = math.lcm(axis.stride, after[-1].period)
        return tuple(after)

    def joined(self, path: str, node: Parallel, values: list[Extents | None]) -> Extents | None:
        """Return the sizes after a merge: those of all branches must be one function, except factors of one position."""
        maps = [value for value in values if value is not None]
        if len(maps) < len(values):
            return None
        if node.merge == "mul":
            maps = [value for value in maps if any(extent.constant != 1 for extent in value)] or maps[:1]
        merged = list(maps[0])
        for value in maps[1:]:
            for at, axis in enumerate(self.axes[: len(value)]):  # a map of another rank has constant sizes
                both = merged[at], value[at]
                if not axis.agree(*both):
                    one, other = (extent.text(axis.name) for extent in both)
                    message = (
                        f"{path} joins branches of {one} and {other}, which match at {axis.size} but not at other sizes"
                    )
                    help = "give the branches equal strides, and paddings that fit their kernels"
                    raise self.refusal([axis], message, help, node.origin)
                merged[at] = min(both, key=lambda extent: len(extent.steps))
        return tuple(merged)

    def side(self, path: str, node: Side, value: Extents | None, through: Through) -> None:
        """Note the sizes at the end of a side branch."""
        if node.mode == "always" or (self.training and node.mode == "training"):
            self.shapes[node.output_name or path] = self.dimensions(node.child.output, through(value))

    def dimensions(self, shape: Shape, value: Extents | None) -> tuple[int | str, ...]:
        """Return a shape with expressions where it is free."""
        if value is None or all(extent.constant is not None for extent in value):
            return shape
        return shape[0], *(extent.text(axis.name) for extent, axis in zip(value, self.axes, strict=True))

    def refusal(self, axes: Iterable[_Axis], why: str, help: str | None, origin: Origin | None) -> UsageError:
        """Return the error for axes that cannot be dynamic, at the first of them in the option."""
        names = [axis.name for axis in axes]
        at = min(self.source.text.index(name) for name in names)
        place = Place(self.source, 1, at + 1, at + 1 + len(names[0]))
        notes = (f"defined by {origin.path} in {origin.file}:{origin.line}",) if origin else ()
        return UsageError.of(FIXED, f"{one_of(names, 'and')} cannot be dynamic: {why}", place, notes, help)


def _why(node: Op, name: str) -> tuple[str, str | None]:
    """Why an op fixes the size, and what to use instead."""
    size = size_text(node.input[1:])
    if not isinstance(node.kind, Flatten):
        return f"{name} ({node.kind.word}) takes maps of {size} only", None
    message = f"{name} turns a map of {size} into {node.output[0]:,} features, and the next layer requires this number"
    if set(node.input[1:]) == {1}:
        pool = "global_avgpool instead of the pool before it, whose window fits one size only"
        return message, f"use {pool}"
    return message, f"put global_avgpool before it, or adaptive_avgpool: {list(node.input[1:])}"


def _constant(shape: Shape) -> Extents | None:
    """Return the sizes of a map that do not depend on the input; None for a vector."""
    return tuple(Extent((Axis(0, n),)) for n in shape[1:]) if rank(shape) in AXIS_NAMES else None


@cache
def _after(extent: Extent, axis: Axis) -> Extent:
    return extent.after(axis)


@cache
def _agreement(one: Extent, other: Extent) -> Rests | None:
    """Return a period, and the inputs in it at which two sizes are equal; None where only finitely many are."""
    period = math.lcm(one.period, other.period)
    if one.slope != other.slope or period > LONGEST:
        return None
    rests = frozenset(n for n in range(period) if one(n) == other(n))
    return (period, rests) if rests else None


def _both(one: Rests, other: Rests) -> Rests:
    """Return the inputs in both, with the shortest period."""
    period = math.lcm(one[0], other[0])
    rests = {n for n in range(period) if n % one[0] in one[1] and n % other[0] in other[1]}
    for every in range(1, period + 1):
        short = {n % every for n in rests}
        if period % every == 0 and len(short) * (period // every) == len(rests):
            return every, frozenset(short)
    raise AssertionError("the period itself is one")
