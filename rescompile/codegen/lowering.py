"""Class plan -> program, in the order in which classes need one another."""

from __future__ import annotations

from rescompile.codegen.class_plan import Class, ClassPlan
from rescompile.codegen.constructor import attributes, constructed
from rescompile.codegen.dialect import Dialect
from rescompile.codegen.forward import Forward
from rescompile.codegen.program import Code, Program


def lower(plan: ClassPlan, dialect: Dialect, rolls: bool = True) -> Program:
    """The program of a plan. With `rolls`, loops build sequences that repeat themselves."""
    return Program(plan, tuple(_code(of, plan, dialect, rolls) for of in plan.classes))


def _code(of: Class, plan: ClassPlan, dialect: Dialect, rolls: bool) -> Code:
    names = attributes(of, dialect)
    is_root = of is plan.root
    forward = Forward(of, names, dialect, plan.network.checkpoint, is_root)
    entries = constructed(of, names, dialect, rolls)
    return Code(of, is_root, entries, tuple(forward.methods), forward.statements)
