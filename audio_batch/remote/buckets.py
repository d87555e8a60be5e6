"""Whether the buckets of recordings are there: one that is not is no recording's own fault.

Services say of an object in no bucket what they say of a missing object, where they are asked for
no more than its head. So a bucket of which every recording is missing is asked for one's body.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from audio_batch import locations
from audio_batch.asset import Asset
from audio_batch.errors import SetupError
from audio_batch.remote import stores, urls
from audio_batch.remote.access import Access
from audio_batch.remote.failures import NO_PLACE, trouble
from audio_batch.remote.looks import MISSING

_WEB = ("http", "https")


@dataclass(slots=True)
class _Tally:
    """Of one bucket: an object that is missing, how many are, and whether any other is not."""

    uri: str
    missing: int = 0
    answered: bool = False


class Buckets:
    """The buckets (containers) of recordings that were looked at. One thread."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._tallies: dict[str, _Tally] = {}

    def note(self, looked: Iterable[Asset]) -> None:
        """Take down what was seen of some recordings, each for the first time."""
        for asset in looked:
            if asset.seen is None or locations.scheme(asset.uri) in _WEB:
                continue
            tally = self._tallies.setdefault(urls.bucket_of(asset.uri), _Tally(asset.uri))
            if asset.seen == MISSING:
                tally.uri = asset.uri
                tally.missing += 1
            else:
                tally.answered = True

    def gone(self) -> dict[str, int]:
        """The buckets that are not there, and how many recordings they were to hold. A request
        for each bucket without any recording."""
        return {
            bucket: tally.missing
            for bucket, tally in self._tallies.items()
            if tally.missing and not tally.answered and is_gone(tally.uri, self._access)
        }


def is_gone(uri: str, access: Access) -> bool:
    """Whether an object is missing because its bucket is. A request; Google does not tell."""
    if locations.scheme(uri) in _WEB:
        return False
    try:
        with stores.store(uri, access).reading(uri):
            return False
    except Exception as error:
        return trouble(error).reason in NO_PLACE


def told(gone: Sequence[str]) -> str:
    """That some buckets are not there."""
    some = ", ".join(map(urls.shown, gone[:5])) + (", …" if len(gone) > 5 else "")
    if len(gone) == 1:
        return f"There is no bucket or container {some}."
    return f"There are no such buckets or containers: {some}."


REMEDY = "See to the names in the manifest (--prefix of `manifest from-sql`), and to the account."


def refusal(gone: Sequence[str]) -> SetupError:
    """The error of a run whose recordings' buckets are not there."""
    return SetupError(
        told(gone), remedy=f"{REMEDY} With --allow-missing only what lies there fails."
    )
