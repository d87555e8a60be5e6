"""`audio-batch eval`: folders of real runs, and copies of transcripts, against references.

What needs no run goes through the command line in this process: to import what scores speakers
takes seconds.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from program import Answer, write_manifest, write_tone

from audio_batch.cli import run_app
from audio_batch.transcript import Segment, Transcript, Turn, Word

Cli = Callable[..., Answer]
NULL = ("--engine", "null")


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    """The command line in this process, in `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("AUDIO_BATCH_")]:
        monkeypatch.delenv(name)

    def run(*arguments: object) -> Answer:
        code = run_app([str(argument) for argument in arguments])
        said = capfd.readouterr()
        return Answer(code, said.out, said.err)

    return run


def manifest(folder: Path, entries: dict[str, dict[str, Any]]) -> Path:
    """A manifest of recordings that are not there: measuring needs none."""
    rows = [{"id": id_, "path": f"audio/{id_}.wav", **fields} for id_, fields in entries.items()]
    path = folder / "m.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def publish(
    out: Path,
    id_: str,
    said: Sequence[tuple[str | None, str, float, float]],
    *,
    missing: Sequence[str] = (),
) -> None:
    """A transcript as a run writes it: a segment and a turn for each of `said`."""
    segments, turns = [], []
    for speaker, text, start_s, end_s in said:
        parts = text.split()
        step_s = (end_s - start_s) / max(1, len(parts))
        words = tuple(
            Word(part, start_s + n * step_s, start_s + (n + 1) * step_s, speaker=speaker)
            for n, part in enumerate(parts)
        )
        segments.append(Segment(text, start_s, end_s, words, speaker))
        if speaker is not None:
            turns.append(Turn(speaker, start_s, end_s))
    transcript = Transcript(
        id_,
        f"audio/{id_}.wav",
        id_,
        "en",
        20.0,
        tuple(segments),
        turns=tuple(turns),
        missing=tuple(missing),
    )
    out.mkdir(exist_ok=True)
    body = json.dumps(transcript.to_json(), ensure_ascii=True)
    (out / f"{id_}.json").write_text(body, encoding="ascii")


def measured(answer: Answer) -> dict[str, Any]:
    assert answer.code == 0, answer.err
    body: dict[str, Any] = json.loads(answer.out)
    return body


# ---- A run's own folder


def test_a_run_is_measured(cli: Cli, tmp_path: Path) -> None:
    """The null engine says "0.500 seconds of audio", which are 5 words: the point is a blank."""
    path = write_manifest(tmp_path, 3)
    body = json.loads(path.read_text(encoding="utf-8"))
    body["assets"][0]["text"] = "0.500 Seconds of audio!"
    body["assets"][1]["text"] = "no seconds of video at all"
    path.write_text(json.dumps(body), encoding="utf-8")
    assert cli("run", path, "-o", "out", *NULL).code == 0
    answer = cli("eval", path, "out")
    assert answer.code == 0, answer.err
    assert "WER" in answer.out
    assert "Without a reference: 1 of 3 assets." in answer.out
    assert answer.out.index("tone-001") < answer.out.index("tone-000")  # the worst is first
    found = measured(cli("eval", path, "out", "--json"))
    assert found["counts"] == {"measured": 2, "missing": 0, "not_measured": 0, "no_reference": 1}
    first, second, _ = found["assets"]
    assert (first["measures"]["wer"]["errors"], first["measures"]["wer"]["of"]) == (0, 5)
    # "0 501 seconds of audio": two before, video for audio, at and all gone
    assert second["measures"]["wer"]["of"] == 6
    assert second["measures"]["wer"]["errors"] == 5
    total = found["totals"]["wer"]
    assert (total["figures"]["rate_pct"], total["assets"]) == (round(100 * 5 / 11, 4), 2)
    assert found["rules"]["normalization"] == "basic"


def test_what_failed_is_missing_with_its_reason(cli: Cli, app: Cli, tmp_path: Path) -> None:
    write_tone(tmp_path / "audio" / "good.wav", 0.5)
    (tmp_path / "audio" / "bad.wav").write_bytes(b"no recording")
    path = manifest(
        tmp_path,
        {
            "good": {"reference_text": "0.500 seconds of audio"},
            "bad": {"reference_text": "one two three"},
        },
    )
    assert cli("run", path, "-o", "out", *NULL).code == 3
    answer = app("eval", path, "out")
    assert answer.code == 0
    flat = " ".join(answer.out.split())
    assert "1 of 2 assets with a reference have no transcript in out" in flat
    assert "are in none of the rates" in flat
    assert "bad: no transcript: " in flat
    assert "bad.wav is not a recording" in flat
    found = measured(app("eval", path, "out", "--json"))
    total = found["totals"]["wer"]
    assert (total["figures"]["rate_pct"], total["assets"], total["assets_with_reference"]) == (
        0,
        1,
        2,
    )
    counted = measured(app("eval", path, "out", "--json", "--missing-as-empty"))
    figures = counted["totals"]["wer"]["figures"]
    assert (figures["deletions"], figures["of"]) == (3, 8)
    assert counted["counts"]["missing"] == 1


def test_another_machine_needs_neither_recordings_nor_journal(
    cli: Cli, app: Cli, tmp_path: Path
) -> None:
    path = write_manifest(tmp_path, 2)
    body = json.loads(path.read_text(encoding="utf-8"))
    for entry in body["assets"]:
        entry["reference_text"] = "0 501 seconds of audio"
    path.write_text(json.dumps(body), encoding="utf-8")
    assert cli("run", path, "-o", "out", *NULL).code == 0
    here = measured(app("eval", path, "out", "--json"))
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "out", copy / "deeper", ignore=lambda *_: [".audio-batch"])
    (copy / "deeper" / "not ours.json").write_text('{"asset_id": 5}', encoding="utf-8")
    (copy / "deeper" / "broken.json").write_text("{", encoding="utf-8")
    shutil.rmtree(tmp_path / "audio")
    there = measured(app("eval", path, "copy", "--json"))
    assert there["totals"] == here["totals"]
    assert [note.split(" cannot")[0] for note in there["notes"]] == ["deeper/broken.json"]
    only = measured(app("eval", path, "copy", "--json", "--where", "id=tone-001"))
    assert [asset["id"] for asset in only["assets"]] == ["tone-001"]


# ---- Speakers

TALK = [("A", "the cat sat on", 0.0, 4.0), ("B", "a mat", 4.0, 6.0), ("A", "indeed", 6.0, 7.0)]


def with_speakers(folder: Path) -> Path:
    rows = [
        {"session_id": "talk", "speaker": who, "words": text, "start_time": start, "end_time": end}
        for who, text, start, end in TALK
    ]
    (folder / "all.seglst.json").write_text(json.dumps(rows), encoding="utf-8")
    words = [["the", 0, 1], ["cat", 1, 2], ["sat", 2, 3], ["on", 3, 4]]
    return manifest(
        folder, {"talk": {"reference_seglst": "all.seglst.json", "reference_words": words}}
    )


def test_who_said_what_and_when(app: Cli, tmp_path: Path) -> None:
    path = with_speakers(tmp_path)
    said = [
        ("S0", "the cat sat", 0.0, 3.0),
        ("S1", "on a mat", 3.0, 6.0),
        ("S0", "indeed", 6.0, 7.0),
    ]
    publish(tmp_path / "out", "talk", said)
    found = measured(app("eval", path, "out", "--json", "--collar", "0"))
    rates = {name: total["figures"] for name, total in found["totals"].items()}
    assert (rates["wer"]["errors"], rates["wer"]["of"]) == (0, 7)
    # "on" is deleted of A and inserted of B
    assert (rates["cpwer"]["deletions"], rates["cpwer"]["insertions"]) == (1, 1)
    assert rates["der"]["confusion"] == 1.0
    assert rates["der"]["of"] == 7.0
    assert rates["speakers"]["errors"] == 0
    # A 4 of 5 seconds, B 2 of 3
    assert rates["jer"]["rate_pct"] == pytest.approx(100 * (1 / 5 + 1 / 3) / 2, abs=1e-3)
    assert found["word_boundaries"]["words"] == 4
    assert found["word_boundaries"]["start_median_ms"] == 0
    collared = measured(app("eval", path, "out", "--json"))
    assert collared["rules"]["collar_s"] == 0.25
    assert collared["totals"]["der"]["figures"]["confusion"] == 0.75
    answer = app("eval", path, "out")
    assert "0.25 s on each side" in " ".join(answer.out.split())


def test_no_speakers_is_not_the_same_as_nobody_found(app: Cli, tmp_path: Path) -> None:
    path = with_speakers(tmp_path)
    publish(tmp_path / "out", "talk", [(None, "the cat sat on a mat indeed", 0.0, 7.0)])
    found = measured(app("eval", path, "out", "--json"))
    assert found["totals"]["der"] == {"assets": 0, "assets_with_reference": 1, "figures": None}
    assert found["assets"][0]["notes"] == ["the transcript has no speakers"]
    assert found["totals"]["wer"]["figures"]["rate_pct"] == 0
    failed = {"missing": ["diarize"]}
    publish(tmp_path / "out", "talk", [(None, "the cat sat", 0.0, 3.0)], **failed)
    assert measured(app("eval", path, "out", "--json"))["totals"]["der"]["figures"] is None
    empty = measured(app("eval", path, "out", "--json", "--missing-as-empty"))
    assert empty["totals"]["der"]["figures"]["rate_pct"] == 100


def test_missing_as_empty_asks_nothing_of_a_run_without_speakers(app: Cli, tmp_path: Path) -> None:
    with_speakers(tmp_path)
    fields = {"reference_seglst": "all.seglst.json"}
    path = manifest(tmp_path, {"talk": fields, "gone": {**fields, "path": "x/talk.wav"}})
    publish(tmp_path / "out", "talk", [(None, "the cat sat on a mat indeed", 0.0, 7.0)])
    found = measured(app("eval", path, "out", "--json", "--missing-as-empty"))
    assert found["totals"]["wer"]["figures"]["deletions"] == 7
    assert found["totals"]["der"]["figures"] is None


def test_names_that_people_gave_are_who_they_are(app: Cli, tmp_path: Path) -> None:
    """Two labels of one person, shown alike, are one speaker, as in the other formats."""
    path = with_speakers(tmp_path)
    publish(
        tmp_path / "out", "talk", [("S0", *TALK[0][1:]), ("S1", *TALK[1][1:]), ("S2", *TALK[2][1:])]
    )
    before = measured(app("eval", path, "out", "--json"))["assets"][0]
    assert (before["speakers"], before["speakers_found"]) == (2, 3)
    file = tmp_path / "out" / "talk.json"
    body = json.loads(file.read_text(encoding="utf-8"))
    body["speakers"] = [{"label": label, "talk_s": 1, "name": "Ann"} for label in ("S0", "S2")]
    file.write_text(json.dumps(body), encoding="utf-8")
    after = measured(app("eval", path, "out", "--json"))["assets"][0]
    assert (after["speakers"], after["speakers_found"]) == (2, 2)
    assert after["measures"]["cpwer"]["errors"] == 0
    assert after["measures"]["der"]["errors"] == 0


# ---- Two folders


def test_two_folders_side_by_side(app: Cli, tmp_path: Path) -> None:
    path = manifest(tmp_path, {f"a{n}": {"reference_text": "one two three four"} for n in range(5)})
    for n, (ours, theirs) in enumerate(
        [
            ("one two three four", "one two three"),
            ("one two three four", "one three"),
            ("one two four", "one two three four"),
            ("one two three four", "one two three four"),
        ]
    ):
        publish(tmp_path / "new", f"a{n}", [(None, ours, 0, 4)])
        publish(tmp_path / "old", f"a{n}", [(None, theirs, 0, 4)])
    publish(tmp_path / "old", "a4", [(None, "utterly wrong", 0, 4)])  # not in both: not compared
    body = measured(app("eval", path, "new", "--against", "old", "--json"))
    found = body["comparison"]["wer"]
    assert (found["better"], found["same"], found["worse"], found["assets"]) == (2, 1, 1, 4)
    assert (found["ours"]["rate_pct"], found["theirs"]["rate_pct"]) == (6.25, 18.75)
    assert found["difference_pct"] == -12.5
    low, high = found["difference_95_pct"]
    assert low < -12.5 < high
    assert body["against"]["totals"]["wer"]["assets"] == 5
    answer = app("eval", path, "new", "--against", "old")
    assert answer.code == 0
    assert "new against old" in answer.out
    assert "-12.50" in answer.out


# ---- Limits


def test_limits_decide_the_exit_code(app: Cli, tmp_path: Path) -> None:
    path = manifest(tmp_path, {"a": {"reference_text": "one two three four"}})
    publish(tmp_path / "out", "a", [(None, "one two three", 0, 3)])
    assert app("eval", path, "out", "--max-wer", "25").code == 0
    answer = app("eval", path, "out", "--max-wer", "24.9", "--json")
    assert answer.code == 3
    assert answer.err.strip() == "WER 25.00 % is above 24.9 %."
    assert json.loads(answer.out)["totals"]["wer"]["figures"]["rate_pct"] == 25
    answer = app("eval", path, "out", "--max-der", "50")
    assert (answer.code, answer.err.strip()) == (3, "DER could not be measured.")


def test_a_limit_is_not_kept_by_leaving_assets_out(app: Cli, tmp_path: Path) -> None:
    text = {"reference_text": "one two three four"}
    path = manifest(tmp_path, {"a": text, "b": text})
    publish(tmp_path / "out", "a", [(None, "one two three four", 0, 3)])
    assert app("eval", path, "out").code == 0
    answer = app("eval", path, "out", "--max-wer", "60")
    assert answer.code == 3
    assert "1 transcripts are missing" in answer.err
    assert app("eval", path, "out", "--max-wer", "60", "--missing-as-empty").code == 0


# ---- What cannot be measured


def test_without_any_reference_it_says_how_to_give_one(app: Cli, tmp_path: Path) -> None:
    publish(tmp_path / "out", "a", [(None, "one", 0, 1)])
    answer = app("eval", manifest(tmp_path, {"a": {}}), "out")
    assert answer.code == 2
    assert "No entry of the manifest has a reference." in answer.err
    assert "reference_text" in answer.err


def test_folders_that_hold_nothing(app: Cli, tmp_path: Path) -> None:
    path = manifest(tmp_path, {"a": {"text": "one"}})
    assert app("eval", path, "nowhere").code == 2
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "summary.json").write_text("{}", encoding="utf-8")
    answer = app("eval", path, "out")
    assert answer.code == 5
    assert "out holds no transcripts." in answer.err
    publish(tmp_path / "sound", "a", [(None, "one", 0, 1)])
    assert app("eval", path, "sound", "--against", "out").code == 5
    assert app("eval", tmp_path / "no.json", "sound").code == 4
    (tmp_path / "bad.json").write_text("{", encoding="utf-8")
    assert app("eval", "bad.json", "sound").code == 4
    assert app("eval", path, "sound", "--collar", "-1").code == 2


def test_references_that_are_broken_spoil_only_themselves(app: Cli, tmp_path: Path) -> None:
    (tmp_path / "bad.rttm").write_bytes(b"\xff\xfe\x00garbage")
    path = manifest(
        tmp_path,
        {
            "good": {"text": "one"},
            "half": {"text": "one", "reference_rttm": "bad.rttm"},
            "none": {"reference_seglst": "gone\u202e\x1b[31m.json"},
            "[red]name": {"text": "two"},
        },
    )
    for id_ in ("good", "half", "none", "[red]name"):
        publish(tmp_path / "out", id_, [(None, "one", 0, 1)])
    (tmp_path / "out" / "half.json").write_text("{}", encoding="utf-8")
    found = measured(app("eval", path, "out", "--json"))
    status = {asset["id"]: asset["status"] for asset in found["assets"]}
    assert status == {
        "good": "measured",
        "half": "missing",
        "none": "not_measured",
        "[red]name": "measured",
    }
    answer = app("eval", path, "out")
    assert answer.code == 0
    assert "[red]name" in answer.out
    assert "\x1b" not in answer.out
    assert "\u202e" not in answer.out
    assert "is no UTF-8 text" in " ".join(answer.out.split())


def test_transcripts_that_are_no_transcripts(app: Cli, tmp_path: Path) -> None:
    names = ("good", "new", "torn", "odd", "nan")
    path = manifest(tmp_path, {name: {"text": "one"} for name in names})
    publish(tmp_path / "out", "good", [(None, "one", 0, 1)])
    sound = json.loads((tmp_path / "out" / "good.json").read_text(encoding="utf-8"))
    for name, body in {
        "new": {"schema_version": 99, "asset_id": "new"},
        "torn": {"schema_version": 1, "asset_id": "torn", "segments": 5},
        "odd": {**sound, "asset_id": "odd", "duration_s": "long"},
        "nan": {**sound, "asset_id": "nan", "duration_s": float("nan")},
    }.items():
        (tmp_path / "out" / f"{name}.json").write_text(json.dumps(body), encoding="utf-8")
    (tmp_path / "out" / "twin.json").write_bytes((tmp_path / "out" / "good.json").read_bytes())
    found = measured(app("eval", path, "out", "--json"))
    assert (found["counts"]["missing"], found["counts"]["measured"]) == (4, 1)
    assert found["notes"] == ["twin.json is left out: good.json is of the same asset"]
    reasons = {asset["id"]: asset["notes"] for asset in found["assets"]}
    assert "schema_version 99" in reasons["new"][0]
    assert "duration_s: Input should be a valid number" in reasons["odd"][0]
    assert "NaN is no number" in reasons["nan"][0]


def test_chinese_is_measured_in_characters(app: Cli, tmp_path: Path) -> None:
    path = manifest(tmp_path, {"zh": {"text": "今天天气很好。"}, "en": {"text": "fine day"}})
    publish(tmp_path / "out", "zh", [(None, "今天 天气 好", 0, 1)])
    publish(tmp_path / "out", "en", [(None, "fine day", 0, 1)])
    found = measured(app("eval", path, "out", "--json"))
    assert found["totals"]["wer"]["assets_with_reference"] == 1
    assert found["assets"][0]["measures"].keys() == {"cer"}
    assert found["assets"][0]["measures"]["cer"]["errors"] == 1
    assert "CER is what counts" in app("eval", path, "out").out
