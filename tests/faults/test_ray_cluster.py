"""A Ray cluster of two nodes, both of them on this machine: the same outputs, and what dies."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import stub_nvml
from nights import assert_gone, assert_sound, done_stamps, family, lives, started, wait_until
from program import Answer, command, environment, text_outputs, write_manifest
from shim import entries
from shipped import copied

from audio_batch.errors import ExitCode
from audio_batch.outcome import State

pytest.importorskip("ray", reason="Ray is not installed (audio-batch[ray])")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds processes as Linux has them")

COUNT = 16


_NODE = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_log_monitor": False}
_SYSTEM = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 500}
"""A node that was killed is found out in seconds; one that is only slow has the usual time."""


class Nodes:
    """A cluster, begun when it is first asked for; its second node may be removed."""

    def __init__(self) -> None:
        self.cluster: Any = None
        self.second: Any = None

    def both(self, **second: Any) -> str:
        """See that there are two, the second with these resources; the address."""
        if self.cluster is None:
            from ray.cluster_utils import Cluster

            arguments = {"include_dashboard": False, "_system_config": _SYSTEM, **_NODE}
            self.cluster = Cluster(initialize_head=True, head_node_args=arguments)
        if self.second is None:
            self.second = self.cluster.add_node(**{**_NODE, **second})
        return str(self.cluster.address)

    def close(self) -> None:
        """End it."""
        if self.cluster is not None:
            self.cluster.shutdown()

    def remove(self) -> None:
        """Take the second node away, as a preemption does."""
        self.cluster.remove_node(self.second, allow_graceful=False)
        self.second = None

    def of_each(self) -> list[list[psutil.Process]]:
        """The actors of the first node and of the second that have begun a device's process."""
        (second,) = self.second.all_processes["raylet"]
        found: list[list[psutil.Process]] = [[], []]
        for worker in self.workers():
            with suppress(psutil.Error):
                above = {parent.pid for parent in worker.parents()}
                if worker.children():
                    found[second.process.pid in above].append(worker)
        return found

    def asked_for(self) -> list[dict[str, float]]:
        """What the autoscaler is asked for."""
        from ray._private.ray_constants import AUTOSCALER_RESOURCE_REQUEST_CHANNEL
        from ray._raylet import GcsClient

        client = GcsClient(address=self.cluster.address)
        told = client.internal_kv_get(AUTOSCALER_RESOURCE_REQUEST_CHANNEL, None)
        return list(json.loads(told or b"[]"))

    def workers(self) -> list[psutil.Process]:
        """The processes of the nodes' actors, as Ray names them."""
        found = []
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                if "DeviceActor" in " ".join(process.cmdline()) and lives(process):
                    found.append(process)
        return found


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    made = Nodes()
    yield made
    made.close()


def run(folder: Path, *arguments: object) -> Answer:
    done = subprocess.run(
        command("run", "manifest.json", *arguments),
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=200,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Answer(done.returncode, done.stdout, done.stderr)


def on_ray(address: str, out: str, *arguments: object) -> list[object]:
    return ["--ray-address", address, "-o", out, *arguments]


def slow_night(folder: Path, address: str) -> tuple[list[object], Path]:
    folder.mkdir(exist_ok=True)
    write_manifest(folder, COUNT)
    words = on_ray(address, "out", "--engine", "ray:null", "-m", "null:400", "-v")
    return ["run", "manifest.json", *words], folder / "out"


def assert_all_done_by_the_way(out: Path) -> None:
    """Everything is done, once, and nothing was blamed for what was killed."""
    assert_sound(out)
    found = entries(out)
    assert {entry.state for entry in found.values()} == {State.DONE}
    assert len(found) == COUNT
    assert not any(entry.deaths for entry in found.values())
    assert len(list(out.glob("*.json"))) == COUNT + 1  # the summary
    assert json.loads((out / "summary.json").read_text(encoding="utf-8"))["failed"] == 0


def test_one_cluster_does_the_examples_and_what_comes_and_goes_costs_nothing(
    nodes: Nodes, tmp_path: Path
) -> None:
    # One test: a cluster takes long to begin, and each worker of pytest would begin its own.
    the_examples_are_what_a_local_run_makes_of_them(nodes, tmp_path, "--no-diarize", "--no-align")
    a_node_goes_another_comes_and_a_worker_is_killed(nodes, tmp_path / "changed")


@pytest.mark.slow
def test_speakers_and_aligned_words_are_those_of_a_local_run(nodes: Nodes, tmp_path: Path) -> None:
    the_examples_are_what_a_local_run_makes_of_them(nodes, tmp_path)


def the_examples_are_what_a_local_run_makes_of_them(
    nodes: Nodes, tmp_path: Path, *words: str
) -> None:
    folder = copied(tmp_path / "examples")
    local, log = ["run", "manifest.json", "-o", "local", *words], tmp_path / "local.txt"
    with started(folder, *local, env=environment(), log=log) as process:
        address = nodes.both()  # meanwhile
        assert process.wait(200) == ExitCode.SOME_FAILED, log.read_text()
    answer = run(folder, *on_ray(address, "out", "--engine", "ray", *words))
    assert answer.code == ExitCode.SOME_FAILED, answer.err
    assert text_outputs(folder / "out") == text_outputs(folder / "local")
    assert entries(folder / "out").keys() == entries(folder / "local").keys()
    shares = json.loads((folder / "out/summary.json").read_text(encoding="utf-8"))["devices"]
    assert shares, "no device of the cluster has worked"
    assert all("ray:" in json.dumps(share) for share in [shares])


@pytest.mark.slow
def test_each_gpu_of_a_node_is_a_device(
    tmp_path: Path, stub_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in stub_nvml.environment(
        stub_dir, [stub_nvml.gpu(0), stub_nvml.gpu(1)]
    ).items():
        monkeypatch.setenv(name, value)  # for the nodes
    write_manifest(tmp_path, 24)
    gpus = Nodes()
    try:
        labels = {"ray.io/accelerator-type": "H200"}
        address = gpus.both(num_cpus=4, num_gpus=2, labels=labels, node_name="box")
        ray = on_ray(address, "out", "--engine", "ray:null", "-m", "null:600")
        answer = run(tmp_path, *ray)
    finally:
        gpus.close()
    assert answer.code == 0, answer.err
    devices = {entry.device for entry in entries(tmp_path / "out").values()}
    assert devices == {"ray:box/cuda:0", "ray:box/cuda:1"}, answer.err
    assert "ray:box/cuda:0 (H200)" in answer.err


@pytest.mark.slow
def test_the_driver_publishes_what_workers_hand_back(nodes: Nodes, tmp_path: Path) -> None:
    all_formats = ("--output-format", "txt,srt,vtt")
    write_manifest(tmp_path, 2)
    first = run(tmp_path, "-o", "out", "--engine", "null", "--output-format", "txt")
    write_manifest(tmp_path, 4)
    os.utime(tmp_path / "audio/tone-001.wav")  # done anew
    local = run(tmp_path, "-o", "local", "--engine", "null", *all_formats)
    assert (first.code, local.code) == (0, 0), first.err + local.err
    ray = on_ray(nodes.both(), "out", "--engine", "ray:null", "--ray-results", "driver")
    answer = run(tmp_path, *ray, *all_formats)
    assert answer.code == 0, answer.err
    assert_sound(tmp_path / "out")
    assert text_outputs(tmp_path / "out") == text_outputs(tmp_path / "local")


def a_node_goes_another_comes_and_a_worker_is_killed(nodes: Nodes, tmp_path: Path) -> None:
    words, out = slow_night(tmp_path, nodes.both())
    log = tmp_path / "log.txt"
    with started(tmp_path, *words, "--ray-workers", 3, env=environment(), log=log) as process:

        def seen(what: str) -> None:
            assert wait_until(lambda: what in log.read_text(), process, log=log), log.read_text()

        assert wait_until(lambda: all(nodes.of_each()), process, log=log), log.read_text()
        (stays,), leaves = nodes.of_each()
        assert wait_until(lambda: len(done_stamps(out)) >= 2, process, log=log), log.read_text()
        # It does nothing until the end, and what leaves nothing more, however long that takes: what
        # is left is there for the one that comes.
        stopped = stays.children(recursive=True)
        lost = [child for worker in leaves for child in worker.children(recursive=True)]
        for child in (*stopped, *lost):
            child.suspend()
        asked = nodes.asked_for()
        nodes.remove()
        for child in lost:
            with suppress(psutil.Error):
                child.resume()
        assert_gone([*leaves, *lost])
        nodes.both()
        seen("joins the run")
        newcomer = re.findall(r"(ray:\S+) \(.*\) joins the run", log.read_text())[0]
        assert wait_until(lambda: newcomer in devices_of(out), process, log=log), log.read_text()
        (victim,) = (worker for worker in nodes.workers() if worker != stays)
        orphans = victim.children(recursive=True)
        victim.kill()
        seen("died by the death of its actor")
        for child in stopped:
            child.resume()
        assert process.wait(120) == 0, log.read_text()
    assert_gone(orphans)
    assert_all_done_by_the_way(out)
    assert "has left the cluster" in log.read_text()
    assert asked == [{"CPU": 1.0}] * 3
    assert not nodes.asked_for(), "what was asked of the autoscaler would stand for ever"


def devices_of(out: Path) -> list[str]:
    """Where those were done that are done."""
    with suppress(Exception):  # a transaction is at work at this moment
        found = entries(out).values()
        return [entry.device or "" for entry in found if entry.state is State.DONE]
    return []


@pytest.mark.slow
def test_ctrl_c_ends_a_run_in_good_order(nodes: Nodes, tmp_path: Path) -> None:
    words, out = slow_night(tmp_path, nodes.both())
    log = tmp_path / "log.txt"
    with started(tmp_path, *words, env=environment(), log=log) as process:
        assert wait_until(lambda: done_stamps(out), process, log=log), log.read_text()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == ExitCode.INTERRUPTED, log.read_text()
    states = {entry.state for entry in entries(out).values()}
    assert State.RUNNING not in states
    deadline_s = time.monotonic() + 20
    while nodes.workers():  # the cluster is there for others, our actors are not
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


@pytest.mark.slow
def test_a_killed_run_leaves_nothing_of_its_own_ray(tmp_path: Path) -> None:
    write_manifest(tmp_path, COUNT)
    out, log = tmp_path / "out", tmp_path / "log.txt"
    words = ["run", "manifest.json", "--engine", "ray:null", "-m", "null:400", "-o", "out"]
    # The names of sockets are short.
    with (
        tempfile.TemporaryDirectory(dir="/tmp") as short,
        started(tmp_path, *words, env=environment(TMPDIR=short), log=log) as process,
    ):
        assert wait_until(lambda: done_stamps(out), process, log=log), log.read_text()
        begun = family(process)
        assert begun
        process.kill()
        process.wait()
        assert_gone(begun)
        deadline_s = time.monotonic() + 20
        while left := list(Path(short).glob("ab-ray-*")):
            assert time.monotonic() < deadline_s, left
            time.sleep(0.1)
