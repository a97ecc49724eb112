"""The context in which steps of a random document are drawn, and the values to draw from."""

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
#: Small widths, and widths near the vector sizes of runtimes, where kernels have special cases.
WIDTHS = (1, 2, 3, 4, 4, 5, 6, 6, 7, 8, 8, 9, 12, 16, 31, 32, 33)
#: Conditions on the size of maps of one axis, and of three.
SIZES = {1: ("length > 9", "length % 2 == 0"), 3: ("height > 3", "width % 2 == 0 and height > 1")}
INITS = ("he_normal_fan_out", "he_normal_fan_in", "torch_default")


@dataclass
class Place:
    """The context of a step: the integers and booleans in scope, whether the block is repeated, whether steps are
    numbered, and whether the value is a map. `given` counts the names of the scope."""

    ints: tuple[str, ...] = ()
    bools: tuple[str, ...] = ()
    copies: bool = False
    numbered: bool = False
    is_map: bool = True
    template: bool = False
    depth: int = 2
    given: list[int] = field(default_factory=lambda: [0])

    def deeper(self, **changes: Any) -> Place:
        """Return a place one level deeper."""
        return Place(**{**vars(self), "depth": self.depth - 1, **changes})

    def scope(self, **changes: Any) -> Place:
        """Return a place one level deeper, in a new scope of names."""
        return self.deeper(given=[0], template=False, **changes)
