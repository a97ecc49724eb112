"""YAML text -> a tree of plain values with their places.

Strict on purpose: one document, no aliases, merge keys, tags or duplicate keys, scalars of YAML 1.2. The reader walks the
event stream with limits on bytes, depth and nodes, so that it refuses hostile text before it builds anything from it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from rescompile.diagnostics.errors import BREAK, MAX_FOUND, Diagnostic, Place, Source, SpecError
from rescompile.diagnostics.lookalikes import explained
from rescompile.records import record

MAX_BYTES = 1 << 20
MAX_DEPTH = 48
MAX_NODES = 50_000
MAX_DIGITS = 18
MAX_REREAD = 8_000

Atom = str | int | float | bool | None


@record
class Scalar:
    """One value; `plain` is false where the user quoted it."""

    value: Atom
    place: Place
    plain: bool = True


@record
class Items:
    """A list with its place."""

    items: tuple[Located, ...]
    place: Place


@record
class Mapping:
    """A mapping: for each key, in order, its place and its value."""

    entries: dict[str, tuple[Place, Located]]
    place: Place

    def get(self, key: str) -> Located | None:
        """Return the value under this key, or None."""
        entry = self.entries.get(key)
        return entry[1] if entry else None

    def table(self, key: str) -> dict[str, tuple[Place, Located]]:
        """Return the entries of the mapping under this key; none if it is missing or no mapping."""
        value = self.get(key)
        return value.entries if isinstance(value, Mapping) else {}

    def put(self, key: str, value: Located | None, key_place: Place | None = None) -> Mapping:
        """Return a copy with this key set, or without it if the value is None."""
        entries = dict(self.entries)
        if value is None:
            entries.pop(key, None)
        else:
            entries[key] = (key_place or (entries[key][0] if key in entries else value.place), value)
        return Mapping(entries, self.place)


Located = Scalar | Items | Mapping


def plain(node: Located) -> Any:
    """Return the value without places: dicts, lists and scalars."""
    match node:
        case Mapping():
            return {key: plain(value) for key, (_, value) in node.entries.items()}
        case Items():
            return [plain(item) for item in node.items]
        case _:
            return node.value


def entries(node: Located) -> Iterator[tuple[str | None, Place, Located]]:
    """Yield the values of a mapping or list, each with its key (None in a list) and place; nothing for a scalar."""
    match node:
        case Mapping():
            yield from ((name, key, value) for name, (key, value) in node.entries.items())
        case Items():
            yield from ((None, item.place, item) for item in node.items)


def locate(document: Mapping, path: Sequence[str | int], key: bool = False) -> Place:
    """Return the place for a message about the value at `path`: that of the value, but for a mapping that of its key, because
    it may start on another line; with `key`, always the key. Elements of the path that are not in the text are skipped."""
    node: Located = document
    key_place = place = document.place
    for step in path:
        if isinstance(node, Mapping) and step in node.entries:
            key_place, node = node.entries[str(step)]
        elif isinstance(node, Items) and isinstance(step, int) and step < len(node.items):
            node = node.items[step]
            key_place = node.place
        else:
            continue
        place = key_place if isinstance(node, Mapping) else node.place
    return key_place if key else place


def inside(document: Mapping, loc: Sequence[str | int], offset: int, length: int, key: bool = False) -> Place:
    """Return the part of a scalar's place (or of its key's) that an error in an expression refers to, without an opening
    quote."""
    place = locate(document, loc, key)
    quoted = place.source.line(place.line)[place.column - 1 : place.column] in ("'", '"')
    return place.part(offset + quoted, length)


def read(source: Source, skip: int = 0) -> Located:
    """Return the document of the text, without the first `skip` characters.

    Raises SpecError with every mistake, up to the first one that makes the rest unreadable.
    """
    reader = _reader(source, skip)
    node = reader.document()
    if reader.problems:
        raise SpecError(reader.problems)
    return node


def read_whatever(source: Source, cuts: int = 4) -> Located | None:
    """Return the values of a text that is still being written, whatever they are. Where it is not YAML, those of the lines
    above the mistake, which may be cut off so often; None if nothing can be read."""
    text = source.text
    for _ in range(cuts + 1):
        try:
            return _reader(Source(source.name, text)).document()
        except SpecError as error:
            place = error.diagnostics[0].place
            if place is None or place.line < 2:
                return None
            text = text[: [match.end() for match in BREAK.finditer(text)][place.line - 2]]
    return None


def _reader(source: Source, skip: int = 0) -> _Reader:
    """Return a reader of the text without its first `skip` characters. Raises SpecError for text that no reader takes."""
    if len(source.text) > MAX_BYTES:
        _refuse(source, None, "E0107", f"the text is longer than {MAX_BYTES:,} characters")
    if wrong := yaml.reader.Reader.NON_PRINTABLE.search(source.text):
        character = f"U+{ord(wrong[0]):04X}"
        _refuse(source, Place.at(source, wrong.start()), "E0111", f"the character {character} is not allowed in YAML")
    return _Reader(source, _events(source, " " * skip + source.text[skip:]))


def _events(source: Source, text: str) -> Iterator[yaml.Event]:
    """Yield the events of libyaml if PyYAML has it. Syntax errors near the start come from the pure Python parser, so that
    their wording is the same everywhere; in longer text it takes seconds."""
    try:
        yield from yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as fast:
        _syntax(source, _same_error(text, fast))


def _same_error(text: str, fast: yaml.YAMLError) -> yaml.YAMLError:
    """Return the error of the pure Python parser for text that libyaml refuses, or that of libyaml."""
    mark = getattr(fast, "problem_mark", None)
    if mark is None or mark.index > MAX_REREAD:
        return fast
    looked_at = text[: mark.index + 1100]  # for one key, the scanner reads this far ahead
    if looked_at.count("[") + looked_at.count("{") - looked_at.count("]") - looked_at.count("}") > MAX_DEPTH:
        return fast
    try:
        for _ in yaml.parse(text, Loader=yaml.SafeLoader):
            pass
    except yaml.YAMLError as slow:
        return slow
    return fast


def _syntax(source: Source, error: yaml.YAMLError) -> None:
    """Refuse text that is not YAML, with messages of ours for common mistakes."""
    problem = str(getattr(error, "problem", None) or "it cannot be read")
    mark, context = getattr(error, "problem_mark", None), getattr(error, "context_mark", None)
    opened = source.text[context.index : context.index + 1] if context else ""
    rest = source.text[mark.index :] if mark else ""
    help: str | None = None
    if odd := _lookalike(source, mark):
        _refuse(source, odd, "E0101", "this line is not valid YAML")
    if "'\\t'" in problem or ("start any token" in problem and rest.startswith("\t")):
        message = "tabs are not allowed as indentation"
        help = "indent with spaces"
    elif opened in ("[", "{") and ("<document" in problem or not rest.strip()):
        message, mark = f"'{opened}' is never closed", context
    elif (
        "but found '<block" in problem
        or "did not find expected" in problem
        or "mapping values are not allowed" in problem
        or "could not find expected ':'" in problem
    ):
        message = "this line does not match the indentation or structure of the lines around it"
        help = "quote text that contains ': '" if "mapping values" in problem else None
    else:
        message = f"not valid YAML: {problem}"
        help = "quote values that contain [ ] { } , : or #"
    place = Place.at(source, min(mark.index, max(len(source.text.rstrip()) - 1, 0))) if mark else None
    _refuse(source, place, "E0101", message, help)


def _lookalike(source: Source, mark: Any) -> Place | None:
    """Return the place of the nearest character at or before a syntax error that only looks like one of YAML's: outside
    comments and quotes, on the line of the error or on the one before."""
    if mark is None:
        return None
    for line in (mark.line + 1, mark.line):
        text = _ASIDE.sub(lambda aside: " " * len(aside[0]), source.line(line))
        found = [at for at, character in enumerate(text, start=1) if explained(character)] if not text.isascii() else []
        if found:
            return Place(source, line, found[-1], found[-1] + 1)
    return None


#: Comments and quoted text, in which every character is right.
_ASIDE = re.compile(r"(?:^|\s)#.*|\"[^\"]*\"|'[^']*'")


def _refuse(source: Source, place: Place | None, code: str, message: str, help: str | None = None) -> None:
    raise SpecError.of(code, message, place or Place(source, 1, 1, 2), help=help)


class _Reader:
    """Builds the located tree from events, one method per construct."""

    def __init__(self, source: Source, events: Iterator[yaml.Event]) -> None:
        self.source, self.events = source, events
        self.problems: list[Diagnostic] = []
        self.nodes = 0

    def document(self) -> Located:
        next(self.events)  # stream start
        start = next(self.events)
        if not isinstance(start, yaml.DocumentStartEvent):
            _refuse(self.source, None, "E0104", "the spec is empty", "a spec starts with 'rescompile: 1'")
        if getattr(start, "version", None) or getattr(start, "tags", None):
            self.problem(start, "E0106", "YAML directives are not supported in specs")
        node = self.node(next(self.events), 0)
        next(self.events)  # document end
        after = next(self.events)
        if not isinstance(after, yaml.StreamEndEvent):
            self.problem(after, "E0106", "a spec must be a single YAML document, but a second one starts here")
        return node

    def node(self, event: yaml.Event, depth: int) -> Located:
        self.nodes += 1
        place = self.place(event)
        if depth > MAX_DEPTH:
            _refuse(self.source, place, "E0107", f"values are nested more than {MAX_DEPTH} levels deep")
        if self.nodes > MAX_NODES:
            _refuse(self.source, place, "E0107", f"the file contains more than {MAX_NODES:,} values")
        if getattr(event, "anchor", None):
            kind = "aliases" if isinstance(event, yaml.AliasEvent) else "anchors"
            self.problem(
                event,
                "E0106",
                f"YAML {kind} are not supported in specs",
                "repeat the value, or define it under 'parameters'",
            )
        if isinstance(event, yaml.AliasEvent):
            return Scalar(None, place)
        if (tag := getattr(event, "tag", None)) is not None:
            self.problem(
                event, "E0106", f"YAML tags are not supported in specs: {tag.replace('tag:yaml.org,2002:', '!!')}"
            )
        if isinstance(event, yaml.ScalarEvent):
            unquoted = not event.style
            return Scalar(self.scalar(event.value, place) if unquoted else event.value, place, unquoted)
        if isinstance(event, yaml.SequenceStartEvent):
            return self.items(place, depth)
        return self.mapping(place, depth)

    def items(self, place: Place, depth: int) -> Items:
        items = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self.node(event, depth + 1))
        return Items(tuple(items), place)

    def mapping(self, place: Place, depth: int) -> Mapping:
        entries: dict[str, tuple[Place, Located]] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key = self.node(event, depth + 1)
            value = self.node(next(self.events), depth + 1)
            if not isinstance(key, Scalar):
                self.problem(event, "E0104", "a key must be a single word")
                continue
            text = event.value if isinstance(event, yaml.ScalarEvent) else ""
            if text == "<<" and key.plain:
                self.problem(
                    event, "E0106", "YAML merge keys are not supported in specs", "use 'extends' or 'defaults'"
                )
            elif text in entries:
                first = entries[text][0]
                self.problem(event, "E0105", f"duplicate key '{text}'; it was first given on line {first.line}")
            else:
                entries[text] = (key.place, value)
        return Mapping(entries, place)

    def scalar(self, text: str, place: Place) -> Atom:
        """Return the value of a plain scalar in the core schema of YAML 1.2; `_` may separate the digits of an integer."""
        if text in _CONSTANTS:
            return _CONSTANTS[text]
        if _NOT_FINITE.fullmatch(text):
            return self.bad_number(place, f"{text} is not a finite number")
        if _INTEGER.fullmatch(text):
            digits = text.lstrip("+-")
            if len(digits.replace("_", "")) > MAX_DIGITS:
                return self.bad_number(place, f"the integer has more than {MAX_DIGITS} digits", "E0107")
            if len(digits) > 1 and digits[0] == "0":
                return self.bad_number(
                    place,
                    f"{text} is ambiguous: YAML 1.1 reads it as octal, YAML 1.2 as decimal",
                    help=f"write {digits.lstrip('0') or 0}",
                )
            return int(text)
        if _FLOAT.fullmatch(text):
            value = float(text)
            return value if abs(value) < 1e300 else self.bad_number(place, f"{text} is too large")
        if _OTHER_BASE.fullmatch(text):
            return self.bad_number(place, f"{text} is not a decimal number")
        return text

    def bad_number(self, place: Place, message: str, code: str = "E0112", help: str | None = None) -> Atom:
        self.note(Diagnostic(code, message, place, help=help))
        return 0

    def place(self, event: yaml.Event) -> Place:
        start, end = event.start_mark, event.end_mark
        assert start is not None
        assert end is not None
        last = end.column + 1 if end.line == start.line and end.column > start.column else start.column + 2
        return Place(self.source, start.line + 1, start.column + 1, last)

    def problem(self, event: yaml.Event, code: str, message: str, help: str | None = None) -> None:
        self.note(Diagnostic(code, message, self.place(event), help=help))

    def note(self, problem: Diagnostic) -> None:
        """Note a mistake and read on, unless there are very many."""
        self.problems.append(problem)
        if len(self.problems) >= MAX_FOUND:
            raise SpecError(self.problems)


_CONSTANTS: dict[str, Atom] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INTEGER = re.compile(r"[-+]?[0-9]+(_[0-9]+)*")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_OTHER_BASE = re.compile(r"0[xob][0-9a-fA-F]+")


def reads_as_text(text: str) -> bool:
    """Return whether a plain scalar with these characters is read as the same text."""
    return text not in _CONSTANTS and not any(p.fullmatch(text) for p in (_INTEGER, _FLOAT, _NOT_FINITE, _OTHER_BASE))
