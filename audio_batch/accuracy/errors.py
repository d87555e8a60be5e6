"""A count of errors and what it is counted over: every rate is made of these and never averaged."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Errors:
    """Errors by their kind, out of `total`: words, characters, seconds, speakers or recordings."""

    total: float
    kinds: Mapping[str, float]

    @property
    def count(self) -> float:
        """All errors together, in the unit of `total`."""
        return math.fsum(self.kinds.values())

    @property
    def rate(self) -> float:
        """`count / total`: 0 where nothing was to be found and nothing was, else infinite."""
        if self.total:
            return self.count / self.total
        return math.inf if self.count else 0.0


def pooled(errors: Iterable[Errors]) -> Errors:
    """Errors of many recordings as of one long one: counts and totals are added, not rates."""
    total, kinds = 0.0, dict[str, float]()
    for one in errors:
        total += one.total
        for kind, count in one.kinds.items():
            kinds[kind] = kinds.get(kind, 0.0) + count
    return Errors(total, kinds)
