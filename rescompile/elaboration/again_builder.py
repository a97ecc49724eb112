"""`again`: runs a step of the same scope again, with the same parameters, after checking it against its new place."""

from __future__ import annotations

from collections.abc import Sequence

from rescompile.diagnostics.errors import ShapeError, nearest
from rescompile.elaboration.context import Context
from rescompile.elaboration.site import Built, Site
from rescompile.ir.network import Again, Node, Side, value_name, walk
from rescompile.ir.refitting import refitted
from rescompile.ir.values import Crossings
from rescompile.lang.spec.steps import AgainStep


class AgainBuilder:
    """Builds the nodes of steps that are run again."""

    def __init__(self, context: Context) -> None:
        self.context, self.report, self.namer = context, context.report, context.namer

    def build(self, step: AgainStep, site: Site) -> Built:
        """Return the step with the name, for the input at this place. Raises a problem if it cannot be run
        again."""
        name = self.namer.spelled(step.again, site)
        nodes = site.names.built.get(name)
        if nodes is None or name in site.names.unsure:
            message, help = self._why_not(name, site)
            raise self.report.blamed("E0414", message, site, help, step.again, by_shape=True)
        if why := _open(nodes):
            raise self.report.blamed("E0414", f"'{name}' cannot be run again: {why}", site, raw=step.again)
        self.context.build(site)
        for node in nodes:
            self.context.grow(site, sum(1 for _ in walk(node)))
        try:
            child = refitted(nodes, site.shape)
        except ShapeError as error:
            message = f"'{name}' cannot be run again on {list(site.shape)}: {error.message}"
            raise self.report.blamed(error.code, message, site, error.help, step.again, by_shape=True) from None
        if not nodes:
            return [], site.shape
        return [Again(name, child, self.context.origin(site.path))], child.output

    def _why_not(self, name: str, site: Site) -> tuple[str, str | None]:
        """Return the reason why no step with a name can be run again here, and the help."""
        names = site.names
        if why := names.unsure.get(name):
            return f"'{name}' cannot be run again: it {why}", "name it before the side branch"
        if name in names.taken and name in names.given:
            return f"'{name}' cannot be run again inside itself", None
        if name in names.given:
            return f"'{name}' is run again before it is defined", "define the step where it first runs"
        known = list(names.built)
        message = f"this scope has no step '{name}' to run again"
        listed = f"the steps with names here are {', '.join(known[:12])}" if known else None
        if (block := site.frame.word) is not None and not known:
            return (
                message,
                f"the steps around block '{block}' are not in its scope, unless it is a macro: 'inline: true'",
            )
        return message, nearest(name, known) or listed or "give the step a name where it stands first: 'name: step'"


def _open(nodes: Sequence[Node]) -> str | None:
    """Return what prevents nodes from running twice: outputs inside, or values from or for the outside; None if nothing
    does."""
    for node in nodes:
        if any(isinstance(inner, Side) for _, inner in walk(node)):
            return "it has a side branch, whose output would be computed twice"
        crossing = Crossings().of(node)
        for key in sorted(crossing.reads | crossing.writes, key=str):
            return f"it keeps or uses '{value_name(key)}', a value of the steps around it"
    return None
