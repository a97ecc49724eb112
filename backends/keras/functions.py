"""Program of classes -> functions: a function builds each layer where forward would call a module, and calls it.

The arguments and variables of a class have separate scopes, those of a function share one: `renamed` separates them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from rescompile.codegen.class_plan import INDEX, Class, Repeated, Stage, Use
from rescompile.codegen.dialect import numbered_name
from rescompile.codegen.entries import (
    Copied,
    Entry,
    Filled,
    Joined,
    Listing,
    Looped,
    MakeDropPath,
    MakeLayer,
    Number,
    Separate,
)
from rescompile.codegen.naming import PYTHON, Allocator, snake
from rescompile.codegen.program import Code, Program, mentions, parts
from rescompile.codegen.statements import (
    Beside,
    Call,
    Element,
    Expr,
    Let,
    Merged,
    OnlyIf,
    Parts,
    Return,
    Statement,
    Stored,
    Sum,
    Thinned,
    Through,
    Training,
    Unpack,
    Var,
)
from rescompile.codegen.terms import constant, operation, python, total
from rescompile.ir import ops
from rescompile.ir.expressions import Term
from rescompile.records import record

from .built import Averaged, Built, BuiltBeside, BuiltCopies, Choice, Concatenated, How, Repeat

#: The variable with the column that all merges keep in a step.
COLUMN = "column"
#: The dict of the layers that run again, by name.
MADE = "made"
#: The types of the variables that functions pass on where the functions inside require them.
_PASSED = {COLUMN: "KerasTensor", MADE: "dict[str, layers.Layer]"}
#: The type of kept values, by whether many are in a dict.
_KEPT = {False: "KerasTensor", True: "dict[int, KerasTensor]"}


@record(slots=False)
class Function:
    """A function that passes a value through the layers of a class, which it builds. `values` contains the names of its
    arguments beside those of the class, each with its type; `stages` repeat the function, and `later` contains the names
    of those that continue the numbers of earlier copies."""

    of: Class
    name: str
    is_root: bool
    values: tuple[tuple[str, str], ...]
    body: tuple[Any, ...]
    stages: tuple[Stage, ...]
    later: Collection[str]

    def receives(self, name: str) -> bool:
        """Return whether a variable is an argument beside those of the class."""
        return name in dict(self.values)


def functions(program: Program, reserved: frozenset[str]) -> list[Function]:
    """Return the functions of a program, without the `reserved` names; each follows those that it uses."""
    names = function_names(program, reserved)
    free = {code.name: free_names(code) for code in program.classes}
    given = {COLUMN: _dropping(program), MADE: _again(program)}
    bodies = {code.name: _Body(code, free[code.name], names, given) for code in program.classes}
    later = {stage for body in bodies.values() for stage in body.later}
    return [
        Function(
            of=code.of,
            name=names[code.name],
            is_root=code.is_root,
            values=(
                *((free[code.name].get(values.name, values.name), _KEPT[values.many]) for values in code.of.values),
                *((name, type) for name, type in _PASSED.items() if code.name in given[name]),
            ),
            body=bodies[code.name].statements,
            stages=tuple(stage for stage in program.plan.stages if stage.of is code.of),
            later=later,
        )
        for code in program.classes
    ]


def _dropping(program: Program) -> set[str]:
    """Return the names of the classes with merges whose branches training drops, in them or inside."""
    found: set[str] = set()
    for code in program.classes:
        for part in parts(code.constructor):
            if isinstance(part, MakeDropPath) or (isinstance(part, Use | Repeated) and _class(part).name in found):
                found.add(code.name)
    return found


def _again(program: Program) -> set[str]:
    """Return the names of the classes whose instances run again, also as parts of others."""
    found: set[str] = set()
    for code in reversed(program.classes):
        again = _run_again(code)
        entries = (entry for entry in code.constructor if code.name in found or entry.name in again)
        found |= {_class(part).name for part in parts(tuple(entries)) if isinstance(part, Use | Repeated)}
    return found


def _run_again(code: Code) -> set[str]:
    """Return the names of the modules of a class that it calls more than once."""
    called: Counter[str] = Counter()
    for part in parts(code.body):
        match part:
            case Call(module) | Through(_, module) | Beside(str(module)) | Sum(_, str(module)):
                called[module] += 1
            case Beside(Stored(module)) | Sum(_, Stored(module)):
                called[module] += 1
    return {name for name, times in called.items() if times > 1}


def _class(made: Use | Repeated) -> Class:
    """Return the class of an instance, or of the copies of a stage."""
    return made.of if isinstance(made, Use) else made.stage.of


def function_names(program: Program, reserved: frozenset[str]) -> dict[str, str]:
    """Return the names of functions by those of the classes; the plan names the function of the network itself."""
    plan = program.plan
    taken = {plan.function, *(stage.name for stage in plan.stages)}
    for code in program.classes:
        taken |= scope(code.of) | {name for statement in code.body for name in mentions(statement)}
    allocate = Allocator(taken, PYTHON | reserved)
    return {of.name: plan.function if of is plan.root else allocate.name(snake(of.name)) for of in plan.classes}


def scope(of: Class) -> set[str]:
    """Return the arguments and constants of a class."""
    return {*(argument.name for argument in of.arguments), *(name for name, _ in of.lets)}


# --- names of variables -----------------------------------------------------------------------------------------------


def renamed(node: Any, names: Mapping[str, str]) -> Any:
    """Return a part of a program with its variables renamed."""
    if isinstance(node, tuple):
        return tuple(renamed(item, names) for item in node)
    if isinstance(node, Var):
        return Var(names.get(node.name, node.name))
    if not isinstance(node, Expr | Statement):
        return node
    values = {field.name: renamed(getattr(node, field.name), names) for field in fields(node)}
    if isinstance(values.get("target"), str):
        values["target"] = names.get(values["target"], values["target"])
    if "targets" in values:
        values["targets"] = tuple(names.get(name, name) for name in values["targets"])
    return type(node)(**values)


def free_names(code: Code) -> dict[str, str]:
    """Return new names for the variables of a class that have the name of one of its arguments."""
    taken = scope(code.of)
    used = set().union(*(mentions(statement) for statement in code.body)) | {values.name for values in code.of.values}
    names = {}
    for name in sorted(used & taken):
        new = f"{name}_"
        while new in taken | used:
            new += "_"
        names[name] = new
        taken.add(new)
    return names


# --- bodies -----------------------------------------------------------------------------------------------------------


class _Body:
    """The statements of one function; numbers that forward would read from attributes are inlined. `free` are new names
    of its variables, `names` the functions by class, `given` the classes whose functions receive a variable."""

    def __init__(
        self, code: Code, free: Mapping[str, str], names: Mapping[str, str], given: Mapping[str, Collection[str]]
    ) -> None:
        self.names, self.given = names, given
        self.later: set[str] = set()  # the names of stages that continue the numbers of earlier copies
        self.numbers = {entry.name: entry.value for entry in code.constructor if isinstance(entry, Number)}
        self.entries = {entry.name: entry for entry in code.constructor if not isinstance(entry, Number)}
        self.again = self.entries.keys() if code.name in given[MADE] else _run_again(code)
        self.prefix = "" if code.is_root else "{name}_"
        body = renamed(code.body, free)
        self.results = "results"  # the variable with the results of the class's own copies
        while self.results in scope(code.of).union(*map(mentions, body)):
            self.results += "_"
        self.statements = tuple(self.run(body))

    def run(self, body: Sequence[Statement]) -> Iterator[Any]:
        """Yield statements with the layers that they require."""
        for statement in body:
            match statement:
                case Let(target, Call() as call):
                    yield from self.called(target, call)
                case Return(Call() as call):
                    steps = list(self.called("x", call))
                    last = steps.pop() if steps and isinstance(steps[-1], Let) else None
                    yield from steps
                    yield Return(last.value if last is not None else Var("x"))
                case Through(target, module, kept):
                    yield from self.made(self.entries[module], target, Var(target), self.how(module, False, kept))
                case Sum(target, copies, value, listed):
                    yield Let(target, value)
                    given = Element(listed, INDEX) if listed else value
                    yield BuiltCopies(target, *self.copies(copies, given), listed=False)
                case Let(value=Beside(Stored() as copies, value, split)) | Return(
                    Beside(Stored() as copies, value, split)
                ):
                    given = Element(value, INDEX) if split else value
                    yield BuiltCopies(self.results, *self.copies(copies, given), listed=True)
                    yield replace(statement, value=Concatenated(self.results))  # type: ignore[arg-type]
                case OnlyIf(attribute, inner):
                    yield Choice(self.numbers[attribute], tuple(self.run(inner)), ())
                case Training(inner):
                    yield from self.run(inner)
                case _:
                    yield self.resolved(statement)

    def called(self, target: str, call: Call) -> Iterator[Any]:
        """Yield the statements that assign the result of a module."""
        how = self.how(call.module, call.outputs, self.resolved(call.kept))
        yield from self.made(self.entries[call.module], target, self.resolved(call.value), how)

    def how(self, module: str, outputs: bool = False, kept: tuple[Expr, ...] = ()) -> How:
        """Return how a module of the class is called."""
        return How(f"{self.prefix}{module}", outputs, kept, module in self.again)

    def made(self, made: Any, target: str, value: Expr, how: How) -> Iterator[Any]:
        """Yield the statements that pass a value through what an entry of a constructor, or a module in a list,
        builds."""
        unchanged = () if value == Var(target) else (Let(target, value),)
        match made:
            case Entry(when=Term() as when):
                body = tuple(self.made(made.make, target, value, how))
                otherwise = unchanged
                if made.otherwise is not None:
                    otherwise = tuple(self.made(made.otherwise, target, value, how))
                if body == otherwise:
                    yield from body
                else:
                    yield Choice(when, body, otherwise) if body else Choice(operation("not", when), otherwise, ())
            case Entry():
                yield from self.made(made.make, target, value, how)
            case Looped(_, depth, rows):
                yield from unchanged
                steps = [(part, numbered_name(rule)) for rule, part in rows]
                if body := tuple(self.sequence(steps, target, Var(target), how)):
                    yield Repeat(depth, body)
            case Listing(listed) | Filled(_, listed):
                yield from self.sequence([(part, part.name) for part in listed], target, value, how)
            case Joined(joined, numbered):
                yield from self.row(joined, numbered, target, value, how)
            case Separate(joined):
                yield from self.row(joined, True, target, value, how)
            case MakeLayer(layer) if layer.kind is ops.Identity:
                yield from unchanged
            case MakeLayer() | Use() | Repeated():
                yield Let(target, self.built(made, value, how))  # type: ignore[arg-type]

    def built(self, make: MakeLayer | Use | Repeated, value: Expr, how: How, first: Term | None = None) -> Built:
        """Return a value passed through a layer or a function, which also receives what the functions inside require."""
        if isinstance(make, MakeLayer):
            return Built(make, value, how)
        passed = (Var(name) for name in _PASSED if _class(make).name in self.given[name])
        name = make.stage.name if isinstance(make, Repeated) else self.names[make.of.name]
        return Built(make, value, replace(how, kept=(*how.kept, *passed)), name, first)

    def sequence(self, steps: Sequence[tuple[Entry, str]], target: str, value: Expr, how: How) -> Iterator[Any]:
        """Yield the statements that pass a value through modules with these names in sequence."""
        for part, name in steps:
            yield from self.made(part, target, value, how.inside(name))
            value = Var(target)
        if not steps and value != Var(target):
            yield Let(target, value)

    def row(
        self, listed: Sequence[Use | Repeated], numbered: bool, target: str, value: Expr, how: How
    ) -> Iterator[Any]:
        """Yield the statements that pass a value through a row of copies; a stage numbers its copies from their
        position on."""
        counts: list[Term] = []  # of the copies before a part
        for part in listed:
            place = total(counts) if counts else constant(0)
            if isinstance(part, Repeated):
                first = place if counts and part.stage.member is None else None
                if first is not None:
                    self.later.add(part.stage.name)
                built = self.built(part, value, how, first)
                counts.append(part.arguments["depth"])
            else:
                built = self.built(part, value, how.inside(place if numbered else part.name))
                counts.append(constant(1))
            yield Let(target, built)  # type: ignore[arg-type]
            value = Var(target)

    def copied(self, of: str | Stored) -> Copied:
        """Return the entry of parallel copies."""
        copied = self.entries[of.name if isinstance(of, Stored) else of]
        assert isinstance(copied, Copied)
        return copied

    def copies(self, of: str | Stored, value: Any) -> tuple[tuple[Let, ...], Term]:
        """Return the steps of a copy that is built in parallel with others, and their number."""
        copied = self.copied(of)
        if isinstance(copied.make, Use):
            built = self.built(copied.make, value, self.how(copied.name).inside("{index}"))
            return (Let("part", built),), copied.count  # type: ignore[arg-type]
        steps = []
        for part in copied.make.parts:
            assert isinstance(part.make, MakeLayer)
            how = How(f"{self.prefix}{{index}}_{part.name}", again=self.how(copied.name).again)
            steps.append(Let("part", self.built(part.make, value, how)))  # type: ignore[arg-type]
            value = Var("part")
        return tuple(steps), copied.count

    def resolved(self, node: Any) -> Any:
        """Return a value or a statement in which numbers replace attributes, and copies are built."""
        match node:
            case tuple():
                return tuple(self.resolved(item) for item in node)
            case Beside(copies, given, split):
                (step,), count = self.copies(copies, Element(given, INDEX) if split else given)
                assert isinstance(step.value, Built)
                return BuiltBeside(step.value, count)
            case Merged(values=values, module=module) if module:
                merger = self.entries[module]
                assert isinstance(merger, Entry)
                assert isinstance(merger.make, MakeDropPath)
                return Averaged(merger.make, self.resolved(values))
            case Element(of, str() as index):
                return Element(of, self.number(index))
            case Parts(target, value, count, sizes):
                number = count if isinstance(count, int) else python(self.copied(count).count)
                return Parts(target, self.resolved(value), number, self.sizes(sizes))
            case Unpack(targets, value, sizes):
                return Unpack(targets, self.resolved(value), self.sizes(sizes))
            case Thinned(target, kept, rescale, unit):
                return Thinned(target, self.number(kept), rescale, unit)
        if not isinstance(node, Expr | Statement):
            return node
        return type(node)(*(self.resolved(getattr(node, field.name)) for field in fields(node)))

    def number(self, name: str) -> str:
        """Return the text of a number that forward reads."""
        return python(self.numbers[name])

    def sizes(self, sizes: Sequence[int | str]) -> tuple[int | str, ...]:
        """Return the sizes of channel ranges, each a number or the text of a term of a sum."""

        def text(name: str) -> str:
            number = self.number(name)
            return number if number.isidentifier() else f"({number})"

        return tuple(text(size) if isinstance(size, str) else size for size in sizes)
