"""Two output folders of the same manifest side by side, on the assets that both have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from audio_batch.accuracy.errors import Errors, pooled
from audio_batch.accuracy.evaluation import AssetScore, Evaluation

RESAMPLES = 1000
_SAME = 1e-9  # seconds of speech are sums of fractions


@dataclass(frozen=True, slots=True)
class Comparison:
    """One measure in both. Better and worse is what `ours` is on single assets.

    `interval` are the bounds that hold the difference of the rates, ours - theirs, with 95 %
    probability were other such recordings taken; None for fewer than two assets.
    """

    measure: str
    ours: Errors
    theirs: Errors
    better: int
    same: int
    worse: int
    interval: tuple[float, float] | None

    @property
    def difference(self) -> float:
        """Our rate - their rate: below zero ours is the better."""
        return 0.0 if self.ours.count == self.theirs.count else self.ours.rate - self.theirs.rate


def compare(ours: Evaluation, theirs: Evaluation) -> tuple[Comparison, ...]:
    """Every measure that at least one asset has in both."""
    others = {asset.id: asset for asset in theirs.assets}
    pairs = [(asset, others[asset.id]) for asset in ours.assets if asset.id in others]
    compared = (_compared(measure, pairs) for measure in ours.measures)
    return tuple(comparison for comparison in compared if comparison is not None)


def _compared(measure: str, pairs: Sequence[tuple[AssetScore, AssetScore]]) -> Comparison | None:
    errors = [
        (one.errors[measure], other.errors[measure])
        for one, other in pairs
        if measure in one.errors and measure in other.errors
    ]
    if not errors:
        return None
    gains = [other.count - one.count for one, other in errors]
    better = sum(gain > _SAME for gain in gains)
    worse = sum(gain < -_SAME for gain in gains)
    return Comparison(
        measure=measure,
        ours=pooled(one for one, _ in errors),
        theirs=pooled(other for _, other in errors),
        better=better,
        same=len(errors) - better - worse,
        worse=worse,
        interval=bootstrap([-gain for gain in gains], [one.total for one, _ in errors]),
    )


def bootstrap(differences: Sequence[float], totals: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of sum(differences) / sum(totals) over resampled recordings.

    The paired percentile bootstrap over recordings of Bisani and Ney (ICASSP 2004), always with
    the same random numbers. None for fewer than two recordings, or where they hold nothing.

    Args:
        differences: of each recording, errors of one system - errors of the other.
        totals: of each recording, what both are counted over.
    """
    import numpy as np

    count = len(differences)
    if count < 2:
        return None
    gains, sizes = np.asarray(differences, np.float64), np.asarray(totals, np.float64)
    generator = np.random.default_rng(0)
    rates = []
    for _ in range(RESAMPLES):
        drawn = generator.integers(count, size=count)
        if size := float(sizes[drawn].sum()):
            rates.append(float(gains[drawn].sum()) / size)
    if not rates:
        return None
    low, high = np.percentile(rates, (2.5, 97.5))
    return float(low), float(high)
