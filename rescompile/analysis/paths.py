"""The unravelled view (Veit et al. 2016): a residual network is the collection of all its paths, counted here by length.

A merge is entered by one of its branches; a path is a choice at every merge, from the input to `logits`. So paths in
series multiply, and paths in parallel add. `entered` alone defines what a branch adds to the length:

    residual    1 for the branch, 0 for the shortcut
    concat      1 for each branch that computes something, 0 for the identity
    add         0: branches without a shortcut are parallel, as the 32 paths of ResNeXt
    mul, gate   as above; a branch that only scales another value (a gate, the 1x1 factor of squeeze-and-excite) is not a path

A value that is used again continues the paths that lead to its `keep`.

A value multiplied by `scale: 0` ends every path that leads to it.

A split merge counts as its kind does. Ranges of channels are not followed, so a path may lead from one range into another,
where no value flows.

In layers, a convolution or linear layer adds 1 and a merge nothing. Side branches do not rejoin, so no path uses them.

The distribution is a polynomial whose coefficient of x^k is the number of paths of length k. It is never built: the tree is
evaluated with integers in place of x. At x = 1 the value is the number of all paths; at a power of two above that number
no two coefficients overlap, so the bits of the value are the coefficients (Kronecker's substitution).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import cached_property, reduce
from typing import Literal, get_args

from rescompile.analysis.path_algebra import PathRules, through
from rescompile.diagnostics.notebook_views import NotebookView
from rescompile.ir.network import Network, Node, Op, Parallel, Series, walk
from rescompile.ir.ops import BOUNDED, WEIGHTED, Act, Dropout, Identity, Part, Scale, Shuffle, Softmax, Unflatten
from rescompile.ir.traversal import ThreadRules, thread
from rescompile.records import record

Unit = Literal["blocks", "layers"]
UNITS: tuple[Unit, ...] = get_args(Unit)


@record(slots=False)
class Paths(NotebookView):
    """The number of paths of each length: `counts[k]` have length k, in `unit`. Everything is exact. A network that multiplies
    all paths by 0 has none; then only `total` has a meaning."""

    counts: tuple[int, ...]
    unit: Unit = "blocks"

    @cached_property
    def total(self) -> int:
        """The number of all paths."""
        return sum(self.counts)

    @cached_property
    def shortest(self) -> int:
        """The length of the shortest path."""
        return next(length for length, count in enumerate(self.counts) if count)

    @property
    def longest(self) -> int:
        """The length of the longest path."""
        return len(self.counts) - 1

    @cached_property
    def mean(self) -> Fraction:
        """The mean length."""
        return Fraction(sum(length * count for length, count in enumerate(self.counts)), self.total)

    @cached_property
    def variance(self) -> Fraction:
        """The mean square of the distance from the mean length."""
        squares = Fraction(sum(length**2 * count for length, count in enumerate(self.counts)), self.total)
        return squares - self.mean**2

    def within(self, first: int, last: int) -> int:
        """Return the number of paths whose length is `first` to `last`, both included."""
        return sum(self.counts[max(first, 0) : last + 1]) if last >= 0 else 0

    def share(self, first: int, last: int) -> Fraction:
        """Return the share of all paths whose length is `first` to `last`, both included."""
        return Fraction(self.within(first, last), self.total)


@record(slots=False)
class Surviving(NotebookView):
    """What is left of the paths while residual branches are dropped at random, on average over all draws.

    `shares[k]` is the expected number of paths of length k by that of all paths, 2 ** `log2_total`. In floating point, as the
    probabilities are.
    """

    branches: float
    log2_total: float
    shares: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean length."""
        return math.fsum(length * share for length, share in enumerate(self.shares))

    def share(self, first: int, last: int) -> float:
        """Return the share of the lengths `first` to `last`, both included."""
        return math.fsum(self.shares[max(first, 0) : last + 1]) if last >= 0 else 0.0


def paths(network: Network | Node, unit: Unit = "blocks") -> Paths:
    """Return the paths of a network, or of a part of it, by length."""
    root = network.root if isinstance(network, Network) else network
    total = through(root, _counting(unit, 1))
    width = total.bit_length() // 8 + 1  # bytes of a coefficient, so that they can be cut apart
    packed = through(root, _counting(unit, 1 << 8 * width))
    digits = packed.to_bytes(packed.bit_length() // 8 + 1, "little")
    counts = [int.from_bytes(digits[at : at + width], "little") for at in range(0, len(digits), width)]
    while counts and not counts[-1]:
        counts.pop()
    return Paths(tuple(counts), unit)


def surviving(network: Network | Node, unit: Unit = "blocks") -> Surviving | None:
    """Return what the survival schedule leaves of the paths; None where nothing is ever dropped."""
    root = network.root if isinstance(network, Network) else network
    residuals = [node for _, node in walk(root) if isinstance(node, Parallel) and node.residual]
    if not any(node.survival for node in residuals) or not through(root, _counting(unit, 1)):
        return None
    found = through(root, _expecting(unit))
    return Surviving(math.fsum(_probability(node) for node in residuals), found.log2_total, tuple(found.shares))


# --- what a path is ---------------------------------------------------------------------------------------------------


def entered(node: Parallel) -> tuple[int | None, ...]:
    """Return what each branch of a merge adds to the length of a path through it, in blocks; None for a branch that is not a
    path."""
    if node.merge == "gate":
        return 1, None, 0
    if node.residual:
        return 1, 0
    if node.merge == "concat":
        return tuple(int(_computes(branch)) for branch in node.branches)
    if node.merge == "mul":
        full = [branch.output == node.output for branch in node.branches]
        whole = [same and not bounded(branch) for same, branch in zip(full, node.branches, strict=True)]
        return tuple(0 if kept else None for kept in (whole if any(whole) else full))
    return (0,) * len(node.branches)


def _ends_paths(node: Op) -> bool:
    """Return whether a node multiplies by 0."""
    return isinstance(node.kind, Scale) and node.kind.factor == 0


def _computes(branch: Series) -> bool:
    """Return whether anything is computed on the way; in evaluation a dropout is the identity."""
    inside = walk(branch, into=Series | Parallel)
    return any(isinstance(node, Op) and not isinstance(node.kind, Identity | Dropout) for _, node in inside)


def bounded(branch: Series) -> bool:
    """Return whether the values lie between 0 and 1, as those of a factor that only scales another value do."""
    return thread(branch, False, _BOUNDED)


def _bounded(_: str, node: Op, before: bool) -> bool:
    if isinstance(node.kind, Identity | Dropout | Part | Shuffle | Unflatten):
        return before
    return isinstance(node.kind, Softmax) or (isinstance(node.kind, Act) and node.kind.kind in BOUNDED)


_BOUNDED = ThreadRules[bool](_bounded, lambda *_: False, outside=lambda *_: False)


def _probability(node: Parallel) -> float:
    return node.survival.probability if node.survival else 1.0


# --- counting: the polynomial at an integer ---------------------------------------------------------------------------


def _counting(unit: Unit, x: int) -> PathRules[int]:
    in_layers = unit == "layers"

    def op(_: str, node: Op) -> int:
        if _ends_paths(node):
            return 0
        return x if in_layers and isinstance(node.kind, WEIGHTED) else 1

    def parallel(_: str, node: Parallel, values: Sequence[int]) -> int:
        added = zip(entered(node), values, strict=True)
        return sum(value * (1 if in_layers else x**length) for length, value in added if length is not None)

    return PathRules(1, op, _product, parallel)


def _product(values: Sequence[int]) -> int:
    """Return the product, by halves: factors of about one size are multiplied much faster than a long one by many short
    ones."""
    if len(values) < 3:
        return math.prod(values)
    middle = len(values) // 2
    return _product(values[:middle]) * _product(values[middle:])


# --- expecting: the polynomial's coefficients as shares of its value at 1 ---------------------------------------------


@record
class _Spread:
    """Expected paths: their number as a logarithm, which would overflow, and the share of each length."""

    log2_total: float
    shares: list[float]


_NO_PATH = _Spread(-math.inf, [])


def _expecting(unit: Unit) -> PathRules[_Spread]:
    in_layers = unit == "layers"
    one = _Spread(0.0, [1.0])

    def op(_: str, node: Op) -> _Spread:
        if _ends_paths(node):
            return _NO_PATH
        return _Spread(0.0, [0.0, 1.0]) if in_layers and isinstance(node.kind, WEIGHTED) else one

    def parallel(_: str, node: Parallel, spreads: Sequence[_Spread]) -> _Spread:
        kept: list[tuple[float, list[float]]] = []
        for at, (length, spread) in enumerate(zip(entered(node), spreads, strict=True)):
            probability = _probability(node) if at == 0 else 1.0
            if length is not None and probability > 0 and spread is not _NO_PATH:
                shares = spread.shares if in_layers else [0.0] * length + spread.shares
                kept.append((spread.log2_total + math.log2(probability), shares))
        if not kept:
            return _NO_PATH
        most = max(log2 for log2, _ in kept)
        sums = [0.0] * max(len(shares) for _, shares in kept)
        for log2, shares in kept:
            for length, share in enumerate(shares):
                sums[length] += 2 ** (log2 - most) * share
        total = math.fsum(sums)
        return _Spread(most + math.log2(total), [share / total for share in sums])

    return PathRules(one, op, lambda parts: reduce(_after, parts, one), parallel)


def _after(first: _Spread, second: _Spread) -> _Spread:
    """Paths through two parts, one after the other."""
    if _NO_PATH in (first, second):
        return _NO_PATH
    if second.shares == [1.0]:
        return _Spread(first.log2_total + second.log2_total, first.shares)
    shares = [0.0] * (len(first.shares) + len(second.shares) - 1)
    for more, factor in enumerate(second.shares):
        if factor:
            for length, share in enumerate(first.shares):
                shares[length + more] += factor * share
    return _Spread(first.log2_total + second.log2_total, shares)
