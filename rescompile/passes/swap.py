"""`--swap`: the reordering of Veit et al. 2016, section 4.3.

Two blocks of the same shapes are exchanged, with their weights and names. The network computes layer2.5 where layer2.3 was,
and layer2.3 where layer2.5 was; its parameters keep their names, so a checkpoint of the original network fits the reordered
one. A name begins with the scope that it is in, so blocks are exchanged within one scope, such as a stage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rescompile.diagnostics.errors import UsageError
from rescompile.ir.network import Again, Network, Node, walk
from rescompile.ir.refitting import runs_again
from rescompile.ir.values import Crossings
from rescompile.passes import lesions
from rescompile.passes.lesions import Part
from rescompile.weights import Weights


def swap(network: Network, weights: Weights | None, value: str) -> tuple[Network, Weights | None]:
    """Return the network with the parts in `value` exchanged, two by two, in order. Raises UsageError."""
    count = len(lesions.named(network, "swap", value))
    if count % 2:
        raise UsageError.of("E0802", f"--swap takes an even number of blocks, but {value} lists {count}")
    for pair in range(0, count, 2):
        # The parts are looked up again, since a swap moves nodes.
        first, second = lesions.named(network, "swap", value)[pair : pair + 2]
        for part in (first, second):
            lesions.residual_of(network, part)
        if why := _unlike(network, first, second):
            raise UsageError.of(lesions.UNLIKE, why, second.place)
        network = lesions.replaced(network, _exchanged(first, second))
    return network, weights


def _exchanged(first: Part, second: Part) -> dict[str, Callable[[Node], Sequence[Node]]]:
    return {first.path: lambda _: (second.node,), second.path: lambda _: (first.node,)}


def _unlike(network: Network, first: Part, second: Part) -> str | None:
    """Return why two parts cannot be swapped; None if they can."""
    both = f"'{first.path}' and '{second.path}' cannot be swapped"
    if first.path == second.path:
        return f"'{first.path}' cannot be swapped with itself"
    if first.scope != second.scope:
        scopes = f"'{first.scope}' and '{second.scope}'" if first.scope and second.scope else "different scopes"
        return f"{both}: they are in {scopes}, so their names would change"
    if (first.node.input, first.node.output) != (second.node.input, second.node.output):
        maps = [f"{list(part.node.input)} to {list(part.node.output)}" for part in (first, second)]
        return f"{both}: the first maps {maps[0]}, the second {maps[1]}"
    if _contains(first, second) or _contains(second, first):
        return f"{both}: one is inside the other"
    values = [Crossings().of(part.node) for part in (first, second)]
    if any(values):
        names = sorted({name for crossing in values for name in crossing.names})
        return f"{both}: they keep or use '{names[0]}', a value of the network around them, in this order"
    twice = runs_again(network.root)
    for part in (first, second):
        if twice(part.path) or any(isinstance(node, Again) for _, node in walk(part.node)):
            return f"{both}: '{part.path}' has steps that run again"
    return None


def _contains(outer: Part, inner: Part) -> bool:
    return any(part.path == inner.path for part in lesions.parts(outer.node, outer.scope))
