"""Asking a store that is away whether it answers again, beside the run: a host that swallows all
that is sent to it takes a quarter of a minute, which no device has to wait."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from audio_batch.errors import Away, SetupError
from audio_batch.held import Ask
from audio_batch.remote import looks
from audio_batch.remote.access import Access
from audio_batch.remote.downloads import Patience

_log = logging.getLogger("audio_batch.inputs")


def asking(access: Access) -> Ask:
    """What looks once at an object, in a thread of its own, and tells who does not answer.

    Whatever comes from there is an answer, also that there is no such object.
    """

    def ask(uri: str, told: Callable[[Away | None], None]) -> None:
        def work() -> None:
            away = None
            try:
                found = looks.why_not(uri, access, patience=Patience(tries=1))
                away = found.away_from(uri) if found is not None else None
            except SetupError as error:
                _log.debug("it cannot be asked: %s", error)
            finally:
                told(None if away is None or away.signed_out else away)

        # A daemon: a host that says nothing keeps no run from its end.
        threading.Thread(target=work, name="ask", daemon=True).start()

    return ask
