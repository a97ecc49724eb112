"""Arguments of commands to specs and networks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rescompile.diagnostics.errors import Diagnostic, Place, Source, SpecError, UsageError

if TYPE_CHECKING:
    from rescompile.ir.network import Network
    from rescompile.lang.spec.spec import Spec


def spec_files(arguments: list[str]) -> Iterator[str]:
    """The specs that arguments name; those of a folder are sorted. Raises UsageError for a folder without specs."""
    for argument in arguments:
        if os.path.isdir(argument):
            files = sorted(path for pattern in ("*.yaml", "*.yml") for path in Path(argument).rglob(pattern))
            if not files:
                raise UsageError(Diagnostic("E0801", f"the folder {argument} contains no .yaml file"))
            yield from (str(path) if "/" in str(path) else f"./{path}" for path in files)
        else:
            yield argument


def elaborated(spec: str, settings: list[str] | None, features: str | None = None) -> tuple[Spec, Network]:
    """A spec and its network, with the values of --set and --features."""
    from rescompile.elaboration import elaborate, more_problems
    from rescompile.lang.load import load

    if features is not None and not features.strip():
        raise UsageError(
            Diagnostic("E0802", "--features is empty", help="name one or more parts, such as layer2,layer3")
        )
    setting = f"features=[{features}]" if features else None
    try:
        loaded = load(spec, [*(settings or ()), *([setting] if setting else ())])
        return loaded, elaborate(loaded)
    except SpecError as error:
        more = [] if error.rest is None else more_problems(error.rest)
        diagnostics = dict.fromkeys([*error.diagnostics, *more])
        raise SpecError([_of_features(diagnostic, setting, features) for diagnostic in diagnostics]) from None


def _of_features(diagnostic: Diagnostic, setting: str | None, features: str | None) -> Diagnostic:
    """The diagnostic, with a place in the setting that --features became moved to what the user typed."""
    place = diagnostic.place
    if place is None or features is None or place.source != Source("--set", setting or ""):
        return diagnostic
    column = min(max(place.column - len("features=["), 1), len(features))
    return replace(diagnostic, place=Place(Source("--features", features), 1, column, column + 1))
