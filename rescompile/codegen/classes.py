"""From the instances of a block to one class: what they share is written once, what differs becomes an argument.

One recursion runs over corresponding nodes of all instances at once. The number is the truth, and an expression of the
definition is only a hint: it is printed where Python finds the tree's own number with it, for every instance. So a pass
that changed the tree can at worst make a class less pretty.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from rescompile.codegen.class_plan import (
    Argument,
    Class,
    Copies,
    Group,
    Item,
    Join,
    Layer,
    Repeated,
    Row,
    Run,
    Tap,
    Use,
    scope_names,
)
from rescompile.codegen.columns import Misfit, aligned, first
from rescompile.codegen.grouping import Kinds, Made, MadeStage, bundled, is_row, segments, skeleton
from rescompile.codegen.spelling import IN, Speller, is_value
from rescompile.codegen.terms import Value, constant, literal, mentioned, named, operation, python, substitute, unknown
from rescompile.ir import ops
from rescompile.ir.expressions import Term
from rescompile.ir.network import Node, Op, Parallel, Series, Side
from rescompile.ir.provenance import Call, Definition

#: Attributes that say how weights are first drawn: the outline keeps them on the sample, for the backend's rules.
INITIAL = frozenset({"init", "bias_init", "scale_init"})
#: Attributes that say the channels after an op, by the ops where they do.
_OUT: Mapping[str, tuple[type[ops.Kind], ...]] = {"channels": (ops.Conv, ops.PadChannels), "features": (ops.Linear,)}


@dataclass(frozen=True)
class Flow:
    """The channels at some point: as a term, and as the number in every instance that is there."""

    term: Term
    numbers: Mapping[int, int]


@dataclass(frozen=True)
class Here:
    """A point in the body of a class: what the expressions of the definition may mention there, and the channels."""

    env: Mapping[str, Term]
    flow: Flow

    def after(self, flow: Flow) -> Here:
        """The same names with the channels after something."""
        return replace(self, flow=flow)

    def inside(self, env: Mapping[str, Term]) -> Here:
        """The same channels with the names of a definition."""
        return replace(self, env=env)

    def of(self, instances: Iterable[int]) -> Here:
        """The same in some of the instances."""
        return self.after(Flow(self.flow.term, {at: self.flow.numbers[at] for at in instances}))


class Builder:
    """Builds one class from its instances."""

    def __init__(
        self, name: str, word: str, nodes: Sequence[Series], names: Sequence[Mapping[str, Value]], kinds: Kinds
    ) -> None:
        self.nodes, self.kinds = nodes, kinds
        self.given = names
        self.definition: Definition | None = kinds.network.definitions.get(word)
        self.speller = Speller(self.definition, names, kinds)
        sample = nodes[0]
        doc, reference = (self.definition.doc, self.definition.reference) if self.definition else ("", "")
        self.text = Class(name, doc, reference, sample, count=len(nodes))

    def build(self) -> Made:
        """The class. Raises Misfit."""
        speller = self.speller
        common = set.intersection(*(set(names) for names in self.given))
        env = {name: named(self.kinds.python_name(name)) for name in common}
        for name, raw in (self.definition.lets if self.definition else {}).items():
            if name in common:
                value = speller.translated(raw, env, named(IN)) or constant(None)
                speller.locals[self.kinds.python_name(name)] = value
        start = named(IN) if IN in common else constant(self.nodes[0].input[0])
        flow = Flow(start, {at: node.input[0] for at, node in enumerate(self.nodes)})
        self.text.items, end = self.items(
            {at: node.children for at, node in enumerate(self.nodes)}, Here(env, flow), []
        )
        listed = list(scope_names(self.text.items))
        if len(set(listed)) < len(listed):  # one place in some instances, and another in others
            raise Misfit
        self.text.lets = speller.lets()
        out = substitute(end.term, speller.locals)
        if not all(
            is_value(out, scope, node.output[0]) for node, scope in zip(self.nodes, speller.scopes, strict=True)
        ):
            out = constant(None)
        speller.used |= mentioned(out) - set(speller.locals)
        self.text.arguments = speller.arguments()
        return Made(self.text, {id(node): scope for node, scope in zip(self.nodes, speller.scopes, strict=True)}, out)

    def items(
        self,
        lists: Mapping[int, Sequence[Node]],
        here: Here,
        conditions: Sequence[Term | None],
    ) -> tuple[list[Item], Flow]:
        """The items of corresponding lists of nodes, and the channels after them."""
        items: list[Item] = []
        for column in aligned(lists):
            new, flow = self.item(column, {at: at in column for at in lists}, here, conditions)
            here = here.after(flow)
            items += new
        return items, here.flow

    def item(
        self,
        column: Mapping[int, Node],
        present: Mapping[int, bool],
        here: Here,
        conditions: Sequence[Term | None],
    ) -> tuple[list[Item], Flow]:
        sample = first(column)
        if any(type(node) is not type(sample) for node in column.values()):
            raise Misfit
        own = None if isinstance(sample, Side) or not sample.when else self.hint(sample.when, here)
        hints = [own, *conditions]
        match sample:
            case Op():
                return self.op(column, self.speller.condition(present, hints), here)  # type: ignore[arg-type]
            case Parallel():
                self.speller.condition(present, ())
                return self.join(column, here)  # type: ignore[arg-type]
            case Side():
                self.speller.condition(present, ())
                return self.tap(column, here)  # type: ignore[arg-type]
            case Series(name=None):
                return self.spliced(column, present, here, hints)  # type: ignore[arg-type]
            case Series():
                return self.scope(column, self.speller.condition(present, hints), here)  # type: ignore[arg-type]

    def op(self, column: Mapping[int, Op], when: Term | None, here: Here) -> tuple[list[Item], Flow]:
        sample, flow = first(column), here.flow
        kind = type(sample.kind)
        if any(skeleton(op, self.kinds) != skeleton(sample, self.kinds) for op in column.values()):
            raise Misfit
        terms = self.attributes(column, here)
        shown = {name: self.speller.written(term, column) for name, term in terms.items()}
        item = Layer(sample.name, kind, shown, self.channels(flow, column), sample, when)
        after = {**flow.numbers, **{at: op.output[0] for at, op in column.items()}}
        guesses = [terms[name] for name in _OUT if name in terms and issubclass(kind, _OUT[name])]
        if kind is ops.Flatten:
            sizes = {op.input[1] * op.input[2] if len(op.input) == 3 else 1 for op in column.values()}
            guesses = [operation("*", flow.term, constant(sizes.pop()))]
        return [item], self.flow(after, [*guesses, flow.term])

    def attributes(self, column: Mapping[int, Op], here: Here) -> dict[str, Term]:
        """The attributes of an op as terms: by its definition, else as they follow from what is known there."""
        sample = first(column)
        kind = type(sample.kind)
        terms: dict[str, Term] = {}
        for attribute in sorted(fields(kind), key=lambda f: f.name == "padding"):  # which is said by the others
            name = attribute.name
            if name in INITIAL or name == "kind":  # which is part of what the op is
                continue
            values = {at: getattr(op.kind, name) for at, op in column.items()}
            if attribute.metadata["attribute"].type == "size":
                values = _flat(values)
            hints = [self.hint(sample.hints[name], here)] if name in sample.hints else []
            if kind is ops.Conv and name == "padding":
                hints += _same_padding(terms)
            if issubclass(kind, ops.MaxPool) and name == "stride":
                hints.append(terms["kernel"])
            if kind in (ops.Conv, ops.PadChannels) and name == "channels":
                hints.append(here.flow.term)
            terms[name] = self.speller.spell(values, hints, self.new(sample, name))
        return terms

    def hint(self, raw: Any, here: Here) -> Term | None:
        """An expression of the definition in the names of this class."""
        return self.speller.translated(raw, here.env, here.flow.term)

    def flow(self, numbers: dict[int, int], guesses: Iterable[Term]) -> Flow:
        """The channels after something; a guess is taken if it is right for all."""
        return Flow(self.speller.spell(numbers, guesses, "channels"), numbers)

    def shared(self, flow: Flow, count: Term, counts: Mapping[int, int]) -> Flow:
        """The channels of an equal part of them; where every channel is a part, that is said best as 1."""
        numbers = {at: flow.numbers[at] // parts for at, parts in counts.items()}
        return self.flow(numbers, [constant(1), operation("/", flow.term, count)])

    def channels(self, flow: Flow, at: Iterable[int]) -> Term:
        """The channels that come in, as they are printed."""
        self.speller.mention(flow.term)
        return self.speller.written(flow.term, at)

    def new(self, node: Op | Series | Parallel, attribute: str) -> str:
        """What a new argument for this would be called."""
        word = node.name if node.name and not node.name[0].isdigit() else _word(node)
        return f"{word}_{attribute}"

    def spliced(
        self,
        column: Mapping[int, Series],
        present: Mapping[int, bool],
        here: Here,
        hints: Sequence[Term | None],
    ) -> tuple[list[Item], Flow]:
        """What stands in a scope without a name of its own: a macro, or a branch."""
        call = first(column).call
        if call is not None:
            inner = self.macro([node.call for node in column.values() if node.call], column, here)
            definition = self.kinds.network.definitions.get(call.block)
            if definition is not None and definition.when is not None:
                hints = [self.hint(definition.when, here.inside(inner)), *hints]
            here = here.inside(inner)
        lists: dict[int, Sequence[Node]] = {at: column[at].children if at in column else () for at in present}
        some = [at for at in lists if lists[at]]
        if (
            call is not None
            and some
            and len(some) < len(lists)
            and self.speller.says({at: bool(lists[at]) for at in lists}, hints)
        ):
            nodes = [node for at in some for node in lists[at]]
            if all(isinstance(node, Op) and not node.kind.parameters(node.input) for node in nodes):
                when = self.speller.condition({at: bool(lists[at]) for at in lists}, hints)
                assert when is not None
                items, after = self.items({at: lists[at] for at in some}, here.of(some), [])
                numbers = {**here.flow.numbers, **after.numbers}
                return [Run(call.block, items, when)], self.flow(numbers, [after.term, here.flow.term])
        return self.items(lists, here, hints)

    def macro(self, calls: Sequence[Call], column: Mapping[int, Series], here: Here) -> dict[str, Term]:
        """The names of a macro's definition in the names of this class."""
        inner: dict[str, Term] = {}
        definition = self.kinds.network.definitions.get(calls[0].block)
        place = dict(zip(column, calls, strict=True))
        for name in calls[0].arguments:
            values = {at: call.arguments[name] for at, call in place.items() if name in call.arguments}
            hint = self.hint(calls[0].hints[name], here) if name in calls[0].hints else None
            if hint is not None and all(is_value(hint, self.speller.scopes[at], value) for at, value in values.items()):
                inner[name] = hint
            elif len({literal(value) if not isinstance(value, dict) else "" for value in values.values()}) == 1:
                inner[name] = constant(values[next(iter(values))])
            else:
                default = definition.parameters.get(name) if definition else None
                own = self.hint(default, here.inside(inner)) if isinstance(default, str) else None
                inner[name] = own or unknown(name)
        for name, raw in (definition.lets if definition else {}).items():
            inner[name] = self.hint(raw, here.inside(inner)) or unknown(name)
        return inner

    def scope(self, column: Mapping[int, Series], when: Term | None, here: Here) -> tuple[list[Item], Flow]:
        """A named part: an instance of a class, a row of copies, or a list of modules."""
        sample = first(column)
        if any(node.name != sample.name for node in column.values()):
            raise Misfit
        # Copies side by side may differ in one instance alone, by their survival: there they are no bundle.
        if len({(self.kinds.is_class(node), self.kinds.is_bundle(node)) for node in column.values()}) > 1:
            raise Misfit
        assert sample.name is not None
        item: Item
        if self.kinds.is_class(sample):
            item, guess = self.use(column, when, here)
            guesses = [guess]
        elif self.kinds.is_bundle(sample):
            item, guess = self.copies(column, when, here)
            guesses = [guess]
        elif is_row(sample) and (row := self.row(column, when, here)) is not None:
            item, guesses = row
        else:
            call = sample.call
            inner = self.macro([node.call for node in column.values() if node.call], column, here) if call else here.env
            lists = {at: node.children for at, node in column.items()}
            items, after = self.items(lists, here.inside(inner).of(column), [])
            item, guesses = Group(sample.name, items, when), [after.term]
        numbers = {**here.flow.numbers, **{at: node.output[0] for at, node in column.items()}}
        return [item], self.flow(numbers, [*guesses, here.flow.term])

    def use(self, column: Mapping[int, Series], when: Term | None, here: Here) -> tuple[Use, Term]:
        """An instance of another class, and its output channels."""
        mades = {id(self.kinds.made[id(node)]): self.kinds.made[id(node)] for node in column.values()}
        if len(mades) > 1:
            raise Misfit
        (made,) = mades.values()
        sample = first(column)
        terms = self.arguments(made, column, here)
        shown = self.shown(made.text.arguments, terms, column)
        self.text.taps |= made.text.taps
        assert sample.name is not None
        return Use(sample.name, made.text, shown, when), substitute(made.out, terms)

    def arguments(self, of: Made | MadeStage, column: Mapping[int, Series], here: Here) -> dict[str, Term]:
        """What an instance of another class, or a stage, is given."""
        values = {at: of.values[id(node)] for at, node in column.items()}
        return {
            argument.name: self.argument(
                argument, {at: given[argument.name] for at, given in values.items()}, first(column), here
            )
            for argument in of.text.arguments
        }

    def argument(self, argument: Argument, values: Mapping[int, Value], sample: Series, here: Here) -> Term:
        """What is given for one argument."""
        hints: list[Term | None] = []
        if argument.name == IN:
            hints.append(here.flow.term)
        elif sample.call is not None:
            named_so = (raw for name, raw in sample.call.hints.items() if self.kinds.python_name(name) == argument.name)
            hints += [self.hint(raw, here) for raw in named_so]
        else:
            hints += [term for name, term in here.env.items() if self.kinds.python_name(name) == argument.name]
        return self.speller.spell(
            values, hints, argument.name if argument.name not in self.speller.scopes[0] else f"inner_{argument.name}"
        )

    def shown(self, arguments: Sequence[Argument], terms: Mapping[str, Term], at: Iterable[int]) -> dict[str, Term]:
        """The arguments at a call, without those at their default."""
        at = list(at)
        shown = {argument.name: self.speller.written(terms[argument.name], at) for argument in arguments}
        return {
            a.name: shown[a.name] for a in arguments if a.default is None or python(shown[a.name]) != python(a.default)
        }

    def row(self, column: Mapping[int, Series], when: Term | None, here: Here) -> tuple[Row, list[Term]] | None:
        """A row of copies, by stages; None where there are none for it."""
        if not _keeps_names(column.values()):
            return None
        parts: list[Repeated | Use] = []
        pieces = {at: segments(node, self.kinds) for at, node in column.items()}
        patterns = {tuple((id(made), len(nodes) > 1) for made, nodes in listed) for listed in pieces.values()}
        if len({len(listed) for listed in pieces.values()}) > 1:
            raise Misfit
        here = here.of(column)
        count = len(first(pieces))
        for number in range(count):
            mades = {id(listed[number][0]) for listed in pieces.values()}
            if len(mades) > 1:
                raise Misfit
            firsts = {at: listed[number][1][0] for at, listed in pieces.items()}
            stages = {id(node): self.kinds.stages.get(id(node)) for node in firsts.values()}
            stage = next(iter(stages.values()))
            if any(other is not stage for other in stages.values()):
                raise Misfit
            if stage is None:
                if len(patterns) > 1 or any(len(listed[number][1]) > 1 for listed in pieces.values()):
                    return None
                use, out = self.use(firsts, None, here)
                parts.append(use)
            else:
                terms = self.arguments(stage, firsts, here)
                parts.append(Repeated(stage.text, self.shown(stage.text.arguments, terms, column)))
                out = substitute(stage.out, terms)
            ends = {at: listed[number][1][-1].output[0] for at, listed in pieces.items()}
            here = here.after(self.flow(ends, [out]))
        sample = first(column)
        assert sample.name is not None
        return Row(sample.name, parts, when), [here.flow.term]

    def copies(self, column: Mapping[int, Series], when: Term | None, here: Here) -> tuple[Copies, Term]:
        """Copies side by side, and their output channels."""
        listed = {at: bundled(node) for at, node in column.items()}
        merges = {(m.merge, m.split) for node in column.values() for m in node.children if isinstance(m, Parallel)}
        if len(merges) > 1 or when is not None:
            raise Misfit
        ((merge, split),) = merges
        sample = first(column)
        assert sample.name is not None
        hints = [
            self.hint(merge.hints["copies"], here)
            for merge in sample.children
            if isinstance(merge, Parallel) and "copies" in merge.hints
        ]
        count = self.speller.spell({at: len(copies) for at, copies in listed.items()}, hints, self.new(sample, "count"))
        text = self.speller.written(count, column)
        if split:
            here = here.after(self.shared(here.flow, count, {at: len(copies) for at, copies in listed.items()}))
        use, out = self.use({at: copies[0] for at, copies in listed.items()}, None, here)
        item = Copies(sample.name, use, text, merge, split)
        if merge == "add":
            return item, out
        parts = out.head == "/" and python(self.speller.written(out.operands[1], column)) == python(text)
        return item, out.operands[0] if parts else operation("*", count, out)

    def join(self, column: Mapping[int, Parallel], here: Here) -> tuple[list[Item], Flow]:
        """A merge."""
        sample = first(column)
        key = _join_key(sample)
        if any(_join_key(node) != key for node in column.values()):
            raise Misfit
        branches: list[list[Item]] = []
        outs: list[Term] = []
        numbers = {at: node.output[0] for at, node in column.items()}
        if sample.split:
            count = len(sample.branches)
            here = here.after(self.shared(here.flow, constant(count), dict.fromkeys(column, count)))
        for number in range(len(sample.branches)):
            lists = {at: node.branches[number].children for at, node in column.items()}
            names = {**here.env, "out_channels": outs[0]} if outs else here.env
            items, out = self.items(lists, here.inside(names), [])
            branches.append(items)
            outs.append(out.term)
        survival = None
        if sample.survival is not None:
            values = {at: node.survival.probability for at, node in column.items() if node.survival}
            survival = self.speller.written(self.speller.spell(values, (), "survival"), column)
        if sample.merge == "concat":
            total = outs[0]
            for more in outs[1:]:
                total = operation("+", total, more)
            guesses = [total]
        else:
            guesses = outs
        return [Join(sample.name, sample.merge, branches, sample, survival)], self.flow(numbers, guesses)

    def tap(self, column: Mapping[int, Side], here: Here) -> tuple[list[Item], Flow]:
        """A side branch."""
        sample = first(column)
        if any((node.mode, node.output_name) != (sample.mode, sample.output_name) for node in column.values()):
            raise Misfit
        items, _ = self.items({at: node.child.children for at, node in column.items()}, here, [])
        self.text.taps |= sample.mode != "never" and sample.output_name is not None
        return [Tap(items, sample.output_name, sample.mode)], here.flow


def _keeps_names(rows: Iterable[Series]) -> bool:
    """Whether the modules of lists would be called as the copies of rows are: those called by numbers, by their places."""
    names = [[child.name or "" for child in row.children if isinstance(child, Series)] for row in rows]
    by_place = all(listed == [str(at) for at in range(len(listed))] for listed in names)
    return by_place or not any(name.isdigit() for listed in names for name in listed)


def _flat(values: Mapping[int, Value]) -> dict[int, Value]:
    """Sizes as one number where both are the same."""
    if all(isinstance(value, tuple) and value[0] == value[1] for value in values.values()):
        return {at: value[0] for at, value in values.items()}
    return dict(values)


def _same_padding(terms: Mapping[str, Term]) -> list[Term]:
    """The padding that keeps the size of a map, from kernel and dilation as they are written."""
    kernel, dilation = terms["kernel"], terms.get("dilation", constant(1))
    if kernel.head == "constant" and isinstance(kernel.value, int):
        half = constant(kernel.value // 2)
        return [operation("*", half, dilation), half] if kernel.value > 1 else [half]
    if kernel.head == "constant":
        return []
    half = operation("//", kernel, constant(2))
    return [operation("*", half, dilation), half]


def _word(node: Op | Series | Parallel) -> str:
    match node:
        case Op():
            return node.kind.word
        case Parallel():
            return node.merge
    return node.call.block if node.call else "part"


def _join_key(node: Parallel) -> tuple[Any, ...]:
    how = (node.survival.unit, node.survival.rescale) if node.survival else None
    return node.merge, node.residual, node.split, len(node.branches), how
