"""From the instances of a block to one class: what they share is written once, what differs becomes an argument.

One recursion runs over corresponding nodes of all instances at once. The number is the truth, and an expression of the
definition is only a hint: it is printed where Python finds the tree's own number with it, for every instance. So a pass
that changed the tree can at worst make a class less pretty.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from rescompile import ops
from rescompile.expressions import ExpressionError, Term
from rescompile.network import Call, Definition, Node, Op, Parallel, Series, Side
from rescompile.outline.kinds import Kinds, Made, bundled, is_row, segments, skeleton
from rescompile.outline.parts import (
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
    Text,
    Use,
    scope_names,
)
from rescompile.outline.terms import (
    Value,
    constant,
    evaluate,
    literal,
    means,
    mentioned,
    named,
    operation,
    python,
    read,
    simplified,
    substitute,
)  # fmt: skip

IN = "in_channels"
#: Attributes that say how weights are first drawn: the outline keeps them on the sample, for the backend's rules.
INITIAL = frozenset({"init", "bias_init", "scale_init"})


class Misfit(Exception):
    """Instances are too different for one class."""


@dataclass
class Flow:
    """The channels at some point: as a term, and as the number in every instance that is there."""

    term: Term
    numbers: dict[int, int]


class Builder:
    """Builds one class from its instances."""

    def __init__(
        self, name: str, word: str, nodes: Sequence[Series], names: Sequence[Mapping[str, Value]], kinds: Kinds
    ) -> None:
        self.nodes, self.kinds = nodes, kinds
        self.given = names
        self.scopes: list[dict[str, Value]] = [
            {kinds.python_name(name): value for name, value in values.items()} for values in names
        ]
        self.definition: Definition | None = kinds.network.definitions.get(word)
        self.used: set[str] = set()
        self.locals: dict[str, Term] = {}
        sample = nodes[0]
        doc, reference = (self.definition.doc, self.definition.reference) if self.definition else ("", "")
        self.text = Class(name, word, doc, reference, sample, count=len(nodes))

    def build(self) -> Made:
        """The class. Raises Misfit."""
        everyone = list(range(len(self.nodes)))
        common = set.intersection(*(set(names) for names in self.given))
        env = {name: named(self.kinds.python_name(name)) for name in common}
        for name, raw in (self.definition.lets if self.definition else {}).items():
            if name in common:
                self.locals[self.kinds.python_name(name)] = self.translated(raw, {**env}, named(IN)) or constant(None)
        start = named(IN) if IN in common else constant(self.nodes[0].input[0])
        flow = Flow(start, {at: node.input[0] for at, node in enumerate(self.nodes)})
        self.text.items, end = self.items({at: self.nodes[at].children for at in everyone}, env, flow, [])
        listed = list(scope_names(self.text.items))
        if len(set(listed)) < len(listed):  # one place in some instances, and another in others
            raise Misfit
        for name in reversed(self.locals):
            if name in self.used:
                self.used |= mentioned(self.locals[name])
        scopes = self.scopes
        self.text.lets = [(name, python(term, scopes)) for name, term in self.locals.items() if name in self.used]
        out = substitute(end.term, self.locals)
        if not all(_is(out, scope, node.output[0]) for scope, node in zip(scopes, self.nodes, strict=True)):
            out = constant(None)
        self.used |= mentioned(out) - set(self.locals)
        self.text.arguments = self.arguments()
        return Made(self.text, {id(node): scope for node, scope in zip(self.nodes, scopes, strict=True)}, out)

    def arguments(self) -> list[Argument]:
        """The arguments that the text mentions: those of the definition in its order, then the new ones."""
        defaults = self.definition.parameters if self.definition else {}
        given = {self.kinds.python_name(name): default for name, default in defaults.items()}
        order = [IN, *given, *(name for name in self.scopes[0] if name not in given and name != IN)]
        listed = []
        for name in dict.fromkeys(order):
            if name not in self.used or name in self.locals:
                continue
            values = [scope[name] for scope in self.scopes]
            default = given.get(name)
            if isinstance(default, list):
                default = tuple(default)
            takes_default = (
                name in given and default is not None and (not isinstance(default, str) or default in values)
            )
            listed.append(
                Argument(
                    name,
                    python_type([*values, default] if takes_default else values),
                    literal(default) if takes_default else None,
                )
            )
        return sorted(listed, key=lambda argument: argument.default is not None)

    # --- values

    def translated(self, raw: Any, env: Mapping[str, Term], channels: Term) -> Term | None:
        """A hint in the names of this class; names that stand for no value are words."""
        try:
            term = read(raw)
        except ExpressionError:
            return None
        unknown = mentioned(term) - set(env) - {IN}
        if unknown & self.kinds.variables:
            return None
        words = {name: constant(name) for name in unknown}
        return substitute(term, {**words, **env, IN: channels})

    def spell(self, values: Mapping[int, Value], hints: Iterable[Term | None], name: str) -> Term:
        """The term that gives each instance its value: a hint that does, else the value they share, else a new argument."""
        scopes = [self.scopes[at] for at in values]
        for hint in hints:
            if hint is None:
                continue
            term = simplified(hint, scopes)
            if not self.is_plain(term):
                continue
            text = python(term, scopes)
            if all(
                means(text, self.scopes[at], value) and _has_value(term, self.scopes[at])
                for at, value in values.items()
            ):
                self.used |= mentioned(term)
                return term
        first = next(iter(values.values()))
        if all(type(value) is type(first) and value == first for value in values.values()):
            return constant(first)
        if len(values) < len(self.nodes):
            values = {at: values.get(at, first) for at in range(len(self.nodes))}
        new = self.kinds.python_name(name)
        while any(new in scope for scope in self.scopes):
            new += "_"
        for at, value in values.items():
            self.scopes[at][new] = value
        self.used.add(new)
        return named(new)

    def is_plain(self, term: Term) -> bool:
        """Whether what a term mentions has one type, where it does more than hand a value on."""
        defaults = self.definition.parameters if self.definition else {}
        for name in mentioned(term) if term.operands else ():
            types = {type(scope[name]) for scope in self.scopes if name in scope}
            types |= {
                type(d)
                for n, d in defaults.items()
                if d is not None and self.kinds.python_name(n) == name and not isinstance(d, str)
            }
            if not (types <= {int, float, bool} or len(types) == 1):
                return False
        return True

    def written(self, term: Term, at: Iterable[int]) -> Text:
        """A term as Python."""
        return python(term, [self.scopes[i] for i in at])

    def condition(self, present: Mapping[int, bool], hints: Iterable[Term | None]) -> Text | None:
        """The condition under which something is there; None where it always is. Raises Misfit where no hint says it."""
        if all(present.values()):
            return None
        scopes = [self.scopes[at] for at in present]
        for hint in hints:
            if hint is None:
                continue
            term = simplified(hint, scopes)
            text = python(term, scopes)
            if all(means(text, self.scopes[at], there) for at, there in present.items()):
                self.used |= mentioned(term)
                return text
        raise Misfit

    def says(self, present: Mapping[int, bool], hints: Iterable[Term | None]) -> bool:
        """Whether a hint says when something is there."""
        try:
            self.condition(present, hints)
        except Misfit:
            return False
        return True

    # --- bodies

    def items(
        self,
        lists: Mapping[int, Sequence[Node]],
        env: Mapping[str, Term],
        flow: Flow,
        conditions: Sequence[Term | None],
    ) -> tuple[list[Item], Flow]:
        """The items of corresponding lists of nodes, and the channels after them."""
        items: list[Item] = []
        for column in aligned(lists):
            new, flow = self.item(column, {at: at in column for at in lists}, env, flow, conditions)
            items += new
        return items, flow

    def item(
        self,
        column: Mapping[int, Node],
        present: Mapping[int, bool],
        env: Mapping[str, Term],
        flow: Flow,
        conditions: Sequence[Term | None],
    ) -> tuple[list[Item], Flow]:
        sample = next(iter(column.values()))
        if any(type(node) is not type(sample) for node in column.values()):
            raise Misfit
        hints = [
            *(
                self.translated(node.when, env, flow.term)
                for node in _first(column)
                if not isinstance(node, Side) and node.when
            ),
            *conditions,
        ]
        match sample:
            case Op():
                return self.op(column, self.condition(present, hints), env, flow)  # type: ignore[arg-type]
            case Parallel():
                self.condition(present, ())
                return self.join(column, env, flow)  # type: ignore[arg-type]
            case Side():
                self.condition(present, ())
                return self.tap(column, env, flow)  # type: ignore[arg-type]
            case Series(name=None):
                return self.spliced(column, present, env, flow, hints)  # type: ignore[arg-type]
            case Series():
                return self.scope(column, self.condition(present, hints), env, flow)  # type: ignore[arg-type]

    def op(
        self, column: Mapping[int, Op], when: Text | None, env: Mapping[str, Term], flow: Flow
    ) -> tuple[list[Item], Flow]:
        sample = next(iter(column.values()))
        kind = type(sample.kind)
        if any(skeleton(op, self.kinds) != skeleton(sample, self.kinds) for op in column.values()):
            raise Misfit
        terms: dict[str, Term] = {}
        for attribute in sorted(fields(kind), key=lambda f: f.name == "padding"):  # which is said by the others
            if attribute.name in INITIAL or attribute.name == "kind":  # which is part of what the op is
                continue
            values = {at: getattr(op.kind, attribute.name) for at, op in column.items()}
            facts = attribute.metadata["attribute"]
            if facts.type == "size":
                values = _flat(values)
            hints = [
                self.translated(op.hints[attribute.name], env, flow.term)
                for op in _first(column)
                if attribute.name in op.hints
            ]
            if kind is ops.Conv and attribute.name == "padding":
                hints += _same_padding(terms)
            if attribute.name == "stride" and issubclass(kind, ops.MaxPool):
                hints.append(terms["kernel"])
            if attribute.name == "channels" and kind in (ops.Conv, ops.PadChannels):
                hints.append(flow.term)
            terms[attribute.name] = self.spell(values, hints, self.new(sample, attribute.name))
        shown = {name: self.written(term, column) for name, term in terms.items()}
        item = Layer(sample.name, kind, shown, self.channels(flow, column), sample, when)
        after = {**flow.numbers, **{at: op.output[0] for at, op in column.items()}}
        guess = [flow.term]
        if kind in (ops.Conv, ops.PadChannels):
            guess.insert(0, terms["channels"])
        elif kind is ops.Linear:
            guess.insert(0, terms["features"])
        elif kind is ops.Flatten:
            sizes = {op.input[1] * op.input[2] if len(op.input) == 3 else 1 for op in column.values()}
            guess.insert(0, operation("*", flow.term, constant(sizes.pop())))
        return [item], self.flow(after, guess)

    def flow(self, numbers: dict[int, int], guesses: Iterable[Term]) -> Flow:
        """The channels after something; a guess is taken if it is right for all."""
        return Flow(self.spell(numbers, guesses, "channels"), numbers)

    def shared(self, flow: Flow, count: Term, counts: Mapping[int, int]) -> Flow:
        """The channels of an equal part of them; where every channel is a part, that is said best as 1."""
        numbers = {at: flow.numbers[at] // parts for at, parts in counts.items()}
        return self.flow(numbers, [constant(1), operation("/", flow.term, count)])

    def channels(self, flow: Flow, at: Iterable[int]) -> Text:
        """The channels that come in, as Python."""
        self.used |= mentioned(flow.term)
        return self.written(flow.term, at)

    def new(self, node: Op | Series | Parallel, attribute: str) -> str:
        """What a new argument for this would be called."""
        word = node.name if node.name and not node.name[0].isdigit() else _word(node)
        return f"{word}_{attribute}"

    def spliced(
        self,
        column: Mapping[int, Series],
        present: Mapping[int, bool],
        env: Mapping[str, Term],
        flow: Flow,
        hints: Sequence[Term | None],
    ) -> tuple[list[Item], Flow]:
        """What stands in a scope without a name of its own: a macro, or a branch."""
        call = next(iter(column.values())).call
        if call is not None:
            inner = self.macro([node.call for node in column.values() if node.call], column, env, flow)
            definition = self.kinds.network.definitions.get(call.block)
            if definition is not None and definition.when is not None:
                hints = [self.translated(definition.when, inner, flow.term), *hints]
        else:
            inner = dict(env)
        lists: dict[int, Sequence[Node]] = {at: column[at].children if at in column else () for at in present}
        some = [at for at in lists if lists[at]]
        if (
            call is not None
            and some
            and len(some) < len(lists)
            and self.says({at: bool(lists[at]) for at in lists}, hints)
        ):
            nodes = [node for at in some for node in lists[at]]
            if all(isinstance(node, Op) and not node.kind.parameters(node.input) for node in nodes):
                when = self.condition({at: bool(lists[at]) for at in lists}, hints)
                assert when is not None
                start = Flow(flow.term, {at: flow.numbers[at] for at in some})
                inside, after = self.items({at: lists[at] for at in some}, inner, start, [])
                return [Run(call.block, inside, when)], self.flow(
                    {**flow.numbers, **after.numbers}, [after.term, flow.term]
                )
        return self.items(lists, inner, flow, hints)

    def macro(
        self, calls: Sequence[Call], column: Mapping[int, Series], env: Mapping[str, Term], flow: Flow
    ) -> dict[str, Term]:
        """The names of a macro's definition in the names of this class."""
        inner: dict[str, Term] = {}
        definition = self.kinds.network.definitions.get(calls[0].block)
        place = dict(zip(column, calls, strict=True))
        for name in calls[0].arguments:
            values = {at: call.arguments[name] for at, call in place.items() if name in call.arguments}
            hint = self.translated(calls[0].hints[name], env, flow.term) if name in calls[0].hints else None
            if hint is not None and all(_is(hint, self.scopes[at], value) for at, value in values.items()):
                inner[name] = hint
            elif len({literal(value) if not isinstance(value, dict) else "" for value in values.values()}) == 1:
                inner[name] = constant(values[next(iter(values))])
            else:
                default = definition.parameters.get(name) if definition else None
                own = self.translated(default, inner, flow.term) if isinstance(default, str) else None
                inner[name] = own or named(f"?{name}")
        for name, raw in (definition.lets if definition else {}).items():
            inner[name] = self.translated(raw, inner, flow.term) or named(f"?{name}")
        return inner

    def scope(
        self, column: Mapping[int, Series], when: Text | None, env: Mapping[str, Term], flow: Flow
    ) -> tuple[list[Item], Flow]:
        """A named part: an instance of a class, a row of copies, or a list of modules."""
        sample = next(iter(column.values()))
        if any(node.name != sample.name for node in column.values()):
            raise Misfit
        # Copies side by side may differ in one instance alone, by their survival: there they are no bundle.
        if len({(self.kinds.is_class(node), self.kinds.is_bundle(node)) for node in column.values()}) > 1:
            raise Misfit
        assert sample.name is not None
        item: Item
        if self.kinds.is_class(sample):
            item, guess = self.use(column, when, env, flow)
            guesses = [guess]
        elif self.kinds.is_bundle(sample):
            item, guess = self.copies(column, when, env, flow)
            guesses = [guess]
        elif is_row(sample) and (row := self.row(column, when, env, flow)) is not None:
            item, guesses = row
        else:
            call = sample.call
            inner = self.macro([node.call for node in column.values() if node.call], column, env, flow) if call else env
            start = Flow(flow.term, {at: flow.numbers[at] for at in column})
            items, after = self.items({at: node.children for at, node in column.items()}, inner, start, [])
            item, guesses = Group(sample.name, items, when), [after.term]
        numbers = {**flow.numbers, **{at: node.output[0] for at, node in column.items()}}
        return [item], self.flow(numbers, [*guesses, flow.term])

    def use(
        self, column: Mapping[int, Series], when: Text | None, env: Mapping[str, Term], flow: Flow
    ) -> tuple[Use, Term]:
        """An instance of another class, and its output channels."""
        mades = {id(self.kinds.made[id(node)]): self.kinds.made[id(node)] for node in column.values()}
        if len(mades) > 1:
            raise Misfit
        (made,) = mades.values()
        sample = next(iter(column.values()))
        terms: dict[str, Term] = {}
        for argument in made.text.arguments:
            values = {at: made.values[id(node)][argument.name] for at, node in column.items()}
            terms[argument.name] = self.argument(argument, values, sample, env, flow)
        shown = self.shown(made.text.arguments, terms, column)
        self.text.taps |= made.text.taps
        assert sample.name is not None
        return Use(sample.name, made.text, shown, when), substitute(made.out, terms)

    def argument(
        self, argument: Argument, values: Mapping[int, Value], sample: Series, env: Mapping[str, Term], flow: Flow
    ) -> Term:
        """What an instance of another class, or a stage, is given for one argument."""
        hints: list[Term | None] = []
        if argument.name == IN:
            hints.append(flow.term)
        elif sample.call is not None:
            named_so = (raw for name, raw in sample.call.hints.items() if self.kinds.python_name(name) == argument.name)
            hints += [self.translated(raw, env, flow.term) for raw in named_so]
        else:
            hints += [term for name, term in env.items() if self.kinds.python_name(name) == argument.name]
        return self.spell(
            values, hints, argument.name if argument.name not in self.scopes[0] else f"inner_{argument.name}"
        )

    def shown(self, arguments: Sequence[Argument], terms: Mapping[str, Term], at: Iterable[int]) -> dict[str, Text]:
        """The arguments at a call, without those at their default."""
        at = list(at)
        shown = {argument.name: self.written(terms[argument.name], at) for argument in arguments}
        return {a.name: shown[a.name] for a in arguments if a.default is None or shown[a.name] != a.default}

    def row(
        self, column: Mapping[int, Series], when: Text | None, env: Mapping[str, Term], flow: Flow
    ) -> tuple[Row, list[Term]] | None:
        """A row of copies, by stages; None where there are none for it."""
        parts: list[Repeated | Use] = []
        pieces = {at: segments(node, self.kinds) for at, node in column.items()}
        patterns = {tuple((id(made), len(nodes) > 1) for made, nodes in listed) for listed in pieces.values()}
        if len({len(listed) for listed in pieces.values()}) > 1:
            raise Misfit
        here = Flow(flow.term, {at: flow.numbers[at] for at in column})
        count = len(next(iter(pieces.values())))
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
                use, out = self.use(firsts, None, env, here)
                parts.append(use)
            else:
                terms = {}
                for argument in stage.text.arguments:
                    values = {at: stage.values[id(node)][argument.name] for at, node in firsts.items()}
                    terms[argument.name] = self.argument(argument, values, next(iter(firsts.values())), env, here)
                parts.append(Repeated(stage.text, self.shown(stage.text.arguments, terms, column)))
                out = substitute(stage.out, terms)
            ends = {at: listed[number][1][-1].output[0] for at, listed in pieces.items()}
            here = self.flow(ends, [out])
        sample = next(iter(column.values()))
        assert sample.name is not None
        named_by_place = all(
            getattr(child, "name", None) == str(at)
            for node in column.values()
            for at, child in enumerate(node.children)
        )
        digits = any(
            child.name.isdigit()
            for node in column.values()
            for child in node.children
            if isinstance(child, Series) and child.name
        )
        if digits and not named_by_place:
            return None
        return Row(sample.name, parts, when), [here.term]

    def copies(
        self, column: Mapping[int, Series], when: Text | None, env: Mapping[str, Term], flow: Flow
    ) -> tuple[Copies, Term]:
        """Copies side by side, and their output channels."""
        listed = {at: bundled(node) for at, node in column.items()}
        merges = {(m.merge, m.split) for node in column.values() for m in node.children if isinstance(m, Parallel)}
        if len(merges) > 1 or when is not None:
            raise Misfit
        ((merge, split),) = merges
        sample = next(iter(column.values()))
        assert sample.name is not None
        hints = [
            self.translated(merge.hints["copies"], env, flow.term)
            for node in _first(column)
            for merge in node.children
            if isinstance(merge, Parallel) and "copies" in merge.hints
        ]
        count = self.spell({at: len(copies) for at, copies in listed.items()}, hints, self.new(sample, "count"))
        text = self.written(count, column)
        if split:
            flow = self.shared(flow, count, {at: len(copies) for at, copies in listed.items()})
        use, out = self.use({at: copies[0] for at, copies in listed.items()}, None, env, flow)
        item = Copies(sample.name, use, text, merge, split)
        if merge == "add":
            return item, out
        parts = out.head == "/" and self.written(out.operands[1], column) == text
        return item, out.operands[0] if parts else operation("*", count, out)

    def join(self, column: Mapping[int, Parallel], env: Mapping[str, Term], flow: Flow) -> tuple[list[Item], Flow]:
        """A merge."""
        sample = next(iter(column.values()))
        key = _join_key(sample)
        if any(_join_key(node) != key for node in column.values()):
            raise Misfit
        branches: list[list[Item]] = []
        outs: list[Term] = []
        numbers = {at: node.output[0] for at, node in column.items()}
        if sample.split:
            count = len(sample.branches)
            flow = self.shared(flow, constant(count), dict.fromkeys(column, count))
        for number in range(len(sample.branches)):
            lists = {at: node.branches[number].children for at, node in column.items()}
            names = env if not outs else {**env, "out_channels": outs[0]}
            items, out = self.items(lists, names, Flow(flow.term, dict(flow.numbers)), [])
            branches.append(items)
            outs.append(out.term)
        survival = None
        if sample.survival is not None:
            values = {at: node.survival.probability for at, node in column.items() if node.survival}
            survival = self.written(self.spell(values, (), "survival"), column)
        if sample.merge == "concat":
            total = outs[0]
            for more in outs[1:]:
                total = operation("+", total, more)
            guesses = [total]
        else:
            guesses = outs
        return [Join(sample.name, sample.merge, branches, sample, survival)], self.flow(numbers, guesses)

    def tap(self, column: Mapping[int, Side], env: Mapping[str, Term], flow: Flow) -> tuple[list[Item], Flow]:
        """A side branch."""
        sample = next(iter(column.values()))
        if any((node.mode, node.output_name) != (sample.mode, sample.output_name) for node in column.values()):
            raise Misfit
        items, _ = self.items({at: node.child.children for at, node in column.items()}, env, flow, [])
        self.text.taps |= sample.mode != "never" and sample.output_name is not None
        return [Tap(items, sample.output_name, sample.mode)], flow


# --- alignment --------------------------------------------------------------------------------------------------------


def aligned(lists: Mapping[int, Sequence[Node]]) -> Iterator[dict[int, Node]]:
    """Corresponding nodes of several lists: those of one definition step. Raises Misfit where orders contradict."""
    keyed = {at: _keys(nodes) for at, nodes in lists.items()}
    order: list[Any] = []
    for keys in dict.fromkeys(tuple(keys) for keys in keyed.values()):
        at = 0
        for key in keys:
            if key in order:
                found = order.index(key)
                if found < at:
                    raise Misfit
                at = found + 1
            else:
                order.insert(at, key)
                at += 1
    if any([key for key in order if key in keys] != list(keys) for keys in keyed.values()):
        raise Misfit
    for key in order:
        yield {at: keys[key] for at, keys in keyed.items() if key in keys}


def _keys(nodes: Sequence[Node]) -> dict[Any, Node]:
    """Nodes by what identifies them among their neighbours: the step they came from, and how often it gave one."""
    keyed: dict[Any, Node] = {}
    for node in nodes:
        again = 0
        step = node.origin or (type(node).__name__, getattr(node, "name", None))
        while (step, again) in keyed:
            again += 1
        keyed[step, again] = node
    return keyed


# --- small things -----------------------------------------------------------------------------------------------------


def python_type(values: Sequence[Value]) -> str:
    """The type of an argument that takes these values."""
    types = {type(value) for value in values}
    if types <= {list, tuple}:
        inner = python_type([item for value in values for item in value] or [0])
        return f"tuple[{inner}, {inner}]" if {len(value) for value in values} == {2} else f"tuple[{inner}, ...]"
    if types == {int, float}:
        return "float"
    if len(types) == 1:
        return types.pop().__name__
    return " | ".join(sorted({python_type([value]) for value in values}))


def _has_value(term: Term, scope: Mapping[str, Value]) -> bool:
    """Whether the language itself allows an expression: Python knows the length of a word too."""
    try:
        evaluate(term, scope)
    except ExpressionError:
        return False
    return True


def _is(term: Term, scope: Mapping[str, Value], value: Value) -> bool:
    try:
        found = evaluate(term, scope)
    except ExpressionError:
        return False
    return type(found) is type(value) and bool(found == value)


def _first(column: Mapping[int, Any]) -> list[Any]:
    """A node to take hints from: copies of one step have the same."""
    return [next(iter(column.values()))]


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
