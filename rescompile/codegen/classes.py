"""The instances of a block -> one class: what they share is written once, what differs becomes an argument.

One recursion visits columns: corresponding nodes of all instances. Numbers of the tree are authoritative, and
expressions of the definition are hints: one is printed only if Python evaluates it to the tree's number for every
instance. So after a pass that changed the tree, a class can become less readable, but not wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from rescompile.codegen import nested_classes
from rescompile.codegen.class_plan import (
    IN,
    INDEX,
    Class,
    Either,
    Group,
    Item,
    Join,
    Layer,
    NumberedCopies,
    Rerun,
    Run,
    Tap,
    Use,
    gives_output,
    keeps_values,
)
from rescompile.codegen.class_scope import ClassScope, Flow, Here
from rescompile.codegen.columns import Column, Misfit
from rescompile.codegen.kept_values import ValueScope
from rescompile.codegen.layers import layer
from rescompile.codegen.numbered_copies import CopyScope, are_numbered_copies, copies_of
from rescompile.codegen.planned_classes import Planned, Registry, definition_of, merge_traits
from rescompile.codegen.roles import is_bare
from rescompile.codegen.terms import Value, constant, has_value, named, times, total
from rescompile.codegen.variants import alternatives, has_unique_names, is_readable, with_residuals
from rescompile.ir.expressions import Term
from rescompile.ir.network import Again, Keep, Node, Op, Parallel, Recall, Series, Side, name_of
from rescompile.ir.provenance import Definition
from rescompile.ir.refitting import parts_of

Hints = Sequence[Term | None]
Instance = tuple[Series, Mapping[str, Value]]  # a part, and the values of its block's names


def plan_class(name: str, given: Sequence[Instance], registry: Registry) -> Planned[Class]:
    """Return the class `name` for instances of one block. Raises Misfit."""
    if are_numbered_copies([node for node, _ in given], registry.roles):
        try:
            return _planned(name, given, registry, numbered=True)
        except Misfit:
            pass  # the copies differ by no rule
    return _planned(name, given, registry)


def _planned(name: str, given: Sequence[Instance], registry: Registry, numbered: bool = False) -> Planned[Class]:
    """Return the class of `plan_class`; with `numbered`, a loop for the parallel copies of which it consists. Raises
    Misfit."""
    nodes, names = zip(*given, strict=True)
    definition = definition_of(registry.network, nodes[0].call)
    scope = ClassScope(definition, names, registry)
    instances = Column(enumerate(nodes))
    start = _start(instances, definition, names, scope)
    values = ValueScope(registry, instances)
    builder = ClassBuilder(scope, values)
    if numbered:
        items, end = builder.numbered_copies(instances.map(lambda node: cast(Parallel, node.children[0])), start)
    else:
        items, end = builder.items(instances.map(lambda node: node.children), start, [])
    if not (has_unique_names(items) and is_readable(items)):
        raise Misfit
    lets = scope.lets()
    out = scope.outside(end.term)
    if out is None or not all(has_value(out, scope.values[at], node.output[0]) for at, node in instances.items()):
        out = constant(None)
    scope.used |= out.names.keys() - scope.locals.keys()
    plan = Class(
        name,
        definition.doc,
        definition.reference,
        nodes[0],
        scope.arguments(),
        lets,
        items,
        len(nodes),
        gives_output(items),
        tuple(values.arguments),
    )
    return Planned(plan, {id(node): scope.values[at] for at, node in instances.items()}, out)


def _start(
    instances: Column[Series], definition: Definition, names: Sequence[Mapping[str, Value]], scope: ClassScope
) -> Here:
    """Return the start of a class: the names that all instances have, and the input channels."""
    common = [name for name in names[0] if all(name in each for each in names)]
    channels = named(IN) if IN in common else constant(instances.first.input[0])
    flow = Flow(channels, instances.map(lambda node: node.input[0]))
    env = {name: named(scope.registry.python_name(name)) for name in common}
    for name, raw in definition.lets.items():
        if name in common:
            value = scope.hint(raw, Here(env, Flow(named(IN), flow.numbers)))
            scope.locals[scope.registry.python_name(name)] = value or constant(None)
    return Here(env, flow)


class ClassBuilder:
    """The recursion over the columns of one class. Every method returns items and the channels after them."""

    def __init__(self, scope: ClassScope, values: ValueScope) -> None:
        self.scope, self.values, self.roles = scope, values, scope.registry.roles
        self.built: dict[str, tuple[Item, Flow]] = {}  # the item of each name, and the channels after it

    def items(self, lists: Column[tuple[Node, ...]], here: Here, conditions: Hints) -> tuple[list[Item], Flow]:
        """Return the items of corresponding lists of nodes. Raises Misfit."""
        items: list[Item] = []
        checkpoint = self.scope.registry.network.checkpoint  # recomputes merges, not branches without a shortcut
        for column, *others in alternatives(lists if checkpoint else with_residuals(lists)):
            present = Column({at: at in column for at in lists})
            if others:
                new, flow = self.either(column, others[0], present, here, conditions)
            else:
                new, flow = self.item(column, present, here, conditions)
            here = here.after(flow)
            items += new
        return items, here.flow

    def either(
        self, one: Column[Node], other: Column[Node], present: Column[bool], here: Here, conditions: Hints
    ) -> tuple[list[Item], Flow]:
        """Return the item of two columns of modules, each instance of which is `present` in one. Raises Misfit."""
        when = self.scope.condition(present, [self.hint(one.first, here), *conditions])
        assert when is not None
        (then, after), (otherwise, end) = (self.alternative(column, here) for column in (one, other))
        if not isinstance(then, Use) and not isinstance(otherwise, Use):
            raise Misfit  # initialisation could not tell two layers of one name apart
        flow = self.scope.flow(Column({**after.numbers, **end.numbers}), [after.term, end.term])
        item = Either(then.name, when, then, otherwise)
        self.built[item.name] = item, flow
        return [item], flow

    def alternative(self, column: Column[Node], here: Here) -> tuple[Layer | Group | Use, Flow]:
        """Return one of two modules, and the channels after it. Raises Misfit for what is not one module."""
        (item,), flow = self.item(column, column.map(lambda _: True), here.of(column), [])
        if not isinstance(item, Layer | Group | Use) or keeps_values([item]) or gives_output([item]):
            raise Misfit
        if isinstance(item, Layer) and not item.sample.kind.parameters(item.sample.input):
            raise Misfit  # a function under a condition is harder to read than two classes
        return item, flow

    def item(
        self, column: Column[Node], present: Column[bool], here: Here, conditions: Hints
    ) -> tuple[list[Item], Flow]:
        """Return the items of a column of nodes; one of `conditions` may hold exactly where the column is present."""
        column.only(type)
        sample = column.first
        hints = [self.hint(sample, here), *conditions]
        if not isinstance(sample, Op | Series):
            self.scope.condition(present, ())
        match sample:
            case Op():
                when = self.scope.condition(present, hints)
                item, flow = layer(cast(Column[Op], column), when, here, self.scope)
                self.built[sample.name] = item, flow
                return [item], flow
            case Parallel():
                return self.join(cast(Column[Parallel], column), here)
            case Side():
                return self.tap(cast(Column[Side], column), here)
            case Keep():
                return [self.values.keeping(cast(Column[Keep], column), here, self.scope)], here.flow
            case Recall():
                recalling, flow = self.values.recalling(cast(Column[Recall], column), here, self.scope)
                return [recalling], flow
            case Again():
                return self.rerun(cast(Column[Again], column), here)
            case Series() if sample.name is None or cast(Column[Series], column).only(is_bare):
                with self.values.inside(sample.call):
                    return self.spliced(cast(Column[Series], column), present, here, hints)
            case Series():
                items, flow = self.part(cast(Column[Series], column), self.scope.condition(present, hints), here)
                self.built[sample.name] = items[0], flow
                return items, flow

    def hint(self, node: Node, here: Here) -> Term | None:
        """Return the condition under which a node exists, as far as its definition has one."""
        return None if isinstance(node, Side) or not node.when else self.scope.hint(node.when, here)

    def rerun(self, column: Column[Again], here: Here) -> tuple[list[Item], Flow]:
        """Return repeated steps of this class. Raises Misfit."""
        names = column.only(lambda node: [name_of(part) for part in parts_of(node)])
        if not all(name in self.built for name in names):
            raise Misfit
        found = [self.built[str(name)] for name in names]
        flow = self.scope.flow(column.map(lambda node: node.output[0]), [found[-1][1].term, here.flow.term])
        return [Rerun(tuple(item for item, _ in found))], flow

    def spliced(
        self, column: Column[Series], present: Column[bool], here: Here, hints: Hints
    ) -> tuple[list[Item], Flow]:
        """Return a part without a separate name: a macro, or a branch."""
        call = column.first.call
        if call is not None:
            here = here.inside(nested_classes.macro(column, here, self.scope))
            definition = definition_of(self.scope.registry.network, call)
            if definition.when is not None:
                hints = [self.scope.hint(definition.when, here), *hints]
        lists = Column({at: column[at].children if at in column else () for at in present})
        filled = lists.map(bool)
        some = [at for at in filled if filled[at]]
        stateless = all(
            isinstance(node, Op) and not node.kind.parameters(node.input) for at in some for node in lists[at]
        )
        optional = stateless and 0 < len(some) < len(lists)
        if call is not None and optional and (when := self.scope.hinted(filled, hints)) is not None:
            items, after = self.items(lists.of(some), here.of(some), [])
            numbers = Column({**here.flow.numbers, **after.numbers})
            return [Run(call.block, items, when)], self.scope.flow(numbers, [after.term, here.flow.term])
        return self.items(lists, here, hints)

    def part(self, column: Column[Series], when: Term | None, here: Here) -> tuple[list[Item], Flow]:
        """Return a named part: an instance of a class, a row of copies, a bundle of them, or a list of modules."""
        name = column.only(lambda node: node.name)
        assert name is not None
        # The parallel copies in one instance may differ in survival: then they are not a bundle.
        is_class, is_bundle = column.only(lambda node: (self.roles.is_class(node), self.roles.is_bundle(node)))
        is_row = column.only(self.roles.is_row)
        item: Item
        if is_class:
            used, out = nested_classes.use(column, when, here, self.scope)
            item = self.values.passed(used)
        elif is_bundle:
            if when is not None:
                raise Misfit
            item, out = nested_classes.bundle(column, here, self.scope)
        elif is_row and (row := nested_classes.row(column, when, here, self.scope)) is not None:
            item, out = self.values.passed_on(row[0]), row[1]
        else:
            inner = nested_classes.macro(column, here, self.scope)
            lists = column.map(lambda node: node.children)
            items, after = self.items(lists, here.inside(inner).of(column), [])
            item, out = Group(name, items, when), after.term
        numbers = Column({**here.flow.numbers, **column.map(lambda node: node.output[0])})
        return [item], self.scope.flow(numbers, [out, here.flow.term])

    def join(self, column: Column[Parallel], here: Here) -> tuple[list[Item], Flow]:
        """Return a merge."""
        column.only(_join_key)
        sample = max(column.values(), key=lambda node: len(node.branches))
        starts, sizes = self.ranges(column, sample, here)
        when = None
        branches: list[list[Item]] = []
        outs: list[Term] = []
        for number, start in enumerate(starts):
            inside = start.inside({**here.env, "out_channels": outs[0]} if outs else here.env)
            found = Column({at: node.branches[number : number + 1] for at, node in column.items()})
            if not all(found.values()):  # without a shortcut
                hints = [self.hint(node, inside) for node in sample.branches[number].children]
                when = self.scope.condition(found.map(bool), hints)
            lists = found.map(lambda branch: branch[0].children if branch else ())
            items, out = self.items(lists, inside, [when])
            branches.append(items)
            outs.append(out.term)
        survival = None
        if sample.survival is not None:
            values = column.map(lambda node: node.survival and node.survival.probability)
            survival = self.scope.printed(self.scope.express(values, (), "survival"), column)
        guesses = [total(outs)] if sample.merge == "concat" else outs
        if sample.merge == "concat" and sizes == tuple(outs):  # the ranges of the split are merged again
            guesses.insert(0, here.flow.term)
        flow = self.scope.flow(column.map(lambda node: node.output[0]), guesses)
        item = Join(sample.name, sample.merge, branches, sample, survival, sizes, when)
        self.built[sample.name] = item, flow
        return [item], flow

    def numbered_copies(self, column: Column[Parallel], here: Here) -> tuple[list[Item], Flow]:
        """Return the numbered copies of which a class consists. Raises Misfit if they differ by no rule."""
        merge, split = column.only(lambda node: (node.merge, node.split))
        copies = column.map(copies_of)
        counts = copies.map(len)
        count = self.scope.express(counts, self.scope.hints(column.first.hints, "copies", here), "count")
        given = self.scope.shared(here.flow, count, counts) if split else here.flow
        scope = CopyScope(self.scope, counts)
        flow = Flow(given.term, Column({at: given.numbers[pair[0]] for at, pair in enumerate(scope.pairs)}))
        start = Here({**here.env, "copy": named(INDEX)}, flow)
        lists = Column({at: copies[pair[0]][pair[1]].children for at, pair in enumerate(scope.pairs)})
        items, out = ClassBuilder(scope, self.values).items(lists, start, [])
        if any(not isinstance(item, Layer) or item.when is not None for item in items):
            raise Misfit
        guess = out.term if merge == "add" else times(count, out.term)
        guesses = [] if INDEX in out.term.names else [guess]
        end = self.scope.flow(column.map(lambda node: node.output[0]), guesses)
        return [NumberedCopies(items, self.scope.printed(count, column), max(counts.values()), merge, split)], end

    def ranges(self, column: Column[Parallel], sample: Parallel, here: Here) -> tuple[list[Here], tuple[Term, ...]]:
        """Return the starts of the branches of a merge, and the sizes of unequal channel ranges."""
        count = len(sample.branches)
        if not sample.sizes:
            if sample.split:
                here = here.after(self.scope.shared(here.flow, constant(count), column.map(lambda _: count)))
            return [here] * count, ()
        starts, sizes = [], []
        for at in range(count):
            numbers = Column({instance: node.sizes[at] for instance, node in column.items()})
            hints = self.scope.hints(sample.hints, f"split.{at}", here)
            sizes.append(self.scope.printed(self.scope.express(numbers, hints, f"channels{at}"), column))
            starts.append(here.after(self.scope.flow(numbers, [sizes[-1]])))
        return starts, tuple(sizes)

    def tap(self, column: Column[Side], here: Here) -> tuple[list[Item], Flow]:
        """Return a side branch."""
        mode, output = column.only(lambda node: (node.mode, node.output_name))
        items, _ = self.items(column.map(lambda node: node.child.children), here, [])
        return [Tap(items, output, mode)], here.flow


def _join_key(node: Parallel) -> tuple[Any, ...]:
    """Return every property of a merge that no argument can express, and the number of its branches; a residual may
    have no shortcut."""
    return *merge_traits(node), None if node.residual else len(node.branches)
