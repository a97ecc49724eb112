"""What training drops: stochastic depth (Huang et al. 2016) assigns survival probabilities to the outermost residuals
of a network, and drop-path (Larsson et al. 2017) requires merges with branches that it may drop."""

from __future__ import annotations

from dataclasses import replace

from rescompile.analysis.residuals import residuals
from rescompile.diagnostics.errors import ShapeError
from rescompile.ir.network import Node, Parallel, Series, Survival, walk
from rescompile.ir.traversal import rewrite
from rescompile.lang.spec.spec import DropPath, ProbabilityList
from rescompile.lang.spec.spec import Survival as Schedule


def probabilities(schedule: Schedule, count: int) -> list[float]:
    """Return p_1 ... p_L of `count` residuals.

    linear: p_l = 1 - l / L * (1 - last), the paper's. linear_zero_based: from 1 for the first to `last`, timm's; a
    single residual always survives. uniform: `last` everywhere. Raises ShapeError if a list has another length.
    """
    if isinstance(schedule.schedule, ProbabilityList):
        listed = [float(p) for p in schedule.schedule.each]
        if len(listed) != count:
            raise ShapeError(
                "E0601",
                f"the schedule lists {_number(len(listed), 'probability', 'probabilities')}, but the network has "
                f"{_number(count, 'residual', 'residuals')}",
                "schedule",
            )
        return listed
    assert schedule.last is not None
    last = float(schedule.last)
    if schedule.schedule == "uniform":
        return [last] * count
    if schedule.schedule == "linear":
        return [1 - number / count * (1 - last) for number in range(1, count + 1)]
    return [1 - index / max(count - 1, 1) * (1 - last) for index in range(count)]


def _number(count: int, one: str, many: str) -> str:
    """Return a number with its noun: `1 residual`, `2 residuals`."""
    return f"{count} {one if count == 1 else many}"


def add_survival(root: Series, schedule: Schedule) -> Series:
    """Return the tree with every outermost residual numbered 1..L in order and assigned its probability.

    Residuals inside another residual do not count, nor do those of side branches. Raises ShapeError if there are none.
    """
    names = residuals(root)
    if not names:
        raise ShapeError(
            "E0601", "'survival' has no effect, because the network has no residual", help="remove 'survival'"
        )
    values = dict(zip(names, probabilities(schedule, len(names)), strict=True))

    def survive(path: str, node: Node) -> Node:
        if not isinstance(node, Parallel) or path not in values:
            return node
        return replace(node, survival=Survival(values[path], schedule.unit, schedule.rescale))

    return rewrite(root, survive)


def check_drop_path(root: Series, _: DropPath) -> Series:
    """Return the tree unchanged. Raises ShapeError if no merge has branches to drop."""
    if not any(
        isinstance(node, Parallel) and node.merge == "mean" and len(node.branches) > 1 for _, node in walk(root)
    ):
        message = "'drop_path' has no effect, because the network has no 'merge: mean' of several branches"
        raise ShapeError("E0605", message, help="remove 'drop_path', or average branches: {merge: mean, ...}")
    return root
