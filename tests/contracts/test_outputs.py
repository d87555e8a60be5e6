"""What every place for outputs promises: a folder, S3, a store that tells no checksums, clouds."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from stores.clouds import Cloud
from stores.faults import Rule
from stores.s3 import S3
from stores.servers import Answer, Asked, S3Proxy

from audio_batch.errors import AssetError, ErrorKind, SetupError
from audio_batch.outputs import LocalOutputs, OutputPlace, Outputs, intact
from audio_batch.remote import stores
from audio_batch.remote.access import Access
from audio_batch.remote.object_outputs import ObjectOutputs
from audio_batch.storage import STATE_FOLDER, PublishedFile

NAME = PurePosixPath("box/a.txt")
PATIENT_S = 60.0


@dataclass(frozen=True)
class Place:
    """A place, and what a test does to it behind its back."""

    outputs: Outputs
    names: Callable[[], list[str]]
    put: Callable[[str, bytes], Any]
    remove: Callable[[str], Any]
    marks: bool = False


def local(folder: Path) -> Place:
    def put(name: str, data: bytes) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)

    folder.mkdir()
    return Place(
        LocalOutputs(folder),
        lambda: sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()),
        put,
        lambda name: (folder / name).unlink(),
    )


def bucket(s3: S3, *, tries: int = 2) -> Place:
    access = Access(s3_endpoint=s3.endpoint)
    files = stores.filesystem("s3://", access, tries=tries)

    def renew(old: Any) -> Any:
        return stores.renewed(old, "s3://", access, tries=tries)

    return Place(
        ObjectOutputs(s3.url("out"), f"{s3.bucket}/out", files, renew),
        lambda: [key.removeprefix("out/") for key in s3.keys("out/")],
        lambda name, data: s3.put(f"out/{name}", data),
        lambda name: s3.delete(f"out/{name}"),
        marks=True,
    )


def memory() -> Place:
    from fsspec.implementations.memory import MemoryFileSystem

    class Store(MemoryFileSystem):  # type: ignore[misc]
        store: dict[str, Any] = {}  # noqa: RUF012 - fsspec's way, and its own for each test
        pseudo_dirs: list[str] = [""]  # noqa: RUF012

    files = Store(skip_instance_cache=True)
    files.store, files.pseudo_dirs = {}, [""]
    return Place(
        ObjectOutputs("a store", "/bucket/out", files),
        lambda: sorted(name.removeprefix("/bucket/out/") for name in files.find("/bucket/out")),
        lambda name, data: files.pipe_file(f"/bucket/out/{name}", data),
        lambda name: files.rm_file(f"/bucket/out/{name}"),
    )


def cloud(store: Cloud) -> Place:
    return Place(
        OutputPlace(store.url("out"), Access()).open(),
        lambda: [key.removeprefix("out/") for key in store.keys("out/")],
        lambda name, data: store.put(f"out/{name}", data),
        lambda name: store.delete(f"out/{name}"),
        marks=True,
    )


_CLOUDS = [pytest.param(name, marks=pytest.mark.slow) for name in ("azure", "google")]


@pytest.fixture(params=["local", "s3", "memory", *_CLOUDS])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "local":
        yield local(tmp_path / "out")
    elif request.param == "s3":
        yield bucket(request.getfixturevalue("s3"))
    elif request.param in ("azure", "google"):
        yield cloud(request.getfixturevalue(request.param))
    else:
        yield memory()


def publish(place: Place, data: bytes, name: PurePosixPath = NAME) -> PublishedFile:
    return place.outputs.publish(name, data, format_name="txt")


def test_a_publication_is_whole_and_described(place: Place) -> None:
    data = b"words\n" * 1000
    digest = hashlib.sha256(data).hexdigest()
    assert publish(place, data) == PublishedFile("txt", "box/a.txt", len(data), digest)
    assert place.outputs.read(NAME) == data
    assert place.names() == ["box/a.txt"], "and nothing else"


def test_nothing_at_all_can_be_published(place: Place) -> None:
    assert publish(place, b"").size_bytes == 0
    assert place.outputs.read(NAME) == b""
    assert place.outputs.size_bytes("box/a.txt") == 0


def test_names_are_kept_as_they_are(place: Place) -> None:
    names = ["a b+c&d=e%20.txt", "ä/ü.txt", "deep/er/than/that.txt", ".hidden.txt"]
    for name in names:
        publish(place, name.encode(), PurePosixPath(name))
    assert sorted(place.names()) == sorted(names)
    for name in names:
        assert place.outputs.read(PurePosixPath(name)) == name.encode()
        assert place.outputs.size_bytes(name) == len(name.encode())


@pytest.mark.parametrize("name", ["../a.txt", "/etc/a.txt", "a/../../b.txt", ""])
def test_nothing_leaves_the_place(place: Place, name: str) -> None:
    with pytest.raises(AssetError, match="leaves the output folder") as caught:
        publish(place, b"x", PurePosixPath(name))
    assert caught.value.kind is ErrorKind.OUTPUT
    with pytest.raises(AssetError, match="leaves the output folder"):
        place.outputs.read(PurePosixPath(name))
    assert place.names() == []


def test_who_reads_meanwhile_sees_the_old_or_the_new(place: Place) -> None:
    old, new = b"o" * 300_000, b"n" * 450_000
    publish(place, old)
    over, reads, seen = threading.Event(), threading.Semaphore(0), set[bytes]()

    def read() -> None:
        while not over.is_set():
            seen.add(place.outputs.read(NAME))
            reads.release()

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(read)
        try:
            assert reads.acquire(timeout=PATIENT_S)
            for _ in range(8):
                publish(place, new)
                publish(place, old)
                assert reads.acquire(timeout=PATIENT_S)
        finally:
            over.set()
        reader.result()
    assert seen <= {old, new}
    assert old in seen


def test_of_two_writers_one_is_left_whole(place: Place) -> None:
    bodies = [bytes([65 + n]) * (100_000 + n) for n in range(4)]

    def write(body: bytes) -> None:
        try:
            publish(place, body)
        except AssetError as error:  # it saw another's, and would try again
            assert error.transient

    with ThreadPoolExecutor(len(bodies)) as pool:
        list(pool.map(write, bodies))
    assert place.outputs.read(NAME) in bodies
    assert place.names() == ["box/a.txt"], "and nothing of the others"


def test_what_has_a_name_already_is_not_written_over(place: Place) -> None:
    place.put("box/a.txt", b"A person's.")
    for _ in range(2):
        with pytest.raises(AssetError, match=r"box/a\.txt is there, and is another's") as caught:
            place.outputs.publish(NAME, b"ours", format_name="txt", replace=False)
        assert (caught.value.kind, caught.value.transient) == (ErrorKind.OUTPUT_EXISTS, False)
    assert place.outputs.read(NAME) == b"A person's."
    assert place.names() == ["box/a.txt"], "and nothing of what was to be written"
    place.remove("box/a.txt")
    file = place.outputs.publish(NAME, b"ours", format_name="txt", replace=False)
    assert place.outputs.fault(file) is None
    publish(place, b"ours again")
    assert place.outputs.read(NAME) == b"ours again"
    assert place.names() == ["box/a.txt"]


def test_of_several_who_publish_to_a_free_name_one_succeeds(place: Place) -> None:
    if not place.marks and place.outputs.at_once > 1:
        pytest.skip("fsspec's memory looks, and then writes")
    bodies = [bytes([65 + n]) * (100_000 + n) for n in range(4)]
    done, refused = [], []

    def write(body: bytes) -> None:
        try:
            place.outputs.publish(NAME, body, format_name="txt", replace=False)
            done.append(body)
        except AssetError as error:
            refused.append(error.kind)

    threads = [threading.Thread(target=write, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [place.outputs.read(NAME)]
    assert refused == [ErrorKind.OUTPUT_EXISTS] * 3
    assert place.names() == ["box/a.txt"], "and nothing of the others"


def test_what_was_published_is_looked_after(place: Place) -> None:
    assert place.outputs.is_empty()
    file = publish(place, b"12345")
    assert not place.outputs.is_empty()
    assert intact(place.outputs, file)
    assert place.outputs.fault(file) is None
    other = dataclasses.replace(file, sha256="0" * 64)
    assert place.outputs.fault(other) == "has other bytes than were written"
    longer = dataclasses.replace(file, size_bytes=6)
    assert not intact(place.outputs, longer)
    assert place.outputs.fault(longer) == "has 5 bytes instead of 6"
    gone = dataclasses.replace(file, path="box/b.txt")
    assert not intact(place.outputs, gone)
    assert place.outputs.fault(gone) == "is missing"
    assert place.outputs.size_bytes("box") is None or place.outputs.at_once == 1
    with pytest.raises(FileNotFoundError):
        place.outputs.read(PurePosixPath("box/b.txt"))


def test_a_new_publication_is_seen_at_once(place: Place) -> None:
    publish(place, b"12345")
    assert place.outputs.size_bytes("box/a.txt") == 5
    publish(place, b"1234567")
    assert place.outputs.size_bytes("box/a.txt") == 7


def test_what_has_a_name_in_any_format_is_found(place: Place) -> None:
    publish(place, b"1", PurePosixPath("a b/c.d.txt"))
    place.put("a b/x.wav", b"2")
    place.put("y.vtt", b"3")
    place.put("ΛΟΓΟΣ.txt", b"4")
    for name in ("a b/c.d", "y", "ΛΟΓΟΣ"):
        assert place.outputs.has_any(name), name
    for name in ("a b/c", "a b/x", "c.d", "b/c.d", "z", "none/y"):
        assert not place.outputs.has_any(name), name


def test_a_store_tells_what_the_program_has_published(place: Place) -> None:
    publish(place, b"1", PurePosixPath("ours.txt"))
    place.put("theirs.txt", b"2")
    assert not place.outputs.is_marked("theirs.txt")
    assert not place.outputs.is_marked("none.txt")
    if place.marks:
        assert place.outputs.is_marked("ours.txt")


def test_what_is_changed_behind_its_back_is_found_out(place: Place) -> None:
    file = publish(place, b"12345")
    place.put("box/a.txt", b"54321")
    assert place.outputs.fault(file) == "has other bytes than were written"
    place.remove("box/a.txt")
    assert place.outputs.fault(file) == "is missing"


def test_a_probe_leaves_nothing(place: Place) -> None:
    place.outputs.probe()
    assert place.names() == []
    assert place.outputs.is_empty()


def test_the_state_of_a_run_is_no_output(tmp_path: Path) -> None:
    (tmp_path / STATE_FOLDER).mkdir()
    assert LocalOutputs(tmp_path).is_empty()
    assert LocalOutputs(tmp_path / "missing").is_empty()


def test_a_great_many_are_found_page_by_page(s3: S3) -> None:
    class Short(S3Proxy):
        def answer(self, asked: Asked) -> Answer:
            if self.kind(asked) == "LIST":
                asked = dataclasses.replace(asked, target=f"{asked.target}&max-keys=3")
            return super().answer(asked)

    for number in range(10):
        s3.put(f"out/{number}.json", b"x" * number)
    s3.put("outside.json", b"x")
    s3.put("out-2/0.json", b"x" * 100)
    with Short(s3.moto.port) as proxy:
        outputs = OutputPlace(s3.url("out"), Access(s3_endpoint=proxy.url)).open()
        assert [outputs.size_bytes(f"{number}.json") for number in range(10)] == list(range(10))
        assert outputs.size_bytes("10.json") is None
        assert outputs.size_bytes("side.json") is None
        assert proxy.trouble.counts() == {"LIST": 4}


# -- what a store does to a publication -----------------------------------------------------------


def test_a_publication_is_one_request(s3: S3) -> None:
    place = bucket(s3)
    publish(place, b"x" * 60_000_000)
    assert s3.counts() == {"PUT": 1}
    assert s3.uploads() == []


def test_a_free_name_costs_no_more_requests(s3: S3) -> None:
    outputs = bucket(s3).outputs
    assert not outputs.is_seen("box/a.txt")
    outputs.publish(NAME, b"12345", format_name="txt", replace=False)
    assert s3.counts() == {"PUT": 1}
    with pytest.raises(AssetError):
        outputs.publish(NAME, b"12345", format_name="txt", replace=False)
    assert s3.counts() == {"PUT": 2}


@pytest.mark.parametrize(
    ("status", "code", "is_meant"),
    [
        (501, "NotImplemented", True),
        (400, "InvalidArgument", True),
        (400, "BadDigest", False),
        (400, "ExpiredToken", False),
    ],
)
def test_a_service_that_knows_no_conditions_is_published_to_all_the_same(
    s3: S3, status: int, code: str, *, is_meant: bool
) -> None:
    class Old(S3Proxy):
        refused = 0

        def answer(self, asked: Asked) -> Answer:
            if asked.headers.get("If-None-Match"):
                Old.refused += 1
                body = f"<Error><Code>{code}</Code><Message>A header</Message></Error>".encode()
                return Answer(status, [("Content-Type", "application/xml")], body)
            return super().answer(asked)

    with Old(s3.moto.port) as proxy:
        outputs = OutputPlace(s3.url("out"), Access(s3_endpoint=proxy.url)).open()
        with nullcontext() if is_meant else pytest.raises(AssetError):
            for name in ("a.txt", "b.txt"):
                outputs.publish(PurePosixPath(name), b"12345", format_name="txt", replace=False)
    if not is_meant:
        assert not s3.objects("out/")
        return
    assert s3.objects("out/") == {"a.txt": b"12345", "b.txt": b"12345"}
    assert Old.refused == 1, "it is asked once"


def test_what_is_encrypted_by_a_key_of_ones_own_is_looked_at(s3: S3) -> None:
    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms"}}
    s3.client.put_bucket_encryption(
        Bucket=s3.bucket, ServerSideEncryptionConfiguration={"Rules": [rule]}
    )
    publish(bucket(s3), b"12345")
    assert s3.counts() == {"PUT": 1, "HEAD": 1}


@pytest.mark.parametrize("fault", ["error", "reset", "lost"])
def test_what_passes_is_outlasted(s3: S3, fault: Any) -> None:
    place = bucket(s3)
    s3.rule(Rule(fault, kind="PUT", times=1))
    publish(place, b"12345")
    assert s3.objects("out/") == {"box/a.txt": b"12345"}


def test_what_does_not_pass_is_another_attempts(s3: S3) -> None:
    place = bucket(s3)
    publish(place, b"old")
    s3.rule(Rule("error", kind="PUT", status=503))
    with pytest.raises(AssetError, match=r"box/a.txt could not be written") as caught:
        publish(place, b"new")
    assert (caught.value.kind, caught.value.transient) == (ErrorKind.OUTPUT, True)
    assert s3.objects("out/") == {"box/a.txt": b"old"}


def test_who_may_not_write_is_told_before_the_run(s3: S3) -> None:
    place = bucket(s3)
    s3.rule(Rule("error", kind="PUT", status=403, code="AccessDenied"))
    with pytest.raises(AssetError) as caught:
        publish(place, b"12345")
    assert (caught.value.kind, caught.value.transient) == (ErrorKind.OUTPUT, False)
    with pytest.raises(SetupError, match=r"Nothing can be written to s3://recordings/out"):
        place.outputs.probe()


def test_who_may_not_delete_can_still_write(s3: S3) -> None:
    place = bucket(s3)
    s3.rule(Rule("error", kind="DELETE", status=403, code="AccessDenied"))
    place.outputs.probe()
    place.outputs.probe()
    assert place.names() == [".audio-batch-probe"]
    assert place.outputs.is_empty()


def test_a_bucket_that_is_not_there_is_named(s3: S3) -> None:
    outputs = OutputPlace("s3://no-such-bucket/out", Access(s3_endpoint=s3.endpoint)).open()
    with pytest.raises(SetupError, match="no-such-bucket") as caught:
        outputs.probe()
    assert "there is no such bucket" in str(caught.value)
    assert "See to the bucket's name and its region." in str(caught.value)
    with pytest.raises(SetupError, match="cannot be listed: there is no such bucket"):
        outputs.is_empty()


def test_a_store_that_does_not_answer_damages_nothing(s3: S3) -> None:
    place = bucket(s3)
    file = publish(place, b"12345")
    s3.rule(Rule("error", kind="GET", status=403, code="AccessDenied"))
    with pytest.raises(SetupError, match="could not be read"):
        place.outputs.fault(file)
    s3.rule(Rule("error", kind="LIST", status=403, code="AccessDenied"))
    publish(place, b"12345")
    with pytest.raises(SetupError, match="cannot be listed"):
        place.outputs.size_bytes("box/a.txt")


@pytest.mark.parametrize(
    "damage", [lambda body: body[:-1], lambda body: b"!" + body[1:]], ids=["short", "other"]
)
def test_what_a_store_did_not_keep_whole_is_not_published(
    s3: S3, damage: Callable[[bytes], bytes]
) -> None:
    class Damaging(S3Proxy):
        def answer(self, asked: Asked) -> Answer:
            if asked.method == "PUT":
                del asked.headers["Content-MD5"]  # a service that does not check it
                asked.headers.replace_header("Content-Length", str(len(damage(asked.body))))
                asked = dataclasses.replace(asked, body=damage(asked.body))
            return super().answer(asked)

    with Damaging(s3.moto.port) as proxy:
        outputs = OutputPlace(s3.url("out"), Access(s3_endpoint=proxy.url)).open()
        with pytest.raises(AssetError, match="could not be written") as caught:
            outputs.publish(NAME, b"12345", format_name="txt")
    assert caught.value.transient


def test_credentials_that_are_over_are_looked_up_again(
    s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = bucket(s3)
    publish(place, b"old")
    s3.trouble.expired.add(s3.environment["AWS_ACCESS_KEY_ID"])
    with pytest.raises(AssetError) as caught:
        publish(place, b"new")
    assert caught.value.transient
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDSECONDSECONDSECO")
    publish(place, b"new")
    assert s3.objects("out/") == {"box/a.txt": b"new"}
