"""Bugs planted into kept values: which values are kept, where they are visible, and what may be overwritten. The
program interpreter detects those in the code that the interpreter shares with ONNX."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
from mutants import planted

from rescompile.codegen.forward import Forward, Value
from rescompile.codegen.kept_values import ValueScope
from rescompile.elaboration import references
from rescompile.elaboration.blocks import BlockBuilder
from rescompile.ir import traversal

Patch = pytest.MonkeyPatch

#: The bugs by name.
OF_VALUES: dict[str, Callable[[Patch], None]] = {}


@planted(OF_VALUES)
def thread_lets_blocks_change_all_values(patch: Patch) -> None:
    patch.setattr(traversal, "shared", lambda node, kept: kept)


@planted(OF_VALUES)
def thread_keeps_the_first_value(patch: Patch) -> None:
    class First(dict[Any, Any]):
        def __setitem__(self, key: Any, value: Any) -> None:
            self.setdefault(key, value)

    right = traversal._threaded
    patch.setattr(traversal, "thread", lambda node, value, rules, path="": right(node, value, rules, path, First()))
    from rescompile.ir import interpreter

    patch.setattr(interpreter, "thread", traversal.thread)


@planted(OF_VALUES)
def kept_again_is_ignored(patch: Patch) -> None:
    right = references.keep

    def keep(step: Any, site: Any, context: Any) -> Any:
        known = dict(site.kept.own)
        nodes, shape = right(step, site, context)
        return ([] if nodes[0].key in known else nodes), shape  # type: ignore[union-attr]

    patch.setattr(references, "keep", keep)


@planted(OF_VALUES)
def indices_are_forgotten(patch: Patch) -> None:
    right = references._key

    def key(text: str, site: Any, context: Any) -> Any:
        (name, index), hints = right(text, site, context)
        return (name, index and 0), hints

    patch.setattr(references, "_key", key)


@planted(OF_VALUES)
def calls_hand_nothing_on(patch: Patch) -> None:
    right = BlockBuilder._series

    def series(self: BlockBuilder, *given: Any) -> Any:
        made = right(self, *given)
        assert made.call is not None
        return replace(made, call=replace(made.call, values=()))

    patch.setattr(BlockBuilder, "_series", series)


@planted(OF_VALUES)
def source_shares_the_values_of_macros(patch: Patch) -> None:
    patch.setattr(ValueScope, "inside", lambda self, call: nullcontext())


@planted(OF_VALUES)
def source_overwrites_what_is_kept(patch: Patch) -> None:
    right = Forward.kept
    patch.setattr(Forward, "kept", lambda self, *given: Value(right(self, *given).expr, fresh=True))


@planted(OF_VALUES)
def source_uses_the_oldest_value(patch: Patch) -> None:
    right = Forward.kept

    def kept(self: Forward, body: Any, item: Any, value: Any, own: str) -> Any:
        before = dict(self.values.now)
        found = right(self, body, item, value, own)
        self.values.now |= before
        return found

    patch.setattr(Forward, "kept", kept)
