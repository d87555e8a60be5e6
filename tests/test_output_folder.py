"""Where outputs and state go, whose they are, and who holds them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path, PurePosixPath

import pytest
from program import Answer, write_manifest

from audio_batch.errors import LockedError, SetupError, UsageError
from audio_batch.output_folder import OutputFolder
from audio_batch.outputs import LocalOutputs, OutputPlace
from audio_batch.remote.access import Access
from audio_batch.shards import Shard
from audio_batch.storage import STATE_FOLDER, temporary_name

Cli = Callable[..., Answer]


def shard(root: Path, text: str | None) -> OutputFolder:
    folder = OutputFolder(root, shard=Shard.parse(text) if text else None)
    folder.create()
    return folder


# -- where ----------------------------------------------------------------------------------------


def test_a_local_folder_holds_its_state(tmp_path: Path) -> None:
    folder = OutputFolder.at(str(tmp_path / "out"))
    assert folder.is_local
    assert folder.where == str(folder.root) == str(tmp_path / "out")
    assert folder.state == tmp_path / "out" / STATE_FOLDER
    assert folder.place == OutputPlace(str(tmp_path / "out"))
    assert isinstance(folder.place.open(), LocalOutputs)


def test_a_file_url_is_a_local_folder(tmp_path: Path) -> None:
    assert OutputFolder.at((tmp_path / "a b").as_uri()).root == tmp_path / "a b"


def test_the_state_may_lie_elsewhere(tmp_path: Path) -> None:
    folder = OutputFolder.at(str(tmp_path / "out"), state_dir=tmp_path / "state")
    assert folder.journal_path.parent == tmp_path / "state"
    assert folder.summary_path.parent == tmp_path / "out"
    folder.create()
    assert not (tmp_path / "out" / STATE_FOLDER).exists()


def test_a_store_has_its_state_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_STATE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(tmp_path))
    access = Access(aws_profile="night")
    folder = OutputFolder.at("s3://bucket/some/where/", access=access)
    assert not folder.is_local
    assert folder.where == "s3://bucket/some/where"
    assert folder.place == OutputPlace("s3://bucket/some/where", access)
    assert folder.state.parent.name == "outputs"
    assert folder.state.name.startswith("bucket-some-where-")
    assert folder.summary_path == folder.state / "summary.json"
    assert OutputFolder.at("s3a://bucket/some/where").state == folder.state
    others = ("s3://bucket/some", "gs://bucket/some/where", "s3://bucket/some-where")
    assert len({folder.state, *(OutputFolder.at(url).state for url in others)}) == 4


def test_a_shard_has_a_state_of_its_own(tmp_path: Path) -> None:
    folder = OutputFolder.at(str(tmp_path), shard="2/4")
    assert folder.root == tmp_path
    assert folder.state == tmp_path / STATE_FOLDER / "shards" / "2-of-4"
    assert folder.summary_path == tmp_path / "summary.2-of-4.json"


@pytest.mark.parametrize(
    "location", ["http://host/out", "https://host/out", "ftp://host/out", "s3://", "s3:///"]
)
def test_where_nothing_can_be_written_is_told(location: str) -> None:
    with pytest.raises(UsageError):
        OutputFolder.at(location)


def test_a_password_in_a_url_is_not_shown() -> None:
    with pytest.raises(UsageError) as caught:
        OutputFolder.at("ftp://user:canary-secret@host/out")
    assert "canary-secret" not in str(caught.value)


def test_the_state_of_other_outputs_is_not_used(tmp_path: Path) -> None:
    state = tmp_path / "state"
    OutputFolder.at(str(tmp_path / "one"), state_dir=state).create()
    again = OutputFolder.at(str(tmp_path / "one"), state_dir=state)
    again.create()
    other = OutputFolder.at(str(tmp_path / "two"), state_dir=state)
    with pytest.raises(UsageError, match=r"holds the state of .*one.*--state-dir of its own"):
        other.create()
    (state / "journal.sqlite3").touch()
    with pytest.raises(UsageError, match="holds the state of"):
        other.require()
    again.require()


def test_an_unwritable_state_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    folder = OutputFolder.at(str(tmp_path / "out"), state_dir=tmp_path / "file")
    with pytest.raises(SetupError, match=r"state folder .*file cannot be .* another --state-dir"):
        folder.create()
    inside = OutputFolder.at(str(tmp_path / "out"), state_dir=tmp_path / "file" / "inside")
    with pytest.raises(SetupError, match=r"state folder .*inside cannot be .*another --state-dir"):
        inside.locked().__enter__()


def test_a_scheme_may_be_written_in_capitals() -> None:
    assert OutputFolder.at("S3://Bucket/Some").place.location == "s3://Bucket/Some"


# -- who holds it ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        (None, None, False),
        ("1/2", "1/2", False),
        ("1/2", "2/2", True),
        ("1/2", "3/4", True),
        ("1/2", None, False),
        (None, "1/2", False),
    ],
)
def test_shards_hold_a_folder_together_and_the_whole_alone(
    tmp_path: Path, first: str | None, second: str | None, together: bool
) -> None:
    shard(tmp_path, "2/2")  # was there once, and holds nothing
    one, other = shard(tmp_path, first), shard(tmp_path, second)
    with ExitStack() as held:
        held.enter_context(one.locked())
        if together:
            held.enter_context(other.locked())
        else:
            with pytest.raises(LockedError), other.locked():
                pytest.fail("both hold it")
    with other.locked():
        pass


def test_a_shard_sweeps_what_is_its_own(tmp_path: Path) -> None:
    mine, whole = shard(tmp_path, "1/2"), shard(tmp_path, None)
    other = shard(tmp_path, "2/2")
    (tmp_path / "deep").mkdir()
    names = {tag: tmp_path / "deep" / temporary_name(tag) for tag in ("", "1-of-2", "2-of-2")}
    states = {folder: folder.state / temporary_name() for folder in (mine, other, whole)}
    for path in (*names.values(), *states.values()):
        path.write_bytes(b"torn")
    kept = tmp_path / "deep" / "kept.tmp"
    kept.write_bytes(b"theirs")
    assert mine.sweep() == 2
    assert not names["1-of-2"].exists()
    assert not states[mine].exists()
    assert whole.sweep() == 4
    assert [path.name for path in (tmp_path / "deep").iterdir()] == [kept.name]


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        (None, None, False),
        ("1/2", "1/2", False),
        ("1/2", "2/2", True),
    ],
)
def test_states_elsewhere_hold_the_same_outputs(
    tmp_path: Path, one: str | None, other: str | None, together: bool
) -> None:
    out = str(tmp_path / "out")
    first = OutputFolder.at(out, shard=one)
    second = OutputFolder.at(out, shard=other, state_dir=tmp_path / "state")
    for folder in (first, second):
        folder.create()
    for holder, comer in ((first, second), (second, first)):
        with ExitStack() as held:
            held.enter_context(holder.locked())
            if together:
                held.enter_context(comer.locked())
            else:
                with pytest.raises(LockedError), comer.locked():
                    pytest.fail("both hold it")


def test_a_sweep_spares_what_a_run_with_another_state_is_writing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    here = OutputFolder.at(str(out))
    there = OutputFolder.at(str(out), state_dir=tmp_path / "state")
    part = OutputFolder.at(str(out), state_dir=tmp_path / "state", shard="1/2")
    for folder in (here, there, part):
        folder.create()
    torn = {folder: out / temporary_name(folder.place.tag) for folder in (here, there, part)}
    for path in torn.values():
        path.write_bytes(b"torn")
    assert here.sweep() == 1
    assert not torn[here].exists()
    torn[here].write_bytes(b"torn")
    assert part.sweep() == 1
    assert torn[here].exists() and torn[there].exists()
    assert there.sweep() == 1
    os.utime(torn[here], (1, 1))  # nobody has been writing that for a day
    assert there.sweep() == 1


def test_no_asset_has_the_name_of_a_shards_summary(tmp_path: Path) -> None:
    whole = OutputFolder.at(str(tmp_path))
    assert whole.reserved() == set()
    part = OutputFolder.at(str(tmp_path), shard="1/2")
    assert part.reserved() == {PurePosixPath(f"summary.{n}-of-2") for n in (1, 2)}
    part.create()
    part.journal_path.touch()
    assert whole.reserved() == part.reserved()


# -- as a person sees it --------------------------------------------------------------------------


def test_a_run_and_what_looks_at_it_find_a_state_elsewhere(cli: Cli, tmp_path: Path) -> None:
    write_manifest(tmp_path, 1)
    state = ("--state-dir", "state")
    assert cli("run", "manifest.json", "--engine", "null", "-o", "out", *state).code == 0
    assert json.loads((tmp_path / "state/location.json").read_text()) == {
        "outputs": str(tmp_path / "out")
    }
    assert [path.name for path in (tmp_path / "out" / STATE_FOLDER).iterdir()] == ["run.lock"]
    assert cli("verify", "out").code == 2
    assert cli("verify", "out", *state).code == 0
    assert cli("retry", "out", *state).code == 0
    other = cli("run", "manifest.json", "--engine", "null", "-o", "other", *state)
    assert other.code == 2, other.err
    assert "holds the state of" in other.err


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("-o", "s3://bucket/out", "--link-speakers"), "--link-speakers needs a local"),
        (("-o", "out", "--shard", "1/2", "--link-speakers"), "needs all recordings"),
        (("-o", "https://host/out"), "Nothing can be written to"),
    ],
)
def test_what_cannot_be_done_is_told_before_anything_is_read(
    cli: Cli, tmp_path: Path, flags: tuple[str, ...], told: str
) -> None:
    (tmp_path / "manifest.json").write_text("this is no JSON")
    answer = cli("run", "manifest.json", "--state-dir", "state", *flags)
    assert answer.code == 2, answer.err
    assert told in answer.err
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "state").exists()
