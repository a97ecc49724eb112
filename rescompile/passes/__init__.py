"""The passes: functions from a network (and its weights) to a network, in the order in which they are applied.

Each is an option, declared here once and shared by every command that takes a network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from rescompile.diagnostics.errors import Diagnostic, UsageError, nearest
from rescompile.ir.network import Network
from rescompile.ir.verifier import verify

if TYPE_CHECKING:
    from rescompile.weights import Weights


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass: its option on the command line, the type of that option's value, and whether the network stays the same
    function. One that is `made_of_weights` says nothing of a network without them.

    What it does is the function of its name in the module of its name, loaded when used: it gets the network, its weights
    (None where there are none) and the option's value, and returns network and weights.
    """

    option: str
    type: type[Any]
    help: str
    exact: bool = True
    made_of_weights: bool = False

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
        "drop",
        str,
        "Leave out the residual branches of these blocks, such as layer2.5,layer3.1, or these plain layers.",
        exact=False,
    ),
    Pass("swap", str, "Let residual blocks change places, two by two, such as layer2.3,layer2.5.", exact=False),
    Pass(
        "fold-batchnorm",
        bool,
        "Fold norms and test-time survival factors into the convolutions before them, where that is exact.",
    ),
    Pass(
        "form",
        str,
        "Grouped convolutions as in ResNeXt's figure 3: a (a sum of paths), b (a concatenation), c (as they are).",
    ),
    Pass(
        "join-groups",
        int,
        "Join groups of convolutions, zeros between them, until each has so many channels: 32 for int8 on processors.",
        made_of_weights=True,
    ),
)

#: What a value of each type is called.
_VALUES = {str: "text", bool: "true or false", int: "a whole number"}


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
        if value is not None and (not isinstance(value, step.type) or isinstance(value, bool) > (step.type is bool)):
            message = f"the value of the pass '{step.option}' is {_VALUES[step.type]}, and this is {value!r}"
            raise UsageError(Diagnostic("E0802", message))
        if isinstance(value, str):
            value = "".join(value.split())  # the record can be typed again without quotes
            if not value:
                raise UsageError(Diagnostic("E0802", f"the pass '{step.option}' is given nothing"))
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
