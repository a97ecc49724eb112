"""Network -> class plan -> program -> text: the source that builds a network, independent of frameworks.

Suggested reading order: `class_plan`, then `statements`, `entries` and `program`, the data; `planner`, `classes` and
`row_loops`, which make the former; `constructor` and `forward`, which make the latter from it; `dialect` and
`source_text`, which write it.

`__all__` is the API for third parties that generate source for another framework (docs/add-a-backend.md).
"""

from rescompile.codegen.allow_list import Allowed
from rescompile.codegen.class_plan import Layer
from rescompile.codegen.execution import executed, run_alone
from rescompile.codegen.refusals import refuse_names, refuse_ranks
from rescompile.codegen.source_text import render_source, sealed
from rescompile.codegen.table_dialect import By, Spelling, TableDialect, args
from rescompile.codegen.terms import literal, python

__all__ = [
    "Allowed",
    "By",
    "Layer",
    "Spelling",
    "TableDialect",
    "args",
    "executed",
    "literal",
    "python",
    "refuse_names",
    "refuse_ranks",
    "render_source",
    "run_alone",
    "sealed",
]
