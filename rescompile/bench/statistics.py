"""The statistics of measured times: percentiles, bootstrap intervals, ratios, and the end of a warm-up.

The unit of resampling is a round, in which every contender had one slot. Rounds are resampled in blocks (Kunsch 1989;
circular, Politis and Romano 1992), since neighbouring rounds share the state of the machine: resampling single rounds gives
intervals that are too narrow on a machine that drifts. Everything is seeded: the same samples give the same intervals.

Where contenders were prepared several times, the unit is a session: the time of a program differs from one preparation to the
next with its memory layout, which more rounds do not reveal (Kalibera and Jones 2013). The interval is then Student's, over the
logarithms of the medians of the sessions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rescompile.diagnostics.errors import Unavailable
from rescompile.records import record

#: The probability that an interval contains the true value.
LEVEL = 0.95
RESAMPLES = 2000
PERCENTILES = (50, 90, 95, 99)
#: The largest half-width of a control, and its largest distance from 1, with which its group is conclusive.
WORST_CONTROL = 0.02
#: The minimum number of rounds for an interval.
LEAST_ROUNDS = 5

#: Times as [rounds, runs], or as [sessions, rounds, runs].
Samples = NDArray[np.float64]


def require() -> None:
    """Raise Unavailable if SciPy is missing, which intervals and fits need."""
    try:
        import scipy  # noqa: F401
    except ImportError:
        message = "intervals and fits need SciPy, which is not installed"
        raise Unavailable.of("E0902", message, help="pip install 'rescompile[bench]'") from None


@record
class Interval:
    """An estimate with the bounds of its interval."""

    value: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half the distance between the bounds."""
        return (self.high - self.low) / 2

    def scaled(self, factor: float) -> Interval:
        """Return the interval of a positive multiple."""
        return Interval(factor * self.value, factor * self.low, factor * self.high)

    def overlaps(self, other: Interval) -> bool:
        """Return whether a value is within both; bounds belong to the interval."""
        return self.low <= other.high and other.low <= self.high


@record
class Summary:
    """The times of one contender in seconds: the median with its interval, the tail, and inputs per second at the median."""

    count: int
    median: Interval
    p50: float
    p90: float
    p95: float
    p99: float
    minimum: float
    mean: float
    throughput: float


def table(samples: Sequence[Sequence[float]], sessions: int = 1) -> Samples:
    """Return the samples as an array of [rounds, runs], or of [sessions, rounds, runs] if there is more than one session.

    Raises ValueError if there are too few rounds for an interval, if rounds differ in their number of runs or cannot be
    divided evenly among the sessions, and if a time is not positive and finite."""
    if len(samples) < LEAST_ROUNDS:
        raise ValueError(f"an interval needs at least {LEAST_ROUNDS} rounds, but there are {len(samples)}")
    if sessions < 1 or len(samples) % sessions:
        raise ValueError(f"{len(samples)} rounds cannot be divided into {sessions} equal sessions")
    if len({len(slot) for slot in samples}) != 1 or not samples[0]:
        raise ValueError("every round must have the same number of runs, at least one")
    times = np.asarray(samples, np.float64)
    if not (np.isfinite(times).all() and (times > 0).all()):
        raise ValueError("every time must be positive and finite")
    return times if sessions == 1 else times.reshape(sessions, -1, times.shape[1])


def summarise(samples: Sequence[Sequence[float]], batch: int, seed: int = 0, sessions: int = 1) -> Summary:
    """Return the summary of a contender's samples. Percentiles interpolate linearly between order statistics, as numpy's do."""
    times = table(samples, sessions)
    p50, p90, p95, p99 = (float(value) for value in np.percentile(times, PERCENTILES))
    return Summary(
        times.size, median(times, seed), p50, p90, p95, p99, float(times.min()), float(times.mean()), batch / p50
    )


def median(samples: Samples, seed: int = 0) -> Interval:
    """Return the median of all samples, with the interval of the block bootstrap over rounds, clipped to the range of the
    samples. With several sessions, the geometric mean of their medians with Student's interval."""
    if samples.ndim == 3:
        return _student_interval(_logarithms(samples))
    drawn = _medians(samples, _rounds(len(samples), seed))
    interval = _interval(float(np.median(samples)), drawn, len(samples))
    return _clipped(interval, float(samples.min()), float(samples.max()))


def ratio(ours: Samples, base: Samples, seed: int = 0) -> Interval:
    """Return the ratio of two medians measured in the same rounds. Both times of a round are drawn together, so that a slow
    round cancels; the interval is clipped to the ratios of single samples. With several sessions, the geometric mean of
    their ratios with Student's interval."""
    if ours.shape[:-1] != base.shape[:-1]:
        raise ValueError("a paired ratio needs the same number of rounds of both")
    if ours.ndim == 3:
        return _student_interval(_logarithms(ours) - _logarithms(base))
    rounds = _rounds(len(ours), seed)
    return _ratio_interval(ours, base, _medians(ours, rounds) / _medians(base, rounds))


def unpaired_ratio(ours: Samples, base: Samples) -> Interval:
    """Return the ratio of two medians from different runs, whose rounds are drawn independently. The interval is clipped to
    the ratios of single samples. Where both have several sessions, it is Welch's (1947)."""
    if ours.ndim == base.ndim == 3:
        return _welch(_logarithms(ours), _logarithms(base))
    ours, base = (samples.reshape(-1, samples.shape[-1]) for samples in (ours, base))
    drawn = _medians(ours, _rounds(len(ours), 0)) / _medians(base, _rounds(len(base), 1))
    return _ratio_interval(ours, base, drawn)


def decides(control: Interval) -> bool:
    """Return whether a control, the ratio of a contender to a second copy of itself, makes its group conclusive: narrow, and
    near 1."""
    return control.half_width <= WORST_CONTROL and abs(control.value - 1) <= WORST_CONTROL


def speed_up(ours: Samples, base: Samples, control: Interval | None = None) -> float | None:
    """Return the speed-up, as base over ours; None if the difference is not significant.

    It is significant where the intervals of the medians do not overlap, the interval of their paired ratio does not contain 1,
    and the control of the group, if any, is conclusive. With several sessions the intervals of the medians may overlap: they
    include the drift between sessions, which affected both alike, while the interval of the ratio is over sessions.
    """
    if control is not None and not decides(control):
        return None
    if ours.ndim == 2 and median(ours).overlaps(median(base)):
        return None
    faster = ratio(base, ours)
    slack = 0.0 if control is None else control.half_width
    return faster.value if faster.low > 1 + slack or faster.high < 1 - slack else None


# --- sessions ---------------------------------------------------------------------------------------------------------


def _logarithms(samples: Samples) -> Samples:
    """Return the logarithm of the median of each session: on that scale a ratio and its inverse are symmetric."""
    logarithms: Samples = np.log(np.median(samples, axis=(1, 2)))
    return logarithms


def _student_interval(logarithms: Samples) -> Interval:
    """Return the geometric mean over sessions, with Student's interval."""
    count = len(logarithms)
    middle, error = float(logarithms.mean()), float(logarithms.std(ddof=1)) / math.sqrt(count)
    return _around(middle, error, count - 1)


def _welch(ours: Samples, base: Samples) -> Interval:
    """Return the ratio of two geometric means over sessions with unequal variances, with the degrees of freedom of Welch and
    Satterthwaite."""
    parts = [(float(each.var(ddof=1)) / len(each), len(each) - 1) for each in (ours, base)]
    total = sum(variance for variance, _ in parts)
    apart = sum(variance**2 / freedom for variance, freedom in parts)
    freedom = total**2 / apart if apart > 0 else math.inf
    return _around(float(ours.mean() - base.mean()), math.sqrt(total), freedom)


def _around(middle: float, error: float, freedom: float) -> Interval:
    """Return the interval of a ratio from its logarithm and the standard error of that."""
    wide = _student(freedom) * error
    return Interval(math.exp(middle), math.exp(middle - wide), math.exp(middle + wide))


# --- the bootstrap ----------------------------------------------------------------------------------------------------


def _rounds(count: int, seed: int) -> NDArray[np.int64]:
    """Return the rounds of each resample, [resamples, count]: circular blocks of about the cube root of `count` (Hall et al.
    1995)."""
    length = _block(count)
    generator = np.random.default_rng(seed)
    starts = generator.integers(0, count, (RESAMPLES, math.ceil(count / length)))
    drawn = (starts[:, :, None] + np.arange(length)) % count
    return drawn.reshape(RESAMPLES, -1)[:, :count]


def _block(count: int) -> int:
    """Return the number of neighbouring rounds that are drawn together."""
    return max(1, round(math.cbrt(count)))


def _medians(samples: Samples, rounds: NDArray[np.int64]) -> Samples:
    """Return the median of each resample, a slice of them at a time to bound the memory."""
    step = max(1, (1 << 22) // samples.size)
    slices = (rounds[at : at + step] for at in range(0, len(rounds), step))
    return np.concatenate([np.median(samples[part].reshape(len(part), -1), axis=1) for part in slices])


def _interval(value: float, drawn: Samples, count: int) -> Interval:
    """Return the percentile interval, widened about the estimate for small numbers of rounds: there are only count / block
    blocks, so Student's quantile replaces the normal one, and the bootstrap misses one block's share of the variance.
    Without that, 95% intervals of 20 independent rounds contain the true value in 89% of cases."""
    rest = (1 - LEVEL) / 2
    low, high = (float(bound) for bound in np.quantile(drawn, (rest, 1 - rest)))
    block = _block(count)
    wider = _student(max(count / block - 1, 1)) / _student(math.inf) * math.sqrt(count / max(count - block, 1))
    # On the scale of logarithms, where a ratio and its inverse are symmetric and no bound is negative.
    return Interval(value, value * (min(low, value) / value) ** wider, value * (max(high, value) / value) ** wider)


def _ratio_interval(ours: Samples, base: Samples, drawn: Samples) -> Interval:
    """Return the interval of a ratio of medians, clipped to the ratios of single samples: for five rounds with an outlier,
    widening alone gives a bound of 700."""
    count = min(len(ours), len(base))
    interval = _interval(float(np.median(ours) / np.median(base)), drawn, count)
    return _clipped(interval, float(ours.min() / base.max()), float(ours.max() / base.min()))


def _clipped(interval: Interval, least: float, most: float) -> Interval:
    return Interval(interval.value, max(interval.low, least), min(interval.high, most))


def _student(freedom: float) -> float:
    """Return the quantile of Student's distribution for LEVEL."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + LEVEL) / 2))


# --- the warm-up ------------------------------------------------------------------------------------------------------


@record
class WarmUp:
    """When a warm-up ends: once the medians of two neighbouring windows agree within `tolerance`, or within the scatter of
    single runs; at the latest after `runs` or `seconds`."""

    window: int = 5
    tolerance: float = 0.02
    runs: int = 200
    seconds: float = 10.0

    def stable(self, times: Sequence[float]) -> bool:
        """Return whether the last two windows agree."""
        if len(times) < 2 * self.window:
            return False
        early, late = np.asarray(times[-2 * self.window :]).reshape(2, self.window)
        first, second = float(np.median(early)), float(np.median(late))
        spread = max(_quartiles(early), _quartiles(late)) / 2
        return abs(second - first) <= max(self.tolerance * first, min(spread, 0.1 * first))

    def over(self, times: Sequence[float]) -> bool:
        """Return whether to stop: stable, or too long."""
        return self.stable(times) or len(times) >= self.runs or sum(times) >= self.seconds


def _quartiles(values: Any) -> float:
    """Return the distance between the quartiles."""
    low, high = np.percentile(values, (25, 75))
    return float(high - low)
