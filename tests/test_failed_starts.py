"""A start that fails leaves nothing behind, and is told of by `status` until a run has begun."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest
from forked import completed
from program import Answer, environment, write_manifest
from stores.s3 import S3

from audio_batch.errors import UsageError
from audio_batch.failed_starts import FailedStart, FailedStarts
from audio_batch.folder_lock import is_held
from audio_batch.journal import Journal
from audio_batch.output_folder import OutputFolder
from audio_batch.storage import STATE_FOLDER
from audio_batch.traces import Traces

slow = pytest.mark.slow
NULL = ("--engine", "null", "--isolation", "thread", "-f", "txt", "-y")
NO_MODEL = ("--model", "nobody/no-such-model", "--offline")


def tree(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_manifest(tmp_path, 2)
    (tmp_path / "cache").mkdir()
    return tmp_path


def ask(place: Path, *arguments: object, code: int, **variables: str) -> Answer:
    env = environment(AUDIO_BATCH_CACHE_DIR=str(place / "cache"), **variables)
    answer = completed(arguments, place, env)
    assert answer.code == code, answer.err
    return answer


@pytest.mark.parametrize(
    "where",
    [
        ("-o", "new/nights/out"),
        pytest.param(("-o", "out", "--state-dir", "new/state"), marks=slow),
        pytest.param(("-o", "out", "--shard", "1/2"), marks=slow),
        pytest.param(("-o", "out", "--state-dir", "new/state", "--shard", "1/2"), marks=slow),
        ("-o", "there"),
    ],
    ids=["new", "state elsewhere", "shard", "shard elsewhere", "folder of others"],
)
def test_a_start_without_its_model_leaves_nothing(place: Path, where: tuple[str, ...]) -> None:
    (place / "there").mkdir()
    (place / "there/notes.txt").write_text("A person's.")
    before = [name for name in tree(place) if not name.startswith("cache/")]
    answer = ask(place, "run", "manifest.json", *where, *NO_MODEL, code=5)
    assert "no-such-model" in answer.err
    assert [name for name in tree(place) if not name.startswith("cache/")] == before


def test_a_start_that_its_preflight_ends_leaves_nothing(place: Path) -> None:
    (place / "out").mkdir()
    (place / "out/tone-000.txt").write_text("A person's.")
    ask(place, "run", "manifest.json", "-o", "out", *NULL, code=5)
    assert tree(place / "out") == ["tone-000.txt"]


@slow
def test_a_start_into_a_bucket_that_is_not_there_leaves_no_state(place: Path, s3: S3) -> None:
    home = {"XDG_STATE_HOME": str(place / "home"), "LOCALAPPDATA": str(place / "home")}
    where = "s3://no-such-bucket/out"
    more = ("-o", where, "--s3-endpoint", s3.endpoint, *NULL)
    ask(place, "run", "manifest.json", *more, code=5, **home)
    assert not (place / "home").exists()
    told = ask(place, "status", where, code=2, **home)
    assert "ended before it began: exit code 5. s3://no-such-bucket/out cannot be" in told.err


def test_status_tells_of_the_last_start_until_a_run_has_begun(place: Path) -> None:
    more = ("run", "manifest.json", "-o", "out")
    ask(place, *more, *NO_MODEL, code=5)
    told = ask(place, "status", "out", code=2)
    assert "holds no journal of a run. The last start, " in told.err
    assert "ended before it began: exit code 5. " in told.err
    assert "no-such-model" in told.err
    ask(place, *more, *NULL, code=0)
    assert "last start" not in ask(place, "status", "out", code=0).out
    before = tree(place / "out")
    (place / "manifest.json").rename(place / "good.json")
    (place / "manifest.json").write_text("[{}]")
    ask(place, *more, *NULL, code=4)
    assert tree(place / "out") == before
    told = ask(place, "status", "out", code=0)
    first, second = told.out.splitlines()[:2]
    assert first.startswith("The last start, ") and "exit code 4" in first
    assert second.startswith("Last run: began ")
    (start,) = json.loads(ask(place, "status", "out", "--json", code=0).out)["failed_starts"]
    assert (start["exit_code"], start["shard"]) == (4, None)
    # Each part has its own, and another folder none.
    ask(place, *more, "--shard", "2/2", code=4)
    assert "The last start of part 2/2, " in ask(place, "status", "out", code=0).out
    assert "last start" not in ask(place, "status", "other", code=2).err
    (place / "good.json").replace(place / "manifest.json")
    ask(place, *more, *NULL, code=0)  # nothing to do
    assert "last start," not in ask(place, "status", "out", code=0).out
    assert (place / "out" / STATE_FOLDER).is_dir()


class Failure(Exception):
    pass


@contextmanager
def started(
    folder: OutputFolder, meanwhile: Callable[[], None] = lambda: None
) -> Iterator[Journal]:
    """A start in a new folder, as a session begins it."""
    with ExitStack() as stack:
        traces = Traces(folder)
        stack.push(traces.leave)
        meanwhile()
        folder.create()
        stack.enter_context(folder.locked())
        stack.push(traces.clear)
        folder.create()
        journal = Journal(folder.journal_path)
        stack.callback(journal.close)
        yield journal


@pytest.mark.parametrize("first", ["1/2", None])
@pytest.mark.parametrize("is_elsewhere", [False, True])
def test_a_failed_start_leaves_what_a_part_beside_it_needs(
    tmp_path: Path, first: str | None, is_elsewhere: bool
) -> None:
    state = tmp_path / "state" if is_elsewhere else None

    def folder(shard: str | None) -> OutputFolder:
        return OutputFolder.at(str(tmp_path / "out"), state_dir=state, shard=shard)

    def begin_other() -> None:
        with started(folder("2/2")) as journal:
            journal.begin_run(version="1", request={})

    with pytest.raises(Failure), started(folder(first), begin_other):
        raise Failure
    whole = folder(None).whole
    assert os.name == "nt" or (whole / "run.lock").is_file()  # there a lock goes with its holder
    assert not folder("1/2").state.exists()
    assert (folder("2/2").journal_path).is_file()
    if is_elsewhere:
        with pytest.raises(UsageError, match="holds the state of"):
            OutputFolder.at(str(tmp_path / "other"), state_dir=state, shard="1/2").create()


def test_a_failed_start_takes_nothing_from_one_that_begins_beside_it(tmp_path: Path) -> None:
    def folder() -> OutputFolder:
        return OutputFolder.at(str(tmp_path / "out"), state_dir=tmp_path / "state")

    good = folder()
    with pytest.raises(Failure), started(folder()):
        good.create()
        raise Failure
    assert not good.root.exists()
    with good.locked():
        # Runs with other states of their own see that the outputs are taken.
        assert is_held(good.root / STATE_FOLDER)


REMOVING = """
import os, sys
print("ready", flush=True)
left = 10
while left:
    try:
        os.rmdir(sys.argv[1])
        left -= 1
    except OSError:
        pass
"""


def test_a_folder_that_others_take_back_is_made_again(tmp_path: Path) -> None:
    folder = OutputFolder.at(str(tmp_path / "out"))
    command = [sys.executable, "-c", REMOVING, str(folder.state)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as removing:
        try:
            assert removing.stdout is not None and removing.stdout.readline()
            while removing.poll() is None:
                with suppress(Failure), started(folder):
                    assert is_held(folder.state)
                    raise Failure
        finally:
            removing.kill()


def test_a_manifest_at_a_url_is_refused_and_its_password_kept_nowhere(place: Path) -> None:
    url = "https://me:geheim123@127.0.0.1:1/m.json"
    said = ask(place, "run", url, "-o", "out", code=2).err
    assert "The manifest is a local file, not https://***@127.0.0.1:1/m.json." in said
    # And what is kept of starts is for the user alone to read.
    ask(place, "run", "https.json", "-o", "out", *NULL, code=4)
    kept = place / "cache/starts.json"
    assert "geheim" not in said + kept.read_text()
    assert os.name == "nt" or kept.stat().st_mode & 0o077 == 0


STATUS = ("status", "out", "--state-dir", "state", "--json")


def test_a_start_is_told_of_until_others_have_done_its_work(place: Path) -> None:
    """The whole does the work of its parts, a part some of the whole's; and clocks are set."""
    hour_s = 3600.0
    now = time.time()

    def failed_at(*starts: tuple[str, float]) -> None:
        out = str(place / "out")
        kept = [FailedStart(out, shard, now + at, 5, "No.") for shard, at in starts]
        FailedStarts(place / "cache/starts.json").keep(*kept)

    def begun_at(shard: str | None, at: float) -> None:
        folder = OutputFolder.at(str(place / "out"), state_dir=place / "state", shard=shard)
        folder.create()
        journal = Journal(folder.journal_path)
        journal.begin_run(version="1", request={})
        journal.close()
        with closing(sqlite3.connect(folder.journal_path)) as database, database:
            database.execute("UPDATE runs SET started_at = ?", (now + at,))

    def told() -> list[str | None]:
        answer = json.loads(ask(place, *STATUS, code=0).out)
        return [start["shard"] for start in answer["failed_starts"]]

    begun_at("1/2", -5 * hour_s)
    failed_at(("", -4 * hour_s), ("2/2", -4 * hour_s), ("1/2", hour_s))
    assert told() == [None, "2/2"]
    begun_at("1/2", -3 * hour_s)
    assert told() == ["2/2"]
    begun_at(None, -2 * hour_s)
    assert told() == []
    failed_at(("1/2", -hour_s))
    assert told() == ["1/2"], "what is of the future is not in the way"
