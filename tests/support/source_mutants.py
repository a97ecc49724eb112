"""Bugs planted into the class plan, the program or a source backend; see `mutants.py`. Those in OF_PROGRAMS can be
detected without a framework."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from importlib import import_module
from typing import Any

import pytest

from rescompile.codegen import (
    class_plan,
    class_scope,
    entries,
    forward,
    lowering,
    planned_classes,
    program,
    row_loops,
    source_text,
    statements,
    terms,
)
from rescompile.codegen.entries import Entry
from rescompile.codegen.statements import Add, Apply, Merged, Scaled, Thinned, Unpack
from rescompile.ir import ops
from rescompile.ir.expressions import Term

_ops: Any = import_module("rescompile.backends.torch.spellings")
_support: Any = import_module("rescompile.backends.torch.support")
Patch = pytest.MonkeyPatch

#: The bugs by name.
MUTANTS: dict[str, Callable[[Patch], None]] = {}


def planted(plant: Callable[[Patch], None]) -> Callable[[Patch], None]:
    """Register a function that plants a bug under its name."""
    MUTANTS[plant.__name__] = plant
    return plant


# --- the class plan ---------------------------------------------------------------------------------------------------


@planted
def hints_are_believed(patch: Patch) -> None:
    patch.setattr(class_scope, "means", lambda text, scope, value: True)


@planted
def the_first_instance_speaks_for_all(patch: Patch) -> None:
    def express(self: Any, values: Mapping[int, Any], hints: Any, name: str) -> Any:
        return terms.constant(next(iter(values.values())))

    patch.setattr(class_scope.ClassScope, "express", express)


@planted
def activations_are_all_alike(patch: Patch) -> None:
    patch.setattr(planned_classes, "_is_fixed", lambda attribute: attribute.name in planned_classes.FIXED)


@planted
def nothing_is_conditional(patch: Patch) -> None:
    patch.setattr(class_scope.ClassScope, "condition", lambda self, present, hints: None)


@planted
def every_copy_like_the_first(patch: Patch) -> None:
    right = row_loops._Loop.matrix

    def wrong(self: Any, name: str) -> Any:
        return [[row[0] for _ in row] for row in right(self, name)]

    patch.setattr(row_loops._Loop, "matrix", wrong)


@planted
def a_row_begins_like_the_first_row(patch: Patch) -> None:
    right = row_loops._Loop.own_argument

    def wrong(self: Any, name: str, default: str | None, values: Any, *also: Any) -> Any:
        return right(self, name, default, [values[0] for _ in values], *also)

    patch.setattr(row_loops._Loop, "own_argument", wrong)


@planted
def channels_stay_along_a_row(patch: Patch) -> None:
    patch.setattr(row_loops, "Stage", lambda *given: replace(class_plan.Stage(*given), then=None))


@planted
def a_row_is_one_class(patch: Patch) -> None:
    right = planned_classes.Registry.segments

    def wrong(self: Any, row: Any) -> Any:
        first, *more = right(self, row)
        return [(first[0], [*first[1], *itertools.chain.from_iterable(copies for _, copies in more)])]

    patch.setattr(planned_classes.Registry, "segments", wrong)


@planted
def subtraction_groups_to_the_right(patch: Patch) -> None:
    patch.setitem(terms._BINDING, "-", 7)


@planted
def whole_division_rounds_nothing(patch: Patch) -> None:
    def wrong(term: Term, scopes: Any) -> Term:
        right = terms.resolved(term, scopes)
        operands = tuple(wrong(operand, scopes) for operand in right.operands)
        return replace(right, head="*" if right.head == "//" else right.head, operands=operands)

    patch.setattr(class_scope, "resolved", wrong)


# --- ops --------------------------------------------------------------------------------------------------------------


def form(name: str, kind: type[ops.Kind], **changes: Callable[[Any], Any]) -> None:
    """Plant a bug in the spelling of one op: it gets other attributes."""

    def term(value: Any) -> Term:
        return value if isinstance(value, Term) else terms.constant(value)

    def plant(patch: Patch) -> None:
        right = _ops.TABLE[kind]

        def wrong(arguments: Any) -> Any:
            def other(layer: Any, texts: Any) -> Any:
                changed = {**layer.attributes, **{k: term(new(layer)) for k, new in changes.items()}}
                texts = {key: terms.python(value) for key, value in changed.items()}
                return arguments(replace(layer, attributes=changed), texts)

            return arguments and other

        spelling = replace(right, arguments=wrong(right.arguments), applied=wrong(right.applied))
        patch.setitem(_ops.TABLE, kind, spelling)

    MUTANTS[name] = plant


form("conv_stride_ignored", ops.Conv, stride=lambda layer: 1)
form("conv_dilation_ignored", ops.Conv, dilation=lambda layer: 1)
form("conv_groups_ignored", ops.Conv, groups=lambda layer: 1)
form("conv_padding_from_the_kernel", ops.Conv, padding=lambda layer: layer.sample.kind.kernel[0] // 2)
form("linear_without_bias", ops.Linear, bias=lambda layer: False)
form("norm_eps_of_torch", ops.Norm, eps=lambda layer: 1e-05)
form("avgpool_counts_padding", ops.AvgPool, count_pad=lambda layer: True)
form("maxpool_rounds_down", ops.MaxPool, ceil=lambda layer: False)
form("pool_stride_is_the_kernel", ops.MaxPool, stride=lambda layer: layer.attributes["kernel"])
form("group_norm_of_one_group", ops.Norm, groups=lambda layer: 1)
form("elu_alpha_of_torch", ops.Act, alpha=lambda layer: 1.0)
form("upsample_square", ops.Upsample, factor=lambda layer: layer.sample.kind.factor[0])
form("scale_by_one", ops.Scale, factor=lambda layer: 1.0)


@planted
def another_default_is_left_out(patch: Patch) -> None:
    patch.setitem(_ops.DEFAULTS, "eps", "0.01")


@planted
def leaky_slope_of_torch(patch: Patch) -> None:
    patch.setitem(_ops.DEFAULTS, "negative_slope", "0.2")


@planted
def sigmoid_and_tanh_swapped(patch: Patch) -> None:
    patch.setitem(_ops.ACTS, "sigmoid", _ops.ACTS["tanh"])


@planted
def gelu_always_exact(patch: Patch) -> None:
    patch.delitem(_ops.ACT_ARGUMENTS, "gelu_tanh")


@planted
def group_norm_as_batch_norm(patch: Patch) -> None:
    patch.setattr(_ops, "norm_class", lambda op: "nn.BatchNorm2d")
    patch.setitem(_ops.TABLE, ops.Norm, replace(_ops.TABLE[ops.Norm], module="nn.BatchNorm2d"))


@planted
def channels_padded_in_front(patch: Patch) -> None:
    text = _support.SUPPORT["PadChannels"]
    patch.setitem(
        _support.SUPPORT,
        "PadChannels",
        text.replace("0, self.channels - x.shape[1])", "self.channels - x.shape[1], 0)"),
    )


@planted
def subsample_from_the_second(patch: Patch) -> None:
    text = _support.SUPPORT["Subsample"]
    patch.setitem(_support.SUPPORT, "Subsample", text.replace(":: self.height", "1 :: self.height"))


# --- programs ---------------------------------------------------------------------------------------------------------

#: The bugs of lowering, as changes of its result or of its code.
OF_PROGRAMS: dict[str, Callable[[Patch], None]] = {}


def lowering_plants(plant: Callable[[Patch], None]) -> Callable[[Patch], None]:
    """Register a bug of lowering."""
    OF_PROGRAMS[plant.__name__] = plant
    return planted(plant)


def rewritten(node: Any, change: Callable[[Any], Any]) -> Any:
    """Return a program with every value, statement and entry replaced by the result of `change`; None removes it."""
    if isinstance(node, tuple):
        changed = [new for item in node if (new := rewritten(item, change)) is not None]
        return type(node)(*changed) if hasattr(node, "_fields") else tuple(changed)
    if type(node).__module__ not in (program.__name__, statements.__name__, entries.__name__):
        return node
    return change(replace(node, **{f.name: rewritten(getattr(node, f.name), change) for f in fields(node)}))


def program_mutant(name: str, change: Callable[[Any], Any], *listed: dict[str, Callable[[Patch], None]]) -> None:
    """Register a bug in every program: `change` is applied to each of its parts. It is registered in the given list, or
    in that of this module."""

    def plant(patch: Patch) -> None:
        right = lowering.lower

        def wrong(*given: Any, **keywords: Any) -> Any:
            made = right(*given, **keywords)
            return replace(made, classes=rewritten(made.classes, change))

        for module in (lowering, source_text):
            patch.setattr(module, "lower", wrong)

    for each in listed or (MUTANTS, OF_PROGRAMS):
        each[name] = plant


def merged(name: str, how: str, change: Callable[[tuple[Any, ...]], tuple[Any, ...]]) -> None:
    """Plant a bug in the order of branches."""

    def wrong(part: Any) -> Any:
        return replace(part, values=change(part.values)) if isinstance(part, Merged) and part.how == how else part

    program_mutant(name, wrong)


merged("concat_reversed", "concat", lambda values: values[::-1])
merged("gate_inverted", "gate", lambda values: (values[2], values[1], values[0]))
merged("last_factor_forgotten", "mul", lambda values: values[:-1] if len(values) > 2 else values)
program_mutant("addend_in_place_forgotten", lambda part: None if isinstance(part, Add) else part)
program_mutant("survival_forgotten_in_evaluation", lambda part: None if isinstance(part, Scaled | Thinned) else part)
program_mutant("everything_in_place", lambda part: replace(part, in_place=True) if isinstance(part, Apply) else part)
program_mutant(
    "channels_are_split_elsewhere",
    lambda part: replace(part, targets=part.targets[::-1]) if isinstance(part, Unpack) else part,
)
program_mutant("conditions_forgotten", lambda part: replace(part, when=None) if isinstance(part, Entry) else part)


@lowering_plants
def last_addend_forgotten(patch: Patch) -> None:
    right = forward.Forward.merged

    def wrong(self: Any, body: Any, join: Any, source: Any) -> Any:
        branches = join.branches if join.merge != "add" else join.branches[: max(2, len(join.branches) - 1)]
        return right(self, body, replace(join, branches=branches), source)

    patch.setattr(forward.Forward, "merged", wrong)


@lowering_plants
def one_local_for_all(patch: Patch) -> None:
    patch.setattr(forward.Body, "variable", lambda self: "y")


def side_branches_free_what_follows(patch: Patch) -> None:
    """This bug once existed: variables of later steps were considered free after a side branch."""
    right = forward.Forward.tap

    def wrong(self: Any, body: Any, *given: Any) -> Any:
        with pytest.MonkeyPatch.context() as inside:
            inside.setattr(forward.Body, "branch", lambda body: replace(body, busy=set(body.busy)))
            return right(self, body, *given)

    patch.setattr(forward.Forward, "tap", wrong)


#: Few networks of `generator.py` reveal this bug; `test_program.py` has one that does.
OF_PROGRAMS["side_branches_free_what_follows"] = side_branches_free_what_follows
