"""Class plan -> the statements of forward: a value is threaded through the items, in variables where it must be.

A variable is taken while a statement or the value at hand still needs it. `Body.passing` are those that the value at hand
alone mentions: once it is in a variable itself, they are free.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from rescompile.codegen.class_plan import Class, Copies, Group, Item, Join, Layer, Row, Run, Tap, Use, gives_output
from rescompile.codegen.constructor import Names
from rescompile.codegen.dialect import Dialect
from rescompile.codegen.program import (
    Add,
    Apply,
    Beside,
    Call,
    Expr,
    Let,
    Merged,
    Method,
    Output,
    Part,
    Parts,
    Recomputed,
    Return,
    Scaled,
    Statement,
    Sum,
    Survives,
    Thinned,
    Training,
    Unpack,
    Var,
    mentions,
)
from rescompile.ir import ops
from rescompile.ir.network import LOGITS

#: Variables in the order in which they are taken; `x` is what a body is given.
LOCALS = ("y", "z", "u", "v", "w")


@dataclass(frozen=True)
class Value:
    """The value at some point, and whether it may be overwritten: nothing else holds it, and no backward needs it."""

    expr: Expr
    fresh: bool = False

    @property
    def is_variable(self) -> bool:
        """Whether the value is in a variable already."""
        return isinstance(self.expr, Var)


@dataclass
class Body:
    """Statements, and the variables that are taken. A branch has the same statements and variables of its own."""

    statements: list[Statement] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)  # variables in the statements so far
    busy: set[str] = field(default_factory=lambda: {"x"})
    passing: set[str] = field(default_factory=set)
    again: bool = False  # computed again for backward as a whole

    def add(self, statement: Statement) -> None:
        """Add a statement."""
        self.statements.append(statement)
        self.seen |= mentions(statement)

    def keep(self, value: Value, name: str) -> Value:
        """The value in a variable; what only it mentioned is free."""
        if value.expr != Var(name):
            self.add(Let(name, value.expr))
            free = self.passing & mentions(value.expr)
            self.passing -= free
            self.busy -= free
        return Value(Var(name), value.fresh)

    def variable(self) -> str:
        """A variable that holds nothing, taken from now on."""
        more = (f"y{number}" for number in itertools.count(len(self.busy)))
        name = next(name for name in itertools.chain(LOCALS, more) if name not in self.busy)
        self.busy.add(name)
        return name

    def branch(self) -> Body:
        """The same statements; variables that the branch takes are free after it."""
        return replace(self, busy=set(self.busy), passing=set(self.passing))


class Forward:
    """Lowers the body of one class."""

    def __init__(self, of: Class, names: Names, dialect: Dialect, checkpoint: bool, is_root: bool) -> None:
        self.names, self.dialect, self.checkpoint = names, dialect, checkpoint
        self.methods: list[Method] = []
        self.splits = 0  # values that were taken apart
        body = Body()
        value = self.run(body, of.items, Value(Var("x")), "x")
        last = body.statements[-1] if body.statements else None
        if of.taps and is_root:
            body.add(Output(LOGITS, value.expr))
            body.add(Return(None))
        elif isinstance(last, Let) and Var(last.target) == value.expr and dialect.is_tensor(last.value):
            body.statements[-1] = Return(last.value)
        else:
            self.give(body, value)
        self.statements = tuple(body.statements)

    def run(self, body: Body, items: Sequence[Item], value: Value, own: str) -> Value:
        """Thread a value through items; `own` is the variable that may be set on the way."""
        left = list(reversed(items))
        while left:
            item = left.pop()
            match item:
                case Layer():
                    value = self.layer(body, item, value, own)
                case Group() | Row() | Use() | Run():
                    value = self.part(body, item, value, own)
                case Copies():
                    value = self.copies(body, item, value, own)
                case Join():
                    # What follows a residual that may be dropped is there once for each case.
                    follows = left.pop() if _skips(item) and left and self.is_function(left[-1]) else None
                    value = self.join(body, item, value, own, follows if isinstance(follows, Layer) else None)
                case Tap():
                    value = self.tap(body, item, value, own)
        return value

    def is_function(self, item: Item) -> bool:
        """Whether an item is an activation that a function does."""
        return isinstance(item, Layer) and item.kind is ops.Act and self.dialect.applies(item)

    def layer(self, body: Body, layer: Layer, value: Value, own: str) -> Value:
        """One op."""
        if layer.kind is ops.Identity:
            return value
        if not self.dialect.applies(layer):
            fresh = self.dialect.is_fresh(layer.kind) and layer.when is None
            return self.short(body, Value(Call(layer.name, value.expr), fresh), own)
        new = Value(Apply(layer, value.expr, value.fresh))
        return body.keep(new, own) if layer.kind is ops.Act else self.short(body, new, own)

    def short(self, body: Body, value: Value, own: str) -> Value:
        """The value, in a variable where its expression has become long."""
        return body.keep(value, own) if len(self.dialect.expression(value.expr)) > self.dialect.longest else value

    def part(self, body: Body, item: Group | Row | Use | Run, value: Value, own: str) -> Value:
        """A named part."""
        last = item.items[-1] if isinstance(item, Group) and item.items and item.when is None else None
        fresh = isinstance(last, Layer) and self.dialect.is_fresh(last.kind) and last.when is None
        outputs = isinstance(item, Use) and item.of.taps
        return self.short(body, Value(Call(self.names.of(item), value.expr, outputs), fresh), own)

    def copies(self, body: Body, copies: Copies, value: Value, own: str) -> Value:
        """Copies side by side on one value or its parts."""
        given = self.in_variable(body, value, own)
        # A variable of the loop in which copies are called may not be one of a comprehension too: TorchScript unrolls both.
        parts = self.parts(body, given, copies.name) if copies.split else None
        if copies.merge == "concat":
            return Value(Beside(copies.name, parts or given, copies.split), fresh=True)
        total = body.variable()
        body.add(Sum(total, copies.name, given, parts))
        return Value(Var(total), fresh=True)

    def in_variable(self, body: Body, value: Value, own: str) -> Var:
        """The variable of a value, which is set if there is none."""
        expr = value.expr if value.is_variable else body.keep(value, own).expr
        assert isinstance(expr, Var)
        return expr

    def parts(self, body: Body, value: Expr, count: int | str) -> Var:
        """A variable with the equal parts of a value's channels. It is none of the others, which hold one tensor each:
        TorchScript and type checkers let a variable keep its type only."""
        self.splits += 1
        name = f"parts{self.splits}" if self.splits > 1 else "parts"
        body.add(Parts(name, value, count))
        return Var(name)

    def join(self, body: Body, join: Join, value: Value, own: str, act: Layer | None) -> Value:
        """A merge, and the activation after it where both are written together."""
        source = self.in_variable(body, value, own)
        inner = body.branch()
        inner.busy.add(source.name)
        inner.passing.discard(source.name)
        if join.survival is None:
            result = self.merged(inner, join, source)
        elif join.sample.survival and join.sample.survival.unit == "sample":
            result = self.thinned(inner, join, source, own)
        else:
            result = self.skipped(inner, join, source, own, act)
        # What the result mentions is still needed, all else is free again.
        needed = mentions(result.expr) & inner.busy
        body.passing |= needed - body.busy  # in place, as a branch that may be dropped shares them
        body.passing.discard(own)
        body.busy |= needed
        return result

    def merged(self, body: Body, join: Join, source: Var) -> Value:
        """A merge of branches on a variable."""
        results: list[Value] = []
        count = len(join.branches)
        # A part of one is the value itself.
        own_locals = [body.variable() for _ in range(count)] if join.sample.split and count > 1 else []
        given: list[Expr] = [source] * count
        if own_locals and count <= len(LOCALS):
            body.add(Unpack(tuple(own_locals), source))
            given = [Var(name) for name in own_locals]
        elif own_locals:
            listed = self.parts(body, source, count)
            given = [Part(listed, at) for at in range(count)]
        again = self.new_branch(join) if self.checkpoint and not body.again else None
        for at, items in enumerate(join.branches):
            local = own_locals[at] if own_locals else body.variable()
            if at == again and not gives_output(items):
                result = self.recomputed(body, join, items, given[at])
            else:
                result = self.run(body, items, Value(given[at]), local)
            infix = isinstance(result.expr, Merged) and result.expr.how != "concat"
            if infix or (at == 0 and join.merge == "add" and result.fresh):
                result = body.keep(result, local)
            results.append(result)
            if local not in body.seen and not any(local in mentions(result.expr) for result in results):
                body.busy.discard(local)
        if join.merge == "gate" and not results[2].is_variable:  # which is mentioned twice
            results[2] = body.keep(results[2], body.variable())
        if count == 1 and join.merge in ("add", "mul"):  # of one value, that is it
            return results[0]
        exprs = tuple(result.expr for result in results)
        first = exprs[0]
        if join.merge == "add" and isinstance(first, Var) and results[0].fresh and first != source:
            for expr in exprs[1:]:
                body.add(Add(first.name, expr))
            return Value(first, fresh=True)
        return Value(Merged(join.merge, exprs), fresh=join.merge != "mul")

    def thinned(self, body: Body, join: Join, source: Var, own: str) -> Value:
        """A residual of which each sample may be dropped in training."""
        kept = self.names.of(join)
        local = body.variable()
        branch = self.named(body, join.branches[0], source, local)
        body.add(Thinned(branch.name, kept, _rescale(join)))
        others = [self.named(body, items, source, body.variable(), own) for items in join.branches[1:]]
        return Value(Merged(join.merge, (branch, *others)), fresh=True)

    def skipped(self, body: Body, join: Join, source: Var, own: str, act: Layer | None) -> Value:
        """A residual that may be dropped in training: then its branch is not computed at all."""
        kept = self.names.of(join)
        local = body.variable()
        waiting = [body.variable() for _ in join.branches[1:]]  # which the branch must not overwrite
        inner = replace(body, statements=[], seen=set())
        result = inner.keep(self.run(inner, join.branches[0], Value(source), local), local)
        assert isinstance(result.expr, Var)
        branch = result.expr
        # `busy` and `passing` are the same sets there and here.
        others = [
            self.named(body, items, source, name, own) for items, name in zip(join.branches[1:], waiting, strict=True)
        ]
        inner.add(Scaled(branch.name, kept, _rescale(join)))
        total = Value(Merged(join.merge, (branch, *others)), fresh=True)
        if join.merge == "add" and result.fresh:  # nothing else holds the branch
            inner.add(Add(branch.name, others[0]))
            total = Value(branch, fresh=True)
        inner.add(Let(own, _acted(act, total)))
        dropped = Value(others[-1]) if join.merge == "add" else Value(Merged("carry", tuple(others)), fresh=True)
        left = Let(own, _acted(act, dropped))
        body.add(Survives(kept, tuple(inner.statements), (left,) if left.value != Var(own) else ()))
        return Value(Var(own))

    def named(self, body: Body, items: Sequence[Item], source: Var, local: str, own: str | None = None) -> Var:
        """What items make of a variable, in a variable: `own` if it stands there already, else the local."""
        value = self.run(body, items, Value(source), local)
        expr = value.expr if own is not None and value.expr == Var(own) else body.keep(value, local).expr
        assert isinstance(expr, Var)
        return expr

    def new_branch(self, join: Join) -> int | None:
        """The branch that holds what a residual or a concatenation adds; the other one is the old value."""
        if join.sample.residual:
            return 0
        owners = [at for at, items in enumerate(join.branches) if items and not _is_identity(items)]
        return owners[0] if len(join.branches) == 2 and len(owners) == 1 else None

    def recomputed(self, body: Body, join: Join, items: Sequence[Item], source: Expr) -> Value:
        """A branch whose inside is not kept for backward, but computed again."""
        name = "new_features" if join.merge == "concat" else "residual"
        while name in self.names.taken or any(method.name == name for method in self.methods):
            name += "_"
        inner = Body(again=True)
        self.give(inner, self.run(inner, items, Value(Var("x")), "x"))
        self.methods.append(Method(name, tuple(inner.statements)))
        target = body.variable()
        body.add(Recomputed(target, name, source))
        return Value(Var(target))

    def give(self, body: Body, value: Value) -> None:
        """Return a value. What a module gives is Any to a type checker; `x` is known to be a tensor."""
        if not self.dialect.is_tensor(value.expr) and value.expr != Var("x"):
            body.add(Let("x", value.expr))
            value = Value(Var("x"))
        body.add(Return(value.expr))

    def tap(self, body: Body, tap: Tap, value: Value, own: str) -> Value:
        """A side branch: an output of its own, or parameters that nothing computes with."""
        if tap.mode == "never" or tap.output is None:
            return value
        given = self.in_variable(body, value, own)
        inner = body.branch()
        if tap.mode == "training":
            inner.statements = []
        inner.add(Output(tap.output, self.run(inner, tap.items, Value(given), inner.variable()).expr))
        if tap.mode == "training":
            body.add(Training(tuple(inner.statements)))
        return Value(given)


def _acted(act: Layer | None, value: Value) -> Expr:
    """A value after an activation, if there is one."""
    return Apply(act, value.expr, value.fresh) if act is not None else value.expr


def _rescale(join: Join) -> Literal["train", "test"]:
    """When a branch that may be dropped is scaled."""
    assert join.sample.survival is not None
    return join.sample.survival.rescale


def _is_identity(items: Sequence[Item]) -> bool:
    return all(isinstance(item, Layer) and item.kind is ops.Identity for item in items)


def _skips(item: Item) -> bool:
    """Whether a merge may leave its branch out."""
    return isinstance(item, Join) and item.sample.survival is not None and item.sample.survival.unit == "batch"
