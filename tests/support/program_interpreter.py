"""An interpreter of programs in numpy, without a framework: it compares lowering with the tree, before any template.

It overwrites whatever a program allows to be overwritten, even if a framework would not: a value that is still needed
then causes a failure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from rescompile.codegen.class_plan import Class, Layer, Repeated, Use
from rescompile.codegen.dialect import Dialect
from rescompile.codegen.entries import (
    Copied,
    Entry,
    Filled,
    Joined,
    Listing,
    Looped,
    Make,
    MakeDropPath,
    MakeLayer,
    Number,
    Scanned,
    Separate,
)
from rescompile.codegen.program import Code, Program
from rescompile.codegen.statements import (
    Add,
    Apply,
    Beside,
    Call,
    ChooseColumns,
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
    Statement,
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
from rescompile.codegen.terms import python
from rescompile.ir import ops
from rescompile.ir.expressions import Term
from rescompile.ir.network import LOGITS
from rescompile.ir.op_evaluation import OPS
from rescompile.ir.ops import rank

Array = NDArray[Any]
Scope = Mapping[str, Any]
Module = Callable[..., Array]
Outputs = dict[str, Array]


class Plain(Dialect):
    """A dialect without a framework: torch's traits, and text that differs if modules differ."""

    identity = "identity"
    reserved = frozenset[str]()
    longest = 60

    def is_fresh(self, kind: type[ops.Kind]) -> bool:
        return kind in (ops.Conv, ops.Linear, ops.Norm)

    def applies(self, layer: Layer) -> bool:
        owns = layer.sample.kind.parameters(layer.sample.input) or layer.kind is ops.Identity
        return not owns and layer.when is None and all(t.head == "constant" for t in layer.attributes.values())

    def is_tensor(self, value: Expr) -> bool:
        return not isinstance(value, Call)

    def module(self, layer: Layer, in_place: bool) -> str:
        given = [python(layer.channels), *(f"{name}={python(term)}" for name, term in layer.attributes.items())]
        return f"{layer.sample.kind.word}({', '.join(given)}, {getattr(layer.sample.kind, 'kind', '')}, {in_place})"

    def function(self, layer: Layer, value: str, in_place: bool) -> str:
        return f"{layer.kind.word}({value})"

    def concat(self, values: str) -> str:
        return f"concat([{values}])"

    def shaken(self, texts: Sequence[str], per_sample: bool) -> str:
        return f"shaken([{', '.join(texts)}], {per_sample})"

    def separate(self, texts: Sequence[tuple[str, bool]]) -> str:
        return f"[{', '.join(text for text, _ in texts)}]"

    def sequence(self, pairs: Sequence[tuple[str, str]], numbered: bool) -> str:
        return f"[{', '.join(f'{name}: {text}' for name, text in pairs)}]"


class Stress(Plain):
    """A dialect in which every line has one op, and nothing may be overwritten."""

    longest = -1

    def is_fresh(self, kind: type[ops.Kind]) -> bool:
        return False


class Modules(Plain):
    """A dialect in which every op that can be a module is one."""

    def applies(self, layer: Layer) -> bool:
        return False


class Greedy(Plain):
    """A dialect with lines as long as possible."""

    longest = 10**9


def value_of(term: Term, scope: Scope) -> Any:
    """Return the value of a term, evaluated by Python."""
    names = {"len": len, "max": max, "min": min, "int": int, "round": round}
    return eval(python(term), {"__builtins__": {}, **names}, dict(scope))


@dataclass
class Instance:
    """An instance of a class with its arguments, and the modules that its constructor builds."""

    runner: Runner
    code: Code
    modules: dict[str, Any] = field(default_factory=dict)
    numbers: dict[str, float] = field(default_factory=dict)

    def __call__(self, x: Array, *kept: Any) -> Array:
        given = dict(zip([values.name for values in self.code.of.values], kept, strict=True))
        return self.body(self.code.body, {"x": x, **given})

    def body(self, statements: Sequence[Statement], local: dict[str, Any]) -> Array:
        """Run a body up to its return."""
        for statement in statements:
            if isinstance(statement, Return):
                return np.empty(0) if statement.value is None else self.value(statement.value, local)
            self.run(statement, local)
        raise AssertionError("a body without an end")

    def run(self, statement: Statement, local: dict[str, Any]) -> None:
        """Run a statement in evaluation mode."""
        match statement:
            case Let(target, value):
                local[target] = self.value(value, local)
            case Add(target, value):
                np.add(local[target], self.value(value, local), out=local[target])
            case Unpack(targets, value, sizes):
                local.update(zip(targets, self.parts(self.value(value, local), len(targets), sizes), strict=True))
            case Parts(target, value, count, sizes):
                number = count if isinstance(count, int) else len(self.copies(count))
                local[target] = self.parts(self.value(value, local), number, sizes)
            case Sum(target, copies, value, parts):
                modules = self.copies(copies)
                given = [self.value(value, local)] * len(modules) if parts is None else local[parts.name]
                for at, (copy, part) in enumerate(zip(modules, given, strict=True)):
                    local[target] = local[target] + copy(part) if at else copy(part)
            case Collection(target):
                local[target] = {}
            case Through(target, module, kept):
                given = [self.value(each, local) for each in kept]
                for part in self.modules[module].modules:
                    local[target] = part(local[target], *given)
            case Store(Element(of, index), value):
                local[of.name][self.index(index)] = self.value(value, local)
            case Output(name, value):
                assert name not in self.runner.outputs
                self.runner.outputs[name] = self.value(value, local).copy()
            case OnlyIf(attribute, body):
                for inner in body if self.numbers[attribute] else ():
                    self.run(inner, local)
            case Survives(_, body, _):
                for inner in body:
                    self.run(inner, local)
            case Scaled(target, kept, rescale) | Thinned(target, kept, rescale):
                if rescale == "test":
                    local[target] = local[target] * self.numbers[kept]
            case Recomputed(target, method, value):
                (found,) = [m for m in self.code.methods if m.name == method]
                local[target] = self.body(found.body, {"x": self.value(value, local)})
            case Training() | ChooseColumns():
                pass
            case _:
                raise AssertionError(statement)

    def copies(self, of: str | Stored) -> Sequence[Any]:
        """Return the parallel copies of a name, or the class's own."""
        if isinstance(of, str):
            return cast(Sequence[Any], self.modules[of])
        return [self.modules[str(at)] for at in range(int(self.numbers[of.name]))]

    def parts(self, x: Array, count: int, sizes: Sequence[int | str]) -> list[Array]:
        """Split a value along the channels, into equal parts or into parts of these sizes."""
        if not sizes:
            return np.split(x, count, axis=1)
        widths = [size if isinstance(size, int) else int(self.numbers[size]) for size in sizes]
        assert len(widths) == count
        assert sum(widths) == x.shape[1]
        return np.split(x, np.cumsum(widths)[:-1], axis=1)

    def index(self, index: int | str) -> int:
        """Return the index of a kept value."""
        return index if isinstance(index, int) else int(self.numbers[index])

    def value(self, expr: Expr, local: Mapping[str, Any]) -> Array:
        """Return the value of an expression."""
        match expr:
            case Var(name):
                return local[name]
            case Call(module, inner, outputs, kept):
                made = self.modules[module]
                assert outputs == (isinstance(made, Instance) and made.code.of.taps)
                return made(self.value(inner, local), *(self.value(each, local) for each in kept))
            case Element(of, index):
                return local[of.name][self.index(index)]
            case Apply(layer, inner, in_place):
                return applied(made_op(layer, {}), self.value(inner, local), {}, in_place)
            case Beside(copies, value, split):
                modules = self.copies(copies)
                given = local[value.name] if split else [local[value.name]] * len(modules)
                return np.concatenate([copy(part) for copy, part in zip(modules, given, strict=True)], axis=1)
            case Merged(how, values):
                return merged(how, [self.value(item, local) for item in values])


def merged(how: str, values: Sequence[Array]) -> Array:
    """Return merged values, in a new array."""
    match how, values:
        case "add", [first, *more]:
            assert more
            for value in more:
                first = first + value
            return first
        case "mean" | "shake", _:
            return merged("add", values) / len(values)
        case "mul", [first, *more]:
            assert more
            for value in more:
                first = first * value
            return first
        case "gate", [new, gate, old]:
            return old + gate * (new - old)
        case "carry", [gate, old]:
            return old - gate * old
        case "concat", _:
            return np.concatenate(values, axis=1)
    raise AssertionError(how)


def made_op(layer: Layer, scope: Scope) -> ops.Kind:
    """Return the op of a layer with its attributes evaluated."""
    kind = layer.sample.kind
    sizes = {f.name for f in fields(kind) if f.metadata["attribute"].type == "size"}
    found = {name: value_of(term, scope) for name, term in layer.attributes.items()}
    axes = rank(layer.sample.input)
    return replace(kind, **{n: (v,) * axes if n in sizes and isinstance(v, int) else v for n, v in found.items()})


def applied(op: ops.Kind, x: Array, tensors: Mapping[str, Array], in_place: bool) -> Array:
    """Return the output of an op, written over its input if that is allowed."""
    y = OPS[type(op)](op, x, tensors)
    if in_place and y.shape == x.shape and y is not x:
        x[...] = y
        return x
    return y


class Runner:
    """A builder of the modules of a program, which records the names of the tensors that they own."""

    def __init__(self, program: Program, weights: Mapping[str, Array]) -> None:
        self.codes = {id(code.of): code for code in program.classes}
        self.weights = weights
        self.names: list[str] = []
        self.outputs: Outputs = {}
        self.root = self.instance(program.plan.root, {}, {}, "")

    def instance(self, of: Class, given: Mapping[str, Term], scope: Scope, path: str) -> Instance:
        """Return an instance of a class."""
        own = arguments(of.arguments, given, scope)
        for name, term in of.lets:
            own[name] = value_of(term, own)
        made = Instance(self, self.codes[id(of)])
        for entry in made.code.constructor:
            assert entry.name not in made.modules
            at = f"{path}{entry.name}."
            match entry:
                case Number(name, value):
                    made.numbers[name] = value_of(value, own)
                case Entry(name):
                    made.modules[name] = self.listed(entry, own, path)
                case Filled(name, parts):
                    made.modules[name] = chained([self.listed(part, own, at) for part in parts])
                case Looped(name, depth, parts):
                    made.modules[name] = chained(
                        [
                            self.listed(replace(part, name=f"{rule.prefix}{rule.first + index * rule.step}"), own, at)
                            for index in range(depth)
                            for rule, part in parts
                        ]
                    )
                case Copied(name, new, count, own=True):
                    made.numbers[name] = value_of(count, own)
                    for number in range(value_of(count, own)):
                        at = f"{path}{number}."
                        made.modules[str(number)] = self.made(new, {**own, "index": number}, at)
                case Copied(name, new, count):
                    made.modules[name] = [
                        self.made(new, own, f"{at}{number}.") for number in range(value_of(count, own))
                    ]
        return made

    def listed(self, part: Entry, scope: Scope, path: str) -> Module:
        """Return a module, or the identity if its condition is false."""
        if part.when is not None and not value_of(part.when, scope):
            return self.made(part.otherwise, scope, f"{path}{part.name}.") if part.otherwise else lambda x: x
        return self.made(part.make, scope, f"{path}{part.name}.")

    def made(self, make: Make, scope: Scope, path: str) -> Module:
        """Return a module."""
        match make:
            case MakeDropPath():
                return None  # evaluation merges by definition
            case MakeLayer(layer, in_place):
                return self.layer(layer, in_place, scope, path)
            case Use(of=of, arguments=given):
                return self.instance(of, given, scope, path)
            case Repeated():
                return chained([module for _, module in self.copies(make, scope, path)])
            case Listing(parts):
                return chained([self.listed(part, scope, path) for part in parts])
            case Separate(parts):
                return self.made(Joined(parts, True), scope, path)
            case Scanned(row):
                return self.made(row, scope, path)
            case Joined(parts, numbered):
                found: list[Module] = []
                for part in parts:
                    if isinstance(part, Repeated):
                        start = len(found) if numbered else 0
                        found += [module for _, module in self.copies(part, scope, path, start)]
                    else:
                        name = str(len(found)) if numbered else part.name
                        found.append(self.made(part, scope, f"{path}{name}."))
                return chained(found)

    def copies(self, make: Repeated, scope: Scope, path: str, start: int = 0) -> Iterator[tuple[str, Module]]:
        """Return the copies of a stage with their names."""
        stage = make.stage
        own = arguments(stage.arguments, make.arguments, scope)
        for index in range(own["depth"]):
            here = {**own, "index": index}
            name = f"{stage.member.prefix}{stage.member.first + index}" if stage.member else str(start + index)
            yield name, self.instance(stage.of, stage.passed, here, f"{path}{name}.")
            if stage.then is not None:
                own["in_channels"] = value_of(stage.then, here)

    def layer(self, layer: Layer, in_place: bool, scope: Scope, path: str) -> Module:
        """Return an op with its tensors."""
        op, sample = made_op(layer, scope), layer.sample
        owns = sample.kind.parameters(sample.input)  # other modules do not know their channels
        owned = op.parameters((value_of(layer.channels, scope), *sample.input[1:])) if owns else ()
        self.names += [f"{path}{parameter.name}" for parameter in owned]
        tensors = {parameter.name: self.weights[f"{path}{parameter.name}"] for parameter in owned}
        for parameter in owned:
            assert tensors[parameter.name].shape == parameter.shape, path
        return lambda x: applied(op, x, tensors, in_place)


def arguments(listed: Sequence[Any], given: Mapping[str, Term], scope: Scope) -> dict[str, Any]:
    """Return the values of the arguments of a call."""
    assert set(given) <= {argument.name for argument in listed}
    return {a.name: value_of(given[a.name], scope) if a.name in given else value_of(a.default, {}) for a in listed}


@dataclass
class Chain:
    """Modules that run in sequence."""

    modules: Sequence[Module]

    def __call__(self, x: Array) -> Array:
        for module in self.modules:
            x = module(x)
        return x


def chained(modules: Sequence[Module]) -> Chain:
    """Return a chain of modules."""
    return Chain([each for module in modules for each in (module.modules if isinstance(module, Chain) else [module])])


def run(program: Program, weights: Mapping[str, Array], x: Array) -> tuple[Outputs, list[str]]:
    """Return the outputs of a program in evaluation mode, and the names of its tensors in order of construction."""
    runner = Runner(program, weights)
    logits = runner.root(x.copy())
    return runner.outputs if LOGITS in runner.outputs else {LOGITS: logits, **runner.outputs}, runner.names
