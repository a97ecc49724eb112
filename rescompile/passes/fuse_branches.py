"""Convolutions, norms and factors on the same input whose results are added, as one convolution: RepVGG's (Ding et al. 2021, figure 4).

A branch is a convolution, or nothing, followed by norms and factors of channels. Exact up to rounding, computed in float64: what
follows a convolution scales its kernels and its bias; a branch without a convolution is one of 1x1 on each channel alone; a smaller
kernel is one of the larger size with zeros around it; and kernels at the same places add up. Branches are fused only where every
kernel reads the same positions as before, on maps of every size. A merge with an activation in a branch stays as it is.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from rescompile.ir import names
from rescompile.ir.network import Network, Node, Op, Parallel, Series, join, scope_of, walk
from rescompile.ir.ops import Affine, Conv, Dropout, Identity, Norm, Scale, Shape, rank
from rescompile.ir.provenance import NO_HINTS
from rescompile.ir.traversal import rewrite, runs
from rescompile.passes.plain_weights import plain_weights
from rescompile.records import record
from rescompile.weights import Array, Weights

NAME = "fused"
Read = Callable[[str], Array]


def fuse_branches(network: Network, weights: Weights | None, _: Any = True) -> tuple[Network, Weights | None]:
    """Return the network with every such merge as one convolution, `fused` (`fused2`, ... where its scope has that name)."""
    network, weights = plain_weights(network, weights)
    fuser = _Fuser(weights, {name for name, _ in walk(network.root)}, runs(network.root))
    root = rewrite(network.root, fuser.node)
    return replace(network, root=root), None if weights is None else weights.replaced(fuser.makers, fuser.dropped)


@record
class _Branch:
    """A convolution with the ops after it, each with its full name. Without a convolution of its own, that of 1x1 on each channel."""

    conv: Conv
    name: str | None
    after: tuple[tuple[str, Op], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The full names of the ops."""
        return *(() if self.name is None else (self.name,)), *(name for name, _ in self.after)


class _Fuser:
    """Rewrites the tree; `makers` and `dropped` are the changes of the weights."""

    def __init__(self, weights: Weights | None, taken: set[str], times: Counter[str]) -> None:
        self.weights, self.taken, self.times = weights, taken, times
        self.makers: dict[str, Callable[[], Array]] = {}
        self.dropped: list[str] = []

    def node(self, name: str, node: Node) -> Node:
        """Return what becomes of a node; merges inside another are fused before it."""
        if not isinstance(node, Parallel) or node.merge != "add" or node.split or node.survival is not None:
            return node
        branches = [_branch(branch, scope_of(name)) for branch in node.branches]
        found = [branch for branch in branches if branch is not None]
        if len(found) < len(branches) or all(branch.name is None for branch in found):
            return node
        if any(self.times[op] != self.times[name] for branch in found for op in branch.names):
            return node  # an op that runs elsewhere too keeps its weights
        fused = _fused([branch.conv for branch in found], node)
        if fused is None:
            return node
        inside = {branch.name for branch in found if f"{branch.name}.weight" in self.makers}
        self.taken -= inside  # the names of merges inside this one
        full = names.free(join(scope_of(name), NAME), self.taken)
        self.taken.add(full)
        self.times[full] = self.times[name]
        self.replace(full, found, fused, node)
        return Op(full.rpartition(".")[2], fused, node.input, node.output, NO_HINTS, node.origin, node.when)

    def replace(self, name: str, branches: Sequence[_Branch], fused: Conv, node: Parallel) -> None:
        """Make the tensors of the fused convolution from those of the branches, which are dropped."""
        before = {part: self.makers.pop(part, None) for part in self._tensors(branches, node)}
        self.dropped += before

        def read(tensor: str) -> Array:
            made = before.get(tensor)
            assert self.weights is not None
            return np.asarray(made() if made else self.weights[tensor], np.float64)

        channels = node.input[0]
        self.makers[f"{name}.weight"] = partial(_weight, branches, fused, channels, read)
        self.makers[f"{name}.bias"] = partial(_bias, branches, fused, read)

    def _tensors(self, branches: Sequence[_Branch], node: Parallel) -> Iterator[str]:
        """Yield the full names of the tensors of branches."""
        for branch in branches:
            if branch.name is not None:
                yield from (f"{branch.name}.{each.name}" for each in branch.conv.parameters(node.input))
            for name, op in branch.after:
                yield from (f"{name}.{each.name}" for each in op.kind.parameters(op.input))


def _branch(series: Series, path: str) -> _Branch | None:
    """Return a branch as a convolution with ops after it, or None where it is something else."""
    ops = list(_ops(series, path))
    if any(op is None for _, op in ops):
        return None
    listed = [(name, op) for name, op in ops if op is not None and not isinstance(op.kind, Identity)]
    name, conv = None, _unit(series.input)
    if listed and isinstance(listed[0][1].kind, Conv):
        (name, first), listed = listed[0], listed[1:]
        assert isinstance(first.kind, Conv)
        conv = first.kind
    if not rank(series.input) or not all(_per_channel(op) for _, op in listed):
        return None
    return _Branch(conv, name, tuple(listed))


def _unit(shape: Shape) -> Conv:
    """Return the convolution that is the identity on a map of this shape."""
    one, none = (1,) * rank(shape), (0,) * rank(shape)
    return Conv(shape[0], one, one, none, one, groups=shape[0])


def _ops(series: Series, path: str) -> Iterator[tuple[str, Op | None]]:
    """Yield the ops of a line with their full names; None for a merge, a side branch, a kept value, and dropout, which is the
    identity in evaluation only."""
    for full, node in walk(series, path, into=Series):
        if not isinstance(node, Series):
            yield full, node if isinstance(node, Op) and not isinstance(node.kind, Dropout) else None


def _per_channel(op: Op) -> bool:
    """Return whether an op is a scale and a shift of each channel that do not depend on the input."""
    return isinstance(op.kind, Affine | Scale) or (isinstance(op.kind, Norm) and op.kind.kind == "batch")


# --- the shape of the convolution ---------------------------------------------------------------------------------------


def _fused(convs: Sequence[Conv], node: Parallel) -> Conv | None:
    """Return the convolution that reads all that these read, or None where there is none."""
    stride = convs[0].stride
    axes = range(len(stride))
    dilations = [{conv.dilation[axis] for conv in convs if conv.kernel[axis] > 1} or {1} for axis in axes]
    if any(conv.stride != stride for conv in convs) or any(len(found) > 1 for found in dilations):
        return None
    dilation = tuple(found.pop() for found in dilations)
    padding = tuple(max(conv.pads[axis] for conv in convs) for axis in axes)
    if any((padding[axis] - conv.pads[axis]) % dilation[axis] for conv in convs for axis in axes):
        return None
    ends = ([_start(conv, padding, dilation, axis) + conv.kernel[axis] for conv in convs] for axis in axes)
    groups = math.gcd(*(conv.groups for conv in convs))
    kernel = tuple(map(max, ends))
    fused = Conv(node.output[0], kernel, stride, padding, dilation, groups, bias=True)
    return fused if all(_sizes(conv, node) == _sizes(fused, node) for conv in convs) else None


def _start(conv: Conv, padding: Sequence[int], dilation: Sequence[int], axis: int) -> int:
    """Return the place of a kernel in the fused one."""
    return (padding[axis] - conv.pads[axis]) // dilation[axis]


def _sizes(conv: Conv, node: Parallel) -> list[tuple[int, int, int]]:
    """Return the rules for the size after a convolution."""
    return [(axis.times, axis.plus, axis.by) for axis in conv.axes(node.input)]


# --- its tensors --------------------------------------------------------------------------------------------------------


def _weight(branches: Sequence[_Branch], fused: Conv, channels: int, read: Read) -> Array:
    """Return the sum of the kernels, each scaled by what follows it, at its place and in the groups of the fused
    convolution."""
    entering, leaving = channels // fused.groups, fused.channels // fused.groups
    total = np.zeros((fused.channels, entering, *fused.kernel))
    for branch in branches:
        conv = branch.conv
        kernel = np.ones((channels, 1, *conv.kernel)) if branch.name is None else read(f"{branch.name}.weight")
        scale, _ = _scale_and_shift(branch, read, kernel.shape[0])
        kernel = kernel * scale.reshape(-1, *(1,) * (kernel.ndim - 1))
        starts = (_start(conv, fused.pads, fused.dilation, axis) for axis in range(len(conv.kernel)))
        place = [slice(start, start + size) for start, size in zip(starts, conv.kernel, strict=True)]
        inputs, outputs = channels // conv.groups, conv.channels // conv.groups
        for group in range(conv.groups):
            rows = slice(group * outputs, (group + 1) * outputs)
            column = group * inputs - group * outputs // leaving * entering
            total[rows, column : column + inputs, *place] += kernel[rows]
    return np.asarray(total, np.float32)


def _bias(branches: Sequence[_Branch], fused: Conv, read: Read) -> Array:
    """Return the sum of the shifts of the branches."""
    total = np.zeros(fused.channels)
    for branch in branches:
        scale, shift = _scale_and_shift(branch, read, fused.channels)
        own = read(f"{branch.name}.bias") if branch.name is not None and branch.conv.bias else 0.0
        total += scale * own + shift
    return np.asarray(total, np.float32)


def _scale_and_shift(branch: _Branch, read: Read, channels: int) -> tuple[Array, Array]:
    """Return what the ops after a convolution do to its channels."""
    scale, shift = np.ones(channels), np.zeros(channels)
    for name, op in branch.after:
        match op.kind:
            case Scale(constant):
                scale, shift = scale * constant, shift * constant
            case Norm() as norm:
                factor = read(f"{name}.weight") / np.sqrt(read(f"{name}.running_var") + norm.eps)
                scale, shift = scale * factor, (shift - read(f"{name}.running_mean")) * factor + read(f"{name}.bias")
            case Affine() as affine:
                factor = read(f"{name}.weight") if affine.scale else np.ones(1)
                scale, shift = scale * factor, shift * factor + (read(f"{name}.bias") if affine.shift else 0.0)
    return scale, shift
