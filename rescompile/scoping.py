"""Static checks of a resolved spec: every word, name and argument is known before anything is evaluated.

So a mistake in a branch that this network does not take is found as well, and all mistakes are found at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rescompile import library, names, ops
from rescompile.errors import Diagnostic, nearest, one_of
from rescompile.expressions import parse
from rescompile.reader import inside, locate
from rescompile.spec import (
    Block,
    Each,
    FirstRest,
    If,
    NamedStep,
    OpStep,
    ParallelStep,
    ParameterDefinition,
    ResidualStep,
    SideStep,
    Spec,
    Use,
    template_parts,
)

Path = tuple[str | int, ...]
REPEATED = frozenset({"index", "depth"})


def check(spec: Spec) -> list[Diagnostic]:
    """Every mistake that needs no evaluation, in the order of the text."""
    checker = _Checker(spec)
    checker.spec_as_a_whole()
    return checker.problems


def takes_words(definition: ParameterDefinition) -> tuple[str, ...]:
    """The words that a parameter takes, beside those of blocks."""
    return tuple(definition.one_of or ())


@dataclass(frozen=True)
class _Scope:
    """What expressions may mention at some place."""

    names: frozenset[str]
    words: frozenset[str] = frozenset()
    block: Block | None = None

    def plus(self, *more: str) -> _Scope:
        return replace(self, names=self.names | set(more))


class _Checker:
    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.problems: list[Diagnostic] = []
        self.mentioned: set[str] = set()
        self.block_words = frozenset({*spec.blocks, "none"})

    # --- reporting ---

    def report(self, code: str, message: str, path: Path, help: str | None = None, key: bool = False) -> None:
        diagnostic = Diagnostic(code, message, locate(self.spec._document, path, key), help=help)
        if diagnostic not in self.problems:
            self.problems.append(diagnostic)

    # --- the whole ---

    def spec_as_a_whole(self) -> None:
        spec = self.spec
        for key in ("input", "network"):
            if getattr(spec, key) is None:
                self.report("E0103", f"the key '{key}' is missing", (), "give it, or a base with 'extends'")
        for word in spec.blocks:
            self.block(word)
        self.recursion()
        network = _Scope(frozenset(spec.parameters) | {"in_channels"})
        known: frozenset[str] = frozenset()
        for name, value in spec.parameters.items():
            self.value(value, ("parameters", name), _Scope(known), self.block_words)
            known |= {name}
        if spec.block is not None and spec.block not in spec.blocks:
            self.unknown_word(spec.block, ("block",), blocks_only=True)
        self.defaults(network)
        self.steps(spec.network or [], ("network",), network)
        for name in () if spec._changed else spec.parameters:
            if name not in self.mentioned and self.written_here(("parameters", name)):
                self.report(
                    "E0410", f"nothing in the network uses the parameter '{name}'", ("parameters", name), key=True
                )

    def written_here(self, path: Path) -> bool:
        document = self.spec._document
        return locate(document, path, key=True).source == document.place.source

    def defaults(self, scope: _Scope) -> None:
        for word, given in self.spec.defaults.items():
            path: Path = ("defaults", word)
            if word in ops.WORDS:
                facts = ops.attributes(word)
                for attribute, value in given.items():
                    if attribute not in facts:
                        self.unknown("attribute", attribute, word, facts, (*path, attribute))
                        continue
                    self.value(value, (*path, attribute), scope.plus(*REPEATED), facts[attribute].words)
            elif word in self.spec.blocks:
                self.arguments(word, given, path, scope.plus(*REPEATED))
            elif word in library.blocks():
                if self.written_here(path) and not self.spec._changed:
                    self.report("E0410", f"nothing in the network uses '{word}'", path, key=True)
            else:
                self.unknown_word(word, path, key=True)

    # --- blocks ---

    def block(self, word: str) -> None:
        block, path = self.spec.blocks[word], ("blocks", word)
        if word in ops.WORDS or word in names.RESERVED or word == "none":
            self.report("E0409", f"'{word}' is a word of the language, so no block can be called so", path, key=True)
        words = {w for definition in block.parameters.values() for w in takes_words(definition)}
        if any(definition.type == "block" for definition in block.parameters.values()):
            words |= self.block_words
        known: set[str] = {"in_channels", *REPEATED}
        for name, definition in block.parameters.items():
            here: Path = (*path, "parameters", name)
            if definition.default is not None:
                taken = {*takes_words(definition), *(self.block_words if definition.type == "block" else ())}
                self.value(definition.default, here, _Scope(frozenset(known), frozenset(words)), taken, default=True)
            if name in words:
                self.report("E0409", f"'{name}' is both a parameter and a word of this block", here, key=True)
            known.add(name)
        for name, value in block.let.items():
            here = (*path, "let", name)
            if name in known or name in words:
                self.report("E0409", f"'{name}' already has a meaning in this block", here, key=True)
            self.value(value, here, _Scope(frozenset(known), frozenset(words)))
            known.add(name)
        scope = _Scope(frozenset(known), frozenset(words), block)
        self.value(block.when, (*path, "when"), scope)
        self.template(block.members, (*path, "members"), scope)
        self.steps(block.body, (*path, "body"), scope)

    def recursion(self) -> None:
        """Blocks that contain themselves, through literal words; through parameters the elaborator sees it."""
        inside_of = {
            word: set(_block_words(block.body)) & self.spec.blocks.keys() for word, block in self.spec.blocks.items()
        }
        for word in self.spec.blocks:
            seen: set[str] = set()
            todo = list(inside_of[word])
            while todo:
                if (inner := todo.pop()) not in seen:
                    seen.add(inner)
                    todo.extend(inside_of[inner])
            if word in seen:
                self.report("E0408", f"block '{word}' contains itself", ("blocks", word, "body"), key=True)

    # --- steps ---

    def steps(self, steps: Sequence[Any], path: Path, scope: _Scope) -> None:
        for at, step in enumerate(steps):
            self.step(step, (*path, at), scope)

    def step(self, step: Any, path: Path, scope: _Scope) -> None:
        match step:
            case str():
                if step in ops.WORDS:
                    self.op(step, {}, path, scope)
                elif step != "none" and not self.is_block_parameter(step, scope):
                    if step in self.spec.blocks:
                        self.arguments(step, {}, path, scope, complete=True)
                    else:
                        self.unknown_word(step, path)
            case list():
                self.steps(step, path, scope)
            case NamedStep():
                self.template(step.name, (*path, step.name), scope, key=True)
                self.step(step.step, (*path, step.name), scope)
            case OpStep():
                self.value(step.when, (*path, step.word, "when"), scope)
                self.op(step.word, step.given, (*path, step.word), scope)
            case If():
                self.value(step.if_, (*path, "if"), scope)
                self.step(step.then, (*path, "then"), scope)
                if step.else_ is not None:
                    self.step(step.else_, (*path, "else"), scope)
            case ResidualStep():
                parts = step.residual
                here = (*path, "residual")
                self.step(parts.branch, (*here, "branch"), scope)
                for key, part in (("gate", parts.gate), ("shortcut", parts.shortcut)):
                    if part is not None:
                        self.step(part, (*here, key), scope.plus("out_channels"))
            case ParallelStep():
                here = (*path, "parallel")
                for at, branch in enumerate(step.parallel.branches or ()):
                    self.step(branch, (*here, "branches", at), scope)
                self.value(step.parallel.copies, (*here, "copies"), scope)
                if step.parallel.branch is not None:
                    self.step(step.parallel.branch, (*here, "branch"), scope.plus("copy"))
            case SideStep():
                self.step(step.side.body, (*path, "side", "body"), scope)
            case Use():
                self.use(step, path, scope)

    def op(self, word: str, given: dict[str, Any], path: Path, scope: _Scope) -> None:
        facts = ops.attributes(word)
        for attribute, value in given.items():
            if attribute in facts:
                self.value(value, (*path, attribute), scope, facts[attribute].words)
            else:
                self.unknown("attribute", attribute, word, facts, (*path, attribute))
        defaults = self.spec.defaults.get(word, {})
        missing = [name for name in ops.required(word) if name not in given and name not in defaults]
        if missing:
            self.report(
                "E0403", f"{word} needs {one_of(missing) if len(missing) == 1 else ' and '.join(missing)}", path
            )

    def use(self, use: Use, path: Path, scope: _Scope) -> None:
        word = use.block or (self.spec.block if scope.block is None else None)
        if word is None:
            help = (
                "write 'block: ...' in the row, or give the spec a 'block' for all rows"
                if scope.block is None
                else "write 'block: ...'"
            )
            self.report("E0103", "this row does not say which block it repeats", path, help, key=True)
            return
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
            if use.depth is None and block.stage and scope.block is None:
                self.report(
                    "E0405",
                    f"block '{word}' is made to be repeated, and this row gives no depth",
                    path,
                    "write 'depth: 1' for one block, which is then called '0' inside the row",
                    key=True,
                )
        elif word in ops.WORDS:
            self.report("E0401", f"'{word}' is an op, not a block", (*path, "block"), f"write {{{word}: {{...}}}}")
        else:
            self.unknown_word(word, (*path, "block"), blocks_only=True)

    def arguments(self, word: str, given: dict[str, Any], path: Path, scope: _Scope, complete: bool = False) -> None:
        parameters = self.spec.blocks[word].parameters
        for argument, value in given.items():
            if argument not in parameters:
                self.unknown("argument", argument, word, parameters, (*path, argument))
                continue
            definition = parameters[argument]
            words = {*takes_words(definition), *(self.block_words if definition.type == "block" else ())}
            self.value(value, (*path, argument), scope, words)
        if complete:
            defaults = self.spec.defaults.get(word, {})
            missing = [n for n, d in parameters.items() if d.default is None and n not in given and n not in defaults]
            misspelt = any(nearest(argument, missing) for argument in given if argument not in parameters)
            if missing and not misspelt:
                self.report("E0403", f"block '{word}' needs {' and '.join(missing)}", path, key=True)

    def is_block_parameter(self, word: str, scope: _Scope) -> bool:
        definition = scope.block.parameters.get(word) if scope.block else None
        return definition is not None and (definition.type == "block" or bool(definition.one_of))

    # --- values ---

    def value(self, value: Any, path: Path, scope: _Scope, words: Iterable[str] = (), default: bool = False) -> None:
        """Check the names of an expression; `words` are those that the attribute or parameter takes."""
        match value:
            case str():
                self.expression(value, path, scope, frozenset(words), default)
            case list():
                for at, item in enumerate(value):
                    self.value(item, (*path, at), scope, words)
            case Each():
                for at, item in enumerate(value.each):
                    self.value(item, (*path, "each", at), scope, words)
            case FirstRest():
                self.value(value.first, (*path, "first"), scope, words)
                self.value(value.rest, (*path, "rest"), scope, words)

    def expression(self, text: str, path: Path, scope: _Scope, words: frozenset[str], default: bool) -> None:
        expression = parse(text)
        self.mentioned |= expression.names.keys()
        for name, token in expression.names.items():
            if name in scope.names or name in scope.words or name in words:
                continue
            where = (*path, "default") if default else path
            place = inside(self.spec._document, where, token.offset, len(token.text))
            if words and expression.word is not None and not words >= self.block_words:
                help = nearest(name, words)
                self.problems.append(
                    Diagnostic(
                        "E0305", f"'{name}' is not allowed here; it is {one_of(sorted(words))}", place, help=help
                    )
                )
            elif words >= self.block_words and expression.word is not None:
                help = nearest(name, {*words, *library.blocks()})
                self.problems.append(Diagnostic("E0401", f"there is no block '{name}'", place, help=help))
            else:
                self.problems.append(
                    Diagnostic("E0302", f"unknown name '{name}'", place, help=self.scope_help(name, scope, words))
                )

    def scope_help(self, name: str, scope: _Scope, words: frozenset[str]) -> str | None:
        if name in ("index", "depth"):
            return f"'{name}' is known where a block is repeated with 'depth'"
        if name == "out_channels":
            return "'out_channels' is known in the shortcut and the gate of a residual"
        if scope.block is not None and name in self.spec.parameters:
            return "blocks do not see the network's parameters; hand it on as an argument"
        return nearest(name, {*scope.names, *words}) or (
            f"known here: {', '.join(sorted(scope.names))}" if scope.names else None
        )

    def template(self, text: str | None, path: Path, scope: _Scope, key: bool = False) -> None:
        if text is None or "{" not in text:
            return
        for part in template_parts(text)[1::2]:
            for name in parse(part).names:
                self.mentioned.add(name)
                if name not in scope.names:
                    self.report(
                        "E0302", f"unknown name '{name}'", path, self.scope_help(name, scope, frozenset()), key=key
                    )

    def unknown(self, what: str, name: str, word: str, known: Iterable[str], path: Path) -> None:
        listed = sorted(known)
        help = nearest(name, listed) or (f"{word} takes {one_of(listed)}" if listed else f"{word} takes none")
        self.report("E0402", f"{word} has no {what} '{name}'", path, help, key=True)

    def unknown_word(self, word: str, path: Path, blocks_only: bool = False, key: bool = False) -> None:
        known = {*self.spec.blocks, *library.blocks(), *(() if blocks_only else ops.WORDS)}
        what = "block" if blocks_only else "op or block"
        self.report(
            "E0401",
            f"there is no {what} '{word}'",
            path,
            nearest(word, known) or "see the list of blocks in the docs",
            key=key,
        )


def _block_words(step: Any) -> Iterator[str]:
    """Every literal word of a block that a step may use."""
    match step:
        case str():
            yield step
        case list():
            for item in step:
                yield from _block_words(item)
        case NamedStep():
            yield from _block_words(step.step)
        case If():
            yield from _block_words(step.then)
            yield from _block_words(step.else_)
        case ResidualStep():
            for part in (step.residual.branch, step.residual.gate, step.residual.shortcut):
                yield from _block_words(part)
        case ParallelStep():
            yield from _block_words(step.parallel.branches)
            yield from _block_words(step.parallel.branch)
        case SideStep():
            yield from _block_words(step.side.body)
        case Use():
            yield from _block_words(step.block)
