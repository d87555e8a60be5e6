"""`examples/`: the manifest transcribed for real, the recordings, settings and README checked.

Where a test is not about words, the null engine takes the demonstration model's place (it decodes
the recordings all the same), so that it needs seconds.
"""

from __future__ import annotations

import csv
import io
import json
import re
import runpy
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from program import Answer, command, environment
from shipped import (
    ASSETS,
    EXAMPLES,
    MAKER,
    NULL,
    REASON,
    SPOKEN,
    copied,
    ended,
    install,
    needs_posix,
    with_path,
)

from audio_batch import config
from audio_batch.errors import AssetError, ErrorKind, ExitCode
from audio_batch.media import probe

# ---- The recordings and their manifest


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Answer, Path]:
    """The manifest run once, as the README says; its answer and its outputs."""
    folder = copied(tmp_path_factory.mktemp("examples") / "examples")
    answer = ended(command("run", "manifest.json", "-o", "out"), folder, environment())
    return answer, folder / "out"


def test_all_is_done_but_the_broken_one_which_says_why(run: tuple[Answer, Path]) -> None:
    answer, out = run
    assert answer.code == ExitCode.SOME_FAILED, answer.err
    assert REASON in answer.err
    assert "demonstration model" in answer.err
    assert "Traceback" not in answer.err
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert (summary["done"], summary["failed"]) == (len(SPOKEN), 1)
    (failure,) = summary["failures"]
    assert (failure["id"], failure["kind"]) == ("broken", ErrorKind.NOT_MEDIA)
    assert REASON in failure["reason"]
    assert {path.stem for path in out.glob("*.txt")} == {asset["id"] for asset in SPOKEN}
    assert {path.stem for path in out.glob("*.srt")} == {asset["id"] for asset in SPOKEN}


@pytest.mark.parametrize("asset", SPOKEN, ids=[asset["id"] for asset in SPOKEN])
def test_the_words_are_those_that_are_said(run: tuple[Answer, Path], asset: dict[str, Any]) -> None:
    _, out = run
    document = json.loads((out / f"{asset['id']}.json").read_text(encoding="utf-8"))
    heard = " ".join(segment["text"] for segment in document["segments"])
    assert heard.split() == asset["text"].split()
    words = [word["text"] for segment in document["segments"] for word in segment["words"]]
    assert [word.strip() for word in words] == asset["text"].split()
    written = (out / f"{asset['id']}.txt").read_text(encoding="utf-8")
    assert [word for word in written.split() if ":" not in word] == asset["text"].split()


@pytest.mark.parametrize("asset", SPOKEN, ids=[asset["id"] for asset in SPOKEN])
def test_a_transcript_carries_its_entry(run: tuple[Answer, Path], asset: dict[str, Any]) -> None:
    _, out = run
    document = json.loads((out / f"{asset['id']}.json").read_text(encoding="utf-8"))
    for name in ("asset_type", "folder_path", "text"):
        assert document["metadata"][name] == asset[name]
    assert document["media"]["state"] == "complete"
    assert document["language"] == "en"


REFERENCE: list[dict[str, Any]] = json.loads(
    (EXAMPLES / "references.json").read_text(encoding="utf-8")
)


def said(asset_id: str) -> list[tuple[str, str]]:
    """Who says what in truth, the voices numbered as they come."""
    return joined(speakers_of(asset_id))


def joined(parts: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """What one speaker says in one go as one text: how a format cuts it is not asked."""
    whole: list[tuple[str, str]] = []
    for speaker, text in parts:
        if whole and whole[-1][0] == speaker:
            whole[-1] = (speaker, f"{whole[-1][1]} {text.strip()}")
        else:
            whole.append((speaker, text.strip()))
    return whole


def named(lines: Iterable[str]) -> list[tuple[str, str]]:
    """Lines such as "Name: text"; one without a name goes on with the last."""
    parts: list[tuple[str, str]] = []
    for line in lines:
        speaker, colon, text = line.partition(": ")
        parts.append((speaker, text) if colon else (parts[-1][0], line))
    return joined(parts)


@pytest.fixture(scope="module")
def everything(run: tuple[Answer, Path]) -> Path:
    """The same outputs, in every format."""
    _, out = run
    answer = ended(command("export", out, "-f", "all"), out, environment())
    assert answer.code == 0, answer.err
    return out


@pytest.mark.parametrize("asset", SPOKEN, ids=[asset["id"] for asset in SPOKEN])
def test_every_format_says_who_says_what(everything: Path, asset: dict[str, Any]) -> None:
    def text(suffix: str) -> str:
        return (everything / f"{asset['id']}{suffix}").read_text(encoding="utf-8")

    truth = said(asset["id"])
    document = json.loads(text(".json"))
    words = [w for segment in document["segments"] for w in segment["words"]]
    assert joined((w["speaker"], w["text"]) for w in words) == truth
    assert joined((s["speaker"], s["text"]) for s in document["segments"]) == truth
    assert named(line for line in text(".txt").splitlines() if line) == truth
    assert named(cue_texts(text(".srt"))) == truth
    assert named(cue_texts(text(".vtt").replace("<v ", "").replace(">", ": "))) == truth
    assert named(row.split("\t")[2] for row in text(".aud").splitlines()) == truth
    lyrics = (re.sub(r"^\[[\d:.]+\]", "", line) for line in text(".lrc").splitlines())
    assert named(line for line in lyrics if not line.startswith("[")) == truth
    rows = list(csv.DictReader(io.StringIO(text(".csv"))))
    assert joined((row["speaker"], row["text"]) for row in rows) == truth
    tsv = list(csv.DictReader(io.StringIO(text(".tsv")), delimiter="\t"))
    assert joined((row["speaker"], row["text"]) for row in tsv) == truth
    # Of turns, the middle of each one that is spoken.
    turns = [line.split() for line in text(".rttm").splitlines()]
    truly = zip(spoken_turns(asset["id"]), speakers_of(asset["id"]), strict=True)
    for turn, (speaker, _) in truly:
        middle = (turn["start_time"] + turn["end_time"]) / 2
        covering = {t[7] for t in turns if float(t[3]) <= middle <= float(t[3]) + float(t[4])}
        assert covering == {speaker}
    assert text(".uem").split()[2] == "0.000"


def spoken_turns(asset_id: str) -> list[dict[str, Any]]:
    return [turn for turn in REFERENCE if turn["session_id"] == asset_id]


def speakers_of(asset_id: str) -> list[tuple[str, str]]:
    turns = spoken_turns(asset_id)
    voices = list(dict.fromkeys(turn["speaker"] for turn in turns))
    return [(f"SPEAKER_{voices.index(t['speaker']):02d}", t["words"]) for t in turns]


def cue_texts(document: str) -> Iterator[str]:
    """The text lines of subtitles."""
    for block in document.split("\n\n"):
        lines = block.strip().splitlines()
        place = next((n for n, line in enumerate(lines) if "-->" in line or "--:" in line), None)
        if place is not None:
            yield from lines[place + 1 :]


def test_the_recordings_are_what_the_readme_says() -> None:
    table = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    rows = {
        name: (what, seconds)
        for name, what, seconds in re.findall(
            r"^\| `(\w+\.\w+)` \| (.+?) \| ?(\d*) \|$", table, flags=re.M
        )
    }
    files = {path.name for path in (EXAMPLES / "audio").iterdir()}
    assert set(rows) == files == {asset["path"].removeprefix("audio/") for asset in ASSETS}
    for name, codec in {
        "phone_number.wav": "pcm_s16le",
        "dialogue.flac": "flac",
        "door_code.mp3": "mp3",
        "lottery.mp4": "aac",
        "long_count.opus": "opus",
    }.items():
        info = probe(EXAMPLES / "audio" / name)
        what, seconds = rows[name]
        assert info.codec == codec
        assert f"{info.sample_rate_hz / 1000:g} kHz" in what
        assert info.channels == (2 if "stereo" in what else 1)
        assert info.has_video == ("video" in what)
        assert info.duration_s is not None
        assert round(info.duration_s) == int(seconds)
    with pytest.raises(AssetError, match=r"not a recording"):
        probe(EXAMPLES / "audio" / "broken.wav")
    size_bytes = sum(path.stat().st_size for path in (EXAMPLES / "audio").iterdir())
    assert size_bytes < 600_000


def test_the_manifest_is_made_from_the_script_that_makes_the_recordings() -> None:
    maker = runpy.run_path(str(MAKER))
    assert (EXAMPLES / "manifest.json").read_text(encoding="utf-8") == maker["manifest"]()


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs the program espeak-ng")
def test_the_script_makes_the_same_recordings_again(tmp_path: Path) -> None:
    """Durations and texts, not bytes: another espeak-ng speaks a little differently."""
    answer = ended([sys.executable, MAKER, tmp_path / "again"], tmp_path, environment())
    assert answer.code == 0, answer.err
    again = tmp_path / "again"
    assert (again / "manifest.json").read_bytes() == (EXAMPLES / "manifest.json").read_bytes()
    assert {path.name for path in (again / "audio").iterdir()} == {
        path.name for path in (EXAMPLES / "audio").iterdir()
    }
    for asset in SPOKEN:
        new, old = probe(again / asset["path"]), probe(EXAMPLES / asset["path"])
        assert (new.codec, new.sample_rate_hz) == (old.codec, old.sample_rate_hz)
        assert new.duration_s == pytest.approx(old.duration_s, rel=0.1)
    assert (again / "audio/broken.wav").read_bytes() == (EXAMPLES / "audio/broken.wav").read_bytes()


# ---- Settings and README


def test_every_setting_of_the_configuration_file_is_one_also_those_commented_out(
    tmp_path: Path,
) -> None:
    text = (EXAMPLES / "audio-batch.toml").read_text(encoding="utf-8")
    settings = config.read(EXAMPLES / "audio-batch.toml")
    assert settings == {
        "model": "demo",
        "align_model": "demo",
        "diarize_model": "demo",
        "output_format": ["txt", "srt"],
        "yes": True,
    }
    commented = re.findall(r"^# ([a-z-]+ = .+)$", text, flags=re.M)
    assert len(commented) == 6
    for line in commented:
        alone = tmp_path / "one.toml"
        alone.write_text(line, encoding="utf-8")
        assert len(config.read(alone)) == 1


@needs_posix
def test_every_command_of_the_readme_runs_and_exits_as_it_says(tmp_path: Path) -> None:
    folder = copied(tmp_path / "examples")
    install(tmp_path / "bin")
    readme = (folder / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```$", readme, flags=re.M | re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    assert len(lines) == 9
    for number, line in enumerate(lines):
        answer = ended(["sh", "-c", line], folder, with_path(tmp_path / "bin", **NULL))
        said = re.search(r"# exit code (\d+)", line)
        expected = int(said[1]) if said else ExitCode.SOME_FAILED if number == 0 else ExitCode.OK
        assert answer.code == expected, (line, answer.err)
        if number == 1:
            assert "Nothing to do" in answer.err
    assert {path.stem for path in (folder / "out").glob("*.vtt")} == {a["id"] for a in SPOKEN}
    tried = re.findall(r"try `(\./[^`]+)`", readme)
    assert tried == ["./night.sh"]
    assert ended(tried, folder, with_path(tmp_path / "bin", **NULL)).code == 3


def test_the_readme_tells_every_exit_code() -> None:
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| (\d+) \|", readme, flags=re.M)
    assert [int(code) for code in told] == [code.value for code in ExitCode]
