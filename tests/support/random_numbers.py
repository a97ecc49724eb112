"""The random numbers by which a training step merges branches: drawn for PyTorch, and passed to another framework."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass
class Drawn:
    """The random numbers of one step in the order of PyTorch: those of each merge, uniform in [0, 1). If the network
    has drop-path columns, also the column of each draw, the number of columns, and the uniform number that decides
    whether a column is used."""

    merges: list[Array] = field(default_factory=list)
    columns: int = 0
    which: Array = field(default_factory=lambda: np.empty(0))
    whether: Array = field(default_factory=lambda: np.empty(0))


@contextmanager
def in_torch(seed: int) -> Iterator[Drawn]:
    """Record the random numbers of one step of a PyTorch module; residuals always survive."""
    random, drawn = np.random.default_rng(seed), Drawn()

    def rand(shape: Sequence[int], device: object) -> torch.Tensor:
        if not shape:  # the draw of a residual
            return torch.zeros(())
        values = random.random(shape)
        if len(shape) == 1:
            drawn.whether = values
        else:
            drawn.merges.append(values)
        return torch.from_numpy(values)

    def randint(columns: int, shape: Sequence[int], device: object) -> torch.Tensor:
        drawn.columns, drawn.which = columns, random.integers(columns, size=shape)
        return torch.from_numpy(drawn.which)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "rand", rand)
        patch.setattr(torch, "randint", randint)
        yield drawn
