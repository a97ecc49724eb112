"""A random network with random weights and inputs, and the bounds on the error of compiled outputs against the
interpreter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
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
from rescompile.passes import apply
from rescompile.runtimes.accuracy import MANY, RUNS, TIMES, Reference
from rescompile.weights import Weights, from_arrays

Array = NDArray[Any]
#: A function that computes the outputs for float64 weights and inputs.
Run = Callable[[Mapping[str, Array], Array], Mapping[str, Array]]
BATCH = 3


class Fault(Exception):
    """A failed check of a case: `check` is the name of the check."""

    def __init__(self, check: str, message: str) -> None:
        super().__init__(f"{check}: {message}")
        self.check = check


class Overflow(Exception):
    """The network overflows in float32, whatever weights are drawn."""


@dataclass
class Case:
    """A random document, its spec and network, and a folder for files."""

    drawn: Drawn
    spec: Any
    network: Network
    folder: Path

    @property
    def seed(self) -> int:
        """The seed of the document, from which weights and inputs are drawn too."""
        return self.drawn.seed

    @cached_property
    def x(self) -> Array:
        """A batch of inputs."""
        return np.random.default_rng([self.seed, 1]).standard_normal((BATCH, *self.network.input), np.float32)

    @cached_property
    def arrays(self) -> dict[str, Array]:
        """The weights as float32 arrays."""
        return random_weights(self.network, self.x, self.seed)

    @property
    def doubles(self) -> dict[str, Array]:
        """The weights as float64 arrays."""
        return {name: np.asarray(value, np.float64) for name, value in self.arrays.items()}

    @cached_property
    def weights(self) -> Weights:
        """The weights as `rescompile` takes them."""
        return from_arrays(self.arrays, self.network)

    @cached_property
    def reference(self) -> Reference:
        """The outputs of the interpreter in float64, with its error in float32."""
        return Reference(self.network, self.weights, self.x)

    def passed(self, passes: Mapping[str, Any]) -> tuple[Network, Weights]:
        """Return the network and weights after passes. Raises UsageError if one of them is refused."""
        network, weights = apply(self.network, self.weights, passes)
        assert weights is not None
        return network, weights

    def after(self, passes: Mapping[str, Any]) -> Case:
        """Return the case of the network and weights after passes. Raises UsageError if one of them is refused."""
        network, weights = self.passed(passes)
        case = replace(self, network=network)
        case.arrays = {name: np.asarray(weights[name]) for name, _ in parameters(network)}
        return case

    def double_bound(self) -> float:
        """Return the largest error that rounding explains in float64: the bound of float32, scaled by the ratio of the
        units. It is doubled since the reference is in float64 too."""
        return 2 * self.reference.bound("fp32") * 2.0**-53 / FLOATS["fp32"].unit

    def hold(self, check: str, outputs: Mapping[str, Array], double: bool = False, run: Run | None = None) -> None:
        """Raise a Fault if the error of outputs is larger than rounding explains. `run` computed them; its own rounding
        counts too, where it uses other formulas, such as the mean of squares minus the square of the mean for a
        variance."""
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
        """Return the largest error that rounding explains, measured by the interpreter in float64 with stochastic
        rounding. Some networks amplify rounding so much that their float32 outputs are noise, whose size does not
        depend on the unit."""
        return max(self.double_bound(), self.reference.raised(0.0, error, "fp64", None, MANY))

    def own_rounding(self, run: Run, outputs: Mapping[str, Array]) -> float:
        """Return the largest error that rounding explains, measured by perturbing all weights and inputs of `run` by
        half a unit in the last place."""
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
    """Return random float32 weights without default values: scales of both signs, nonzero biases, and statistics near
    those of the batch.

    If they overflow, because branches are multiplied or norms run again, smaller weights are drawn. Raises Overflow if
    the smallest overflow too: after hundreds of sums of a value and its half, variances overflow in float32.
    """
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
    """Return random parameters: weights with this gain, multiplied by `share`."""
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
    """Return the running variance that belongs to a running mean."""
    return arrays[name.removesuffix("mean") + "var"]


def case(drawn: Drawn, folder: Path) -> Case:
    """Build the case of a document. Raises SpecError if rescompile rejects the document."""
    path = folder / "spec.yaml"
    path.write_text(drawn.text, encoding="utf-8")
    spec = rescompile.load(path)
    return Case(drawn, spec, rescompile.elaborate(spec), folder)
