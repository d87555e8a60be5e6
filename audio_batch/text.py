"""Text that others wrote, made safe to show, to publish and to log.

Names, transcripts and library messages are untrusted: they can hold terminal escapes, line breaks
that forge a log line, bidirectional overrides that reorder what a reader sees, halves of surrogate
pairs that no encoder takes, and secrets. All functions here run in any thread; `redact` looks at
the environment and at what `keep_secret` was told, the others are pure.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

_LINE_BREAKS_AND_TABS = (*range(0x09, 0x0E), *range(0x1C, 0x1F), 0x85, 0x2028, 0x2029)
_BIDI_MARKS = (0x061C, 0x200E, 0x200F)
_BIDI_EMBEDDINGS = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
# Two names that look alike must not differ by these. The joiners (ZWJ, ZWNJ) stay: emoji, Persian
# and the scripts of India are written with them.
_UNSEEN = (
    *(0x00AD, 0x180E, 0x200B, 0xFEFF),
    *range(0x2060, 0x2065),
    *range(0x206A, 0x2070),
    *range(0xFFF9, 0xFFFC),
    *range(0xE0000, 0xE0080),
)

_FOR_DOCUMENT: dict[int, str | None] = {
    **dict.fromkeys((*range(0x20), *range(0x7F, 0xA0), *_BIDI_EMBEDDINGS)),
    **dict.fromkeys(_LINE_BREAKS_AND_TABS, " "),
    **dict.fromkeys(range(0xD800, 0xE000), "\N{REPLACEMENT CHARACTER}"),
}
_FOR_TERMINAL = {**_FOR_DOCUMENT, **dict.fromkeys((*_BIDI_MARKS, *_UNSEEN))}


def for_terminal(text: str) -> str:
    """One line that a terminal or a log shows as it stands.

    C0 and C1 controls, DEL, all bidirectional controls and what has no width (but for the joiners)
    are dropped; line breaks and tabs become blanks; lone surrogates (bytes of a file name that are
    no UTF-8) become U+FFFD. Markup of `rich` is not its business: escape that where it is printed.
    """
    return text.translate(_FOR_TERMINAL)


def for_document(text: str) -> str:
    """One trimmed line for a published text file; every run of blanks becomes one blank.

    Like `for_terminal`, but LRM, RLM and ALM stay: they order the punctuation of Hebrew and Arabic
    and cannot reach beyond their neighbours. The embeddings, overrides and isolates, which can,
    go. No-break spaces stay too: French sets them before its punctuation.
    """
    return re.sub("[ \u3000]+", " ", text.translate(_FOR_DOCUMENT)).strip()


_SECRET_NAME = (
    r"[\w-]*(?:token|secret|password|passwd|pwd|credentials?|signature"
    r"|(?:api|access|account|secret|private|shared)[_-]?(?:access[_-]?)?key(?:[_-]id)?)"
)
_SECRET_QUERY = (
    r"AWSAccessKeyId|GoogleAccessId|X-[a-z]+-Credential|Key-Pair-Id|sig|key|auth|hmac|jwt|hdn[a-z]+|"
    + _SECRET_NAME
)
_SECRETS = (
    re.compile(r"(?P<keep>-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(?=-----END|\Z)", re.S),
    # Hugging Face tokens have 34 characters after hf_; `hf_transfer` and its like are no tokens
    re.compile(r"(?P<keep>hf_|api_org_)[A-Za-z0-9]{16,}"),
    re.compile(r"(?<![A-Z0-9])(?P<keep>A(?:KIA|SIA|ROA|IDA))[A-Z0-9]{12,}"),
    # JSON web tokens, which cloud stores hand out
    re.compile(r"(?<![A-Za-z0-9])(?P<keep>eyJ)[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?"),
    re.compile(r"(?i)\b(?P<keep>bearer\s+)[\w.~+/=-]{8,}"),
    re.compile(
        r"(?i)\b(?P<keep>authorization\\?[\"']?\s*[:=]\s*\\?[\"']?(?:(?:basic|bearer|digest)\s+)?)"
        r"[^\s\"',\\]+"
    ),
    # user:password@ in a URL; the password may hold a slash (cloud keys do), a port may not. What
    # stands before the @ in Azure's URLs is a container.
    re.compile(
        r"(?i)\b(?!(?:az|abfss?)://(?-i:[a-z0-9$-]{1,63})@)(?P<keep>[a-z][a-z0-9+.-]{0,30}://)"
        r"(?:[^\s/?#\"'<>]{1,512}|[^\s/?#@:\"'<>]{0,128}:(?!\d{1,5}[/?#])[^\s@\"'<>]{0,512})(?=@)"
    ),
    # the same in a URL that was taken for a path, which leaves one slash
    re.compile(
        r"(?i)\b(?P<keep>[a-z][a-z0-9+.-]{1,30}:[/\\])"
        r"[^\s/\\?#@:\"'<>]{0,128}:[^\s/?#@\"'<>]{1,512}(?=@)"
    ),
    re.compile(rf"(?i)(?P<keep>[?&;](?:{_SECRET_QUERY})=)[^&#\s\"'<>]+"),
    # NAME=value and NAME="value"; a value that begins with < is a placeholder in an instruction
    re.compile(
        rf"(?i)(?<![\w-])(?P<keep>{_SECRET_NAME}\s*=\s*\\?[\"']?)"
        r"(?!(?:None|null|True|False)\b|<)[^\s\"',;&)\]}\\]+"
    ),
    # {"name": "value"}, as JSON or as Python shows a dict
    re.compile(rf"(?i)(?<![\w-])(?P<keep>{_SECRET_NAME}\\?[\"']\s*:\s*\\?[\"'])[^\"'\\]+"),
    # `name: value` and `--name value` are also how sentences go: only what looks like a secret
    re.compile(
        rf"(?i)(?<![\w-])(?P<keep>{_SECRET_NAME}(?:\s*:\s*|\s+))"
        r"(?=[a-z_+/=.~-]{0,64}\d)[\w+/=.~-]{16,}"
    ),
)


_SECRET_VARIABLE = re.compile(
    r"(?i)\w*(?:TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CONNECTION_STRING|SAS"
    r"|(?:API|ACCESS|ACCOUNT|SECRET|PRIVATE|SHARED|STORAGE)_?KEY(?:_ID)?)"
)
"""HF_TOKEN, HUGGING_FACE_HUB_TOKEN, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN and their like."""

_LEAST_SECRET = 8
"""Characters; to mask shorter values would spoil ordinary words and protect nothing."""

_kept: set[str] = set()


def keep_secret(value: str) -> None:
    """Have `redact` mask this text from now on, in this process: a token that came from a file."""
    if len(value) >= _LEAST_SECRET:
        _kept.add(value)


def kept_secrets() -> tuple[str, ...]:
    """What `keep_secret` was told: for a process of ours that has to keep it too."""
    return tuple(_kept)


def redact(text: str) -> str:
    """`text` with what looks like a secret replaced by `***`; the name before it stays readable.

    Masked: Hugging Face tokens, AWS access keys, JSON web tokens, private keys, `Authorization`
    headers and bearer tokens, credentials in URLs, signatures and tokens in query strings, and the
    values of names such as `…_token`, `…_secret`, `password`, `…_access_key`. Whatever they look
    like: the values of environment variables of such names, and what `keep_secret` was told. It is
    the last of several guards, not a licence to log credentials. Masking twice changes nothing
    more.
    """
    for value in sorted(_values(), key=len, reverse=True):
        if value in text:
            text = text.replace(value, "***")
    for pattern in _SECRETS:
        text = pattern.sub(r"\g<keep>***", text)
    return text


def redacted(value: Any) -> Any:
    """`redact` for every text in lists and objects that are to be written as JSON."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {redacted(key): redacted(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(item) for item in value]
    return value


def _values() -> Iterator[str]:
    """Secrets that are known as such, and how JSON and URLs write them."""
    # Each line of a log asks: of a hundred variables only those are read whose name says so.
    named = (os.environ.get(key, "") for key in os.environ if _is_secret(key))
    for value in {*named, *_kept}:
        if len(value) >= _LEAST_SECRET:
            yield from {value, json.dumps(value)[1:-1], quote(value, safe="", errors="replace")}


@functools.lru_cache(maxsize=1024)
def _is_secret(variable: str) -> bool:
    return bool(_SECRET_VARIABLE.fullmatch(variable))
