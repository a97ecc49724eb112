"""Weights for a network that they were not made for: another number of classes, other input channels, an edited spec.

Everything that is done to a tensor is a Line of the report, and nothing is done that was not asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, groupby
from typing import Literal

import numpy as np

from rescompile.diagnostics.errors import CheckFailed, Diagnostic, UsageError
from rescompile.ir.network import Network, Op, Parallel, Series, Side, parameters, walk
from rescompile.ir.ops import Conv, Linear, Parameter, Shape
from rescompile.ir.traversal import FoldRules, ThreadRules, fold, thread
from rescompile.weights import FLOATS, Array, Misfit, Tensor, Weights, checkpoints, draw, misfits

Status = Literal["kept", "adapted", "new"]
STATUSES: tuple[Status, ...] = ("kept", "adapted", "new")


@dataclass(frozen=True, slots=True)
class Line:
    """What became of one tensor of the network: `source` is its name in the old weights, `how` what was done to it."""

    name: str
    status: Status
    source: str | None = None
    how: str = ""


@dataclass(frozen=True, slots=True)
class Transferred:
    """All weights of a network and what became of each; how many were widened to float32, by their type; the old tensors
    that found no place; and how many blocks became another one, by the names of both."""

    weights: Weights
    lines: tuple[Line, ...]
    widened: Mapping[str, int]
    left: tuple[str, ...] = ()
    changed: Mapping[tuple[str, str], int] = field(default_factory=dict)


def convert(
    tensors: Mapping[str, Tensor], network: Network, what: str, classes: str | None, in_channels: str | None, seed: int
) -> Transferred:
    """Weights from tensors that are named as the network's, adapted as far as was asked for.

    Raises CheckFailed with all that does not fit then; `what` is the subject of that message.
    """
    made, lines = adapted(tensors, network, classes, in_channels, seed)
    checkpoints.check(made, network, what, _advice(misfits(made, network), network))
    return _completed(made, lines, network, seed, {})


def transfer(
    tensors: Mapping[str, Tensor], old: Network, new: Network, classes: str | None, in_channels: str | None, seed: int
) -> Transferred:
    """Weights of one network for another by the identity of blocks (see `pairs`). What has no counterpart, or one of
    another shape that nobody asked to adapt, is new. The tensors must fit the old network."""
    sources, changed = pairs(old, new)
    moved = {name: tensors[source] for name, source in sources.items() if source in tensors}
    made, lines = adapted(moved, new, classes, in_channels, seed)
    other = {
        row.name: f"{_shape(row.found)} before, {_shape(row.wanted)} now"
        for row in misfits(made, new)
        if row.found is not None
    }
    kept = {name: tensor for name, tensor in made.items() if name not in other}
    done = _completed(kept, lines, new, seed, other)
    named = tuple(replace(line, source=line.source and sources[line.name]) for line in done.lines)
    used = {line.source for line in named}
    left = tuple(name for name in tensors if name not in used)
    return replace(done, lines=named, left=left, changed=changed)


def _shape(shape: Shape | None) -> str:
    return str(list(shape or ()))


def _advice(rows: Sequence[Misfit], network: Network) -> str | None:
    """The option that would adapt what does not fit, where one would."""
    differing = {row.name.rpartition(".")[0] for row in rows if row.status == "differs"}
    options = (("--classes new or --classes keep", heads), ("--in-channels sum or --in-channels repeat", entries))
    helpful = [words for words, ops in options if differing & {path for path, _ in ops(network)}]
    return f"{', and '.join(helpful)} adapts it" if helpful else None


def _completed(
    made: Mapping[str, Tensor], lines: Mapping[str, Line], network: Network, seed: int, why: Mapping[str, str]
) -> Transferred:
    """All tensors of a network: those that are made, in its types, and new ones for the rest."""
    fresh = draw(network, seed)
    makers: dict[str, Callable[[], Array]] = {}
    report: list[Line] = []
    for name, parameter in parameters(network):
        if name in made:
            makers[name] = partial(_typed, made[name], parameter)
            report.append(lines.get(name) or Line(name, "kept", name))
        else:
            makers[name] = partial(fresh.__getitem__, name)
            report.append(Line(name, "new", None, why.get(name, "")))
    widened = Counter(tensor.kind for tensor in made.values() if tensor.kind in FLOATS and tensor.kind != "F32")
    return Transferred(Weights(makers), tuple(report), widened)


def _typed(tensor: Tensor, parameter: Parameter) -> Array:
    return np.ascontiguousarray(tensor.make(), parameter.dtype).reshape(parameter.shape)


# --- adapting ---------------------------------------------------------------------------------------------------------


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
        inside = walk(node, path, into=Series | Parallel)
        ops = [(name, op) for name, op in inside if isinstance(op, Op) and op.kind.parameters(op.input)]
        if ops and isinstance(ops[-1][1].kind, Conv | Linear):
            yield ops[-1]


def entries(network: Network) -> list[tuple[str, Op]]:
    """The convolutions that see the image: those before which there is nothing that owns parameters, and no merge."""
    found: list[tuple[str, Op]] = []

    def op(name: str, node: Op, sees: bool) -> bool:
        if sees and isinstance(node.kind, Conv) and node.kind.groups == 1:
            found.append((name, node))
        return sees and not node.kind.parameters(node.input)

    def split(_: str, node: Parallel, sees: bool) -> list[bool]:
        return [sees and not node.split] * len(node.branches)  # a range of the image's channels is not the image

    def side(_: str, __: Side, sees: bool, through: Callable[[bool], bool]) -> None:
        through(sees)

    thread(network.root, True, ThreadRules[bool](op, lambda *_: False, side, split))
    return found


# --- the identity of blocks -------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Part:
    """A scope of names that owns parameters: a row, a block, an op. Merges and what has no name are no scopes."""

    name: str
    path: str
    kind: str
    shapes: dict[str, Shape] = field(default_factory=dict)
    parts: list[Part] = field(default_factory=list)

    @property
    def signature(self) -> tuple[object, ...]:
        """What two parts of different names must share to be the same."""
        own = tuple(self.shapes.items())
        return (self.kind, own, *((part.name, part.signature) for part in self.parts))


def pairs(old: Network, new: Network) -> tuple[dict[str, str], Counter[tuple[str, str]]]:
    """The tensors of two networks that belong together, names in the new one with their names in the old one; and how
    many blocks with one name are another block in the new one.

    Named parts are the same if they have one name; those left over on both sides, if they are alike (one block, all shapes)
    and come in the same order. Numbered ones the other way round: a block that is inserted moves the numbers of all that
    follow. An op is only the same as one of its own kind.
    """
    changed: Counter[tuple[str, str]] = Counter()
    return dict(_paired(_parts(old), _parts(new), changed)), changed


def _parts(network: Network) -> list[Part]:
    """The parts directly inside a network."""

    def op(path: str, node: Op) -> list[Part]:
        shapes = {parameter.name: parameter.shape for parameter in node.kind.parameters(node.input)}
        return [Part(node.name, path, node.kind.word, shapes)] if shapes else []

    def series(path: str, node: Series, inside: Sequence[list[Part]]) -> list[Part]:
        inner = list(chain.from_iterable(inside))
        if node.name is None or not inner:
            return inner
        return [Part(node.name, path, node.call.block if node.call else "", parts=inner)]

    rules = FoldRules[list[Part]](
        op, series, lambda _, __, inside: list(chain.from_iterable(inside)), lambda _, __, inside: inside
    )
    return fold(network.root, rules)


def _paired(old: Sequence[Part], new: Sequence[Part], changed: Counter[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    for numbered in (False, True):
        before = [part for part in old if part.name.isdigit() is numbered]
        after = [part for part in new if part.name.isdigit() is numbered]
        ways = (_alike, _namesakes) if numbered else (_namesakes, _alike)
        for way in ways:
            found = way(before, after)
            for a, b in found:
                yield from ((f"{b.path}.{name}", f"{a.path}.{name}") for name in b.shapes if name in a.shapes)
                yield from _paired(a.parts, b.parts, changed)
                if a.kind != b.kind:
                    changed[a.kind, b.kind] += 1
            before = [part for part in before if not any(part is a for a, _ in found)]
            after = [part for part in after if not any(part is b for _, b in found)]


def _namesakes(old: Sequence[Part], new: Sequence[Part]) -> list[tuple[Part, Part]]:
    named = {part.name: part for part in old}
    both = ((named[part.name], part) for part in new if part.name in named)
    return [(a, b) for a, b in both if bool(a.shapes) == bool(b.shapes) and (not a.shapes or a.kind == b.kind)]


def _alike(old: Sequence[Part], new: Sequence[Part]) -> list[tuple[Part, Part]]:
    """The longest common subsequence of signatures, the first of several."""
    numbers: dict[tuple[object, ...], int] = {}
    a, b = ([numbers.setdefault(part.signature, len(numbers)) for part in parts] for parts in (old, new))
    best = np.zeros((len(a) + 1, len(b) + 1), np.int64)  # of what comes after i and j
    for i in reversed(range(len(a))):
        for j in reversed(range(len(b))):
            best[i, j] = best[i + 1, j + 1] + 1 if a[i] == b[j] else max(best[i + 1, j], best[i, j + 1])
    found, i, j = [], 0, 0
    while i < len(a) and j < len(b):
        if a[i] == b[j]:
            found.append((old[i], new[j]))
            i, j = i + 1, j + 1
        elif best[i + 1, j] >= best[i, j + 1]:
            i += 1
        else:
            j += 1
    return found


# --- the report -------------------------------------------------------------------------------------------------------


def report(done: Transferred, limit: int = 40) -> Iterator[str]:
    """What became of the tensors, for people; those that are kept under their names are only counted."""
    kept = [line for line in done.lines if line.status == "kept" and line.source == line.name]
    yield f"kept     {_count(kept)}"
    yield from (f"widened  {number} tensors from {kind} to float32" for kind, number in done.widened.items())
    for (old, new), number in done.changed.items():
        places = "1 place" if number == 1 else f"{number} places"
        yield f"changed  {old or 'no block'} to {new or 'no block'} in {places}: ops with one name and kind are kept"
    told = [line for line in done.lines if line.status != "kept" or line.source != line.name]
    counters = [line for line in told if line.status == "new" and line.name.endswith(".num_batches_tracked")]
    if counters and len(counters) == sum(line.name.endswith(".num_batches_tracked") for line in done.lines):
        yield f"new      all {len(counters)} counters of norms (num_batches_tracked)"
        told = [line for line in told if line not in counters]
    names = [line.name for line in done.lines]
    rows = [row for status in STATUSES for row in _rows_of([line for line in told if line.status == status], names)]
    every = [*done.left, *(line.source for line in done.lines if line.source)]
    rows += [f"left     {scope}  {count}" for scope, count in _scopes(done.left, every)]
    yield from rows[:limit]
    if len(rows) > limit:
        yield f"and {len(rows) - limit} more lines; --json has them all"


def _rows_of(lines: Sequence[Line], names: Sequence[str]) -> Iterator[str]:
    """A row for each tensor of which there is something to say, for each scope that moved, for each that met one fate."""
    for (how, new, old), group in groupby(lines, lambda line: (line.how and (line.name, line.how), *_moved(line))):
        some = list(group)
        head = f"{some[0].status:<8} "
        if how:
            moved = f"from {some[0].source}" if old else ""
            yield f"{head}{some[0].name}  {', '.join(filter(None, (moved, some[0].how)))}"
        elif old:
            yield f"{head}{new}.*  from {old}.*, {_count(some)}"
        else:
            yield from (f"{head}{scope}  {count}" for scope, count in _scopes([line.name for line in some], names))


def _moved(line: Line) -> tuple[str, str]:
    """The scopes by which the name of a tensor and that of its source differ."""
    if line.source in (None, line.name):
        return "", ""
    new, old = line.name.split("."), str(line.source).split(".")
    while new[-1] == old[-1]:
        new, old = new[:-1], old[:-1]
    return ".".join(new), ".".join(old)


def _scopes(names: Iterable[str], every: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Names, gathered under the largest scopes that hold no other of `every`."""
    names, others = list(names), {*every} - {*names}
    mixed = {prefix for name in others for prefix in _prefixes(name)}
    for scope, inside in groupby(names, lambda name: next((p for p in _prefixes(name) if p not in mixed), name)):
        yield scope if scope in names else f"{scope}.*", _count(list(inside))


def _prefixes(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts))]


def _count(some: Sequence[object]) -> str:
    return "1 tensor" if len(some) == 1 else f"{len(some)} tensors"
