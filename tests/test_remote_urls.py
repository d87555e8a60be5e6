"""What remote URIs are called, and what of them is shown."""

from __future__ import annotations

import pytest

from audio_batch import manifest_sources
from audio_batch.remote import urls
from audio_batch.text import redact

SIGNED = (
    "https://bucket.s3.amazonaws.com/calls/2026/call%201.wav?X-Amz-Algorithm=AWS4-HMAC-SHA256"
    "&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20261121&X-Amz-Date=20261121T000000Z"
    "&X-Amz-Expires=3600&X-Amz-Security-Token=FwoGZXIvYXdzEXAMPLE&X-Amz-Signature=0a1b2c3d4e5f"
)
AZURE = "https://a.blob.core.windows.net/c/x.wav?sv=2024-11-04&se=2026&sp=r&sr=b&sig=c2VjcmV0eA%3D"


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("s3://bucket/calls/one.two.wav", "one.two"),
        ("s3://bucket/a?b#c.mp3", "a?b#c"),
        ("gs://bucket/one", "one"),
        (SIGNED, "call 1"),
        ("http://host/", "http"),
        ("https://host/a/b.mp3/?id=4", "b"),
    ],
)
def test_the_name_is_the_last_part_of_the_path(uri: str, name: str) -> None:
    assert manifest_sources.stem(uri) == name


def test_an_id_does_not_change_with_the_signature_but_with_all_else() -> None:
    tomorrow = SIGNED.replace("20261121", "20261122").replace("0a1b2c3d", "ffffffff")
    assert manifest_sources.derived_id(SIGNED) == manifest_sources.derived_id(tomorrow)
    assert manifest_sources.derived_id(AZURE) == manifest_sources.derived_id(
        AZURE.replace("2026", "2027").replace("c2Vj", "abcd")
    )
    others = ["http://h/x.wav", "http://h/x.wav?id=1", "http://h/x.wav?id=2", "http://i/x.wav"]
    others += ["https://h/x.wav", "s3://h/x.wav", "s3://h/x.wav?id=1"]
    assert len({manifest_sources.derived_id(uri) for uri in others}) == len(others)
    same = ["http://H/x.wav", "http://user:pw@h/x.wav", "HTTP://h/x.wav", "http://h/x.wav#here"]
    assert {manifest_sources.derived_id(uri) for uri in same} == {
        manifest_sources.derived_id("http://h/x.wav")
    }


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("s3://b/calls/one two.WAV", "one_two.WAV"),
        (SIGNED, "call_1.wav"),
        ("https://h/", "recording"),
        ("https://h/..", "recording"),
        ("https://h/x.part", "x.part_"),
        ("https://h/a%2F..%2F..%2Fetc%2Fpasswd", "passwd"),
        (f"s3://b/{'long' * 50}.mp3", f"{'long' * 14}.mp3"),
    ],
)
def test_the_name_in_the_cache_is_no_way_out_of_it(uri: str, name: str) -> None:
    assert urls.file_name(uri) == name


def test_secrets_of_urls_are_masked_wherever_they_are_said() -> None:
    for url in (SIGNED, AZURE, "ftp://ann:c2VjcmV0eA@h/x", "http://h/x?jwt=c2VjcmV0eA&a=1"):
        said = redact(f"cannot open <{url}>: gone")
        for secret in ("AKIAIOSFODNN7", "FwoGZXIvYX", "0a1b2c3d4e5f", "c2VjcmV0eA"):
            assert secret not in said
        assert "cannot open <" in said


@pytest.mark.parametrize(
    ("uri", "public"),
    [
        (SIGNED, "https://bucket.s3.amazonaws.com/calls/2026/call%201.wav"),
        (AZURE, "https://a.blob.core.windows.net/c/x.wav"),
        ("https://ann:secret@h.org/x.wav?id=4&token=abc", "https://h.org/x.wav?id=4"),
        ("https://h/x?k=v&apikey=abc#frag", "https://h/x?k=v&apikey=***"),
        ("https://h/x?t=a8f0c7d2b1e94a6f8d3b5c7e&f=2", "https://h/x?t=***&f=2"),
        ("https://h/x?file=a-rather-long-name-of-a-call-2026.wav", None),
        ("s3://bucket/x.wav", None),
        ("audio/x?token=abc.wav", None),
    ],
)
def test_no_secret_of_a_url_is_public(uri: str, public: str | None) -> None:
    assert urls.public(uri) == (uri if public is None else public)


@pytest.mark.parametrize(
    ("uri", "allow_http", "problem"),
    [
        ("s3://bucket/x.wav", False, None),
        ("s3://bucket", False, "names no object"),
        ("s3:///x.wav", False, "names no bucket"),
        ("http://h/x.wav", True, None),
        ("http://user:pw@h/x.wav?sig=abc", False, "--allow-http"),
        ("http://", True, "names no host"),
        ("http://u:p@/x", True, "names no host"),
        ("http://h:port/x", True, "is no URL"),
        ("http://[::1/x", True, "is no URL"),
    ],
)
def test_what_cannot_be_fetched_is_told_before_the_run(
    uri: str, allow_http: bool, problem: str | None
) -> None:
    said = manifest_sources.remote_problem(uri, allow_http=allow_http)
    assert said is None if problem is None else problem in (said or "")
    assert "pw" not in (said or "")
    assert "abc" not in (said or "")
