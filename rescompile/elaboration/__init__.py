"""Spec -> Network: evaluates the expressions of rows and blocks and builds the tree, with shapes.

The only part that knows both. The numbers are the truth; the expressions they came from ride along as hints.

    frames    what expressions may mention, and blame: where a mistake was caused
    values    evaluation and types
    scopes    names
    steps     ops, groups, merges
    calls     blocks
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

from rescompile.diagnostics.errors import Diagnostic, ShapeError, SpecError
from rescompile.elaboration.calls import Calls
from rescompile.elaboration.features import add_features
from rescompile.elaboration.frames import Frame, Path, Problem
from rescompile.elaboration.scopes import Names
from rescompile.elaboration.stochastic_depth import add_survival
from rescompile.ir import network as tree
from rescompile.ir.network import Network, Node, Op, Series
from rescompile.ir.ops import Shape
from rescompile.ir.provenance import Definition
from rescompile.ir.verifier import verify
from rescompile.lang.canonical import canonical
from rescompile.lang.spec.spec import Spec
from rescompile.lang.spec.steps import NamedStep
from rescompile.lang.yaml_reader import locate

MAX_PARAMETERS = 1 << 36


def elaborate(spec: Spec) -> Network:
    """Build the tree of a spec. Raises SpecError with every mistake found, located where the user wrote its cause."""
    elaborator = Elaborator(spec)
    root = elaborator.network()
    if elaborator.problems:
        raise SpecError(elaborator.problems)
    text, sha256 = canonical(spec, elaborator.used)
    network = Network(
        spec.name, root, text, sha256, checkpoint=spec.checkpoint,
        preprocess=spec.preprocess.model_dump(exclude_none=True) if spec.preprocess else None,
        reference=spec.reference or "", parameters=_open_parameters(spec, elaborator.top.values), definitions=_definitions(spec, elaborator.used),
    )  # fmt: skip
    verify(network)
    return network


def _open_parameters(spec: Spec, values: dict[str, Any]) -> dict[str, Any]:
    """The network's own parameters whose every mention is beside a number of the tree: none in defaults or in another."""
    said = str([*spec.defaults.values(), *spec.parameters.values()])
    return {name: value for name, value in values.items() if not re.search(rf"\b{name}\b", said)}


def _definitions(spec: Spec, used: Collection[str]) -> dict[str, Definition]:
    """The blocks that a network uses, as they were written."""
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


def more_problems(spec: Spec) -> list[Diagnostic]:
    """What else is wrong with a spec that has lost its wrong rows: problems that do not depend on shapes."""
    elaborator = Elaborator(spec, poisoned=True)
    elaborator.network()
    return elaborator.problems


class Elaborator(Calls):
    """The rows of a network. A wrong row is noted and passed over; after one, problems that only follow from shapes are
    left out (`poisoned`)."""

    def __init__(self, spec: Spec, poisoned: bool = False) -> None:
        super().__init__(spec)
        self.problems: list[Diagnostic] = []
        self.poisoned = poisoned

    def network(self) -> Series:
        spec = self.spec
        assert spec.input is not None
        assert spec.network is not None
        for name, raw in spec.parameters.items():
            try:
                self.top.values[name] = self.evaluate(raw, self.top, ("parameters", name), self.block_words)
            except Problem as problem:
                self.note(problem)
        shape: Shape = tuple(spec.input)
        children = self.rows(spec.network, ("network",), self.top, shape, self.names_of(spec.network))
        output = children[-1].output if children else shape
        root = Series(tuple(children), shape, output)
        if self.poisoned:  # rows are missing: what is said of the whole network would not be so with them
            return root
        if not spec.changed:
            self.check_defaults()
        if not any(isinstance(node, Op) for _, node in tree.walk(root)):
            self.note(self.problem("E0603", "the network does nothing: it has no op", ("network",), key=True))
        count = sum(parameter.size for _, parameter in tree.parameters(Network(spec.name, root)))
        if count > MAX_PARAMETERS:
            self.note(
                self.problem(
                    "E0208",
                    f"the network has {count:,} parameters, more than {MAX_PARAMETERS:,}",
                    ("network",),
                    key=True,
                )
            )
        for add, key in ((add_survival, "survival"), (add_features, "features")):
            value = getattr(spec, key)
            if value is not None and not self.problems:
                try:
                    root = add(root, value)
                except ShapeError as error:
                    path: Path = (key, error.attribute) if error.attribute else (key,)
                    if key == "features" and error.attribute:
                        path = (key, value.index(error.attribute))
                    self.note(self.problem(error.code, error.message, path, error.help))
        if not self.problems:
            self.check_outputs(root)
        return root

    def check_outputs(self, root: Series) -> None:
        """No two outputs have one name; a repeated block gives its output once for each copy."""
        where = dict(self.outputs)
        taken = {tree.INPUT: "the network's input", tree.LOGITS: "the network's own output"}
        for _, node in tree.walk(root):
            if isinstance(node, tree.Side) and (name := node.output_name) is not None:
                if name in taken:
                    path = where.get(name, ("features",))
                    message = f"'{name}' is the name of {taken[name]} already"
                    self.note(self.problem("E0604", message, path, "give each output a name of its own"))
                taken[name] = "another output"

    def rows(self, steps: Sequence[Any], path: Path, frame: Frame, shape: Shape, names: Names) -> list[Node]:
        """The rows of the network. A wrong row is noted and passed over, so that later rows are checked too."""
        nodes: list[Node] = []
        for at, step in enumerate(steps):
            try:
                if isinstance(step, NamedStep) and isinstance(step.step, list):
                    name = self.explicit(step.name, (*path, at, step.name), frame, names)
                    inner = self.rows(
                        step.step, (*path, at, step.name), frame, shape, self.names_of(step.step, numbered=True)
                    )
                    new: list[Node] = [Series(tuple(inner), shape, inner[-1].output if inner else shape, name)]
                else:
                    new, _ = self.step(step, (*path, at), frame, shape, names)
            except Problem as problem:
                self.note(problem)
                continue
            nodes += new
            shape = nodes[-1].output if nodes else shape
        return nodes

    def note(self, problem: Problem) -> None:
        if not (self.poisoned and problem.by_shape) and problem.diagnostic not in self.problems:
            self.problems.append(problem.diagnostic)
        self.poisoned = True

    def check_defaults(self) -> None:
        """What nothing uses is an error in the file that says it, and left out where inherited."""
        unused = [("defaults", word) for word in self.spec.defaults if word not in self.used]
        if self.spec.block is not None and not self.spec_block_used:
            unused.append(("block", self.spec.block))
        for key, word in unused:
            path = (key, word) if key == "defaults" else (key,)
            if locate(self.document, path, key=True).source == self.document.place.source:
                self.note(self.problem("E0410", f"nothing in the network uses '{word}'", path, key=True))
