"""Known voices: the file that names them, and who gets which name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from program import write_tone

from audio_batch.errors import AssetError, ErrorKind, UsageError
from audio_batch.transcript import Speaker
from audio_batch.voices.enrolment import Enrolled, embed_references, identify, read

Samples = NDArray[np.float32]


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    for name in ("a.wav", "b.wav", "c.wav"):
        write_tone(tmp_path / name, 0.1, hz=ord(name[0]) * 5)
    return tmp_path


def write(folder: Path, value: object) -> Path:
    path = folder / "enrolled.json"
    text = value if isinstance(value, str) else json.dumps(value)
    path.write_text(text, encoding="utf-8")
    return path


def test_names_and_clips_are_read_relative_to_the_file(clips: Path) -> None:
    path = write(clips, "\ufeff" + json.dumps({" Zoë\tB. ": ["a.wav", "b.wav"], "Al": "c.wav"}))
    enrolment = read(path)
    assert enrolment.clips == {
        "Zoë B.": (clips / "a.wav", clips / "b.wav"),
        "Al": (clips / "c.wav",),
    }
    absolute = read(write(clips, {"Al": str(clips / "c.wav")}))
    assert absolute.clips["Al"][0].read_bytes() == (clips / "c.wav").read_bytes()


def test_the_digest_names_names_and_content_and_nothing_else(clips: Path) -> None:
    def digest(value: object) -> str:
        return read(write(clips, value)).digest

    one = digest({"A": ["a.wav", "b.wav"], "B": "c.wav"})
    assert digest({"B": ["c.wav"], "A": ["a.wav", "b.wav"]}) == one
    assert digest({"A": "a.wav", "B": "c.wav"}) != one
    assert digest({"A": ["a.wav", "b.wav"], "C": "c.wav"}) != one
    (clips / "c.wav").rename(clips / "d.wav")
    assert digest({"A": ["a.wav", "b.wav"], "B": "d.wav"}) == one
    (clips / "d.wav").write_bytes((clips / "a.wav").read_bytes())
    assert digest({"A": ["a.wav", "b.wav"], "B": "d.wav"}) != one


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("", "line 1, column 1"),
        ('{"A": "a.wav",}', "line 1"),
        ("[]", "no JSON object"),
        ("[1", "line 1"),
        ("3", "no JSON object"),
        ("{}", "names nobody"),
        ('{" \\n": "a.wav"}', "empty name"),
        ('{"A": "a.wav", "A": "b.wav"}', "'A' stands in it twice"),
        ('{"Ann Lee": "a.wav", "ann  lee": "b.wav"}', "'ann lee' stands in it twice (as 'Ann Lee'"),
        ({"A": []}, "A: the path"),
        ({"A": None}, "A: the path"),
        ({"A": {"clip": "a.wav"}}, "A: the path"),
        ({"A": ["a.wav", 3]}, "A, clip 2: the path"),
        ({"A": [["a.wav"]]}, "A, clip 1: the path"),
        ({"A": ""}, "A: the path"),
        ({"A": "a\0.wav"}, "A: the path"),
        ({"A": "missing.wav"}, "A: there is no file missing.wav"),
        ({"A": ["a.wav", "missing.wav"]}, "A, clip 2: there is no file missing.wav"),
        ({"A": "."}, "A: there is no file"),
        ({"A": "x" * 5000}, "A: there is no file"),
        ('{"A": "\\ud800.wav"}', "A: there is no file"),
        ({"A": ["a.wav", "a.wav"]}, "A, clip 2: a.wav stands in it twice"),
        ('{"A": ' * 100_000, "enrolled.json"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(clips: Path, value: object, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(write(clips, value))
    assert told in str(caught.value)
    assert str(caught.value).startswith(f"--speakers {clips}")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


def test_no_file_other_encodings_and_control_characters_are_said(clips: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.json: No such file"):
        read(clips / "nowhere.json")
    (clips / "enrolled.json").write_bytes('{"A": "a.wav"}'.encode("utf-16"))
    with pytest.raises(UsageError, match="not UTF-8"):
        read(clips / "enrolled.json")
    with pytest.raises(UsageError) as caught:
        read(write(clips, {"A\u202e": "\x1b[31m.wav"}))
    assert not set(str(caught.value)) & set("\u202e\x1b")


def test_references_are_averaged_by_direction(clips: Path) -> None:
    vectors = {"a.wav": (10.0, 0.0), "b.wav": (0.0, 0.1), "c.wav": (0.0, -3.0)}
    heard: list[str] = []

    def decode(path: Path) -> Samples:
        heard.append(path.name)
        return np.array([len(heard)], np.float32)

    def embed(samples: Samples) -> tuple[float, ...]:
        return vectors[heard[int(samples[0]) - 1]]

    enrolled = embed_references(
        read(write(clips, {"A": ["a.wav", "b.wav"], "B": "c.wav"})), embed, decode
    )
    assert enrolled.names == ("A", "B")
    half = 0.5**0.5
    assert enrolled.vectors == pytest.approx(np.array([[half, half], [0, -1]]))
    assert heard == ["a.wav", "b.wav", "c.wav"]


@pytest.mark.parametrize("vector", [(0.0, 0.0), (float("nan"), 1.0), (float("inf"), 1.0)])
def test_a_clip_without_a_voice_is_named(clips: Path, vector: tuple[float, float]) -> None:
    enrolment = read(write(clips, {"A": ["a.wav", "b.wav"]}))
    with pytest.raises(UsageError, match=r"A: a\.wav: no voice"):
        embed_references(enrolment, lambda _: vector, lambda _: np.zeros(1, np.float32))


def test_a_clip_that_is_too_short_is_named(clips: Path) -> None:
    def embed(_samples: Samples) -> tuple[float, ...]:
        raise AssetError(ErrorKind.DIARIZATION, "There is too little sound to tell.")

    enrolment = read(write(clips, {"A": "a.wav"}))
    with pytest.raises(UsageError, match=r"A: a\.wav: There is too little sound to tell\.$"):
        embed_references(enrolment, embed, lambda _: np.zeros(1, np.float32))


# --- identify --------------------------------------------------------------------------------


def known(*names: str) -> Enrolled:
    return Enrolled(names, np.eye(len(names), 8, dtype=np.float32))


def voice(*cosines: float) -> Speaker:
    """A voice with these cosines to the known ones."""
    rest = max(0.0, 1 - sum(c * c for c in cosines)) ** 0.5
    vector = [*cosines, *[0.0] * (7 - len(cosines)), rest]
    return Speaker("S", 10, tuple(3 * value for value in vector))


def test_names_are_given_once_and_to_the_surest() -> None:
    told = identify([voice(0.8), voice(0.9), voice(0.1)], known("Ann"), 0.7)
    assert [(s.name, s.score) for s in told] == [(None, None), ("Ann", 0.9), (None, None)]


def test_a_sure_match_is_not_given_up_for_two_doubtful_ones() -> None:
    told = identify([voice(0.68, 0.6), voice(0.62, 0.1)], known("Ann", "Bob"), 0.59)
    assert [s.name for s in told] == ["Ann", None]


def test_two_good_matches_beat_one_better() -> None:
    told = identify([voice(0.75, 0.65), voice(0.74, 0.1)], known("Ann", "Bob"), 0.5)
    assert [s.name for s in told] == ["Bob", "Ann"]


def test_the_threshold_itself_is_enough_and_less_is_not() -> None:
    exact = Speaker("S", 1, (0.5, *[0.5] * 3, *[0.0] * 4))
    assert identify([exact], known("Ann"), 0.5)[0].score == 0.5
    assert identify([exact], known("Ann"), 0.5001)[0].name is None


def test_whoever_is_no_longer_known_loses_the_name_and_keeps_the_rest() -> None:
    before = Speaker("S", 1, (0.0,) * 7 + (1.0,), voice="VOICE_0001", name="Ann", score=0.9)
    (after,) = identify([before], known("Ann"), 0.5)
    assert (after.name, after.score, after.voice) == (None, None, "VOICE_0001")
    by_hand = Speaker("S", 1, None, voice="VOICE_0001", name="Bob")
    assert identify([by_hand], known("Ann"), 0.5) == (by_hand,)


def test_vectors_that_are_none_get_no_name() -> None:
    odd = [None, (), (1.0,), (0.0,) * 8, (float("nan"),) * 8, (float("inf"),) * 8]
    told = identify([Speaker("S", 1, vector) for vector in odd], known("Ann"), 0.1)
    assert {s.name for s in told} == {None}
    assert identify([], known("Ann"), 0.5) == ()
