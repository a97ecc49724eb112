"""Network -> class plan -> program -> text: the source that builds a network. No framework in here.

terms           expressions, and how Python writes them
class_plan      what a plan consists of
roles           which parts become classes, rows, bundles or lists
columns         corresponding nodes of all instances of a block
registry        the classes and stages planned so far
class_scope     the names of a class, and how it expresses the values of all its instances
layers          ops of all instances -> a layer
nested_classes  uses of other classes: single ones, rows, bundles, macros
classes         many instances -> one class
row_loops       many rows -> one loop
planner         the whole network

program         what a program consists of: values, statements, and what constructors make
constructor     class plan -> what constructors make
forward         class plan -> the statements of forward
lowering        both, for all classes
dialect         what lowering asks of a framework, and expressions as Python
table_dialect   the part of a dialect that is a table of ops
source_text     the template of a backend, and its filters
prose           docstrings
layout          line breaks
allow_list      the check of the finished text
"""

from rescompile.codegen.planner import plan_classes

__all__ = ["plan_classes"]
