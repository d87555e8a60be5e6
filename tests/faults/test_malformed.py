"""Every malformed recording in one run of the program: each has its outcome, no other one suffers.

Two of them change under the program's hands: one grows for as long as it runs, one is deleted when
it is opened.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from malformed import CASES, LONG
from program import PROJECT, command, environment, write_tone
from recordings import pcm16, sweep, wav

TIMEOUT_S = 240
MAX_RSS_BYTES = 2e9


def watched(process: subprocess.Popen[str], meanwhile: Callable[[], None]) -> float | None:
    """Wait for a process; answers the most memory it had in bytes, where the system tells."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        if hasattr(os, "wait4"):
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                process.returncode = os.waitstatus_to_exitcode(status)
                unit_bytes = 1 if sys.platform == "darwin" else 1024
                return float(usage.ru_maxrss * unit_bytes)
        elif process.poll() is not None:
            return None
        meanwhile()
        time.sleep(0.002)
    pytest.fail(f"the program hangs: it has not ended after {TIMEOUT_S} s")


def is_open(path: Path, process: subprocess.Popen[str]) -> bool:
    """Whether the process has the file open, as /proc tells."""
    folder = Path(f"/proc/{process.pid}/fd")
    try:
        return any(entry.readlink() == path for entry in folder.iterdir())
    except OSError:
        return False


@pytest.mark.skipif(os.name != "posix", reason="Windows lets nobody delete a file that is open")
@pytest.mark.parametrize("isolation", ["thread", pytest.param("process", marks=pytest.mark.slow)])
def test_each_malformed_recording_has_its_outcome(
    isolation: str, tmp_path: Path, children: list[subprocess.Popen[str]]
) -> None:
    folder = tmp_path / "malformed"
    script = PROJECT / "scripts" / "make_malformed.py"
    subprocess.run([sys.executable, script, folder], check=True, capture_output=True)
    expected = json.loads((folder / "expected.json").read_text())
    assert len(expected) == len(CASES)
    # First, as it is tried three times: the delays are long enough for it to have grown.
    entries = [{"id": "growing", "path": "audio/growing.wav"}]
    for number, entry in enumerate(json.loads((folder / "manifest.json").read_text())):
        entries.append(entry)
        if number % 5 == 0:
            name = f"good-{number:03d}"
            write_tone(folder / "audio" / f"{name}.wav", 0.3)
            entries.append({"id": name, "path": f"audio/{name}.wav"})
            expected[name] = {"state": "complete", "seconds": 0.3, "note": None}
    growing, vanishing = folder / "audio" / "growing.wav", folder / "audio" / "vanishing.wav"
    growing.write_bytes(wav(pcm16(sweep(5, 16_000)), size=0xFFFFFFFF))
    vanishing.write_bytes(wav(pcm16(sweep(250, 16_000))))
    entries.append({"id": "vanishing", "path": "audio/vanishing.wav"})
    expected |= {"growing": {"kind": "input_changed"}, "vanishing": {"kind": "input_missing"}}
    (folder / "manifest.json").write_text(json.dumps(entries))

    out = tmp_path / "out"
    arguments = ("--allow-missing", "--max-duration", 300, "--retry-delay", 1, "-t", 4)
    arguments += ("--order", "manifest")  # by length the vanishing one would be over at once
    arguments += ("--isolation", isolation)
    with (tmp_path / "err").open("w") as err, growing.open("ab") as recorder:
        process = subprocess.Popen(
            command("run", folder / "manifest.json", "--engine", "null", "-o", out, *arguments),
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=err,
            text=True,
        )
        children.append(process)

        def meanwhile() -> None:
            recorder.write(bytes(320))
            recorder.flush()
            begun = len(list(out.glob("*.txt"))) > 20  # so many later it was surely planned for
            if vanishing.exists() and (begun or is_open(vanishing, process)):
                vanishing.unlink()

        peak_bytes = watched(process, meanwhile)

    talk = (tmp_path / "err").read_text()
    assert process.returncode == 3, talk
    assert "Traceback" not in talk
    assert peak_bytes is None or peak_bytes < MAX_RSS_BYTES
    summary = json.loads((out / "summary.json").read_text())
    assert summary["not_done"] == 0
    failures = {failure["id"]: failure for failure in summary["failures"]}
    noted = {entry["id"]: entry["notes"] for entry in summary["noted"]}
    assert {k: f["kind"] for k, f in failures.items()} == {
        k: e["kind"] for k, e in expected.items() if "kind" in e
    }
    for asset_id, outcome in expected.items():
        if "kind" in outcome:
            assert not list(out.glob(f"{asset_id}.*")), asset_id
            assert failures[asset_id]["reason"] in talk
            continue
        media = json.loads((out / f"{asset_id}.json").read_text())["media"]
        assert media["state"] == outcome["state"], asset_id
        notes = noted.get(asset_id, [])
        if outcome["note"] is None:
            assert notes == [], asset_id
        else:
            assert any(outcome["note"] in note for note in notes), asset_id
        if outcome["seconds"] is not None:
            tolerance_s = max(0.1, 0.01 * outcome["seconds"])
            assert media["decoded_s"] == pytest.approx(outcome["seconds"], abs=tolerance_s)


DECODED = """
import json, sys
from pathlib import Path
from audio_batch.media import decode
audio = decode(Path(sys.argv[1]))
print(json.dumps([audio.duration_s, audio.state, audio.notes]))
"""


@pytest.mark.slow
def test_twelve_hours_need_little_more_memory_than_their_samples(
    tmp_path: Path, children: list[subprocess.Popen[str]]
) -> None:
    """16 kHz float32 samples, and 400 MB for Python, FFmpeg, a block of samples and a scan."""
    (case,) = LONG.values()
    path = case.path(tmp_path, "long")
    case.make(path)
    with (tmp_path / "out").open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", DECODED, str(path)],
            env=environment(PYTHONPATH=str(PROJECT)),
            stdout=out,
            text=True,
        )
        children.append(process)
        peak_bytes = watched(process, lambda: None)
    assert process.returncode == 0
    duration_s, state, notes = json.loads((tmp_path / "out").read_text())
    assert (duration_s, state, notes) == (case.seconds, case.state, ["silent"])
    if peak_bytes is not None:
        samples_bytes = duration_s * 16_000 * 4
        print(f"peak RSS {peak_bytes / 1e9:.2f} GB, samples {samples_bytes / 1e9:.2f} GB")
        assert peak_bytes < samples_bytes + 400e6
