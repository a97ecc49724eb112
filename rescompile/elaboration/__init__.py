"""Spec -> Network: evaluates the expressions of rows and blocks and builds the tree, with shapes.

The only package that knows both. The numbers are authoritative; the expressions that produced them accompany them as
hints.

`steps` and `blocks` walk over a spec, with the help of `evaluator`, `namer` and `reporter`; a `Site` records the
current place.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any

from rescompile.analysis.heads import gives_features
from rescompile.diagnostics.errors import MAX_FOUND, Diagnostic, ShapeError, SpecError
from rescompile.elaboration.context import Context
from rescompile.elaboration.feature_outputs import add_features
from rescompile.elaboration.kept import Kept
from rescompile.elaboration.site import Path, Problem, Site
from rescompile.elaboration.steps import StepBuilder
from rescompile.elaboration.stochastic_depth import add_survival, check_drop_path
from rescompile.ir import network as tree
from rescompile.ir.network import Network, Node, Op, Series
from rescompile.ir.provenance import Definition
from rescompile.ir.verifier import verify
from rescompile.lang.canonical import canonical
from rescompile.lang.spec.mentions import mentions
from rescompile.lang.spec.spec import Spec
from rescompile.lang.spec.steps import NamedStep
from rescompile.lang.yaml_reader import locate

MAX_PARAMETERS = 1 << 36


def elaborate(spec: Spec) -> Network:
    """Build the tree of a spec. Raises SpecError with every mistake, located at its cause in the user's text."""
    elaborator = Elaborator(spec)
    root = elaborator.network()
    if elaborator.problems:
        raise SpecError(elaborator.problems)
    used = elaborator.context.used
    text, sha256 = canonical(spec, used)
    network = Network(
        spec.name, root, text, sha256, checkpoint=spec.checkpoint,
        gives_features=gives_features(root),
        drop_path=tree.DropPath(**spec.drop_path.model_dump()) if spec.drop_path else None,
        preprocess=spec.preprocess.model_dump(exclude_none=True) if spec.preprocess else None, reference=spec.reference or "",
        parameters=_open_parameters(spec, elaborator.context.top.values), definitions=_definitions(spec, used),
        sizes={name: elaborator.context.origin(path) for name, path in elaborator.context.evaluator.sizes.items()},
    )  # fmt: skip
    verify(network)
    return network


def _open_parameters(spec: Spec, values: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of the network that only rows mention, so that each use is a hint next to a number of the
    tree."""
    mentioned = set(mentions([*spec.defaults.values(), *spec.parameters.values()]))
    return {name: value for name, value in values.items() if name not in mentioned}


def _definitions(spec: Spec, used: Collection[str]) -> dict[str, Definition]:
    """Return the definitions of the blocks that a network uses, as written."""
    return {
        word: Definition(
            {name: parameter.default for name, parameter in block.parameters.items()},
            block.let,
            None if block.when is None else str(block.when),
            block.description or "",
            block.reference or "",
        )
        for word, block in spec.blocks.items()
        if word in used
    }


def every_problem(error: SpecError) -> list[Diagnostic]:
    """Return the mistakes of a refused spec, and those of the spec without its invalid rows, except what may follow
    from shapes."""
    if error.rest is None:
        return list(error.diagnostics)
    elaborator = Elaborator(error.rest, poisoned=True)
    with suppress(SpecError):  # there are very many
        elaborator.network()
    return list(dict.fromkeys([*error.diagnostics, *elaborator.problems]))


class Elaborator:
    """Elaborates the rows of a network. It records a problem, skips its row, and from then on ignores problems that may
    only follow from shapes (`poisoned`)."""

    def __init__(self, spec: Spec, poisoned: bool = False) -> None:
        self.spec, self.poisoned = spec, poisoned
        self.context = Context(spec)
        self.report, self.namer = self.context.report, self.context.namer
        self.builder = StepBuilder(self.context)
        self.problems: list[Diagnostic] = []

    def network(self) -> Series:
        """Return the tree of the whole network; `problems` then contains every mistake."""
        spec, top = self.spec, self.context.top
        assert spec.input is not None
        assert spec.network is not None
        site = Site(("network",), top, tuple(spec.input), self.namer.scope(spec.network), Kept())
        for name, raw in spec.parameters.items():
            try:
                where = site.within(top, ("parameters", name))
                top.values[name] = self.context.evaluator.evaluate(raw, where, self.context.block_words)
            except Problem as problem:
                self._note(problem)
        children = self._rows(spec.network, site)
        root = Series(tuple(children), site.shape, children[-1].output if children else site.shape)
        if self.poisoned:  # rows are missing, so checks of the whole network would be wrong
            return root
        if not spec.changed:
            self._check_defaults()
        self._check_size(root)
        for add, key in ((add_survival, "survival"), (check_drop_path, "drop_path"), (add_features, "features")):
            value = getattr(spec, key)
            if value is not None and not self.problems:
                try:
                    root = add(root, value)
                except ShapeError as error:
                    path: Path = (key, error.attribute) if error.attribute else (key,)
                    if key == "features" and error.attribute:
                        path = (key, value.index(error.attribute))
                    self._note(self.report.problem(error.code, error.message, path, error.help))
        if not self.problems and (self.context.outputs or spec.features):
            self._check_outputs(root)
        return root

    def _rows(self, steps: Sequence[Any], site: Site) -> list[Node]:
        """Return the nodes of the rows. A row with a problem is skipped, so that later rows are checked too."""
        nodes: list[Node] = []
        for at, step in enumerate(steps):
            here = site.at(at).after(nodes[-1].output if nodes else site.shape)
            try:
                if isinstance(step, NamedStep) and isinstance(step.step, list):
                    here = here.at(step.name)
                    name = self.namer.explicit(step.name, here)
                    inner = self._rows(step.step, here.scoped(self.namer.scope(step.step, numbered=True)))
                    output = inner[-1].output if inner else here.shape
                    nodes += site.names.remember(name, ([Series(tuple(inner), here.shape, output, name)], output))[0]
                else:
                    nodes += self.builder.step(step, here)[0]
            except Problem as problem:
                self._note(problem)
        return nodes

    def _note(self, problem: Problem) -> None:
        if not (self.poisoned and problem.by_shape) and problem.diagnostic not in self.problems:
            self.problems.append(problem.diagnostic)
        if len(self.problems) >= MAX_FOUND or self.context.full:
            raise SpecError(self.problems)
        self.poisoned = True

    def _check_size(self, root: Series) -> None:
        """Check that the network has an op, and not too many parameters."""
        if not any(isinstance(node, Op) for _, node in tree.walk(root)):
            self._note(self.report.problem("E0603", "the network does not contain any op", ("network",), key=True))
        if (count := self.context.parameters) > MAX_PARAMETERS:
            message = f"the network has {count:,} parameters, more than {MAX_PARAMETERS:,}"
            self._note(self.report.problem("E0208", message, ("network",), key=True))

    def _check_outputs(self, root: Series) -> None:
        """Check that outputs have different names; a repeated block would produce its output once per copy."""
        where = dict(self.context.outputs)
        taken = {tree.INPUT: "the network's input", tree.LOGITS: "the network's own output"}
        for _, node in tree.walk(root):
            if isinstance(node, tree.Side) and (name := node.output_name) is not None:
                if name in taken:
                    path = where.get(name, ("features",))
                    message = f"'{name}' is already the name of {taken[name]}"
                    self._note(self.report.problem("E0604", message, path, "give each output a different name"))
                taken[name] = "another output"

    def _check_defaults(self) -> None:
        """Report unused defaults in the file that contains them; unused inherited defaults are ignored."""
        unused = [("defaults", word) for word in self.spec.defaults if word not in self.context.used]
        if self.spec.block is not None and self.spec.block not in self.context.used:
            unused.append(("block", self.spec.block))
        for key, word in unused:
            path = (key, word) if key == "defaults" else (key,)
            document = self.spec.document
            if locate(document, path, key=True).source == document.place.source:
                self._note(self.report.problem("E0410", f"the network does not use '{word}'", path, key=True))
