"""The passes: functions from a network (and its weights) to a network, in the order in which they are applied.

Each is an option, declared here once and shared by every command that takes a network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from rescompile.errors import Diagnostic, UsageError, nearest
from rescompile.network import Network
from rescompile.passes.fold_batchnorm import fold_batchnorm
from rescompile.weights import Weights
from rescompile.wellformed import verify


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass: its option on the command line, the type of that option's value, and what it does.

    `apply` gets the network, its weights (None where there are none) and the option's value.
    """

    option: str
    type: type[Any]
    help: str
    apply: Callable[[Network, Weights | None, Any], tuple[Network, Weights | None]]

    @property
    def keyword(self) -> str:
        """The option's name in Python."""
        return self.option.replace("-", "_")


PASSES: tuple[Pass, ...] = (
    Pass(
        "fold-batchnorm",
        bool,
        "Fold norms and test-time survival factors into the convolutions before them, where that is exact.",
        fold_batchnorm,
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
