"""Quick fixes: the edits that the help of a mistake names. This is the one place that reads them from its words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from lsprotocol.types import CodeAction, CodeActionKind, Range, TextEdit, WorkspaceEdit

from rescompile.diagnostics.errors import Diagnostic as Problem
from rescompile.diagnostics.errors import Place
from rescompile.diagnostics.lookalikes import ascii_of
from rescompile.lang.yaml_reader import Mapping
from rescompile.lsp.documents import Document
from rescompile.lsp.names import value_at
from rescompile.lsp.problems import problem_in

#: The part of the text to replace, and what with; None where the help does not apply after all.
Edit = tuple[int, int, str] | None
Rule = Callable[[Document, Place, re.Match[str]], Edit]


def fixes(document: Document, within: Range) -> list[CodeAction]:
    """Return the fixes of the mistakes that touch a range."""
    found = []
    for problem in document.checked.diagnostics if document.is_spec else ():
        for start, end, text in edits(document, problem):
            where = document.lines.span(start, end)
            wrong = problem_in(document, problem)
            if _touches(wrong.range, within):
                change = WorkspaceEdit(changes={document.uri: [TextEdit(where, text)]})
                title = f"Replace by '{text}'" if end > start else f"Add '{text.strip().removesuffix(',')}'"
                action = CodeAction(title if text else "Remove the character", CodeActionKind.QuickFix, [wrong])
                action.edit, action.is_preferred = change, True
                found.append(action)
    return found


def edits(document: Document, problem: Problem) -> Iterator[tuple[int, int, str]]:
    """Yield the edit that the help of a mistake names, if it names one and the mistake is in this document."""
    place = problem.place
    if place is None or place.source.name != document.source.name or problem.help is None:
        return
    for pattern, rule in RULES:
        if (match := pattern.search(problem.help)) is not None:
            if (edit := rule(document, place, match)) is not None:
                yield edit
            return


def _touches(one: Range, other: Range) -> bool:
    return (one.start.line, one.start.character) <= (other.end.line, other.end.character) and (
        other.start.line, other.start.character
    ) <= (one.end.line, one.end.character)  # fmt: skip


def _replace(document: Document, place: Place, match: re.Match[str]) -> Edit:
    """Replace what is marked, with the quotes around it."""
    return document.lines.start(place), document.lines.end(place), match["new"]


def _replace_key(document: Document, place: Place, match: re.Match[str]) -> Edit:
    """Replace a key of the step that is marked."""
    start = document.lines.start(place)
    found = re.compile(rf"(?<![\w.]){re.escape(match['old'])}(?=\s*:)").search(document.text, start)
    return (found.start(), found.end(), match["new"]) if found is not None else None


def _replace_character(document: Document, place: Place, match: re.Match[str]) -> Edit:
    """Replace a character that only looks like the right one."""
    new = {"visible": "", "a plain space": " "}.get(match["new"], match["new"][1:-1])
    start, end = document.lines.start(place), document.lines.end(place)
    if new and new in "'\"":  # with the quote that closes the text
        line = place.source.line(place.line)[place.end - 1 :]
        length = next((at for at, character in enumerate(line) if ascii_of(character) == new), None)
        return None if length is None else (start, end + length + 1, f"{new}{line[:length]}{new}")
    needs_space = new == ":" and not document.text[end : end + 1].isspace()
    return start, end, f"{new} " if needs_space else new


def _first_line(document: Document, place: Place, match: re.Match[str]) -> Edit:
    """Insert a line at the top."""
    return 0, 0, f"{match['new']}\n"


def _after_dash(document: Document, place: Place, match: re.Match[str]) -> Edit:
    """Insert a value after the dash of an empty entry."""
    dash = document.text.rfind("-", 0, document.lines.start(place) + 1)
    return (dash + 1, dash + 1, f" {match['new']}") if dash >= 0 else None


def _first_key(document: Document, place: Place, match: re.Match[str]) -> Edit:
    """Insert a key before the first one of the row that is marked."""
    mention = document.index.at(document.lines.start(place))
    node = value_at(document.values, mention.path) if mention is not None else None
    if not isinstance(node, Mapping) or not node.entries:
        return None
    if match["new"].partition(":")[0] in node.entries:
        return None
    first = document.lines.start(next(iter(node.entries.values()))[0])
    line_start = document.lines.line_start(first)
    before = document.text[line_start:first]
    in_flow = "{" in before
    gap = ", " if in_flow else "\n" + re.sub(r"[^ ]", " ", before)
    return first, first, f"{match['new']}{gap}"


def _row_before(document: Document, place: Place, match: re.Match[str]) -> Edit:
    """Insert a row before the one that is marked."""
    start = document.lines.line_start(document.lines.start(place))
    dash = re.compile(r" *- ").match(document.text, start)
    return (start, start, f"{dash[0]}{match['new']}\n") if dash is not None else None


def _alone(document: Document, place: Place, match: re.Match[str]) -> Edit:
    """Put the word of an op in place of the mapping that is marked."""
    start = document.lines.start(place)
    mapping = re.compile(r"\{[^{}]*\}|[^{}\n#]*").match(document.text, start)
    return (start, mapping.end(), match["new"]) if mapping is not None else None


def _as_op(document: Document, place: Place, match: re.Match[str]) -> Edit:
    """Turn `{block: op, attribute: value}` into `{op: {attribute: value}}`."""
    start = document.text.rfind("{", 0, document.lines.start(place))
    word = re.escape(match["new"])
    row = re.compile(rf"\{{\s*block:\s*{word}\s*,(?P<inner>[^{{}}]*)\}}").match(document.text, max(start, 0))
    return (start, row.end(), f"{{{match['new']}: {{{row['inner'].strip()}}}}}") if row is not None else None


def _each(document: Document, place: Place, match: re.Match[str]) -> Edit:
    """Put a list into the form for one value per copy."""
    start = document.lines.start(place)
    end = document.text.find("]", start)
    if document.text[start : start + 1] != "[" or end < 0 or "[" in document.text[start + 1 : end]:
        return None
    return start, end + 1, f"{{each: {document.text[start : end + 1]}}}"


def _as_block(document: Document, place: Place, match: re.Match[str]) -> Edit:
    """Turn `word: {argument: value}` into `{block: word, argument: value}`; braces around it stay."""
    start = document.lines.start(place)
    rest = re.compile(rf"{re.escape(match['new'])}:\s*\{{(?P<inner>[^{{}}]*)\}}").match(document.text, start)
    if rest is None:
        return None
    inner = ", ".join(part for part in (f"block: {match['new']}", rest["inner"].strip()) if part)
    in_braces = document.text[:start].rstrip().endswith("{")
    return start, rest.end(), inner if in_braces else f"{{{inner}}}"


#: The words of a help, and the edit that they mean; the first that matches counts.
RULES: Sequence[tuple[re.Pattern[str], Rule]] = (
    (re.compile(r"^'(?P<old>\w+)': did you mean '(?P<new>[^']+)'"), _replace_key),
    (re.compile(r"did you mean '(?P<new>[^']+)'"), _replace),
    (re.compile(r" is not (?P<new>'[^']'|\"[^\"]\"|a plain space|visible)$"), _replace_character),
    (re.compile(r"^add '(?P<new>rescompile: 1)' as the first line"), _first_line),
    (re.compile(r"^write 'rescompile: (?P<new>1)'"), _replace),
    (re.compile(r"^write (?P<new>-?\d+)$"), _replace),
    (re.compile(r"^write (?P<new>true|false): "), _replace),
    (re.compile(r"^quote it: (?P<new>\".*\")$"), _replace),
    (re.compile(r"write '(?P<new>identity)'$"), _after_dash),
    (re.compile(r"^write '(?P<new>depth: 1)' for a single block"), _first_key),
    (re.compile(r"^write \{block: (?P<new>\w+), \.\.\.\}$"), _as_block),
    (re.compile(r"^write \{(?P<new>\w+): \{\.\.\.\}\}$"), _as_op),
    (re.compile(r"^write '(?P<new>\w+)' alone$"), _alone),
    (re.compile(r"^write '\w+: (?P<new>\w+)'$"), _replace),
    (re.compile(r"^write (?P<new>shortcut: \{[^{}]*\})$"), _first_key),
    (re.compile(r"^add '(?P<new>\w+)' before it"), _row_before),
    (re.compile(r"^for one value per block, write (?P<new>\{each: )\[\.\.\.\]"), _each),
)
