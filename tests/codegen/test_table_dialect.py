"""The table of a dialect: methods, names chosen by an attribute, and statements that a template does not print."""

from __future__ import annotations

from collections.abc import Mapping

import facts
import pytest

from rescompile.codegen.allow_list import Allowed, Refused, check
from rescompile.codegen.class_plan import Class, Layer
from rescompile.codegen.planner import plan_classes
from rescompile.codegen.statements import Survives
from rescompile.codegen.table_dialect import By, Spelling, TableDialect, args
from rescompile.diagnostics.errors import Unavailable
from rescompile.ir import ops
from rescompile.ir.ops import Kind


class Methods(TableDialect):
    """A framework whose functions are methods of its arrays."""

    title, array, defaults = "a framework", "Array", {"keepdims": "False"}
    table: Mapping[type[Kind], Spelling] = {
        ops.Act: Spelling(function=By("kind", {"relu": ".relu"})),
        ops.GlobalAvgPool: Spelling(function=".mean", arguments=lambda layer, texts: args(axis="(2, 3)")),
        ops.Flatten: Spelling(function=".flatten", arguments=lambda layer, texts: args("1")),
        ops.MaxPool: Spelling(function=By("ceil", {True: "max_pool"})),
    }

    def spelling(self, kind: type[Kind]) -> Spelling:
        return self.table[kind]


METHODS = Methods()


def root(name: str = "resnet18") -> Class:
    """Return the class of a network of the zoo."""
    return plan_classes(facts.network(name), frozenset()).root


def layer(kind: type[Kind]) -> Layer:
    """Return the layer of an op in the class of resnet18."""
    return next(item for item in root().items if isinstance(item, Layer) and item.kind is kind)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("x", "x.relu()"),
        ("self.bn1(x)", "self.bn1(x).relu()"),
        ("parts[0]", "parts[0].relu()"),
        ("x + y", "(x + y).relu()"),
        ("-x", "(-x).relu()"),
    ],
)
def test_a_method_binds_tighter_than_operators(value: str, text: str) -> None:
    """A value is put in brackets unless it is a name, a call or a part of one."""
    assert METHODS.function(layer(ops.Act), value, False) == text


def test_a_method_as_a_module_is_the_function_of_the_class() -> None:
    """In a sequence, a method is a function of the array's class, with its arguments bound by keyword."""
    assert METHODS.module(layer(ops.Act), False) == "Array.relu"
    assert METHODS.module(layer(ops.GlobalAvgPool), False) == "partial(Array.mean, axis=(2, 3))"
    with pytest.raises(AssertionError, match="would take 1 for the value"):
        METHODS.module(layer(ops.Flatten), False)


def test_an_attribute_value_without_a_spelling_is_refused() -> None:
    """An op with an attribute value that the table lacks is refused, with the attribute as a spec writes it."""
    with pytest.raises(Unavailable, match="no rule for the op 'maxpool' with 'ceil: false'"):
        METHODS.function(layer(ops.MaxPool), "x", False)


def test_a_statement_that_a_template_lacks_is_refused() -> None:
    """The message contains the word of the spec and the class."""
    with pytest.raises(Unavailable, match="no residual branches with a 'survival', but the class Resnet18 needs them"):
        METHODS.refused(Survives("survival", (), ()), root())


def test_special_names_are_allowed_one_by_one() -> None:
    """A class may set a special name only if its framework lists it."""
    text = "class Row(list):\n    __slots__ = ()\n"
    allowed = Allowed(modules={}, imports={}, names=(), decorators=(), methods={"__slots__"})
    check(text, allowed)
    with pytest.raises(Refused, match="__dict__ is not allowed"):
        check(text.replace("__slots__", "__dict__"), allowed)
