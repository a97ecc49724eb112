"""How much gradient flows through paths of each length: Veit et al. 2016, section 4.3 and figure 6.

The forward pass runs the whole network. The backward pass follows one path: at each merge the gradient enters one
branch only, so in a residual network it takes the branch of some blocks and the shortcut of all others. The gradient at
the input is the gradient along this path. Backpropagation is linear, so the gradients along all paths add up to the
full gradient (with gates held constant; `analysis.paths` defines what is not a path).

Paths of one length are sampled uniformly: each has a rank, and the counts of paths by length through the halves of a
network turn a rank into a path ("unranking").
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib import import_module
from itertools import accumulate
from typing import Any

import numpy as np

from rescompile.analysis.path_algebra import PathRules, through
from rescompile.analysis.path_views import paths_html
from rescompile.analysis.paths import Paths, Unit, entered, paths
from rescompile.diagnostics.errors import Unavailable, UsageError
from rescompile.ir.network import Network, Op, Parallel
from rescompile.records import record
from rescompile.weights import Array, Weights

#: The number of paths measured for each length; the paper measures 1000.
SAMPLES = 32
#: The number of examples in a batch, and the number of batches among which the samples of a length are divided.
BATCH, BATCHES = 8, 4
#: The effective paths are those in the shortest interval of lengths with this share of the gradient.
EFFECTIVE = 0.95


#: A run of a merge: its full name, and 1 for its first run. A merge in a step that runs `again` has several.
Run = tuple[str, int]


@record
class Magnitude:
    """The gradient along paths of one length: its L2 norm at the input, mean over samples and examples, and the
    standard error of that mean; None for a single sample."""

    mean: float
    error: float | None


@record(slots=False)
class PathGradients:
    """`magnitudes[k]` is for paths of length k, None if there are none; `paths` contains their counts, and `samples` is
    the number of measured paths of each length."""

    paths: Paths
    samples: int
    magnitudes: tuple[Magnitude | None, ...]

    def _repr_html_(self) -> str:
        """Return what a notebook shows: a histogram of the gradient by length of path, if matplotlib is installed, and
        a table."""
        return paths_html(self.paths, self)

    @cached_property
    def shares(self) -> tuple[float, ...]:
        """The share of each length in the total: its number of paths times the mean magnitude along one. All 0 if no
        gradient arrives at the input."""
        logs = [
            math.log2(count) + math.log2(along.mean) if along is not None and along.mean > 0 else -math.inf
            for count, along in zip(self.paths.counts, self.magnitudes, strict=True)
        ]
        most = max(logs)
        if most == -math.inf:
            return (0.0,) * len(logs)
        parts = [2 ** (log - most) for log in logs]
        total = math.fsum(parts)
        return tuple(part / total for part in parts)

    def share(self, first: int, last: int) -> float:
        """Return the share of the lengths `first` to `last`, both included."""
        return math.fsum(self.shares[max(first, 0) : last + 1]) if last >= 0 else 0.0

    @cached_property
    def effective(self) -> tuple[int, int] | None:
        """The shortest interval of lengths with at least `EFFECTIVE` of the total; among equally short ones, that with
        the largest share. None if no gradient arrives at the input."""
        intervals = (
            (last - first, -share, first)
            for first in range(len(self.shares))
            for last, share in enumerate(accumulate(self.shares[first:]), first)
            if share >= EFFECTIVE
        )
        best = min(intervals, default=None)
        return None if best is None else (best[2], best[2] + best[0])


def torch_module() -> Any:
    """Return the module that computes gradients along single paths with torch. Raises Unavailable if torch is
    missing."""
    try:
        return import_module("rescompile.runtimes.torch_paths")
    except ImportError as error:
        message = f"gradients are computed by torch, which cannot be loaded: {error}"
        raise Unavailable.of("E0902", message, help="pip install 'rescompile[torch]'") from None


def path_gradients(
    network: Network,
    weights: Weights,
    data: Array | None = None,
    labels: Array | None = None,
    *,
    unit: Unit = "blocks",
    samples: int = SAMPLES,
    seed: int = 0,
    double: bool = False,
) -> PathGradients:
    """Measure `samples` paths of each length, each on a batch of examples.

    The loss of an example is its cross-entropy, in evaluation mode. `data` has shape [examples, *input], `labels` the
    classes [examples] (or [examples, *positions] if the logits are feature maps). Without data, inputs are
    standard-normal noise, and without labels, labels are random, both drawn from `seed`. `double` computes in float64.

    Raises UsageError for data that does not fit and for a network that overflows, and Unavailable if torch is missing.
    """
    x, y = _examples(network, data, labels, seed)
    tree = ranked_paths(network, unit)
    found = paths(network, unit)
    assert tree.counts == found.counts
    unravelled = torch_module().Unravelled(network, weights, double)
    ranks = _ranks(found, samples, seed)
    norms: dict[int, list[float]] = {length: [] for length in ranks}
    batches = min(samples, BATCHES)
    for batch in range(batches):
        at = [index % len(x) for index in range(batch * BATCH, (batch + 1) * BATCH)][: len(x)]
        unravelled.forward(x[at], y[at])
        for length, chosen in ranks.items():
            for rank in chosen[batch::batches]:
                gradient = unravelled.backward(tree.unrank(length, rank)).reshape(len(at), -1)
                norm = float(np.linalg.norm(gradient.astype(np.float64), axis=1).mean())
                if not math.isfinite(norm):
                    message = f"the gradient along a path of length {length} is {norm}: the network overflows"
                    raise UsageError.of("E0802", message, help="use trained weights, or scale the data")
                norms[length].append(norm)
    return PathGradients(found, samples, tuple(_magnitude(norms.get(length)) for length in range(len(found.counts))))


def _ranks(found: Paths, samples: int, seed: int) -> dict[int, list[int]]:
    """Return the ranks of the measured paths by length: all in turn if there are at most `samples` of a length, else
    random ones."""
    generator = random.Random(seed)
    return {
        length: [at % count if count <= samples else generator.randrange(count) for at in range(samples)]
        for length, count in enumerate(found.counts)
        if count
    }


def _magnitude(norms: Sequence[float] | None) -> Magnitude | None:
    if norms is None:
        return None
    error = float(np.std(norms, ddof=1) / math.sqrt(len(norms))) if len(norms) > 1 else None
    return Magnitude(float(np.mean(norms)), error)


def _examples(network: Network, data: Array | None, labels: Array | None, seed: int) -> tuple[Array, Array]:
    """Return inputs and labels in the order in which they are used. Raises UsageError if they do not fit."""
    generator = np.random.default_rng(seed)
    classes, *positions = network.root.output
    if data is None:
        if labels is not None:
            raise UsageError.of("E0802", "--labels needs --data")
        x = generator.standard_normal((BATCH * BATCHES, *network.input), np.float32)
    else:
        if data.ndim == 0 or data.shape[1:] != network.input or not len(data) or data.dtype.kind not in "fiu":
            wanted = f"numbers of shape [examples, {', '.join(map(str, network.input))}]"
            raise UsageError.of("E0802", f"--data must be {wanted}, not {data.dtype} {list(data.shape)}")
        if not np.isfinite(data).all():
            raise UsageError.of("E0802", "--data contains a value that is not finite")
        x = data
    if labels is None:
        y = generator.integers(0, classes, (len(x), *positions))
    else:
        wanted = f"integers from 0 to {classes - 1} of shape {[len(x), *positions]}"
        if labels.shape != (len(x), *positions) or labels.dtype.kind not in "iu":
            raise UsageError.of("E0802", f"--labels must be {wanted}, not {labels.dtype} {list(labels.shape)}")
        if labels.min() < 0 or labels.max() >= classes:
            raise UsageError.of("E0802", f"--labels must be {wanted}, not from {labels.min()} to {labels.max()}")
        y = labels.astype(np.int64)
    order = generator.permutation(len(x))
    return x[order], y[order]


# --- paths by number --------------------------------------------------------------------------------------------------


@record
class _PathSet:
    """The paths through a part of the tree: `counts[k]` have length k, each with a rank from 0."""

    counts: tuple[int, ...]

    def unrank(self, length: int, rank: int) -> Mapping[Run, int]:
        """Return the branch of the path with this rank at each run of a merge on it."""
        return {}


@record
class _InSeries(_PathSet):
    """Paths through one part and then through another."""

    first: _PathSet
    second: _PathSet

    def unrank(self, length: int, rank: int) -> Mapping[Run, int]:
        for before, count in enumerate(self.first.counts):
            if 0 <= length - before < len(self.second.counts):
                after = self.second.counts[length - before]
                if rank < count * after:
                    one, other = divmod(rank, after)
                    return {**self.first.unrank(before, one), **self.second.unrank(length - before, other)}
                rank -= count * after
        raise IndexError(length)


@record
class _AtMerge(_PathSet):
    """Paths through one of the branches of a merge: for each, its index, its contribution to the length, and its
    paths."""

    run: Run
    branches: tuple[tuple[int, int, _PathSet], ...]

    def unrank(self, length: int, rank: int) -> Mapping[Run, int]:
        for at, added, part in self.branches:
            if 0 <= length - added < len(part.counts):
                count = part.counts[length - added]
                if rank < count:
                    return {self.run: at, **part.unrank(length - added, rank)}
                rank -= count
        raise IndexError(length)


_SINGLE_PATH = _PathSet((1,))


def ranked_paths(network: Network, unit: Unit) -> _PathSet:
    """Return the paths of a network, each with its rank."""
    runs: Counter[str] = Counter()

    def op(_: str, node: Op) -> _PathSet:
        counts = paths(node, unit).counts
        return _SINGLE_PATH if counts == (1,) else _PathSet(counts)

    def product(parts: Sequence[_PathSet]) -> _PathSet:
        return _in_series([part for part in parts if part is not _SINGLE_PATH])

    def parallel(name: str, node: Parallel, parts: Sequence[_PathSet]) -> _PathSet:
        branches = tuple(
            (at, 0 if unit == "layers" else added, part)
            for at, (added, part) in enumerate(zip(entered(node), parts, strict=True))
            if added is not None
        )
        counts = [0] * max(added + len(part.counts) for _, added, part in branches)
        for _, added, part in branches:
            for length, count in enumerate(part.counts):
                counts[added + length] += count
        runs[name] += 1
        return _AtMerge(tuple(counts), (name, runs[name]), branches)

    return through(network.root, PathRules(_SINGLE_PATH, op, product, parallel))


def _in_series(parts: Sequence[_PathSet]) -> _PathSet:
    """Return the paths through parts in series, combined in halves so that unranking takes few steps."""
    if len(parts) < 2:
        return parts[0] if parts else _SINGLE_PATH
    first, second = _in_series(parts[: len(parts) // 2]), _in_series(parts[len(parts) // 2 :])
    counts = [0] * (len(first.counts) + len(second.counts) - 1)
    for before, count in enumerate(first.counts):
        for after, more in enumerate(second.counts):
            counts[before + after] += count * more
    return _InSeries(tuple(counts), first, second)
