"""A random network with weights under which every mistake shows, and how far what is compiled may be from the interpreter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from drawn_documents import Drawn
from numpy.typing import NDArray

import rescompile
from rescompile.ir.interpreter import calibrated
from rescompile.ir.network import Network, Op, parameters, walk
from rescompile.ir.ops import WEIGHTED, Act, Affine, Norm, WeightedSum
from rescompile.ir.precision import FLOATS
from rescompile.runtimes.accuracy import MANY, RUNS, TIMES, Reference
from rescompile.weights import Weights, from_arrays

Array = NDArray[Any]
#: What runs weights in float64 on inputs.
Run = Callable[[Mapping[str, Array], Array], Mapping[str, Array]]
BATCH = 3


class Fault(Exception):
    """Something that is wrong: `check` is the check that saw it."""

    def __init__(self, check: str, message: str) -> None:
        super().__init__(f"{check}: {message}")
        self.check = check


class Overflow(Exception):
    """The network has no values in float32."""


@dataclass
class Case:
    """A document, its tree, and a folder for files."""

    drawn: Drawn
    spec: Any
    network: Network
    folder: Path

    @property
    def seed(self) -> int:
        """The seed of the document; what is drawn for it comes from this too."""
        return self.drawn.seed

    @cached_property
    def x(self) -> Array:
        """A batch of inputs."""
        return np.random.default_rng([self.seed, 1]).standard_normal((BATCH, *self.network.input), np.float32)

    @cached_property
    def arrays(self) -> dict[str, Array]:
        """The weights as arrays."""
        return random_weights(self.network, self.x, self.seed)

    @property
    def doubles(self) -> dict[str, Array]:
        """The weights as float64 arrays."""
        return {name: np.asarray(value, np.float64) for name, value in self.arrays.items()}

    @cached_property
    def weights(self) -> Weights:
        """The weights."""
        return from_arrays(self.arrays, self.network)

    @cached_property
    def reference(self) -> Reference:
        """The outputs of the interpreter in float64, and its own error in float32."""
        return Reference(self.network, self.weights, self.x)

    def double_bound(self) -> float:
        """The largest error that is still rounding in float64: that of float32, by as much smaller as the unit is. Twice, because
        what it is compared with is float64 too."""
        return 2 * self.reference.bound("fp32") * 2.0**-53 / FLOATS["fp32"].unit

    def hold(self, check: str, outputs: Mapping[str, Array], double: bool = False, run: Run | None = None) -> None:
        """Raise a Fault if outputs are further from the interpreter than rounding is; also that of `run`, which made them, where
        it has other formulas, such as a variance that is the mean of the squares less the square of the mean."""
        exact, bound = self.reference.exact, self.double_bound() if double else self.reference.bound("fp32")
        if outputs.keys() != exact.keys():
            raise Fault(check, f"outputs {sorted(outputs)} instead of {sorted(exact)}")
        for name, value in exact.items():
            if outputs[name].shape != value.shape:
                raise Fault(check, f"{name}: {outputs[name].shape} instead of {value.shape}")
        error = self.reference.error(outputs)
        if not error <= bound:
            bound = self.stochastic_bound(error) if double else self.reference.bound("fp32", error=error)
        if not error <= bound and run is not None:
            bound = max(bound, self.own_rounding(run, outputs))
        if not error <= bound:
            raise Fault(check, f"off by {error:.3g}, {bound:.3g} is rounding")

    def stochastic_bound(self, error: float) -> float:
        """The largest error that rounding explains, by the interpreter in stochastic float64. Some networks amplify rounding so
        much that their outputs in float32 are noise, whose size does not depend on the unit."""
        return max(self.double_bound(), self.reference.raised(0.0, error, "fp64", None, MANY))

    def own_rounding(self, run: Run, outputs: Mapping[str, Array]) -> float:
        """The largest error that rounding explains, by what half a unit in the last place of all numbers changes for `run`."""
        rng, unit, worst = np.random.default_rng([self.seed, 3]), 2.0**-53, 0.0

        def moved(value: Array) -> Array:
            floating = value.dtype.kind == "f"
            return value * (1 + rng.uniform(-unit, unit, value.shape)) if floating else value

        for _ in range(RUNS):
            found = run({name: moved(value) for name, value in self.doubles.items()}, moved(self.x.astype(np.float64)))
            changed = {name: value + (found[name] - outputs[name]) for name, value in self.reference.exact.items()}
            worst = max(worst, self.reference.error(changed))
        return TIMES * worst


def random_weights(network: Network, x: Array, seed: int) -> dict[str, Array]:
    """Float32 weights, none of them a default: scales of both signs, biases everywhere, statistics near those of the batch.
    Where they overflow, since branches are multiplied or norms run again, smaller ones are drawn. Raises Overflow where the
    smallest do, too: hundreds of sums of a value and its half have no variance in float32."""
    layers = sum(isinstance(node, Op) and isinstance(node.kind, WEIGHTED) for _, node in walk(network.root))
    gain = 1.5 * min(1, 20 / (layers + 1))  # hundreds of residuals without a norm would overflow
    for smaller in range(6):
        rng = np.random.default_rng([seed, 2])
        arrays = _random_parameters(network, rng, gain, 4.0**-smaller)
        with np.errstate(over="ignore", invalid="ignore"):
            found = calibrated(network, arrays, x)
        if all(np.isfinite(value).all() for value in found.values()):
            break
    else:
        raise Overflow
    for name, value in found.items():
        if name.endswith("mean"):
            spread = np.sqrt(arrays_var(arrays, name))
            arrays[name] = value + 0.3 * spread * rng.standard_normal(value.shape)
        else:
            arrays[name] = value * rng.uniform(0.6, 1.6, value.shape) + 0.02
    return {name: value if value.dtype.kind == "i" else value.astype(np.float32) for name, value in arrays.items()}


def _random_parameters(network: Network, rng: np.random.Generator, gain: float, share: float) -> dict[str, Array]:
    """Parameters whose weights have this gain and are then multiplied by `share`."""
    kinds = {name: node.kind for name, node in walk(network.root) if isinstance(node, Op)}
    factors = {name for name, kind in kinds.items() if isinstance(kind, Norm | Affine | Act | WeightedSum)}
    arrays: dict[str, Array] = {}
    for name, parameter in parameters(network):
        scope, _, part = name.rpartition(".")
        shape = parameter.shape
        if parameter.dtype == "int64":
            arrays[name] = np.array(rng.integers(1, 99))
        elif part == "running_var" or (part == "weight" and scope in factors):
            sign = share * rng.choice([-1, 1], shape) if part == "weight" else 1
            arrays[name] = sign * rng.uniform(0.5, 1.5, shape)
        elif part == "weight":
            arrays[name] = share * rng.standard_normal(shape) * np.sqrt(gain / parameter.fan_in)
        else:
            arrays[name] = rng.uniform(0.2, 0.8, shape) * rng.choice([-1, 1], shape)
    return arrays


def arrays_var(arrays: Mapping[str, Array], name: str) -> Array:
    """The variance that stands beside a mean."""
    return arrays[name.removesuffix("mean") + "var"]


def case(drawn: Drawn, folder: Path) -> Case:
    """The case of a document. Raises SpecError where rescompile refuses it."""
    path = folder / "spec.yaml"
    path.write_text(drawn.text, encoding="utf-8")
    spec = rescompile.load(path)
    return Case(drawn, spec, rescompile.elaborate(spec), folder)
