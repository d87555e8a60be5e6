"""What `--engine ray` is made of, without a cluster."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import pickle
import queue
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from program import Answer, command, environment, write_manifest
from shipped import ended

from audio_batch import __version__
from audio_batch.arrivals import Arrival
from audio_batch.config import Settings
from audio_batch.errors import AssetError, DeviceError, ErrorKind, ExitCode, UsageError
from audio_batch.gpu.balancer import Balancer
from audio_batch.manifest import Asset
from audio_batch.options import DecodingOptions, SpeakerLimits
from audio_batch.outcome import Outcome, Published, Stage, StageRecord, State
from audio_batch.outputs import OutputPlace
from audio_batch.pipeline import Job
from audio_batch.pools.courier import Courier
from audio_batch.pools.hosts import Ending, LocalHandle
from audio_batch.pools.messages import Brought, Elsewhere, Ended, Refused, Told
from audio_batch.pools.ray_actor import PREFIX, DeviceActor, Gone
from audio_batch.pools.ray_pool import RayHandle, Shelves, Work
from audio_batch.ray_cluster import Cluster
from audio_batch.ray_devices import bundle_of, find_spots
from audio_batch.ray_flags import kind_of, require_no_secret
from audio_batch.ray_keeper import VARIABLE
from audio_batch.ray_lookout import RayLookout
from audio_batch.ray_node import NodeReport, report
from audio_batch.ray_reports import Needs
from audio_batch.storage import PublishedFile


@pytest.mark.parametrize(
    ("engine", "executor", "recognizer"),
    [
        (None, "local", None),
        ("null", "local", "null"),
        ("ray", "ray", None),
        ("ray:", "ray", None),
        ("ray:null", "ray", "null"),
        ("raygun", "local", "raygun"),
    ],
)
def test_the_engine_says_who_places_the_workers(
    engine: str | None, executor: str, recognizer: str | None
) -> None:
    settings = Settings(engine=engine)
    assert (settings.executor, settings.recognizer) == (executor, recognizer)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--engine", "null", "--ray-address", "auto"), "--ray-address has no effect"),
        (("--engine", "null", "--ray-results", "driver"), "--ray-results has no effect"),
        (("--engine", "null", "--ray-workers", "2"), "--ray-workers has no effect"),
        (("--engine", "ray:null", "--ray-workers", "0"), "must be at least 1"),
        (("--engine", "ray:null", "--downloads", "2"), "--downloads has no effect"),
        (("--engine", "ray:null", "--device", "cuda:1"), "have no numbers"),
        (("--engine", "ray:null", "--cpu-fallback"), "--cpu-fallback has no effect"),
        (("--engine", "ray:null", "--isolation", "thread"), "--isolation thread has no effect"),
        (("--engine", "ray:nobody"), "There is no engine 'nobody'"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(
    tmp_path: Path, cli: Callable[..., Answer], words: tuple[str, ...], says: str
) -> None:
    write_manifest(tmp_path, 1)
    answer = cli("run", "manifest.json", *words)
    assert (answer.code, says in answer.err) == (ExitCode.USAGE, True), answer.err
    assert_nothing_created(tmp_path)


def assert_nothing_created(folder: Path) -> None:
    """A flag that makes no sense is told of before anything else happens."""
    assert {path.name for path in folder.iterdir()} == {"audio", "manifest.json"}


def test_a_secret_in_the_command_line_is_kept_from_ray(tmp_path: Path) -> None:
    write_manifest(tmp_path, 1)
    url = "sqlite:///d.db?password=hunter2secret"
    words = command("run", "manifest.json", "--engine", "ray:null", "--results-db", url)
    answer = ended(words, tmp_path, environment())  # a process that has this command line
    assert answer.code == ExitCode.USAGE, answer.err
    assert "hunter2secret" not in answer.err
    assert "AUDIO_BATCH_RESULTS_DB" in answer.err
    assert_nothing_created(tmp_path)


@pytest.mark.parametrize(
    ("word", "is_secret"),
    [
        ("postgresql://night@db.example/archive", False),
        ("postgresql://night:${PGPASSWORD}@db.example/archive", False),
        ("postgresql://db.example/archive?password=${PGPASSWORD}", False),
        ("ray://head:10001", False),
        ("--results-db=postgresql://night:pass@word@db.example/archive", True),
        ("https://recordings.example/a.wav?sig=AbCd1234", True),
        ("https://a-token@recordings.example/a.wav", True),
    ],
)
def test_what_of_a_command_line_is_a_secret(word: str, is_secret: bool) -> None:
    expected: AbstractContextManager[object] = (
        pytest.raises(UsageError) if is_secret else nullcontext()
    )
    with expected:
        require_no_secret(["audio-batch", "run", word])


def test_without_ray_the_remedy_is_named(tmp_path: Path, cli: Callable[..., Answer]) -> None:
    write_manifest(tmp_path, 1)
    missing = tmp_path / "lib/ray"
    missing.mkdir(parents=True)
    (missing / "__init__.py").write_text("raise ModuleNotFoundError('ray')\n")
    path = ":".join([str(missing.parent), *sys.path])
    answer = cli("run", "manifest.json", "--engine", "ray:null", env={"PYTHONPATH": path})
    assert answer.code == ExitCode.ENVIRONMENT, answer.err
    assert "pip install 'audio-batch[ray]'" in answer.err


def test_an_address_where_nobody_is_ends_the_run_at_once(
    tmp_path: Path, cli: Callable[..., Answer], nobody_listens: int
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    write_manifest(tmp_path, 1)
    address = f"127.0.0.1:{nobody_listens}"
    answer = cli(
        *("run", "manifest.json", "--engine", "ray:null", "--ray-address", address),
        timeout_s=120,  # Ray itself would go on asking
    )
    assert answer.code == ExitCode.ENVIRONMENT, answer.err
    assert f"There is no Ray cluster at {address}" in answer.err
    assert "RAY_AUTH_MODE=token" in answer.err


# ---- Devices


def node(number: int, labels: dict[str, str] | None = None, **resources: float) -> dict[str, Any]:
    return {
        "NodeID": str(number) * 56,
        "Alive": True,
        "NodeName": "",
        "NodeManagerAddress": f"10.0.0.{number}",
        "NodeManagerHostname": f"host{number}",
        "Labels": labels or {},
        "Resources": resources,
    }


def spots(nodes: list[dict[str, Any]], word: str) -> dict[str, tuple[float, float, int]]:
    free = {one["NodeID"]: one["Resources"] for one in nodes}
    found = find_spots(nodes, free, word)
    return {spot.device.id: (spot.num_cpus, spot.num_gpus, spot.cores) for spot in found}


def test_gpus_are_devices_else_the_cores_of_a_node() -> None:
    head, worker = node(1, CPU=4), node(2, CPU=16, GPU=2)
    gpus = {"ray:host2/cuda:0": (1.0, 1.0, 8), "ray:host2/cuda:1": (1.0, 1.0, 8)}
    cores = {"ray:host1/cpu": (4.0, 0.0, 4), "ray:host2/cpu": (16.0, 0.0, 16)}
    assert spots([head, worker], "auto") == gpus
    assert spots([head, worker], "cuda") == gpus
    assert spots([head, worker], "cpu") == cores
    assert spots([head], "auto") == {"ray:host1/cpu": (4.0, 0.0, 4)}
    assert spots([head], "cuda") == {}


def test_what_others_have_taken_is_no_device() -> None:
    busy = node(1, CPU=8, GPU=2)
    free = {busy["NodeID"]: {"CPU": 0.0, "GPU": 1.0}}
    (spot,) = find_spots([busy], free, "auto")
    assert (spot.device.id, spot.num_cpus, spot.num_gpus) == ("ray:host1/cuda:0", 0.0, 1.0)
    # Its GPUs are there, though none is free: its cores do not take their place.
    assert find_spots([busy], {busy["NodeID"]: {"CPU": 8.0}}, "auto") == []


def test_names_are_those_that_nodes_were_given_and_never_twice() -> None:
    named = {**node(1, CPU=1), "NodeName": "left wing"}
    twins = [{**node(number, CPU=1), "NodeManagerHostname": "twin"} for number in (2, 3)]
    ids = spots([named, *twins], "cpu")
    assert "ray:left-wing/cpu" in ids
    assert len(ids) == 3


def test_labels_name_the_accelerator_and_choose_nodes() -> None:
    from audio_batch.ray_devices import chosen

    label = {"ray.io/accelerator-type": "H200"}
    (spot,) = find_spots([node(1, label, GPU=1)], {"1" * 56: {"GPU": 1.0}}, "auto")
    assert (spot.device.name, spot.device.uuid) == ("H200", "ray:H200")
    plain, out, ours = node(1), node(2, {"audio-batch": "no"}), node(3, {"audio-batch": "yes"})
    dead = {**node(4), "Alive": False}
    assert chosen([plain, out, dead]) == [plain]
    assert chosen([plain, out, ours, dead]) == [ours]


def test_a_node_that_joins_has_a_name_that_no_other_has() -> None:
    """Those that the run has keep theirs; who comes in the place of one that went may have its."""
    twin = {"NodeManagerHostname": "twin"}
    old, new = ({**node(number, CPU=1), **twin} for number in (1, 2))
    free = {one["NodeID"]: one["Resources"] for one in (old, new)}
    found = find_spots([old, new], free, "cpu", {old["NodeID"]: "twin"})
    assert [spot.node for spot in found] == ["twin", f"twin-{new['NodeID'][:6]}"]
    (alone,) = find_spots([new], free, "cpu", {old["NodeID"]: "twin"})
    assert alone.node == "twin"


def test_an_autoscaler_is_asked_for_what_a_worker_takes() -> None:
    head = node(1, CPU=2, **{"node:__internal_head__": 1.0})
    assert bundle_of([head, node(2, CPU=16), node(3, CPU=8)], "cpu") == {"CPU": 8.0}
    assert bundle_of([head], "cpu") == {"CPU": 2.0}
    assert bundle_of([], "cpu") == {"CPU": 1.0}
    assert bundle_of([head, node(2, CPU=16, GPU=4)], "auto") == {"GPU": 1.0}


class Say(Needs):
    """What nodes say: that they do not write where outputs go."""

    def reports(
        self, _cluster: Cluster, node_ids: Iterable[str], **_: object
    ) -> dict[str, NodeReport | str]:
        return {one: NodeReport(__version__, (3, 11), "", False, 1 << 34) for one in node_ids}


class SomeNodes:
    """Ray's `nodes()`."""

    def __init__(self, *nodes: dict[str, Any]) -> None:
        self._nodes = nodes

    def nodes(self) -> list[dict[str, Any]]:
        return list(self._nodes)


@pytest.mark.parametrize("must_write", [False, True])
def test_nodes_that_are_new_are_offered_if_they_can_do_the_work(*, must_write: bool) -> None:
    ours, new, out = node(1, CPU=2), node(2, CPU=4), node(3, {"audio-batch": "no"}, CPU=4)
    cluster = Cluster(SomeNodes(ours, new, out), is_ours=True)  # type: ignore[arg-type]
    (spot,) = find_spots([ours], {ours["NodeID"]: ours["Resources"]}, "cpu")
    cluster.spots[spot.device.id] = spot
    offered: queue.SimpleQueue[Sequence[Arrival]] = queue.SimpleQueue()
    lookout = RayLookout(cluster, "cpu", Say(), lambda spot: spot.cores, must_write=must_write)
    lookout.begin(offered.put, lambda: 5)
    try:
        if must_write:
            with pytest.raises(queue.Empty):
                offered.get(timeout=0.5)
            return
        (arrival,) = offered.get(timeout=60)
        assert (arrival.device.id, arrival.slots) == ("ray:host2/cpu", 4)
        lookout.taken(arrival)
        assert not lookout.expects("ray:host2/cpu")
        assert cluster.spots["ray:host2/cpu"].free_bytes == 1 << 34
    finally:
        lookout.close()
    new["Alive"] = False
    assert lookout.expects("ray:host2/cpu")
    assert not lookout.expects("ray:host1/cpu"), "its node is there: it failed by itself"


def looking(
    *nodes: dict[str, Any],
    of_the_run: dict[str, Any],
    needs: Needs,
    word: str = "auto",
    ray: type[SomeNodes] = SomeNodes,
    must_write: bool = False,
) -> tuple[Cluster, RayLookout]:
    """A lookout of a run that has begun with what one of these nodes has."""
    cluster = Cluster(ray(*nodes), is_ours=False)  # type: ignore[arg-type]
    free = {of_the_run["NodeID"]: of_the_run["Resources"]}
    cluster.spots = {one.device.id: one for one in find_spots([of_the_run], free, word)}
    return cluster, RayLookout(cluster, word, needs, lambda _spot: 1, must_write=must_write)


def test_a_run_of_gpus_stays_one_when_the_last_of_them_goes() -> None:
    head, gpu, later = node(1, CPU=8), node(2, CPU=8, GPU=1), node(3, CPU=8, GPU=1)
    nodes = [head, later]
    _, lookout = looking(head, gpu, of_the_run=gpu, needs=Say())
    assert lookout._look([head]) == [], "its cores"
    assert [one.device.id for one in lookout._look(nodes)] == ["ray:host3/cuda:0"]


class Silent(Needs):
    """Nodes that do not answer; each question."""

    asked: ClassVar[list[list[str]]] = []
    said: ClassVar[NodeReport | str] = "it has not answered."

    def reports(
        self, _cluster: Cluster, node_ids: Iterable[str], **_: object
    ) -> dict[str, NodeReport | str]:
        found = dict.fromkeys(node_ids, self.said)
        self.asked.append(list(found))
        return found


class OutOfDate(Silent):
    """Nodes of an earlier version."""

    asked: ClassVar[list[list[str]]] = []
    said = NodeReport("0", (3, 11), "", True, 1 << 34)


def test_a_node_that_cannot_do_the_work_is_asked_nothing_more() -> None:
    ours, new = node(1, CPU=2), node(2, CPU=2)
    _, lookout = looking(ours, new, of_the_run=ours, needs=OutOfDate())
    OutOfDate.asked.clear()
    for _ in range(3):
        assert lookout._look([ours, new]) == []
    assert OutOfDate.asked == [[new["NodeID"]]]


def test_a_node_that_did_not_answer_is_asked_again_later_and_told_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ours, new = node(1, CPU=2), node(2, CPU=2)
    _, lookout = looking(ours, new, of_the_run=ours, needs=Silent())
    Silent.asked.clear()
    for _ in range(3):
        assert lookout._look([ours, new]) == []
    assert Silent.asked == [[new["NodeID"]]]
    lookout._again_s[new["NodeID"]] -= 3600  # minutes later
    assert lookout._look([ours, new]) == []
    assert Silent.asked == [[new["NodeID"]]] * 2
    assert caplog.text.count("host2 is left out: it has not answered.") == 1


class Tasks(SomeNodes):
    """Ray that runs a task here, at once; what was asked of it."""

    asked: ClassVar[list[str]] = []

    class exceptions:
        """Ray's."""

        class GetTimeoutError(Exception):
            """Ray's."""

    def remote(self, function: Callable[..., Any]) -> Any:
        self.asked.append(function.__name__)
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=function))

    def get(self, answer: Any, **_: object) -> Any:
        return answer


def test_a_driver_that_cannot_write_blames_no_node(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    ours, new = node(1, CPU=2), node(2, CPU=2)
    recording = tmp_path / "a.wav"
    needs = Needs((str(recording),), str(tmp_path / "out"))
    # The output folder has gone: the driver cannot write, and nodes are not to blame.
    cluster, lookout = looking(ours, new, of_the_run=ours, needs=needs, ray=Tasks, must_write=True)
    Tasks.asked.clear()
    assert lookout._look([ours, new]) == []
    assert lookout._look([ours, new]) == []
    assert Tasks.asked == ["report"]
    (tmp_path / "out").mkdir()
    lookout._again_s[new["NodeID"]] -= 3600
    assert [one.device.id for one in lookout._look([ours, new])] == ["ray:host2/cpu"]
    assert Tasks.asked == ["report"] * 2
    assert needs.reports(cluster, []) == {}
    assert Tasks.asked == ["report"] * 2
    assert [*(tmp_path / "out").iterdir()] == []


def test_a_recording_that_was_moved_away_is_no_witness(tmp_path: Path) -> None:
    first, second = tmp_path / "a/a.wav", tmp_path / "b/b.wav"
    for path in (first, second):
        path.parent.mkdir()
        path.touch()
    needs = Needs((str(first), str(second)))
    assert needs._witness() == (str(first),)
    first.unlink()
    assert needs._witness() == (str(second),)
    second.unlink()
    assert needs._witness() == (str(first.parent),)
    for path in (first, second):
        path.parent.rmdir()
    assert needs._witness() == ()


def test_nothing_is_asked_for_once_nobody_looks() -> None:
    ours = node(1, CPU=2)
    listed, go_on = threading.Event(), threading.Event()

    class Slow(SomeNodes):
        def nodes(self) -> list[dict[str, Any]]:
            listed.set()
            go_on.wait(60)
            return super().nodes()

    _, lookout = looking(ours, of_the_run=ours, needs=Say(), ray=Slow)
    left: list[int] = []
    lookout.begin(lambda _arrivals: None, lambda: left.append(1) or 5)  # type: ignore[func-returns-value]
    assert listed.wait(60)
    lookout.stop()
    go_on.set()
    lookout.close()
    assert left == []


def test_devices_of_a_cluster_have_no_numbers() -> None:
    assert kind_of(" CUDA ") == "cuda"
    with pytest.raises(UsageError, match="no numbers"):
        kind_of("cuda:0")


def test_nobody_tells_how_busy_a_device_elsewhere_is() -> None:
    ours = node(1, CPU=2)
    (spot,) = find_spots([ours], {ours["NodeID"]: ours["Resources"]}, "auto")
    balancer = Balancer([spot.device], {spot.device.id: 2})
    (load,) = balancer.loads()
    assert (load.utilization_pct, load.free_bytes) == (None, None)
    assert balancer.try_lease() is not None
    assert "ray:host1/cpu: 1/2 tasks, n/a util" in balancer.status_line()


def test_a_node_tells_what_it_sees(tmp_path: Path) -> None:
    seen, token = tmp_path / "a.wav", tmp_path / "token"
    seen.touch()
    token.touch()
    said = report((str(seen), "/nowhere/b.wav"), token)
    assert (said.version, said.unseen, said.writes) == (__version__, "/nowhere/b.wav", True)
    assert sorted(tmp_path.iterdir()) == [seen, token]
    assert not report((), tmp_path / "no such file").writes


# ---- Deaths and refusals


class OneNode:
    """Ray's `nodes()`, with a node that is there or not."""

    def __init__(self, *, alive: bool) -> None:
        self._nodes = [{"NodeID": "a", "Alive": alive}]

    def nodes(self) -> list[dict[str, object]]:
        return self._nodes


UNEXPECTED = (
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker "
    "exit detail: Worker unexpectedly exits with a connection error code 2. End of file. Some "
    "common causes include: (1) the process was killed by the OOM killer due to high memory usage"
)


@pytest.mark.parametrize(
    ("text", "alive", "from_outside", "lost"),
    [
        (UNEXPECTED, True, True, False),
        (UNEXPECTED, False, True, True),
        ("The actor died because its node has died. Node Id: a", True, True, True),
        ("1 worker(s) were killed due to the node running low on memory.", True, False, False),
    ],
)
def test_what_an_actors_death_means(text: str, alive: bool, from_outside: bool, lost: bool) -> None:
    cluster = Cluster(OneNode(alive=alive), is_ours=False)  # type: ignore[arg-type]
    ending = cluster.verdict(RuntimeError(text), "a")
    assert (ending.from_outside, ending.lost) == (from_outside, lost)


def test_an_actor_removes_what_a_killed_one_has_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dead, young = tmp_path / f"{PREFIX}dead", tmp_path / f"{PREFIX}young"
    alive = DeviceActor()
    (held,) = tmp_path.iterdir()
    dead.mkdir()
    young.mkdir()
    for old in (held, dead):
        os.utime(old, (1, 1))
    another = DeviceActor()
    try:
        assert (held.is_dir(), dead.is_dir(), young.is_dir()) == (True, False, True)
    finally:
        alive.close()
        another.close()
    assert list(tmp_path.iterdir()) == [young]


def test_an_actor_refuses_another_version() -> None:
    actor = DeviceActor()
    try:
        actor.begin(1, "0.0.0", b"not even read")
        refused, gone = (pickle.loads(message) for message in actor.news(1, 0, 5.0))
        assert isinstance(refused, Refused)
        assert isinstance(refused.error(), DeviceError)
        assert "the run is of version 0.0.0" in refused.message
        assert isinstance(gone, Gone)
        assert not actor.send(1, 0, [b"nobody is there"])
        # What was told once is told again, until it is known to have come.
        assert len(actor.news(1, 1, 0.0)) == 1
        assert actor.news(1, 2, 0.0) == []
    finally:
        actor.close()


def test_a_late_question_takes_nothing_away() -> None:
    actor = DeviceActor()
    try:
        actor.begin(1, "0.0.0", b"not even read")
        both = actor.news(1, 0, 5.0)
        assert actor.news(1, 1, 0.0) == both[1:]
        assert actor.news(1, 0, 0.0) == []  # the driver has gone on: nobody waits for this answer
        assert actor.news(1, 1, 0.0) == both[1:]
    finally:
        actor.close()


def test_a_child_that_another_has_followed_is_gone() -> None:
    actor = DeviceActor()
    try:
        actor.begin(1, "0.0.0", b"not even read")
        actor.begin(2, "0.0.0", b"not even read")
        (gone,) = (pickle.loads(message) for message in actor.news(1, 0, 5.0))
        assert isinstance(gone, Gone)
        assert len(actor.news(2, 0, 5.0)) == 2
        assert actor.news(3, 0, 0.0) == []  # not begun yet
    finally:
        actor.close()


def test_messages_sent_again_come_once_and_in_order() -> None:
    actor = DeviceActor()
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=time.sleep, args=(600,))
    process.start()
    # More than a pipe holds: the first call waits with half of what it has to say.
    first = [b"%d" % number + b"." * 1_000_000 for number in range(3)]
    try:
        actor._number = 1
        actor._child = LocalHandle(process, ours, None)
        with ThreadPoolExecutor(3) as calls, closing(theirs):  # closed, it sets the calls free
            sent = [calls.submit(actor.send, 1, 0, first)]
            assert theirs.poll(60)
            sent.append(calls.submit(actor.send, 1, 0, first))
            sent.append(calls.submit(actor.send, 1, 3, [b"last"]))
            time.sleep(0.1)
            assert not any(one.done() for one in sent)
            assert [theirs.recv_bytes()[:4] for _ in range(4)] == [
                b"0...",
                b"1...",
                b"2...",
                b"last",
            ]
            assert all(one.result(60) for one in sent)
            assert not theirs.poll(0.1)
    finally:
        actor.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only there outputs of processes are looked at")
def test_the_keeper_finds_who_has_written_over_its_environment(tmp_path: Path) -> None:
    folder = tmp_path / "ab-ray-x"
    folder.mkdir()
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    mark = secrets.token_hex(8)  # what another run of the tests has begun is not ours
    bare = {key: value for key, value in os.environ.items() if key != VARIABLE}
    with (folder / "agent.out").open("wb") as out, (tmp_path / "other.out").open("wb") as elsewhere:
        agent = subprocess.Popen(sleep, env=bare, stdout=out)
        marked = subprocess.Popen(sleep, env={**bare, VARIABLE: mark}, stdout=elsewhere)
        other = subprocess.Popen(sleep, env=bare, stdout=elsewhere)
    try:
        words = [sys.executable, "-m", "audio_batch.ray_keeper", mark, str(folder)]
        subprocess.run(words, stdin=subprocess.DEVNULL, check=True, timeout=240)
        assert (agent.wait(60), marked.wait(60)) == (-signal.SIGKILL, -signal.SIGKILL)
        assert other.poll() is None
        assert not folder.exists()
    finally:
        for process in (agent, marked, other):
            process.kill()
            process.wait()


def job_of(name: str) -> Job:
    return Job(
        asset=Asset(id=name, uri=name, path=Path(name), name=name, position=0),
        decoding=DecodingOptions(),
        formats=("txt",),
        output_name=name,
        source="",
        fingerprint="f",
        rendering="r",
        device="ray:host/cpu",
        attempt=1,
        position=0,
        total=1,
        stages={},
        limits=SpeakerLimits(),
        kept={},
    )


def test_what_could_not_be_sent_at_first_is_sent_in_the_end(tmp_path: Path) -> None:
    text = PublishedFile("txt", "b.txt", 5, "")
    brought: list[Brought] = []
    elsewhere = Elsewhere(
        node="host",
        scratch=tmp_path,
        model_dir=None,
        offline=True,
        outputs_come_back=True,
        cache_named=False,
        cores=1,
    )
    courier = Courier(elsewhere, brought.append)
    courier.told(Published("b", (text,), (), 1.0))  # it cannot be read at this moment
    (tmp_path / "outputs/b.txt").write_bytes(b"words")
    done = Outcome("b", State.DONE, "f", "ray:host/cpu", outputs=(text,))
    assert courier.brought_back(job_of("b"), done).state is State.DONE
    assert brought == [Brought("b", "outputs", text, b"words")]
    assert not (tmp_path / "outputs/b.txt").exists()


class Hearsay:
    """Ray and an actor of it, as a driver sees them: the actor has said all that it will say."""

    def __init__(self, *messages: object) -> None:
        self.exceptions = importlib.import_module("ray.exceptions")
        self._messages = [pickle.dumps(message) for message in messages]
        self.news = self

    def remote(self, _number: int, known: int, _patience_s: float) -> list[bytes]:
        return self._messages[known : known + 2]

    def get(self, answer: list[bytes]) -> list[bytes]:
        return answer


def handle_of(folder: Path, *messages: object) -> RayHandle:
    ray = Hearsay(*messages)
    cluster = Cluster(ray, is_ours=False)  # type: ignore[arg-type]
    outputs = OutputPlace(str(folder / "out")).open()
    return RayHandle(cluster, ray, 1, folder / "err.log", Shelves(folder / "state", outputs), "a")


def test_what_is_brought_is_written_before_what_speaks_of_it(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    kept = PublishedFile("transcribe", "stages/aa/b.json.gz", 4, "")
    text = PublishedFile("txt", "b.txt", 5, "")
    done = Outcome("b", State.DONE, "f", "ray:host/cpu", outputs=(text,))
    record = StageRecord("b", Stage.TRANSCRIBE, "s", "f", kept, "ray:host/cpu", 1.0)
    handle = handle_of(
        tmp_path,
        Brought("b", "state", kept, b"kept"),
        Told(record),
        Brought("b", "outputs", text, b"words"),
        Ended("b", done, "Worker-1"),
        Gone(Ending("SIGSEGV"), b"last words"),
    )
    assert handle.receive() == Told(record)
    assert (tmp_path / "state/stages/aa/b.json.gz").read_bytes() == b"kept"
    assert not (tmp_path / "out/b.txt").exists()
    assert handle.receive() == Ended("b", done, "Worker-1")
    assert (tmp_path / "out/b.txt").read_bytes() == b"words"
    with pytest.raises(EOFError):
        handle.receive()
    assert handle.wait(0)
    assert handle.ending() == Ending("SIGSEGV")
    assert (tmp_path / "err.log").read_bytes() == b"last words"


def test_what_the_driver_cannot_write_has_not_been_done(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    (tmp_path / "state").mkdir()
    (tmp_path / "state/stages").touch()  # in the way of a folder
    kept = PublishedFile("transcribe", "stages/aa/b.json.gz", 4, "")
    record = StageRecord("b", Stage.TRANSCRIBE, "s", "f", kept, "ray:host/cpu", 1.0)
    done = Outcome("b", State.DONE, "f", "ray:host/cpu", stages=(record,))
    other = Ended("c", Outcome("c", State.DONE, "f", "ray:host/cpu"), "Worker-1")
    handle = handle_of(
        tmp_path,
        Brought("b", "state", kept, b"kept"),
        Told(record),
        Ended("b", done, "Worker-1"),
        other,
    )
    ended = handle.receive()
    assert isinstance(ended, Ended)
    assert (ended.key, ended.outcome.state) == ("b", State.FAILED)
    assert ended.outcome.error_kind is ErrorKind.OUTPUT
    assert not ended.outcome.stages
    assert handle.receive() == other


def test_of_an_assets_outputs_none_is_written_beside_another_programs(tmp_path: Path) -> None:
    text, canonical = PublishedFile("txt", "b.txt", 5, ""), PublishedFile("json", "b.json", 2, "")
    shelves = Shelves(tmp_path / "state", OutputPlace(str(tmp_path / "out")).open())
    (tmp_path / "out").mkdir()
    (tmp_path / "out/b.json").write_bytes(b"A person's.")
    with pytest.raises(AssetError, match=r"b\.json is there"):
        shelves.write(Brought("b", "outputs", text, b"words"), Work(("txt", "json")))
    assert not (tmp_path / "out/b.txt").exists()
    pytest.importorskip("ray", reason="Ray is not installed")
    outputs = (text, canonical)
    handle = handle_of(
        tmp_path,
        Brought("b", "outputs", text, b"words"),
        Brought("b", "outputs", canonical, b"{}"),  # it has come since the text was written
        Ended("b", Outcome("b", State.DONE, "f", "ray:host/cpu", outputs=outputs), "Worker-1"),
    )
    ended = handle.receive()
    assert isinstance(ended, Ended)
    assert ended.outcome.error_kind is ErrorKind.OUTPUT_EXISTS
    assert [file.path for file in ended.outcome.left] == ["b.txt"]
    failed = Ended("b", Outcome("b", State.FAILED, "f", "ray:host/cpu"), "Worker-1")
    ended = handle_of(tmp_path, Brought("b", "outputs", text, b"words"), failed).receive()
    assert isinstance(ended, Ended)
    assert [file.path for file in ended.outcome.left] == ["b.txt"]
