"""Text that others wrote: nothing steers a terminal, nothing secret is shown."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audio_batch.text import for_document, for_terminal, redact

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=60)
BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


@pytest.mark.parametrize(
    ("given_text", "shown"),
    [
        ("plain", "plain"),
        ("Ünïcode 日本語 🎧 שלום", "Ünïcode 日本語 🎧 שלום"),
        ("\x1b[31mred\x1b[0m", "[31mred[0m"),
        ("title\x1b]0;owned\x07", "title]0;owned"),
        ("c1 \x9b2Jcsi", "c1 2Jcsi"),
        ("one\ntwo\r\nthree\tfour\u2028five\x85six", "one two  three four five six"),
        (f"bidi{BIDI}!", "bidi!"),
        ("nul\0del\x7fbell\a", "nuldelbell"),
        ("no \udcff utf-8", "no \N{REPLACEMENT CHARACTER} utf-8"),
        ("[bold]rich[/bold]", "[bold]rich[/bold]"),
        ("\u200d joiners stay \u200c", "\u200d joiners stay \u200c"),
        ("no\u200bwi\u2060d\u00adth\ufeff \U000e0041\u180e!", "nowidth !"),
        ("👩\u200d💻 \u200cمی\u200cخواهم", "👩\u200d💻 \u200cمی\u200cخواهم"),
    ],
)
def test_for_terminal(given_text: str, shown: str) -> None:
    assert for_terminal(given_text) == shown


@settings(deadline=None)
@given(ANY_TEXT)
def test_for_terminal_leaves_one_printable_encodable_line(text: str) -> None:
    shown = for_terminal(text)
    assert not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in shown)
    assert not set(shown) & set(BIDI)
    assert shown.encode("utf-8").decode("utf-8") == shown
    assert len(shown.splitlines()) <= 1
    assert for_terminal(shown) == shown


def test_for_document_folds_blanks_and_keeps_what_a_language_needs() -> None:
    assert for_document("  a \t\n b\u3000c ") == "a b c"
    assert for_document("Vraiment\u202f?\u00a0Oui") == "Vraiment\u202f?\u00a0Oui"
    assert for_document("שלום\u200f!") == "שלום\u200f!"
    assert for_document("safe\u202egnp.exe\u2069") == "safegnp.exe"


@settings(deadline=None)
@given(ANY_TEXT)
def test_for_document_is_trimmed_and_settled(text: str) -> None:
    shown = for_document(text)
    assert shown == shown.strip(" ")
    assert "  " not in shown
    assert for_document(shown) == shown
    assert shown.isprintable() or any(
        unicodedata.category(c) in ("Zs", "Cf", "Cn", "Co") for c in shown
    )


HF = "hf_" + "aB3dE5gH7j" * 3 + "kLmN"
AWS_ID = "AKIA" + "IOSFODNN7EXAMPLE"
AWS_SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCY" + "EXAMPLEKEY"
JWT = "eyJhbGciOiJIUzI1NiJ9" + ".eyJzdWIiOiIxMjM0In0" + ".dozjgNryP4J3jVmN"
SIGNATURE = "4f3c2d1b" * 8
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nIBAAK\n-----END RSA PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("secret", "text"),
    [
        (HF, f"401 for token {HF} at the hub"),
        (HF, f"HF_TOKEN={HF}"),
        (HF, f"WhisperModel('large-v3', use_auth_token='{HF}')"),
        (HF, f"argv: --hf-token {HF} --model x"),
        (AWS_ID, f"InvalidAccessKeyId: {AWS_ID}"),
        ("ASIA" + AWS_ID[4:], f"session key ASIA{AWS_ID[4:]}."),
        (AWS_SECRET, f"aws_secret_access_key = {AWS_SECRET}"),
        (AWS_SECRET, f"AWS_SECRET_ACCESS_KEY='{AWS_SECRET}'"),
        (AWS_SECRET, f'{{"key": "x", "SecretAccessKey": "{AWS_SECRET}"}}'),
        (AWS_SECRET, f"{{'aws_session_token': '{AWS_SECRET}', 'region': 'eu'}}"),
        (AWS_SECRET, f"secret: {AWS_SECRET}"),
        (AWS_SECRET, f'"{{\\"client_secret\\": \\"{AWS_SECRET}\\"}}"'),
        (HF[3:], f"Authorization: Bearer {HF[3:]}"),
        ("dXNlcjpwYXNz", "headers={'Authorization': 'Basic dXNlcjpwYXNz'}"),
        ("abcdef123456", "sent bearer abcdef123456 to it"),
        ("hunter2", "https://bob:hunter2@example.org/a.wav"),
        ("bob", "https://bob:hunter2@example.org/a.wav"),
        ("hunter2", "/nights/https:/bob:hunter2@example.org/a.json"),
        ("p@ss", "ftp://bob:p@ss@example.org/a.wav"),
        (AWS_SECRET, f"s3://{AWS_ID}:{AWS_SECRET}@bucket/key.mp3"),
        ("tok3n", "https://tok3n@example.org"),
        (SIGNATURE, f"https://b.s3.amazonaws.com/a.wav?X-Amz-Date=1&X-Amz-Signature={SIGNATURE}"),
        (AWS_ID, f"https://b/a?X-Amz-Credential={AWS_ID}%2F20261101%2Fs3&X-Amz-Expires=60"),
        (AWS_SECRET, f"https://b/a?X-Amz-Security-Token={AWS_SECRET}&x=1"),
        (SIGNATURE, f"https://a.blob.core.windows.net/c/b.wav?sv=2022&sig={SIGNATURE}%3D"),
        (SIGNATURE, f"https://storage.googleapis.com/b/o?X-Goog-Signature={SIGNATURE}"),
        ("abc123", "https://example.org/a?access_token=abc123&b=1"),
        (JWT, f"got {JWT} back"),
        ("MIIEow", f"key:\n{PEM}\nend"),
        ("bXlrZXk", "DefaultEndpointsProtocol=https;AccountName=n;AccountKey=bXlrZXk=;x"),
        ("correct-horse", "password=correct-horse"),
    ],
)
def test_redact_masks(secret: str, text: str) -> None:
    shown = redact(text)
    assert secret not in shown
    assert "***" in shown
    assert redact(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "",
        "GPU Balancer Status: GPU 0: 3/5 tasks, 45% util | GPU 1: 2/5 tasks, 32% util",
        "max_new_tokens=448, tokens: 448",
        "Set HF_TOKEN, or pass --hf-token with a token of your account.",
        "Set HF_TOKEN=<your token> and run it again.",
        "token=None, password=null",
        "The key of segment 1234567890123456 is missing",
        "pip install hf_transfer",
        "https://example.org:8443/talks/2026@home/a.wav?part=2#t=10",
        "write to someone@example.org",
        "sha256 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "C:\\Users\\Ann\\Recordings\\AKIA talk.wav",
        "The bearer of this letter",
        "no authorization was needed",
    ],
)
def test_redact_leaves_ordinary_text(text: str) -> None:
    assert redact(text) == text


def test_redact_keeps_what_helps_to_find_the_cause() -> None:
    shown = redact(f"GET https://u:p@host/a.wav?part=1&X-Amz-Signature={SIGNATURE}&n=2 failed: 403")
    assert shown == "GET https://***@host/a.wav?part=1&X-Amz-Signature=***&n=2 failed: 403"


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN",
             "AZURE_STORAGE_CONNECTION_STRING", "DB_PASSWORD", "openai_api_key"]
)  # fmt: skip
def test_redact_knows_the_secrets_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "plain words")
    assert redact("it said plain words to it") == "it said *** to it"


@pytest.mark.parametrize("name", ["AWS_REGION", "HF_TOKEN_PATH", "TOKENIZERS_PARALLELISM", "HOME"])
def test_redact_leaves_the_rest_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "plain words")
    assert redact("it said plain words to it") == "it said plain words to it"


SECRETISH = st.sampled_from(
    ["hf_", HF, "token", "=", ":", " ", "'", '"', "://", "@", "a", "/", "?", "&sig=", "bearer ",
     "password", "-----BEGIN PRIVATE KEY-----", "***", "\n", "<", "12", "\\", "authorization"]
)  # fmt: skip


@settings(deadline=None)
@given(st.lists(SECRETISH, max_size=12).map("".join))
def test_redact_twice_is_redact_once(text: str) -> None:
    once = redact(text)
    assert redact(once) == once
    assert HF not in once


def test_redact_takes_long_hostile_text_in_its_stride() -> None:
    for piece in ("a_", "token", "a://", "a-", "eyJ.", "://x:", "authorization:", "key=", "=\\"):
        assert isinstance(redact(piece * 20_000), str)
