"""What targets that write source cannot have, as rules about the tree, so that a test over the zoo names no network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from importlib import import_module

import facts
import pytest

from rescompile.diagnostics.errors import Unavailable
from rescompile.ir.network import Network
from rescompile.ir.traversal import runs


def repeats(network: Network) -> bool:
    """Whether a step runs again with the same parameters."""
    return any(times > 1 for times in runs(network.root).values())


#: The rules by target; one that is true of a network makes the target refuse it.
LACKS: Mapping[str, Sequence[Callable[[Network], bool]]] = {
    "flax": (),
    "keras": (repeats,),
    "mlx": (),
}


def lacks(target: str, network: Network) -> bool:
    """Whether a target cannot have a network."""
    return any(rule(network) for rule in LACKS[target])


@cache
def text(target: str, name: str) -> str | None:
    """The source of a network of the zoo; None where the target lacks what the network has, which it then refuses."""
    return written(target, facts.network(name))


def written(target: str, network: Network) -> str | None:
    """The source of a network; None where the target lacks what the network has, which it then refuses."""
    file = import_module(f"rescompile.backends.{target}.source_file")
    if not lacks(target, network):
        file.check(network)
        return str(file.source(network))
    with pytest.raises(Unavailable) as raised:
        file.emit(network, None)
    assert raised.value.diagnostics[0].code == "E0901"
    return None


def source_of(target: str, name: str) -> str:
    """The source of a network of the zoo. Skips the test where the target refuses the network, as it has to."""
    found = text(target, name)
    if found is None:
        pytest.skip(f"{target} lacks what {name} has")
    return found


def texts(target: str) -> Iterator[tuple[str, str]]:
    """Yield each network of the zoo that a target can have, with its source."""
    for name in facts.zoo():
        if (found := text(target, name)) is not None:
            yield name, found
