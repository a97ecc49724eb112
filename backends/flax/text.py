"""The text of a file in Flax NNX, and what Flax does not support; writing it requires neither JAX nor Flax."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from rescompile import source_target
from rescompile.codegen.class_plan import Scan
from rescompile.codegen.planner import plan_classes
from rescompile.codegen.refusals import refuse_names
from rescompile.codegen.scanned_rows import scans, with_scans
from rescompile.diagnostics.errors import Unavailable, UsageError
from rescompile.ir.network import Network, Node, Parallel, Side, children, walk

from .dialect import OWN, Flax

_DIALECTS = {
    (variance, scan): Flax(variance == "unbiased", scan)
    for variance in ("biased", "unbiased")
    for scan in (False, True)
}
#: Attributes of nnx.Module, and those that its `train` and `eval` set in every module that has them.
_MODULE = frozenset({
    "deterministic", "eval", "iter_children", "iter_modules", "perturb", "set_attributes", "sow", "train", "use_running_average",
})  # fmt: skip


def check(network: Network) -> None:
    """Raise Unavailable for what Flax cannot do: the results of nnx.cond have fixed shapes, and NNX reserves attributes
    of its modules."""
    refuse_names(network, OWN | _MODULE, Flax.title)
    for path, node in walk(network.root):
        skipped = isinstance(node, Parallel) and node.survival is not None and node.survival.unit == "batch"
        if skipped and (inside := _output_inside(children(node)[0])) is not None:
            message = f"{path} may be dropped in training, so Flax cannot give the output '{inside}' from inside it"
            raise Unavailable.of("E0901", message, help="use 'unit: sample', or another target")


def _output_inside(node: Node) -> str | None:
    """Return an output inside a branch, or None."""
    sides = (side for _, side in walk(node) if isinstance(side, Side) and side.mode != "never")
    return next((side.output_name for side in sides if side.output_name), None)


def source(
    network: Network,
    style: str = "classes",
    free: Mapping[str, Any] = MappingProxyType({}),
    running_variance: str = "biased",
    scan: bool = False,
) -> str:
    """Return the text of the file without its checksum trailer; its docstring describes the `free` axes of the
    image."""
    return source_target.text_of(network, _DIALECTS[running_variance, scan], style, free)


def scans_of(network: Network, style: str = "classes") -> tuple[Scan, ...]:
    """Return the scans that the option `scan` requests. Raises UsageError in a style that writes every block out, and
    Unavailable if no row has equal copies."""
    if style == "flat":
        message = "the style 'flat' has one class per block, but one scan runs several blocks of one class"
        raise UsageError.of("E0802", message, help="use 'classes' or 'modules'")
    found = scans(with_scans(plan_classes(network, Flax.reserved)))
    if not found:
        message = f"no row of {network.name} has neighbouring blocks that are equal, so there is nothing to scan"
        raise Unavailable.of("E0901", message, help="build it without the option 'scan'")
    return found
