"""`keep`, `use` and `again`: the leaves of the tree that name a value, continue from it, or run a step of the same scope again."""

from __future__ import annotations

from collections.abc import Sequence

from rescompile.diagnostics.errors import ShapeError, nearest
from rescompile.elaboration.context import Context
from rescompile.elaboration.site import Built, Site
from rescompile.ir.network import Again, Keep, Key, Node, Recall, Side, value_name, walk
from rescompile.ir.provenance import NO_HINTS, Hints
from rescompile.ir.refitting import refitted
from rescompile.ir.values import Crossings
from rescompile.lang.spec.steps import AgainStep, KeepStep, RecallStep
from rescompile.lang.spec.values import kept_name


def keep(step: KeepStep, site: Site, context: Context) -> Built:
    """Return the node that names the value before it. Raises a problem in a branch if the name is that of a value
    outside."""
    key, hints = _key(step.keep, site, context)
    if site.kept.keeps_outside(key):
        message = f"'{value_name(key)}' was already kept outside this branch, so the branch cannot keep it again"
        help = "keep it under another name here, or after the merge"
        raise context.report.blamed("E0413", message, site, help, step.keep)
    site.kept.keep(key, site.shape)
    return [Keep(key, site.shape, hints, context.origin(site.path))], site.shape


def recall(step: RecallStep, site: Site, context: Context) -> Built:
    """Return the node that continues from a kept value. Raises a problem if the value is not known."""
    key, hints = _key(step.use, site, context)
    shape = site.kept.shape(key)
    if shape is None:
        message, help = _why_not_known(key, site)
        raise context.report.blamed("E0412", message, site, help, step.use, by_shape=True)
    return [Recall(key, site.shape, shape, hints, context.origin(site.path))], shape


def _key(text: str, site: Site, context: Context) -> tuple[Key, Hints]:
    """Return the value that a step refers to, and the expression of its index."""
    context.grow(site)
    context.build(site)
    name, index = kept_name(text)
    if index is None:
        return (name, None), NO_HINTS
    return (name, context.evaluator.count(index, site, "the index", 0)), {"index": index}


def _why_not_known(key: Key, site: Site) -> tuple[str, str | None]:
    """Return the reason why a value is not known, and the help."""
    value, block = value_name(key), site.frame.block
    if key in site.kept.ever:
        message = f"'{value}' was kept in a branch, so it can only be used in that branch"
        return message, "keep it outside the merge, or use it in the same branch"
    message = f"'{value}' is used before it is kept"
    if block is not None and key[0] not in block.values:
        return message, f"to use a value of the network or block around, list it in the block: 'values: [{key[0]}]'"
    known = [value_name(each) for each in site.kept.known()]
    return message, nearest(value, known) or (f"the values kept here are {', '.join(known[:12])}" if known else None)


def again(step: AgainStep, site: Site, context: Context) -> Built:
    """Return the step with the name, with the same parameters, for the input at this place. Raises a problem if it
    cannot be run again."""
    name = context.namer.spelled(step.again, site)
    nodes = site.names.built.get(name)
    if nodes is None or name in site.names.unsure:
        message, help = _why_not_again(name, site)
        raise context.report.blamed("E0414", message, site, help, step.again, by_shape=True)
    if why := _open(nodes):
        raise context.report.blamed("E0414", f"'{name}' cannot be run again: {why}", site, raw=step.again)
    context.build(site)
    for node in nodes:
        context.grow(site, sum(1 for _ in walk(node)))
    try:
        child = refitted(nodes, site.shape)
    except ShapeError as error:
        message = f"'{name}' cannot be run again on {list(site.shape)}: {error.message}"
        raise context.report.blamed(error.code, message, site, error.help, step.again, by_shape=True) from None
    if not nodes:
        return [], site.shape
    return [Again(name, child, context.origin(site.path))], child.output


def _why_not_again(name: str, site: Site) -> tuple[str, str | None]:
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
        help = f"the steps around block '{block}' are not in its scope, unless it is a macro: 'inline: true'"
        return message, help
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
