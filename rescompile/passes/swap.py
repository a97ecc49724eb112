"""`--swap`: the reordering of Veit et al. 2016, section 4.3.

Two blocks of the same shapes are exchanged, with their weights and names. The network computes layer2.5 where layer2.3 was,
and layer2.3 where layer2.5 was; its parameters keep their names, so a checkpoint of the original network fits the reordered
one. A name begins with the scope that it is in, so blocks are exchanged within one scope, such as a stage.
"""

from __future__ import annotations

from rescompile.diagnostics.errors import Diagnostic, UsageError
from rescompile.ir.network import Network
from rescompile.passes import _lesions
from rescompile.passes._lesions import Part
from rescompile.weights import Weights


def swap(network: Network, weights: Weights | None, value: str) -> tuple[Network, Weights | None]:
    """The network with the parts in `value` exchanged, two by two, in order. Raises UsageError."""
    count = len(_lesions.named(network, "swap", value))
    if count % 2:
        message = f"--swap takes an even number of blocks, but {value} lists {count}"
        raise UsageError(Diagnostic("E0802", message))
    for pair in range(0, count, 2):
        # They are looked up again: a swap moves nodes, and never their names.
        first, second = _lesions.named(network, "swap", value)[pair : pair + 2]
        for part in (first, second):
            _lesions.residual_of(network, part)
        if why := _unlike(first, second):
            raise UsageError(Diagnostic(_lesions.UNLIKE, why, second.place))
        network = _lesions.replaced(network, {first.path: (second.node,), second.path: (first.node,)})
    return network, weights


def _unlike(first: Part, second: Part) -> str | None:
    """Why two parts cannot be swapped; None where they can."""
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
    return None


def _contains(outer: Part, inner: Part) -> bool:
    return any(part.path == inner.path for part in _lesions.parts(outer.node, outer.scope))
