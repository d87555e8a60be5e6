"""The journal against real SQLite files."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path, PureWindowsPath

import pytest
from attempt_rows import count_attempts

from audio_batch.errors import ErrorKind, SetupError
from audio_batch.journal import Journal
from audio_batch.journal_file import read_only_uri
from audio_batch.outcome import Outcome, Stage, StageRecord, State
from audio_batch.plan import stands_all_the_same
from audio_batch.storage import PublishedFile

OUTPUT = PublishedFile(format="json", path="a.json", size_bytes=3, sha256="0" * 64)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite3"


def start(journal: Journal, asset_id: str = "a", *, source: str = "1:1", print_: str = "f") -> int:
    return journal.start(
        asset_id,
        name="A",
        source=source,
        fingerprint=print_,
        rendering="r",
        device="cpu",
        run_id=1,
    )


def done(asset_id: str = "a", **more: object) -> Outcome:
    return Outcome(
        asset_id=asset_id,
        state=State.DONE,
        fingerprint="f",
        device="cpu",
        outputs=(OUTPUT,),
        duration_s=2.5,
        notes=("clipped",),
        timings_s={"decode": 0.1},
        **more,  # type: ignore[arg-type]
    )


def opened(path: Path) -> Journal:
    journal = Journal(path)
    journal.begin_run(version="0", request={"manifest": "m"})
    return journal


def test_an_outcome_is_there_for_another_process(path: Path) -> None:
    journal = opened(path)
    assert start(journal) == 1
    journal.finish(done())
    reader = Journal(path, read_only=True)
    (entry,) = reader.entries()
    assert entry.state is State.DONE
    assert entry.outputs == (OUTPUT,)
    assert (entry.duration_s, entry.notes, entry.timings_s) == (2.5, ("clipped",), {"decode": 0.1})


def test_attempts_count_until_the_input_or_the_options_change(path: Path) -> None:
    journal = opened(path)
    assert [start(journal), start(journal)] == [1, 2]
    assert start(journal, source="2:2") == 1
    assert start(journal, source="2:2", print_="g") == 1
    assert count_attempts(path) == 4


def test_an_attempt_that_does_not_count_is_taken_back(path: Path) -> None:
    journal = opened(path)
    start(journal)
    journal.finish(Outcome("a", State.INTERRUPTED, "f", "cpu"), counts=False)
    assert start(journal) == 1


def test_debris_becomes_interrupted_and_keeps_its_attempt(path: Path) -> None:
    journal = opened(path)
    start(journal)
    start(journal, "b")
    journal.finish(done("b"))
    assert Journal(path).settle_debris(crashed=False) == ["a"]
    entries = {entry.asset_id: entry for entry in journal.entries()}
    assert (entries["a"].state, entries["a"].attempts, entries["a"].deaths) == (
        State.INTERRUPTED,
        1,
        0,
    )
    assert entries["b"].state is State.DONE


def test_a_crash_is_counted_against_what_ran(path: Path) -> None:
    journal = opened(path)
    start(journal)
    journal.settle_debris(crashed=True)
    (entry,) = journal.entries()
    assert entry.deaths == 1
    start(journal, source="changed")
    assert next(iter(journal.entries())).deaths == 0


def test_what_was_published_survives_an_interrupted_rendering(path: Path) -> None:
    journal = opened(path)
    start(journal)
    journal.finish(done())
    start(journal)
    journal.finish(Outcome("a", State.INTERRUPTED, "f", "cpu"), counts=False)
    (entry,) = journal.entries()
    assert entry.outputs == (OUTPUT,)


def test_a_rendering_keeps_what_the_transcription_said(path: Path) -> None:
    journal = opened(path)
    start(journal)
    journal.finish(done())
    start(journal)
    journal.finish(
        Outcome("a", State.DONE, "f", "cpu", outputs=(OUTPUT, OUTPUT), rendered_only=True)
    )
    (entry,) = journal.entries()
    assert (entry.duration_s, entry.notes, len(entry.outputs)) == (2.5, ("clipped",), 2)


@pytest.mark.parametrize("state", [State.FAILED, State.INTERRUPTED])
def test_what_was_found_out_stands_beside_the_outputs_it_belongs_to(
    path: Path, state: State
) -> None:
    """Else a note of damage is lost, and `--damaged fail` lets the recording pass."""
    journal = opened(path)
    start(journal)
    journal.finish(done())
    start(journal)
    journal.finish(Outcome("a", state, "f", "cpu"), counts=False)
    (entry,) = journal.entries()
    assert (entry.notes, entry.duration_s, entry.outputs) == (("clipped",), 2.5, (OUTPUT,))
    start(journal, source="changed")
    (entry,) = journal.entries()
    assert (entry.notes, entry.duration_s, entry.outputs) == ((), None, ())


def test_failures_and_runs_are_told(path: Path) -> None:
    journal = opened(path)
    start(journal)
    journal.finish(
        Outcome(
            "a", State.FAILED, "f", "cpu", error_kind=ErrorKind.NOT_MEDIA, error_text="no media"
        )
    )
    journal.end_run(1, 3)
    (entry,) = journal.entries()
    assert (entry.error_kind, entry.error_text) == (ErrorKind.NOT_MEDIA, "no media")
    run = journal.last_run()
    assert run is not None
    assert (run.exit_code, run.request) == (3, {"manifest": "m"})


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"this is no database" * 100,
        lambda data: data[:100] + b"\x00" * 4096 + data[4196:],
        lambda data: data[: len(data) // 2],
    ],
)
def test_damage_is_diagnosed_with_a_remedy(path: Path, damage: object) -> None:
    journal = opened(path)
    for number in range(200):
        start(journal, f"asset-{number}")
    journal.close()
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(SetupError, match=r"damaged.*Your outputs are untouched"):
        list(Journal(path).entries())


def test_a_hundred_overwritten_journals_are_diagnosed_or_read(path: Path) -> None:
    """4 kB of noise anywhere: a sentence, never another exception."""
    journal = opened(path)
    for number in range(120):
        start(journal, f"asset-{number}")
        journal.finish(done(f"asset-{number}"))
    journal.close()
    whole, chance, diagnosed = path.read_bytes(), random.Random(7), 0
    for _ in range(100):
        at = chance.randrange(0, len(whole) - 4096)
        path.write_bytes(whole[:at] + chance.randbytes(4096) + whole[at + 4096 :])
        try:
            reader = Journal(path, read_only=True)
            assert len(list(reader.entries())) <= 120
            reader.last_run()
        except SetupError as error:
            diagnosed += 1
            assert error.remedy
    assert diagnosed > 50


TORN = """
import os, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA cache_size=1")
db.execute("BEGIN IMMEDIATE")
db.execute("UPDATE assets SET state = 'failed'")
db.executemany(
    "INSERT INTO attempts (asset_id, run_id, state, started_at) VALUES (?, 1, 'running', 0)",
    [("x" * 500,)] * 2000,
)
os._exit(9)
"""


def test_a_reader_rolls_back_what_a_killed_writer_left(path: Path) -> None:
    journal = opened(path)
    start(journal)
    journal.finish(done())
    journal.close()
    subprocess.run([sys.executable, "-c", TORN, str(path)], check=False)
    assert path.with_name(f"{path.name}-journal").stat().st_size > 0
    reader = Journal(path, read_only=True)
    assert [entry.state for entry in reader.entries()] == [State.DONE]
    assert count_attempts(path) == 1


def test_a_share_of_windows_is_no_host_to_sqlite(path: Path) -> None:
    opened(path).close()
    share = PureWindowsPath(f"/{path.as_posix()}")  # //tmp/… is a UNC path there, and /tmp here
    with closing(sqlite3.connect(read_only_uri(share), uri=True)) as db:
        assert db.execute("SELECT count(*) FROM assets").fetchone() == (0,)
    names = ("C:/night 1/a#b.sqlite3", "//nas/talks/50%/ü?.sqlite3")
    assert [read_only_uri(PureWindowsPath(name)) for name in names] == [
        "file:///C:/night%201/a%23b.sqlite3?mode=ro",
        "file:////nas/talks/50%25/%C3%BC%3F.sqlite3?mode=ro",
    ]


def test_a_newer_journal_is_refused(path: Path) -> None:
    opened(path).close()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE meta SET value = '99' WHERE key = 'schema_version'")
    with pytest.raises(SetupError, match="newer audio-batch"):
        Journal(path)


def test_commits_wait_for_the_disk(path: Path) -> None:
    journal = opened(path)
    row = journal._db.execute("PRAGMA synchronous").fetchone()
    mode = journal._db.execute("PRAGMA journal_mode").fetchone()
    assert (row[0], mode[0]) == (3, "delete")  # EXTRA


HEARD = (StageRecord("a", Stage.TRANSCRIBE, "1:1", "f", OUTPUT, "cpu", 1.0),)
DOUBTS = ("no words in 312 s of speech", "the same word 40 times on end")


def only(journal: Journal) -> tuple[State, tuple[str, ...], int]:
    (entry,) = journal.entries()
    return entry.state, entry.suspicions, entry.redone


def test_suspicions_belong_to_the_words_that_stand(path: Path) -> None:
    journal = opened(path)
    start(journal)
    journal.finish(done(suspicions=DOUBTS, stages=HEARD))
    assert only(Journal(path, read_only=True)) == (State.DONE, DOUBTS, 0)
    start(journal)
    journal.finish(Outcome("a", State.DONE, "f", "cpu", outputs=(OUTPUT,), rendered_only=True))
    assert only(journal) == (State.DONE, DOUBTS, 0)
    start(journal)
    journal.finish(done(stages=HEARD))
    assert only(journal) == (State.DONE, (), 0)
    start(journal)
    journal.finish(done(suspicions=DOUBTS, stages=HEARD))
    start(journal, source="changed")
    assert only(journal) == (State.RUNNING, (), 0)


def test_a_redo_counts_when_its_words_stand_or_it_is_given_up(path: Path) -> None:
    journal = opened(path)
    start(journal)
    journal.finish(done(suspicions=DOUBTS, stages=HEARD))
    start(journal)
    journal.finish(Outcome("a", State.INTERRUPTED, "f", "cpu"), counts=False, redo=True)
    assert only(journal) == (State.INTERRUPTED, DOUBTS, 0)
    start(journal)
    journal.finish(done(suspicions=DOUBTS[:1], stages=HEARD), redo=True)
    assert only(journal) == (State.DONE, DOUBTS[:1], 1)
    start(journal)
    journal.finish(done(suspicions=DOUBTS, stages=HEARD))
    assert only(journal) == (State.DONE, DOUBTS, 0)
    start(journal)
    given_up = stands_all_the_same(Outcome("a", State.FAILED, "f", "cpu", error_text="no memory"))
    journal.finish(given_up, redo=True)
    assert only(journal) == (State.DONE, DOUBTS, 1)
    (entry,) = journal.entries()
    assert (entry.outputs, entry.error_text, entry.notes) == ((OUTPUT,), None, ("clipped",))


_BEFORE_3 = (
    "ALTER TABLE assets DROP COLUMN suspicions",
    "ALTER TABLE assets DROP COLUMN redone",
)
_BEFORE_4 = ("DROP INDEX attempts_running", "DROP TABLE parts")
OLDER = {
    1: ("DROP TABLE stages", "ALTER TABLE assets DROP COLUMN missing", *_BEFORE_3, *_BEFORE_4),
    2: (*_BEFORE_3, *_BEFORE_4),
    3: _BEFORE_4,
    4: (),
}


@pytest.mark.parametrize("version", OLDER)
def test_an_older_journal_is_read_as_it_is_and_brought_up_by_a_run(
    path: Path, version: int
) -> None:
    journal = opened(path)
    start(journal)
    journal.finish(done())
    journal.close()
    with sqlite3.connect(path) as db:
        db.execute("DROP INDEX assets_suspect")
        db.execute("DROP INDEX assets_noted")
        for statement in OLDER[version]:
            db.execute(statement)
        db.execute("UPDATE meta SET value = ? WHERE key = 'schema_version'", (str(version),))
    before = path.read_bytes()
    assert only(Journal(path, read_only=True)) == (State.DONE, (), 0)
    assert path.read_bytes() == before
    journal = Journal(path)
    assert only(journal) == (State.DONE, (), 0)
    start(journal)
    journal.finish(done(suspicions=DOUBTS, stages=HEARD), redo=True)
    assert only(Journal(path, read_only=True)) == (State.DONE, DOUBTS, 1)
    assert journal.stage_counts() == {"transcribe": 1}


def test_the_end_of_an_attempt_does_not_read_all_attempts(path: Path) -> None:
    opened(path).close()
    with sqlite3.connect(path) as db:
        steps = db.execute(
            "EXPLAIN QUERY PLAN UPDATE attempts SET state = 'done'"
            " WHERE asset_id = 'a' AND state = 'running'"
        ).fetchall()
    assert "USING INDEX attempts_running" in steps[0][3]


@pytest.mark.parametrize("column", ["suspicions", "notes"])
def test_the_few_of_a_million_are_found_without_reading_all(path: Path, column: str) -> None:
    opened(path).close()
    with sqlite3.connect(path) as db:
        steps = db.execute(
            f"EXPLAIN QUERY PLAN SELECT asset_id FROM assets WHERE {column} != '[]'"
        ).fetchall()
    assert "USING INDEX assets_" in steps[0][3] or "COVERING INDEX assets_" in steps[0][3]


def states(path: Path) -> dict[str, State]:
    journal = Journal(path, read_only=True)
    try:
        return {entry.asset_id: entry.state for entry in journal.entries()}
    finally:
        journal.close()


GROUPED = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from test_journal import HEARD, done, opened, start

journal = opened(Path(sys.argv[1]))
with journal.grouped():
    start(journal, "a")
    journal.finish_stage(HEARD[0])
    journal.finish(done("a", stages=HEARD))
    start(journal, "b")
with journal.grouped():
    journal.finish(done("b"))
    start(journal, "c")
    journal.quarantine("a", "killed")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_of_a_group_all_is_there_or_nothing(path: Path) -> None:
    arguments = [sys.executable, "-c", GROUPED, str(path), str(Path(__file__).parent)]
    killed = subprocess.run(arguments, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert states(path) == {"a": State.DONE, "b": State.RUNNING}
    assert Journal(path).stage_counts() == {"transcribe": 1}


def test_a_group_is_seen_by_others_when_it_has_ended(path: Path) -> None:
    journal = opened(path)
    with journal.grouped():
        assert [start(journal), start(journal)] == [1, 2]
        journal.finish(done())
        assert states(path) == {}
    assert states(path) == {"a": State.DONE}


def test_a_write_that_fails_takes_its_group_back(path: Path) -> None:
    journal = opened(path)
    start(journal, "before")
    with pytest.raises(SetupError, match="cannot be used") as caught, journal.grouped():
        start(journal, "a")
        with pytest.raises(SetupError):
            journal.finish(done("a", speech_s=object()))  # what SQLite cannot hold
        start(journal, "b")
    assert caught.value.remedy
    assert states(path) == {"before": State.RUNNING}
    start(journal, "after")
    assert states(path).keys() == {"before", "after"}


def test_what_was_written_before_another_error_is_kept(path: Path) -> None:
    journal = opened(path)
    with pytest.raises(KeyError, match="theirs"), journal.grouped():
        start(journal)
        journal.finish(done())
        raise KeyError("theirs")
    assert states(path) == {"a": State.DONE}
    start(journal, "b")
    assert states(path)["b"] is State.RUNNING


def test_a_group_that_cannot_be_committed_is_gone(path: Path) -> None:
    """A reader in the middle of its work keeps a writer from committing."""
    journal = opened(path)
    start(journal, "before")
    journal._db.execute("PRAGMA busy_timeout=50")
    reader = sqlite3.connect(path)
    with pytest.raises(SetupError, match="locked"), journal.grouped():
        start(journal)
        rows = reader.execute("SELECT * FROM assets UNION ALL SELECT * FROM assets")
        rows.fetchone()
    rows.close()
    reader.close()
    assert states(path) == {"before": State.RUNNING}
    start(journal, "after")
    assert states(path).keys() == {"before", "after"}


def test_groups_do_not_nest_and_an_empty_one_writes_nothing(path: Path) -> None:
    journal = opened(path)
    with pytest.raises(ValueError, match="another"), journal.grouped():
        start(journal)
        with journal.grouped():
            pass
    assert states(path) == {"a": State.RUNNING}
    before = path.stat().st_mtime_ns
    with journal.grouped():
        assert not journal._db.in_transaction
    assert path.stat().st_mtime_ns == before
