"""Class plan -> program: lowers each class, in the order in which classes use one another."""

from __future__ import annotations

from rescompile.codegen.class_plan import Class, ClassPlan, with_modules
from rescompile.codegen.constructor import Names, attributes, constructed
from rescompile.codegen.dialect import Dialect
from rescompile.codegen.forward import Forward
from rescompile.codegen.program import ChooseColumns, Code, Program

#: One class per block, with loops for repetitions; the same with modules for activations and pools; everything
#: unrolled.
STYLES = ("classes", "modules", "flat")


def lower(plan: ClassPlan, dialect: Dialect, style: str = "classes") -> Program:
    """Return the program of a plan in one of `STYLES`."""
    return Program(plan, tuple(_code(of, plan, dialect, style) for of in plan.classes))


def _code(of: Class, plan: ClassPlan, dialect: Dialect, style: str) -> Code:
    body = with_modules(of) if style == "modules" else of
    names = attributes(body, dialect, plan.network.drop_path)
    is_root = of is plan.root
    forward = Forward(body, names, dialect, plan.network.checkpoint, is_root)
    entries = constructed(body, names, dialect, rolls=style != "flat")
    start = _start(plan, names) if is_root else ()
    return Code(of, is_root, entries, tuple(forward.methods), (*start, *forward.statements))


def _start(plan: ClassPlan, names: Names) -> tuple[ChooseColumns, ...]:
    """Return the first statements of a network's forward."""
    columns = [len(node.branches) for node in plan.merges() if node.merge == "mean"]
    how = plan.network.drop_path
    return (ChooseColumns(names.free("choose_columns"), max(columns), how),) if how and columns else ()
