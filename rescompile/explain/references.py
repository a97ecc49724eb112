"""The references that a network is compared with: from a table for zoo networks, otherwise the closest network of the zoo."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from rescompile.analysis.alignment import NotAligned
from rescompile.diagnostics.errors import Source
from rescompile.elaboration import elaborate
from rescompile.explain.distances import Distances
from rescompile.explain.overlay import overlay
from rescompile.explain.stages import Structure, steps, structure
from rescompile.explain.zoo_ops import Entry, entries
from rescompile.ir.network import Network, Node, Op, Parallel
from rescompile.ir.ops import Conv, Norm
from rescompile.ir.traversal import rewrite
from rescompile.lang import library
from rescompile.lang.load import load
from rescompile.lang.yaml_reader import plain, read
from rescompile.records import record

#: The number of networks, those with the most ops in common, that are compared op by op to find the closest one. The network of
#: the same name, which a setting or a pass may have changed much, is compared too.
CANDIDATES = 6


@record(slots=False)
class Reference:
    """A network that another is compared with: its name, the settings on it, and its description."""

    name: str
    network: Network
    structure: Structure
    set: tuple[str, ...] = ()
    zero_init: bool = False
    what: str = ""


def of_spec(spec: str, settings: tuple[str, ...] = (), zero_init: bool = False) -> Reference:
    """Return the reference of a spec, a file or a zoo network. Raises SpecError and UsageError."""
    network = elaborate(load(spec, settings))
    if zero_init:
        network = replace(network, root=rewrite(network.root, _starting_at_zero))
    return Reference(network.name, network, structure(network), settings, zero_init)


@cache
def of_zoo(name: str, settings: tuple[str, ...] = (), zero_init: bool = False) -> Reference:
    """Return the reference of a zoo network; cached, since rows of the table share some."""
    return of_spec(name, settings, zero_init)


@cache
def table() -> tuple[dict[str, Any], ...]:
    """Return the rows of references.yaml."""
    path = Path(__file__).parent / "references.yaml"
    return tuple(plain(read(Source(f"explain/{path.name}", path.read_text(encoding="utf-8"))))["references"])


def references_of(name: str) -> list[Reference]:
    """Return the references of a zoo network in the table."""
    return [
        replace(
            of_zoo(row["networks"][name], tuple(row.get("set", ())), row.get("zero_init", False)),
            what=row["as"],
        )
        for row in table()
        if name in row["networks"]
    ]


def is_of_zoo(network: Network) -> bool:
    """Return whether a network is one of the zoo, unchanged."""
    return (
        network.name in library.zoo() and not network.passes and of_zoo(network.name).network.sha256 == network.sha256
    )


def are_comparable(one: Structure | Entry, other: Structure | Entry) -> bool:
    """Return whether the maps of two networks have the same number of axes, so that their kernels can be
    compared. A network whose input is a vector can be compared with any."""
    return len({one.axes, other.axes} - {0}) < 2


def closest(subject: Structure, but: str | None = None) -> Reference | None:
    """Return the zoo network, other than `but`, that differs in the fewest topics, and among equals has the most ops in common;
    if none can be aligned, the one with the most ops in common. Return None if the zoo has no network of this kind of maps."""
    own = Entry.of(subject)
    by_distance = sorted(
        (own.unlike(entry), len(name), name)
        for name, entry in entries().items()
        if name != but and are_comparable(entry, own)
    )
    if not by_distance:
        return None
    distances = Distances()
    candidates: list[tuple[int, float, int, str]] = []
    likely = [entry for at, entry in enumerate(by_distance) if at < CANDIDATES or entry[2] == subject.name]
    for distance, length, name in likely:
        try:
            topics = len(overlay(of_zoo(name).structure, subject, distances).topics)
        except NotAligned:
            continue
        candidates.append((topics, distance, length, name))
        if not topics:
            break
    return of_zoo(min(candidates)[3] if candidates else by_distance[0][2])


def _starting_at_zero(_: str, node: Node) -> Node:
    """Return a residual merge with zero-init: the scale of the last norm of its branch starts at 0, unless a convolution follows it
    (Goyal et al. 2017, section 5.1)."""
    if not isinstance(node, Parallel) or not node.residual:
        return node
    branch = node.branches[0]
    layers = [step for step in steps(branch) if isinstance(step, Op) and isinstance(step.kind, Conv | Norm)]
    last = layers[-1] if layers else None

    def start(_: str, inner: Node) -> Node:
        if isinstance(inner, Op) and isinstance(inner.kind, Norm) and inner is last:
            return replace(inner, kind=replace(inner.kind, scale_init=0.0))
        return inner

    return replace(node, branches=(rewrite(branch, start), *node.branches[1:]))
