"""`keep` and `use`: the leaves of the tree that name a value and continue from it, checked against the known values."""

from __future__ import annotations

from rescompile.diagnostics.errors import nearest
from rescompile.elaboration.context import Context
from rescompile.elaboration.site import Built, Site
from rescompile.ir.network import Keep, Key, Recall, value_name
from rescompile.ir.provenance import NO_HINTS, Hints
from rescompile.lang.spec.steps import KeepStep, RecallStep
from rescompile.lang.spec.values import kept_name


class ValueBuilder:
    """Builds the leaves that keep and recall values."""

    def __init__(self, context: Context) -> None:
        self.context, self.report, self.evaluator = context, context.report, context.evaluator

    def keep(self, step: KeepStep, site: Site) -> Built:
        """Return the node that names the value before it. Raises a problem in a branch if the name is that of a
        value outside."""
        key, hints = self._key(step.keep, site)
        if site.kept.keeps_outside(key):
            message = f"'{value_name(key)}' was already kept outside this branch, so the branch cannot keep it again"
            help = "keep it under another name here, or after the merge"
            raise self.report.blamed("E0413", message, site, help, step.keep)
        site.kept.keep(key, site.shape)
        return [Keep(key, site.shape, hints, self.context.origin(site.path))], site.shape

    def recall(self, step: RecallStep, site: Site) -> Built:
        """Return the node that continues from a kept value. Raises a problem if the value is not known."""
        key, hints = self._key(step.use, site)
        shape = site.kept.shape(key)
        if shape is None:
            message, help = self._why_not(key, site)
            raise self.report.blamed("E0412", message, site, help, step.use, by_shape=True)
        return [Recall(key, site.shape, shape, hints, self.context.origin(site.path))], shape

    def _key(self, text: str, site: Site) -> tuple[Key, Hints]:
        """Return the value that a step refers to, and the expression of its index."""
        self.context.grow(site)
        self.context.build(site)
        name, index = kept_name(text)
        if index is None:
            return (name, None), NO_HINTS
        return (name, self.evaluator.count(index, site, "the index", 0)), {"index": index}

    def _why_not(self, key: Key, site: Site) -> tuple[str, str | None]:
        """Return the reason why a value is not known, and the help."""
        value, block = value_name(key), site.frame.block
        if key in site.kept.ever:
            message = f"'{value}' was kept in a branch, so it can only be used in that branch"
            return message, "keep it outside the merge, or use it in the same branch"
        message = f"'{value}' is used before it is kept"
        if block is not None and key[0] not in block.values:
            return message, f"to use a value of the network or block around, list it in the block: 'values: [{key[0]}]'"
        known = [value_name(each) for each in site.kept.known()]
        return message, nearest(value, known) or (
            f"the values kept here are {', '.join(known[:12])}" if known else None
        )
