"""The targets of docs/reliability.md that no other module measures; `-s` shows the figures."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import faulty_engine
import psutil
import pytest
from forked import completed
from nights import assert_sound, attempt_count, done_stamps, started, wait_until, workers
from program import Answer, command, environment, write_manifest, write_tone
from shim import Disk, entries, memory_folder

from audio_batch.outcome import State

posix = pytest.mark.skipif(os.name == "nt", reason="POSIX signals and limits")

MIB = 1024**2


@pytest.fixture(scope="module")
def disk() -> Iterator[Disk]:
    with Disk(None) as disk:
        yield disk


@pytest.fixture
def place() -> Iterator[Path]:
    with memory_folder() as folder:
        yield folder


def variables(folder: Path, faults: dict[str, Any]) -> dict[str, str]:
    return environment(
        **faulty_engine.install(folder / "plugin"),
        FAULTY_ENGINE=json.dumps(faults),
        AUDIO_BATCH_CACHE_DIR=str(folder / "cache"),
    )


NIGHT = ("run", "manifest.json", "--engine", "faulty", "-o", "out", "--retry-delay", "0.01")


def night(folder: Path, faults: dict[str, Any], *arguments: object) -> Answer:
    answer = completed([*NIGHT, *arguments], folder, variables(folder, faults), timeout_s=600)
    assert "Traceback" not in answer.err, answer.err
    return answer


def attempts_of(folder: Path, asset_id: str) -> list[tuple[float, float]]:
    """When each attempt began and ended."""
    with closing(sqlite3.connect(folder / "out/.audio-batch/journal.sqlite3")) as db:
        query = "SELECT started_at, finished_at FROM attempts WHERE asset_id = ?"
        return db.execute(query, (asset_id,)).fetchall()


def one_recording(folder: Path, count: int) -> Path:
    """A manifest of `count` assets that share one recording of half a second."""
    if not (folder / "tone.wav").exists():
        write_tone(folder / "tone.wav", 0.5)
    assets = [{"id": f"asset-{number:05d}", "path": "tone.wav"} for number in range(count)]
    path = folder / "manifest.json"
    path.write_text(json.dumps({"assets": assets}))
    return path


# -- 4: ten thousand done ------------------------------------------------------------------------


def copy_of_the_done(out: Path, first: str, ids: list[str]) -> None:
    """Have the journal and the folder hold `ids` as done as `first` is."""
    with closing(sqlite3.connect(out / ".audio-batch/journal.sqlite3")) as db, db:
        db.row_factory = sqlite3.Row
        for table in ("assets", "stages"):
            row = dict(db.execute(f"SELECT * FROM {table} WHERE asset_id = ?", (first,)).fetchone())
            for asset_id in ids:
                new = {
                    k: v.replace(first, asset_id) if isinstance(v, str) else v
                    for k, v in row.items()
                }
                if table == "stages":
                    new["path"] = f"stages/{asset_id}.json.gz"
                    os.link(out / ".audio-batch" / row["path"], out / ".audio-batch" / new["path"])
                marks = ", ".join(f":{name}" for name in new)
                db.execute(f"INSERT INTO {table} ({', '.join(new)}) VALUES ({marks})", new)
    for path in list(out.glob(f"{first}.*")):
        for asset_id in ids:
            os.link(path, path.with_name(path.name.replace(first, asset_id)))


@posix
def test_with_ten_thousand_done_a_run_is_soon_at_work_and_does_none_again(
    disk: Disk, place: Path
) -> None:
    one_recording(place, 1)
    null = ("run", "manifest.json", "--engine", "null", "-o", "out", "--isolation", "thread")
    assert disk.run(place, *null).code == 0
    ids = [f"asset-{number:05d}" for number in range(1, 10_000)]
    copy_of_the_done(place / "out", "asset-00000", ids)
    one_recording(place, 10_001)
    before = done_stamps(place / "out")
    assert len(before) == 10_000
    begun_s, before_cpu_s = time.time(), of_children_cpu_s()
    done = subprocess.run(
        command(*null), cwd=place, env=environment(), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    cpu_s = of_children_cpu_s() - before_cpu_s
    after = entries(place / "out")
    first_s = (after["asset-10000"].started_at or 0.0) - begun_s
    whole_s = time.time() - begun_s
    print(f"10,000 done: first new work after {first_s:.2f} s, all over after {whole_s:.2f} s, ")
    print(f"{cpu_s:.2f} s of a processor")
    assert {name: after[name].finished_at for name in before} == before
    assert attempt_count(place / "out") == 2
    # The target is 2 s until its first work, on a machine with nothing else to do.
    assert cpu_s < 20


def of_children_cpu_s() -> float:
    """What all processes that were begun here and have ended took of a processor."""
    times = os.times()
    return times.children_user + times.children_system


# -- 12, 13, 14: what an asset can do to its process ----------------------------------------------


@posix
def test_assets_that_end_their_process_are_set_aside_after_three_attempts(tmp_path: Path) -> None:
    write_manifest(tmp_path, 16)
    faults = {"segfault": [3], "abort": [11], "delay_ms": 30}
    answer = night(tmp_path, faults, "--isolation", "process", "--max-per-gpu", "2")
    assert answer.code == 3, answer.err
    found = entries(tmp_path / "out")
    bad = {name: entry for name, entry in found.items() if entry.state is State.QUARANTINED}
    assert set(bad) == {"tone-003", "tone-011"}
    assert max(entry.attempts for entry in bad.values()) <= 3
    good = [entry for name, entry in found.items() if name not in bad]
    assert {entry.state for entry in good} == {State.DONE}
    # Whoever worked beside a death is tried alone, once.
    assert max(entry.attempts for entry in good) <= 2
    print(f"{len(bad)} set aside after {[entry.attempts for entry in bad.values()]} attempts")


@posix
def test_a_hang_ends_soon_after_its_time_and_its_slot_is_used_again(tmp_path: Path) -> None:
    write_manifest(tmp_path, 6)
    timeout_s = 6  # what no other needs, however busy the machine is
    faults = {"hang_in_native_code": [1]}
    more = ("--timeout", str(timeout_s), "--isolation", "process", "-t", "1", "--max-per-gpu", "1")
    more += ("--order", "manifest")
    answer = night(tmp_path, faults, *more)
    assert answer.code == 3, answer.err
    hung = attempts_of(tmp_path, "tone-001")
    took_s = [ended - began for began, ended in hung]
    told = ", ".join(f"{seconds:.1f} s" for seconds in took_s)
    print(f"a hang with --timeout {timeout_s} was over after {told}")
    assert len(took_s) == 2
    assert max(took_s) < timeout_s + 60  # of an hour
    others = [attempts_of(tmp_path, f"tone-{number:03d}") for number in (0, 2, 3, 4, 5)]
    assert {len(times) for times in others} == {1}
    assert sum(times[0][0] > hung[0][1] for times in others) == 4, "its slot was used again"


def test_a_playlist_of_itself_is_refused_at_once(disk: Disk, place: Path) -> None:
    write_manifest(place, 4)
    for name in ("tone-001.wav", "tone-002.wav"):
        path = place / "audio" / name
        text = f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{name}\n#EXTINF:10,\nlist.m3u8\n"
        path.write_text(text)
        shutil.copy(path, place / "audio/list.m3u8")
    rows = json.loads((place / "manifest.json").read_text())
    rows["assets"].append({"id": "list", "path": "audio/list.m3u8"})
    (place / "manifest.json").write_text(json.dumps(rows))
    begun_s = time.monotonic()
    answer = disk.run(
        place, "run", "manifest.json", "--engine", "null", "-o", "out", "--isolation", "thread"
    )
    took_s = time.monotonic() - begun_s
    assert answer.code == 3, answer.err
    found = entries(place / "out")
    refused = {name for name, entry in found.items() if entry.error_kind == "not_media"}
    assert refused == {"tone-001", "tone-002", "list"}
    assert found["tone-000"].state is found["tone-003"].state is State.DONE
    print(f"three playlists of themselves were refused in a run of {took_s:.1f} s")
    assert took_s < 120


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the limit holds nobody back")
def test_a_process_that_runs_out_of_memory_costs_its_asset_alone(tmp_path: Path) -> None:
    """An asset leaks, and the address space of its process has a limit."""
    write_manifest(tmp_path, 8)
    more = ("--isolation", "process", "--max-per-gpu", "1", "--max-attempts", "2")
    answer = night(tmp_path, {"leak": [4]}, *more)
    assert answer.code == 3, answer.err
    found = entries(tmp_path / "out")
    bad = found.pop("tone-004")
    print(f"memory ran out: {bad.state.value} after {bad.attempts} attempts: {bad.error_text}")
    assert bad.state in (State.FAILED, State.QUARANTINED)
    assert {entry.state for entry in found.values()} == {State.DONE}, answer.err


# -- 15: faults that pass --------------------------------------------------------------------------


@pytest.mark.parametrize("count", [150, pytest.param(1000, marks=pytest.mark.slow)])
def test_of_faults_that_pass_three_attempts_leave_what_chance_leaves(
    count: int, place: Path
) -> None:
    share, seed = 0.3, 20261121
    write_manifest(place, count)
    numbers = range(count)
    unlucky = {
        f"tone-{number:03d}"
        for number in numbers
        if all(faulty_engine.fails_in_passing(seed, number, n, share) for n in (1, 2, 3))
    }
    expected = 1 - share**3
    sigma = (expected * (1 - expected) / count) ** 0.5
    assert abs((1 - len(unlucky) / count) - expected) <= 3 * sigma, "the seed is no fair one"
    faults = {"transient_share": list(numbers), "share": share, "seed": seed}
    answer = night(place, faults, "--isolation", "thread", "--max-attempts", "3")
    assert answer.code == 3, answer.err
    found = entries(place / "out")
    failed = {name for name, entry in found.items() if entry.state is State.FAILED}
    done = sum(entry.state is State.DONE for entry in found.values())
    print(f"{done} of {count} done ({done / count:.1%}; {expected:.1%} ± {3 * sigma:.1%} expected)")
    assert failed == unlucky
    assert done == count - len(unlucky)


# -- 17: exit codes --------------------------------------------------------------------------------

NULL = ("run", "manifest.json", "--engine", "null", "--isolation", "thread", "-o", "out")


def nothing(_folder: Path) -> None:
    pass


def text_in_a_recording(folder: Path) -> None:
    (folder / "audio/tone-001.wav").write_text("this is no recording")


def no_recording(folder: Path) -> None:
    (folder / "audio/tone-001.wav").unlink()


def no_recordings(folder: Path) -> None:
    for path in (folder / "audio").iterdir():
        path.unlink()


def no_manifest_at_all(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"assets": [{"id": ')


def a_file_for_a_folder(folder: Path) -> None:
    (folder / "out").write_text("in the way")


@pytest.mark.parametrize(
    ("code", "spoil", "arguments"),
    [
        (0, nothing, ()),
        (2, nothing, ("--isolation", "nonsense")),
        (2, nothing, ("--timeout", "soon")),
        (3, text_in_a_recording, ()),
        (3, text_in_a_recording, ("--fail-fast", "-t", "1")),
        (3, no_recording, ("--allow-missing",)),
        (3, no_recordings, ("--allow-missing",)),
        (4, no_recording, ()),
        (4, no_manifest_at_all, ()),
        (5, nothing, ("--engine", "faster-whisper", "--model", "nobody/nowhere", "--offline")),
        (5, nothing, ("--device", "cuda:7")),
        (5, a_file_for_a_folder, ()),
    ],
)
def test_each_outcome_has_its_exit_code(
    disk: Disk, place: Path, code: int, spoil: Any, arguments: tuple[str, ...]
) -> None:
    write_manifest(place, 3)
    spoil(place)
    answer = disk.run(place, *NULL, *arguments)
    assert answer.code == code, answer.err
    assert "Traceback" not in answer.err
    if code == 3:
        # A rerun that finds nothing to do has not mended anything either.
        assert disk.run(place, *NULL, *arguments).code == 3


@posix
@pytest.mark.parametrize(
    ("code", "faults", "arguments"),
    [
        (3, {"fail": [1]}, ()),
        (3, {"transient": [1]}, ("--max-attempts", "2")),
        (5, {"cannot_load": ["cpu"]}, ()),
        (130, {"delay_ms": 300}, ("--max-runtime", "1s", "-t", "1")),
    ],
)
def test_each_fault_has_its_exit_code(
    code: int, faults: dict[str, Any], arguments: tuple[str, ...], tmp_path: Path
) -> None:
    """Deaths, hangs and lack of memory are those of test_isolation; 11 is that of test_locks,
    130 after a signal that of test_signals.
    """
    write_manifest(tmp_path, 30 if code == 130 else 3)
    if code == 130:  # a second may be over before anything has begun
        assert night(tmp_path, faults, "--limit", "1").code == 0
    answer = night(tmp_path, faults, *arguments)
    assert answer.code == code, answer.err
    if code != 5:
        summary = json.loads((tmp_path / "out/summary.json").read_text())
        assert summary["exit_code"] == code
        some = summary["done"] + summary["done_before"]
        assert some >= 1, "this is about a part that failed"


# -- 18: what a change affects ---------------------------------------------------------------------


def test_any_changes_do_exactly_the_assets_that_they_affect(disk: Disk, place: Path) -> None:
    count, chance = 25, random.Random(18)
    write_manifest(place, count)
    manifest = place / "manifest.json"
    assert disk.run(place, *NULL).code == 0
    rows = json.loads(manifest.read_text())["assets"]
    affected_in_all = 0
    for round_ in range(8):
        before = done_stamps(place / "out")
        affected = set(chance.sample(range(count), chance.randint(0, 6)))
        for number in affected:
            row = rows[number]
            match chance.choice(("audio", "language", "prompt")):
                case "audio":
                    write_tone(place / row["path"], chance.uniform(0.3, 0.8))
                case "language":
                    row["language"] = "de" if row.get("language") != "de" else "fr"
                case "prompt":
                    row["prompt"] = f"Prompt of round {round_}."
        if round_ % 2:  # what decides no words
            rows[0]["shelf"] = f"a new shelf {round_}"
            chance.shuffle(order := list(rows))
        else:
            order = rows
        manifest.write_text(json.dumps({"assets": order}))
        attempts = attempt_count(place / "out")
        assert disk.run(place, *NULL).code == 0
        after = done_stamps(place / "out")
        changed = {name for name in after if after[name] != before[name]}
        assert changed == {rows[number]["id"] for number in affected}
        assert attempt_count(place / "out") - attempts == len(affected)
        affected_in_all += len(affected)
    # An option that decides words affects all, one that decides files none of the recordings.
    attempts = attempt_count(place / "out")
    assert disk.run(place, *NULL, "--beam-size", "2").code == 0
    assert attempt_count(place / "out") - attempts == count
    print(f"8 rounds, {affected_in_all} changes among {count} assets: exactly those done again")


# -- 20: ten thousand assets -----------------------------------------------------------------------


@posix
@pytest.mark.parametrize(
    ("isolation", "count"),
    [
        ("process", 200),
        pytest.param("thread", 10_000, marks=pytest.mark.slow),
        pytest.param("process", 10_000, marks=pytest.mark.slow),
    ],
)
@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="reads /proc")
def test_a_long_night_grows_no_memory_and_no_descriptors(
    isolation: str, count: int, place: Path
) -> None:
    rows = json.loads(one_recording(place, count).read_text())
    write_tone(place / "last.wav", 0.6)
    rows["assets"][-1]["path"] = "last.wav"
    (place / "manifest.json").write_text(json.dumps(rows))
    out, log, until = place / "out", place / "log", place / "until"
    # The last one is at work for as long as its run is looked at.
    env = variables(place, {"hold": [100], "until": str(until)})
    more = ("--isolation", isolation, "--order", "manifest")
    with started(place, *NIGHT, *more, env=env, log=log) as process:

        def sizes() -> list[tuple[int, int]]:
            return [
                (member.memory_info().rss, member.num_fds())
                for member in (psutil.Process(process.pid), *workers(process))
            ]

        def when(done: int) -> list[tuple[int, int]]:
            # By and by: all of them take longer than anything else that is waited for.
            for soon in (*range(0, done, 250), done):
                there = wait_until(lambda soon=soon: count_done(out) >= soon, process, log=log)
                assert there, log.read_text()[-3000:]
            return sizes()

        first = when(min(500, count // 4))
        # Of what is read ahead beside the last one some may have to wait for it.
        last = when(count - 16)
        until.touch()
        assert process.wait(timeout=600) == 0, log.read_text()[-3000:]
    assert len(first) == len(last) == (2 if isolation == "process" else 1)
    assert Counter(entry.state for entry in entries(out).values()) == {State.DONE: count}
    grown = [
        (name, (rss - rss_first) / MIB, fds - fds_first)
        for name, (rss_first, fds_first), (rss, fds) in zip(
            ("program", "device process"), first, last, strict=False
        )
    ]
    for name, mib, fds in grown:
        print(f"{count} assets ({isolation}), {name}: {mib:+.1f} MiB, {fds:+d} descriptors")
    assert all(mib < 50 for _, mib, _ in grown)
    # One may be at work on a file at either moment.
    assert all(fds <= 3 for _, _, fds in grown)
    assert_sound(out)


def count_done(out: Path) -> int:
    """As `done_stamps`, without reading ten thousand rows each time."""
    with (
        suppress(sqlite3.Error),
        closing(
            sqlite3.connect(f"file:{out}/.audio-batch/journal.sqlite3?mode=ro", uri=True)
        ) as db,
    ):
        row = db.execute("SELECT count(*) FROM assets WHERE state = 'done'").fetchone()
        return int(row[0])
    return 0
