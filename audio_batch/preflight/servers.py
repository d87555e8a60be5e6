"""Asking the model hub, or another server, whether a model can be had; nothing is fetched."""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Callable, Mapping
from typing import TypeVar
from urllib.error import HTTPError

import audio_batch.hub
from audio_batch.errors import SetupError

TIMEOUT_S = 5.0

Files = Mapping[str, int | None]
"""A repository's files and their sizes in bytes, None where the hub does not tell."""

_Answer = TypeVar("_Answer")


class Servers:
    """The servers as one preflight sees them: who has not answered is not asked again.

    Every call blocks for `TIMEOUT_S` at most.

    Args:
        token: for the hub; None for the one that `huggingface_hub` finds by itself.
    """

    def __init__(self, token: str | None) -> None:
        self._token = token
        self._silent: dict[str, Exception] = {}

    def repository(self, repository: str, *, what: str, remedy: str) -> Files:
        """The files of a repository on the hub that may be read.

        Args:
            what, remedy: see `audio_batch.hub.fetch`, whose sentences these are.

        Raises:
            SetupError: it cannot be had, and what to do about that.
        """
        import huggingface_hub
        from huggingface_hub.errors import HfHubHTTPError

        answer = self._asked("hub", lambda: _readable_files(repository, self._token))
        if not isinstance(answer, Exception):
            return answer
        if not isinstance(answer, HfHubHTTPError):
            self._silent["hub"] = answer
        has_token = bool(self._token or huggingface_hub.get_token())
        raise audio_batch.hub.refusal(
            answer, repository, what, "", remedy, has_token=has_token
        ) from answer

    def file(self, url: str, *, what: str, remedy: str) -> None:
        """See that a file on an ordinary server can be had.

        Raises:
            SetupError: it cannot.
        """
        host = url.split("/")[2]
        answer = self._asked(host, lambda: _head(url))
        if isinstance(answer, Exception):
            if not isinstance(answer, HTTPError):
                self._silent[host] = answer
            why = getattr(answer, "reason", None) or type(answer).__name__
            raise SetupError(
                f"The {what} is not on this machine, and {host} does not give it: {why}.",
                remedy=f"Check the network. {remedy}",
            ) from answer

    def _asked(self, server: str, call: Callable[[], _Answer]) -> _Answer | Exception:
        if server in self._silent:
            return self._silent[server]
        return within(TIMEOUT_S, call)


def within(seconds: float, call: Callable[[], _Answer]) -> _Answer | Exception:
    """What `call` returns or raises, or a TimeoutError.

    A name that takes long to resolve, or a server that never ends its answer, is left behind in
    its thread: the libraries' own limits are for one step of many.
    """
    answers: list[_Answer | Exception] = []

    def attempt() -> None:
        try:
            answers.append(call())
        except Exception as error:  # no route, no name, a proxy, bad certificates, no JSON, …
            answers.append(error)

    thread = threading.Thread(target=attempt, name="server", daemon=True)
    thread.start()
    thread.join(seconds)
    return answers[0] if answers else TimeoutError(f"no answer in {seconds:g} s")


def _readable_files(repository: str, token: str | None) -> Files:
    """Two calls where a repository is gated, since its list of files is open to all."""
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    name, _, commit = repository.partition("@")
    info = api.model_info(name, revision=commit or None, files_metadata=True, timeout=TIMEOUT_S)
    if info.gated:
        api.auth_check(name)
    return {file.rfilename: file.size for file in info.siblings or ()}


def _head(url: str) -> None:
    request = urllib.request.Request(url, method="HEAD")
    with urllib.request.urlopen(request, timeout=TIMEOUT_S):
        pass
