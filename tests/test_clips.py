"""Real recordings of many kinds: each decodes to the length it should, or fails with its reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from program import SHARED, Answer

from audio_batch.errors import AssetError, ErrorKind
from audio_batch.media import decode, probe

CLIPS = SHARED / "data" / "clips"
LIST = CLIPS / "clips.jsonl"
NO_RECORDINGS = {"clips.jsonl", "reference.rttm"}

FAILURES = {
    # the rate in its header, 1,092,676 Hz, is beyond what any recorder does
    "broken_1.wav": (ErrorKind.MEDIA_LIMIT, "has a sample rate of 1092676 Hz"),
    # "ffff" stands where the size of the format chunk should, so there is no data chunk
    "broken_2.wav": (ErrorKind.MEDIA_DAMAGED, "begins like a WAV file, but is damaged or cut off"),
    # a chunk of nonsense that is longer than the file stands where the data should
    "broken_3.wav": (ErrorKind.MEDIA_DAMAGED, "begins like a WAV file, but is damaged or cut off"),
    "empty_header_only.wav": (ErrorKind.EMPTY_AUDIO, "holds no audio samples"),
}


def listed() -> list[dict[str, Any]]:
    if not LIST.is_file():
        return []
    return [json.loads(line) for line in LIST.read_text(encoding="utf-8").splitlines() if line]


CLIP_LIST = listed()
pytestmark = pytest.mark.skipif(not CLIP_LIST, reason=f"no recordings at {CLIPS}")


def test_every_file_is_listed() -> None:
    there = {path.name for path in CLIPS.iterdir()} - NO_RECORDINGS
    assert there == {clip["file"] for clip in CLIP_LIST}


@pytest.mark.parametrize("clip", CLIP_LIST, ids=lambda clip: clip["file"])
def test_clip(clip: dict[str, Any]) -> None:
    path = Path(CLIPS / clip["file"])
    if path.name in FAILURES:
        kind, reason = FAILURES[path.name]
        with pytest.raises(AssetError) as caught:
            decode(path)
        assert caught.value.kind is kind
        assert reason in caught.value.message
        return
    audio = decode(path)
    seconds = clip["seconds"]
    assert audio.duration_s == pytest.approx(seconds, abs=max(0.1, 0.01 * seconds))
    assert (audio.state, audio.notes) == ("complete", ())
    assert audio.info == probe(path)
    assert audio.info.sample_rate_hz == clip["sample_rate"]
    assert audio.info.channels == clip["channels"]
    assert audio.info.codec == clip["codec"]
    assert audio.info.has_video == (path.suffix == ".mp4")
    assert np.abs(audio.samples).max() > 0.01


def test_one_command_over_all_of_them(cli: Callable[..., Answer], tmp_path: Path) -> None:
    """As a user has them: a JSON Lines list with names of its own, under another root."""
    answer = cli(
        *("run", LIST, "--root", CLIPS, "--field", "uri=file", "-o", "out", "-t", "2"),
        *("--field", "language=unused"),  # some say "en+de", which is no language
        *("--engine", "null", "--max-per-gpu", "2", "--output-template", "{uri}"),
    )
    assert answer.code == 3, answer.err
    summary = json.loads((tmp_path / "out/summary.json").read_text(encoding="utf-8"))
    assert summary["done"] == len(CLIP_LIST) - len(FAILURES)
    failures = {Path(failure["name"]).name: failure for failure in summary["failures"]}
    assert set(failures) == {Path(name).stem for name in FAILURES}
    for name, (kind, reason) in FAILURES.items():
        failure = failures[Path(name).stem]
        assert failure["kind"] == kind
        assert reason in failure["reason"]
    documents = [json.loads(p.read_text("utf-8")) for p in (tmp_path / "out").glob("*.json")]
    lengths = {d["source"]: d["duration_s"] for d in documents if "source" in d}
    for clip in CLIP_LIST:
        if clip["file"] not in FAILURES:
            expected = pytest.approx(clip["seconds"], abs=max(0.1, 0.01 * clip["seconds"]))
            assert lengths[clip["file"]] == expected, clip["file"]
