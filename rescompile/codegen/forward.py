"""Class plan -> the statements of forward: a value passes through the items, in variables where necessary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rescompile.codegen.bodies import LOCALS, Body, Value
from rescompile.codegen.class_plan import (
    Class,
    Copies,
    Either,
    Group,
    Item,
    Join,
    Keeping,
    Layer,
    NumberedCopies,
    Recalling,
    Rerun,
    Row,
    Run,
    Tap,
    Use,
    gives_output,
    keeps_values,
)
from rescompile.codegen.constructor import Names, is_fresh
from rescompile.codegen.dialect import Dialect
from rescompile.codegen.program import Method, mentions
from rescompile.codegen.statements import (
    Add,
    Apply,
    Beside,
    Call,
    Collection,
    Element,
    Expr,
    Let,
    Merged,
    OnlyIf,
    Output,
    Parts,
    Recomputed,
    Return,
    Scaled,
    Store,
    Stored,
    Sum,
    Survives,
    Thinned,
    Through,
    Training,
    Unpack,
    Var,
)
from rescompile.codegen.value_variables import ValueVariables
from rescompile.ir import ops
from rescompile.ir.network import LOGITS, Survival


class Forward:
    """Lowering of the body of one class."""

    def __init__(self, of: Class, names: Names, dialect: Dialect, checkpoint: bool, is_root: bool) -> None:
        self.names, self.dialect, self.checkpoint = names, dialect, checkpoint
        self.methods: list[Method] = []
        self.splits = 0  # unpacked values
        self.values = ValueVariables(of, names)
        body = self.body()
        for name in self.values.owned:
            body.add(Collection(name))
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
        """Thread a value through items; `own` is the variable that they may assign."""
        left = list(reversed(items))
        while left:
            item = left.pop()
            match item:
                case Layer():
                    target = self.values.next_variable(left) or own
                    value = self.layer(body, item, value, target, left[-1] if left else None)
                case Group() | Row() | Use() | Run() | Either():
                    value = self.part(body, item, value, own)
                case Copies() | NumberedCopies():
                    value = self.copies(body, item, value, own)
                case Join():
                    # The activation after a residual that may be dropped is written in both cases.
                    follows = left.pop() if self.skips(item) and left and self.is_function(left[-1]) else None
                    value = self.join(body, item, value, own, follows if isinstance(follows, Layer) else None)
                case Tap():
                    value = self.tap(body, item, value, own)
                case Rerun():
                    value = self.run(body, item.items, value, self.values.next_variable(left) or own)
                case Keeping():
                    value = self.kept(body, item, value, own)
                case Recalling():
                    value = self.recalled(body, item, value, own)
        return value

    def body(self, again: bool = False) -> Body:
        """Return an empty body, in which the names of kept values are taken."""
        return Body(busy={"x", *self.values.taken}, again=again)

    def kept(self, body: Body, item: Keeping, value: Value, own: str) -> Value:
        """Lower the naming of a value, which may not be overwritten afterwards."""
        target = self.values.place(item)
        if isinstance(target, Element):
            named = self.in_variable(body, value, own)
            body.add(Store(target, named))
            return Value(named)
        self.values.now[item.values, item.index_text] = target
        return body.keep(Value(value.expr), target.name)

    def recalled(self, body: Body, item: Recalling, value: Value, own: str) -> Value:
        """Lower a kept value that replaces the current one, which is still computed."""
        if not value.is_variable:
            body.keep(value, own)
        found = self.values.read(item)
        return body.keep(Value(found), own) if isinstance(found, Element) else Value(found)

    def is_function(self, item: Item) -> bool:
        """Return whether an item is an activation that is applied as a function."""
        return isinstance(item, Layer) and item.kind is ops.Act and self.dialect.applies(item)

    def skips(self, join: Join) -> bool:
        """Return whether a merge may skip its branch."""
        survival = join.sample.survival
        return survival is not None and survival.unit == "batch" and not self.dialect.masks

    def layer(self, body: Body, layer: Layer, value: Value, own: str, following: Item | None) -> Value:
        """Lower one op; a following op may be part of the same call."""
        if layer.kind is ops.Identity:
            return value
        if not self.dialect.applies(layer):
            return self.short(body, Value(Call(layer.name, value.expr), is_fresh(layer, self.dialect)), own)
        new = Value(Apply(layer, value.expr, value.fresh))
        if isinstance(following, Layer) and (layer.kind, following.kind) in self.dialect.pairs:
            return new
        return body.keep(new, own) if layer.kind is ops.Act else self.short(body, new, own)

    def short(self, body: Body, value: Value, own: str) -> Value:
        """Assign the value if its expression is long."""
        return body.keep(value, own) if len(self.dialect.expression(value.expr)) > self.dialect.longest else value

    def part(self, body: Body, item: Group | Row | Use | Run | Either, value: Value, own: str) -> Value:
        """Lower the call of a named part."""
        name = self.names.of(item)
        if isinstance(item, Row) and item.values:
            variable = body.assign(value, own)
            body.add(Through(own, name, tuple(Var(values.name) for values in item.values)))
            return Value(variable)
        if isinstance(item, Use):
            kept = tuple(self.values.passed(*pair) for pair in zip(item.of.values, item.values, strict=True))
            called = Value(Call(name, value.expr, item.of.taps, kept))
            # Called at once if it keeps values: they are known from here on.
            return body.keep(called, own) if kept else self.short(body, called, own)
        made = (item.then, item.otherwise) if isinstance(item, Either) else (item,)
        last = [each.items[-1] if isinstance(each, Group) and each.items else each for each in made]
        fresh = (isinstance(item, Either) or item.when is None) and all(is_fresh(each, self.dialect) for each in last)
        return self.short(body, Value(Call(name, value.expr), fresh), own)

    def copies(self, body: Body, copies: Copies | NumberedCopies, value: Value, own: str) -> Value:
        """Lower parallel copies on one value or its parts."""
        given = self.in_variable(body, value, own)
        name = Stored(self.names.of(copies)) if isinstance(copies, NumberedCopies) else copies.name
        # Loops and comprehensions over copies use different variables, because TorchScript unrolls both.
        parts = self.parts(body, given, name) if copies.split else None
        if copies.merge == "concat":
            beside = Value(Beside(name, parts or given, copies.split), fresh=True)
            return body.keep(beside, own) if isinstance(name, Stored) else beside
        total = body.variable()
        body.add(Sum(total, name, given, parts))
        return Value(Var(total), fresh=True)

    def in_variable(self, body: Body, value: Value, own: str) -> Var:
        """Return the variable of a value, assigned if the value is not one."""
        return value.expr if isinstance(value.expr, Var) else body.assign(value, own)

    def parts(self, body: Body, value: Expr, count: int | str | Stored, sizes: tuple[int | str, ...] = ()) -> Var:
        """Return a variable with the list of parts of a value's channels. It has a separate name, because TorchScript
        and type checkers give a variable one type."""
        self.splits += 1
        name = f"parts{self.splits}" if self.splits > 1 else "parts"
        body.add(Parts(name, value, count, sizes))
        return Var(name)

    def join(self, body: Body, join: Join, value: Value, own: str, act: Layer | None) -> Value:
        """Lower a merge, and the activation after it if that is part of it."""
        source = self.in_variable(body, value, own)
        inner = body.branch()
        inner.busy.add(source.name)
        inner.passing.discard(source.name)
        if join.when is not None:
            result = self.optional(inner, join, source)
        elif join.survival is None:
            result = self.merged(inner, join, source)
        elif self.skips(join):
            result = self.skipped(inner, join, source, own, act)
        else:
            result = self.thinned(inner, join, source, own)
        # The variables that the result reads are still needed; all others of the branch are free.
        needed = mentions(result.expr) & inner.busy
        body.passing |= needed - body.busy  # in place, because the body of `Survives` shares these sets
        body.passing.discard(own)
        body.busy |= needed
        return result

    def merged(self, body: Body, join: Join, source: Var) -> Value:
        """Lower a merge of branches that are always computed."""
        results: list[Value] = []
        count = len(join.branches)
        # A split into one part is the value itself.
        own_locals = [body.variable() for _ in range(count)] if join.sample.split and count > 1 else []
        given: list[Expr] = [source] * count
        sizes = self.names.sizes[id(join)]
        if own_locals and count <= len(LOCALS):
            body.add(Unpack(tuple(own_locals), source, sizes))
            given = [Var(name) for name in own_locals]
        elif own_locals:
            listed = self.parts(body, source, count, sizes)
            given = [Element(listed, at) for at in range(count)]
        again = self.new_branch(join) if self.checkpoint and not body.again else None
        for at, items in enumerate(join.branches):
            local = own_locals[at] if own_locals else body.variable()
            if at == again and not gives_output(items) and not keeps_values(items):
                result = self.recomputed(body, join, items, given[at])
            else:
                result = self.run(body, items, Value(given[at]), local)
            infix = isinstance(result.expr, Merged) and not result.expr.is_call
            if infix or (at == 0 and join.merge == "add" and result.fresh):
                result = body.keep(result, local)
            results.append(result)
            if local not in mentions(result.expr):
                body.busy.discard(local)
        if join.merge == "gate" and not results[2].is_variable:  # a gate reads it twice
            results[2] = body.keep(results[2], body.variable())
        if count == 1 and join.merge in ("add", "mul", "mean", "shake"):  # of one value, which does not become fresh
            return results[0]
        exprs = tuple(result.expr for result in results)
        first = exprs[0]
        if join.merge == "add" and isinstance(first, Var) and results[0].fresh and first != source:
            for expr in exprs[1:]:
                body.add(Add(first.name, expr))
            return Value(first, fresh=True)
        return Value(Merged(join.merge, exprs, join.sample.unit, self.names.merger(join)), fresh=join.merge != "mul")

    def optional(self, body: Body, join: Join, source: Var) -> Value:
        """Lower a residual whose shortcut some instances lack."""
        local = body.variable()
        branch = body.keep(self.run(body, join.branches[0], Value(source), local), local)
        inner = replace(body, statements=[])
        shortcut = self.run(inner, join.branches[1], Value(source), body.variable())
        if branch.fresh:
            inner.add(Add(local, shortcut.expr))
        else:
            inner.add(Let(local, Merged("add", (branch.expr, shortcut.expr))))
        body.add(OnlyIf(self.names.of(join), tuple(inner.statements)))
        return branch

    def thinned(self, body: Body, join: Join, source: Var, own: str) -> Value:
        """Lower a residual whose branch is always computed, and set to zero in training if it is dropped."""
        kept, survival = self.names.of(join), _survival(join)
        local = body.variable()
        branch = self.named(body, join.branches[0], source, local)
        body.add(Thinned(branch.name, kept, survival.rescale, survival.unit))
        others = [self.named(body, items, source, body.variable(), own) for items in join.branches[1:]]
        return Value(Merged(join.merge, (branch, *others)), fresh=True)

    def skipped(self, body: Body, join: Join, source: Var, own: str, act: Layer | None) -> Value:
        """Lower a residual whose branch is skipped in training if it is dropped."""
        kept = self.names.of(join)
        local = body.variable()
        waiting = [body.variable() for _ in join.branches[1:]]  # the branch must not overwrite them
        inner = replace(body, statements=[])
        result = self.run(inner, join.branches[0], Value(source), local)
        branch = inner.assign(result, local)
        # `inner` shares the sets `busy` and `passing`.
        others = [
            self.named(body, items, source, name, own) for items, name in zip(join.branches[1:], waiting, strict=True)
        ]
        inner.add(Scaled(branch.name, kept, _survival(join).rescale))
        total = Value(Merged(join.merge, (branch, *others)), fresh=True)
        if join.merge == "add" and result.fresh:  # nothing else refers to the branch
            inner.add(Add(branch.name, others[0]))
            total = Value(branch, fresh=True)
        inner.add(Let(own, _acted(act, total)))
        dropped = Value(others[-1]) if join.merge == "add" else Value(Merged("carry", tuple(others)), fresh=True)
        left = Let(own, _acted(act, dropped))
        body.add(Survives(kept, tuple(inner.statements), (left,) if left.value != Var(own) else ()))
        return Value(Var(own))

    def named(self, body: Body, items: Sequence[Item], source: Var, local: str, own: str | None = None) -> Var:
        """Run items on a variable; the result is in `own` if it is already there, else in the local one."""
        value = self.run(body, items, Value(source), local)
        return Var(own) if own is not None and value.expr == Var(own) else body.assign(value, local)

    def new_branch(self, join: Join) -> int | None:
        """Return the branch with the new features of a residual or a concatenation; the other one is the old value."""
        if join.sample.residual:
            return 0
        owners = [at for at, items in enumerate(join.branches) if items and not _is_identity(items)]
        return owners[0] if len(join.branches) == 2 and len(owners) == 1 else None

    def recomputed(self, body: Body, join: Join, items: Sequence[Item], source: Expr) -> Value:
        """Lower a branch to a method whose activations are recomputed in the backward pass."""
        wanted = "new_features" if join.merge == "concat" else "residual"
        name = self.names.free(wanted, *(method.name for method in self.methods))
        inner = self.body(again=True)
        self.give(inner, self.run(inner, items, Value(Var("x")), "x"))
        self.methods.append(Method(name, tuple(inner.statements)))
        target = body.variable()
        body.add(Recomputed(target, name, source))
        return Value(Var(target))

    def give(self, body: Body, value: Value) -> None:
        """Return a value. For a type checker the result of a module is Any, while `x` is a tensor."""
        if not self.dialect.is_tensor(value.expr) and value.expr != Var("x"):
            body.add(Let("x", value.expr))
            value = Value(Var("x"))
        body.add(Return(value.expr))

    def tap(self, body: Body, tap: Tap, value: Value, own: str) -> Value:
        """Lower a side branch: an output, or parameters that forward does not use."""
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
    """Return the value after the activation, if there is one."""
    return Apply(act, value.expr, value.fresh) if act is not None else value.expr


def _survival(join: Join) -> Survival:
    """Return the survival of a residual that training may drop."""
    assert join.sample.survival is not None
    return join.sample.survival


def _is_identity(items: Sequence[Item]) -> bool:
    return all(isinstance(item, Layer) and item.kind is ops.Identity for item in items)
