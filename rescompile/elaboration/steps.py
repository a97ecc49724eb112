"""Steps -> nodes: groups, conditions, residuals, merges and side branches, threading the shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rescompile.elaboration import references
from rescompile.elaboration.blocks import BlockBuilder
from rescompile.elaboration.context import Context
from rescompile.elaboration.merges import MergeBuilder
from rescompile.elaboration.op_builder import OpBuilder
from rescompile.elaboration.site import Built, Path, Site
from rescompile.ir.network import Merge, Node, Series, Side
from rescompile.ir.ops import Shape
from rescompile.ir.provenance import NO_HINTS, Hints
from rescompile.lang.spec.rows import Use
from rescompile.lang.spec.steps import (
    AgainStep,
    If,
    KeepStep,
    NamedStep,
    OpStep,
    Parallel,
    ParallelStep,
    RecallStep,
    ResidualStep,
    SideStep,
)

#: The maximum depth of nested steps and blocks; later passes over the tree recurse as deep.
MAX_DEPTH = 100


class StepBuilder:
    """Builds the nodes of steps of every form."""

    def __init__(self, context: Context) -> None:
        self.context, self.report = context, context.report
        self.evaluator, self.namer = context.evaluator, context.namer
        self.ops, self.merges = OpBuilder(context), MergeBuilder(context)
        self.blocks = BlockBuilder(context, self.steps)
        self.depth = 0

    def steps(self, steps: Sequence[Any], site: Site) -> Built:
        """Return the nodes of steps in sequence."""
        nodes: list[Node] = []
        shape = site.shape
        for at, step in enumerate(steps):
            new, shape = self.step(step, Site((*site.path, at), site.frame, shape, site.names, site.kept))
            nodes += new
        return nodes, shape

    def step(self, step: Any, site: Site) -> Built:
        """Return the nodes of one step."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self.report.blamed("E0208", f"steps and blocks are nested more than {MAX_DEPTH} levels deep", site)
        try:
            return self._form(step, site)
        finally:
            self.depth -= 1

    def _form(self, step: Any, site: Site) -> Built:
        match step:
            case str() if self.context.spec.is_op(step, site.frame.block):
                return self.ops.build(step, {}, site)
            case str():
                return self.blocks.build(Use(block=step), site)
            case list() if site.name is None:
                return self.steps(step, site)
            case list():
                return self._scope(
                    site, site.path, *self.steps(step, site.scoped(self.namer.scope(step, numbered=True)))
                )
            case NamedStep() | ResidualStep() | ParallelStep() if site.name is not None:
                return self._scope(site, site.path[:-1], *self.step(step, site.scoped(self.namer.scope(step))))
            case NamedStep():
                inner = site.at(step.name)
                if not self.is_there(step.step, inner):
                    return [], site.shape
                name = self.namer.explicit(step.name, inner)
                return site.names.remember(name, self.step(step.step, inner.called(name)))
            case OpStep():
                if site.name is None and not self.is_there(step, site):
                    return [], site.shape
                return self.ops.build(step.word, step.given, site.at(step.word), step.when)
            case If():
                return self._if(step, site)
            case ResidualStep():
                return self.residual(step, site.at("residual"))
            case ParallelStep():
                return self.parallel(step, site.at("parallel"))
            case SideStep():
                return self._side(step, site.at("side"))
            case KeepStep():
                return references.keep(step, site.at("keep"), self.context)
            case RecallStep():
                return references.recall(step, site.at("use"), self.context)
            case AgainStep():
                return references.again(step, site.at("again"), self.context)
            case Use():
                return self.blocks.build(step, site)
        raise AssertionError(step)

    def is_there(self, step: Any, site: Site) -> bool:
        """Return whether a step is in the network at all; if not, its name stays free. A repeated block decides this
        per copy."""
        match step:
            case If(else_=None):
                return self.evaluator.condition(step.if_, site.at("if"))
            case OpStep() if step.when is not None:
                return self.evaluator.condition(step.when, site.at(step.word, "when"))
            case Use(depth=None) if step.when is not None:
                return self.evaluator.condition(step.when, site.at("when"))
        return True

    def _scope(self, site: Site, path: Path, nodes: list[Node], output: Shape) -> Built:
        """Return a named group: a numbered list, or a scope around one merge."""
        return [Series(tuple(nodes), site.shape, output, site.name, origin=self.context.origin(path))], output

    def _if(self, step: If, site: Site) -> Built:
        holds = self.evaluator.condition(step.if_, site.at("if"))
        chosen, key = (step.then, "then") if holds else (step.else_, "else")
        if chosen is None:
            return [], site.shape
        nodes, output = self.step(chosen, site.at(key))
        when = str(step.if_) if holds else f"not ({step.if_})"
        return [_because(node, when) for node in nodes], output

    def residual(self, step: ResidualStep, site: Site) -> Built:
        """Return a branch with its shortcut, and its gate if it has one."""
        parts, shape = step.residual, site.shape
        nodes, output = self.step(parts.branch, site.at("branch").branch())
        around = site.within(site.frame.with_values(out_channels=output[0])).scoped(site.names.unnumbered())
        if self._is_none(parts.shortcut, around.at("shortcut")):
            if parts.gate is not None:
                message = "a gate needs a shortcut, but this residual has none"
                raise self.report.blamed("E0207", message, site.at("gate"))
            return nodes, output
        branches = [Series(tuple(nodes), shape, output)]
        merge: Merge = "add"
        if parts.gate is not None:
            merge = "gate"
            nodes, output = self.step(parts.gate, around.at("gate").branch())
            branches.append(Series(tuple(nodes), shape, output))
            self.merges.check_gate(branches[1], site.at("gate"))
        nodes, output = [], shape
        if parts.shortcut is not None:
            nodes, output = self.step(parts.shortcut, around.at("shortcut").branch())
        branches.append(Series(tuple(nodes), shape, output))
        return self.merges.build(branches, merge, site, residual=True)

    def _is_none(self, shortcut: Any, site: Site) -> bool:
        """Return whether a shortcut is the word `none`: written there, as the value of a parameter, or chosen by a
        condition."""
        if isinstance(shortcut, If):
            key = "then" if self.evaluator.condition(shortcut.if_, site.at("if")) else "else"
            return self._is_none(shortcut.then if key == "then" else shortcut.else_, site.at(key))
        word = shortcut.block if isinstance(shortcut, Use) else shortcut if isinstance(shortcut, str) else None
        return word is not None and site.frame.values.get(word, word) == "none"

    def parallel(self, step: ParallelStep, site: Site) -> Built:
        """Return listed branches, or copies of one, each copy in a separate scope."""
        parts, copies = step.parallel, 0
        if parts.copies is not None:
            copies = self.evaluator.count(parts.copies, site.at("copies"), "copies", 1)
        count = copies or len(parts.branches or ())
        given, sizes = self.merges.split(parts.split, site, count, parts.copies)
        shapes = given or [site.shape] * count
        branches = []
        for at, branch in enumerate(parts.branches or ()):
            nodes, output = self.step(branch, site.at("branches", at).after(shapes[at]).branch())
            branches.append(Series(tuple(nodes), shapes[at], output))
        for copy in range(copies):
            self.namer.claim(str(copy), site.at("copies"))
            shape = shapes[copy]
            own = site.at("branch").after(shape).branch().within(site.frame.with_values(copy=copy))
            nodes, output = self.step(parts.branch, own.scoped(self.namer.scope(parts.branch)))
            named = Series(tuple(nodes), shape, output, str(copy), origin=self.context.origin(own.path))
            branches.append(Series((named,), shape, output))
        unit = (parts.unit or "sample") if parts.merge == "shake" else None
        split, hints = bool(given), _hints(parts)
        return self.merges.build(branches, parts.merge, site, split=split, sizes=sizes, hints=hints, unit=unit)

    def _side(self, step: SideStep, site: Site) -> Built:
        parts, shape = step.side, site.shape
        body = site.at("body").branch()
        known = set(site.names.built)
        nodes, output = self.step(parts.body, body if site.name else body.scoped(site.names.unnumbered()))
        if parts.mode != "always":
            why = f"is in a side branch of mode '{parts.mode}', which evaluation does not compute"
            site.names.unsure |= dict.fromkeys(site.names.built.keys() - known, why)
        if parts.output is not None:
            self.context.outputs.append((parts.output, (*site.path, "output")))
        child = Series(tuple(nodes), shape, output)
        return [Side(child, parts.output, parts.mode, shape, self.context.origin(site.path))], shape


def _hints(parts: Parallel) -> Hints:
    """Return the expressions among the numbers of a parallel."""
    sizes = parts.split if isinstance(parts.split, list) else []
    written = {"copies": parts.copies, **{f"split.{at}": size for at, size in enumerate(sizes)}}
    return {key: raw for key, raw in written.items() if isinstance(raw, str)} or NO_HINTS


def _because(node: Node, when: str) -> Node:
    """Return a node under one more condition."""
    if isinstance(node, Side):
        return node
    return replace(node, when=when if node.when is None else f"({when}) and ({node.when})")
