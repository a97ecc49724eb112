"""What a network is held against: references of the zoo by a table, and for any other network the closest of the zoo."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from rescompile.diagnostics.errors import Source
from rescompile.elaboration import elaborate
from rescompile.explain.alignment import aligned
from rescompile.explain.sequences import NotAligned
from rescompile.explain.stages import Anatomy, Item, Items, Join, Leaf, anatomy, joins
from rescompile.ir.network import Network
from rescompile.ir.ops import Conv, Norm
from rescompile.lang import library
from rescompile.lang.load import load
from rescompile.lang.yaml_reader import plain, read

#: So many networks of the zoo, those with the most ops in common, are compared op by op to find the closest; and the one of the
#: same name, which a setting or a pass may have changed much.
CANDIDATES = 6


@dataclass(frozen=True)
class Reference:
    """A network that another is held against: its name, what was set on it, and what it is, in words."""

    name: str
    what: str
    network: Network
    anatomy: Anatomy
    set: tuple[str, ...] = ()
    zero_init: bool = False


def of_spec(spec: str, what: str = "", settings: Sequence[str] = (), zero_init: bool = False) -> Reference:
    """The reference that a spec is, a file or a name of the zoo. Raises SpecError and UsageError."""
    network = elaborate(load(spec, settings))
    found = anatomy(network.name, network.root)
    return Reference(
        network.name, what, network, zero_started(found) if zero_init else found, tuple(settings), zero_init
    )


@cache
def of_zoo(name: str) -> Reference:
    """A network of the zoo as it is; made once, since all of them are asked for the closest."""
    return of_spec(name)


@cache
def table() -> tuple[dict[str, object], ...]:
    """The rows of references.yaml."""
    path = Path(__file__).parent / "references.yaml"
    rows: list[dict[str, object]] = plain(read(Source(f"explanation/{path.name}", path.read_text(encoding="utf-8"))))[
        "references"
    ]
    return tuple(rows)


def references_of(name: str) -> list[Reference]:
    """What the table says of a network of the zoo."""
    found = []
    for row in table():
        networks, settings = row["networks"], row.get("set", [])
        assert isinstance(networks, dict)
        assert isinstance(settings, list)
        if name in networks:
            against, what = networks[name], str(row["as"])
            found.append(
                of_spec(against, what, settings, bool(row.get("zero_init")))
                if settings or "zero_init" in row
                else replace(of_zoo(against), what=what)
            )
    return found


def is_of_zoo(network: Network) -> bool:
    """Whether a network is one of the zoo, unchanged."""
    return (
        network.name in library.zoo() and not network.passes and of_zoo(network.name).network.sha256 == network.sha256
    )


def closest(subject: Anatomy, but: str | None = None) -> Reference:
    """The network of the zoo, other than `but`, that differs in the fewest topics, and of those has the most ops in common;
    where none can be aligned, the one with the most ops in common."""
    own = _ops(subject)
    far = sorted((_unlike(own, _ops_of_zoo(name)), len(name), name) for name in library.zoo() if name != but)
    found: list[tuple[int, float, int, str]] = []
    likely = [entry for at, entry in enumerate(far) if at < CANDIDATES or entry[2] == subject.name]
    for distance, length, name in likely:
        try:
            topics = len(aligned(of_zoo(name).anatomy, subject).topics())
        except NotAligned:
            continue
        found.append((topics, distance, length, name))
        if not topics:
            break
    return of_zoo(min(found)[3] if found else far[0][2])


@cache
def _ops_of_zoo(name: str) -> Counter[Hashable]:
    return _ops(of_zoo(name).anatomy)


def _ops(network: Anatomy) -> Counter[Hashable]:
    """What a network is made of: its ops as they are, and once more without their channels; its merges."""
    found: Counter[Hashable] = Counter()
    for leaf in network.leaves():
        found[leaf.kind] += 1
        found[(leaf.kind.word, getattr(leaf.kind, "kernel", None))] += 1
    for segment in network.segments:
        for unit in segment.units:
            found.update((join.merge, join.residual, len(join.branches)) for join in joins(unit))
    return found


def _unlike(one: Counter[Hashable], other: Counter[Hashable]) -> float:
    """The share of ops that only one of two networks has."""
    return ((one - other) + (other - one)).total() / max(1, one.total() + other.total())


def zero_started(network: Anatomy) -> Anatomy:
    """The network whose residual branches end in a norm of scale 0 (Goyal et al. 2017, section 5.1)."""
    return replace(
        network,
        segments=tuple(
            replace(segment, units=tuple(_zeroed(unit) for unit in segment.units)) for segment in network.segments
        ),
    )


def _zeroed(items: Items) -> Items:
    return tuple(
        replace(item, branches=(_ending_in_zero(item.branches[0]), *item.branches[1:]))
        if isinstance(item, Join) and item.residual
        else item
        for item in items
    )


def _ending_in_zero(branch: Items) -> Items:
    """The branch, the scale of whose last norm starts at 0 where no convolution follows it."""
    found: list[Item] = list(branch)
    for at in range(len(found) - 1, -1, -1):
        item = found[at]
        if isinstance(item, Leaf) and isinstance(item.kind, Conv):
            break
        if isinstance(item, Leaf) and isinstance(item.kind, Norm):
            found[at] = replace(item, kind=replace(item.kind, scale_init=0.0))
            break
    return tuple(found)
