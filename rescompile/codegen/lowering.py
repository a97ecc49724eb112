"""Class plan -> program: lowers each class, in the order in which classes use one another."""

from __future__ import annotations

from rescompile.codegen.class_plan import Class, ClassPlan, with_modules
from rescompile.codegen.constructor import attributes, constructed
from rescompile.codegen.dialect import Dialect
from rescompile.codegen.entries import MakeDropPath
from rescompile.codegen.forward import Forward
from rescompile.codegen.program import Code, Program
from rescompile.codegen.statements import ChooseColumns

#: One class per block, with loops for repetitions; the same with modules for activations and pools; everything
#: unrolled.
STYLES = ("classes", "modules", "flat")


def lower(plan: ClassPlan, dialect: Dialect, style: str = "classes") -> Program:
    """Return the program of a plan in one of `STYLES`."""
    drop_path = _drop_path(plan)
    return Program(plan, tuple(_code(of, plan, dialect, style, drop_path) for of in plan.classes))


def _code(of: Class, plan: ClassPlan, dialect: Dialect, style: str, drop_path: MakeDropPath | None) -> Code:
    body = with_modules(of) if style == "modules" else of
    names = attributes(body, dialect, drop_path)
    is_root = of is plan.root
    forward = Forward(body, names, dialect, plan.network.checkpoint, is_root)
    entries = constructed(body, names, dialect, rolls=style != "flat")
    statements = forward.statements
    if is_root and drop_path:
        choice = ChooseColumns(names.free("choose_columns"), drop_path.columns, drop_path.how)
        statements = (choice, *statements)
    return Code(of, is_root, entries, tuple(forward.methods), statements)


def _drop_path(plan: ClassPlan) -> MakeDropPath | None:
    """Return the module of the merges whose branches training drops; None if it drops none."""
    columns = [len(node.branches) for node in plan.merges() if node.merge == "mean"]
    how = plan.network.drop_path
    return MakeDropPath(max(columns), how) if how and columns else None
