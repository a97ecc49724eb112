"""Networks that source of a framework cannot express, because of its modules or its feature maps."""

from __future__ import annotations

from collections.abc import Collection

from rescompile.codegen.dialect import PythonDialect
from rescompile.diagnostics.errors import Diagnostic, Unavailable
from rescompile.ir.network import Network, Op, walk
from rescompile.ir.ops import Shape


def refuse_names(network: Network, taken: Collection[str], title: str) -> None:
    """Raise Unavailable for a step whose name is an attribute of the framework's modules."""
    for path, _ in walk(network.root):
        name = path.rpartition(".")[2]
        if name in taken:
            message = (
                f"{path} cannot be called '{name}' in {title}, which gives its modules an attribute with this name"
            )
            raise Unavailable(Diagnostic("E0901", message, help="rename the step"))


def refuse_other_modules(network: Network, words: PythonDialect) -> None:
    """Raise Unavailable for a step that runs again where the framework has another module for it, such as one for maps
    with more axes."""
    found: dict[str, tuple[str | None, ...]] = {}
    shapes: dict[str, Shape] = {}
    for path, node in walk(network.root, again=True):
        if not isinstance(node, Op):
            continue
        names, shape = words.spelled(node), shapes.setdefault(path, node.input)
        if found.setdefault(path, names) != names:
            name, other = next((a, b) for a, b in zip(found[path], names, strict=True) if a != b)
            message = (
                f"{path} runs again on an input of {list(node.input)}, for which {words.title} has '{other}', but it is "
                f"made for {list(shape)} as '{name}'"
            )
            raise Unavailable(Diagnostic("E0901", message, help="use another step there, or the target 'onnx'"))


def refuse_ranks(network: Network, target: str) -> None:
    """Raise Unavailable for an op on anything except vectors and two-dimensional maps."""
    for path, node in walk(network.root):
        if not isinstance(node, Op):
            continue
        for end, shape in (("input", node.input), ("output", node.output)):
            if len(shape) in (1, 3):
                continue
            message = f"{path} has an {end} of {list(shape)}, but the target '{target}' supports only vectors and two-dimensional maps"
            raise Unavailable(Diagnostic("E0901", message, help="use the target 'source'"))
