"""Where steps of a random document are drawn, and the values that they are drawn from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

ACTS = (
    "relu",
    "relu",
    "sigmoid",
    "tanh",
    "leaky_relu",
    "elu",
    "relu6",
    "silu",
    "gelu",
    "gelu_tanh",
    "hardswish",
    "hardsigmoid",
    "prelu",
)
#: Widths at which tables and vectors of runtimes have their edges, and small ones in between.
WIDTHS = (1, 2, 3, 4, 4, 5, 6, 6, 7, 8, 8, 9, 12, 16, 31, 32, 33)
#: Conditions on the size of maps of one axis, and of three.
SIZES = {1: ("length > 9", "length % 2 == 0"), 3: ("height > 3", "width % 2 == 0 and height > 1")}
INITS = ("he_normal_fan_out", "he_normal_fan_in", "torch_default")


@dataclass
class Place:
    """Where steps are drawn: the integers that can be named there, whether copies are counted, whether steps have numbers,
    and whether the value is a map. `given` is how many names the scope has."""

    ints: tuple[str, ...] = ()
    bools: tuple[str, ...] = ()
    copies: bool = False
    numbered: bool = False
    is_map: bool = True
    template: bool = False
    depth: int = 2
    given: list[int] = field(default_factory=lambda: [0])

    def deeper(self, **changes: Any) -> Place:
        """A place inside this one."""
        return Place(**{**vars(self), "depth": self.depth - 1, **changes})

    def scope(self, **changes: Any) -> Place:
        """A place in a scope of its own."""
        return self.deeper(given=[0], template=False, **changes)
