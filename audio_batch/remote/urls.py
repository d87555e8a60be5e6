"""What a remote URI says of a recording: its name, its id, and what of it may be shown.

A signed URL is made anew each night for the same recording. Neither its signature nor its time of
expiry are part of what it names: ids, cache entries and transcripts leave them out.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from audio_batch import locations
from audio_batch.text import for_terminal, redact

_SIGNATURE = re.compile(
    r"(?i)x-(?:amz|goog|oss)-.*|awsaccesskeyid|googleaccessid|signature|expires|key-pair-id"
    r"|policy|sig|hmac|hdnts|hdnea|token|access_token|jwt"
)
"""Parameters of signed URLs: Amazon's, Google's, those of delivery networks."""

_SHARED_ACCESS = re.compile(r"(?i)s[eprvtr]|spr|sip|srt|ss|sk[a-z]{1,3}")
"""Azure's, beside `sig`."""

_OPAQUE = re.compile(r"(?=.*\d)(?=.*[A-Za-z])[\w+/=%~-]{24,}")
"""A value that may well be a key: long, mixed, and no file's name."""


def is_remote(uri: str) -> bool:
    """Whether a manifest's URI lies in an object store or on the web."""
    return locations.is_remote(uri)


def problem(uri: str, *, allow_http: bool) -> str | None:
    """Why a remote URI cannot be used, as a sentence without its place; None where it can."""
    scheme = locations.scheme(uri)
    rest = uri.split("://", 1)[1]
    host, _, path = rest.partition("/")
    if not host.rpartition("@")[2]:
        return f"{shown(uri)} names no {'host' if scheme in locations.WEB else 'bucket'}"
    if scheme not in locations.WEB:
        return None if path.strip("/") else f"{shown(uri)} names no object"
    if not allow_http:
        return (
            f"{shown(uri)} is on the web; --allow-http allows recordings to be fetched from there"
        )
    try:
        parts = urlsplit(uri)
        _ = parts.port
    except ValueError as error:
        return f"{shown(uri)} is no URL: {error}"
    return None if parts.hostname else f"{shown(uri)} names no host"


def origin(uri: str) -> str:
    """Where a remote URI leads: its host, or its bucket, as "https://host" or "s3://bucket"."""
    scheme = locations.scheme(uri)
    if not scheme:
        return uri
    same = {"s3a": "s3", "gcs": "gs", "abfs": "az", "abfss": "az"}.get(scheme, scheme)
    host = re.split("[/?#]", uri.split("://", 1)[1], maxsplit=1)[0].rpartition("@")[2]
    return f"{same}://{host.lower() if same in locations.WEB else host}"


def bucket_of(uri: str) -> str:
    """The URL of the bucket, container or host that a URI leads to."""
    return "/".join(uri.split("/", 3)[:3])


def name(uri: str) -> str:
    """The recording's name: the last part of the path, without its suffix and without a query."""
    last = _path(uri).rstrip("/").rpartition("/")[2]
    return PurePosixPath(last).stem or last or locations.scheme(uri)


def file_name(uri: str) -> str:
    """The last part of the path as a part of a file's name: letters, digits, `.`, `_`, `-`."""
    text = re.sub("[^A-Za-z0-9._-]+", "_", _path(uri).rstrip("/").rpartition("/")[2])[-60:]
    text = text.strip(".")
    return f"{text}_" if text.lower().endswith(".part") else text or "recording"


def lasting(uri: str) -> str:
    """The URI without what changes from signature to signature, and without a password."""
    if locations.scheme(uri) not in locations.WEB:
        return uri
    bare, question, query = uri.partition("#")[0].partition("?")
    before, slashes, rest = bare.partition("://")
    host, slash, path = rest.partition("/")
    bare = f"{before.lower()}{slashes}{host.rpartition('@')[2].lower()}{slash}{path}"
    named = [(part.partition("=")[0], part) for part in query.split("&") if part]
    azure = any(key.lower() == "sig" for key, _ in named)
    kept = [
        part
        for key, part in named
        if not (_SIGNATURE.fullmatch(key) or (azure and _SHARED_ACCESS.fullmatch(key)))
    ]
    return f"{bare}{question}{'&'.join(kept)}" if kept else bare


def derived_id(uri: str) -> str:
    """The id of an entry that has none: stable, whatever signature the URL carries tonight."""
    words = re.findall("[A-Za-z0-9]+", name(uri))
    digest = hashlib.sha256(lasting(uri).encode("utf-8", "surrogatepass")).hexdigest()
    return f"{'-'.join(words)[:60] or 'asset'}-{digest[:12]}"


def public(uri: str) -> str:
    """The URI as it may be published, logged and shown to anybody: no password, no signature."""
    if not is_remote(uri):
        return uri
    bare, question, query = redact(lasting(uri)).partition("?")
    parts = [_without_secret(part) for part in query.split("&")]
    return f"{bare}{question}{'&'.join(parts)}"


def shown(uri: str) -> str:
    """`public` for a sentence: one clean line, cut where it is of absurd length."""
    text = for_terminal(public(uri))
    return text if len(text) <= 300 else f"{text[:200]}…{text[-99:]}"


def _without_secret(parameter: str) -> str:
    key, equals, value = parameter.partition("=")
    return f"{key}=***" if equals and _OPAQUE.fullmatch(value) else parameter


def _path(uri: str) -> str:
    rest = uri.split("://", 1)[1]
    if locations.scheme(uri) in locations.WEB:
        return unquote(re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")[2])
    return rest.partition("/")[2]
