"""The report of `build`: the artifact that was written, or the differences of the files on disk."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rescompile.diagnostics.errors import CheckFailed
from rescompile.files.checksum import is_text, with_unix_line_ends

if TYPE_CHECKING:
    from rescompile.backend import Artifact
    from rescompile.ir.network import Network


def as_data(artifact: Artifact, written: list[Path]) -> dict[str, Any]:
    """Return the built artifact as data, for --json."""
    from rescompile.analysis.cost import cost

    network = artifact.network
    total, size = cost(network), sum(path.stat().st_size for path in written)
    return {
        "name": network.name, "files": [str(path) for path in written], "bytes": size, "sha256": network.sha256,
        "passes": list(network.passes), "parameters": total.parameters, "macs": total.macs, **artifact.facts,
    }  # fmt: skip


def describe(artifact: Artifact, written: list[Path], seconds: float, new_weights: bool) -> Iterator[str]:
    """Yield the report as lines of text."""
    data = as_data(artifact, written)
    lines = artifact.facts.get("lines")
    how_much = f"{lines} lines" if lines else f"{data['bytes'] / 2**20:.1f} MiB"
    counts = f"{data['parameters']:,} parameters, {data['macs'] / 1e9:.3f} GMACs"
    yield f"{written[-1]}: {how_much}, {counts}, written in {seconds:.2f} s"
    kind = artifact.facts.get("input_type")
    for name, sizes in {"input": artifact.facts.get("input"), **artifact.facts.get("outputs", {})}.items():
        if sizes:
            yield f"  {name} [{', '.join(map(str, sizes))}]{f' {kind}' if kind and name == 'input' else ''}"
    if updates := artifact.facts.get("updates"):
        yield f"  {len(updates)} new running statistics: {updates[0]} ..."
    if free := artifact.facts.get("free"):
        from rescompile.analysis.dynamic_shapes import describe_sizes

        yield f"  {describe_sizes(free)}"
    yield from (f"  {line}" for line in _recipe_and_int8(artifact, new_weights))
    if verified := artifact.facts.get("verified"):
        shape, error, bound = verified["input"], verified["error"], verified["bound"]
        yield f"  verified: loaded again and run on {shape}, error {error:.2e} (bound {bound:.2e})"
    if len(written) > 1:
        yield f"  weights in {', '.join(str(path) for path in written[:-1])}"


def images(artifact: Artifact, network: Network, weights: str) -> str:
    """Return the preprocessing of images that an artifact records, and whether it is that of the weights or of the
    spec."""
    from rescompile.vision.preprocessing import describe as describe_images

    recorded = artifact.network.preprocess is not network.preprocess
    whose = f"recorded in {weights}" if recorded else f"of the spec, since {weights} does not record its own"
    return f"images: {describe_images(artifact.facts['preprocess'])} ({whose})"


def _recipe_and_int8(artifact: Artifact, new_weights: bool) -> Iterator[str]:
    """Yield the options of a recipe and the error of an int8 file."""
    facts = artifact.facts
    if "for" in facts:
        from rescompile.runtimes.recipes import describe as describe_recipe

        size = facts["input"][0]
        chosen = {"precision": facts["precision"], "batch": size if isinstance(size, int) else None}
        yield describe_recipe(facts["for"], chosen, artifact.network.passes)
    if "int8" not in facts:
        return
    cost, calibrated = facts["int8"], facts["calibration"]
    yield f"int8, calibrated with {calibrated['inputs']} inputs: {calibrated['data']}"
    if not cost["inputs"]:
        yield "no inputs were left to validate it: give at least 5"
        return
    same = "" if cost["agreed"] is None else f", the same top-1 class for {cost['agreed']} of them"
    yield f"relative error {cost['error']:.2g} against float32 on {cost['inputs']} other inputs{same}"
    if new_weights:
        yield "the weights are random: this error does not predict the accuracy on a task"


def compare(artifact: Artifact, path: Path) -> None:
    """Compare the files on disk with those that would be written. Raises CheckFailed, after printing the differences of
    a text."""
    for file in artifact.files(path.name):
        there = path.parent / file.name
        expected = b"".join(bytes(chunk) for chunk in file.chunks())
        if not there.is_file():
            raise CheckFailed.of("E0705", f"{there} does not exist")
        actual = there.read_bytes()
        if text := is_text(expected):
            actual = with_unix_line_ends(actual)
        if actual != expected:
            if text:
                _show_difference(actual, expected, there)
            raise CheckFailed.of(
                "E0705", f"{there} differs from what its spec builds", help="build it again without --check"
            )


def _show_difference(actual: bytes, expected: bytes, path: Path) -> None:
    import difflib

    old, new = (text.decode("utf-8", "replace").splitlines(keepends=True) for text in (actual, expected))
    sys.stdout.writelines(difflib.unified_diff(old, new, str(path), "expected"))
