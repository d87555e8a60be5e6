"""What is remembered of devices: kept, found again, bounded, and never in anybody's way."""

from __future__ import annotations

import dataclasses
import json
import logging
import subprocess
import sys
import time
from pathlib import Path

import pytest
from program import environment

from audio_batch.errors import SetupError
from audio_batch.kept_file import MAX_AGE_S, MAX_ENTRIES, cache_folder
from audio_batch.ladder import Rung
from audio_batch.remembered import Experience, Key, Remembered

GPU = "GPU-00000000-1111-4222-8333-000000000000"
KEY = Key(GPU, "abc", "auto", True)
RUNG = Rung(8, 1, "int8_float16")
GB = 10**9


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AUDIO_BATCH_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def experience(key: Key = KEY, rung: Rung = RUNG, age_s: float = 0.0) -> Experience:
    return Experience(key, rung, "tiny", time.time() - age_s, "1.0", 24 * GB, 20 * GB)


def told(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What the log was told of files; what threads of other tests leave there is not meant."""
    return [record for record in caplog.records if record.name == "audio_batch.setup"]


def write(folder: Path, *experiences: Experience) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    entries = [dataclasses.asdict(known) for known in experiences]
    path = folder / "devices.json"
    path.write_text(json.dumps({"schema_version": 1, "experiences": entries}))
    return path


def test_what_one_run_learnt_the_next_one_knows(folder: Path) -> None:
    first = Remembered.load()
    assert first.lookup(KEY) is None and not folder.exists()
    first.remember(KEY, RUNG, model_name="large", total_bytes=24 * GB, free_bytes=20 * GB)
    assert first.lookup(KEY) == RUNG
    later = Remembered.load()
    assert later.lookup(KEY) == RUNG
    (known,) = later.experiences.values()
    assert (known.model_name, known.total_bytes, known.free_bytes) == ("large", 24 * GB, 20 * GB)
    assert abs(time.time() - known.learnt_at) < 600 and known.version
    for other in (
        dataclasses.replace(KEY, device_uuid="cpu"),
        dataclasses.replace(KEY, model_identity="abd"),
        dataclasses.replace(KEY, compute_type="float16"),
        dataclasses.replace(KEY, diarize=False),
    ):
        assert later.lookup(other) is None
    later.remember(KEY, Rung(None, 1, "int8_float16"))
    assert Remembered.load().lookup(KEY) == Rung(None, 1, "int8_float16")
    assert [path.name for path in folder.iterdir() if path.suffix == ".json"] == ["devices.json"]


def test_what_is_known_is_not_written_again(folder: Path) -> None:
    path = write(folder, experience(age_s=86400))
    before = path.read_bytes()
    memory = Remembered.load()
    memory.remember(KEY, RUNG, total_bytes=24 * GB, free_bytes=20 * GB)
    assert path.read_bytes() == before
    # It does not hold any more, and so is learnt anew.
    memory.remember(KEY, RUNG, total_bytes=24 * GB, free_bytes=40 * GB)
    assert path.read_bytes() != before


@pytest.mark.parametrize(
    ("total_bytes", "free_bytes", "holds"),
    [
        (24 * GB, 20 * GB, True),
        (24 * GB, 24 * GB, True),
        (24 * GB, 26 * GB, False),
        (24 * GB, 2 * GB, True),
        (32 * GB, 20 * GB, False),
        (None, None, True),
    ],
)
def test_what_was_learnt_with_less_memory_says_nothing_of_more(
    folder: Path, total_bytes: int | None, free_bytes: int | None, holds: bool
) -> None:
    write(folder, experience())
    found = Remembered.load().lookup(KEY, total_bytes=total_bytes, free_bytes=free_bytes)
    assert found == (RUNG if holds else None)


def test_old_entries_and_too_many_are_dropped(folder: Path) -> None:
    def key(number: int) -> Key:
        return dataclasses.replace(KEY, model_identity=str(number))

    ages = range(MAX_ENTRIES + 50)
    path = write(
        folder,
        *(experience(key(number), age_s=60.0 * number) for number in ages),
        experience(key(-1), age_s=MAX_AGE_S + 60),
        experience(key(-2), age_s=-MAX_AGE_S - 60),
        experience(key(-3), age_s=float("nan")),
    )
    memory = Remembered.load()
    assert set(memory.experiences) == {key(number) for number in range(MAX_ENTRIES)}
    memory.remember(key(1000), RUNG)
    kept = json.loads(path.read_text())["experiences"]
    assert len(kept) == MAX_ENTRIES
    assert Remembered.load().lookup(key(1000)) == RUNG
    assert Remembered.load().lookup(key(MAX_ENTRIES - 1)) is None


def entry(**changes: object) -> bytes:
    """A file of one entry, whole but for the changes to its rung."""
    whole = dataclasses.asdict(experience())
    whole["rung"].update(changes)
    return json.dumps({"schema_version": 1, "experiences": [whole]}).encode()


DAMAGE = {
    "empty": b"",
    "cut": entry()[:-9],
    "bytes": b"\xff\x00\xfe" * 99,
    "list": b"[1]",
    "number": b"3",
    "no version": b'{"experiences": []}',
    "no entries": b'{"schema_version": 1}',
    "deep": b"[" * 100_000,
    "slots": entry(slots=0),
    "text": entry(slots="2"),
    "truth": entry(slots=True),
    "batch": entry(batch_size=10**9),
    "type": entry(compute_type="float17"),
}


def test_the_file_that_the_damage_is_done_to_is_whole(folder: Path) -> None:
    folder.mkdir()
    (folder / "devices.json").write_bytes(entry())
    assert Remembered.load().lookup(KEY) == RUNG


@pytest.mark.parametrize("content", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_moved_aside_with_one_warning(
    folder: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    folder.mkdir()
    (folder / "devices.json").write_bytes(content)
    looked = Remembered.look()
    assert "damaged" in looked.problem and looked.experiences == {}
    assert [path.name for path in folder.iterdir()] == ["devices.json"] and not told(caplog)
    memory = Remembered.load()
    assert memory.lookup(KEY) is None
    memory.remember(KEY, RUNG)
    assert [record.levelno for record in told(caplog)] == [logging.WARNING]
    assert "devices.json is damaged" in caplog.text
    assert (folder / "devices.damaged.json").read_bytes() == content
    assert Remembered.load().lookup(KEY) == RUNG
    assert len(told(caplog)) == 1


def test_a_file_of_a_newer_version_is_left_alone(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder.mkdir()
    newer = b'{"schema_version": 2, "something": {"else": []}}'
    (folder / "devices.json").write_bytes(newer)
    memory = Remembered.load()
    memory.remember(KEY, RUNG)
    assert memory.lookup(KEY) == RUNG
    assert (folder / "devices.json").read_bytes() == newer
    assert len(told(caplog)) == 1 and "newer audio-batch" in caplog.text


def test_without_a_folder_to_write_to_a_run_knows_it_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AUDIO_BATCH_CACHE_DIR", str(tmp_path / "file" / "cache"))
    memory = Remembered.load()
    other = dataclasses.replace(KEY, device_uuid="cpu")
    memory.remember(other, RUNG)
    memory.remember(KEY, RUNG)
    assert memory.lookup(KEY) == memory.lookup(other) == RUNG
    assert len(told(caplog)) == 1
    assert Remembered.look().lookup(KEY) is None


def test_a_file_that_cannot_be_read_is_told_once_and_left(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    memory = Remembered.load()
    (folder / "devices.json").mkdir(parents=True)
    other = dataclasses.replace(KEY, device_uuid="cpu")
    memory.remember(other, RUNG)
    memory.remember(KEY, RUNG)
    assert memory.lookup(KEY) == memory.lookup(other) == RUNG
    assert len(told(caplog)) == 1 and "cannot be read" in caplog.text
    assert (folder / "devices.json").is_dir()


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs a folder nobody can write to")
def test_in_a_folder_that_is_read_only_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AUDIO_BATCH_CACHE_DIR", "/sys/kernel")
    memory = Remembered.load()
    memory.remember(KEY, RUNG)
    memory.remember(KEY, dataclasses.replace(RUNG, slots=2))
    assert memory.lookup(KEY) == dataclasses.replace(RUNG, slots=2)
    assert len(told(caplog)) == 1 and "cannot be kept" in caplog.text


LEARNING = """
import sys
from audio_batch import kept_file
from audio_batch.ladder import Rung
from audio_batch.remembered import Key, Remembered
kept_file._LOCK_S = 120.0  # on a busy disk the others may be at it for more than a run waits
memory = Remembered.load()
print("ready", flush=True)
sys.stdin.readline()
for number in range(12):
    memory.remember(Key(sys.argv[1], str(number), "auto", False), Rung(number + 1, 1, "int8"))
"""

HOLDING = """
import sys
from audio_batch.remembered import Remembered
with Remembered.look()._locked():
    print("ready", flush=True)
    sys.stdin.readline()
"""


def begin(program: str, *arguments: str, folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        env=environment(AUDIO_BATCH_CACHE_DIR=str(folder)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def test_runs_that_learn_at_the_same_time_lose_nothing(
    folder: Path, children: list[subprocess.Popen[str]]
) -> None:
    for name in ("a", "b", "c"):
        children.append(begin(LEARNING, name, folder=folder))
    for process in children:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    assert [process.wait(240) for process in children] == [0, 0, 0]
    memory = Remembered.load()
    for name in ("a", "b", "c"):
        for number in range(12):
            found = memory.lookup(Key(name, str(number), "auto", False))
            assert found == Rung(number + 1, 1, "int8")


def test_a_lock_that_is_held_holds_no_run_up(
    folder: Path, children: list[subprocess.Popen[str]], caplog: pytest.LogCaptureFixture
) -> None:
    write(folder)
    children.append(begin(HOLDING, folder=folder))
    memory = Remembered.load()
    memory.remember(KEY, RUNG)
    assert memory.lookup(KEY) == RUNG
    assert len(told(caplog)) == 1 and "held by another" in caplog.text
    with pytest.raises(SetupError, match="cannot be removed"):
        memory.forget()
    assert (folder / "devices.json").exists()


def test_forgetting_removes_the_file_in_whatever_state(folder: Path) -> None:
    assert Remembered.look().forget() == 0
    assert not folder.exists()
    write(folder, experience(), experience(dataclasses.replace(KEY, diarize=False)))
    memory = Remembered.look()
    assert memory.forget() == 2
    assert memory.lookup(KEY) is None and Remembered.load().lookup(KEY) is None
    (folder / "devices.json").write_bytes(b"damaged")
    assert Remembered.look().forget() == 0
    assert not (folder / "devices.json").exists()


def test_the_file_lies_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDIO_BATCH_CACHE_DIR", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("AUDIO_BATCH_CACHE_DIR")
    assert cache_folder().is_absolute() and cache_folder().match("*audio-batch*")
