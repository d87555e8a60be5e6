"""`audio-batch run` over recordings in S3 and on the web, as a process; with the null engine."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from program import Answer, command, environment, text_outputs, write_tone
from stores.faults import Rule
from stores.s3 import S3
from stores.servers import WebServer

Cli = Callable[..., Answer]
NULL = ("--engine", "null")
WEB = ("--allow-http", "--allow-private-addresses")
COUNT = 4


@pytest.fixture
def tones(tmp_path: Path) -> list[Path]:
    return [
        write_tone(tmp_path / f"web/tone-{number}.wav", 0.5 + number / 10)
        for number in range(COUNT)
    ]


def manifest_of(tmp_path: Path, uris: Sequence[str], name: str = "m.json") -> Path:
    path = tmp_path / name
    entries = [{"id": f"tone-{number}", "uri": uri} for number, uri in enumerate(uris)]
    path.write_text(json.dumps(entries), encoding="utf-8")
    return path


def summary_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return found


def until(true: Callable[[], bool], timeout_s: float = 120.0) -> None:
    until_s = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < until_s, "it did not come to pass"
        time.sleep(0.02)


@pytest.mark.slow
def test_files_s3_and_the_web_give_the_same(
    cli: Cli, tmp_path: Path, web: WebServer, s3: S3, tones: list[Path]
) -> None:
    places = {
        "files": [str(path) for path in tones],
        "s3": [s3.put(f"calls/{path.name}", path) for path in tones],
        "web": [f"{web.url}/{path.name}" for path in tones],
    }
    for name, uris in places.items():
        manifest = manifest_of(tmp_path, uris, f"{name}.json")
        flags = ("--s3-endpoint", s3.endpoint, *WEB, "--isolation", "process")
        flags = flags if name == "s3" else flags[:-2]
        answer = cli("run", manifest, *NULL, "-o", name, "-f", "txt,srt", *flags)
        assert answer.code == 0, answer.err
        assert "Unclosed" not in answer.err
        assert "Traceback" not in answer.err
        document = json.loads((tmp_path / name / "tone-1.json").read_text(encoding="utf-8"))
        assert document["source"] == uris[1]
        assert ("fetch" in document["provenance"]["timings_s"]) is (name != "files")
    outputs = {name: text_outputs(tmp_path / name) for name in places}
    assert len(outputs["files"]) == 2 * COUNT
    assert outputs["files"] == outputs["s3"] == outputs["web"]
    assert s3.counts() == {"STS": 1, "HEAD": COUNT, "GET": COUNT}
    assert web.trouble.counts() == {"HEAD": COUNT, "GET": COUNT}


@pytest.mark.slow
def test_a_rerun_fetches_exactly_what_changed_and_a_network_that_is_down_undoes_nothing(
    cli: Cli, tmp_path: Path, s3: S3, tones: list[Path]
) -> None:
    uris = [s3.put(f"calls/{path.name}", path) for path in tones]
    manifest = manifest_of(tmp_path, uris)
    run = ("run", manifest, *NULL, "-o", "out", "--s3-endpoint", s3.endpoint)
    assert cli(*run).code == 0
    write_tone(tones[2], 2)
    s3.put(f"calls/{tones[2].name}", tones[2])
    s3.trouble.clear()
    assert cli(*run).code == 0
    assert s3.counts() == {"STS": 1, "HEAD": COUNT, "GET": 1}
    assert summary_of(tmp_path / "out")["done_before"] == COUNT - 1
    s3.rule(Rule("reset", kind="HEAD"))
    again = cli(*run)
    assert again.code == 0, again.err
    assert "Nothing to do" in again.err
    written = cli(*run, "-f", "vtt")  # of the words that are there, without the recordings
    assert written.code == 0, written.err
    assert len(text_outputs(tmp_path / "out", (".vtt",))) == COUNT
    assert s3.counts()["GET"] == 1


def test_what_could_not_be_looked_at_is_not_taken_from_an_earlier_run(
    cli: Cli, tmp_path: Path, web: WebServer, tones: list[Path]
) -> None:
    """The cache still has it; the store has another one by now."""
    manifest = manifest_of(tmp_path, [f"{web.url}/{path.name}" for path in tones[:2]])
    run = ("run", manifest, *NULL, *WEB, "-o", "out", "-f", "txt", "--downloads", 0)
    assert cli(*run).code == 0
    before = text_outputs(tmp_path / "out")
    write_tone(tones[0], 2)
    web.rule(Rule("reset", kind="HEAD"))
    answer = cli(*run, "--beam-size", 2)
    assert answer.code == 0, answer.err
    after = text_outputs(tmp_path / "out")
    assert {name: text != before[name] for name, text in after.items()} == {
        "tone-0.txt": True,
        "tone-1.txt": False,
    }


def test_what_cannot_be_had_or_heard_fails_at_once_under_its_url_and_the_rest_goes_on(
    cli: Cli, tmp_path: Path, s3: S3, tones: list[Path]
) -> None:
    tones[3].write_text("no sound", encoding="utf-8")
    uris = [s3.put(f"calls/{path.name}", path) for path in tones]
    uris[1] = s3.url("calls/gone.wav")
    s3.rule(Rule("error", path="*/tone-2.wav", status=403))
    manifest = manifest_of(tmp_path, uris)
    run = ("run", manifest, *NULL, "-o", "out", "--s3-endpoint", s3.endpoint, "--downloads", 0)
    assert cli(*run).code == 3
    failures = {one["id"]: one for one in summary_of(tmp_path / "out")["failures"]}
    assert {name: one["kind"] for name, one in failures.items()} == {
        "tone-1": "input_missing",
        "tone-2": "input_forbidden",
        "tone-3": "not_media",
    }
    assert failures["tone-3"]["reason"].startswith(f"{uris[3]} is not a recording")
    assert s3.counts()["GET"] == COUNT


@pytest.mark.slow
def test_an_object_that_changes_after_the_plan_is_done_as_it_is_then(
    cli: Cli, tmp_path: Path, s3: S3, tones: list[Path]
) -> None:
    uri = s3.put("calls/x.wav", tones[0])
    s3.rule(Rule("error", kind="GET", status=503, times=1, retry_after_s=2))

    def change() -> None:
        until(lambda: s3.counts()["GET"] == 1)
        s3.put("calls/x.wav", tones[3])

    changing = threading.Thread(target=change)
    changing.start()
    run = ("run", manifest_of(tmp_path, [uri]), *NULL, "-o", "out", "-f", "txt")
    run = (*run, "--s3-endpoint", s3.endpoint, "--retry-delay", 0.1, "--downloads", 0)
    answer = cli(*run)
    changing.join()
    assert answer.code == 0, answer.err
    assert "changed" in answer.err
    assert (tmp_path / "out/tone-0.txt").read_text() == "0.800 seconds of audio\n"
    document = json.loads((tmp_path / "out/tone-0.json").read_text())
    assert document["provenance"]["source_identity"].startswith(f"{tones[3].stat().st_size}:")
    assert "Nothing to do" in cli(*run).err  # the journal knows what it was made of


@pytest.mark.slow
def test_a_network_that_is_gone_is_tried_again_by_the_next_run(
    cli: Cli, tmp_path: Path, s3: S3, tones: list[Path]
) -> None:
    uris = [s3.put(f"calls/{path.name}", path) for path in tones[:2]]
    manifest = manifest_of(tmp_path, uris)
    run = ("run", manifest, *NULL, "-o", "out", "--max-attempts", 1)
    flags = ("--s3-endpoint", s3.endpoint)
    s3.rule(Rule("reset", kind="GET", path="*/tone-1.wav"))
    assert cli(*run, *flags).code == 3
    (failure,) = summary_of(tmp_path / "out")["failures"]
    assert (failure["id"], failure["kind"]) == ("tone-1", "network")
    s3.trouble.rules.clear()
    assert cli(*run, *flags).code == 0


@pytest.mark.slow
def test_a_run_that_is_killed_in_a_download_goes_on_with_it(
    cli: Cli,
    tmp_path: Path,
    web: WebServer,
    children: list[subprocess.Popen[str]],
) -> None:
    tone = write_tone(web.folder / "long.wav", 300)
    manifest = manifest_of(tmp_path, [f"{web.url}/long.wav"])
    run = ("run", manifest, *NULL, "-o", "out", "-f", "txt", *WEB)
    run = (*run, "--cache-dir", tmp_path / "cache")
    web.rule(Rule("slow", kind="GET", times=1, slow_s=30))
    child = subprocess.Popen(
        command(*run), cwd=tmp_path, env=environment(), stderr=subprocess.DEVNULL, text=True
    )
    children.append(child)
    parts = tmp_path / "cache/inputs/files"
    until(lambda: any(part.stat().st_size > 0 for part in parts.glob("*.part")))
    child.kill()
    child.wait()
    (part,) = parts.glob("*.part")
    have = part.stat().st_size
    assert have < tone.stat().st_size
    web.trouble.clear()
    answer = cli(*run)
    assert answer.code == 0, answer.err
    assert [seen.range for seen in web.trouble.seen if seen.kind == "GET"] == [f"bytes={have}-"]
    assert (tmp_path / "out/tone-0.txt").read_text() == "300.000 seconds of audio\n"


def test_one_that_hangs_is_given_up_in_time(
    cli: Cli, tmp_path: Path, web: WebServer, tones: list[Path]
) -> None:
    web.trouble.faults = web.trouble.faults.__class__(hang_s=600)
    web.rule(Rule("hang", kind="GET", path="/tone-1.wav"))
    uris = [f"{web.url}/{path.name}" for path in tones[:3]]
    begun_s = time.monotonic()
    answer = cli(
        *("run", manifest_of(tmp_path, uris), *NULL, "-o", "out", *WEB),
        *("--timeout", "6s", "--max-attempts", 1, "--downloads", 0),
    )
    assert answer.code == 3, answer.err
    assert time.monotonic() - begun_s < 300
    (failure,) = summary_of(tmp_path / "out")["failures"]
    assert (failure["id"], failure["kind"]) == ("tone-1", "timeout")


SECRETS = ("pa55word-canary", "s1gnature-canary", "t0ken-canary-value-9f8e7d6c5b4a")


def _secret_urls(web: WebServer) -> Iterator[str]:
    for path in ("tone-0.wav", "tone-1.wav", "gone.wav", "refused.wav"):
        host = web.url.removeprefix("http://")
        yield (
            f"http://ann:{SECRETS[0]}@{host}/{path}"
            f"?X-Amz-Credential=AKIAIOSFODNN7EXAMPLE&X-Amz-Signature={SECRETS[1]}&k={SECRETS[2]}"
        )


def test_no_secret_of_a_url_is_in_any_file_that_a_run_writes(
    cli: Cli, tmp_path: Path, web: WebServer, tones: list[Path]
) -> None:
    del tones
    web.rule(Rule("error", path="/refused.wav", status=403))
    uris = list(_secret_urls(web))
    manifest = tmp_path / "m.json"
    manifest.write_text(json.dumps([{"uri": uri} for uri in uris]), encoding="utf-8")
    run = ("run", manifest, *NULL, "-o", "out", "-f", "all", "--cache-dir", "cache")
    refused = cli(*run)
    assert refused.code == 4
    answer = cli(*run, *WEB, "-v", "-v", "--log-file", "run.log")
    assert answer.code == 3
    assert summary_of(tmp_path / "out")["done"] == 2
    status = cli("status", "out", "--failed", "--json")
    said = "".join((refused.err, answer.out, answer.err, status.out, status.err))
    for path in tmp_path.rglob("*"):
        if path.is_file() and path != manifest:
            said += path.read_bytes().decode("latin-1") + path.name
    for secret in (*SECRETS, "AKIAIOSFODNN7EXAMPLE"):
        assert secret not in said


def test_what_a_run_may_not_or_cannot_do_is_told_before_it(
    cli: Cli, tmp_path: Path, web: WebServer, tones: list[Path]
) -> None:
    urls = manifest_of(tmp_path, [f"{web.url}/{tones[0].name}"])
    refused = cli("run", urls, *NULL, "-o", "out")
    assert refused.code == 4
    assert "--allow-http" in refused.err
    private = cli("run", urls, *NULL, "-o", "out", "--allow-http")
    assert private.code == 3
    assert "--allow-private-addresses" in private.err
    assert web.trouble.counts() == {}
    assert cli("run", urls, *NULL, "-o", "out", *WEB, "--cache-size", "20").code == 2
    (tmp_path / "file").write_text("")
    no_cache = cli("run", urls, *NULL, "-o", "out", *WEB, "--cache-dir", "file")
    assert no_cache.code == 5
    assert "--cache-dir" in no_cache.err
    small = cli("run", urls, *NULL, "-o", "out", *WEB, "--max-download", "1kB", "--retry-failed")
    assert small.code == 3
    assert summary_of(tmp_path / "out")["failures"][0]["kind"] == "media_limit"
    assert "--max-download" in small.err


NOWHERE = [f"s3://no-such-bucket/{number}.wav" for number in range(3)]


def test_a_bucket_that_is_not_there_is_no_recordings_failure(
    cli: Cli, tmp_path: Path, s3: S3
) -> None:
    manifest = manifest_of(tmp_path, NOWHERE)
    flags = (*NULL, "-o", "out", "--s3-endpoint", s3.endpoint, "--allow-missing")
    for verb in ("doctor", "run"):
        answer = cli(verb, manifest, *flags, "--max-runtime", "12h")
        assert answer.code == 5, answer
        assert "There is no bucket or container s3://no-such-bucket." in answer.out + answer.err
    assert not (tmp_path / "out/summary.json").exists(), "nothing was begun"
    assert s3.counts()["GET"] == 2, "one beside the looks"


@pytest.mark.slow
def test_a_bucket_that_is_not_there_beside_one_that_is(
    cli: Cli, tmp_path: Path, s3: S3, tones: list[Path]
) -> None:
    here = [s3.put(f"calls/{path.name}", path) for path in tones]
    manifest = manifest_of(tmp_path, [*here, NOWHERE[0], s3.url("calls/nothing.wav")])
    flags = (*NULL, "-o", "out", "--s3-endpoint", s3.endpoint)
    doctor = cli("doctor", manifest, *flags, "--allow-missing")
    assert doctor.code == 0, doctor.out
    assert "There is no bucket" in doctor.out
    assert "6 of 6 remote recordings were looked at, 1 cannot be fetched: s3://" in doctor.out
    answer = cli("run", manifest, *flags)
    assert answer.code == 5, answer.err
    answer = cli("run", manifest, *flags, "--allow-missing")
    assert answer.code == 3, answer.err
    assert (summary_of(tmp_path / "out")["done"], summary_of(tmp_path / "out")["failed"]) == (4, 2)
