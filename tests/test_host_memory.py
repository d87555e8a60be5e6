"""What memory is free (with real and with recorded control groups), needed, and waited for."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from program import environment

from audio_batch.errors import UsageError
from audio_batch.host_memory import (
    MemoryFloor,
    available_bytes,
    cgroup_rooms,
    need_bytes,
    parse_size_bytes,
)

GB = 10**9

# ---- sizes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2GB", 2 * GB),
        ("2 gb", 2 * GB),
        ("500MB", 500_000_000),
        ("1.5GiB", 3 * 2**29),
        ("2G", 2**31),
        ("64k", 65536),
        ("1000b", 1000),
        ("1TB", 10**12),
        ("0", 0),
        ("0.0", 0),
        ("0GB", 0),
    ],
)
def test_a_size_is_read(text: str, size: int) -> None:
    assert parse_size_bytes(text, "--min-free-ram") == size


@pytest.mark.parametrize(
    "text", ["", "GB", "2", "2PB", "-1GB", "1,5GB", "2 G B", "nan", "1e9b", "50%"]
)
def test_what_is_no_size_names_the_flag_and_the_remedy(text: str) -> None:
    with pytest.raises(UsageError, match=r"--min-free-ram .* is not a size.* 1\.5GiB"):
        parse_size_bytes(text, "--min-free-ram")


# ---- what is free


def group(folder: Path, version: int, limit: str, used: int, cache: int) -> None:
    """The files of a memory control group, as the kernel shows them."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ("memory.max", "memory.current", "inactive_file")
    if version == 1:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 7\n{names[2]} {cache}\nactive_file 99\n")


def membership(folder: Path, *lines: str) -> Path:
    path = folder / "cgroup"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_the_own_group_and_all_above_it_limit(tmp_path: Path) -> None:
    mount = tmp_path / "fs"
    group(mount / "slurm/job_7/step_0", 2, "max", 10, 0)
    group(mount / "slurm/job_7", 2, str(8 * GB), 3 * GB, GB)
    group(mount / "slurm", 2, str(4 * GB), 3 * GB, 0)
    own = membership(tmp_path, "0::/slurm/job_7/step_0")
    assert list(cgroup_rooms(own, mount)) == [6 * GB, GB]


def test_version_1_and_both_side_by_side(tmp_path: Path) -> None:
    mount = tmp_path / "fs"
    group(mount / "memory/docker/abc", 1, str(2 * GB), GB, 0)
    group(mount / "memory", 1, str(2**63 - 4096), 5 * GB, 0)
    group(mount / "unified/docker", 2, str(3 * GB), GB, 0)
    own = membership(tmp_path, "9:name=systemd:/x", "4:memory:/docker/abc", "0::/docker")
    rooms = list(cgroup_rooms(own, mount))
    assert min(rooms) == GB
    assert 2 * GB in rooms


def test_in_a_container_the_path_of_the_host_means_the_root(tmp_path: Path) -> None:
    mount = tmp_path / "fs"
    group(mount, 2, str(GB), GB // 4, 0)
    own = membership(tmp_path, "0::/system.slice/docker-abc.scope")
    assert list(cgroup_rooms(own, mount)) == [GB - GB // 4]


def test_what_cannot_be_read_limits_nothing(tmp_path: Path) -> None:
    assert list(cgroup_rooms(tmp_path / "none", tmp_path)) == []
    own = membership(tmp_path, "0::/a")
    group(tmp_path / "a", 2, "many", 1, 1)
    (tmp_path / "a/memory.current").write_text("x\n")
    assert list(cgroup_rooms(own, tmp_path)) == []


@pytest.fixture
def small_group() -> Iterator[Path]:
    """A real control group of 300 MB below the one that the tests are in."""
    for line in Path("/proc/self/cgroup").read_text().splitlines() if os.name == "posix" else []:
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            root, limit = Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"
        elif controllers == "" and Path("/sys/fs/cgroup/cgroup.controllers").exists():
            root, limit = Path("/sys/fs/cgroup"), "memory.max"
        else:
            continue
        made = root / path.lstrip("/") / f"audio-batch-test-{os.getpid()}"
        try:
            made.mkdir()
        except OSError:
            continue
        try:
            (made / limit).write_text("300000000")
        except OSError:
            made.rmdir()
            continue
        yield made
        made.rmdir()
        return
    pytest.skip("making a memory control group is not permitted here")


def test_a_real_group_is_seen(small_group: Path) -> None:
    script = (
        "import os, pathlib, sys\n"
        "pathlib.Path(sys.argv[1], 'cgroup.procs').write_text(str(os.getpid()))\n"
        "from audio_batch.host_memory import available_bytes\n"
        "before = available_bytes()\n"
        "held = bytearray(os.urandom(1)) * 100_000_000\n"
        "print(before, available_bytes())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(small_group)],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    before, after = map(int, done.stdout.split())
    assert 100_000_000 < before <= 300_000_000
    assert 80_000_000 < before - after < 120_000_000


def test_this_machine_has_memory() -> None:
    assert 0 < available_bytes() <= psutil.virtual_memory().total


CHILD = "held = bytearray(b'x') * 200_000_000; print(flush=True); input()"
PARENT = f"""
import subprocess, sys
from audio_batch.host_memory import resident_bytes
seen = [resident_bytes()]
held = bytearray(b"x") * 80_000_000
seen.append(resident_bytes())
line = [sys.executable, "-c", {CHILD!r}]
with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
    child.stdout.readline()
    seen.append(resident_bytes())
    child.communicate(b"\\n")
print(*seen)
"""


def test_the_memory_of_children_counts() -> None:
    """In a process of its own: in this one other tests leave memory, and children, that go."""
    done = subprocess.run(
        [sys.executable, "-c", PARENT],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    alone, with_more, with_child = map(int, done.stdout.split())
    assert with_more - alone > 0.8 * 80_000_000
    assert with_child - with_more > 0.8 * 200_000_000


# ---- what an asset needs


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.integers(0, 64), st.booleans(), st.booleans())
def test_a_longer_recording_never_needs_less(
    one_s: float, other_s: float, batch_size: int, diarize: bool, on_cpu: bool
) -> None:
    short_s, long_s = sorted((one_s, other_s))

    def need(duration_s: float) -> int:
        return need_bytes(duration_s, batch_size=batch_size, diarize=diarize, on_cpu=on_cpu)

    assert 0 < need(short_s) <= need(long_s)


def test_beyond_an_hour_only_the_samples_grow() -> None:
    twelve = need_bytes(12 * 3600, batch_size=8, diarize=True)
    one = need_bytes(3600, batch_size=8, diarize=True)
    assert twelve - one == 11 * 3600 * 16_000 * 4
    assert need_bytes(None, batch_size=8, diarize=True) == one
    assert one < 2.5 * GB


def test_a_batch_on_a_cpu_takes_this_memory() -> None:
    on_gpu = need_bytes(60, batch_size=8, diarize=False)
    assert need_bytes(60, batch_size=8, diarize=False, on_cpu=True) - on_gpu > 8 * 10**8


# ---- who has to wait


class Machine:
    """A machine of `total` bytes on which tasks take memory when they are told to."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.held = GB // 2
        self.warnings: list[str] = []

    def floor(self, floor: int) -> MemoryFloor:
        return MemoryFloor(
            floor,
            self.warnings.append,
            available=lambda: self.total - self.held,
            resident=lambda: self.held,
        )


def test_what_was_promised_but_not_taken_yet_counts() -> None:
    machine = Machine(8 * GB)
    floor = machine.floor(GB)
    assert floor.admits(3 * GB)
    floor.begun("a", 3 * GB)
    assert floor.admits(3 * GB), "7.5 free, 3 promised, 3 asked, 1 to stay free"
    floor.begun("b", 3 * GB)
    assert not floor.admits(GB), "although nothing of it has been taken"
    machine.held += 6 * GB
    assert not floor.admits(GB), "taken by now"
    floor.ended("a")
    machine.held -= 3 * GB
    assert floor.admits(3 * GB)
    assert machine.warnings == []


def test_with_nothing_running_it_begins_alone_and_says_so_once() -> None:
    machine = Machine(2 * GB)
    floor = machine.floor(GB)
    for name in ("a", "b"):
        assert floor.admits(3 * GB)
        floor.begun(name, 3 * GB)
        assert not floor.admits(1)
        floor.ended(name)
    (said,) = machine.warnings
    assert "Only 1.5 GB of memory are free" in said
    assert "3.0 GB" in said
    assert "--min-free-ram" in said


def test_a_floor_of_0_lets_everything_in() -> None:
    machine = Machine(GB)
    floor = machine.floor(0)
    for name in "abc":
        assert floor.admits(50 * GB)
        floor.begun(name, 50 * GB)
    assert machine.warnings == []


def test_an_end_that_is_told_twice_is_one_end() -> None:
    floor = Machine(8 * GB).floor(GB)
    floor.begun("a", GB)
    floor.ended("a")
    floor.ended("a")
    assert floor.admits(GB)


def test_the_real_readings_are_the_default() -> None:
    floor = MemoryFloor(1, pytest.fail)
    assert floor.admits(1)
    floor.begun("a", 1)
    assert floor.admits(1)
    assert not floor.admits(10**15)
