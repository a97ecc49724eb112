"""Grouped convolutions in the three equal forms of ResNeXt (Xie et al. 2016, figure 3): `--form a`, `b` or `c`.

    c   as specs have it:     conv - norm - act - conv of n groups - norm - act - conv
    b   early concatenation:  n paths of (conv - norm - act - conv - norm - act), concatenated, then the last conv
    a   aggregated:           n paths of (conv - norm - act - conv - norm - act - conv), added

A path has an n-th of the channels, the same contiguous range in every layer. Everything between convolutions acts on each
channel alone, so it is split by channels too, exactly, in training as in evaluation. The first convolution is split by its
output channels, the last one of form a by its input channels: it is linear, so the sum of its parts is its value, and what
follows, its norm first, stays after the addition. Its bias, if it has one, belongs to path 0.

Where no convolution before the grouped one can be split, each path takes its range of the input's channels, as the grouped
convolution does. Where none follows it, nothing can be added, and the paths of form a are concatenated as those of form b.

The paths are the scopes `paths.0`, `paths.1`, ... where the first of these ops was (`paths2` for the next ones in a scope that
has some); inside, every op keeps its name: `layer1.0.conv2` becomes `layer1.0.paths.0.conv2` and so on. Steps that run again stay.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from rescompile.diagnostics.errors import UsageError
from rescompile.ir import names, ops
from rescompile.ir.network import Merge, Network, Node, Op, Parallel, Series, Side, join, name_of, scope, share, walk
from rescompile.ir.ops import Conv, Norm
from rescompile.ir.refitting import runs_again
from rescompile.ir.traversal import branches, in_series, with_branches
from rescompile.passes.plain_weights import plain_weights
from rescompile.records import record
from rescompile.weights import Array, Weights

SCOPE = "paths"
#: Ops that act on each channel separately, so that a range of channels can pass through them.
PER_CHANNEL = (
    ops.Act, ops.AdaptiveAvgPool, ops.Affine, ops.AvgPool, ops.Border, ops.Dropout, ops.GlobalAvgPool, ops.Identity, ops.MaxPool, ops.Scale,
    ops.Subsample, ops.Upsample,
)  # fmt: skip


def form(network: Network, weights: Weights | None, value: Any) -> tuple[Network, Weights | None]:
    """Return the network with its grouped convolutions in one form. Raises UsageError if it has none."""
    fixed = runs_again(network.root)
    if not any(_groups(node) > 1 and not fixed(name) for name, node in walk(network.root)):
        message = f"{network.name} has no grouped convolution that --form could rewrite"
        help = "set 'groups' of a conv, or 'cardinality' of the block bottleneck: see resnext50_32x4d"
        raise UsageError.of("E0804", message, help=help)
    if value == "c":
        return network, weights
    network, weights = plain_weights(network, weights)
    splitter = _Splitter(network, weights, fixed, aggregated=value == "a")
    root = splitter.series(network.root, "")
    changed = None if weights is None else weights.replaced(splitter.makers, splitter.dropped)
    return replace(network, root=root), changed


# --- a network as one line --------------------------------------------------------------------------------------------


@record
class _Atom:
    """A node on the way through a Series, with the Series around it from outside in, each with its place in the one
    before; `path` is the scope that it lives in. An atom is an op, a merge, a side branch or an empty Series; `fixed` ones, which
    run again, are in no path."""

    node: Node
    path: str
    around: tuple[tuple[int, Series], ...] = ()
    fixed: bool = False

    @property
    def name(self) -> str:
        """The full name."""
        return join(self.path, name_of(self.node))


def _atoms(
    series: Series, inner: str, fixed: Callable[[str], bool], around: tuple[tuple[int, Series], ...] = ()
) -> Iterator[_Atom]:
    """Yield the atoms of a Series whose children are in the scope `inner`."""
    for at, child in enumerate(series.children):
        if isinstance(child, Series) and child.children:
            yield from _atoms(child, scope(inner, child), fixed, (*around, (at, child)))
        else:
            yield _Atom(child, inner, around, fixed(join(inner, name_of(child))))


def _nested(atoms: Sequence[_Atom], depth: int = 0) -> Iterator[Node]:
    """Yield the nodes of atoms, in the Series around them from `depth` on. The shapes of a Series change if nodes were taken
    out."""
    for place, found in itertools.groupby(
        atoms, lambda atom: atom.around[depth][0] if len(atom.around) > depth else None
    ):
        listed = list(found)
        if place is None:
            yield from (atom.node for atom in listed)
        else:
            yield in_series(list(_nested(listed, depth + 1)), listed[0].around[depth][1])


def _common(atoms: Sequence[_Atom]) -> int:
    """Return the number of Series that are around all of these atoms."""
    depth = 0
    for level in zip(*(atom.around for atom in atoms), strict=False):
        if len({place for place, _ in level}) > 1:
            break
        depth += 1
    return depth


# --- what can be split ------------------------------------------------------------------------------------------------


def _groups(node: Node) -> int:
    return node.kind.groups if isinstance(node, Op) and isinstance(node.kind, Conv) else 0


def _per_channel(atom: _Atom) -> bool:
    node = atom.node
    if atom.fixed:
        return False
    if isinstance(node, Op):
        kind = node.kind
        if isinstance(kind, Norm):
            return kind.kind in ("batch", "instance")
        return isinstance(kind, PER_CHANNEL) and getattr(kind, "per", "channel") == "channel"
    return isinstance(node, Series)  # an empty one


def _free_groups(atom: _Atom) -> int:
    return 0 if atom.fixed else _groups(atom.node)


def _dense(atom: _Atom) -> bool:
    return _free_groups(atom) == 1


@record
class _Run:
    """Atoms that become `count` paths, from `start` up to `end` in their line. The paths `share` the channels that come in,
    where no convolution among the atoms computes some for each; and are `added` up, where the last atom is a convolution for
    that."""

    start: int
    end: int
    atoms: Sequence[_Atom]
    count: int
    share: bool = False
    added: bool = False

    @property
    def number(self) -> str:
        """The number of paths, as the spec has it."""
        convs = (atom.node for atom in self.atoms if isinstance(atom.node, Op) and _groups(atom.node) == self.count)
        return next(convs).hints.get("groups", str(self.count))


class _Splitter:
    """Rewrites the tree; `makers` and `dropped` are the changes of the weights."""

    def __init__(
        self, network: Network, weights: Weights | None, fixed: Callable[[str], bool], aggregated: bool
    ) -> None:
        self.weights, self.fixed = weights, fixed
        self.aggregated = aggregated
        self.taken = {name for name, _ in walk(network.root)}
        self.makers: dict[str, Callable[[], Array]] = {}
        self.dropped: list[str] = []
        self.wholes: dict[str, _Whole] = {}

    def series(self, series: Series, path: str) -> Series:
        """Return a Series on its own: the network, a branch, or a side branch."""
        inner = scope(path, series)
        atoms = list(_atoms(series, inner, self.fixed))
        made: list[_Atom] = []
        done = 0
        for run in self.runs(atoms):
            made += [*map(self.inside, atoms[done : run.start]), self.paths(run, inner)]
            done = run.end
        made += map(self.inside, atoms[done:])
        return in_series(list(_nested(made)), series)

    def inside(self, atom: _Atom) -> _Atom:
        """Return an atom that is in no path, with paths in the Series inside it."""
        if atom.fixed or not isinstance(atom.node, Parallel | Side):
            return atom
        inner = [self.series(branch, atom.path) for branch in branches(atom.node)]
        return replace(atom, node=with_branches(atom.node, inner))

    # --- where paths begin and end

    def runs(self, atoms: Sequence[_Atom]) -> Iterator[_Run]:
        """Yield the runs of a line, in order: consecutive grouped convolutions, with the neighbours that are split with
        them."""
        ended = 0  # where the last paths ended; a convolution that sums them is already split
        at = 0
        while at < len(atoms):
            count = _free_groups(atoms[at])
            if count < 2:
                at += 1
                continue
            first = last = at  # of the consecutive grouped convolutions
            while at < len(atoms) and (_per_channel(atoms[at]) or _free_groups(atoms[at]) == count):
                last = at if _free_groups(atoms[at]) else last
                at += 1
            start = first - 1
            while start >= ended and _per_channel(atoms[start]):
                start -= 1
            shares = start < ended or not _dense(atoms[start])
            if shares:
                start = first
            added = self.aggregated and at < len(atoms) and _dense(atoms[at])
            if added:
                ended = at + 1
            else:  # what follows on single channels is included, up to the end of the block around the rest
                inside, ended = _common(atoms[start : last + 1]), at
                while _common([atoms[start], atoms[ended - 1]]) < inside:
                    ended -= 1
            yield _Run(start, ended, atoms[start:ended], count, shares, added)

    # --- paths

    def paths(self, run: _Run, inner: str) -> _Atom:
        """Return the paths that a run in the scope `inner` becomes, as one atom."""
        depth = _common(run.atoms)
        around = run.atoms[0].around[:depth]
        for _, series in around:
            inner = scope(inner, series)
        path = names.free(join(inner, SCOPE), self.taken)
        self.taken.add(path)
        first, last = run.atoms[0].node, run.atoms[-1].node
        paths = []
        for at in range(run.count):
            nodes = list(_nested([self.part(run, atom, at, depth, f"{path}.{at}") for atom in run.atoms]))
            ends = nodes[0].input, nodes[-1].output
            paths.append(Series((Series(tuple(nodes), *ends, str(at), origin=first.origin),), *ends))
        merge: Merge = "add" if run.added else "concat"
        merged = Parallel(
            merge,
            tuple(paths),
            merge,
            first.input,
            last.output,
            split=run.share,
            origin=first.origin,
            hints={"copies": run.number},
        )
        name = path.rpartition(".")[2]
        return _Atom(Series((merged,), first.input, last.output, name, origin=first.origin), inner, around)

    def part(self, run: _Run, atom: _Atom, at: int, depth: int, path: str) -> _Atom:
        """Return the part of an atom that belongs to path `at`, whose scope is `path`; `depth` Series enclose the whole run:
        the first atom sees all that comes in unless it is shared, the last one gives all of the output where paths are
        added."""
        # The call of a block does not describe a part of it.
        around = tuple((place, replace(series, call=None)) for place, series in atom.around[depth:])
        for _, series in around:
            path = scope(path, series)
        node = atom.node
        whole, summed = atom is run.atoms[0] and not run.share, atom is run.atoms[-1] and run.added
        before = node.input if whole else share(node.input, run.count)
        after = node.output if summed else share(node.output, run.count)
        if not isinstance(node, Op):
            assert isinstance(node, Series)
            return _Atom(replace(node, input=before, output=after), path, around)
        kind, hints = node.kind, dict(node.hints)
        if isinstance(kind, Conv) and summed:
            kind = replace(kind, bias=kind.bias and at == 0)
        elif isinstance(kind, Conv):
            kind = replace(kind, channels=after[0], groups=1)
            hints.pop("groups", None)
            if channels := hints.get("channels"):
                hints["channels"] = "1" if channels == run.number else f"({channels}) / ({run.number})"
        part = _Atom(replace(node, kind=kind, input=before, output=after, hints=hints), path, around)
        self.cut(node, atom.name, part, at, run.count)
        return part

    def cut(self, op: Op, name: str, part: _Atom, at: int, count: int) -> None:
        """Make the tensors of a part of an op from those of the op: each is a range along the one axis that is shorter."""
        assert isinstance(part.node, Op)
        owned = {parameter.name: parameter.shape for parameter in op.kind.parameters(op.input)}
        self.dropped += [f"{name}.{tensor}" for tensor in owned]
        for parameter in part.node.kind.parameters(part.node.input):
            old, new = f"{name}.{parameter.name}", f"{part.name}.{parameter.name}"
            if self.weights is None or old not in self.weights:  # counters may be missing
                continue
            pairs = zip(owned[parameter.name], parameter.shape, strict=True)
            axis = next((axis for axis, (whole, share) in enumerate(pairs) if whole != share), None)
            if axis is None:  # a counter, or the bias of the last convolution
                self.makers[new] = partial(self.weights.__getitem__, old)
            else:
                whole = self.wholes.setdefault(old, _Whole(partial(self.weights.__getitem__, old), count))
                self.makers[new] = partial(whole.part, at, axis)


class _Whole:
    """A tensor that several parts are cut from: computed once for all of them, and released when each has its own."""

    def __init__(self, make: Callable[[], Array], count: int) -> None:
        self.make, self.count = make, count
        self.waiting = set(range(count))
        self.made: Array | None = None
        self.lock = threading.Lock()  # weights are computed on several threads

    def part(self, at: int, axis: int) -> Array:
        """Part `at` along an axis."""
        with self.lock:
            whole = self.make() if self.made is None else self.made
            self.waiting.discard(at)
            self.made = whole if self.waiting else None
            self.waiting = self.waiting or set(range(self.count))
        size = whole.shape[axis] // self.count
        return whole[(slice(None),) * axis + (slice(at * size, (at + 1) * size),)].copy()
