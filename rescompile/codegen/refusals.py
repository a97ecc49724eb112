"""Networks that source of a framework cannot express, because of its modules or its feature maps."""

from __future__ import annotations

from collections.abc import Collection

from rescompile.codegen.dialect import Dialect
from rescompile.diagnostics.errors import Unavailable
from rescompile.ir.network import Network, Op, walk


def refuse_names(network: Network, taken: Collection[str], title: str) -> None:
    """Raise Unavailable for a step whose name is an attribute of the framework's modules."""
    for path, _ in walk(network.root):
        name = path.rpartition(".")[2]
        if name in taken:
            message = (
                f"{path} cannot be called '{name}' in {title}, which gives its modules an attribute with this name"
            )
            raise Unavailable.of("E0901", message, help="rename the step")


def refuse_other_modules(network: Network, words: Dialect) -> None:
    """Raise Unavailable for a step that runs again where the framework has another module for it, such as one for maps
    with more axes."""
    made: dict[str, Op] = {}
    for path, node in walk(network.root, again=True):
        if not isinstance(node, Op) or (first := made.setdefault(path, node)) is node:
            continue
        for name, other in zip(words.spelled(first), words.spelled(node), strict=True):
            if name != other:
                message = (
                    f"{path} runs again on an input of {list(node.input)}, for which {words.title} has '{other}', but it is "
                    f"made for {list(first.input)} as '{name}'"
                )
                raise Unavailable.of("E0901", message, help="use another step there, or the target 'onnx'")


def refuse_ranks(network: Network, target: str) -> None:
    """Raise Unavailable for an op on anything except vectors and two-dimensional maps."""
    for path, node in walk(network.root):
        if not isinstance(node, Op):
            continue
        for end, shape in (("input", node.input), ("output", node.output)):
            if len(shape) in (1, 3):
                continue
            message = f"{path} has an {end} of {list(shape)}, but the target '{target}' supports only vectors and two-dimensional maps"
            raise Unavailable.of("E0901", message, help="use the target 'source'")
