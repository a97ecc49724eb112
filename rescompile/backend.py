"""The backend API: finds and loads backends, and re-exports everything that a backend needs from rescompile.

A backend is a module `rescompile.backends.<target>`, or an object that a third party names in the entry-point group
`rescompile.backends`. `Backend` lists what the core uses, and DEFAULTS what need not be declared. The core does not contain any
target names: it reads these declarations.

This module is the complete API for third parties: everything in `__all__` keeps its name. Heavy modules are imported on first
use, so that a command imports only what it needs.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from rescompile.artifact import Artifact, Recorded, Wrapping, origin
from rescompile.diagnostics.errors import (
    CheckFailed,
    Diagnostic,
    OutputError,
    RescompileError,
    Unavailable,
    UsageError,
    nearest,
    one_of,
)
from rescompile.options import Option, read

if TYPE_CHECKING:
    from rescompile.analysis.dynamic_shapes import sizes
    from rescompile.analysis.tree_table import describe
    from rescompile.files.atomic_write import File
    from rescompile.files.checksum import GENERATOR, with_checksum
    from rescompile.ir import ops
    from rescompile.ir.interpreter import interpret
    from rescompile.ir.network import (
        INPUT,
        LOGITS,
        Network,
        Node,
        Op,
        Parallel,
        Series,
        Side,
        join,
        name_of,
        parameters,
        scope,
        walk,
    )
    from rescompile.ir.ops.op import rule
    from rescompile.ir.traversal import FoldRules, ThreadRules, fold, rewrite, thread
    from rescompile.weights import Array, Weights

__all__ = [
    "GENERATOR",
    "INPUT",
    "LOGITS",
    "Array",
    "Artifact",
    "Backend",
    "CheckFailed",
    "Diagnostic",
    "File",
    "FoldRules",
    "Network",
    "Node",
    "Op",
    "Option",
    "OutputError",
    "Parallel",
    "Recorded",
    "RescompileError",
    "Series",
    "Side",
    "ThreadRules",
    "Unavailable",
    "UsageError",
    "Weights",
    "Wrapping",
    "describe",
    "fold",
    "interpret",
    "join",
    "lazily",
    "name_of",
    "nearest",
    "one_of",
    "ops",
    "origin",
    "parameters",
    "rewrite",
    "rule",
    "scope",
    "sizes",
    "thread",
    "walk",
    "with_checksum",
]  # fmt: skip

#: The module of each name that is imported on first use; `ops` is a module itself.
_HOMES: Mapping[str, str] = {
    "describe": "analysis.tree_table",
    "interpret": "ir.interpreter",
    "ops": "ir",
    "rule": "ir.ops.op",
    "sizes": "analysis.dynamic_shapes",
    "File": "files.atomic_write",
    **dict.fromkeys(("GENERATOR", "with_checksum"), "files.checksum"),
    **dict.fromkeys(("Array", "Weights"), "weights"),
    **dict.fromkeys(("FoldRules", "ThreadRules", "fold", "rewrite", "thread"), "ir.traversal"),
    **dict.fromkeys(("INPUT", "LOGITS", "Network", "Node", "Op", "Parallel", "Series", "Side"), "ir.network"),
    **dict.fromkeys(("join", "name_of", "parameters", "scope", "walk"), "ir.network"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    home = f"rescompile.{_HOMES[name]}"
    value = importlib.import_module(f"{home}.ops") if name == "ops" else getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def lazily(module: str) -> Callable[[str], Any]:
    """Return a `__getattr__` for a module that only declares a target: all other names come from another module, imported on
    first use, or are DEFAULTS, for which declarations in capitals import nothing."""

    def get(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name.isupper() and name in DEFAULTS:
            return DEFAULTS[name]
        home = importlib.import_module(module)
        return getattr(home, name, DEFAULTS[name]) if name in DEFAULTS else getattr(home, name)

    return get


GROUP = "rescompile.backends"


class Backend(Protocol):
    """The attributes of a target that the core uses. Only `SUFFIX`, `OPTIONS` and `emit` must be declared; the rest has
    DEFAULTS."""

    #: The suffix of its files, such as ".onnx".
    SUFFIX: str
    #: The options of `emit` and `evaluate`.
    OPTIONS: tuple[Option, ...]
    #: The packages that `emit` imports, and those that only `evaluate` does, each with how to install it.
    REQUIRES: Mapping[str, str]
    EVALUATION_REQUIRES: Mapping[str, str]
    #: Why given weights would be ignored, and why zeros that a pass inserts would not stay zero; "" if neither applies.
    IGNORES_WEIGHTS: str
    FILLS_ZEROS: str
    #: The options that a recipe (`build --for`) may set; none where recipes do not apply.
    RECIPE_OPTIONS: tuple[str, ...]

    def emit(self, network: Network, weights: Weights | None, **options: Any) -> Artifact:
        """Return the artifact; `weights` is None if only the structure is built."""

    #: (network, weights, x, **options) -> outputs by name: what the artifact computes for a batch, for `verify`.
    evaluate: Callable[..., Mapping[str, Array]] | None
    #: (path, network, weights, x, **options) -> outputs by name: what a written file computes for a batch, for `build --verify`. The weights
    #: are those of the file already, unless it IGNORES_WEIGHTS.
    evaluate_file: Callable[..., Mapping[str, Array]] | None
    #: (network, **options) -> what such a file computes around the network; None if it computes the network alone.
    wrapping: Callable[..., Wrapping] | None
    #: (path) -> what a file records of its origin; None for one that records nothing.
    extract: Callable[[Path], Recorded | None] | None
    #: (network, weights, model, nodes, calibration, facts, **options) -> the artifact of a model that the quantiser made of one of
    #: its files: what the value int8 of its option `precision` takes.
    rewritten: Callable[..., Artifact] | None


DEFAULTS: Mapping[str, Any] = {
    "REQUIRES": {},
    "EVALUATION_REQUIRES": {},
    "IGNORES_WEIGHTS": "",
    "FILLS_ZEROS": "",
    "RECIPE_OPTIONS": (),
    "evaluate": None,
    "evaluate_file": None,
    "wrapping": None,
    "extract": None,
    "rewritten": None,
}


class _Completed:
    """A backend with DEFAULTS for attributes that it does not declare."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name, DEFAULTS[name]) if name in DEFAULTS else getattr(self._backend, name)


@cache
def built_in() -> tuple[str, ...]:
    """Return the targets of this package, found by listing its folder, without importing any."""
    spec = find_spec("rescompile.backends")
    assert spec is not None
    assert spec.submodule_search_locations
    folder = Path(next(iter(spec.submodule_search_locations)))
    names = (path.stem for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file())
    return tuple(sorted(name for name in names if not name.startswith("_")))


def targets() -> Iterator[str]:
    """Return all targets without importing any: those of this package, then those of third parties, which take longer to
    find."""
    yield from built_in()
    yield from (name for name in _third_parties() if name not in built_in())


def declared_options() -> list[Option]:
    """Return the options of the targets of this package; if several targets declare a name, that of the first."""
    options: dict[str, Option] = {}
    for target in built_in():
        for option in importlib.import_module(f"{GROUP}.{target}").OPTIONS:
            options.setdefault(option.name, option)
    return list(options.values())


def load(target: str) -> Backend:
    """Return the backend of a target, with its framework. Raises Unavailable for an unknown one or a missing package."""
    if target in built_in():
        backend: Backend = importlib.import_module(f"{GROUP}.{target}")
        _import(backend.REQUIRES, f"the target '{target}' cannot be loaded")
        return backend
    point = _third_parties().get(target)
    if point is None:
        known = list(targets())
        hint = nearest(target, known) or f"the targets are {one_of(known)}"
        raise Unavailable.of("E0901", f"there is no target '{target}'", help=hint)
    whose = f" of {point.dist.name}" if point.dist else ""
    message = f"the target '{target}'{whose} cannot be loaded"
    try:
        backend = cast(Backend, _Completed(point.load()))
    except Exception as error:  # third-party code
        raise Unavailable.of("E0902", f"{message}: {error}") from None
    _import(backend.REQUIRES, message)
    return backend


def evaluator(target: str) -> Backend:
    """Return the backend of a target whose artifacts can be evaluated here. Raises UsageError for one that has no
    `evaluate`, and Unavailable if a package is missing."""
    backend = load(target)
    if backend.evaluate is None:
        raise UsageError.of("E0802", f"'{target}' cannot be verified", help="its backend has no 'evaluate'")
    _import(backend.EVALUATION_REQUIRES, f"the target '{target}' cannot be evaluated")
    return backend


def missing(target: str, evaluation: bool = False) -> Diagnostic | None:
    """Return why a target cannot be loaded here, or with `evaluation` why its artifacts cannot be evaluated; None if they
    can."""
    try:
        evaluator(target) if evaluation else load(target)
    except (Unavailable, UsageError) as error:
        return error.diagnostics[0]
    except Exception as error:  # an installed but broken framework
        return Diagnostic("E0902", f"{type(error).__name__}: {str(error)[:300]}")
    return None


def _import(packages: Mapping[str, str], message: str) -> None:
    """Raise Unavailable for the first of some packages that is missing."""
    for package, how in packages.items():
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise Unavailable.of("E0902", f"{message}: {error}", help=how) from None


def extract(path: Path) -> Recorded | None:
    """Return the recorded origin of a file, read by the backend with its suffix. Raises UsageError if there is no such
    backend, and Unavailable if a backend that cannot be loaded might be it."""
    missing: list[Diagnostic] = []
    for target in targets():
        try:
            backend = load(target)
        except Unavailable as error:
            missing += error.diagnostics
            continue
        if path.suffix.lower() == backend.SUFFIX and backend.extract is not None:
            return backend.extract(path)
    if missing:
        message = f"no target that can be loaded here reads files that end in '{path.suffix}': {missing[0].message}"
        raise Unavailable(replace(missing[0], message=message))
    raise UsageError.of("E0802", f"no target reads files that end in '{path.suffix}'")


def _third_parties() -> dict[str, Any]:
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=GROUP)}


def checked(backend: Backend, target: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options for `emit`, with the default of each that is missing or None. Raises UsageError for unknown ones
    and values out of range."""
    defaults = {option.name: option.default for option in backend.OPTIONS}
    given = ((name, value) for name, value in options.items() if value is not None or name not in defaults)
    return defaults | read(given, backend.OPTIONS, f"the target '{target}'")
