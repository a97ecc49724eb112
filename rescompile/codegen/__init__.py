"""Network -> class plan: the classes, arguments and loops of the source that builds a network. No framework in here.

terms       expressions, and how Python writes them
class_plan  what a plan consists of
roles       which parts become classes, rows, bundles or lists
columns     corresponding nodes of all instances of a block
registry    the classes and stages planned so far
class_scope the names of a class, and how it expresses the values of all its instances
layers      ops of all instances -> a layer
calls       uses of other classes: single ones, rows, bundles, macros
classes     many instances -> one class
stages      many rows -> one loop
planner     the whole network
"""

from rescompile.codegen.planner import plan_classes

__all__ = ["plan_classes"]
