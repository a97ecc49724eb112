"""Names steps, and refuses two steps of one name in a scope."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rescompile.elaboration.evaluator import Evaluator
from rescompile.elaboration.site import Names, Site
from rescompile.ir import names as naming
from rescompile.ir.expressions import show
from rescompile.lang.spec.rows import Use
from rescompile.lang.spec.steps import (
    AgainStep,
    If,
    KeepStep,
    NamedStep,
    ParallelStep,
    RecallStep,
    ResidualStep,
    SideStep,
    parts,
)
from rescompile.lang.spec.values import template_parts
from rescompile.lang.yaml_reader import locate


class Namer:
    """The names of steps: explicit, spelled from a template, or automatic."""

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator, self.report = evaluator, evaluator.report
        self.given: dict[int, frozenset[str]] = {}

    def scope(self, step: Any, numbered: bool = False) -> Names:
        """Return a new scope for a step of the spec, or a list of steps."""
        key = id(step)  # the steps exist as long as their spec
        if key not in self.given:
            self.given[key] = frozenset(_given_names(step))
        return Names(numbered, self.given[key])

    def of_macro(self, body: Sequence[Any], site: Site) -> Names:
        """Return the scope for the steps of a macro without a name: the one around it. In a numbered list, a macro that
        names some of its steps keeps these names, and its other ops are named after their word, as elsewhere."""
        names = site.names
        if not names.numbered or all(_names_itself(step) for step in body) or not any(_given_names(body)):
            return names
        names.has_named = True
        self._refuse_mixed(site, _late_name(next(_given_names(body))))
        return names.unnumbered(merges=names)

    def spelled(self, template: str, site: Site) -> str:
        """Return a name with its {expressions} filled in."""
        if "{" not in template:
            return template
        parts = template_parts(template)
        for at in range(1, len(parts), 2):
            value = self.evaluator.evaluate(parts[at], site)
            if isinstance(value, bool) or not isinstance(value, int | str):
                message = f"a name can contain only integers and words, but {{{parts[at]}}} is {show(value)}"
                raise self.report.blamed("E0304", message, site, key=True)
            parts[at] = str(value)
        name = "".join(parts)
        if reason := naming.refusal(name):
            raise self.report.blamed("E0109", f"'{name}' is not a valid name: {reason}", site, key=True)
        return name

    def explicit(self, template: str, site: Site) -> str:
        """Return an explicit name from the spec, claimed."""
        name = self.spelled(template, site)
        self.claim(name, site, template)
        site.names.has_named = True
        self._refuse_mixed(site, _late_name(name))
        return name

    def automatic(self, word: str, site: Site, owns: bool = False, merge: bool = False) -> str:
        """Return the claimed name of a step without one: the next number in a numbered list, else its word."""
        names = (site.names.merges if merge else None) or site.names
        if names.numbered:
            name = str(names.count)
            names.count += 1
            if not merge:
                names.has_unnamed = True
                self._refuse_mixed(site, f"'{word}' has no name")
        else:
            name, again = word, names.again.get(word, 0)
            while (name in names.taken or name in names.given) and not owns:
                again += 1
                name = f"{word}_{again}"
            names.again[word] = again
        self.claim(name, site)
        return name

    def claim(self, name: str, site: Site, template: str = "") -> None:
        """Claim a name, spelled from a template if it has one, in the scope of the site. Raises a problem if it is
        taken."""
        taken = site.names.taken
        if name in taken:
            document = self.report.document
            other = locate(document, taken[name], key=True)
            own = other.source == document.place.source
            where = f"on line {other.line}" if own else f"at {other.source.name}:{other.line}"
            message = f"two steps in one scope are named '{name}'; the other is {where}"
            help = "rename one of them"
            if other == locate(document, site.path, key=True):
                message = f"several steps in this scope would be named '{name}'"
                help = "use the block in a named step"
                if site.frame.copy and not any("index" in part for part in template_parts(template)[1::2]):
                    help = "include {index} in the name"
            if ("copies",) in (site.path[-1:], taken[name][-1:]):
                help = "give the parallel a name, which makes a scope for its copies: 'name: {parallel: ...}'"
            raise self.report.blamed("E0406", message, site, help, key=True)
        taken[name] = site.path

    def _refuse_mixed(self, site: Site, which: str) -> None:
        names, frame = site.names, site.frame
        if not names.numbered or names.mixed or not (names.has_named and names.has_unnamed):
            return
        names.mixed = True  # reported once per list
        help = "name all of its steps or none, since a step added later would shift the numbers"
        if frame.block is not None and frame.block.inline:
            help = f"name all steps of '{frame.word}', or use it without a name"
        message = f"this list mixes named and numbered steps: {which}"
        raise self.report.blamed("E0407", message, site, help, key=True)


def _late_name(name: str) -> str:
    """Return what mixes a list in which a name follows a step without one."""
    return f"'{name}' is a name, and a step before it has none"


def _names_itself(step: Any) -> bool:
    """Return whether nothing in a step is numbered in a list, except for merges."""
    match step:
        case NamedStep() | SideStep() | KeepStep() | RecallStep() | AgainStep():
            return True
        case Use():
            return step.name is not None
        case ParallelStep() if step.parallel.copies is not None:
            return True  # each copy has a separate scope
        case list() | If() | ResidualStep() | ParallelStep():
            return all(_names_itself(part) for part in parts(step) if part is not None)
    return False


def _given_names(step: Any) -> Iterator[str]:
    """Yield the names that a step claims in its own scope, if they are plain."""
    match step:
        case NamedStep() | Use():
            if step.name is not None:
                yield step.name
        case ParallelStep() if step.parallel.copies is not None:
            return  # each copy has a separate scope
        case _:
            for part in parts(step):
                yield from _given_names(part)
