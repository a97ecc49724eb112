"""Checks that every name in an expression or a template is defined at its position."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import field, replace
from typing import Any

from rescompile.diagnostics.errors import MAX_FOUND, Diagnostic, SpecError, nearest, one_of
from rescompile.ir import names, ops
from rescompile.ir.expressions import Term, Token, parse
from rescompile.lang import library
from rescompile.lang.spec.blocks import Block, ParameterDefinition
from rescompile.lang.spec.spec import Spec
from rescompile.lang.spec.values import BLOCKLESS, TYPES, Each, FirstRest, kept_name
from rescompile.lang.yaml_reader import inside, locate
from rescompile.records import record

Path = tuple[str | int, ...]
REPEATED = frozenset({"index", "depth"})


@record(slots=False)
class Scope:
    """The names that expressions may use at some position."""

    names: Set[str]
    words: frozenset[str] = frozenset()
    block: Block | None = None
    later: Set[str] = frozenset()  # defined below, so not known yet
    definitions: Mapping[str, ParameterDefinition] = field(default_factory=dict)
    wider: dict[tuple[str, ...], Scope] = field(default_factory=dict, compare=False)

    def knows(self, name: str) -> bool:
        """Return whether an expression may use a name; the sizes of the map are known wherever its channels are."""
        return name in self.names or (name in names.SIZES and "in_channels" in self.names)

    def plus(self, *more: str) -> Scope:
        """Return the scope with these names too, made once."""
        if more not in self.wider:
            self.wider[more] = replace(self, names=self.names | set(more), wider={})
        return self.wider[more]


class ValueChecker:
    """Checks values; collects the mistakes and the names that are mentioned."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.problems: list[Diagnostic] = []
        self.mentioned: set[str] = set()
        self.unknown_names: set[str] = set()
        self.block_words = frozenset({*spec.blocks, *BLOCKLESS})

    def report(self, code: str, message: str, path: Path, help: str | None = None, key: bool = False) -> None:
        self._note(Diagnostic(code, message, locate(self.spec.document, path, key), help=help))

    def _note(self, problem: Diagnostic) -> None:
        """Note a mistake and go on, unless there are very many."""
        if problem not in self.problems:
            self.problems.append(problem)
        if len(self.problems) >= MAX_FOUND:
            raise SpecError(self.problems)

    def value(self, value: Any, path: Path, scope: Scope, words: Iterable[str] = (), of: str | None = None) -> None:
        """Check the names in a value; `words` are those that the attribute `of` an op, or a parameter, takes."""
        match value:
            case str():
                self._expression(value, path, scope, frozenset(words), of)
            case list():
                for at, item in enumerate(value):
                    self.value(item, (*path, at), scope, words, of)
            case Each():
                for at, item in enumerate(value.each):
                    self.value(item, (*path, "each", at), scope, words, of)
            case FirstRest():
                self.value(value.first, (*path, "first"), scope, words, of)
                self.value(value.rest, (*path, "rest"), scope, words, of)

    def _expression(self, text: str, path: Path, scope: Scope, words: frozenset[str], of: str | None) -> None:
        expression = parse(text)
        self.mentioned |= expression.names.keys()
        self._comparisons(expression, path, scope)
        for name, token in expression.names.items():
            if of and name in words and name in scope.names and name not in ops.LATER:
                message = f"'{name}' is ambiguous: it is both a name defined here and a value of {of}"
                self._report_name("E0310", message, path, token, f"rename the parameter or let '{name}'")
            if scope.knows(name) or name in scope.words or name in words:
                continue
            self.unknown_names.add(name)
            alone = expression.word is not None
            blocks = words >= self.block_words
            if words and alone and not blocks:
                code, message = "E0305", f"'{name}' is not allowed here; expected {one_of(sorted(words))}"
                hint = ops.similar(name, words)
            elif blocks and alone and name not in scope.later and path[0] != "parameters":
                code, message, hint = "E0401", f"unknown block '{name}'", nearest(name, {*words, *library.blocks()})
                if name in ops.WORDS:
                    message, hint = (
                        f"'{name}' is an op, not a block",
                        "to use an op here, wrap it in a block of your own",
                    )
            else:
                code, message, hint = "E0302", f"unknown name '{name}'", self._help(name, scope, words, path)
            self._report_name(code, message, path, token, hint)

    def _comparisons(self, term: Term, path: Path, scope: Scope) -> None:
        """Check that a parameter with `one_of` is compared with one of its words; any other comparison is never true."""
        for operand in term.operands:
            self._comparisons(operand, path, scope)
        if term.head not in ("==", "!=") or not all(operand.head == "name" for operand in term.operands):
            return
        for one, other in (term.operands, term.operands[::-1]):
            definition = scope.definitions.get(one.value)
            allowed = definition.one_of if definition else None
            if allowed and definition and definition.kind != "block" and other.value not in (*allowed, *scope.names):
                message = f"'{one.value}' is never '{other.value}': its values are {one_of(allowed, 'and')}"
                self._report_name("E0305", message, path, other.token, nearest(other.value, allowed))

    def _report_name(
        self, code: str, message: str, path: Path, name: Token, help: str | None, offset: int = 0, key: bool = False
    ) -> None:
        """Report a mistake at a name inside a value, or inside a key; `offset` is where its expression begins."""
        place = inside(self.spec.document, path, offset + name.offset, len(name.text), key)
        self._note(Diagnostic(code, message, place, help=help))

    def _help(self, name: str, scope: Scope, words: frozenset[str], path: Path) -> str | None:
        """Return what an unknown name could mean."""
        if name in names.WHERE_KNOWN:
            return names.WHERE_KNOWN[name]
        if name in scope.later:
            return f"'{name}' is defined further down; move its definition above this line"
        if scope.block is not None and name in self.spec.parameters:
            return "blocks cannot use the parameters of the network; pass it as an argument"
        if path[-1] == "default" and (typo := nearest(name, TYPES)):
            return f"{typo[:-1]}, the type?"
        if name.lower() in names.OTHER_TRUTHS:
            return f"write {names.OTHER_TRUTHS[name.lower()]}: '{name}' is a string, not a boolean"
        known = scope.names - names.BUILTINS - REPEATED
        return nearest(name, {*known, *words, "true", "false"}) or (
            f"names defined here: {', '.join(sorted(known))}" if known else None
        )

    def kept(self, text: str, path: Path, scope: Scope) -> None:
        """Check the names in the index of a kept value."""
        _, index = kept_name(text)
        if index is not None:
            self._names(index, path, scope, text.index("[") + 1)

    def template(self, text: str | None, path: Path, scope: Scope, key: bool = False) -> None:
        """Check the names in the {expressions} of a name."""
        for match in names.BRACES.finditer(text or ""):
            self._names(match[1], path, scope, match.start(1), key)

    def _names(self, text: str, path: Path, scope: Scope, offset: int, key: bool = False) -> None:
        """Check the names in an expression that begins at `offset` in a value or a key."""
        for name, token in parse(text).names.items():
            self.mentioned.add(name)
            if not scope.knows(name):
                help = self._help(name, scope, frozenset(), path)
                self._report_name("E0302", f"unknown name '{name}'", path, token, help, offset, key)
