"""The door to the backends: the only way in which the core reaches a target.

A backend is a module `rescompile.backends.<target>`, or an object that a third party names in the entry-point group
`rescompile.backends`. It has

    SUFFIX    the ending of its files, such as ".onnx"
    OPTIONS   the options that it takes, a tuple of Option
    emit      (network, weights or None, **options) -> Artifact

and, where its files record the spec they came from, `extract` (path) -> Recorded or None.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, TypeVar

from rescompile.diagnostics.errors import Diagnostic, OutputError, Unavailable, UsageError, nearest, one_of
from rescompile.files.output import File, check_folder, write_files
from rescompile.ir.network import Network
from rescompile.ir.ops import Kind
from rescompile.options import Option as Option
from rescompile.options import read
from rescompile.weights import Weights

GROUP = "rescompile.backends"
Rule = TypeVar("Rule")


@dataclass(frozen=True, slots=True)
class Recorded:
    """What an artifact says of its origin: the canonical spec, its SHA-256, the passes applied, in order, and the other
    options that give the same file again, such as `dynamic=height,width`. Of what was read from elsewhere only that is known:
    `weights=FILE`. Raises ValueError for what no artifact of ours records."""

    text: str
    sha256: str
    passes: tuple[str, ...]
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Whoever edited the file may have put anything there."""
        if not all(isinstance(value, str) for value in (self.text, self.sha256, *self.passes, *self.options)):
            raise ValueError("what it records is no text")
        if not all(value.isprintable() for value in (*self.passes, *self.options)):
            raise ValueError("what it records cannot be printed")


def origin(weights: Weights | None) -> str | None:
    """The option that says where the weights of an artifact came from; None where that is the default."""
    if weights is None:
        return "no-weights"
    if weights.seed is None:
        return "weights=FILE"
    return f"seed={weights.seed}" if weights.seed else None


@dataclass(frozen=True, slots=True)
class Artifact:
    """What a backend makes. `files` gives the files for a main file of some name; the main file is the last.

    `facts` are short statements about the artifact, for people and for --json.
    """

    network: Network
    suffix: str
    files: Callable[[str], Iterable[File]]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def write(self, path: str | Path, force: bool = False, progress: Callable[[int], None] | None = None) -> list[Path]:
        """Write the artifact. A file that rescompile did not write, or that was changed since, is only overwritten with
        `force`. Raises OutputError; the previous file then stays as it was."""
        path = Path(path)
        check_folder(path)
        return write_files(self.files(path.name), path.parent, force, progress)

    def to_bytes(self) -> bytes:
        """The main file as bytes; refused where the artifact needs several files."""
        files = list(self.files(self.network.name + self.suffix))
        if len(files) != 1:
            raise OutputError(Diagnostic("E1002", "this artifact is several files", help="use write()"))
        buffer = io.BytesIO()
        for chunk in files[0].chunks():
            buffer.write(chunk)
        return buffer.getvalue()


class Backend(Protocol):
    """What a target must have."""

    SUFFIX: str
    OPTIONS: tuple[Option, ...]

    def emit(self, network: Network, weights: Weights | None, **options: Any) -> Artifact:
        """Make the artifact; `weights` is None where only the structure is wanted."""


@cache
def built_in() -> tuple[str, ...]:
    """The targets of this package, found by listing its folder, without importing any."""
    spec = find_spec("rescompile.backends")
    assert spec is not None
    assert spec.submodule_search_locations
    folder = Path(next(iter(spec.submodule_search_locations)))
    names = (path.stem for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file())
    return tuple(sorted(name for name in names if not name.startswith("_")))


def targets() -> Iterator[str]:
    """All targets, without importing any: those of this package, then those of third parties, which take longer to find."""
    yield from built_in()
    yield from (name for name in _third_parties() if name not in built_in())


def load(target: str) -> Backend:
    """The backend of a target, with its framework. Raises Unavailable for an unknown one or a missing package."""
    if target in built_in():
        try:
            own: Backend = importlib.import_module(f"rescompile.backends.{target}")
            for package in getattr(own, "REQUIRES", ()):
                importlib.import_module(package)
        except ImportError as error:
            raise Unavailable(
                Diagnostic(
                    "E0902",
                    f"the target '{target}' cannot be loaded: {error}",
                    help=f"pip install 'rescompile[{target}]'",
                )
            ) from None
        return own
    found = _third_parties().get(target)
    if found is None:
        known = list(targets())
        hint = nearest(target, known) or f"the targets are {one_of(known)}"
        raise Unavailable(Diagnostic("E0901", f"there is no target '{target}'", help=hint))
    try:
        backend: Backend = found.load()
    except Exception as error:  # somebody else's code
        whose = f" of {found.dist.name}" if found.dist else ""
        message = f"the target '{target}'{whose} cannot be loaded: {error}"
        raise Unavailable(Diagnostic("E0902", message)) from None
    return backend


def extract(path: Path) -> Recorded | None:
    """What a file records of its origin, asked of the backend whose files end so. Raises UsageError if there is none, and
    Unavailable if one that cannot be loaded might be it."""
    missing: list[Diagnostic] = []
    for target in targets():
        try:
            backend = load(target)
        except Unavailable as error:
            missing += error.diagnostics
            continue
        if path.suffix.lower() == backend.SUFFIX and hasattr(backend, "extract"):
            recorded: Recorded | None = backend.extract(path)
            return recorded
    if missing:
        message = f"no target that works here reads files that end in '{path.suffix}': {missing[0].message}"
        raise Unavailable(replace(missing[0], message=message))
    raise UsageError(Diagnostic("E0802", f"no target reads files that end in '{path.suffix}'"))


def rule(table: Mapping[type[Kind], Rule], kind: type[Kind], target: str) -> Rule:
    """How a target writes an op. Raises Unavailable for an op that its table lacks, as one of somebody else's may be."""
    if kind not in table:
        raise Unavailable(Diagnostic("E0901", f"the target '{target}' has no rule for the op '{kind.word}'"))
    return table[kind]


def _third_parties() -> dict[str, Any]:
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=GROUP)}


def checked(backend: Backend, target: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options for `emit`, with the default of each that is missing or None. Raises UsageError for unknown ones and values
    out of range."""
    defaults = {option.name: option.default for option in backend.OPTIONS}
    given = ((name, value) for name, value in options.items() if value is not None or name not in defaults)
    return defaults | read(given, backend.OPTIONS, f"the target '{target}'")
