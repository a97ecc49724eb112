"""Names: which step is called what in which scope, and that no two are called the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rescompile.elaboration.frames import Frame, Path, Value
from rescompile.elaboration.values import Values
from rescompile.ir import names as naming
from rescompile.ir.expressions import show
from rescompile.ir.ops import Shape
from rescompile.lang.spec.rows import Use
from rescompile.lang.spec.spec import Spec
from rescompile.lang.spec.steps import NamedStep, ParallelStep, parts
from rescompile.lang.spec.values import template_parts
from rescompile.lang.yaml_reader import locate


class Names:
    """The names of one scope. In a numbered one, steps without a name count from 0; elsewhere ops are called by their
    word. A step with a name of its own takes no number."""

    def __init__(self, numbered: bool = False, given: frozenset[str] = frozenset()) -> None:
        self.numbered = numbered
        self.given = given  # names that the spec gives further on; automatic ones keep clear of them
        self.count = 0
        self.again: dict[str, int] = {}  # how often a word has named a step
        self.taken: dict[str, Path] = {}
        self.has_named = self.has_unnamed = self.mixed = False

    def unnumbered(self) -> Names:
        """The same scope seen from a shortcut or a gate, whose steps take no number."""
        seen = Names(given=self.given)
        seen.taken, seen.again = self.taken, self.again
        return seen


def given_names(step: Any) -> Iterator[str]:
    """The names that a step gives in its own scope, as far as they are plain."""
    match step:
        case NamedStep():
            yield step.name
        case Use():
            if step.name is not None:
                yield step.name
        case ParallelStep() if step.parallel.copies is not None:
            return  # each copy is a scope of its own
        case _:
            for part in parts(step):
                yield from given_names(part)


class Scopes(Values):
    """Gives steps their names."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.given: dict[int, frozenset[str]] = {}

    def names_of(self, steps: Sequence[Any], numbered: bool = False) -> Names:
        """A new scope for these steps."""
        key = id(steps)  # the lists of a spec live as long as it does
        if key not in self.given:
            self.given[key] = frozenset(given_names(list(steps)))
        return Names(numbered, self.given[key])

    def spelled(self, template: str, path: Path, frame: Frame, **extra: Value) -> str:
        """A name with its {expressions} filled in."""
        if "{" not in template:
            return template
        parts = template_parts(template)
        for at in range(1, len(parts), 2):
            value = self.evaluate(parts[at], frame, path, **extra)
            if isinstance(value, bool) or not isinstance(value, int | str):
                message = f"a name holds whole numbers and words, and {{{parts[at]}}} is {show(value)}"
                raise self.blamed("E0304", message, path, frame, key=True)
            parts[at] = str(value)
        name = "".join(parts)
        if reason := naming.refusal(name):
            raise self.blamed("E0109", f"'{name}' cannot be a name: {reason}", path, frame, key=True)
        return name

    def explicit(self, template: str, path: Path, frame: Frame, names: Names, shape: Shape | None = None) -> str:
        """A name that the spec gives."""
        extra = {"in_channels": shape[0]} if shape else {}
        name = self.spelled(template, path, frame, **extra)
        self.claim(name, path, frame, names)
        names.has_named = True
        self.unmixed(names, path, frame)
        return name

    def automatic(
        self, word: str, path: Path, frame: Frame, names: Names, owns: bool = False, merge: bool = False
    ) -> str:
        """The name of a step without one: the next number in a numbered list, else its word."""
        if names.numbered:
            name = str(names.count)
            names.count += 1
            if not merge:
                names.has_unnamed = True
                self.unmixed(names, path, frame)
        else:
            name, again = word, names.again.get(word, 0)
            while (name in names.taken or name in names.given) and not owns:
                again += 1
                name = f"{word}_{again}"
            names.again[word] = again
        self.claim(name, path, frame, names)
        return name

    def claim(self, name: str, path: Path, frame: Frame, names: Names) -> None:
        if name in names.taken:
            other = locate(self.document, names.taken[name], key=True)
            where = (
                f"the other is on line {other.line}"
                if other.source == self.document.place.source
                else f"the other is {other.source.name}:{other.line}"
            )
            message = f"two steps are called '{name}' in one scope; {where}"
            help = "give one of them another name"
            if other == locate(self.document, path, key=True):
                message = f"all copies are called '{name}'"
                help = "put {index} into the name"
            raise self.blamed("E0406", message, path, frame, help=help, key=True)
        names.taken[name] = path

    def unmixed(self, names: Names, path: Path, frame: Frame) -> None:
        if not names.numbered or names.mixed or not (names.has_named and names.has_unnamed):
            return
        names.mixed = True  # said once for a list
        help = "name all of its steps, or none: a step added later would shift the numbers"
        if frame.block is not None and frame.block.inline:
            help = f"{frame.word} gives its steps names: use it without a name of its own"
        message = "this list mixes steps with names and steps that are numbered"
        raise self.blamed("E0407", message, path, frame, help=help, key=True)
