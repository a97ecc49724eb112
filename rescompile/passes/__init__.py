"""The passes: functions from a network (and its weights) to a network, in the order in which they are applied.

Each is an option, declared here once and shared by every command that takes a network.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from rescompile.diagnostics.errors import UsageError, nearest
from rescompile.ir.network import Network
from rescompile.ir.verifier import verify
from rescompile.options import Option, assignment, read
from rescompile.records import record

if TYPE_CHECKING:
    from rescompile.weights import Weights


@record
class Pass(Option):
    """One pass, which is an option. `exact` means that the network stays the same function; `made_of_weights` means that the
    pass changes nothing in a network without weights. The pass is the function of this name in the module of this name, which
    is imported when it is used. It takes the network, its weights (or None) and the option's value, and returns network and
    weights.
    """

    exact: bool = True
    made_of_weights: bool = False

    def _read(self, value: Any) -> Any:
        """Return the parsed value. Passes that are not booleans require one: `form` alone does not mean `form=a`."""
        return None if value is None and self.type is not bool else Option._read(self, value)

    @property
    def keyword(self) -> str:
        """The option's name in Python."""
        return self.name.replace("-", "_")

    def apply(self, network: Network, weights: Weights | None, value: Any) -> tuple[Network, Weights | None]:
        """Return the network and its weights after the pass."""
        function = getattr(import_module(f"rescompile.passes.{self.keyword}"), self.keyword)
        changed: tuple[Network, Weights | None] = function(network, weights, value)
        return changed


PASSES: tuple[Pass, ...] = (
    Pass(
        "drop", str, None,
        "Drop the residual branches of these blocks, or these layers: layer2.5,layer3.1.",
        exact=False,
    ),
    Pass("swap", str, None, "Swap residual blocks, in pairs: layer2.3,layer2.5.", exact=False),
    Pass(
        "fold-batchnorm", bool, None,
        "Fold norms, test-time survival factors and standardised weights, where exact.",
    ),
    Pass(
        "fuse-branches", bool, None,
        "Fuse convolutions and norms whose results are added into one convolution.",
    ),
    Pass(
        "form", str, None,
        "Rewrite grouped convolutions as in ResNeXt's figure 3: a sums, b concatenates.",
        choices=("a", "b", "c"),
    ),
    Pass(
        "join-groups", int, None,
        "Join groups of convolutions up to this many channels: 32 for int8 on CPUs.",
        0, 1 << 24, made_of_weights=True,
    ),
)  # fmt: skip


def apply(
    network: Network, weights: Weights | None = None, options: Mapping[str, Any] | None = None
) -> tuple[Network, Weights | None]:
    """Apply the passes that `options` turn on, by keyword, in the order of the table; the tree is verified after each."""
    options = options or {}
    known = {step.keyword for step in PASSES}
    for keyword in options:
        if keyword not in known:
            raise UsageError.of("E0802", f"there is no pass '{keyword}'", help=nearest(keyword, known))
    for step in PASSES:
        value = options.get(step.keyword)
        if value is not None:
            value = step.parse(value)
        if isinstance(value, str):
            value = "".join(value.split())  # so that the record can be typed again without quotes
            if not value:
                raise UsageError.of("E0802", f"{step.name} needs a value: {step.values}")
        if value:
            network, weights = step.apply(network, weights, value)
            record = step.name if value is True else f"{step.name}={value}"
            network = replace(network, passes=(*network.passes, record))
            verify(network)
    return network, weights


def options(records: Iterable[str], owner: str = "this version") -> dict[str, Any]:
    """Return the options that records of passes denote, with which `apply` repeats them. Raises UsageError for one that
    `owner` does not accept."""
    values = read(map(assignment, records), PASSES, owner, "pass")
    return {step.keyword: values[step.name] for step in PASSES if step.name in values}
