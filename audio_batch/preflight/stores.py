"""Checks of where recordings and results lie, if that is not this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime

from audio_batch import locations
from audio_batch.assets import stores_of
from audio_batch.config import Settings
from audio_batch.preflight.check import Finding, ok, warning
from audio_batch.preflight.facts import Facts
from audio_batch.remote import aws as signing
from audio_batch.remote import clouds, stores
from audio_batch.remote.settings import access_of

_NIGHT_S = 12 * 3600
"""A sign-in that ends sooner may end within the run."""


class SignIn:
    """Sees that a run is signed in where its locations are: to AWS, Google, Azure. One thread.

    Args:
        notice: is told what a run should know of it; `warning=True` for what may end it.
    """

    def __init__(self, settings: Settings, notice: Callable[..., None]) -> None:
        self._settings = settings
        self._notice = notice
        self._done = False

    def before(self, wanted: Iterable[str]) -> None:
        """See to it before anything at these locations is asked for.

        Raises:
            SetupError: nobody is signed in (`aws.SignInExpired`: any more), or is refused.
        """
        places = list(wanted)
        for who in clouds.identities(places, access_of(self._settings)):
            if not who.method:
                self._notice(_nobody(who), warning=True)
        if self._done or not any(map(signing.is_s3, places)):
            return
        stores.require(["s3://"])
        identity = signing.check(
            access_of(self._settings),
            ["s3://"],
            sign_in=bool(self._settings.aws_login),
            notice=lambda text: self._notice(text, warning=True),
        )
        self._done = True
        if identity is not None and (text := _ends_early(identity)):
            self._notice(text, warning=True)


def packages(facts: Facts) -> Iterator[Finding]:
    """What the URLs' stores need is installed (raises otherwise)."""
    found = sorted({locations.scheme(place) for place in _places(facts)} & locations.REMOTE)
    if found:
        stores.require(f"{scheme}://" for scheme in found)
        yield ok(f"{', '.join(f'{scheme}://' for scheme in found)}: what they need is installed.")


def aws(facts: Facts) -> Iterator[Finding]:
    """Who the run would be to AWS (raises where it would be nobody)."""
    identity = signing.check(access_of(facts.settings), _places(facts))
    if identity is None:
        return
    if identity.arn:
        yield ok(f"{identity.arn}, by {identity.method}.")
    elif identity.refused:
        yield warning(
            f"Credentials by {identity.method}; who they are is not known: {identity.unasked}.",
            "See to their permissions; S3 may let them in all the same.",
        )
    else:
        yield ok(f"Credentials by {identity.method}; not tried: {identity.unasked}.")
    if text := _ends_early(identity):
        yield warning(text, "Sign in again before a long run.")


def other_clouds(facts: Facts) -> Iterator[Finding]:
    """Who the run would be to Google and Azure (raises where it would be nobody)."""
    for who in clouds.identities(_places(facts), access_of(facts.settings)):
        if not who.method:
            yield warning(_nobody(who), "Sign in, unless all that is asked for is public.")
        elif who.unasked:
            yield ok(f"{who.cloud}: by {who.method}; not tried: {who.unasked}.")
        else:
            yield ok(f"{who.cloud}: by {who.method}.")


def _nobody(who: clouds.Identity) -> str:
    return f"Nobody is signed in to {who.cloud}: only what is public there can be read."


def _ends_early(identity: signing.Identity) -> str:
    if identity.ends_at is None:
        return ""
    left_s = (identity.ends_at - datetime.now(identity.ends_at.tzinfo)).total_seconds()
    if left_s > _NIGHT_S:
        return ""
    local = identity.ends_at.astimezone()
    return f"The AWS SSO sign-in ends at {local:%Y-%m-%d %H:%M} and does not renew itself."


def _places(facts: Facts) -> Iterator[str]:
    yield facts.settings.output_dir or ""
    yield from stores_of(facts.request.assets)
