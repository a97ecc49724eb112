"""The targets whose files take maps with channels last, as one suite tests them: what their files import, and how they are run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest


@dataclass(frozen=True)
class Framework:
    """A target with the modules that its files may import beside those of Python."""

    target: str
    imports: frozenset[str]

    @property
    def models(self) -> Any:
        """The support module that makes and runs live models in float64. Skips the test where the framework is missing."""
        return pytest.importorskip(
            f"{self.target}_models", reason=f"runs the target: pip install 'rescompile[torch,{self.target}]'"
        )


FRAMEWORKS: Mapping[str, Framework] = {
    framework.target: framework
    for framework in (
        Framework("flax", frozenset({"jax", "jax.numpy", "flax", "numpy"})),  # JAX needs NumPy, as does Keras
        Framework("keras", frozenset({"keras", "numpy"})),
        Framework("mlx", frozenset({"mlx", "mlx.core"})),
    )
}
