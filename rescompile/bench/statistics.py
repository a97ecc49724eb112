"""What may be said of measured times: percentiles, intervals by the bootstrap, ratios, when a warm-up is over.

The unit that repeats is a round, in which every contender had its turn; the samples of one turn belong together. Rounds are
resampled in blocks (Kunsch 1989; circular, Politis and Romano 1992), since neighbouring rounds share whatever the machine
was doing: with rounds drawn one by one, intervals on a machine that drifts are too narrow. Everything is seeded: the same
samples give the same intervals.

Where contenders were prepared several times, the unit is a sitting: what one and the same program takes differs from one
preparation to the next, by where its memory lies, and no number of rounds shows that (Kalibera and Jones 2013). The
interval is then Student's, over the logarithms of the sittings' medians.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rescompile.diagnostics.errors import Diagnostic, Unavailable

#: The probability that an interval holds the true value.
LEVEL = 0.95
RESAMPLES = 2000
PERCENTILES = (50, 90, 95, 99)
#: A control's half-width, and its distance from 1, beyond which its group decides nothing.
WORST_CONTROL = 0.02
#: Fewer rounds than this have no interval.
LEAST_ROUNDS = 5

#: Times of [rounds, runs], or of [sittings, rounds, runs].
Samples = NDArray[np.float64]


def require() -> None:
    """Raise Unavailable where SciPy is missing, of which intervals and fits are made."""
    try:
        import scipy  # noqa: F401
    except ImportError:
        message = "the statistics of bench need SciPy, which is not installed"
        raise Unavailable(Diagnostic("E0902", message, help="pip install 'rescompile[bench]'")) from None


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and the bounds of its interval."""

    value: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half the distance between the bounds."""
        return (self.high - self.low) / 2

    def scaled(self, factor: float) -> Interval:
        """The interval of a positive multiple."""
        return Interval(factor * self.value, factor * self.low, factor * self.high)

    def overlaps(self, other: Interval) -> bool:
        """Whether some value is within both; touching counts."""
        return self.low <= other.high and other.low <= self.high


@dataclass(frozen=True, slots=True)
class Summary:
    """The times of one contender, in seconds: the median with its interval, the tail, and inputs per second at the median."""

    count: int
    median: Interval
    p50: float
    p90: float
    p95: float
    p99: float
    minimum: float
    mean: float
    throughput: float


def table(samples: Sequence[Sequence[float]], sittings: int = 1) -> Samples:
    """Rounds of runs as an array of [rounds, runs], or of [sittings, rounds, runs] where there are several sittings of equally
    many rounds. Raises ValueError where there are too few rounds for an interval, where they have other numbers of runs or
    do not make up the sittings, or where a time is not positive and finite."""
    if len(samples) < LEAST_ROUNDS:
        raise ValueError(f"there are {len(samples)} rounds, and an interval takes at least {LEAST_ROUNDS}")
    if sittings < 1 or len(samples) % sittings:
        raise ValueError(f"{len(samples)} rounds are not {sittings} sittings of equally many")
    if len({len(turn) for turn in samples}) != 1 or not samples[0]:
        raise ValueError("the rounds are of different numbers of runs, or of none")
    made = np.asarray(samples, np.float64)
    if not (np.isfinite(made).all() and (made > 0).all()):
        raise ValueError("a time is positive and finite")
    return made if sittings == 1 else made.reshape(sittings, -1, made.shape[1])


def summarise(samples: Sequence[Sequence[float]], batch: int, seed: int = 0, sittings: int = 1) -> Summary:
    """What the samples of a contender say. Percentiles interpolate linearly between order statistics, as numpy's do."""
    times = table(samples, sittings)
    p50, p90, p95, p99 = (float(value) for value in np.percentile(times, PERCENTILES))
    return Summary(
        times.size, median(times, seed), p50, p90, p95, p99, float(times.min()), float(times.mean()), batch / p50
    )


def median(samples: Samples, seed: int = 0) -> Interval:
    """The median of all samples, with the interval of the block bootstrap over rounds, which is nowhere beyond all samples; or
    the geometric mean of the sittings' medians, with Student's."""
    if samples.ndim == 3:
        return _mean_of_sittings(_logarithms(samples))
    drawn = _medians(samples, _rounds(len(samples), seed))
    found = _interval(float(np.median(samples)), drawn, len(samples))
    return Interval(found.value, max(found.low, float(samples.min())), min(found.high, float(samples.max())))


def ratio(ours: Samples, base: Samples, seed: int = 0) -> Interval:
    """The ratio of two medians that were measured in the same rounds: both times of a round are drawn together, so that what
    slowed down a whole round cancels. The interval is nowhere beyond the ratios of all samples. Of several sittings it is the
    geometric mean of the ratios of each, with Student's interval."""
    if ours.shape[:-1] != base.shape[:-1]:
        raise ValueError("a paired ratio takes equally many rounds of both")
    if ours.ndim == 3:
        return _mean_of_sittings(_logarithms(ours) - _logarithms(base))
    rounds = _rounds(len(ours), seed)
    drawn = _medians(ours, rounds) / _medians(base, rounds)
    return _within(_interval(float(np.median(ours) / np.median(base)), drawn, len(ours)), ours, base)


def unpaired_ratio(ours: Samples, base: Samples, seed: int = 0) -> Interval:
    """The ratio of two medians from different runs: rounds of each are drawn on their own. The interval is nowhere beyond
    the ratios of all samples. Where both had several sittings it is Welch's (1947)."""
    if ours.ndim == base.ndim == 3:
        return _welch(_logarithms(ours), _logarithms(base))
    ours, base = _one_sitting(ours), _one_sitting(base)
    drawn = _medians(ours, _rounds(len(ours), seed)) / _medians(base, _rounds(len(base), seed + 1))
    found = _interval(float(np.median(ours) / np.median(base)), drawn, min(len(ours), len(base)))
    return _within(found, ours, base)


def decides(control: Interval) -> bool:
    """Whether a control, the ratio of a contender to a second copy of itself, is good enough for its group to say
    anything: narrow, and near 1."""
    return control.half_width <= WORST_CONTROL and abs(control.value - 1) <= WORST_CONTROL


def speed_up(ours: Samples, base: Samples, control: Interval | None = None, seed: int = 0) -> float | None:
    """How many times as fast, as base over ours; None where nothing can be said.

    Something can be said where the intervals of both medians do not overlap, that of their paired ratio does not hold 1,
    and the control of the group, if there is one, decides. Medians of several sittings may overlap: their intervals hold how
    far the machine drifted from one sitting to the next, which met both alike, and that of the ratio is over the sittings.
    """
    if control is not None and not decides(control):
        return None
    if ours.ndim == 2 and median(ours, seed).overlaps(median(base, seed)):
        return None
    found = ratio(base, ours, seed)
    slack = 0.0 if control is None else control.half_width
    return found.value if found.low > 1 + slack or found.high < 1 - slack else None


# --- sittings ---------------------------------------------------------------------------------------------------------


def _logarithms(samples: Samples) -> Samples:
    """The logarithm of the median of each sitting: on that scale a ratio and its inverse are alike."""
    made: Samples = np.log(np.median(samples, axis=(1, 2)))
    return made


def _mean_of_sittings(logarithms: Samples) -> Interval:
    """The mean over sittings, with Student's interval."""
    count = len(logarithms)
    middle, error = float(logarithms.mean()), float(logarithms.std(ddof=1)) / math.sqrt(count)
    return _around(middle, error, count - 1)


def _welch(ours: Samples, base: Samples) -> Interval:
    """The difference of two means over sittings, whose variances need not be equal, with the degrees of freedom of Welch and
    Satterthwaite."""
    parts = [(float(each.var(ddof=1)) / len(each), len(each) - 1) for each in (ours, base)]
    total = sum(variance for variance, _ in parts)
    apart = sum(variance**2 / freedom for variance, freedom in parts)
    freedom = total**2 / apart if apart > 0 else math.inf
    return _around(float(ours.mean() - base.mean()), math.sqrt(total), freedom)


def _around(middle: float, error: float, freedom: float) -> Interval:
    """The interval of a logarithm with a standard error, as one of the ratio."""
    wide = _student(freedom) * error
    return Interval(math.exp(middle), math.exp(middle - wide), math.exp(middle + wide))


def _one_sitting(samples: Samples) -> Samples:
    """All rounds as those of one sitting."""
    return samples.reshape(-1, samples.shape[-1])


# --- the bootstrap ----------------------------------------------------------------------------------------------------


def _rounds(count: int, seed: int) -> NDArray[np.int64]:
    """Numbers of rounds, [resamples, count]: circular blocks of about the cube root of `count` (Hall et al. 1995)."""
    length = _block(count)
    generator = np.random.default_rng(seed)
    starts = generator.integers(0, count, (RESAMPLES, math.ceil(count / length)))
    drawn = (starts[:, :, None] + np.arange(length)) % count
    return drawn.reshape(RESAMPLES, -1)[:, :count]


def _block(count: int) -> int:
    """How many neighbouring rounds are drawn together."""
    return max(1, round(math.cbrt(count)))


def _medians(samples: Samples, rounds: NDArray[np.int64]) -> Samples:
    """The median of each resample, a slice of them at a time: thousands of resamples of thousands of samples are many."""
    step = max(1, (1 << 22) // samples.size)
    slices = (rounds[at : at + step] for at in range(0, len(rounds), step))
    return np.concatenate([np.median(samples[part].reshape(len(part), -1), axis=1) for part in slices])


def _interval(value: float, drawn: Samples, count: int) -> Interval:
    """The percentile interval, widened about the estimate for small numbers of rounds: there are only count / block blocks,
    so the quantile is Student's instead of the normal one, and the bootstrap leaves out the share of a block. Without
    that, 95% intervals of 20 independent rounds hold the true value in 89% of cases."""
    rest = (1 - LEVEL) / 2
    low, high = (float(bound) for bound in np.quantile(drawn, (rest, 1 - rest)))
    block = _block(count)
    wider = _student(max(count / block - 1, 1)) / _student(math.inf) * math.sqrt(count / max(count - block, 1))
    # On the scale of logarithms, on which a ratio and its inverse are alike and no bound is negative.
    return Interval(value, value * (min(low, value) / value) ** wider, value * (max(high, value) / value) ** wider)


def _within(found: Interval, ours: Samples, base: Samples) -> Interval:
    """An interval cut where no ratio of two samples is: of five rounds with an outlier, widening alone says 700 times."""
    least, most = float(ours.min() / base.max()), float(ours.max() / base.min())
    return Interval(found.value, max(found.low, least), min(found.high, most))


def _student(freedom: float) -> float:
    """The quantile of Student's distribution for LEVEL."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + LEVEL) / 2))


# --- the warm-up ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WarmUp:
    """When a warm-up is over: once the medians of two neighbouring windows agree, within `tolerance` or within what
    single runs scatter; given up after `runs` or `seconds`."""

    window: int = 5
    tolerance: float = 0.02
    runs: int = 200
    seconds: float = 10.0

    def stable(self, times: Sequence[float]) -> bool:
        """Whether the last two windows agree."""
        if len(times) < 2 * self.window:
            return False
        early, late = np.asarray(times[-2 * self.window :]).reshape(2, self.window)
        first, second = float(np.median(early)), float(np.median(late))
        spread = max(_quartiles(early), _quartiles(late)) / 2
        return abs(second - first) <= max(self.tolerance * first, min(spread, 0.1 * first))

    def over(self, times: Sequence[float]) -> bool:
        """Whether to stop: stable, or given up."""
        return self.stable(times) or len(times) >= self.runs or sum(times) >= self.seconds


def _quartiles(values: Any) -> float:
    """The distance between the quartiles."""
    low, high = np.percentile(values, (25, 75))
    return float(high - low)
