"""Weights for another network than they were trained for: another number of classes, other input channels, an edited spec.

The result has a Line for every change of a tensor, and tensors change only as options request.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType

from rescompile.analysis.alignment import align
from rescompile.analysis.heads import heads
from rescompile.diagnostics.errors import CheckFailed
from rescompile.ir.network import Network, Op, Series, parameters
from rescompile.ir.ops import Shape
from rescompile.ir.traversal import FoldRules, fold
from rescompile.records import record
from rescompile.weights import checkpoints
from rescompile.weights.adaptation import Line, adapted, entries
from rescompile.weights.initialisation import draw
from rescompile.weights.key_matching import Misfit, misfits
from rescompile.weights.mapping import Array, Weights
from rescompile.weights.tensors import FLOATS, Tensor
from rescompile.weights.value_check import checked


@record
class Transferred:
    """All weights of a network with a line for each; the number of tensors widened to float32 by type; the old tensors that are
    not used; and the number of blocks that became another one, by the names of both."""

    weights: Weights
    lines: tuple[Line, ...]
    widened: Mapping[str, int]
    left: tuple[str, ...] = ()
    changed: Mapping[tuple[str, str], int] = field(default_factory=dict)


def convert(
    tensors: Mapping[str, Tensor],
    network: Network,
    what: str,
    classes: str | None,
    in_channels: str | None,
    seed: int,
    say: Callable[[str], None],
) -> Transferred:
    """Return weights from tensors with the names of the network, adapted as requested by options. `say` is called with the
    notes of `checkpoints.check`. Raises CheckFailed with everything that still does not fit; `what` is the subject of that
    message.
    """
    result, lines = adapted(tensors, network, classes, in_channels, seed)
    result = checkpoints.check(result, network, what, say, lambda rows: _advice(rows, network))
    return _completed(result, lines, network, seed, what)


def transfer(
    tensors: Mapping[str, Tensor],
    old: Network,
    new: Network,
    what: str,
    classes: str | None,
    in_channels: str | None,
    seed: int,
) -> Transferred:
    """Return weights of one network for another by the identity of blocks (see `pairs`). A tensor is new if it has no
    counterpart, or one with another shape that no option adapts. The tensors must fit the old network; `what` names
    their file.

    Raises CheckFailed if no tensor is kept: the result would be a file of new weights."""
    sources, changed = pairs(old, new)
    moved = {name: tensors[source] for name, source in sources.items() if source in tensors}
    result, lines = adapted(moved, new, classes, in_channels, seed)
    other = {
        row.name: f"{_shape(row.found)} before, {_shape(row.wanted)} now"
        for row in misfits(result, new)
        if row.found is not None
    }
    kept = {name: tensor for name, tensor in result.items() if name not in other}
    if all(name in lines and lines[name].status == "new" for name in kept):
        message = f"nothing to transfer: no part of {new.name} matches one of {old.name} by name or block, and by shape"
        raise CheckFailed.of("E0702", message, help=_advice(misfits(result, new), new))
    done = _completed(kept, lines, new, seed, what, sources, other)
    named = tuple(replace(line, source=line.source and sources[line.name]) for line in done.lines)
    used = {line.source for line in named}
    left = tuple(name for name in tensors if name not in used)
    return replace(done, lines=named, left=left, changed=changed)


def _shape(shape: Shape | None) -> str:
    return str(list(shape or ()))


def _advice(rows: Sequence[Misfit], network: Network) -> str | None:
    """Return the options that would adapt what does not fit, or None."""
    differing = {row.name.rpartition(".")[0] for row in rows if row.status == "differs"}
    missing = {row.name.rpartition(".")[0] for row in rows if row.status == "missing"}
    options = (("--classes new or --classes keep", heads), ("--in-channels sum or --in-channels repeat", entries))
    helpful = [words for words, ops in options if differing & {path for path, _ in ops(network)}]
    if missing and missing <= {path for path, _ in heads(network)}:
        helpful.append("--classes new")
    return f"use {', and '.join(helpful)}" if helpful else None


def _completed(
    given: Mapping[str, Tensor],
    lines: Mapping[str, Line],
    network: Network,
    seed: int,
    what: str,
    sources: Mapping[str, str] = MappingProxyType({}),
    why: Mapping[str, str] = MappingProxyType({}),
) -> Transferred:
    """Return all tensors of a network: the given ones in its types, and new ones for the rest. `what` names the file, and
    `sources` the tensors in it that have other names there."""
    fresh = draw(network, seed)
    makers: dict[str, Callable[[], Array]] = {}
    report: list[Line] = []
    for name, parameter in parameters(network):
        if name in given:
            make = partial(given[name].array, parameter.dtype)
            makers[name] = checked(sources.get(name, name), parameter, make, what)
            report.append(lines.get(name) or Line(name, "kept", name))
        else:
            makers[name] = partial(fresh.__getitem__, name)
            report.append(Line(name, "new", None, why.get(name, "")))
    widened = Counter(tensor.dtype for tensor in given.values() if tensor.dtype in FLOATS and tensor.dtype != "F32")
    return Transferred(Weights(makers), tuple(report), widened)


@dataclass(slots=True)
class Part:
    """A scope of names with parameters: a row, a block, an op. Merges and nodes without names are not scopes."""

    name: str
    path: str
    kind: str
    shapes: dict[str, Shape] = field(default_factory=dict)
    parts: list[Part] = field(default_factory=list)

    @property
    def signature(self) -> tuple[object, ...]:
        """The properties that two parts with different names share if they correspond."""
        own = tuple(self.shapes.items())
        return (self.kind, own, *((part.name, part.signature) for part in self.parts))


def pairs(old: Network, new: Network) -> tuple[dict[str, str], Counter[tuple[str, str]]]:
    """Return the tensors of two networks that correspond, as a mapping from new to old names; and how many blocks became
    another block under the same name.

    Named parts correspond if their names are equal; the remaining ones, if they are alike (the same block and shapes) and in
    the same order. For numbered parts similarity takes precedence, since an inserted block changes the numbers of all that
    follow. Ops correspond only to ops of the same kind. One of the networks may be inside scopes that the other does not have.
    """
    before, after = _parts(old), _parts(new)
    all_tensors = min(_size(before), _size(after))
    best: tuple[dict[str, str], Counter[tuple[str, str]]] = {}, Counter()
    for a, b in [(before, after), *((a, after) for a in _unwrapped(before)), *((before, b) for b in _unwrapped(after))]:
        changed: Counter[tuple[str, str]] = Counter()
        found = dict(_paired(a, b, changed))
        if len(found) > len(best[0]):
            best = found, changed
        if len(found) == all_tensors:
            break
    return best


def _size(parts: Sequence[Part]) -> int:
    """Return the number of tensors in parts."""
    return sum(len(part.shapes) + _size(part.parts) for part in parts)


def _unwrapped(parts: Sequence[Part], depth: int = 2) -> Iterator[Sequence[Part]]:
    """Yield the parts with one scope replaced by its contents: one network may have an additional enclosing scope."""
    for part in parts:
        if part.parts and not all(each.name.isdigit() for each in part.parts):
            yield (flat := [*(each for each in parts if each is not part), *part.parts])
            if depth > 1:
                yield from _unwrapped(flat, depth - 1)


def _parts(network: Network) -> list[Part]:
    """Return the outermost parts of a network."""

    def op(path: str, node: Op) -> list[Part]:
        shapes = {parameter.name: parameter.shape for parameter in node.kind.parameters(node.input)}
        return [Part(node.name, path, node.kind.word, shapes)] if shapes else []

    def series(path: str, node: Series, inside: Sequence[list[Part]]) -> list[Part]:
        parts = [part for each in inside for part in each]
        named = node.name is not None and parts
        return [Part(str(node.name), path, node.call.block if node.call else "", parts=parts)] if named else parts

    rules = FoldRules(
        op,
        series,
        lambda _, __, branches: [part for each in branches for part in each],
        lambda _, __, inside: inside,
        lambda *_: [],
    )
    return fold(network.root, rules)


def _paired(old: Sequence[Part], new: Sequence[Part], changed: Counter[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    for numbered in (False, True):
        before = [part for part in old if part.name.isdigit() is numbered]
        after = [part for part in new if part.name.isdigit() is numbered]
        ways = (_alike, _namesakes) if numbered else (_namesakes, _alike)
        for way in ways:
            matches = way(before, after)
            for a, b in matches:
                yield from ((f"{b.path}.{name}", f"{a.path}.{name}") for name in b.shapes if name in a.shapes)
                yield from _paired(a.parts, b.parts, changed)
                if a.kind != b.kind:
                    changed[a.kind, b.kind] += 1
            before = [part for part in before if not any(part is a for a, _ in matches)]
            after = [part for part in after if not any(part is b for _, b in matches)]


def _namesakes(old: Sequence[Part], new: Sequence[Part]) -> list[tuple[Part, Part]]:
    named = {part.name: part for part in old}
    both = ((named[part.name], part) for part in new if part.name in named)
    return [(a, b) for a, b in both if bool(a.shapes) == bool(b.shapes) and (not a.shapes or a.kind == b.kind)]


def _alike(old: Sequence[Part], new: Sequence[Part]) -> list[tuple[Part, Part]]:
    """Return the longest common subsequence of parts by their signatures, the first if there are several."""
    numbers: dict[tuple[object, ...], int] = {}
    a, b = ([numbers.setdefault(part.signature, len(numbers)) for part in parts] for parts in (old, new))
    _, steps = align(a, b, lambda one, other: 0 if one == other else math.inf, lambda _: 1)
    return [(old[i], new[j]) for i, j in steps if i is not None and j is not None]
