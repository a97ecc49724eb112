"""Mistakes that a writer of source makes, each planted into the class plan or the backend for a while; see `mutants.py`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from typing import Any

import pytest

from rescompile.codegen import class_plan, class_scope, registry, stages, terms
from rescompile.ir import ops
from rescompile.ir.expressions import Term

_classes: Any = import_module("rescompile.backends.torch.classes")
_ops: Any = import_module("rescompile.backends.torch.spellings")
Patch = pytest.MonkeyPatch

#: The mistakes by their names.
MUTANTS: dict[str, Callable[[Patch], None]] = {}


def planted(plant: Callable[[Patch], None]) -> Callable[[Patch], None]:
    """List a function that plants a mistake under its name."""
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
    patch.setattr(registry, "FIXED", tuple(name for name in registry.FIXED if name != "kind"))


@planted
def nothing_is_conditional(patch: Patch) -> None:
    patch.setattr(class_scope.ClassScope, "condition", lambda self, present, hints: None)


@planted
def every_copy_like_the_first(patch: Patch) -> None:
    right = stages._Loop.matrix

    def wrong(self: Any, name: str) -> Any:
        return [[row[0] for _ in row] for row in right(self, name)]

    patch.setattr(stages._Loop, "matrix", wrong)


@planted
def a_row_begins_like_the_first_row(patch: Patch) -> None:
    right = stages._Loop.own_argument

    def wrong(self: Any, name: str, default: str | None, values: Any, *also: Any) -> Any:
        return right(self, name, default, [values[0] for _ in values], *also)

    patch.setattr(stages._Loop, "own_argument", wrong)


@planted
def channels_are_split_elsewhere(patch: Patch) -> None:
    right = _classes.ClassWriter.parts
    patch.setattr(_classes, "_LOCALS", ())  # so that all parts are made there
    patch.setattr(_classes.ClassWriter, "parts", lambda self, text, count: right(self, f"{text}.roll(1, 1)", count))


@planted
def channels_stay_along_a_row(patch: Patch) -> None:
    patch.setattr(stages, "Stage", lambda *given: replace(class_plan.Stage(*given), then=None))


@planted
def a_row_is_one_class(patch: Patch) -> None:
    right = registry.Registry.segments

    def wrong(self: Any, row: Any) -> Any:
        first, *more = right(self, row)
        return [(first[0], [*first[1], *itertools.chain.from_iterable(copies for _, copies in more)])]

    patch.setattr(registry.Registry, "segments", wrong)


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
    """A mistake in the spelling of one op: it gets other attributes."""

    def term(value: Any) -> Term:
        return value if isinstance(value, Term) else terms.constant(value)

    def plant(patch: Patch) -> None:
        right = _ops.FORMS[kind]

        def other(layer: Any) -> Any:
            return replace(
                layer, attributes={**layer.attributes, **{k: term(new(layer)) for k, new in changes.items()}}
            )

        function = right.function and (lambda layer, *rest: right.function(other(layer), *rest))
        patch.setitem(_ops.FORMS, kind, _ops.Form(lambda layer: right.module(other(layer)), function))

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
    patch.setitem(_ops._DEFAULTS, "eps", "0.01")


@planted
def leaky_slope_of_torch(patch: Patch) -> None:
    patch.setitem(_ops._DEFAULTS, "negative_slope", "0.2")


@planted
def sigmoid_and_tanh_swapped(patch: Patch) -> None:
    patch.setitem(_ops._ACTS, "sigmoid", _ops._ACTS["tanh"])


@planted
def gelu_always_exact(patch: Patch) -> None:
    patch.delitem(_ops._ACT_WORDS, "gelu_tanh")


@planted
def group_norm_as_batch_norm(patch: Patch) -> None:
    patch.setattr(_ops, "norm_class", lambda op: "nn.BatchNorm2d")


@planted
def channels_padded_in_front(patch: Patch) -> None:
    text = _ops.SUPPORT[ops.PadChannels]
    patch.setitem(
        _ops.SUPPORT, ops.PadChannels, text.replace("0, self.channels - x.shape[1])", "self.channels - x.shape[1], 0)")
    )


@planted
def subsample_from_the_second(patch: Patch) -> None:
    text = _ops.SUPPORT[ops.Subsample]
    patch.setitem(_ops.SUPPORT, ops.Subsample, text.replace(":: self.height", "1 :: self.height"))


# --- forward ----------------------------------------------------------------------------------------------------------


@planted
def everything_in_place(patch: Patch) -> None:
    right = _ops.FORMS[ops.Act]
    patch.setitem(
        _ops.FORMS, ops.Act, _ops.Form(right.module, lambda layer, value, fresh: right.function(layer, value, True))
    )


@planted
def one_local_for_all(patch: Patch) -> None:
    patch.setattr(_classes.ClassWriter, "new_local", lambda self: "y")


def merged(name: str, merge: str, change: Callable[[list[Any]], list[Any]]) -> None:
    """A mistake in the order of branches."""

    def plant(patch: Patch) -> None:
        right = _classes.ClassWriter.join

        def wrong(self: Any, join: Any, value: Any, own: str, act: Any) -> Any:
            if join.merge == merge:
                join = replace(join, branches=change(join.branches))
            return right(self, join, value, own, act)

        patch.setattr(_classes.ClassWriter, "join", wrong)

    MUTANTS[name] = plant


merged("concat_reversed", "concat", lambda branches: branches[::-1])
merged("gate_inverted", "gate", lambda branches: [branches[2], branches[1], branches[0]])
merged("last_addend_forgotten", "add", lambda branches: branches[: max(2, len(branches) - 1)])


@planted
def survival_forgotten_in_evaluation(patch: Patch) -> None:
    right = _classes.ClassWriter.join

    def wrong(self: Any, join: Any, value: Any, own: str, act: Any) -> Any:
        return right(self, replace(join, survival=None), value, own, act)

    patch.setattr(_classes.ClassWriter, "join", wrong)
