"""A store that is held: why, since when, and what waits for it. See `holds`."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from audio_batch import events, locations
from audio_batch.control import Message
from audio_batch.errors import Away, ErrorKind
from audio_batch.outcome import StoreAway
from audio_batch.plan import Planned

SIGN_IN = {
    "s3://": "aws sso login",
    "gs://": "gcloud auth application-default login",
    "az://": "az login",
}
"""The command of each sign-in."""


SETTLED = frozenset(
    {
        *(ErrorKind.INPUT_MISSING, ErrorKind.INPUT_FORBIDDEN, ErrorKind.INPUT_CHANGED),
        *(ErrorKind.NOT_MEDIA, ErrorKind.NO_AUDIO_STREAM, ErrorKind.EMPTY_AUDIO),
        *(ErrorKind.MEDIA_LIMIT, ErrorKind.MEDIA_DAMAGED),
    }
)
"""Failures of an asset that is not tried again, whatever becomes of its store."""


class Line(Protocol):
    """The queue of a run; see `backlog.Backlog`."""

    def add(self, *planned: Planned) -> None:
        """Take assets that are to begin."""
        ...

    def set_aside(self) -> None:
        """Offer everything to `Holds.keep`."""
        ...


SignIn = Callable[[Away, Callable[[Message], None]], None]
"""Has a person sign in again, without waiting for it. The second argument is to be called, in any
thread, when that has ended, however it has; what it is given is done in the runner's thread."""

Ask = Callable[[str, Callable[[Away | None], None]], None]
"""Asks the store of a URI whether it answers, without waiting for it. The second argument is to be
called, in any thread, with what is wrong; None where it has answered, whatever that was."""


@dataclass(slots=True)
class Hold:
    """A store that is away, and what waits for it; those that failed there come first.

    `waiting` is turned, so that each try is another's: what fails may be one asset's own after all.
    `cause` is the key of the job for which it is held, `probe` that of the one that is tried, ""
    while none is. `doubted_s` is since when it may be few assets' own fault, infinite where not.
    `asked_s` is since when the store is being asked whether it answers, None while it is not;
    `answers`: it has, and one is to be tried.
    """

    away: Away
    cause: str
    since_s: float
    next_s: float
    delay_s: float
    doubted_s: float = math.inf
    waiting: deque[Planned] = field(default_factory=deque)
    probe: str = ""
    asked_s: float | None = None
    answers: bool = False


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


def sign_in_again(key: str, profile: str | None) -> str:
    """What to do where a sign-in is over, without a full stop."""
    command = SIGN_IN.get(key, "")
    if key == "s3://" and profile is not None:
        command += f" --profile {profile}"
    return f"Sign in again, for example by `{command}`" if command else "Sign in again"


def store_away(key: str, hold: Hold, more: int, profile: str | None) -> StoreAway:
    """A store that is held at the end of a run; `more` assets wait for it beside what is here."""
    away = hold.away
    return StoreAway(
        key,
        away.reason,
        assets_of(hold.waiting) + bool(hold.probe) + more,
        f"{sign_in_again(key, profile)}, and run the same command."
        if away.signed_out
        else away.remedy or "Run the same command when it is back.",
    )


def job_key(planned: Planned) -> str:
    """The key of an asset's job, or of its part's."""
    return events.job_key(planned.asset.id, planned.part.label if planned.part else "")


def store_key(away: Away) -> str:
    """What is held: all of a sign-in, or a host or bucket."""
    return store_keys(away.store)[away.signed_out]


def store_keys(origin: str) -> tuple[str, str]:
    """An origin itself, and the sign-in that it shares with others."""
    return origin, f"{locations.scheme(origin)}://"
