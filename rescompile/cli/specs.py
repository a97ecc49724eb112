"""Converts arguments of commands to specs and networks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rescompile.diagnostics.errors import CheckFailed, Diagnostic, Place, Source, SpecError, UsageError
from rescompile.files import file_types

if TYPE_CHECKING:
    from rescompile.backend import Recorded
    from rescompile.ir.network import Network
    from rescompile.lang.spec.spec import Spec


def spec_files(arguments: list[str]) -> Iterator[str]:
    """Yield the specs that arguments name; those of a folder are sorted. Raises UsageError for a folder without
    specs."""
    for argument in arguments:
        if os.path.isdir(argument):
            files = sorted(path for pattern in ("*.yaml", "*.yml") for path in Path(argument).rglob(pattern))
            if not files:
                raise UsageError.of("E0801", f"the folder {argument} contains no .yaml file")
            yield from (str(path) if "/" in str(path) else f"./{path}" for path in files)
        else:
            yield argument


def elaborated(spec: str, settings: list[str] | None, features: str | None = None) -> tuple[Spec, Network]:
    """Return a spec and its network, with the values of --set and --features."""
    from rescompile.lang.load import load

    return _elaborated(lambda settings: load(spec, settings), settings, features)


def recorded(model: Path) -> Recorded:
    """Return what a model records of its origin. Raises UsageError if it records nothing, and CheckFailed if its spec
    was changed."""
    import hashlib

    from rescompile import backend

    file_types.check_file(model)
    found = backend.extract(model)
    if found is None:
        raise UsageError.of("E0801", f"{model} does not record a spec: rescompile did not build it")
    if hashlib.sha256(found.text.encode()).hexdigest() != found.sha256:
        raise CheckFailed.of("E0703", f"the spec in {model} does not match the SHA-256 recorded with it")
    return found


def after_passes(
    spec_or_model: str, settings: list[str] | None, features: str | None, passes: Mapping[str, Any]
) -> tuple[Spec, Network]:  # fmt: skip
    """Return a spec and its network after passes; for a model, the spec that it records, after the recorded passes and these.
    The recorded spec has no description."""
    from rescompile import passes as steps

    if file_types.file_type(spec_or_model) not in (file_types.ONNX, file_types.PROGRAM):
        spec, network = elaborated(spec_or_model, settings, features)
        return spec, steps.apply(network, None, passes)[0]
    from rescompile.lang.load import load_text

    origin = recorded(Path(spec_or_model))
    source = Source(f"{spec_or_model} (recorded spec)", origin.text)
    spec, network = _elaborated(lambda settings: load_text(source, settings), settings, features)
    return spec, steps.apply(network, None, {**steps.options(origin.passes), **passes})[0]


def _elaborated(
    load: Callable[[list[str]], Spec], settings: list[str] | None, features: str | None
) -> tuple[Spec, Network]:  # fmt: skip
    """Return what `load` returns for settings, and its network, with every mistake of either."""
    from rescompile.elaboration import elaborate, every_problem

    if features is not None and not features.strip():
        raise UsageError.of("E0802", "--features is empty", help="name one or more parts, such as layer2,layer3")
    setting = f"features=[{features}]" if features else None
    try:
        loaded = load([*(settings or ()), *([setting] if setting else ())])
        return loaded, elaborate(loaded)
    except SpecError as error:
        raise SpecError([_of_features(problem, setting, features) for problem in every_problem(error)]) from None


def _of_features(diagnostic: Diagnostic, setting: str | None, features: str | None) -> Diagnostic:
    """Return the diagnostic; a place in the setting that --features was converted to is moved to the text that the user
    typed."""
    place = diagnostic.place
    if place is None or features is None or place.source != Source("--set", setting or ""):
        return diagnostic
    column = min(max(place.column - len("features=["), 1), len(features))
    return replace(diagnostic, place=Place(Source("--features", features), 1, column, column + 1))
