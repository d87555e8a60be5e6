"""A start that fails leaves nothing behind, and is told of by `status` until a run has begun."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from forked import completed
from program import Answer, environment, write_manifest
from stores.s3 import S3

from audio_batch.storage import STATE_FOLDER

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
        ("-o", "there"),
    ],
    ids=["new", "state elsewhere", "shard", "folder of others"],
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
