"""A store that is held: why, since when, and what waits for it. See `holds`."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from audio_batch import events, locations
from audio_batch.errors import Away
from audio_batch.plan import Planned

SIGN_IN = {
    "s3://": "aws sso login",
    "gs://": "gcloud auth application-default login",
    "az://": "az login",
}
"""The command of each sign-in."""


@dataclass(slots=True)
class Hold:
    """A store that is away, and what waits for it; those that failed there come first.

    `waiting` is turned, so that each try is another's: what fails may be one asset's own after all.
    `cause` is the key of the job for which it is held, `probe` that of the one that is tried, ""
    while none is. `doubted_s` is since when it may be few assets' own fault, infinite where not.
    """

    away: Away
    cause: str
    since_s: float
    next_s: float
    delay_s: float
    doubted_s: float = math.inf
    waiting: deque[Planned] = field(default_factory=deque)
    probe: str = ""


@dataclass(slots=True)
class Row:
    """Assets that have failed at a store, one after the other: how often, by job.

    `since_s` is when the first of them did.
    """

    since_s: float
    failures: dict[str, int] = field(default_factory=dict)


def assets_of(planned: Iterable[Planned]) -> int:
    """How many assets these are, or are parts of."""
    return len({item.asset.id for item in planned})


def job_key(planned: Planned) -> str:
    """The key of an asset's job, or of its part's."""
    return events.job_key(planned.asset.id, planned.part.label if planned.part else "")


def store_key(away: Away) -> str:
    """What is held: all of a sign-in, or a host or bucket."""
    return store_keys(away.store)[away.signed_out]


def store_keys(origin: str) -> tuple[str, str]:
    """An origin itself, and the sign-in that it shares with others."""
    return origin, f"{locations.scheme(origin)}://"
