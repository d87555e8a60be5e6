"""What goes wrong between here and a store, translated into the words of `errors`.

The seam for fsspec, s3fs, botocore and aiohttp: their exceptions are told by type name and status,
so that none of them has to be imported here.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from time import time
from typing import Any, Literal

from audio_batch.errors import AssetError, Away, ErrorKind, SetupError
from audio_batch.remote import cloud_errors
from audio_batch.remote.urls import origin, shown
from audio_batch.text import redact

_EXPIRED = frozenset(
    {
        *("ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"),
        *("InvalidToken", "RequestTimeTooSkewed"),
    }
)
_SIGNED_OUT = frozenset(
    {
        *("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"),
        *("SSOTokenLoadError", "UnauthorizedSSOTokenError", "TokenRetrievalError", "SSOError"),
        *(
            "ProfileNotFound",
            "LoginRefreshRequired",
            "LoginTokenLoadError",
            "PendingAuthorizationExpiredError",
        ),
        *("DefaultCredentialsError", "RefreshError"),
    }
)
"""The names of botocore and Google's library for a sign-in that is missing or over."""

_STILL_EXPIRED = "the refreshed credentials are still expired"
"""What botocore's RuntimeError says where a `credential_process` gives old ones again."""

_UNCONNECTED = frozenset(
    {
        *("EndpointConnectionError", "ConnectTimeoutError", "ProxyConnectionError"),
        *("ClientConnectorError", "ClientConnectorDNSError", "ConnectionTimeoutError"),
        *("ClientProxyConnectionError", "ConnectionRefusedError", "gaierror"),
        "ServiceRequestError",
    }
)
"""The names of botocore, aiohttp, Azure's library and Python for a connection that was not made."""

_TOO_LATE = frozenset({"ConnectTimeoutError", "ConnectionTimeoutError"})

_NO_ROUTE = frozenset(
    getattr(errno, name)
    for name in ("ENETUNREACH", "EHOSTUNREACH", "ENETDOWN", "EHOSTDOWN", "ECONNREFUSED")
    if hasattr(errno, name)
)

_LOST_BYTES = frozenset(
    {
        *("IncompleteReadError", "IncompleteRead", "ClientPayloadError", "FlexibleChecksumError"),
        *("ResponseStreamingError", "ChecksumMismatch"),
    }
)
_PASSING_STATUS = frozenset({408, 423, 425, 429, 500, 502, 503, 504, 507, 509, 520, 521, 522, 524})
_PASSING_CODES = frozenset({"SlowDown", "RequestTimeout", "ConditionalRequestConflict"})
_OF_THE_BODY = frozenset(
    {"BadDigest", "InvalidDigest", "IncompleteBody", "XAmzContentSHA256Mismatch"}
)
_NETWORKS_SIGN_IN = frozenset({407, 511})
"""Answers of what lies between here and the store; it has not been asked."""
_LONGEST_WAIT_S = 120.0
_NO_NAME = frozenset(
    getattr(socket, name) for name in ("EAI_NONAME", "EAI_NODATA") if hasattr(socket, name)
)
_ENDLESS = 1_000_000
_LATE_TRIES = 1
"""It takes a quarter of a minute of a device; the asset is tried again later all the same."""


class RefusedAddressError(PermissionError):
    """A URL led to an address that is not public."""

    MARK = "is not a public address"


class TruncatedError(ConnectionError):
    """A body ended before it was whole."""


class DamagedError(ConnectionError):
    """What came is not what the store says it holds."""


class StatusError(OSError):
    """An answer over HTTP that is no success; `status` is its code."""

    def __init__(self, status: int, reason: str = "", headers: Any = None) -> None:
        super().__init__(f"the server answered {status} {reason}".rstrip())
        self.status = status
        self.headers = headers if headers is not None else {}


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a request failed.

    Attributes:
        passing: another try may do.
        after_s: what the server asks to wait before it; None where it says nothing.
        expired: the credentials are over: new ones may do.
        range_refused: the server does not have the bytes that were asked for.
        most_tries: after so many no further one will do, though one at another time may.
        away: it is the store's fault and no recording's: nobody is signed in to it, nobody knows
            its host's name, or it does not answer at all. One that answers 5xx, or breaks off a
            body, is not away.
    """

    kind: ErrorKind
    reason: str
    remedy: str = ""
    passing: bool = False
    after_s: float | None = None
    expired: bool = False
    range_refused: bool = False
    most_tries: int = _ENDLESS
    away: Literal["signed_out", "nameless", "silent"] | None = None

    def error(self, uri: str) -> AssetError:
        """The failure of the asset that has to be fetched from `uri`."""
        return AssetError(
            self.kind,
            f"{shown(uri)} cannot be fetched: {self.reason}.",
            remedy=self.remedy,
            transient=self.passing,
            away=self.away_from(uri),
        )

    def away_from(self, uri: str) -> Away | None:
        """The store of `uri`, where that is away."""
        if self.away is None:
            return None
        return Away(
            origin(uri),
            self.away == "signed_out",
            self.reason,
            self.remedy,
            nameless=self.away == "nameless",
        )


def broke_off(error: BaseException) -> bool:
    """Whether the body of an answer ended before it was whole."""
    return any(type(link).__name__ in _LOST_BYTES for link in _chain(error))


def is_taken(error: BaseException) -> bool:
    """Whether a store has refused to write over an object."""
    return any(isinstance(link, FileExistsError) or _status(link) == 412 for link in _chain(error))


def is_refused_condition(error: BaseException) -> bool:
    """Whether a service says that it does not know what an upload was asked to be done under.

    It may be 400, of which only a try without the condition tells what is wrong. Those are not
    meant that may pass, or are of credentials or of what was sent.
    """
    chain = list(_chain(error))
    codes = {_code(link) for link in chain}
    if "NotImplemented" in codes or any(_status(link) == 501 for link in chain):
        return True
    found = trouble(error)
    is_other = found.passing or found.expired or codes & _OF_THE_BODY
    return not is_other and any(_status(link) == 400 for link in chain)


def trouble(error: BaseException) -> Trouble:
    """Any exception of a request to a store, translated; total."""
    if isinstance(error, AssetError):
        return Trouble(
            error.kind,
            error.message,
            error.remedy,
            passing=error.transient,
            away=None
            if error.away is None
            else "signed_out"
            if error.away.signed_out
            else "nameless"
            if error.away.nameless
            else "silent",
        )
    if isinstance(error, SetupError):
        return Trouble(ErrorKind.INPUT_UNREADABLE, error.message.rstrip("."), error.remedy)
    chain = list(_chain(error))
    if any(RefusedAddressError.MARK in str(link) for link in chain):
        return _refused(chain)
    names = {type(link).__name__ for link in chain}
    code = next((s for link in chain if (s := _code(link) or cloud_errors.code(link))), "")
    bare = any(map(_is_bare_refusal, chain))
    expired = code in _EXPIRED or any(_STILL_EXPIRED in str(link) for link in chain)
    signed_out = names & _SIGNED_OUT or any(map(cloud_errors.is_signed_out, chain))
    if signed_out or expired or bare:
        return Trouble(
            ErrorKind.INPUT_FORBIDDEN,
            "the sign-in to the store is missing or over",
            f"Sign in again, for example with `{cloud_errors.sign_in(chain)}`, and run the same "
            "command.",
            passing=expired or bare,
            expired=True,
            # A bare 400 may have other causes, of one object's own.
            away=None if bare else "signed_out",
        )
    if names & _LOST_BYTES or isinstance(error, TruncatedError | DamagedError):
        return Trouble(ErrorKind.NETWORK, _text(error) or "its body broke off", passing=True)
    if code == "NoSuchBucket":
        return _NO_BUCKET
    if code == "ContainerNotFound":
        return _NO_CONTAINER
    if any(isinstance(link, socket.gaierror) and link.errno in _NO_NAME for link in chain):
        return Trouble(
            ErrorKind.NETWORK,
            "its host has no address",
            "See to the host's name, and to this machine's network.",
            passing=True,
            most_tries=2,
            away="nameless",
        )
    status = max(map(_status, chain))
    if status:
        return _by_status(status, code, chain)
    if isinstance(error, FileNotFoundError):
        return _MISSING
    if isinstance(error, PermissionError):
        return _FORBIDDEN
    if "SSLCertVerificationError" in names:
        return Trouble(
            ErrorKind.NETWORK,
            "the server's certificate is not valid",
            "See to the certificate, or to this machine's clock.",
        )
    if names & {"InvalidURL", "InvalidUrlClientError", "NonHttpUrlClientError", "InvalidHeader"}:
        return Trouble(ErrorKind.INPUT_UNREADABLE, "this is no URL")
    if names & {"ParamValidationError", "InvalidRegionError"}:
        return Trouble(ErrorKind.INPUT_UNREADABLE, f"the store refuses it: {_text(error)}")
    silent = _is_unconnected(chain)
    return Trouble(
        ErrorKind.NETWORK,
        (_silence(chain) if silent else "") or _text(error) or type(error).__name__,
        "Run the same command again when the network is back.",
        passing=True,
        most_tries=_LATE_TRIES if _is_late(chain) else _ENDLESS,
        away="silent" if silent else None,
    )


_MISSING = Trouble(ErrorKind.INPUT_MISSING, "there is no such object")
_NO_BUCKET = Trouble(
    ErrorKind.INPUT_MISSING,
    "there is no such bucket",
    "See to the bucket's name and its region.",
)
_NO_CONTAINER = Trouble(
    ErrorKind.INPUT_MISSING,
    "there is no such container",
    "See to the container's name and to the account.",
)
NO_PLACE = (_NO_BUCKET.reason, _NO_CONTAINER.reason)
"""The reasons that say that more than one object is not there."""

_FORBIDDEN = Trouble(
    ErrorKind.INPUT_FORBIDDEN,
    "access is denied",
    "See to the credentials and to the rights that they have.",
)


def _by_status(status: int, code: str, chain: list[BaseException]) -> Trouble:
    if status in (404, 410):
        return _MISSING
    if status in (401, 403):
        return _FORBIDDEN
    if status == 416:
        return Trouble(
            ErrorKind.NETWORK, "its length has changed", passing=True, range_refused=True
        )
    if status == 412:
        return changed()
    if status in _NETWORKS_SIGN_IN:
        return Trouble(
            ErrorKind.NETWORK,
            f"the proxy or the network asks for a sign-in ({status})",
            "Sign in to the proxy or the network, and run the same command.",
            passing=True,
            away="silent",
        )
    reason = f"the server answered {status}{f' ({code})' if code and code != str(status) else ''}"
    if status in _PASSING_STATUS or status >= 500 or code in _PASSING_CODES:
        after_s = next((found for link in chain if (found := _after_s(link)) is not None), None)
        return Trouble(
            ErrorKind.NETWORK,
            reason,
            "Run the same command again when the server is well.",
            passing=True,
            after_s=after_s,
        )
    return Trouble(ErrorKind.INPUT_UNREADABLE, reason)


def changed() -> Trouble:
    """The object is another one than that which the run was planned for."""
    return Trouble(
        ErrorKind.INPUT_CHANGED,
        "it has changed since the run began",
        "Run it again when it is complete.",
        passing=True,
    )


def _refused(chain: list[BaseException]) -> Trouble:
    return Trouble(
        ErrorKind.INPUT_FORBIDDEN,
        next(redact(_text(link)) for link in chain if RefusedAddressError.MARK in str(link)),
        "--allow-private-addresses allows recordings to be fetched from private networks.",
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and what it came of, each once."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        link = waiting.pop(0)
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        waiting += [getattr(link, "os_error", None), link.__cause__, link.__context__]


def _is_unconnected(chain: list[BaseException]) -> bool:
    """Whether nothing was ever sent: no address, no route, refused, or no answer to that."""
    return any(
        type(link).__name__ in _UNCONNECTED or getattr(link, "errno", None) in _NO_ROUTE
        for link in chain
    )


def _is_late(chain: list[BaseException]) -> bool:
    return any(type(link).__name__ in _TOO_LATE for link in chain)


def _silence(chain: list[BaseException]) -> str:
    """Why there was no connection, without the one URL that was asked for: it holds for all."""
    if _is_late(chain):
        return "no connection could be made in time"
    for link in chain:
        if type(link).__name__ in ("ClientConnectorError", "ClientConnectorDNSError"):
            return _text(link)
    return ""


def _response(error: BaseException) -> dict[str, Any]:
    response = getattr(error, "response", None)
    return response if isinstance(response, dict) else {}


def _is_bare_refusal(error: BaseException) -> bool:
    """S3's answer to a HEAD with a token that has expired: 400, without a body to say so."""
    return _code(error) == "400" and str(getattr(error, "operation_name", "")).startswith("Head")


def _code(error: BaseException) -> str:
    """The code of an S3 error, as "SlowDown"."""
    return str(_response(error).get("Error", {}).get("Code", ""))


def _status(error: BaseException) -> int:
    """The HTTP status behind an error of botocore, aiohttp, gcsfs or Azure's library; 0: none."""
    if cloud_errors.is_forbidden(error):
        return 403
    status = _response(error).get("ResponseMetadata", {}).get("HTTPStatusCode")
    for field in ("status", "status_code", "code"):
        status = status or getattr(error, field, None)
    found = int(status) if isinstance(status, int) or str(status).isdecimal() else 0
    return found if 400 <= found <= 599 else 0


def _after_s(error: BaseException) -> float | None:
    """What `Retry-After` says, in seconds; it may be a number or a date."""
    headers = _response(error).get("ResponseMetadata", {}).get("HTTPHeaders")
    headers = headers or getattr(error, "headers", None) or {}
    said = next((headers[key] for key in ("Retry-After", "retry-after") if key in headers), None)
    if said is None:
        return None
    try:
        seconds = float(said)
    except ValueError:
        from email.utils import parsedate_to_datetime

        try:
            seconds = parsedate_to_datetime(said).timestamp() - time()
        except ValueError:
            return None
    return min(_LONGEST_WAIT_S, max(0.0, seconds))


def _text(error: BaseException) -> str:
    """What an exception says, on one line, without its end mark and without secrets."""
    text = " ".join(redact(str(error)).split()).rstrip(".")
    return text if len(text) <= 300 else f"{text[:299]}…"
