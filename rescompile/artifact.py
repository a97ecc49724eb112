"""What a backend returns: an artifact, the origin that its files record, and what it computes around its network."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rescompile.diagnostics.errors import OutputError
from rescompile.diagnostics.notebook_views import NotebookView
from rescompile.records import record

if TYPE_CHECKING:
    from rescompile.files.atomic_write import File
    from rescompile.ir.network import Network
    from rescompile.weights import Array, Weights


@record
class Recorded:
    """The recorded origin of an artifact: the canonical spec, its SHA-256, the passes applied, in order, and the other
    options that build the same file again, such as `dynamic=height,width`. Weights from a file are recorded only as
    `weights=FILE`. Raises ValueError for values that rescompile does not record."""

    text: str
    sha256: str
    passes: tuple[str, ...]
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Validate the values, since the file may have been edited."""
        if not all(isinstance(value, str) for value in (self.text, self.sha256, *self.passes, *self.options)):
            raise ValueError("the recorded values are not text")
        # Canonical text escapes control characters, so it contains none.
        if not all(value.isprintable() for value in (self.text.replace("\n", ""), *self.passes, *self.options)):
            raise ValueError("the recorded values contain control characters")


def origin(weights: Weights | None) -> str | None:
    """Return the options that reproduce the weights of an artifact, separated by spaces; None if these are the defaults."""
    if weights is None:
        return "no-weights"
    if weights.seed is None:
        return "weights=FILE"
    options = (f"seed={weights.seed}" if weights.seed else "", "calibrate-norms" if weights.calibrated else "")
    return " ".join(filter(None, options)) or None


@record
class Wrapping:
    """What an artifact computes around its network, such as a softmax at its end. `nearest` maps an input of the network to the
    nearest one that the artifact accepts, such as uint8 pixels. `outputs` maps the outputs of the network to those of the
    artifact.
    """

    nearest: Callable[[Array], Array] = field(default=lambda x: x)
    outputs: Callable[[Mapping[str, Array]], Mapping[str, Array]] = field(default=lambda outputs: outputs)


@record
class Artifact(NotebookView):
    """The output of a backend. `files` returns the files for a main file of the given name; the main file is the last.

    `facts` are short facts about the artifact, for the report and for --json; `make` returns the live network, in evaluation mode,
    of a target that makes one. `check` is called with the written files by name before they replace earlier ones, and raises
    CheckFailed to prevent that.
    """

    network: Network
    suffix: str
    files: Callable[[str], Iterable[File]]
    facts: Mapping[str, Any] = field(default_factory=dict)
    make: Callable[[], Any] | None = None
    check: Callable[[Mapping[str, Path]], None] | None = None

    @property
    def module(self) -> Any:
        """The live network, in evaluation mode; None where the target makes none."""
        return None if self.make is None else self.make()

    def write(self, path: str | Path, force: bool = False, progress: Callable[[int], None] | None = None) -> list[Path]:
        """Write the artifact. A file that rescompile did not write, or that was edited since, is overwritten only with `force`.
        Raises OutputError; the previous file is then unchanged."""
        from rescompile.files.atomic_write import check_folder, write_files

        path = Path(path)
        check_folder(path)
        return write_files(self.files(path.name), path.parent, force, progress, self.check)

    def to_bytes(self) -> bytes:
        """Return the main file as bytes; raises an error if the artifact needs several files."""
        files = list(self.files(self.network.name + self.suffix))
        if len(files) != 1:
            raise OutputError.of("E1002", "this artifact consists of several files", help="use write()")
        buffer = io.BytesIO()
        for chunk in files[0].chunks():
            buffer.write(chunk)
        return buffer.getvalue()
