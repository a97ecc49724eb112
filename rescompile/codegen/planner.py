"""Network -> class plan: collects the instances of each block, and plans their classes and stages, inner ones first."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from rescompile.codegen.class_plan import IN, Class, ClassPlan, Stage
from rescompile.codegen.classes import Instance, plan_class
from rescompile.codegen.columns import Misfit
from rescompile.codegen.naming import PYTHON, Allocator, snake
from rescompile.codegen.planned_classes import Planned, Registry, definition_of, ids
from rescompile.codegen.roles import Roles
from rescompile.codegen.row_loops import Schedule, member_rule, plan_stage, survival_schedules
from rescompile.codegen.terms import constant, evaluate, read
from rescompile.ir.network import Network, Node, Series, children, walk
from rescompile.ir.provenance import Definition

#: The number of variants of a block above which none are combined.
MOST = 16

Key = tuple[Any, ...]


@dataclass
class InstanceGroup:
    """The instances of one class by id, the word that names it, and the keys of the groups inside."""

    word: str
    instances: dict[int, Instance] = field(default_factory=dict)
    inner: set[Key] = field(default_factory=set)


def plan_classes(network: Network, reserved: Collection[str], unrolled: bool = False) -> ClassPlan:
    """Return the classes of a network, each before those that use it; if `unrolled`, one for each block, with its own
    numbers. Names with a meaning in the framework or its files are `reserved`."""
    return _Planner(network, PYTHON | frozenset(reserved), unrolled).plan()


class _Planner:
    """Plans one network."""

    def __init__(self, network: Network, reserved: frozenset[str], unrolled: bool) -> None:
        self.network, self.unrolled = network, unrolled
        self.roles = Roles(network, unrolled)
        self.registry = Registry(self.roles, reserved)
        self.allocate = Allocator(self.registry.variables, reserved)
        self.classes: list[Class] = []
        self.stages: list[Stage] = []

    def plan(self) -> ClassPlan:
        """Return the class plan."""
        groups = _Gathering(self.roles).groups
        function = self.allocate.name(self.network.name)
        root_name = self.allocate.class_name(self.network.name)
        rows = [] if self.unrolled else [part for part in self.roles.series.values() if self.roles.is_row(part)]
        for group in _inner_first(groups):
            self.plan_group(list(group.instances.values()), group.word)
            complete = {id(row): row for row in rows if self.is_planned(row)}
            rows = [row for row in rows if id(row) not in complete]
            self.plan_stages(complete.values())
        return ClassPlan(self.network, function, [*self.classes, self.root(root_name)], self.stages)

    def is_planned(self, row: Series) -> bool:
        """Return whether all copies of a row have a class."""
        return all(id(child) in self.registry.classes for child in row.children)

    def plan_group(self, instances: list[Instance], word: str) -> None:
        """Plan the class of some instances, or several classes if they differ too much for one."""
        name = self.allocate.class_name(word)
        try:
            planned = plan_class(name, instances, self.registry)
        except Misfit:
            self.allocate.taken.discard(name)
            if len(instances) == 1:
                raise AssertionError(f"{word} does not fit into a class of its own") from None
            for part in self.apart(instances):
                self.plan_group(part, word)
            return
        first, _ = instances[0]
        if (bundle := self.roles.members.get(id(first))) and first.call is None:
            planned = replace(planned, plan=replace(planned.plan, doc=f"One of the {bundle}"))
        self.registry.classes.update((id(node), planned) for node, _ in instances)
        self.classes.append(planned.plan)

    def apart(self, instances: list[Instance]) -> Iterable[list[Instance]]:
        """Return instances that do not fit into one class, in groups: by structure, else by their steps, else
        individually."""
        keys: tuple[Callable[[Series], Any], ...] = (
            lambda node: self.registry.skeletons(node.children),
            lambda node: tuple(part.origin for _, part in walk(node)),
            id,
        )
        for key in keys:
            parts: dict[Any, list[Instance]] = {}
            for node, values in instances:
                parts.setdefault(key(node), []).append((node, values))
            if len(parts) > 1:
                return self.combined(list(parts.values()), instances)
        raise AssertionError("instances are not distinct")

    def combined(self, parts: list[list[Instance]], instances: list[Instance]) -> list[list[Instance]]:
        """Return groups of instances in which those that fit into one class together are combined: each with the first
        group before it that it fits into."""
        if not 2 < len(parts) <= MOST:  # two do not fit
            return parts
        order = {id(node): at for at, (node, _) in enumerate(instances)}
        found: list[list[Instance]] = []
        for part in parts:
            for at, other in enumerate(found):
                both = sorted([*other, *part], key=lambda instance: order[id(instance[0])])
                if len(both) < len(instances) and self.fits([other[0], part[0]]) and self.fits(both):
                    found[at] = both
                    break
            else:
                found.append(part)
        return found

    def fits(self, instances: list[Instance]) -> bool:
        """Return whether some instances fit into one class."""
        try:
            plan_class("", instances, self.registry)
        except Misfit:
            return False
        return True

    def plan_stages(self, rows: Iterable[Series]) -> None:
        """Plan a stage for each class of copies in these rows, and for each naming rule of the copies."""
        pieces: dict[Any, tuple[Planned[Class], list[list[Series]]]] = {}
        for row in rows:
            for planned, copies in self.registry.segments(row):
                pieces.setdefault((id(planned), member_rule(copies)), (planned, []))[1].append(copies)
        for (_, rule), (planned, segments) in pieces.items():
            # A single copy requires no loop, unless others of its class are in one.
            if rule is not None and any(len(copies) > 1 for copies in segments):
                name = self.allocate.name(f"{snake(planned.plan.name)}_stage")
                stage = plan_stage(name, planned, segments, rule, self.schedules)
                self.registry.stages.update((ids(copies), stage) for copies in segments)
                self.stages.append(stage.plan)

    @cached_property
    def schedules(self) -> list[Schedule]:
        """The survival schedules that the network may follow."""
        return survival_schedules(self.roles)

    def root(self, name: str) -> Class:
        """Return the class of the network."""
        network = self.network
        values = {**network.parameters, IN: network.input[0]}
        planned = plan_class(name, [(network.root, values)], self.registry)
        # Only the input channels and the number of outputs remain arguments: other parameters may change the structure.
        kept = () if self.unrolled else (planned.out.value, IN)
        names = {name: value for name, value in values.items() if self.registry.python_name(name) in kept}
        planned = plan_class(name, [(network.root, names)], self.registry)
        given = planned.values[id(network.root)]
        arguments = [replace(a, default=constant(given[a.name])) for a in planned.plan.arguments]
        return replace(planned.plan, reference=network.reference, arguments=arguments)


class _Gathering:
    """The parts of a network that become instances of classes, in groups of one block each."""

    def __init__(self, roles: Roles) -> None:
        self.roles = roles
        network = roles.network
        self.groups: dict[Key, InstanceGroup] = {}
        self.heights = _heights(roles)
        self.nested = _nested(network.root)
        self.visit(network.root, network.parameters, None, ())

    def visit(self, node: Node, names: Mapping[str, Any], owner: Key | None, path: tuple[str, ...]) -> None:
        """Collect a node and those inside; `names` are those of the surrounding block, `owner` is the surrounding
        group."""
        if isinstance(node, Series):
            block = node.call.block if node.call else None
            if node.name is not None:
                path = (*path, f"{block or 'part'}{node.name}" if node.name.isdigit() else node.name)
            if not self.roles.unrolled and block is not None:
                names = _names(node, definition_of(self.roles.network, node.call))
            if self.roles.is_class(node):
                key = self.key(node)
                word = "_".join(path) if self.roles.unrolled else block or self.word(node)
                group = self.groups.setdefault(key, InstanceGroup(word))
                group.word = word
                group.instances[id(node)] = node, {} if self.roles.unrolled else {**names, IN: node.input[0]}
                if owner is not None:
                    self.groups[owner].inner.add(key)
                owner = key
        for child in self.roles.once(node):
            self.visit(child, names, owner, path)

    def key(self, series: Series) -> Key:
        """Return what all instances of one class share: their block, and the height of a recursive block."""
        part = self.roles.members.get(id(series), series.name)
        block = series.call.block if series.call else (series.origin.path if series.origin else "", part)
        if self.roles.unrolled:
            return block, id(series)
        return (block, self.heights[id(series)]) if block in self.nested else (block,)

    def word(self, part: Series) -> str:
        """Return the word for a part without a block: `path` if it is one of the copies in `paths`; a number is not
        a word."""
        bundle = self.roles.members.get(id(part))
        if bundle is not None:
            return bundle.removesuffix("s") or bundle
        return "part" if str(part.name).isdigit() else str(part.name)


def _names(series: Series, definition: Definition) -> dict[str, Any]:
    """Return the names that the expressions of a block may mention, with their values in one use of it."""
    assert series.call is not None
    names: dict[str, Any] = {**series.call.arguments, IN: series.input[0]}
    for name, raw in definition.lets.items():
        term = read(raw)
        value = None if term is None else evaluate(term, names)
        if value is not None:
            names[name] = value
    return names


def _heights(roles: Roles) -> dict[int, int]:
    """Return the nesting depth of classes in each part."""
    heights: dict[int, int] = {}
    for _, node in reversed([*walk(roles.network.root)]):  # children first
        if id(node) not in heights:
            below = max((heights[id(child)] for child in children(node)), default=0)
            heights[id(node)] = below + (isinstance(node, Series) and roles.is_class(node))
    return heights


def _nested(root: Series) -> set[Any]:
    """Return the recursive blocks."""
    nested: set[Any] = set()
    seen: set[tuple[int, frozenset[str]]] = set()

    def visit(node: Node, around: frozenset[str]) -> None:
        if (id(node), around) in seen:
            return
        seen.add((id(node), around))
        if isinstance(node, Series) and node.call is not None:
            if node.call.block in around:
                nested.add(node.call.block)
            around |= {node.call.block}
        for child in children(node):
            visit(child, around)

    visit(root, frozenset())
    return nested


def _inner_first(groups: Mapping[Key, InstanceGroup]) -> Iterator[InstanceGroup]:
    """Yield groups, each after those that it contains."""
    done: set[Key] = set()
    left = dict(groups)
    while left:
        key = next(key for key in left if left[key].inner <= done)
        done.add(key)
        yield left.pop(key)
