"""Bugs planted into the core: the interpreter, costs, expressions, scopes and copies, canonical texts, `extends`,
records of files, forms. The other mutant modules cover backends and source; `tests/trust/` detects these bugs by a
second reading of random specs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from mutants import planted

from rescompile.analysis import cost
from rescompile.elaboration import op_builder
from rescompile.elaboration.blocks import BlockBuilder
from rescompile.elaboration.evaluator import Evaluator
from rescompile.elaboration.merges import MergeBuilder
from rescompile.elaboration.namer import Namer
from rescompile.elaboration.site import Names
from rescompile.elaboration.steps import StepBuilder
from rescompile.ir import expressions, op_evaluation
from rescompile.ir.network import Parallel, Side
from rescompile.ir.ops import Act, AdaptiveAvgPool, AvgPool, Conv, Linear, MaxPool, Norm, PadChannels, Upsample
from rescompile.lang import canonical, inheritance
from rescompile.passes import form as forming

features: Any = import_module("rescompile.elaboration.feature_outputs")
elaboration: Any = import_module("rescompile.elaboration")
metadata: Any = import_module("rescompile.backends.onnx.metadata")
artifact: Any = import_module("rescompile.backends.onnx.artifact")
Patch = pytest.MonkeyPatch

#: The bugs by name.
OF_THE_CORE: dict[str, Callable[[Patch], None]] = {}


def attribute(name: str, kind: Any, change: Callable[[Any], Any]) -> None:
    """Plant a bug in the interpreter: an op with changed attributes."""

    def plant(patch: Patch) -> None:
        right = op_evaluation.OPS[kind]
        patch.setitem(op_evaluation.OPS, kind, lambda op, x, tensors: right(change(op), x, tensors))

    OF_THE_CORE[name] = plant


attribute(
    "interpreter_turns_padding",
    Conv,
    lambda op: replace(op, padding=op.pads[::-1]) if op.kernel[0] == op.kernel[1] else op,
)
attribute("interpreter_drops_the_bias", Linear, lambda op: replace(op, bias=False))
attribute("interpreter_counts_padding", AvgPool, lambda op: replace(op, count_pad=True))
attribute("interpreter_rounds_down", MaxPool, lambda op: replace(op, ceil=False))
attribute("interpreter_knows_one_eps", Norm, lambda op: replace(op, eps=1e-5))
attribute("interpreter_knows_one_slope", Act, lambda op: replace(op, slope=0.01))
attribute("interpreter_resizes_by_neighbours", Upsample, lambda op: replace(op, kind="nearest"))


def merge(name: str, word: str, change: Callable[[Any], Any]) -> None:
    """Plant a bug in the interpreter: a merge of changed values."""

    def plant(patch: Patch) -> None:
        right = op_evaluation.MERGES[word]
        patch.setitem(op_evaluation.MERGES, word, lambda values: right(change(values)))

    OF_THE_CORE[name] = plant


merge("interpreter_inverts_gates", "gate", lambda values: [values[2], values[1], values[0]])
merge("interpreter_reverses_concat", "concat", lambda values: values[::-1])
merge("interpreter_forgets_a_factor", "mul", lambda values: values[:1])


@planted(OF_THE_CORE)
def interpreter_pads_channels_with_ones(patch: Patch) -> None:
    right = op_evaluation.OPS[PadChannels]

    def wrong(op: PadChannels, x: Any, tensors: Any) -> Any:
        made = right(op, x, tensors)
        return np.concatenate([made[:, : x.shape[1]], np.ones_like(made[:, x.shape[1] :])], axis=1)

    patch.setitem(op_evaluation.OPS, PadChannels, wrong)


@planted(OF_THE_CORE)
def interpreter_bins_do_not_overlap(patch: Patch) -> None:
    def bins(size: int, count: int) -> Any:
        return [slice(i * size // count, max((i + 1) * size // count, i * size // count + 1)) for i in range(count)]

    assert AdaptiveAvgPool
    patch.setattr(op_evaluation, "_bins", bins)


# --- costs ------------------------------------------------------------------------------------------------------------


@planted(OF_THE_CORE)
def macs_ignore_groups(patch: Patch) -> None:
    right = Conv.macs
    patch.setattr(Conv, "macs", lambda self, shape: right(replace(self, groups=1), shape))


@planted(OF_THE_CORE)
def macs_ignore_strides(patch: Patch) -> None:
    right = Conv.macs
    patch.setattr(Conv, "macs", lambda self, shape: right(replace(self, stride=(1, 1)), shape))


@planted(OF_THE_CORE)
def statistics_count_as_parameters(patch: Patch) -> None:
    def wrong(path: str, node: Any) -> Any:
        owned = node.kind.parameters(node.input)
        return replace(cost._op(path, node), parameters=sum(parameter.size for parameter in owned))

    patch.setattr(
        cost, "COST", cost.COST._replace(op=wrong) if hasattr(cost.COST, "_replace") else replace(cost.COST, op=wrong)
    )


@planted(OF_THE_CORE)
def training_heads_count_in_evaluation(patch: Patch) -> None:
    patch.setattr(cost, "COST", replace(cost.COST, side=lambda path, node, inside: inside))


# --- expressions and copies -------------------------------------------------------------------------------------------


def arithmetic(name: str, table: str, sign: str, wrong: Callable[[Any, Any], Any]) -> None:
    """Plant another function for an operator of expressions."""
    OF_THE_CORE[name] = lambda patch: patch.setitem(getattr(expressions, table), sign, wrong)


arithmetic("division_rounds", "_ARITHMETIC", "/", lambda a, b: round(a / b))
arithmetic("whole_division_rounds_up", "_ARITHMETIC", "//", lambda a, b: -(-a // b))
arithmetic("more_is_also_equal", "_ORDER", ">", lambda a, b: a >= b)
arithmetic("power_is_product", "_ARITHMETIC", "**", lambda a, b: a * b)
arithmetic("remainder_is_division", "_ARITHMETIC", "%", lambda a, b: a // b)


@planted(OF_THE_CORE)
def condition_of_a_block_is_that_of_the_first_copy(patch: Patch) -> None:
    """This bug once existed."""
    blocks: Any = import_module("rescompile.elaboration.blocks")
    right = blocks._differs_among_copies
    patch.setattr(blocks, "_differs_among_copies", lambda value: right(value[1:] if len(value) == 3 else value))


@planted(OF_THE_CORE)
def copies_count_from_one(patch: Patch) -> None:
    right = BlockBuilder.bind

    def wrong(self: Any, use: Any, word: str, site: Any, copy: Any) -> Any:
        return right(self, use, word, site, {**copy, "index": copy["index"] + 1} if copy else copy)

    patch.setattr(BlockBuilder, "bind", wrong)


@planted(OF_THE_CORE)
def lets_come_too_late(patch: Patch) -> None:
    """A let is evaluated in the body, with the channels of the step that uses it."""
    right = Evaluator.evaluate

    def wrong(self: Any, raw: Any, site: Any, words: Any = ()) -> Any:
        block = site.frame.block
        if isinstance(raw, str) and block is not None and raw in block.let:
            return right(self, block.let[raw], site, words)
        return right(self, raw, site, words)

    patch.setattr(Evaluator, "evaluate", wrong)


@planted(OF_THE_CORE)
def copies_of_a_branch_are_alike(patch: Patch) -> None:
    right = StepBuilder.parallel

    def wrong(self: Any, step: Any, site: Any) -> Any:
        nodes, shape = right(self, step, site)
        if step.parallel.copies is None or step.parallel.merge == "concat":
            return nodes, shape
        (node,) = nodes
        first = node.branches[0].children[0]
        branches = tuple(replace(b, children=(replace(first, name=b.children[0].name),)) for b in node.branches)
        return [replace(node, branches=branches)], shape

    patch.setattr(StepBuilder, "parallel", wrong)


# --- names ------------------------------------------------------------------------------------------------------------


@planted(OF_THE_CORE)
def merges_take_no_number(patch: Patch) -> None:
    right = Namer.automatic

    def wrong(self: Any, word: str, site: Any, owns: bool = False, merge: bool = False) -> str:
        count = site.names.count
        name: str = right(self, word, site, owns, merge)
        if merge and site.names.numbered:
            site.names.count = count
            del site.names.taken[name]
            name = f"{word}{count}"
        return name

    patch.setattr(Namer, "automatic", wrong)


@planted(OF_THE_CORE)
def shortcuts_take_numbers(patch: Patch) -> None:
    patch.setattr(Names, "unnumbered", lambda self: self)


@planted(OF_THE_CORE)
def members_of_the_block_are_forgotten(patch: Patch) -> None:
    right = BlockBuilder._copies

    def wrong(self: Any, use: Any, word: str, depth: int, site: Any) -> Any:
        block = self.spec.blocks[word]
        if site.name is None:
            return right(self, use, word, depth, site)
        with pytest.MonkeyPatch.context() as inside:
            inside.setattr(block, "members", None)
            return right(self, use, word, depth, site)

    patch.setattr(BlockBuilder, "_copies", wrong)


# --- attributes, features, survival -----------------------------------------------------------------------------------


@planted(OF_THE_CORE)
def init_of_the_network_before_that_of_an_op(patch: Patch) -> None:
    right = op_builder.OpBuilder._written

    def wrong(self: Any, word: str, given: Any, site: Any, copy: Any) -> Any:
        for name, raw, where in right(self, word, given, site, copy):
            yield name, (self.spec.init or raw) if name == "init" else raw, where

    patch.setattr(op_builder.OpBuilder, "_written", wrong)


@planted(OF_THE_CORE)
def defaults_of_an_op_are_forgotten(patch: Patch) -> None:
    right = op_builder.OpBuilder._written

    def wrong(self: Any, word: str, given: Any, site: Any, copy: Any) -> Any:
        defaults = self.spec.defaults.get(word, {})
        return (row for row in right(self, word, given, site, copy) if row[0] in given or row[0] not in defaults)

    patch.setattr(op_builder.OpBuilder, "_written", wrong)


@planted(OF_THE_CORE)
def features_lie_before_their_part(patch: Patch) -> None:
    right = features.rewrite

    def wrong(root: Any, change: Any) -> Any:
        def other(path: str, node: Any) -> Any:
            made = change(path, node)
            if isinstance(made, tuple) and node.input == node.output:
                return made[::-1]
            return made

        return right(root, other)

    patch.setattr(features, "rewrite", wrong)


@planted(OF_THE_CORE)
def survival_reaches_every_merge_that_adds(patch: Patch) -> None:
    right = MergeBuilder.build

    def wrong(self: Any, branches: Any, word: Any, site: Any, residual: bool = False, **more: Any) -> Any:
        return right(self, branches, word, site, residual or (word == "add" and len(branches) == 2), **more)

    patch.setattr(MergeBuilder, "build", wrong)


@planted(OF_THE_CORE)
def heads_of_training_are_always_computed(patch: Patch) -> None:
    right = StepBuilder._side

    def wrong(self: Any, step: Any, site: Any) -> Any:
        (node,), shape = right(self, step, site)
        assert isinstance(node, Side)
        return [replace(node, mode="always") if node.mode == "training" else node], shape

    patch.setattr(StepBuilder, "_side", wrong)


# --- texts, inheritance, records, forms -------------------------------------------------------------------------------


def left_out(name: str, key: str) -> None:
    """Plant a bug in the canonical text: it omits a key."""
    OF_THE_CORE[name] = lambda patch: patch.setattr(canonical, "LEFT_OUT", (*canonical.LEFT_OUT, key))


left_out("canonical_without_init", "init")
left_out("canonical_without_survival", "survival")
left_out("canonical_without_features", "features")
left_out("canonical_without_defaults", "when")


@planted(OF_THE_CORE)
def canonical_rounds_numbers(patch: Patch) -> None:
    right = canonical._flow
    patch.setattr(canonical, "_flow", lambda item: f"{item:.1f}" if isinstance(item, float) else right(item))


@planted(OF_THE_CORE)
def settings_of_a_base_win(patch: Patch) -> None:
    right = inheritance._merge_keys

    def wrong(base: Any, child: Any, merged: Any) -> Any:
        found = right(base, child, merged)
        old = base.get("parameters")
        return (
            found
            if old is None or child.get("parameters") is None
            else found.put("parameters", right(child.get("parameters"), old, {}))
        )

    patch.setattr(inheritance, "_merge_keys", wrong)


@planted(OF_THE_CORE)
def blocks_of_a_child_replace_all(patch: Patch) -> None:
    patch.setattr(inheritance, "MERGED", {key: depth for key, depth in inheritance.MERGED.items() if key != "blocks"})


@planted(OF_THE_CORE)
def files_forget_their_seed(patch: Patch) -> None:
    patch.setattr(metadata, "origin", lambda weights: None)


@planted(OF_THE_CORE)
def files_forget_their_passes(patch: Patch) -> None:
    right = artifact.emit
    module: Any = import_module("rescompile.backends.onnx")
    patch.setattr(
        module,
        "emit",
        lambda network, weights, **given: right(replace(network, passes=()), weights, **given),
        raising=False,
    )


@planted(OF_THE_CORE)
def paths_all_have_the_bias(patch: Patch) -> None:
    right = forming._Splitter.part

    def wrong(self: Any, run: Any, atom: Any, at: int, *rest: Any) -> Any:
        return right(self, run, atom, 0 if run.added and atom is run.atoms[-1] else at, *rest)

    patch.setattr(forming._Splitter, "part", wrong)


@planted(OF_THE_CORE)
def paths_in_another_order(patch: Patch) -> None:
    right = forming._Splitter.paths

    def wrong(self: Any, run: Any, inner: str) -> Any:
        made = right(self, run, inner)
        (merged,) = made.node.children
        assert isinstance(merged, Parallel)
        turned = replace(merged, branches=merged.branches[::-1])
        return replace(made, node=replace(made.node, children=(turned,)))

    patch.setattr(forming._Splitter, "paths", wrong)
