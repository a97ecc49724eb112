"""What targets that write source for a framework share beside the text: their artifact with its file of weights, and the outputs of
a file in a process of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rescompile.analysis.dynamic_shapes import describe_sizes, sizes
from rescompile.backend import Artifact, origin
from rescompile.codegen.dialect import Dialect
from rescompile.codegen.execution import run_alone
from rescompile.codegen.source_text import render_source, sealed
from rescompile.files.atomic_write import File, write_files
from rescompile.ir.network import Network
from rescompile.weights import Array, Weights

#: The file of weights by the names of a framework, under a name.
WeightsFile = Callable[[Network, Weights, str], File]
#: The weights that the script of `outputs_alone` reads.
WEIGHTS = "weights.safetensors"


def artifact(
    network: Network,
    weights: Weights | None,
    suffix: str,
    text: str,
    free: Mapping[str, Any],
    weights_file: WeightsFile | None = None,
    live: Callable[[], Any] | None = None,
) -> Artifact:
    """The source of a network as an artifact, and a file of its weights, if the target has one, unless they are those that any
    build draws. The live module is made when it is asked for, and once."""
    content = sealed(text)

    def files(name: str) -> Iterator[File]:
        if weights_file is not None and weights is not None and origin(weights) is not None:
            yield weights_file(network, weights, name.removesuffix(".py") + ".safetensors")
        yield File(name, lambda: [content], len(content))

    facts = {"lines": text.count("\n") + 3, **({"free": free} if free else {})}
    return Artifact(network, suffix, files, facts, None if live is None else cache(live))


def free_axes(network: Network, dynamic: str | None) -> dict[str, Any]:
    """The axes of the image that the option `dynamic` names, with their sizes in training too. Raises UsageError for one that
    cannot be dynamic."""
    return {} if dynamic is None else sizes(network, dynamic, training=True).data()


def text_of(network: Network, words: Dialect, style: str, free: Mapping[str, Any]) -> str:
    """The text of a file without its checksum trailer; its docstring describes the `free` axes of the image."""
    return render_source(network, words, style, [f"Takes {describe_sizes(free)}."] if free else [])


def outputs_alone(
    path: Path,
    script: str,
    network: Network,
    weights: Weights,
    weights_file: WeightsFile,
    x: Array,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Array]:
    """The outputs of a source file with these weights, by name, from a script in a process of its own, which finds the weights
    in the file WEIGHTS. Raises UsageError if it fails to run."""

    def write(folder: Path) -> None:
        write_files([weights_file(network, weights, WEIGHTS)], folder)

    return run_alone(path, script, write, x, environment)


def evaluation(
    emit: Callable[..., Artifact], evaluate_file: Callable[..., dict[str, Array]]
) -> Callable[..., dict[str, Array]]:
    """The function `evaluate` of a target: the outputs of the file that `emit` writes with these weights, by name."""

    def evaluate(network: Network, weights: Weights, x: Array, **options: Any) -> dict[str, Array]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network.py"
            emit(network, None, **options).write(path)
            return evaluate_file(path, network, weights, x, **options)

    return evaluate
