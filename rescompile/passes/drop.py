"""`--drop`: the lesions of Veit et al. 2016, sections 4.1 and 4.2.

A residual block f(x) + s(x) becomes s(x): the branch is removed, and its shortcut stays, whether it is the identity, a
projection or padding. The ops around the addition stay too, such as the relu after it. A highway layer g f(x) + (1 - g) s(x)
becomes s(x) too, as if its gate were closed (Srivastava et al. 2015).

A plain layer has no shortcut, so it is removed as a whole, as the paper does with those of VGG: a convolution or linear layer
with the norm, activation and dropout right after it, or a named part of such layers. It must keep the shape.

The parameters of dropped parts are removed from the weights; all others keep their names and values. A dense layer cannot be
dropped: later layers read its features as channels, and would be different layers without them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rescompile.diagnostics.errors import UsageError
from rescompile.ir.network import Network, Node, parameters
from rescompile.passes import lesions
from rescompile.weights import Weights


def drop(network: Network, weights: Weights | None, value: str) -> tuple[Network, Weights | None]:
    """Return the network without the residual branches, or plain layers, of the parts in `value`, separated by commas.

    Raises UsageError for a part that is neither, and for one that another part contains.
    """
    named = lesions.named(network, "drop", value)
    removed = [lesions.lesion_of(network, part) for part in named]
    put: dict[str, Callable[[Node], Sequence[Node]]] = {}
    for part, lesion in zip(named, removed, strict=True):
        others = [other for other in removed if other is not lesion]
        if put.keys() & lesion.put.keys() or any(lesion.put.keys() & other.inside for other in others):
            message = f"'{part.path}' is already dropped with another part of this list"
            raise UsageError.of(lesions.UNKNOWN, message, part.place)
        put.update(lesion.put)
    changed = lesions.replaced(network, put)
    left = {name for name, _ in parameters(changed)}
    gone = [name for name, _ in parameters(network) if name not in left]
    return changed, None if weights is None else weights.replaced({}, gone)


def droppable(network: Network) -> list[str]:
    """Return what `drop` accepts, in execution order: the residual blocks; in a network without any, each plain layer that
    keeps the shape of its input. Those that are not in the branch of another can be dropped together; joined by
    commas they are the value of `drop`."""
    return lesions.residual_blocks(network) or lesions.plain_layers(network)
