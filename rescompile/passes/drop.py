"""Residual blocks without their branch: the lesion of Veit et al. 2016, section 4.1.

A block f(x) + s(x) becomes s(x): the branch is gone, and its shortcut stays, be it the identity, a projection or padding.
So does what stands around the addition, as the relu after it. A highway layer g f(x) + (1 - g) s(x) becomes s(x) too, as if
its gate were closed, as in Srivastava et al. 2015. The branch's parameters, and a gate's, leave the weights; all else keeps
its names and values.

A dense layer is no residual block: its features are channels that later layers read, so without them those would be other layers.
"""

from __future__ import annotations

from dataclasses import replace

from rescompile.errors import Diagnostic, UsageError
from rescompile.network import Network, Node, Parallel, parameters, walk
from rescompile.passes import _lesions
from rescompile.weights import Weights


def drop(network: Network, weights: Weights | None, value: str) -> tuple[Network, Weights | None]:
    """The network without the residual branches of the parts in `value`, separated by commas. Raises UsageError."""
    shortcuts: dict[str, tuple[Node, ...]] = {}
    merges = {path: node for path, node in walk(network.root) if isinstance(node, Parallel)}
    for part in _lesions.named(network, "drop", value):
        name = _lesions.residual_of(network, part)
        if name in shortcuts:
            message = f"'{part.path}' is dropped already: it is the residual branch of another part that is named here"
            raise UsageError(Diagnostic(_lesions.UNKNOWN, message, part.place))
        shortcuts[name] = merges[name].branches[-1].children
    changed = replace(network, root=_lesions.replaced(network.root, "", shortcuts))
    left = {name for name, _ in parameters(changed)}
    gone = [name for name, _ in parameters(network) if name not in left]
    return changed, None if weights is None else weights.replaced({}, gone)
