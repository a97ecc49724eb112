"""Network -> class plan -> program -> text: the source that builds a network. No framework in here.

To read in this order: `class_plan` and `program`, the data; `planner`, `classes` and `row_loops`, which make the first;
`constructor` and `forward`, which make the second of it; `dialect` and `source_text`, which write it.
"""

from rescompile.codegen.planner import plan_classes

__all__ = ["plan_classes"]
