"""Parts with separate classes, seen from the surrounding class: uses, rows of copies, bundles and macros."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rescompile.codegen.class_plan import IN, Class, Copies, Repeated, Row, Stage, Use
from rescompile.codegen.class_scope import ClassScope, Here
from rescompile.codegen.columns import Column
from rescompile.codegen.layers import new_name
from rescompile.codegen.planned_classes import Planned, definition_of, ids
from rescompile.codegen.roles import bundle_merge, bundled
from rescompile.codegen.terms import Value, constant, has_value, literal, python, substitute, times, unknown
from rescompile.ir.expressions import Term
from rescompile.ir.network import Series


def use(column: Column[Series], when: Term | None, here: Here, scope: ClassScope) -> tuple[Use, Term]:
    """Return an instance of another class, and its output channels. Raises Misfit."""
    planned = column.only(lambda node: scope.registry.classes[id(node)])
    given = column.map(lambda node: planned.values[id(node)])
    arguments, out = _call(planned, given, column, here, scope)
    return Use(str(column.first.name), planned.plan, arguments, when), out


def _call(
    of: Planned[Class] | Planned[Stage],
    given: Column[dict[str, Any]],
    column: Column[Series],
    here: Here,
    scope: ClassScope,
) -> tuple[dict[str, Term], Term]:
    """Return the printed arguments, whose values are `given`, of an instance of another class, or of a stage, without
    those equal to their default, and its output channels."""
    terms = {}
    for name in (argument.name for argument in of.plan.arguments):
        values = Column({at: each[name] for at, each in given.items()})
        hints = _argument_hints(name, column.first, here, scope)
        terms[name] = scope.express(values, hints, f"inner_{name}" if name in scope.values[0] else name)
    shown = {name: scope.printed(term, column) for name, term in terms.items()}
    for argument in of.plan.arguments:
        if argument.default is not None and python(shown[argument.name]) == python(argument.default):
            del shown[argument.name]
    return shown, substitute(of.out, terms)


def _argument_hints(name: str, sample: Series, here: Here, scope: ClassScope) -> list[Term | None]:
    """Return candidates for an argument: from the call in the spec, else from the surrounding names."""
    python_name = scope.registry.python_name
    if name == IN:
        return [here.flow.term]
    if sample.call is not None:
        return [scope.hint(raw, here) for own, raw in sample.call.hints.items() if python_name(own) == name]
    return [term for own, term in here.env.items() if python_name(own) == name]


def row(column: Column[Series], when: Term | None, here: Here, scope: ClassScope) -> tuple[Row, Term] | None:
    """Return a row of copies, by stages, and its output channels; None if there are no stages for it. Raises
    Misfit."""
    if not _keeps_names(column.values()):
        return None
    registry = scope.registry
    pieces = column.map(registry.segments)
    alike = column.share(registry.pattern)
    here = here.of(column)
    parts: list[Repeated | Use] = []
    for number in range(pieces.only(len)):
        segment = Column({at: listed[number] for at, listed in pieces.items()})
        segment.only(lambda part: part[0])
        firsts = segment.map(lambda part: part[1][0])
        keys = segment.map(lambda part: ids(part[1]))
        stage = keys.only(registry.stages.get)
        if stage is not None:
            arguments, out = _call(stage, keys.map(stage.values.__getitem__), firsts, here, scope)
            parts.append(Repeated(stage.plan, arguments))
        elif alike and all(len(copies) == 1 for _, copies in segment.values()) and firsts.share(_word):
            single, out = use(firsts, None, here, scope)
            parts.append(single)
        else:
            return None
        here = here.after(scope.flow(segment.map(lambda part: part[1][-1].output[0]), [out]))
    return Row(str(column.first.name), parts, when), here.flow.term


def _keeps_names(rows: Iterable[Series]) -> bool:
    """Return whether a row keeps the names of its modules: numbers count from 0, or no name is a number."""
    names = [[child.name or "" for child in row.children if isinstance(child, Series)] for row in rows]
    by_place = all(listed == [str(at) for at in range(len(listed))] for listed in names)
    return by_place or not any(name.isdigit() for listed in names for name in listed)


def _word(copy: Series) -> str:
    """Return the name of a copy of a row; empty for a number, which is the position of the copy."""
    name = str(copy.name)
    return "" if name.isdigit() else name


def bundle(column: Column[Series], here: Here, scope: ClassScope) -> tuple[Copies, Term]:
    """Return parallel copies, and their output channels. Raises Misfit."""
    merge, split = column.only(lambda node: (bundle_merge(node).merge, bundle_merge(node).split))
    sample = column.first
    counts = column.map(lambda node: len(bundled(node)))
    hints = scope.hints(bundle_merge(sample).hints, "copies", here)
    count = scope.express(counts, hints, new_name(sample, "count"))
    if split:
        here = here.after(scope.shared(here.flow, count, counts))
    copy, out = use(column.map(lambda node: bundled(node)[0]), None, here, scope)
    item = Copies(str(sample.name), copy, scope.printed(count, column), merge, split)
    return item, out if merge == "add" else times(count, out)


def macro(column: Column[Series], here: Here, scope: ClassScope) -> dict[str, Term]:
    """Return the names of a macro's definition in terms of the names of this class. Raises Misfit."""
    inner: dict[str, Term] = {}
    column.only(lambda node: node.call and node.call.block)
    calls = {at: node.call for at, node in column.items() if node.call is not None}
    sample = column.first.call
    if sample is None:
        return dict(here.env)
    definition = definition_of(scope.registry.network, sample)
    for name in sample.arguments:
        values = Column({at: call.arguments[name] for at, call in calls.items() if name in call.arguments})
        hint = scope.hint(sample.hints[name], here) if name in sample.hints else None
        if hint is not None and all(has_value(hint, scope.values[at], value) for at, value in values.items()):
            inner[name] = scope.short(hint, name)
        elif values.share(_written):
            inner[name] = constant(values.first)
        else:
            default = definition.parameters.get(name)
            own = scope.hint(default, here.inside(inner)) if isinstance(default, str) else None
            inner[name] = scope.short(own or unknown(name), name)
    for name, raw in definition.lets.items():
        inner[name] = scope.short(scope.hint(raw, here.inside(inner)) or unknown(name), name)
    return inner


def _written(value: Value) -> Any:
    """Return the text by which values are compared; mappings have none."""
    return "" if isinstance(value, dict) else literal(value)
