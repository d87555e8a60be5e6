"""Text that others wrote, made safe to show, to publish and to log.

Names, transcripts and library messages are untrusted: they can hold terminal escapes, line breaks
that forge a log line, bidirectional overrides that reorder what a reader sees, halves of surrogate
pairs that no encoder takes, and secrets. All functions here are pure and run in any thread.
"""

from __future__ import annotations

import re

_LINE_BREAKS_AND_TABS = (*range(0x09, 0x0E), *range(0x1C, 0x1F), 0x85, 0x2028, 0x2029)
_BIDI_MARKS = (0x061C, 0x200E, 0x200F)
_BIDI_EMBEDDINGS = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))

_FOR_DOCUMENT: dict[int, str | None] = {
    **dict.fromkeys((*range(0x20), *range(0x7F, 0xA0), *_BIDI_EMBEDDINGS)),
    **dict.fromkeys(_LINE_BREAKS_AND_TABS, " "),
    **dict.fromkeys(range(0xD800, 0xE000), "\N{REPLACEMENT CHARACTER}"),
}
_FOR_TERMINAL = {**_FOR_DOCUMENT, **dict.fromkeys(_BIDI_MARKS)}


def for_terminal(text: str) -> str:
    """One line that a terminal or a log shows as it stands.

    C0 and C1 controls, DEL and all bidirectional controls are dropped; line breaks and tabs become
    blanks; lone surrogates (bytes of a file name that are no UTF-8) become U+FFFD. Markup of
    `rich` is not its business: escape that where it is printed.
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
_SECRET_QUERY = rf"AWSAccessKeyId|GoogleAccessId|X-[a-z]+-Credential|sig|key|auth|{_SECRET_NAME}"
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
    # user:password@ in a URL; the password may hold a slash (cloud keys do), a port may not
    re.compile(
        r"(?i)\b(?P<keep>[a-z][a-z0-9+.-]{0,30}://)"
        r"(?:[^\s/?#\"'<>]{1,512}|[^\s/?#@:\"'<>]{0,128}:(?!\d{1,5}[/?#])[^\s@\"'<>]{0,512})(?=@)"
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


def redact(text: str) -> str:
    """`text` with what looks like a secret replaced by `***`; the name before it stays readable.

    Masked: Hugging Face tokens, AWS access keys, JSON web tokens, private keys, `Authorization`
    headers and bearer tokens, credentials in URLs, signatures and tokens in query strings, and the
    values of names such as `…_token`, `…_secret`, `password`, `…_access_key`. It is the last of
    several guards, not a licence to log credentials. Masking twice changes nothing more.
    """
    for pattern in _SECRETS:
        text = pattern.sub(r"\g<keep>***", text)
    return text
