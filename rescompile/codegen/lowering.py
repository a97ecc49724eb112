"""Class plan -> program, in the order in which classes need one another."""

from __future__ import annotations

from rescompile.codegen.class_plan import Class, ClassPlan, with_modules
from rescompile.codegen.constructor import attributes, constructed
from rescompile.codegen.dialect import Dialect
from rescompile.codegen.forward import Forward
from rescompile.codegen.program import Code, Program

#: One class per block, with loops for what repeats; the same with modules for activations and pools; all written out.
STYLES = ("classes", "modules", "flat")


def lower(plan: ClassPlan, dialect: Dialect, style: str = "classes") -> Program:
    """The program of a plan in one of `STYLES`."""
    return Program(plan, tuple(_code(of, plan, dialect, style) for of in plan.classes))


def _code(of: Class, plan: ClassPlan, dialect: Dialect, style: str) -> Code:
    body = with_modules(of) if style == "modules" else of
    names = attributes(body, dialect)
    is_root = of is plan.root
    forward = Forward(body, names, dialect, plan.network.checkpoint, is_root)
    entries = constructed(body, names, dialect, rolls=style != "flat")
    return Code(of, is_root, entries, tuple(forward.methods), forward.statements)
