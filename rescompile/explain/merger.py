"""Merges two lists of steps into one: the common steps and, for each difference, the version of one of the two, chosen by
topic."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, Literal, TypeAlias

from rescompile.explain.distances import Distances, counterparts, differing
from rescompile.explain.op_wording import item
from rescompile.explain.stages import Role, Step, Steps, has_shortcut, kinds, series, steps, stride
from rescompile.explain.topics import ANYWHERE, Where
from rescompile.ir.network import Node, Op, Parallel, Side
from rescompile.ir.ops import WEIGHTED, Conv, Kind
from rescompile.ir.ops.op import short_size_text
from rescompile.ir.traversal import rewrite
from rescompile.records import record

Origin: TypeAlias = Literal["reference", "subject"]
#: The verb for a step that only the subject or only the reference has.
VERBS: dict[Origin, str] = {"reference": "without", "subject": "added"}
#: Attributes that differ in all ops of a kind in the same way: both values and the topic. Steps that only one of the networks
#: has follow them, so that the cost of a stem does not include biases that the subject has everywhere.
Everywhere: TypeAlias = Mapping[tuple[type[Kind], str], tuple[Any, Any, str]]


@record
class Edit:
    """One difference: its topic, its description, and its place: the name of the segment in the subject (or in the reference, if
    only that has it), the index of the unit, and the number of units. `layers` counts those that only one network has."""

    topic: str
    text: str
    layers: int = 0
    segment: str = ""
    unit: int = 0
    of: int = 1


class Merger:
    """Merges units of a reference and a subject: differences in `topics` take the form of the subject, others that of the
    reference. Results are cached, since most units of a stage are equal."""

    def __init__(self, distances: Distances, topics: Collection[str], everywhere: Everywhere) -> None:
        self.distances, self.topics, self._everywhere = distances, topics, everywhere
        self._units: dict[tuple[object, ...], tuple[Steps, tuple[Edit, ...]]] = {}
        self._edits: list[Edit] = []
        self._values: dict[tuple[type[Kind], str], set[tuple[Any, Any, str]]] = {}

    def unit(self, first: Steps, second: Steps, role: Role) -> tuple[Steps, tuple[Edit, ...]]:
        """Return the merged unit and all its differences. Raises NotAligned if the two are too long."""
        key = (self.distances.keys(first), self.distances.keys(second), role)
        if key not in self._units:
            self._edits = []
            rebuilt = _layers(first) != _layers(second)
            where = Where(role, stride="stride" if stride(first) == stride(second) else "downsampling", rebuilt=rebuilt)
            self._units[key] = self._lists(first, second, where), tuple(self._edits)
        return self._units[key]

    def everywhere(self) -> Everywhere:
        """Return the attributes of ANYWHERE that changed from one value to one other in all units so far."""
        return {key: next(iter(values)) for key, values in self._values.items() if len(values) == 1}

    def has(self, topic: str, origin: Origin) -> bool:
        """Return whether the merged network has the steps that only `origin` has."""
        return (topic in self.topics) == (origin == "subject")

    def followed(self, inside: Steps, origin: Origin) -> Steps:
        """Return steps that only one network has, with the attributes of `everywhere` in the form of these topics."""

        def follow(_: str, node: Node) -> Node:
            if not isinstance(node, Op):
                return node
            new = {}
            for (of, name), (old, value, topic) in self._everywhere.items():
                own, other = (value, old) if origin == "subject" else (old, value)
                if isinstance(node.kind, of) and getattr(node.kind, name) == own and not self.has(topic, origin):
                    new[name] = other
            return replace(node, kind=replace(node.kind, **new)) if new else node

        return steps(rewrite(series(inside), follow)) if self._everywhere else inside

    def _add(self, topic: str, text: str, layers: int = 0) -> None:
        self._edits.append(Edit(topic, text, layers))

    def _lists(self, first: Steps, second: Steps, where: Where) -> Steps:
        """Return two lists merged. If only one of them has its residual branch in a merge, this branch is merged with the other list."""
        ones, others = ([step for step in inside if isinstance(step, Parallel)] for inside in (first, second))
        if where.branch == "main" and len(ones) + len(others) == 1 and (ones or others)[0].residual:
            return self._unwrapped(first, second, "reference" if ones else "subject", where)
        pairs = self.distances.pairs(first, second)
        return tuple(step for i, j in pairs for step in self._pair(first, second, i, j, where))

    def _unwrapped(self, first: Steps, second: Steps, origin: Origin, where: Where) -> Steps:
        own = first if origin == "reference" else second
        at, merge = next((at, step) for at, step in enumerate(own) if isinstance(step, Parallel))
        branch, *rest = (steps(each) for each in merge.branches)
        self._add("shortcut", f"{VERBS[origin]} shortcut", sum(map(count_layers, rest)))
        flat = (*own[:at], *branch, *own[at + 1 :])
        a, b = (flat, second) if origin == "reference" else (first, flat)
        parts: tuple[list[Step], list[Step], list[Step]] = ([], [], [])  # before, inside and after the branch
        part = 0
        for i, j in self.distances.pairs(a, b):
            place = i if origin == "reference" else j
            if place is not None:
                part = (place >= at) + (place >= at + len(branch))
            parts[part].extend(self._pair(a, b, i, j, where))
        before, inside, behind = parts
        if not self.has("shortcut", origin):
            return (*before, *inside, *behind)
        branches = (series(inside), *(series(self.followed(each, origin)) for each in rest))
        return (*before, replace(merge, branches=branches), *behind)

    def _pair(self, first: Steps, second: Steps, i: int | None, j: int | None, where: Where) -> Steps:
        one, other = (None if i is None else first[i]), (None if j is None else second[j])
        if one is None or other is None:
            origin: Origin = "subject" if one is None else "reference"
            step = one or other
            assert step is not None
            topic = where.item(step)
            self._add(topic, f"{VERBS[origin]} {item(step)}", count_layers((step,)))
            return self.followed((step,), origin) if self.has(topic, origin) else ()
        if self.distances.key(one) == self.distances.key(other):
            return (other,)
        match one, other:
            case Op(), Op():
                return (self._op(one, other, where, i == _last_layer(first)),)
            case Parallel(), Parallel():
                return (self._merge(one, other, where),)
            case Side(), Side():
                return (self._side(one, other, where),)
        raise AssertionError("unlike steps are not paired")

    def _op(self, one: Op, other: Op, where: Where, last: bool) -> Op:
        differences = {name: (old, new) for name, old, new in differing(one.kind, other.kind)}
        topics = {name: where.attribute(one.kind, name, last) for name in differences}
        if "padding" in topics and _keeps_size(one.kind) and _keeps_size(other.kind):
            # implied by the kernel or the dilation
            topics["padding"] = topics.get("kernel") or topics["dilation"]
        for name, (old, new) in differences.items():
            self._add(topics[name], f"{other.name}: {name} {_value(new)}, not {_value(old)}")
            for of, attribute in ANYWHERE:
                if attribute == name and isinstance(one.kind, of):
                    self._values.setdefault((of, name), set()).add((old, new, topics[name]))
        taken = {name: new for name, (_, new) in differences.items() if topics[name] in self.topics}
        return replace(other, kind=replace(one.kind, **taken))

    def _merge(self, one: Parallel, other: Parallel, where: Where) -> Parallel:
        like, gate = one, None
        if (one.merge == "gate") != (other.merge == "gate"):
            origin: Origin = "reference" if one.merge == "gate" else "subject"
            self._add("gate", f"{VERBS[origin]} gate")
            like = other if "gate" in self.topics else one
            gate = like.branches[1] if self.has("gate", origin) else None
        if one.survival != other.survival:
            self._add("survival", f"{_survival(other)}, not {_survival(one)}")
        branches = [
            series(self._lists(a, b, replace(where, branch=role) if role else where))
            for role, a, b in counterparts(one, other)
        ]
        if gate is not None:
            branches.insert(1, series(self.followed(steps(gate), origin)))
        survival = (other if "survival" in self.topics else one).survival
        return replace(like, survival=survival, branches=tuple(branches))

    def _side(self, one: Side, other: Side, where: Where) -> Side:
        if (one.mode, one.output_name) != (other.mode, other.output_name):
            self._add("side", f"{_describe(other)}, not {_describe(one)}")
        inside = self._lists(steps(one.child), steps(other.child), replace(where, branch="side"))
        return replace(other if "side" in self.topics else one, child=series(inside))


def count_layers(inside: Steps) -> int:
    """Return the number of convolutions and linear layers."""
    return sum(isinstance(kind, WEIGHTED) for kind in kinds(inside))


def _layers(inside: Steps) -> int:
    """Return the number of layers of a block without those of shortcuts, gates and side branches."""
    count = 0
    for step in inside:
        if isinstance(step, Op):
            count += isinstance(step.kind, WEIGHTED)
        elif isinstance(step, Parallel):
            count += sum(_layers(steps(each)) for each in step.branches[: 1 if has_shortcut(step) else None])
    return count


def _keeps_size(kind: Kind) -> bool:
    """Return whether the padding keeps the size at stride 1."""
    return isinstance(kind, Conv) and kind.pads == tuple(
        (k - 1) * d // 2 for k, d in zip(kind.kernel, kind.dilation, strict=True)
    )


def _last_layer(inside: Steps) -> int | None:
    layers = [at for at, step in enumerate(inside) if isinstance(step, Op) and isinstance(step.kind, WEIGHTED)]
    return layers[-1] if layers else None


def _survival(merge: Parallel) -> str:
    return f"survival {merge.survival.probability:.6g}" if merge.survival else "no stochastic depth"


def _describe(side: Side) -> str:
    return f"an output {side.output_name} ({side.mode})" if side.output_name else f"a side branch ({side.mode})"


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        return short_size_text(value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
