"""Branches -> a Parallel of the tree: checks their shapes against the merge."""

from __future__ import annotations

from rescompile.diagnostics.errors import ShapeError, one_of
from rescompile.elaboration.context import Context
from rescompile.elaboration.evaluator import whole
from rescompile.elaboration.site import Built, Problem, Site, Value
from rescompile.ir import ops
from rescompile.ir.expressions import show
from rescompile.ir.network import Merge, Op, Parallel, Series, Unit, merge_shape, ranges, share, walk
from rescompile.ir.ops import Shape
from rescompile.ir.ops.op import size_text
from rescompile.ir.provenance import NO_HINTS, Hints


class MergeBuilder:
    """Builds merges of finished branches."""

    def __init__(self, context: Context) -> None:
        self.context, self.report, self.namer = context, context.report, context.namer
        self.evaluator = context.evaluator

    def build(
        self,
        branches: list[Series],
        merge: Merge,
        site: Site,
        residual: bool = False,
        split: bool = False,
        sizes: tuple[int, ...] = (),
        hints: Hints = NO_HINTS,
        unit: Unit | None = None,
    ) -> Built:
        """Return the node of a merge; with `split`, its branches receive ranges of the channels, of these `sizes` if they
        are given; `unit` is the unit for which a random merge draws."""
        self.context.grow(site)
        self.context.build(site)
        try:
            output = merge_shape(merge, [branch.output for branch in branches])
        except ShapeError as error:
            raise self._misfit(error, branches, merge, site, residual) from None
        name = self.namer.automatic(merge, site, merge=True)
        origin = self.context.origin(site.path)
        node = Parallel(
            name, tuple(branches), merge, site.shape, output, residual, split=split, origin=origin, hints=hints,
            sizes=sizes, unit=unit,
        )  # fmt: skip
        return [node], output

    def split(
        self, raw: Value, site: Site, count: int, copies: str | int | None
    ) -> tuple[list[Shape], tuple[int, ...]]:
        """Return the shape of the input of each of `count` branches of a split, none if branches share their input; and
        the channels of each, if they are listed."""
        at = site.at("split")
        value = whole(self.evaluator.evaluate(raw, at))
        if isinstance(value, list):
            return self._ranges(value, at, count, raw), tuple(value)
        if not isinstance(value, bool):
            message = f"'split' must be true, false or a list of channels, got {show(value)}"
            raise self.report.blamed("E0304", message, at, raw=raw)
        return [self._share(site, count, copies)] * count if value else [], ()

    def _ranges(self, sizes: list[Value], site: Site, count: int, raw: Value) -> list[Shape]:
        """Return the ranges of the listed sizes."""
        if len(sizes) != count:
            message = f"'split' has {len(sizes)} sizes for {count} branches"
            raise self.report.blamed("E0307", message, site, "give the channels of each branch", raw)
        for at, size in enumerate(sizes):
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                message = f"the channels of a branch must be an integer of at least 1, got {show(size)}"
                where, own = (site.at(at), raw[at]) if isinstance(raw, list) else (site, raw)
                raise self.report.blamed("E0304", message, where, raw=own)
        try:
            return list(ranges(site.shape, sizes))
        except ShapeError as error:
            raise self.report.blamed(
                error.code, f"this parallel {error.message}", site, raw=raw, by_shape=True
            ) from None

    def _share(self, site: Site, branches: int, copies: str | int | None) -> Shape:
        """Return the shape of each of this many equal ranges."""
        try:
            return share(site.shape, branches)
        except ShapeError as error:
            key = "split" if copies is None else "copies"
            message = f"this parallel {error.message}"
            raise self.report.blamed(error.code, message, site.at(key), raw=copies, by_shape=True) from None

    def check_gate(self, gate: Series, site: Site) -> None:
        """Raise a problem if a gate does not end between 0 and 1."""
        from rescompile.analysis.paths import bounded

        if not bounded(gate):
            message = "the output of a gate must lie between 0 and 1, but this gate does not end in a sigmoid"
            raise self.report.blamed("E0207", message, site, f"end it with {one_of(ops.BOUNDED)}")

    def _misfit(self, error: ShapeError, branches: list[Series], merge: Merge, site: Site, residual: bool) -> Problem:
        """Return the problem of branches whose shapes do not match."""
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
    """Return the shortcut of the library that would fit, as written in a spec."""
    shape, block = site.shape, site.frame.block
    if len(made) != len(shape) or len(shape) == 1:
        return None
    stride = next(
        (s for s in range(1, 9) if all(-(-n // s) == m for n, m in zip(shape[1:], made[1:], strict=True))), None
    )
    if stride is None:
        return f"the branch changes the map from {size_text(shape[1:])} to {size_text(made[1:])}; 'padding: same' keeps the size"
    if block is not None and block.parameters.get("shortcut"):
        strided = f" with stride {stride}" if stride > 1 else ""
        return f"'shortcut: projection' maps {shape[0]} channels to {made[0]}{strided}"
    strided = f", stride: {stride}" if stride > 1 else ""
    return f"write shortcut: {{block: projection, channels: out_channels{strided}}}"
