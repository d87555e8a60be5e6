"""What the checks find: manifests and folders here, drivers and libraries by real processes."""

from __future__ import annotations

import http.server
import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from gpu import stub_nvml
from program import environment, write_tone

from audio_batch.config import Settings
from audio_batch.engines.aligners import BUNDLES, TORCHAUDIO_DEFAULTS
from audio_batch.errors import SetupError
from audio_batch.formats import FORMATS
from audio_batch.gpu.devices import CPU, Device
from audio_batch.host_memory import available_bytes
from audio_batch.ladder import Rung
from audio_batch.manifest import Asset, Manifest, load
from audio_batch.output_folder import OutputFolder
from audio_batch.preflight import Check, Finding, PreflightRequest, before_run, checks
from audio_batch.preflight.cuda_libraries import CudaReport
from audio_batch.preflight.cuda_program import named_libraries
from audio_batch.preflight.machine import judged
from audio_batch.preflight.remote_recordings import OF_EACH, Sample
from audio_batch.preflight.runner import ALL
from audio_batch.preflight.servers import Servers, within
from audio_batch.preflight.work import BYTES_PER_ASSET, BYTES_PER_HOUR, estimated_bytes
from audio_batch.remembered import Key, Remembered

CANARY = "hf_" + "cAnArY0123456789" * 2 + "xy"
PROGRAM = """
import json, sys
from audio_batch.config import Settings
from audio_batch.preflight import PreflightRequest, checks
from audio_batch.preflight.runner import ALL
wanted = [check for check in ALL if check[0] in sys.argv[1].split(",")]
requests = [PreflightRequest(Settings(**settings)) for settings in json.loads(sys.argv[2])]
found = [check for request in requests for check in checks(request, wanted)]
print(json.dumps([check.to_json() for check in found]))
"""


def asked(names: str, env: dict[str, str], *settings: dict[str, object]) -> list[Check]:
    """The answers of some checks for each of some settings, in a process of its own, which is
    what a loader path needs."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, names, json.dumps(settings or [{}])],
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [Check(**check) for check in json.loads(done.stdout)]


def here(request: PreflightRequest, *names: str) -> list[Check]:
    """The answers of some checks in this process."""
    return list(checks(request, [check for check in ALL if check[0] in names]))


def manifest_of(folder: Path, entries: list[dict[str, object]], name: str = "m.json") -> Manifest:
    path = folder / name
    path.write_text(json.dumps(entries), encoding="utf-8")
    return load(path, known_formats=frozenset(FORMATS), allow_missing=True)


def request_of(manifest: Manifest, out: Path, **settings: object) -> PreflightRequest:
    return PreflightRequest(
        Settings(**settings),  # type: ignore[arg-type]
        manifest,
        manifest.assets,
        OutputFolder(out),
    )


# --- the checks as such -----------------------------------------------------------------------


def test_a_check_that_breaks_is_a_line_of_its_own_and_the_others_are_asked() -> None:
    def breaks(_facts: object) -> Iterable[Finding]:
        raise RuntimeError(f"token {CANARY}\x1b[2J\u202e of\nno use")

    def works(_facts: object) -> Iterator[Finding]:
        yield Finding("ok", "Fine.")

    first, second = checks(PreflightRequest(Settings()), [("a", breaks), ("b", works)])
    assert (first.name, first.status) == ("a", "error")
    assert "RuntimeError" in first.message
    assert CANARY not in first.message
    assert first.message.isprintable()
    assert second == Check("b", "ok", "Fine.")


def test_every_check_has_a_name_of_its_own_and_answers_in_one_line() -> None:
    names = [name for name, _ in ALL]
    assert len(set(names)) == len(names)
    done = list(checks(PreflightRequest(Settings(device="cpu", model="demo", offline=True))))
    assert {"python", "packages", "telemetry", "driver", "memory", "model"} <= {
        check.name for check in done
    }
    for check in done:
        assert check.message.isprintable() and check.message.endswith(".")
        assert check.status == "ok" or check.name in names


def test_a_run_is_told_only_of_what_is_amiss_and_nothing_is_asked_of_the_network(
    tmp_path: Path,
) -> None:
    write_tone(tmp_path / "a.wav", 0.1)
    manifest = manifest_of(tmp_path, [{"id": "a", "path": "a.wav"}])
    calm = PreflightRequest(
        Settings(model="demo", device="cpu"),
        manifest,
        manifest.assets,
        OutputFolder(tmp_path / "out"),
        devices=(CPU,),
    )
    # What this machine is short of at the moment is told, too.
    short = set[str]()
    if available_bytes() < 6e9:
        short.add("memory")
    if shutil.disk_usage(tmp_path).free < 6e9:
        short.add("space")
    assert {(check.name, check.status) for check in before_run(calm)} <= {
        (name, "warning") for name in short
    }
    full = PreflightRequest(
        calm.settings, manifest, manifest.assets, calm.folder, (CPU,), floor_bytes=1 << 62
    )
    (found,) = (check for check in before_run(full) if check.status == "error")
    assert found.name == "space"


# --- software ---------------------------------------------------------------------------------


def test_libraries_that_are_missing_or_of_another_version_are_named(tmp_path: Path) -> None:
    info = tmp_path / "audio_batch-9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: audio-batch\nVersion: 9\nRequires-Python: >=3.40\n"
        "Requires-Dist: no-such-library>=1\nRequires-Dist: rich<2\nRequires-Dist: psutil>=5\n"
        "Requires-Dist: jiwer<1; extra == 'test'\n"
    )
    found = asked("python,packages", {"PYTHONPATH": str(tmp_path)})
    assert [check.status for check in found] == ["error"] * 3
    python, missing, old = found
    assert ">=3.40" in python.message
    assert "no-such-library is not installed" in missing.message
    assert "rich " in old.message and "<2 is needed" in old.message
    assert old.remedy


def test_telemetry_that_somebody_switched_on_is_overruled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYANNOTE_METRICS_ENABLED", "True")
    (on,) = here(PreflightRequest(Settings()), "telemetry")
    assert on.status == "ok" and "overruled" in on.message


# --- drivers, devices, CUDA -------------------------------------------------------------------

linux = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="stub drivers are for Linux"
)


@pytest.fixture(scope="session")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stub NVML, with a driver's version, and the stub CUDA driver."""
    folder = stub_nvml.build(tmp_path_factory.mktemp("stubs"))
    source = folder / "versioned.c"
    source.write_text(
        f'#include "{Path(stub_nvml.__file__).with_name("stub_nvml.c")}"\n'
        "int nvmlSystemGetDriverVersion(char *text, unsigned int length) {\n"
        '    snprintf(text, length, "%s", getenv("STUB_DRIVER")); return 0;\n}\n'
    )
    library = folder / "libnvidia-ml.so.1"
    subprocess.run(["cc", "-shared", "-fPIC", "-D_GNU_SOURCE", "-o", library, source], check=True)
    return folder


def stub_environment(stubs: Path, gpus: list[stub_nvml.StubGpu], **more: object) -> dict[str, str]:
    made = stub_nvml.environment(stubs, gpus, **more)  # type: ignore[arg-type]
    return {
        **{key: made[key] for key in made if key.startswith(("STUB", "LD_LIBRARY"))},
        "STUB_DRIVER": "550.54.15",
        "CUDA_VISIBLE_DEVICES": "0,1,2,3",
    }


@linux
def test_a_gpu_without_cudas_part_of_the_driver_is_an_error_that_says_so(
    stubs: Path, tmp_path: Path
) -> None:
    shutil.copy(stubs / "libnvidia-ml.so.1", tmp_path)
    env = stub_environment(stubs, [stub_nvml.gpu(0)])
    found = asked("driver,devices,cuda", {**env, "LD_LIBRARY_PATH": str(tmp_path)})
    driver, device, cuda = found[:3]
    assert (driver.status, device.status, cuda.status) == ("ok", "ok", "error")
    assert "550.54.15" in driver.message and "1 GPU reported by nvml" in driver.message
    assert "cuda:0 (NVIDIA GeForce RTX 3090)" in device.message
    assert "libcuda.so.1" in cuda.message
    assert "NVIDIA_DRIVER_CAPABILITIES" in cuda.remedy


@linux
def test_libraries_that_ctranslate2_would_open_and_that_are_missing_come_with_the_remedy(
    stubs: Path, tmp_path: Path
) -> None:
    for package in ("nvidia", "nvidia/cublas", "nvidia/cudnn"):  # packages without libraries
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("")
    env = stub_environment(stubs, [stub_nvml.gpu(0)], cuda_order=[stub_nvml.gpu(0)])
    found = asked("cuda", {**env, "PYTHONPATH": str(tmp_path)}, {"diarize": False})
    missing = [check for check in found if "libcublas.so.12 is missing" in check.message]
    assert missing and missing[0].status == "error"
    assert "pip install nvidia-cublas-cu12" in missing[0].remedy
    whole = asked("cuda", env, {"diarize": False})
    assert not any("missing" in check.message for check in whole)
    # The stub driver is none that CTranslate2's CUDA would work with, and that is seen.
    assert any("CTranslate2 sees 0 of 1" in check.message for check in whole)


@linux
def test_gpus_are_listed_with_their_memory_and_a_model_that_does_not_fit_is_told(
    stubs: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (model / name).write_text("{}")
    with (model / "model.bin").open("wb") as file:
        file.truncate(3_000_000_000)
    gpus = [stub_nvml.gpu(0), stub_nvml.gpu(1, free_bytes=2_000_000_000)]
    env = stub_environment(stubs, gpus, cuda_order=gpus)
    roomy, tight, _, halved, chosen = asked(
        "devices",
        env,
        {"model": str(model)},
        {"model": str(model), "compute_type": "int8_float16"},
        {"model": str(model), "device": "cuda:0"},
    )
    assert (roomy.status, tight.status) == ("ok", "warning")
    assert "2.0 GB of 25.8 GB free" in tight.message and "cuda:1" in tight.message
    assert "int8_float16" in tight.remedy
    assert halved.status == "warning"  # weights of 1.5 GB, and CUDA itself
    assert chosen.status == "ok" and "cuda:0" in chosen.message


@linux
def test_gpus_that_cuda_does_not_show_are_told_and_why(stubs: Path) -> None:
    env = stub_environment(stubs, [stub_nvml.gpu(0)], cuda_order=[])
    (hidden,) = asked("devices", {**env, "CUDA_VISIBLE_DEVICES": "-1"})
    assert hidden.status == "warning"
    assert "CUDA_VISIBLE_DEVICES is '-1'" in hidden.message
    env = stub_environment(stubs, [stub_nvml.gpu(0)], cuda_order=[], cuda_error=803)
    refused, wanted = asked("devices", env, {}, {"device": "cuda"})
    assert refused.status == "warning" and "803" in refused.message
    assert wanted.status == "error" and "--device cpu" in wanted.remedy


@linux
def test_drivers_that_are_old_broken_or_known_to_nvidia_smi_only(
    stubs: Path, tmp_path: Path
) -> None:
    env = stub_environment(stubs, [stub_nvml.gpu(0)])
    (old,) = asked("driver", {**env, "STUB_DRIVER": "470.256.02"})
    assert old.status == "error" and "too old for CUDA 12" in old.message
    broken = stub_environment(stubs, [stub_nvml.gpu(0)], init_error=18)
    (mismatch,) = asked("driver", {**broken, "PATH": str(tmp_path)})
    assert mismatch.status == "warning" and "does not work" in mismatch.message
    script = tmp_path / "nvidia-smi"
    row = f"8.6, 0, {stub_nvml.gpu(0).uuid}, 00000000:01:00.0, 24576, 20000, 45, RTX 3090"
    script.write_text(f"#!/bin/sh\necho '{row}'\n")
    script.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    smi, device = asked("driver,devices", {"PATH": path})
    assert smi.status == "ok" and "1 GPU reported by nvidia-smi" in smi.message
    assert device.status == "ok" and "RTX 3090" in device.message


def test_a_device_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (absent,) = here(PreflightRequest(Settings(device="cuda:7")), "devices")
    assert absent.status == "error"
    (nonsense,) = here(PreflightRequest(Settings(device="tpu")), "devices")
    assert nonsense.status == "error" and "tpu" in nonsense.message


def test_what_the_process_over_cuda_says_is_judged() -> None:
    gpus = tuple(Device(f"cuda:{n}", "cuda", n, f"GPU-{n}", "GPU", (9, 0)) for n in (0, 1))
    here_all = CudaReport(found={"libcublas.so.12": "/x/libcublas.so.12"}, visible=2)
    (good,) = judged(here_all, gpus)
    assert good.status == "ok" and "/x/libcublas.so.12" in good.message
    (one,) = judged(CudaReport(visible=1, found=here_all.found), gpus)
    assert one.status == "error" and "1 of 2" in one.message
    (dead,) = judged(CudaReport(problem="CUDA ends its process (exit -6)"), gpus)
    assert dead.status == "error" and "exit -6" in dead.message


def test_the_libraries_are_those_that_the_installed_ctranslate2_names(tmp_path: Path) -> None:
    binary = tmp_path / "lib.so"
    binary.write_bytes(b"x\0libcublas.so.12\0libcudnn.so.9\0libcudnn_ops\0notlibcublas.so.11\0")
    assert named_libraries(binary) == {"libcublas.so.12", "libcudnn.so.9"}
    windows = tmp_path / "a.dll"
    windows.write_bytes(b"\0cublas64_12.dll\0kernel32.dll\0")
    assert named_libraries(windows) == {"cublas64_12.dll"}


# --- survival ---------------------------------------------------------------------------------


@linux
def test_isolation_is_told_as_auto_decides_it(stubs: Path) -> None:
    gpus = [stub_nvml.gpu(0)]
    env = stub_environment(stubs, gpus, cuda_order=gpus)
    on_gpu, asked_for, on_cpu, mixed = asked(
        "isolation",
        env,
        {},
        {"isolation": "thread"},
        {"device": "cpu"},
        {"device": "cpu", "isolation": "process"},
    )
    assert on_gpu.status == "ok" and on_gpu.message.startswith("process (auto): ")
    assert asked_for.status == "warning" and asked_for.message.startswith("thread: ")
    assert "--isolation" in asked_for.remedy
    assert on_cpu.status == "ok" and on_cpu.message.startswith("thread (auto): ")
    assert mixed.status == "ok" and mixed.message.startswith("process: ")
    assert asked("isolation", env, {"device": "cuda:7"}) == []  # the devices' check says so


@linux
def test_what_devices_were_found_to_work_with_is_told_of_those_in_use(
    stubs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUDIO_BATCH_CACHE_DIR", str(tmp_path))
    memory = Remembered.load()
    gpus = [stub_nvml.gpu(0), stub_nvml.gpu(1, free_bytes=12_000_000_000)]
    for gpu in gpus:
        key = Key(gpu.uuid, "abc", "auto", diarize=True)
        rung = Rung(8, 1, "int8_float16")
        memory.remember(key, rung, model_name="large\u202e-v3", free_bytes=12_000_000_000)
    memory.remember(Key("cpu", "abc", "float32", diarize=False), Rung(None, 2, "int8"))
    env = stub_environment(stubs, gpus, cuda_order=gpus)
    env["AUDIO_BATCH_CACHE_DIR"] = str(tmp_path)
    first, second, cpu = asked("remembered", env, {"device": "cuda"}, {"device": "cpu"})
    assert first.message.startswith("cuda:0 ") and second.message.startswith("cuda:1 ")
    learnt_at = Remembered.look().entries.popitem()[1].learnt_at  # all within a moment
    today = time.strftime("%Y-%m-%d", time.localtime(learnt_at))
    told = (
        "(NVIDIA GeForce RTX 3090) with large-v3 and speakers: 1 asset at a time, batches of 8, "
        f"int8_float16, after running out of memory on {today}"
    )
    assert told in first.message and told in second.message
    assert "not used now" in first.message and "not used now" not in second.message
    assert cpu.message == (
        "cpu with a model (--compute-type float32): 2 assets at a time, int8, "
        f"after running out of memory on {today}."
    )
    assert first.status == "ok" and "doctor --forget" in first.remedy
    (tmp_path / "devices.json").write_text("{")
    (damaged,) = asked("remembered", env, {"device": "cpu"})
    assert damaged.status == "warning" and "damaged" in damaged.message
    assert (tmp_path / "devices.json").read_text() == "{"


# --- the manifest's recordings and their outputs ----------------------------------------------


def test_missing_recordings_are_counted_and_the_first_are_named(tmp_path: Path) -> None:
    write_tone(tmp_path / "there.wav", 0.1)
    entries: list[dict[str, object]] = [{"id": "there", "path": "there.wav"}]
    entries += [{"id": f"m{n}", "path": f"gone-{n}\u202e.wav"} for n in range(6)]
    manifest = manifest_of(tmp_path, entries)
    (found,) = here(request_of(manifest, tmp_path / "out"), "inputs")
    assert found.status == "error"
    assert "6 recordings of 7" in found.message and "3 more" in found.message
    assert "gone-0" in found.message and "\u202e" not in found.message
    (lenient,) = here(request_of(manifest, tmp_path / "out", allow_missing=True), "inputs")
    assert lenient.status == "warning"


def test_of_remote_recordings_some_of_each_bucket_are_looked_at() -> None:
    sample = Sample()
    sample.add(f"s3://calls/{number:05d}.wav" for number in range(50_000))
    sample.add(["s3://talks/a.wav", "https://host/b.wav?X-Amz-Signature=x"])
    assert sample.count == 50_002
    some = sample.by_place()
    assert {place: len(uris) for place, uris in some.items()} == {
        "s3://calls": OF_EACH,
        "s3://talks": 1,
        "https://host": 1,
    }
    numbers = [int(uri[-9:-4]) for uri in some["s3://calls"]]
    steps = [after - before for before, after in itertools.pairwise([*numbers, 50_000])]
    assert numbers[0] == 0 and min(steps) > 1000 and max(steps) < 5000


def test_assets_that_would_share_an_output_name_are_told(tmp_path: Path) -> None:
    entries: list[dict[str, object]] = [
        {"id": "a", "path": "1.wav", "shelf": "x"},
        {"id": "A", "path": "2.wav", "shelf": "x"},
        {"id": "ü b", "path": "3.wav"},
    ]
    manifest = manifest_of(tmp_path, entries)
    (found,) = here(request_of(manifest, tmp_path), "names")
    assert found.status == "warning" and found.message.startswith("2 assets")
    (apart,) = here(
        request_of(manifest, tmp_path, output_template="{shelf}/{position}-{id}"), "names"
    )
    assert apart.status == "ok"
    (together,) = here(request_of(manifest, tmp_path, output_template="{shelf}"), "names")
    assert together.message.startswith("2 assets")  # the third has no shelf, and its id instead
    (wrong,) = here(request_of(manifest, tmp_path, output_template="{nothing}"), "names")
    assert wrong.status == "error" and "nothing" in wrong.message


def test_outputs_over_what_is_read_are_an_error(tmp_path: Path) -> None:
    write_tone(tmp_path / "a.wav", 0.1)
    manifest = manifest_of(tmp_path, [{"id": "night", "path": "a.wav"}], "night.json")
    (over,) = here(request_of(manifest, tmp_path), "overwriting")
    assert over.status == "error" and "night.json" in over.message
    (fine,) = here(request_of(manifest, tmp_path / "out"), "overwriting")
    assert fine.status == "ok"
    summary = manifest_of(tmp_path, [{"id": "b", "path": "a.wav"}], "summary.json")
    (over,) = here(request_of(summary, tmp_path), "overwriting")
    assert "summary.json" in over.message
    summary.path.unlink()
    write_tone(tmp_path / "take.txt", 0.1)
    text = manifest_of(tmp_path, [{"id": "take", "path": "take.txt"}])
    (over,) = here(request_of(text, tmp_path), "overwriting")
    assert "take.txt" in over.message
    (fine,) = here(request_of(text, tmp_path, output_format=["srt"]), "overwriting")
    assert fine.status == "ok"


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_an_output_folder_that_is_a_link_to_the_recordings_is_seen(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_tone(tmp_path / "in/take.txt", 0.1)
    (tmp_path / "out").symlink_to(tmp_path / "in")
    manifest = manifest_of(tmp_path, [{"id": "take", "path": "in/take.txt"}])
    (over,) = here(request_of(manifest, tmp_path / "out"), "overwriting")
    assert over.status == "error"


def test_the_output_folder_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    def folder(root: Path) -> Check:
        (found,) = here(PreflightRequest(Settings(), folder=OutputFolder(root)), "output-folder")
        return found

    assert folder(tmp_path / "new/deep").status == "ok"
    assert list(tmp_path.iterdir()) == []
    assert folder(tmp_path).status == "ok"
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    assert folder(tmp_path / "file/out").status == "error"
    assert folder(tmp_path / "file").status == "error"


def test_a_folder_that_a_run_holds_is_an_error(tmp_path: Path) -> None:
    held = OutputFolder(tmp_path / "out")
    held.create()
    with held.locked():
        (found,) = here(PreflightRequest(Settings(), folder=held), "output-folder")
    assert found.status == "error" and "Another run is at work" in found.message
    (free,) = here(PreflightRequest(Settings(), folder=held), "output-folder")
    assert free.status == "ok"


def test_space_is_judged_by_what_the_outputs_take(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    hours = 2 * free / BYTES_PER_HOUR
    long = manifest_of(tmp_path, [{"id": "a", "path": "a.wav", "duration": hours * 3600}])
    (tight,) = here(request_of(long, tmp_path / "no/such/folder"), "space")
    assert tight.status == "warning" and "the outputs take about" in tight.message
    (nothing,) = here(request_of(long, tmp_path / "no", output_format="none"), "space")
    assert "the outputs take" not in nothing.message
    none = PreflightRequest(Settings(), folder=OutputFolder(tmp_path), floor_bytes=1 << 62)
    (found,) = here(none, "space")
    assert found.status == "error" and found.remedy


def test_recordings_of_unknown_length_are_taken_for_average_ones() -> None:
    def asset(number: int, duration_s: float | None) -> Asset:
        return Asset(str(number), "", None, "", number, duration_s=duration_s)

    known, unknown = asset(1, 3600.0), asset(2, None)
    assert estimated_bytes([known, unknown]) == 2 * (BYTES_PER_HOUR + BYTES_PER_ASSET)
    assert estimated_bytes([unknown]) == BYTES_PER_ASSET
    assert estimated_bytes([]) == 0


# --- servers and aligners -----------------------------------------------------------------------


class _Server(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_response(200 if self.path == "/there" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_a_file_on_a_server_is_there_is_not_there_or_nobody_answers() -> None:
    servers = Servers(None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Server) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        servers.file(f"{url}/there", what="model", remedy="")
        with pytest.raises(SetupError, match=r"does not give it: Not Found. Check the network"):
            servers.file(f"{url}/gone", what="model", remedy="")
        servers.file(f"{url}/there", what="model", remedy="")
        server.shutdown()
        thread.join()
    for _ in range(2):
        with pytest.raises(SetupError, match="does not give it"):
            servers.file(f"{url}/there", what="model", remedy="")


def test_what_takes_too_long_is_left_behind() -> None:
    let_go = threading.Event()
    answer = within(0.05, lambda: let_go.wait(60))
    assert isinstance(answer, TimeoutError)
    let_go.set()
    assert within(60, lambda: 7) == 7


def test_every_language_that_is_named_has_its_aligner_or_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    bundle = tmp_path / "torch/hub/checkpoints" / BUNDLES[TORCHAUDIO_DEFAULTS["de"]]
    bundle.parent.mkdir(parents=True)
    bundle.write_bytes(b"")
    entries: list[dict[str, object]] = [
        {"id": "1", "path": "1.wav", "language": "swahili"},
        {"id": "2", "path": "2.wav", "language": "nl"},
        {"id": "3", "path": "3.wav"},
    ]
    manifest = manifest_of(tmp_path, entries)
    wanted: dict[str, object] = {
        "align": True,
        "language": "de",
        "offline": True,
        "model_dir": None,
    }
    german, dutch, swahili = here(request_of(manifest, tmp_path, **wanted), "alignment")
    assert (german.status, dutch.status, swahili.status) == ("ok", "error", "warning")
    assert "Dutch" in dutch.message and "--offline" in dutch.message
    assert "Swahili: there is no aligner" in swahili.message and "--align-model" in swahili.remedy
    (no,) = here(request_of(manifest, tmp_path), "alignment")
    assert no.status == "ok" and "Not asked for" in no.message
    (unnamed,) = here(PreflightRequest(Settings(align=True)), "alignment")
    assert unnamed.status == "ok" and "No language is named" in unnamed.message
    (local,) = here(PreflightRequest(Settings(align_model=str(tmp_path))), "alignment")
    assert local.status == "error" and "config.json" in local.message
