"""The passes: functions from a network (and its weights) to a network, in the order in which they are applied.

Each is an option, declared here once and shared by every command that takes a network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from rescompile.errors import Diagnostic, UsageError, nearest
from rescompile.network import Network
from rescompile.wellformed import verify

if TYPE_CHECKING:
    from rescompile.weights import Weights


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass: its option on the command line, and the type of that option's value.

    What it does is the function of its name in the module of its name, loaded when used: it gets the network, its weights
    (None where there are none) and the option's value, and returns network and weights.
    """

    option: str
    type: type[Any]
    help: str

    @property
    def keyword(self) -> str:
        """The option's name in Python."""
        return self.option.replace("-", "_")

    def apply(self, network: Network, weights: Weights | None, value: Any) -> tuple[Network, Weights | None]:
        """The network and its weights after the pass."""
        function = getattr(import_module(f"rescompile.passes.{self.keyword}"), self.keyword)
        changed: tuple[Network, Weights | None] = function(network, weights, value)
        return changed


PASSES: tuple[Pass, ...] = (
    Pass(
        "fold-batchnorm",
        bool,
        "Fold norms and test-time survival factors into the convolutions before them, where that is exact.",
    ),
)


def apply(
    network: Network, weights: Weights | None = None, options: Mapping[str, Any] | None = None
) -> tuple[Network, Weights | None]:
    """Apply the passes that `options` turn on, by keyword, in the order of the table; the tree is verified after each."""
    options = options or {}
    known = {step.keyword for step in PASSES}
    for keyword in options:
        if keyword not in known:
            raise UsageError(Diagnostic("E0802", f"there is no pass '{keyword}'", help=nearest(keyword, known)))
    for step in PASSES:
        value = options.get(step.keyword)
        if value:
            network, weights = step.apply(network, weights, value)
            record = step.option if value is True else f"{step.option}={value}"
            network = replace(network, passes=(*network.passes, record))
            verify(network)
    return network, weights


def options(recorded: Sequence[str]) -> dict[str, Any]:
    """The options that records of passes stand for: `apply` with them does the same again."""
    found: dict[str, Any] = {}
    kinds = {step.option: step for step in PASSES}
    for record in recorded:
        option, equals, value = record.partition("=")
        step = kinds[option]
        found[step.keyword] = step.type(value) if equals else True
    return found
