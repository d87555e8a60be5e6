"""Signing in to AWS again in the middle of a run, by a person at its terminal (`--aws-login`)."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from functools import partial

from audio_batch.config import Settings
from audio_batch.control import Message
from audio_batch.errors import Away, SetupError
from audio_batch.held import SignIn
from audio_batch.interface import Interface
from audio_batch.remote import aws
from audio_batch.remote.settings import access_of


def signing_in(settings: Settings, interface: Interface) -> SignIn | None:
    """What runs `aws sso login` when a sign-in to AWS ends; None where nobody is asked to.

    It runs in a thread: the run goes on with what lies elsewhere.
    """
    if not settings.aws_login or sys.stdin is None or not sys.stdin.isatty():
        return None
    access = access_of(settings)

    def ask(away: Away, ended: Callable[[Message], None]) -> None:
        if not aws.is_s3(away.store):
            return
        come_back = interface.step_aside()

        def work() -> None:
            try:
                told = partial(interface.notice, warning=True)
                aws.check(access, [away.store], sign_in=True, notice=told)
            except SetupError as error:
                interface.notice(str(error), warning=True)
            finally:
                ended(come_back)

        # A daemon: who never signs in keeps no run from its end.
        threading.Thread(target=work, name="sign-in", daemon=True).start()

    return ask
