"""Recordings in S3: looked at, fetched, checked. A real S3 service behind a faulty proxy."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import fsspec
import pytest
from program import PROJECT
from stores.faults import Rule
from stores.s3 import S3
from stores.servers import WebServer
from test_remote_web import HASTY, Watcher

from audio_batch.errors import AssetError, ErrorKind, SetupError
from audio_batch.manifest import Asset
from audio_batch.remote import stores
from audio_batch.remote.access import Access
from audio_batch.remote.blobs import BlobStore
from audio_batch.remote.downloads import UNKNOWN, download
from audio_batch.remote.failures import trouble
from audio_batch.remote.looks import MISSING, look_at
from audio_batch.remote.s3 import S3Store
from audio_batch.remote.stores import Seen

DATA = bytes(range(256)) * 12_000  # 3 MB


def access_to(s3: S3) -> Access:
    return Access(s3_endpoint=s3.endpoint)


def fetch(
    s3: S3, url: str, target: Path, planned: str = UNKNOWN, part_of: str = "", most: int = 10**9
) -> Seen:
    store = stores.store(url, access_to(s3))
    return download(
        *(store, url, target),
        planned=planned,
        part_of=part_of,
        most_bytes=most,
        watcher=Watcher(),
        patience=HASTY,
    )


def assets(urls: list[str]) -> list[Asset]:
    return [
        Asset(id=f"{number}", uri=url, path=None, name="x", position=number)
        for number, url in enumerate(urls)
    ]


def looked(s3: S3, urls: list[str]) -> list[str | None]:
    return [one.seen for one in look_at(assets(urls), access_to(s3), patience=HASTY)]


def test_a_recording_is_fetched_by_one_request_and_is_its_md5(s3: S3, tmp_path: Path) -> None:
    url = s3.put("calls/a b?é#.wav", DATA)
    seen = fetch(s3, url, tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == DATA
    assert seen.md5 == hashlib.md5(DATA).digest()
    assert s3.counts() == {"GET": 1}
    assert looked(s3, [url]) == [seen.identity]


def test_many_are_listed_and_few_are_asked_for(s3: S3) -> None:
    urls = [s3.put(f"many/{number:04d}.wav", b"%d" % number) for number in range(30)]
    other = [s3.put(f"other/{number}.wav", b"x") for number in range(3)]
    said = looked(s3, [*urls, s3.url("many/no.wav"), *other, s3.url("gone/x.wav")])
    assert said[7] == f"1:{hashlib.md5(b'7').hexdigest()}"
    assert None not in said
    assert said.count(MISSING) == 2
    assert s3.counts() == {"LIST": 1, "HEAD": 4}


def test_what_is_wrong_with_one_bucket_is_not_the_others_fault(s3: S3) -> None:
    urls = [s3.put(f"many/{number:04d}.wav", b"%d" % number) for number in range(30)]
    nowhere = [f"s3://no-such-bucket/many/{number:04d}.wav" for number in range(30)]
    there = {"LocationConstraint": s3.client.meta.region_name}
    s3.client.create_bucket(Bucket="closed", CreateBucketConfiguration=there)
    s3.rule(Rule("error", kind="LIST", path="/closed", status=403, code="AccessDenied"))
    closed = [f"s3://closed/many/{number:04d}.wav" for number in range(30)]
    for number in range(30):
        s3.client.put_object(Bucket="closed", Key=f"many/{number:04d}.wav", Body=b"x")
    said = looked(s3, [*nowhere, *closed, *urls])
    assert said[:30] == [MISSING] * 30
    assert MISSING not in said[30:] and UNKNOWN not in said[30:]
    # One listing of each; only where that is forbidden is each asked for.
    assert s3.counts() == {"LIST": 3, "HEAD": 30}


def test_a_long_listing_is_read_page_by_page(s3: S3) -> None:
    keys = ["é", *(f"{number:03d}" for number in range(110)), "Z", "~", "\N{GRINNING FACE}"]
    urls = [s3.put(f"many/{key}.wav", b"x") for key in keys]
    urls.append(s3.url("many/050b.wav"))
    found = S3Store(access_to(s3), page=40).look_at_many(urls)
    assert found.keys() == set(urls)
    assert [url for url, seen in found.items() if seen is None] == [s3.url("many/050b.wav")]
    assert s3.counts() == {"LIST": 3}


def test_a_listing_of_far_more_than_is_asked_for_is_given_up(s3: S3) -> None:
    for number in range(100):
        s3.put(f"many/a{number:04d}.wav", b"x")
    wanted = [s3.put(f"many/z{number}.wav", b"x") for number in range(25)]
    few = [s3.url(f"many/a{number:04d}.wav") for number in range(3)]
    found = S3Store(access_to(s3), page=40).look_at_many([*few, *wanted])
    assert found.keys() == set(few)  # the rest is for HEAD
    assert s3.counts() == {"LIST": 1}


def test_what_cannot_be_told_is_unknown_and_a_dead_host_is_not_asked_for_ever(s3: S3) -> None:
    url = s3.put("a.wav", b"x")
    s3.rule(Rule("error", kind="HEAD", status=403, times=1))
    assert looked(s3, [url]) == [UNKNOWN]
    s3.trouble.clear()
    s3.rule(Rule("error", kind="HEAD", status=503))
    said = looked(s3, [s3.url(f"{number}/x.wav") for number in range(200)])
    assert set(said) == {UNKNOWN}
    assert s3.counts()["HEAD"] <= 5 * (16 + 8)


@pytest.mark.parametrize(
    ("status", "kind", "requests"),
    [
        (403, ErrorKind.INPUT_FORBIDDEN, 1),
        (404, ErrorKind.INPUT_MISSING, 1),
        (500, ErrorKind.NETWORK, 5),
        (503, ErrorKind.NETWORK, 5),
    ],
)
def test_403_and_404_fail_at_once_the_rest_is_tried_five_times(
    s3: S3, tmp_path: Path, status: int, kind: ErrorKind, requests: int
) -> None:
    url = s3.put("a.wav", DATA)
    s3.rule(Rule("error", kind="GET", status=status))
    with pytest.raises(AssetError) as caught:
        fetch(s3, url, tmp_path / "part")
    assert caught.value.kind is kind
    assert s3.counts() == {"GET": requests}


def test_a_body_that_breaks_off_is_gone_on_with(s3: S3, tmp_path: Path) -> None:
    url = s3.put("a.wav", DATA)
    s3.rule(Rule("truncated", kind="GET", times=2))
    fetch(s3, url, tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == DATA
    ranges = [seen.range for seen in s3.trouble.seen]
    assert ranges[0] == ""
    assert len(ranges) == 3
    # What came in the last moment may be lost with the connection.
    assert all(0 < int(asked[6:-1]) <= len(DATA) * 3 / 4 for asked in ranges[1:])


def test_an_object_that_changed_is_never_put_together_of_two(s3: S3, tmp_path: Path) -> None:
    url = s3.put("a.wav", DATA)
    (identity,) = looked(s3, [url])
    assert identity
    (tmp_path / "part").write_bytes(DATA[: len(DATA) // 2])
    other = DATA[::-1]
    s3.put("a.wav", other)
    fetch(s3, url, tmp_path / "part", part_of=identity)
    assert (tmp_path / "part").read_bytes() == other
    with pytest.raises(AssetError) as caught:
        fetch(s3, url, tmp_path / "part", planned=identity)
    assert caught.value.kind is ErrorKind.INPUT_CHANGED
    assert caught.value.transient


def test_a_part_that_is_damaged_on_the_disk_is_found_out(s3: S3, tmp_path: Path) -> None:
    url = s3.put("a.wav", DATA)
    (identity,) = looked(s3, [url])
    assert identity
    (tmp_path / "part").write_bytes(b"#" + DATA[1 : len(DATA) // 2])
    fetch(s3, url, tmp_path / "part", part_of=identity)
    assert (tmp_path / "part").read_bytes() == DATA


def test_an_etag_that_is_no_md5_is_not_taken_for_one(s3: S3, tmp_path: Path) -> None:
    client = s3.client
    key = {"Bucket": s3.bucket, "Key": "parts.wav"}
    upload = client.create_multipart_upload(**key)["UploadId"]
    parts = []
    for number, body in enumerate((bytes(5 << 20), DATA), 1):
        done = client.upload_part(**key, UploadId=upload, PartNumber=number, Body=body)
        parts.append({"PartNumber": number, "ETag": done["ETag"]})
    client.complete_multipart_upload(**key, UploadId=upload, MultipartUpload={"Parts": parts})
    assert fetch(s3, s3.url("parts.wav"), tmp_path / "part").md5 is None
    assert (tmp_path / "part").read_bytes() == bytes(5 << 20) + DATA
    url = s3.put("kms.wav", DATA, ServerSideEncryption="aws:kms")
    assert fetch(s3, url, tmp_path / "other").md5 is None


def test_too_large_is_not_fetched(s3: S3, tmp_path: Path) -> None:
    url = s3.put("a.wav", DATA)
    with pytest.raises(AssetError, match="--max-download"):
        fetch(s3, url, tmp_path / "part", most=1_000_000)
    assert not (tmp_path / "part").exists()


def test_expired_credentials_are_looked_up_again(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "credentials"
    config.write_text("[night]\naws_access_key_id = OLDKEY0000000000\naws_secret_access_key = x\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(config))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    url = s3.put("a.wav", DATA)
    access = Access(s3_endpoint=s3.endpoint, aws_profile="night")
    s3.trouble.expired.add("OLDKEY0000000000")

    class Waits(Watcher):
        def look(self) -> None:
            if s3.counts()["GET"] == 2:  # somebody signs in
                text = config.read_text().replace("OLDKEY", "NEWKEY")
                config.write_text(text)

    download(
        *(stores.store(url, access), url, tmp_path / "part"),
        planned=UNKNOWN,
        part_of="",
        most_bytes=10**9,
        watcher=Waits(),
        patience=HASTY,
    )
    assert (tmp_path / "part").read_bytes() == DATA
    keys = [seen.key for seen in s3.trouble.seen]
    assert keys[0] == "OLDKEY0000000000"
    assert keys[-1] == "NEWKEY0000000000"
    assert len(keys) <= 4


def test_without_credentials_the_remedy_is_to_sign_in(
    s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    access = Access(s3_endpoint=f"{s3.endpoint}/")  # another one than any that is open
    with pytest.raises(Exception, match=r"[Cc]redentials") as caught:
        stores.store("s3://", access).look(s3.url("a.wav"))
    found = trouble(caught.value)
    assert found.kind is ErrorKind.INPUT_FORBIDDEN
    assert "aws sso login" in found.remedy


@pytest.mark.parametrize(
    ("scheme", "module", "extra"), [("gs", "gcsfs", "gcs"), ("abfs", "adlfs", "azure")]
)
def test_a_missing_extra_is_named_with_its_pip_command(
    scheme: str, module: str, extra: str
) -> None:
    if importlib.util.find_spec(module) is not None:
        pytest.skip(f"{module} is installed")
    with pytest.raises(SetupError) as caught:
        look_at(assets([f"{scheme}://bucket/x.wav"]), Access())
    assert f"pip install 'audio-batch[{extra}]'" in str(caught.value)
    assert f'\n{extra} = ["{module}' in (PROJECT / "pyproject.toml").read_text()


def test_what_all_file_systems_have_in_common_does_for_the_others(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    data = DATA * 4  # more than one range
    memory.pipe_file("/bucket/a.wav", data)
    store = BlobStore(lambda _uri: memory)
    url, target = "memory://bucket/a.wav", tmp_path / "part"
    seen = store.look(url)
    assert seen.size_bytes == len(data)

    def bring(planned: str, part_of: str = "") -> Seen:
        return download(
            *(store, url, target),
            planned=planned,
            part_of=part_of,
            most_bytes=10**9,
            watcher=Watcher(),
            patience=HASTY,
        )

    assert bring(seen.identity) == seen
    assert target.read_bytes() == data
    with pytest.raises(FileNotFoundError):
        store.look("memory://bucket/b.wav")
    with pytest.raises(FileNotFoundError):
        store.look("memory://bucket")


def test_stores_and_urls_are_looked_at_together(s3: S3, web: WebServer) -> None:
    (web.folder / "x.wav").write_bytes(b"abc")
    both = [s3.put("a.wav", b"x"), f"{web.url}/x.wav", f"{web.url}/y.wav"]
    local = Asset(id="l", uri="audio/x.wav", path=Path("x"), name="x", position=9, seen="1:1")
    access = Access(allow_http=True, allow_private=True, s3_endpoint=s3.endpoint)
    said = look_at([*assets(both), local], access, patience=HASTY)
    assert [one.seen for one in said] == [
        f"1:{hashlib.md5(b'x').hexdigest()}",
        f"3:{hashlib.md5(b'abc').hexdigest()}",
        MISSING,
        "1:1",
    ]
