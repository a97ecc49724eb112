"""Static checks of a resolved spec: every op, block, name and argument is known before anything is evaluated.

They also cover branches that this network does not take, and report all mistakes at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from graphlib import CycleError, TopologicalSorter
from typing import Any

from rescompile.diagnostics.errors import Diagnostic, SpecError, nearest, one_of
from rescompile.ir import names, ops
from rescompile.ir.expressions import show
from rescompile.lang import library
from rescompile.lang.later_parameters import LATER
from rescompile.lang.spec.blocks import ParameterDefinition
from rescompile.lang.spec.rows import Use
from rescompile.lang.spec.spec import Spec
from rescompile.lang.spec.steps import (
    AgainStep,
    If,
    KeepStep,
    NamedStep,
    OpStep,
    ParallelStep,
    RecallStep,
    ResidualStep,
    SideStep,
    parts,
    step_value,
)
from rescompile.lang.value_checker import REPEATED, Path, Scope, ValueChecker
from rescompile.lang.yaml_reader import locate


def check(spec: Spec) -> list[Diagnostic]:
    """Return every mistake that needs no evaluation, in the order of the text."""
    checker = _NameChecker(spec)
    with suppress(SpecError):  # there are very many
        checker.spec_as_a_whole()
    return checker.values.problems


class _NameChecker:
    """Walks the steps of a network and of its blocks, each in the scope of names that it sees."""

    def __init__(self, spec: Spec) -> None:
        self.spec, self.values = spec, ValueChecker(spec)
        self.report, self.value, self.template = self.values.report, self.values.value, self.values.template
        self.block_words = self.values.block_words

    # --- the whole ---

    def spec_as_a_whole(self) -> None:
        spec = self.spec
        for key in ("input", "network"):
            if getattr(spec, key) is None:
                self.report("E0103", f"missing key '{key}'", (), "add it, or extend a spec that has it")
        if spec.preprocess and spec.input and len(spec.preprocess.mean) != spec.input[0] and not spec.changed:
            message = f"'mean' has {len(spec.preprocess.mean)} values, but the input has {spec.input[0]} channels"
            self.report("E0104", message, ("preprocess", "mean"))
        for word in spec.blocks:
            self.block(word)
        self.recursion()
        self.values.mentioned.clear()  # blocks do not see the network's parameters
        network = Scope(frozenset(spec.parameters) | {"in_channels"})
        known: set[str] = set()
        later = set(spec.parameters)
        for name, value in spec.parameters.items():
            self.value(value, ("parameters", name), Scope(known, later=later), self.block_words)
            known.add(name)
            later.discard(name)
        if spec.block is not None and spec.block not in spec.blocks:
            self.not_a_block(spec.block, ("block",))
        self.defaults(network)
        self.steps(spec.network or [], ("network",), network)
        for name in () if spec.changed else spec.parameters:
            if name in self.values.mentioned or nearest(name, self.values.unknown_names):
                continue  # a misspelt or missing name may have been meant to use it
            if self.written_here(("parameters", name)):
                message = f"the network does not use the parameter '{name}'"
                self.report("E0410", message, ("parameters", name), key=True)

    def written_here(self, path: Path) -> bool:
        document = self.spec.document
        return locate(document, path, key=True).source == document.place.source

    def defaults(self, scope: Scope) -> None:
        for word, given in self.spec.defaults.items():
            path: Path = ("defaults", word)
            if self.spec.is_op(word):
                takes = {name: facts.words for name, facts in ops.attributes(word).items()}
                self.given(word, given, takes, path, scope.plus(*REPEATED))
            elif word in self.spec.blocks:
                self.arguments(word, given, path, scope.plus(*REPEATED))
            elif word in library.blocks():
                if self.written_here(path) and not self.spec.changed:
                    self.report("E0410", f"the network does not use '{word}'", path, key=True)
            else:
                self.unknown_word(word, path, key=True)

    # --- blocks ---

    def block(self, word: str) -> None:
        block, path = self.spec.blocks[word], ("blocks", word)
        if word in ops.WORDS.keys() - ops.LATER or word in names.RESERVED or word == "none":
            self.report("E0409", f"'{word}' is a reserved word and cannot be the name of a block", path, key=True)
        words = block.words(self.block_words)
        known: set[str] = {"in_channels", *REPEATED}
        later = {*block.parameters, *block.let}
        for name, definition in block.parameters.items():
            here: Path = (*path, "parameters", name)
            later.discard(name)
            if definition.default is not None:
                self.default(definition, here, Scope(known, words, None, later))
            if name in words and not library.is_later(name, self.spec.document):
                message = f"'{name}' cannot name a parameter: it is also an allowed value of a parameter of this block"
                self.report("E0409", message, here, key=True)
            known.add(name)
        for name, value in block.let.items():
            here = (*path, "let", name)
            later.discard(name)
            if name in known or (name in words and not library.is_later(name, self.spec.document)):
                self.report("E0409", f"'{name}' is already defined in this block", here, key=True)
            self.value(value, here, Scope(known, words, None, later, block.parameters))
            known.add(name)
        scope = Scope(frozenset(known), words, block, definitions=block.parameters)
        self.value(block.when, (*path, "when"), scope)
        self.template(block.members, (*path, "members"), scope)
        self.steps(block.body, (*path, "body"), scope)

    def default(self, definition: ParameterDefinition, path: Path, scope: Scope) -> None:
        """Check a parameter's default: its names, and its type unless it is an expression."""
        where = (*path, "default")
        self.value(definition.default, where, scope, definition.words(self.block_words))
        literal = not isinstance(definition.default, str | list)
        if literal and not definition.fits(definition.default, frozenset()):
            self.report("E0304", f"the default must be {definition.expected}, got {show(definition.default)}", where)

    def recursion(self) -> None:
        """Report blocks that contain themselves by name and under no condition. The elaborator detects recursion that does not
        end, through parameters too."""
        blocks = self.spec.blocks
        inside_of = {
            word: set(_block_words(block.body)) & blocks.keys() if block.when is None else set[str]()
            for word, block in blocks.items()
        }
        while True:
            try:
                TopologicalSorter(inside_of).prepare()
                return
            except CycleError as error:
                *circle, _ = error.args[1][::-1]  # each contains the next
            for word, inner in zip(circle, [*circle[1:], circle[0]], strict=True):
                by = f" through '{inner}'" if inner != word else ""
                self.report("E0408", f"block '{word}' contains itself{by}", ("blocks", word, "body"), key=True)
                del inside_of[word]

    # --- steps ---

    def steps(self, steps: Sequence[Any], path: Path, scope: Scope) -> None:
        for at, step in enumerate(steps):
            self.step(step, (*path, at), scope)

    def step(self, step: Any, path: Path, scope: Scope) -> None:
        match step:
            case str():
                self.word(step, path, scope)
            case list():
                self.steps(step, path, scope)
            case NamedStep():
                self.named(step, (*path, step.name), scope)
            case OpStep():
                self.value(step.when, (*path, step.word, "when"), scope)
                self.op(step.word, step.given, (*path, step.word), scope)
            case If():
                self.value(step.if_, (*path, "if"), scope)
                self.step(step.then, (*path, "then"), scope)
                self.step(step.else_, (*path, "else"), scope)
            case ResidualStep():
                here, merged = (*path, "residual"), scope.plus("out_channels")
                self.step(step.residual.branch, (*here, "branch"), scope)
                self.step(step.residual.gate, (*here, "gate"), merged)
                self.step(step.residual.shortcut, (*here, "shortcut"), merged)
            case ParallelStep():
                here = (*path, "parallel")
                self.steps(step.parallel.branches or (), (*here, "branches"), scope)
                self.value(step.parallel.split, (*here, "split"), scope)
                self.value(step.parallel.copies, (*here, "copies"), scope)
                self.step(step.parallel.branch, (*here, "branch"), scope.plus("copy"))
            case SideStep():
                self.step(step.side.body, (*path, "side", "body"), scope)
            case KeepStep() | RecallStep():
                self.values.kept(step_value(step), (*path, "keep" if isinstance(step, KeepStep) else "use"), scope)
            case AgainStep():
                self.template(step.again, (*path, "again"), scope)
            case Use():
                self.use(step, path, scope)

    def word(self, word: str, path: Path, scope: Scope) -> None:
        """A step that is one word."""
        if self.spec.is_op(word, scope.block):
            self.op(word, {}, path, scope)
        elif word in names.COMBINATORS:
            self.report("E0110", f"'{word}' is not a step by itself", path, _FORMS[word])
        elif word != "none" and not self.is_block_parameter(word, scope):
            if word in self.spec.blocks:
                self.arguments(word, {}, path, scope, complete=True)
                self.repeated(word, path, scope)
            else:
                self.unknown_word(word, path)

    def named(self, step: NamedStep, path: Path, scope: Scope) -> None:
        self.template(step.name, path, scope, key=True)
        inner = step.step
        if isinstance(inner, KeepStep | RecallStep):
            help = f"write {{keep: {step_value(inner)}}}" if isinstance(inner, KeepStep) else None
            message = "a step that keeps or uses a value computes nothing, so it cannot have a name"
            self.report("E0110", message, path, help or f"write {{use: {step_value(inner)}}}", key=True)
        if isinstance(inner, AgainStep):
            message = f"a step that runs again already has the name '{inner.again}'"
            self.report("E0110", message, path, f"write {{again: {inner.again}}}", key=True)
        if isinstance(inner, Use) and inner.name is not None:
            message = f"this step already has the name '{step.name}'"
            self.report("E0404", message, (*path, "name"), "remove one of the names")
        if isinstance(inner, NamedStep) and isinstance(inner.step, Use) and self.meant_as_block(inner):
            message = f"'{inner.name}' is a block, but it is used as the name of a step here"
            help = f"write {{block: {inner.name}, ...}}"
            self.report("E0411", message, (*path, inner.name), help, key=True)
        else:
            self.step(inner, path, scope)

    def op(self, word: str, given: dict[str, Any], path: Path, scope: Scope) -> None:
        takes = {name: facts.words for name, facts in ops.attributes(word).items()}
        self.given(word, given, takes, path, scope)
        if missing := self.missing(word, given, takes, ops.required(word)):
            self.report("E0403", f"{word} needs {_quoted(missing)}", path)

    def meant_as_block(self, step: NamedStep) -> bool:
        """Return whether a name is a block, while the step has no `block`."""
        known = step.name in self.spec.blocks or step.name in library.blocks()
        return step.step.block is None and known and not library.is_later(step.name, self.spec.document)

    def use(self, use: Use, path: Path, scope: Scope) -> None:
        word = use.block or (self.spec.block if scope.block is None else None)
        if word is None:
            help = "add 'block: ...'"
            if scope.block is None:
                help += " to the row, or a 'block' for all rows to the spec"
            self.report("E0103", "this row does not name the block that it repeats", path, help, key=True)
            return
        if use.block is None and word not in self.spec.blocks:
            return  # reported once, at the `block` of the spec
        if use.members is not None and use.depth is None:
            message = "'members' names the copies of a repeated block, but this one has no 'depth'"
            self.report("E0405", message, (*path, "members"))
        self.value(use.depth, (*path, "depth"), scope)
        outer = scope
        if use.depth is not None:
            scope = scope.plus(*REPEATED)
        self.template(use.name, (*path, "name"), outer)
        self.value(use.when, (*path, "when"), scope)
        if self.is_block_parameter(word, scope):
            for argument, value in use.arguments.items():
                self.value(value, (*path, argument), scope, self.block_words | scope.words)
            self.template(use.members, (*path, "members"), scope)
        elif word in self.spec.blocks:
            block = self.spec.blocks[word]
            self.template(use.members, (*path, "members"), scope.plus(*block.parameters, *block.let))
            self.arguments(word, use.arguments, path, scope, complete=True)
            if use.depth is None:
                self.repeated(word, path, scope)
        elif scope.block is not None and word in scope.block.parameters:
            message = f"'{word}' is a parameter of this block, not a block"
            self.report("E0401", message, (*path, "block"), "rename the parameter")
        else:
            self.not_a_block(word, (*path, "block"))

    def arguments(self, word: str, given: dict[str, Any], path: Path, scope: Scope, complete: bool = False) -> None:
        parameters = self.spec.blocks[word].parameters
        takes = {name: definition.words(self.block_words) for name, definition in parameters.items()}
        self.given(word, given, takes, path, scope)
        required = [name for name, definition in parameters.items() if complete and definition.default is None]
        if missing := self.missing(word, given, takes, required):
            self.report("E0403", f"block '{word}' needs {_quoted(missing)}", path, key=True)

    def given(
        self, word: str, given: dict[str, Any], takes: Mapping[str, Collection[str]], path: Path, scope: Scope
    ) -> None:
        """Check the attributes of an op or the arguments of a block; `takes` has the words of each that exists."""
        op = self.spec.is_op(word)
        what, also = ("attribute", ()) if op else ("argument", ("depth", "members", "when", "name"))
        for name, value in given.items():
            if name in takes:
                self.value(value, (*path, name), scope, takes[name], f"{word}.{name}" if op else None)
                continue
            known = sorted({*takes, *(() if op or library.is_own(word, self.spec.document) else LATER.get(word, ()))})
            listed = one_of(known, "and") if known else f"no {what}s"
            help = nearest(name, [*known, *also]) or f"{word} takes {listed}"
            self.report("E0402", f"{word} has no {what} '{name}'", (*path, name), help, key=True)

    def missing(self, word: str, given: Collection[str], takes: Collection[str], required: Iterable[str]) -> list[str]:
        """Return the required names that are not set, or none if a given name is a misspelt one of them."""
        defaults = self.spec.defaults.get(word, {})
        missing = [name for name in required if name not in given and name not in defaults]
        self.values.unknown_names.update(missing)
        return [] if any(nearest(name, missing) for name in given if name not in takes) else missing

    def repeated(self, word: str, path: Path, scope: Scope) -> None:
        """Report a row without depth: its names would lose their numbers, and checkpoints would not load."""
        if self.spec.blocks[word].stage and scope.block is None:
            message = f"block '{word}' is meant to be repeated, but this row has no 'depth'"
            help = "write 'depth: 1' for a single block, which is then named '0' in the row"
            self.report("E0405", message, path, help, key=True)

    def not_a_block(self, word: str, path: Path) -> None:
        if word == "none":
            self.report("E0401", "'none' is only allowed as the shortcut of a residual", path)
        elif word in ops.WORDS:
            self.report("E0401", f"'{word}' is an op, not a block", path, f"write {{{word}: {{...}}}}")
        else:
            self.unknown_word(word, path, blocks_only=True)

    def is_block_parameter(self, word: str, scope: Scope) -> bool:
        return scope.block is not None and scope.block.takes_block(word)

    def unknown_word(self, word: str, path: Path, blocks_only: bool = False, key: bool = False) -> None:
        known = {*self.spec.blocks, *library.blocks(), *(() if blocks_only else ops.WORDS)}
        what = "block" if blocks_only else "op or block"
        ops_too = "" if blocks_only else "docs/language.md lists all ops, "
        help = ops.similar(word, known) or f"{ops_too}docs/blocks.md lists all blocks"
        self.report("E0401", f"unknown {what} '{word}'", path, help, key)


_FORMS = {
    "residual": "write {residual: {branch: ..., shortcut: ...}}",
    "parallel": "write {parallel: {merge: ..., branches: [...]}}",
    "side": "write {side: {body: ..., output: ..., mode: ...}}",
    "if": "write {if: ..., then: ...}",
}


def _quoted(missing: Iterable[str]) -> str:
    return one_of([f"'{name}'" for name in missing], "and")


def _block_words(step: Any) -> Iterator[str]:
    """Yield the name of every block that a step uses under no condition."""
    word = step.block if isinstance(step, Use) else step
    conditional = isinstance(step, If) or (isinstance(step, Use) and (step.when is not None or step.depth is not None))
    if isinstance(word, str) and not conditional:
        yield word
    for part in () if conditional else parts(step):
        yield from _block_words(part)
