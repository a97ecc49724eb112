"""File or zoo name -> Spec: reads, merges, adds the library's blocks, validates, checks every name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import islice
from typing import Any

from pydantic import ValidationError

from rescompile.diagnostics.errors import MAX_FOUND, Diagnostic, Source, SpecError
from rescompile.ir import ops
from rescompile.lang import library, recovery
from rescompile.lang.form_errors import diagnostics
from rescompile.lang.inheritance import resolve, resolve_text
from rescompile.lang.later_parameters import settings, without_unset
from rescompile.lang.name_checker import check
from rescompile.lang.reachable_blocks import reachable_blocks
from rescompile.lang.spec.spec import Spec
from rescompile.lang.yaml_reader import Mapping, plain

PathLike = str | os.PathLike[str]


def load(path_or_name: PathLike, set: Sequence[str] = ()) -> Spec:
    """Read and validate a spec.

    `path_or_name` is a file if it contains a `/` or ends in .yaml or .yml, otherwise a name of the zoo. `set` lists
    settings such as `"layer3.depth=23"`, as on the command line. The returned Spec is resolved: `extends` and `set` are
    applied, and its `blocks` contain the library blocks that it uses.

    Raises SpecError with every mistake and its place, and UsageError if there is no such spec.
    """
    document = resolve(library.spec_path(os.fspath(path_or_name)), set)
    return from_document(document, changed=bool(set))


def load_text(source: Source, set: Sequence[str] = ()) -> Spec:
    """Read and validate the canonical text of a spec, as an artifact records it. Raises SpecError as `load` does."""
    return from_document(resolve_text(source, set), changed=bool(set))


def from_document(document: Mapping, changed: bool = False) -> Spec:
    """Return the Spec of a merged document; `changed` is true if settings from outside the file were applied.

    Raises SpecError with every mistake; its `rest` is the Spec without the wrong rows.
    """
    empty = list(islice(recovery.empties(document), MAX_FOUND))
    if empty:
        document = recovery.without_empties(document)  # type: ignore[assignment]
    document = _with_library(document)
    try:
        result = Spec.resolved(document, changed)
    except ValidationError as error:
        found = islice(diagnostics(error, document), MAX_FOUND)
        forms = [diagnostic for diagnostic in found if not (empty and diagnostic.code == "E0103")]
        names = [] if empty else _names_of_the_rest(document, error)
        raise SpecError([*empty, *forms, *names]) from None
    if empty:
        raise SpecError(empty)
    problems = check(result)
    if problems:
        raise SpecError(problems, _rest(document, problems))
    return result


def _names_of_the_rest(document: Mapping, error: ValidationError) -> list[Diagnostic]:
    """Unknown names in the rows of correct form."""
    wrong = [item["loc"] for item in error.errors(include_url=False)]
    if any(loc[:1] in (("blocks",), ("parameters",)) for loc in wrong):
        return []  # every use of what they define would be reported
    try:
        rest = Spec.resolved(recovery.without_forms(document, wrong), False)
    except ValidationError:
        return []
    return [diagnostic for diagnostic in check(rest) if diagnostic.code not in ("E0103", "E0410")]


def _rest(document: Mapping, problems: Sequence[Diagnostic]) -> Spec | None:
    """Return the Spec without the rows that contain an unknown name, or None if the rest is invalid too."""
    remaining = recovery.without_places(document, {problem.place for problem in problems if problem.place is not None})
    if remaining is None:
        return None
    try:
        rest = Spec.resolved(remaining, False)
    except ValidationError:
        return None
    return None if any(diagnostic.code != "E0410" for diagnostic in check(rest)) else rest


# --- blocks of the library --------------------------------------------------------------------------------------------


def _with_library(document: Mapping) -> Mapping:
    """Return the document with every block of the library that it may refer to."""
    own = document.get("blocks")
    if own is not None and not isinstance(own, Mapping):
        return document
    entries = dict(own.entries) if own is not None else {}
    is_set = settings(document)

    def block(word: str) -> Any:
        if word not in entries:
            if word not in library.blocks() or word in ops.WORDS:
                return None
            node = without_unset(word, library.block(word), is_set)
            entries[word] = (node.place, node)
        return plain(entries[word][1])

    reachable_blocks(plain(document), block)
    blocks = Mapping(dict(sorted(entries.items())), own.place if own is not None else document.place)
    return document.put("blocks", blocks)
