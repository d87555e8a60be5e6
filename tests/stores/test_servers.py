"""The servers of the tests do what they promise: without faults, and with each of them."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from typing import Any

import pytest

from stores.faults import Fault, Faults, Rule
from stores.s3 import S3
from stores.servers import Answer, Redirect, WebServer, endless

BODY = bytes(range(256)) * 40


def through(s3: S3, **more: Any) -> Any:
    """A client of the proxy that never tries again."""
    import botocore.session
    from botocore.config import Config

    retries = {"total_max_attempts": 1}
    config = Config(retries=retries, s3={"addressing_style": "path"}, read_timeout=60)
    session = botocore.session.Session()
    return session.create_client("s3", endpoint_url=s3.endpoint, config=config, **more)


def test_objects_go_through_the_proxy_and_are_counted(s3: S3) -> None:
    client = through(s3)
    client.put_object(Bucket=s3.bucket, Key="in/ä b+c.wav", Body=BODY)
    assert client.get_object(Bucket=s3.bucket, Key="in/ä b+c.wav")["Body"].read() == BODY
    assert client.head_object(Bucket=s3.bucket, Key="in/ä b+c.wav")["ContentLength"] == len(BODY)
    part = client.get_object(Bucket=s3.bucket, Key="in/ä b+c.wav", Range="bytes=256-511")
    assert part["Body"].read() == BODY[:256]
    listed = client.list_objects_v2(Bucket=s3.bucket, Prefix="in/")["Contents"]
    assert [item["Key"] for item in listed] == ["in/ä b+c.wav"] == s3.keys()
    begun = client.create_multipart_upload(Bucket=s3.bucket, Key="long")
    client.upload_part(
        Bucket=s3.bucket, Key="long", UploadId=begun["UploadId"], PartNumber=1, Body=b"x"
    )
    assert s3.uploads() == ["long"]
    client.abort_multipart_upload(Bucket=s3.bucket, Key="long", UploadId=begun["UploadId"])
    client.delete_object(Bucket=s3.bucket, Key="in/ä b+c.wav")
    assert s3.counts() == {
        "PUT": 1,
        "GET": 2,
        "HEAD": 1,
        "LIST": 1,
        "CREATE_UPLOAD": 1,
        "PART": 1,
        "ABORT_UPLOAD": 1,
        "DELETE": 1,
    }
    assert s3.trouble.seen[3].range == "bytes=256-511"
    assert s3.keys() == []


@pytest.mark.parametrize(
    ("fault", "status"), [("error", 500), ("error", 503), ("error", 403), ("expired", 400)]
)
def test_an_answer_that_is_an_error(s3: S3, fault: Fault, status: int) -> None:
    from botocore.exceptions import ClientError

    s3.put("a", BODY)
    s3.rule(Rule(fault, kind="GET", path="/recordings/a", status=status, times=1))
    client = through(s3)
    with pytest.raises(ClientError) as caught:
        client.get_object(Bucket=s3.bucket, Key="a")
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
    assert client.get_object(Bucket=s3.bucket, Key="a")["Body"].read() == BODY


@pytest.mark.parametrize("fault", ["reset", "lost", "hang"])
def test_a_connection_that_ends(s3: S3, fault: Fault) -> None:
    from botocore.exceptions import BotoCoreError

    s3.inject(Faults(hang_s=0.2))
    s3.rule(Rule(fault, kind="PUT", times=1))
    with pytest.raises(BotoCoreError):
        through(s3).put_object(Bucket=s3.bucket, Key="a", Body=BODY)
    assert s3.keys() == (["a"] if fault == "lost" else [])


def test_bodies_that_are_cut_or_slow(s3: S3) -> None:
    from botocore.exceptions import BotoCoreError

    s3.put("a", BODY)
    s3.rule(Rule("truncated", kind="GET", times=1))
    s3.rule(Rule("slow", kind="GET", times=1, slow_s=0.2))
    client = through(s3)
    with pytest.raises(BotoCoreError):
        client.get_object(Bucket=s3.bucket, Key="a")["Body"].read()
    assert client.get_object(Bucket=s3.bucket, Key="a")["Body"].read() == BODY
    assert s3.trouble.faulted() == {"truncated": 1, "slow": 1}


def test_a_key_expires_after_its_requests_and_another_does_not(s3: S3) -> None:
    from botocore.exceptions import ClientError

    s3.put("a", BODY)
    s3.inject(Faults(expire_after=2))
    old = through(s3)
    for _ in range(2):
        old.head_object(Bucket=s3.bucket, Key="a")
    with pytest.raises(ClientError, match="ExpiredToken"):
        old.get_object(Bucket=s3.bucket, Key="a")
    new = through(s3, aws_access_key_id="AKIDANOTHER", aws_secret_access_key="x")
    assert new.get_object(Bucket=s3.bucket, Key="a")["Body"].read() == BODY


def test_the_same_seed_gives_the_same_faults_whatever_the_order(s3: S3) -> None:
    def met(paths: list[str]) -> list[str]:
        trouble = type(s3.trouble)(Faults(seed=3, error=0.3, reset=0.1, most_in_a_row=2))
        rules = {path: trouble.of("GET", path, "") for path in paths}
        return [rules[path].fault if rules[path] else "" for path in sorted(paths)]  # type: ignore[union-attr]

    paths = [f"/recordings/{number}" for number in range(400)]
    assert met(paths) == met(paths[::-1])
    assert 80 < met(paths).count("error") < 160
    trouble = type(s3.trouble)(Faults(error=1.0, most_in_a_row=2))
    row = ["!" if trouble.of("GET", "/a", "") else "." for _ in range(6)]
    assert "".join(row) == "!!.!!."


def test_sts_goes_to_the_same_service(s3: S3) -> None:
    import botocore.session

    client = botocore.session.Session().create_client("sts")
    assert client.get_caller_identity()["Account"] == "123456789012"
    assert s3.counts() == {"STS": 1}


def fetch(url: str, **headers: str) -> tuple[int, bytes, http.client.HTTPMessage]:
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.status, answer.read(), answer.headers


def test_files_ranges_and_redirects(web: WebServer) -> None:
    (web.folder / "a b.wav").write_bytes(BODY)
    status, body, headers = fetch(f"{web.url}/a%20b.wav")
    assert (status, body) == (200, BODY)
    status, body, _ = fetch(f"{web.url}/a%20b.wav", Range="bytes=100-")
    assert (status, body) == (206, BODY[100:])
    old = {"Range": "bytes=100-", "If-Range": '"other"'}
    assert fetch(f"{web.url}/a%20b.wav", **old)[:2] == (200, BODY)
    web.ranges = web.etags = False
    status, body, plain = fetch(f"{web.url}/a%20b.wav", Range="bytes=100-")
    assert (status, body) == (200, BODY)
    assert headers["ETag"] and plain["ETag"] is None
    web.lengths = False
    assert fetch(f"{web.url}/a%20b.wav")[1:2] == (BODY,)
    web.redirects["/old"] = Redirect("/a%20b.wav")
    assert fetch(f"{web.url}/old")[1] == BODY
    with pytest.raises(urllib.error.HTTPError, match="404"):
        fetch(f"{web.url}/../conftest.py")


def test_a_body_without_end_ends_with_its_reader(web: WebServer) -> None:
    web.answers["/endless"] = Answer(200, [], endless())
    with urllib.request.urlopen(f"{web.url}/endless", timeout=60) as answer:
        assert len(answer.read(1_000_000)) == 1_000_000
