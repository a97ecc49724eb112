"""What targets that write source for a framework with channels-last maps share beside the text: their artifact with its file of
weights, what they refuse, and the outputs of a file in a process of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rescompile.backend import Artifact, origin
from rescompile.codegen.execution import run_alone
from rescompile.codegen.source_text import sealed
from rescompile.diagnostics.errors import Diagnostic, Unavailable
from rescompile.files.atomic_write import File, write_files
from rescompile.ir.network import Network, Op, walk
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
    weights_file: WeightsFile,
    live: Callable[[], Any],
) -> Artifact:
    """The source of a network as an artifact, and a file of its weights unless they are those that any build draws. The live
    module is made when it is asked for, and once."""
    content = sealed(text)

    def files(name: str) -> Iterator[File]:
        if weights is not None and origin(weights) is not None:
            yield weights_file(network, weights, Path(name).with_suffix(".safetensors").name)
        yield File(name, lambda: [content], len(content))

    facts = {"lines": text.count("\n") + 3, **({"free": free} if free else {})}
    return Artifact(network, suffix, files, facts, cache(live))


def refuse_names(network: Network, taken: Collection[str], title: str) -> None:
    """Raises Unavailable for a step with a name that the framework gives to an attribute of its modules."""
    for path, _ in walk(network.root):
        name = path.rpartition(".")[2]
        if name in taken:
            message = (
                f"{path} cannot be called '{name}' in {title}, which gives its modules an attribute with this name"
            )
            raise Unavailable(Diagnostic("E0901", message, help="rename the step"))


def refuse_ranks(network: Network, target: str) -> None:
    """Raises Unavailable for an op on anything but vectors and two-dimensional maps."""
    for path, node in walk(network.root):
        if not isinstance(node, Op):
            continue
        for end, shape in (("input", node.input), ("output", node.output)):
            if len(shape) in (1, 3):
                continue
            message = f"{path} has an {end} of {list(shape)}, but the target '{target}' has vectors and two-dimensional maps only"
            raise Unavailable(Diagnostic("E0901", message, help="use the target 'source'"))


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
