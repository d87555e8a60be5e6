"""A disk that errs, writes short, fills up, or goes away with the machine, at every step."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from program import text_outputs, write_manifest
from shim import Call, Disk, build, calls, entries, memory_folder, torn

from audio_batch.outcome import State

NIGHT = ("run", "manifest.json", "--engine", "null", "--retry-delay", "0.01", "-t", "1")
NIGHT += ("--isolation", "thread")  # the shim counts the calls of one process
SAMPLE = (1, 9, 23, 38, 53, 71, 80, 100)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    with Disk(build(tmp_path_factory.mktemp("shim"))) as disk:
        yield disk


@pytest.fixture
def place() -> Iterator[Path]:
    with memory_folder() as folder:
        write_manifest(folder, 2)
        yield folder


def night(place: Path, disk: Disk, out: str) -> list[Call]:
    """An undisturbed run of the two recordings, and what it did to the disk."""
    log = place / f"{out}.log"
    answer = disk.run(place, *NIGHT, "-o", out, below=place, log=log)
    assert answer.code == 0, answer.err
    assert not torn(place / out)
    return calls(log)


def whole(place: Path) -> dict[str, bytes]:
    found = text_outputs(place / "whole")
    assert len(found) == 4
    return found


def recovers(place: Path, disk: Disk, out: str) -> None:
    """Nothing that is called done is torn, and the next run gets to where it should be."""
    assert not torn(place / out)
    before = {
        id_: e.finished_at for id_, e in entries(place / out).items() if e.state is State.DONE
    }
    again = disk.run(place, *NIGHT, "-o", out)
    assert again.code == 0, again.err
    after = entries(place / out)
    assert {id_: after[id_].finished_at for id_ in before} == before
    assert [entry.state for entry in after.values()] == [State.DONE] * 2
    assert not torn(place / out)
    assert text_outputs(place / out) == whole(place)
    if "Nothing to do" not in again.err:  # else it changes nothing at all
        assert not list((place / out).rglob(".audio-batch-tmp-*"))


def fails_at(place: Path, disk: Disk, nth: int, effect: str) -> None:
    out = f"{effect}-{nth}"
    answer = disk.run(
        place, *NIGHT, "-o", out, below=place / out, op="write", nth=nth, effect=effect
    )
    assert answer.code in (0, 5), answer.err
    assert "Traceback" not in answer.err
    recovers(place, disk, out)


def test_a_write_that_fails_is_never_called_done(place: Path, disk: Disk) -> None:
    night(place, disk, "whole")
    for number, nth in enumerate(SAMPLE):
        fails_at(place, disk, nth, "EIO" if number % 2 else "short")


@pytest.mark.slow
@pytest.mark.parametrize("effect", ["EIO", "short", "ENOSPC"])
def test_none_of_a_hundred_writes_that_fail_is_called_done(
    place: Path, disk: Disk, effect: str
) -> None:
    night(place, disk, "whole")
    for nth in range(1, 101):
        fails_at(place, disk, nth, effect)


def call_fails_at(place: Path, disk: Disk, op: str, nth: int) -> None:
    out = f"{op}-{nth}"
    fault = {"op": op, "nth": nth, "effect": "EIO"}
    answer = disk.run(place, *NIGHT, "-o", out, below=place / out, **fault)
    assert answer.code in (0, 5), answer.err
    assert "Traceback" not in answer.err
    recovers(place, disk, out)


OTHER_CALLS = ("open", "fsync", "syncdir", "rename", "link", "unlink", "mkdir")


def test_any_other_call_that_fails_is_no_lie_either(place: Path, disk: Disk) -> None:
    done = in_out(night(place, disk, "whole"), place, "whole")
    for op in OTHER_CALLS:
        call_fails_at(place, disk, op, max(1, sum(call.op == op for call in done) * 2 // 3))


@pytest.mark.slow
@pytest.mark.parametrize("op", OTHER_CALLS)
def test_every_other_call_may_fail(place: Path, disk: Disk, op: str) -> None:
    done = in_out(night(place, disk, "whole"), place, "whole")
    for nth in range(1, sum(call.op == op for call in done) + 1):
        call_fails_at(place, disk, op, nth)


def fills_up_at(place: Path, disk: Disk, nth: int) -> None:
    out = f"full-{nth}"
    fault = {"op": "write", "nth": nth, "effect": "ENOSPC", "repeat": 1}
    answer = disk.run(place, *NIGHT, "-o", out, below=place / out, **fault)
    assert answer.code == 5, answer.err
    assert "disk is full" in answer.err
    assert "Free some space" in answer.err
    assert "Traceback" not in answer.err
    recovers(place, disk, out)


def test_a_disk_that_fills_up_is_named_and_a_rerun_goes_on(place: Path, disk: Disk) -> None:
    done = [call for call in night(place, disk, "whole") if call.op == "write"]
    of_outputs = [n for n, call in enumerate(done, 1) if "-tmp-" in call.path]
    # Into the journal's first table, a kept result, an output, the last output, the summary.
    for nth in (1, of_outputs[0], of_outputs[1], of_outputs[-2], of_outputs[-1]):
        fills_up_at(place, disk, nth)


@pytest.mark.slow
def test_a_disk_may_fill_up_at_any_write(place: Path, disk: Disk) -> None:
    count = sum(call.op == "write" for call in night(place, disk, "whole"))
    for nth in range(1, count + 1):
        fills_up_at(place, disk, nth)


STEPS = {
    *((op, "-tmp-") for op in ("open", "write", "fsync", "rename", "link", "unlink")),
    ("syncdir", "folder"),
    *((op, "sqlite3-journal") for op in ("open", "write", "fsync", "unlink")),
    *((op, "sqlite3") for op in ("write", "fsync")),
}


def kind(call: Call) -> tuple[str, str]:
    """A step of publication, whatever the file."""
    for sign in ("sqlite3-journal", "sqlite3", "-tmp-", ".log", ".lock"):
        if sign in call.path:
            return call.op, sign
    return call.op, "folder"


def dies_at(place: Path, disk: Disk, below: list[Call], nth: int, when: str) -> None:
    out = f"{when}-{nth}"
    answer = disk.run(place, *NIGHT, "-o", out, below=place / out, op="any", nth=nth, effect=when)
    assert answer.code == 137, (below[nth - 1], answer.err)
    recovers(place, disk, out)


def in_out(log: list[Call], place: Path, out: str) -> list[Call]:
    return [call for call in log if str(place / out) in call.path]


def test_a_death_at_each_kind_of_step_recovers(place: Path, disk: Disk) -> None:
    below = in_out(night(place, disk, "whole"), place, "whole")
    middle = {kind(call): n for n, call in enumerate(below[: len(below) * 2 // 3], 1)}
    middle = {step: n for step, n in middle.items() if step in STEPS}
    assert set(middle) == STEPS
    # The next call is what happens right after this one.
    after = {
        n + 1 for (op, _), n in middle.items() if op in ("rename", "link", "syncdir", "unlink")
    }
    for nth in sorted({*middle.values(), *after}):
        dies_at(place, disk, below, nth, "before")


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_death_at_any_step_recovers(place: Path, disk: Disk, when: str) -> None:
    below = in_out(night(place, disk, "whole"), place, "whole")
    for nth in range(1, len(below) + 1):
        dies_at(place, disk, below, nth, when)


def commits(log: list[Call]) -> list[int]:
    """Where SQLite's transactions become durable: the rollback journal goes."""
    return [n for n, call in enumerate(log) if call.op == "unlink" and call.is_journal]


def test_what_is_journalled_is_on_the_disk(place: Path, disk: Disk) -> None:
    """write < fsync < link < fsync of the folder < commit, for every file that is published."""
    manifest = json.loads((place / "manifest.json").read_text())
    for number, asset in enumerate(manifest["assets"]):
        asset["name"] = f"name-{number}"
    (place / "manifest.json").write_text(json.dumps(manifest))
    log = place / "log"
    template = ("--output-template", "deep/{shelf}/{id}")
    answer = disk.run(place, *NIGHT, "-o", "out", *template, below=place, log=log)
    assert answer.code == 0, answer.err
    done = calls(log)
    published = 0
    for entry in entries(place / "out").values():
        steps = []
        assert entry.outputs[-1].format == "json", "it vouches for the others"
        for output in entry.outputs:
            target = str(place / "out" / output.path)
            (named,) = [n for n, call in enumerate(done) if call.to == target]
            temporary = done[named].path
            written = [
                n for n, call in enumerate(done) if (call.op, call.path) == ("write", temporary)
            ]
            (synced,) = [
                n for n, call in enumerate(done) if (call.op, call.path) == ("fsync", temporary)
            ]
            folder = next(
                n
                for n, call in enumerate(done)
                if n > named and (call.op, call.path) == ("syncdir", str(Path(target).parent))
            )
            assert max(written) < synced < named < folder
            assert min(written) > max(steps, default=0)
            steps += [min(written), folder]
            published += 1
        assert not [n for n in commits(done) if min(steps) < n < max(steps)]
        assert [n for n in commits(done) if n > max(steps)]
    assert published == 6
    assert not [call for call in done if call.path.endswith(("-wal", "-shm"))]


def test_a_new_folder_is_on_the_disk_before_what_is_in_it_is_journalled(
    place: Path, disk: Disk
) -> None:
    log = place / "log"
    out = place / "new/nights/out"
    template = ("--output-template", "deep/{shelf}/{id}")
    answer = disk.run(place, *NIGHT, "-o", out, *template, below=place, log=log)
    assert answer.code == 0, answer.err
    done = calls(log)
    made = {}
    for n, call in enumerate(done):
        if call.op == "mkdir":
            made.setdefault(Path(call.path), n)
    assert {place / "new", out, out / ".audio-batch", out / "deep", out / "deep/1"} <= set(made)
    for folder, n in made.items():
        commit = next(c for c in commits(done) if c > n)
        synced = ("syncdir", str(folder.parent))
        assert synced in [(call.op, call.path) for call in done[n:commit]], folder


def test_an_asset_is_not_done_before_its_folder_is_synced(place: Path, disk: Disk) -> None:
    fault = {"op": "syncdir", "nth": 1, "effect": "before"}
    done = in_out(night(place, disk, "whole"), place, "whole")
    last = max(n for n, call in enumerate(done) if call.to.endswith("tone-000.json"))
    before = [call for call in done[: last + 1] if call.op == "syncdir"]
    fault["nth"] = len(before) + 1
    answer = disk.run(place, *NIGHT, "-o", "out", below=place / "out", **fault)
    assert answer.code == 137
    assert (place / "out/tone-000.json").is_file()
    assert entries(place / "out")["tone-000"].state is State.RUNNING
    recovers(place, disk, "out")


def tree(folder: Path) -> dict[str, tuple[str, int]]:
    """Hash and time of change of every file and folder but the state folder's."""
    return {
        path.relative_to(folder).as_posix(): (
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
            path.stat().st_mtime_ns,
        )
        for path in sorted(folder.rglob("*"))
        if ".audio-batch" not in path.relative_to(folder).parts
    }


def test_a_rerun_with_nothing_to_do_writes_nothing(place: Path, disk: Disk) -> None:
    night(place, disk, "whole")
    before = tree(place / "whole")
    log = place / "again.log"
    answer = disk.run(place, *NIGHT, "-o", "whole", below=place / "whole", log=log)
    assert "Nothing to do" in answer.err
    assert tree(place / "whole") == before
    changed = [call for call in calls(log) if call.op != "syncdir"]
    assert all(".audio-batch" in call.path for call in changed)
    # But for a row of the journal, which says that it has been.
    written = {
        Path(call.path).name for call in changed if call.op not in ("open", "mkdir", "unlink")
    }
    assert written == {"journal.sqlite3", "journal.sqlite3-journal"}


def test_a_moved_folder_is_not_done_again(place: Path, disk: Disk) -> None:
    night(place, disk, "whole")
    (place / "whole").rename(place / "elsewhere")
    assert "Nothing to do" in disk.run(place, *NIGHT, "-o", "elsewhere").err
    (place / "project").mkdir()
    for name in ("audio", "manifest.json", "elsewhere"):
        (place / name).rename(place / "project" / name)
    answer = disk.run(place / "project", *NIGHT, "-o", "elsewhere")
    assert "Nothing to do" in answer.err
    sound = disk.run(place / "project", "verify", "elsewhere")
    assert sound.code == 0, sound.out


def test_a_clock_that_jumps_costs_nothing(place: Path, disk: Disk) -> None:
    clock = place / "clock"

    def at(offset_s: int, count: int) -> str:
        write_manifest(place, count) if count > len(list((place / "audio").iterdir())) else None
        clock.write_text(str(offset_s))
        answer = disk.run(place, *NIGHT, "-o", "out", clock=clock, below=place / "out")
        assert answer.code == 0, answer.err
        return answer.err

    at(864_000, 2)
    stamps = {id_: entry.finished_at for id_, entry in entries(place / "out").items()}
    assert "Nothing to do" in at(-864_000, 2)
    assert "Nothing to do" in at(0, 2)
    assert {id_: entry.finished_at for id_, entry in entries(place / "out").items()} == stamps
    assert disk.run(place, "verify", "out", clock=clock).code == 0


def test_a_clock_that_jumps_during_a_run_changes_nothing_but_stamps(
    place: Path, disk: Disk
) -> None:
    clock, over = place / "clock", threading.Event()

    def jump() -> None:
        offset_s = 86_400
        while not over.wait(0.01):
            offset_s = -offset_s
            replacement = place / "clock.new"
            replacement.write_text(str(offset_s))
            replacement.rename(clock)

    jumper = threading.Thread(target=jump)
    jumper.start()
    try:
        slow = ("--model", "null:150", "-o", "out")
        answer = disk.run(place, *NIGHT, *slow, below=place / "out", clock=clock)
    finally:
        over.set()
        jumper.join()
    assert answer.code == 0, answer.err
    summary = json.loads((place / "out/summary.json").read_text())
    assert (summary["done"], summary["failed"], summary["not_done"]) == (2, 0, 0)
    assert 0.3 <= summary["wall_s"] < 600
    for entry in entries(place / "out").values():
        assert all(0 <= seconds < 600 for seconds in entry.timings_s.values())
        assert entry.timings_s["transcribe"] >= 0.15
    assert "Nothing to do" in disk.run(place, *NIGHT, *slow).err
