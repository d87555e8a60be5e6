"""Publication on a real file system."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest

from audio_batch.errors import AssetError, ErrorKind, LockedError, SetupError
from audio_batch.output_folder import OutputFolder
from audio_batch.storage import TEMPORARY_PREFIX, publish, write_atomic

HOLD = """
import sys, time
from pathlib import Path
from audio_batch.output_folder import OutputFolder
with OutputFolder(Path(sys.argv[1])).locked():
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_publication_is_whole_and_described(tmp_path: Path) -> None:
    data = b"words\n" * 1000
    published = publish(tmp_path, PurePosixPath("a/b.txt"), data, format_name="txt")
    assert (tmp_path / "a/b.txt").read_bytes() == data
    assert (published.path, published.size_bytes) == ("a/b.txt", len(data))
    assert published.sha256 == hashlib.sha256(data).hexdigest()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.txt"]


def test_a_publication_replaces_in_one_step(tmp_path: Path) -> None:
    publish(tmp_path, PurePosixPath("a.txt"), b"old", format_name="txt")
    publish(tmp_path, PurePosixPath("a.txt"), b"new", format_name="txt")
    assert (tmp_path / "a.txt").read_bytes() == b"new"


@pytest.mark.parametrize("name", ["../a.txt", "/etc/a.txt", "a/../../b.txt", ""])
def test_nothing_leaves_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(AssetError, match="leaves the output folder"):
        publish(tmp_path / "out", PurePosixPath(name), b"x", format_name="txt")


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/way").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    with pytest.raises(AssetError, match="through a link"):
        publish(tmp_path / "out", PurePosixPath("way/a.txt"), b"x", format_name="txt")
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_a_link_at_the_target_is_replaced_not_written_through(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.txt").symlink_to(victim)
    publish(tmp_path / "out", PurePosixPath("a.txt"), b"x", format_name="txt")
    assert victim.read_bytes() == b"precious"
    assert (tmp_path / "out/a.txt").read_bytes() == b"x"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_has_its_own_error(tmp_path: Path) -> None:
    from audio_batch.storage import output_error

    with Path("/dev/full").open("wb", buffering=0) as full, pytest.raises(OSError) as caught:
        full.write(b"x")
    error = output_error(caught.value, tmp_path / "a.txt")
    assert (error.kind, error.transient) == (ErrorKind.DISK_FULL, True)


def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(AssetError) as caught:
        publish(tmp_path, PurePosixPath("file/a.txt"), b"x", format_name="txt")
    assert caught.value.kind is ErrorKind.OUTPUT
    with pytest.raises(SetupError, match="cannot be written to"):
        OutputFolder(tmp_path / "file").create()
    with pytest.raises(SetupError):
        write_atomic(tmp_path / "file" / "summary.json", b"{}")


def test_one_run_holds_the_folder_and_death_frees_it(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path)
    folder.create()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(LockedError), folder.locked():
        pytest.fail("two hold the folder")
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with folder.locked():
        pass


def test_the_sweep_takes_only_what_is_ours(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path)
    folder.create()
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / f"{TEMPORARY_PREFIX}1-abc").write_bytes(b"torn")
    (tmp_path / "deep" / "kept.tmp").write_bytes(b"theirs")
    assert folder.sweep() == 1
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["kept.tmp"]
