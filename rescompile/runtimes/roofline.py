"""The minimum time of a network on a device: the roofline (Williams, Waterman, Patterson 2009), layer by layer.

A layer takes at least the time of its bytes at the bandwidth of a copy, and of its multiply-adds at the rate of a large
matrix product; both rates are measured on the device, in the precision of the network. The limit of a network is the
sum over its layers. Elementwise ops (norms, activations, merges that add or multiply) are part of the layer that
produces their values, so they move no bytes, except for the other branches that a merge reads; a concatenation is free.

The limit applies to kernels of one layer each: kernels that fuse several layers, or need fewer products (Winograd), can
exceed it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from rescompile.ir.network import Network, Op, Parallel, Series, Side
from rescompile.ir.ops import AdaptiveAvgPool, AvgPool, Conv, GlobalAvgPool, Linear, MaxPool
from rescompile.ir.precision import PRECISIONS
from rescompile.ir.traversal import FoldRules, fold
from rescompile.records import record
from rescompile.runtimes import RUNTIMES
from rescompile.runtimes.device import usable
from rescompile.runtimes.torch import copies, products, settings
from rescompile.weights import Array

#: The ops that are layers: they read feature maps from memory and write them. All others are part of the layer before.
LAYERS = (Conv, Linear, MaxPool, AvgPool, GlobalAvgPool, AdaptiveAvgPool)
#: Sizes of copies in bytes: those that fit into a cache are faster.
_COPIES = {"cpu": (1 << 20, 4 << 20, 16 << 20, 64 << 20, 256 << 20), "cuda": (4 << 20, 16 << 20, 64 << 20, 1 << 30)}
#: Rows and columns of the multiplied matrices.
_SIDE = {"cpu": 2048, "cuda": 8192}
#: The minimum number of rounds in a measurement, which ends after the same number without an improvement.
_ROUNDS = 15


@record
class Layer:
    """The work of one layer: `maps` are values read and written for each input, `weights` values read once per
    batch."""

    name: str
    maps: int
    weights: int
    macs: int


@record
class Roofline:
    """A device in one precision. `copies` is the bandwidth in bytes per second (read and written) by the size of the
    copy, `product` the floating-point operations per second of the fastest of several large products; None if none
    could be measured."""

    precision: str
    copies: Mapping[int, float]
    product: float | None

    def bandwidth(self, size: float) -> float:
        """Return the bandwidth for `size` bytes: that of the fastest copy of at least this size, or else of the
        largest."""
        fitting = (rate for length, rate in self.copies.items() if length >= size)
        return max(fitting, default=self.copies[max(self.copies)])


@record
class Limit:
    """The minimum time of a network on a device, and of each of its layers; `bounds` is `memory` or `compute` for
    each."""

    seconds: float
    layers: Mapping[str, float]
    bounds: Mapping[str, str]


def layers(network: Network) -> tuple[Layer, ...]:
    """Return the layers of a network in evaluation mode, in the order of execution."""
    return fold(network.root, _LAYERS)


def limit(network: Network, batch: int, roofline: Roofline) -> Limit | None:
    """Return the limit of a network for a batch; None if the device's rate could not be measured in this precision."""
    if roofline.product is None:
        return None
    rate, width = roofline.product, PRECISIONS[roofline.precision].bytes
    seconds, bounds = {}, {}
    for layer in layers(network):
        size = width * (batch * layer.maps + layer.weights)
        moving, multiplying = size / roofline.bandwidth(size / 2), 2 * batch * layer.macs / rate
        seconds[layer.name] = max(moving, multiplying)
        bounds[layer.name] = "compute" if multiplying > moving else "memory"
    return Limit(sum(seconds.values()), seconds, bounds)


# --- the layers of a tree ---------------------------------------------------------------------------------------------


def _op(name: str, node: Op) -> tuple[Layer, ...]:
    if not isinstance(node.kind, LAYERS):
        return ()
    weights = sum(parameter.size for parameter in node.kind.parameters(node.input))
    return (Layer(name, math.prod(node.input) + math.prod(node.output), weights, node.kind.macs(node.input)),)


def _series(_: str, __: Series, parts: Sequence[tuple[Layer, ...]]) -> tuple[Layer, ...]:
    return tuple(layer for part in parts for layer in part)


def _parallel(_: str, node: Parallel, parts: Sequence[tuple[Layer, ...]]) -> tuple[Layer, ...]:
    """Return the layers of a merge, which is part of the last layer of the first branch with one; that layer reads the
    others."""
    main = next((index for index, part in enumerate(parts) if part), None)
    if node.merge == "concat" or main is None:
        return tuple(layer for part in parts for layer in part)
    read = sum(math.prod(branch.output) for index, branch in enumerate(node.branches) if index != main)
    *before, last = parts[main]
    merged = (*before, replace(last, maps=last.maps + read))
    return tuple(layer for index, part in enumerate(parts) for layer in (merged if index == main else part))


def _side(_: str, node: Side, part: tuple[Layer, ...]) -> tuple[Layer, ...]:
    return part if node.mode == "always" else ()


_LAYERS: FoldRules[tuple[Layer, ...]] = FoldRules(_op, _series, _parallel, _side)


# --- measuring --------------------------------------------------------------------------------------------------------


def measure(device: str, precision: str, threads: int | None = None) -> Roofline:
    """Measure a device in some seconds: `cpu`, or `cuda` through torch. `threads` defaults to all CPU threads of this
    process. A GPU that torch does not support has no rates."""
    if RUNTIMES[f"torch-{device}"].missing() is not None and device == "cuda":
        return Roofline(precision, {}, None)
    workers, side = threads or usable(), _SIDE[device]
    rates = _torch_products(device, precision, side, workers)
    if not rates and device == "cpu" and precision == "fp32":  # torch is not needed; numpy uses all threads
        rates = [_numpy_product(side)]
    copied = {size: _cuda_copy(size) if device == "cuda" else _copy(size, workers) for size in _COPIES[device]}
    return Roofline(precision, copied, max(rates, default=None))


def _rate(work: float, run: Callable[[], Any]) -> float:
    """Return the rate per second of a run with an amount of work: the best of several rounds, which is the roof. A
    round lasts at least some milliseconds, well above the resolution of the clock; rounds continue while they improve,
    for two seconds at most, since other processes may use the machine."""
    run()
    started = time.perf_counter()
    run()
    times = max(1, math.ceil(5e-3 / max(time.perf_counter() - started, 1e-7)))
    rates: list[float] = []
    began = time.perf_counter()
    while len(rates) < _ROUNDS or (
        max(rates[-_ROUNDS:]) > 1.01 * max(rates[:-_ROUNDS], default=0.0) and time.perf_counter() - began < 2.0
    ):
        started = time.perf_counter()
        for _ in range(times):
            run()
        rates.append(work * times / (time.perf_counter() - started))
    return max(rates)


def _copy(size: int, threads: int) -> float:
    """Return the rate of copies in main memory, a part for each thread: numpy releases the interpreter lock while it
    copies."""
    source, target = np.ones(size, np.uint8), np.empty(size, np.uint8)
    parts = list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))
    with ThreadPoolExecutor(threads) as pool:
        # A thread copies its part several times in a row, so that scheduling does not count.
        times = max(1, (64 << 20) // size)

        def work(pair: tuple[Array, Array]) -> None:
            for _ in range(times):
                np.copyto(*pair)

        return _rate(2 * size * times, lambda: list(pool.map(work, parts)))


def _numpy_product(side: int) -> float:
    a = np.ones((side, side), np.float32)
    out = np.empty_like(a)
    return _rate(2 * side**3, lambda: np.matmul(a, a, out=out))


def _torch_products(device: str, precision: str, side: int, threads: int) -> list[float]:
    """Return the rates of torch's products; none if torch is missing, or lacks the precision on the device."""
    try:
        import torch
    except ImportError:
        return []
    with settings(torch, device == "cuda", precision == "tf32", threads):
        return [_rate(work, run) for work, run in products(device, precision, side)]


def _cuda_copy(size: int) -> float:
    times = max(1, (1 << 30) // size)
    return _rate(2 * size * times, copies(size, times))
