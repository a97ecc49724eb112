"""Ops on single values: dropout, a constant factor, the identity."""

from __future__ import annotations

from dataclasses import dataclass

from rescompile.ir.ops.op import SAME, Axes, Kind, Shape, attribute


@dataclass(frozen=True)
class Dropout(Kind):
    """Dropout of individual values in training (Srivastava et al. 2014); the identity in evaluation."""

    word = "dropout"
    rate: float = attribute("real", "probability of dropping a value", minimum=0.0, maximum=1.0, main=True)

    def axes(self, shape: Shape) -> Axes:
        return SAME


@dataclass(frozen=True)
class Scale(Kind):
    """Multiplies by a constant."""

    word = "scale"
    factor: float = attribute("real", "constant factor", main=True)

    def axes(self, shape: Shape) -> Axes:
        return SAME


@dataclass(frozen=True)
class Identity(Kind):
    """Step that does nothing."""

    word = "identity"

    def axes(self, shape: Shape) -> Axes:
        return SAME
