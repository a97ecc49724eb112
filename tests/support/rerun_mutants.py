"""Bugs planted into steps that run again, means of branches, and maps with one and three axes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from mutants import planted
from source_mutants import program_mutant

from rescompile.analysis import cost
from rescompile.codegen import classes
from rescompile.codegen.statements import Element, Merged
from rescompile.elaboration import evaluator, references, stochastic_depth
from rescompile.ir import op_evaluation, ops, traversal
from rescompile.ir.network import Series

Patch = pytest.MonkeyPatch

#: The bugs by name.
OF_RERUNS: dict[str, Callable[[Patch], None]] = {}


@planted(OF_RERUNS)
def a_rerun_has_the_shapes_of_the_first_place(patch: Patch) -> None:
    patch.setattr(references, "refitted", lambda nodes, _: Series(tuple(nodes), nodes[0].input, nodes[-1].output))


@planted(OF_RERUNS)
def a_rerun_computes_nothing(patch: Patch) -> None:
    patch.setattr(references, "again", lambda step, site, context: ([], site.shape))


@planted(OF_RERUNS)
def a_rerun_costs_nothing(patch: Patch) -> None:
    patch.setattr(cost, "COST", replace(cost.COST, again=lambda *_: cost.Cost()))


@planted(OF_RERUNS)
def a_rerun_owns_parameters(patch: Patch) -> None:
    patch.setattr(cost, "COST", replace(cost.COST, again=lambda _, __, own: own))


@planted(OF_RERUNS)
def the_first_step_runs_again(patch: Patch) -> None:
    right = references.again

    def again(step: Any, site: Any, context: Any) -> Any:
        first = next(iter(site.names.built), step.again)
        return right(step.model_copy(update={"again": first}), site, context)

    patch.setattr(references, "again", again)


@planted(OF_RERUNS)
def survival_is_forgotten_where_a_step_runs_again(patch: Patch) -> None:
    right = stochastic_depth.rewrite

    def rewrite(root: Series, fn: Any) -> Series:
        with pytest.MonkeyPatch.context() as inside:
            inside.setattr(traversal, "_once_more", lambda again, *_: again)
            return right(root, fn)

    patch.setattr(stochastic_depth, "rewrite", rewrite)


@planted(OF_RERUNS)
def means_are_sums(patch: Patch) -> None:
    patch.setitem(op_evaluation.MERGES, "mean", op_evaluation.MERGES["add"])


@planted(OF_RERUNS)
def shake_adds(patch: Patch) -> None:
    patch.setitem(op_evaluation.MERGES, "shake", op_evaluation.MERGES["add"])


@planted(OF_RERUNS)
def a_size_hides_parameters(patch: Patch) -> None:
    """This bug once existed: if the name of one size was used, the name of another was a size too."""
    patch.setattr(evaluator.Evaluator, "_size", lambda self, mentioned, site: evaluator.sizes_of(site.shape))


@planted(OF_RERUNS)
def depth_is_the_height_of_a_volume(patch: Patch) -> None:
    names = {1: ("length",), 2: ("height", "width"), 3: ("height", "width", "depth")}
    patch.setattr(evaluator, "AXIS_NAMES", names)


@planted(OF_RERUNS)
def sizes_default_to_two_axes(patch: Patch) -> None:
    patch.setattr(ops, "default_sizes", lambda word, axes: {})


@planted(OF_RERUNS)
def unflatten_makes_images(patch: Patch) -> None:
    patch.setattr(ops.Unflatten, "output", lambda self, shape: (*shape, 1, 1))


# --- programs ---------------------------------------------------------------------------------------------------------


@planted(OF_RERUNS)
def classes_run_nothing_again(patch: Patch) -> None:
    patch.setattr(classes.ClassBuilder, "rerun", lambda self, column, here: ([], here.flow))


def _sum(part: Any) -> Any:
    return replace(part, how="add") if isinstance(part, Merged) and part.how in ("mean", "shake") else part


def _first(part: Any) -> Any:
    return replace(part, index=0) if isinstance(part, Element) else part


program_mutant("programs_add_for_a_mean", _sum, OF_RERUNS)
program_mutant("kept_values_have_one_index", _first, OF_RERUNS)
