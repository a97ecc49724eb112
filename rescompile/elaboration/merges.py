"""Branches -> a Parallel of the tree: their shapes checked against the merge."""

from __future__ import annotations

from rescompile.analysis.paths import bounded
from rescompile.diagnostics.errors import ShapeError, one_of
from rescompile.elaboration.context import Context
from rescompile.elaboration.site import Built, Problem, Site
from rescompile.ir import ops
from rescompile.ir.network import Merge, Op, Parallel, Series, merge_shape, share, walk
from rescompile.ir.ops import Shape
from rescompile.ir.provenance import NO_HINTS, Hints


class MergeBuilder:
    """Builds merges of finished branches."""

    def __init__(self, context: Context) -> None:
        self.context, self.report, self.namer = context, context.report, context.namer

    def build(
        self,
        branches: list[Series],
        merge: Merge,
        site: Site,
        residual: bool = False,
        split: bool = False,
        hints: Hints = NO_HINTS,
    ) -> Built:
        """The node of a merge."""
        self.context.grow(site)
        try:
            output = merge_shape(merge, [branch.output for branch in branches])
        except ShapeError as error:
            raise self._misfit(error, branches, merge, site, residual) from None
        name = self.namer.automatic(merge, site, merge=True)
        origin = self.context.origin(site.path)
        node = Parallel(
            name, tuple(branches), merge, site.shape, output, residual, split=split, origin=origin, hints=hints
        )
        return [node], output

    def share(self, site: Site, branches: int, copies: str | int | None) -> Shape:
        """The shape of the input of each branch of a split."""
        try:
            return share(site.shape, branches)
        except ShapeError as error:
            key = "split" if copies is None else "copies"
            message = f"this parallel {error.message}"
            raise self.report.blamed(error.code, message, site.at(key), raw=copies, by_shape=True) from None

    def check_gate(self, gate: Series, site: Site) -> None:
        """Raise a problem where a gate does not end between 0 and 1."""
        if not bounded(gate):
            message = "the output of a gate must lie between 0 and 1, but this gate does not end in a sigmoid"
            raise self.report.blamed("E0207", message, site, f"end it with {one_of(ops.BOUNDED)}")

    def _misfit(self, error: ShapeError, branches: list[Series], merge: Merge, site: Site, residual: bool) -> Problem:
        """The problem of branches whose shapes do not fit together."""
        frame, made, kept = site.frame, branches[0].output, branches[-1].output
        message, help, where = error.message, error.help, site
        if residual and made != kept:
            verb, link = ("add", "to") if merge == "add" else ("blend", "with")
            message = f"cannot {verb} the branch output {list(made)} {link} the shortcut output {list(kept)}"
            help = _fitting_shortcut(made, site)
        elif merge == "gate":
            message = (
                f"the gate produces {list(branches[1].output)}, but the branch that it scales produces {list(made)}"
            )
            where = site.at("gate")
        elif any(isinstance(n, Op) and isinstance(n.kind, ops.Upsample) for b in branches for _, n in walk(b)):
            help = "upsample cannot restore a side that a stride did not divide evenly: change the input size"
        blame = "stride" if "stride" in frame.given else "width"
        return self.report.blamed(error.code, message, where, help, blame, by_shape=True)


def _fitting_shortcut(made: Shape, site: Site) -> str | None:
    """The shortcut of the library that would fit, as one would write it there."""
    shape, block = site.shape, site.frame.block
    if len(made) != 3 or len(shape) != 3:
        return None
    stride = next(
        (s for s in range(1, 9) if all(-(-n // s) == m for n, m in zip(shape[1:], made[1:], strict=True))), None
    )
    if stride is None:
        return f"the branch changes the map from {shape[1]}x{shape[2]} to {made[1]}x{made[2]}; 'padding: same' keeps the size"
    if block is not None and block.parameters.get("shortcut"):
        strided = f" with stride {stride}" if stride > 1 else ""
        return f"'shortcut: projection' maps {shape[0]} channels to {made[0]}{strided}"
    strided = f", stride: {stride}" if stride > 1 else ""
    return f"write shortcut: {{block: projection, channels: out_channels{strided}}}"
