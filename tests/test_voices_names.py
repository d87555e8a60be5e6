"""`speakers.json`, which people edit: what they may write, and what they are told."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from voice_folders import transcript

from audio_batch.errors import UsageError
from audio_batch.formats import FormatOptions, render
from audio_batch.transcript import Speaker
from audio_batch.voices import names
from audio_batch.voices.names import VoiceSummary

ONE = VoiceSummary(recordings=3, talk_s=12.5, heard_in=("a", "b"))


def write(root: Path, text: str | bytes) -> Path:
    path = root / "speakers.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_without_the_file_nobody_has_a_name(tmp_path: Path) -> None:
    assert names.load(tmp_path) == {}
    assert names.listed(tmp_path) == []


def test_what_a_person_wrote_stays(tmp_path: Path) -> None:
    write(
        tmp_path,
        '\ufeff{"note": ["mine", 1.5], "voices": {'
        '"VOICE_0002": {"colour": "red", "name": "  Žofie\\t\\u202e<b> "},'
        '"VOICE_0003": {"name": null, "recordings": 4, "talk_s": 1, "heard_in": ["x"]},'
        '"VOICE_0004": {"name": "Bob", "recordings": 9, "talk_s": 8, "heard_in": ["y"]},'
        '"VOICE_0005": {"name": null, "todo": "ask"}}}',
    )
    assert names.update(tmp_path, {"VOICE_0001": ONE, "VOICE_0002": ONE})
    document = json.loads((tmp_path / "speakers.json").read_text(encoding="utf-8"))
    told = {"recordings": 3, "talk_s": 12.5, "heard_in": ["a", "b"]}
    silent = {"recordings": 0, "talk_s": 0.0, "heard_in": []}
    assert document == {
        "schema_version": 1,
        "note": ["mine", 1.5],
        "voices": {
            "VOICE_0001": {"name": None, **told},
            "VOICE_0002": {"name": "  Žofie\t\u202e<b> ", "colour": "red", **told},
            "VOICE_0004": {"name": "Bob", **silent},
            "VOICE_0005": {"name": None, "todo": "ask", **silent},
        },
    }
    assert names.load(tmp_path) == {"VOICE_0002": "Žofie <b>", "VOICE_0004": "Bob"}
    assert not names.update(tmp_path, {"VOICE_0001": ONE, "VOICE_0002": ONE})


def test_each_voice_stands_on_one_line(tmp_path: Path) -> None:
    names.update(tmp_path, {"VOICE_0001": ONE, "VOICE_0002": ONE})
    lines = (tmp_path / "speakers.json").read_text(encoding="utf-8").splitlines()
    assert lines[3].startswith('    "VOICE_0001": {"name": null, "recordings": 3')
    assert len(lines) == 7


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "line 1, column 1"),
        ("{", "line 1, column 2"),
        ('{"voices": {\n"VOICE_0001": {"name": "A",}}}', "line 2"),
        (b'{"voices": {"V": {"name": "\xff"}}}', "byte 28 is not UTF-8"),
        ('{"voices": {}}'.encode("utf-16"), "not UTF-8"),
        ("[]", "no JSON object"),
        ("null", "no JSON object"),
        ('{"schema_version": 1, "segments": []}', "it is a transcript"),
        ("{}", 'no object "voices"'),
        ('{"voices": []}', 'no object "voices"'),
        ('{"schema_version": 2, "voices": {}}', "schema_version 2"),
        ('{"schema_version": "1", "voices": {}}', "schema_version '1'"),
        ('{"schema_version": true, "voices": {}}', "schema_version True"),
        ('{"voices": {"VOICE_0001": "Alice"}}', "voices.VOICE_0001: an object"),
        ('{"voices": {"VOICE_0001": {"name": 7}}}', "voices.VOICE_0001.name: a text"),
        ('{"voices": {"VOICE_0001": {"name": ["A"]}}}', "voices.VOICE_0001.name"),
        ('{"voices": {"VOICE_0001": {"heard_in": 3}}}', "voices.VOICE_0001.heard_in"),
        ('{"voices": {"VOICE_0001": {}, "VOICE_0001": {}}}', "'VOICE_0001' stands in it twice"),
        ('{"voices": {}, "x": NaN}', "NaN"),
        ('{"voices": {}, "x": 1e999}', "1e999"),
        ('{"voices": {}, "x": ' + "9" * 5000 + "}", "cannot be used"),
        ('{"voices": ' + '{"a":' * 200_000, "cannot be used"),
    ],
)
def test_what_cannot_be_used_is_said_with_its_place(
    tmp_path: Path, text: str | bytes, told: str
) -> None:
    path = write(tmp_path, text)
    before = path.read_bytes()
    for use in (
        lambda: names.load(tmp_path),
        lambda: names.update(tmp_path, {"VOICE_0001": ONE}),
        lambda: names.rename(tmp_path, "VOICE_0001", "A"),
    ):
        with pytest.raises(UsageError) as caught:
            use()
        assert told in caught.value.message
        assert "speakers.json" in caught.value.message
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 700
    assert path.read_bytes() == before


def test_a_folder_in_its_place_is_said(tmp_path: Path) -> None:
    (tmp_path / "speakers.json").mkdir()
    with pytest.raises(UsageError, match=r"speakers\.json cannot be used"):
        names.load(tmp_path)


def test_figures_that_are_none_do_not_matter(tmp_path: Path) -> None:
    write(
        tmp_path,
        '{"voices": {"V": {"name": "A", "recordings": "many", "talk_s": true, "heard_in": [1]}}}',
    )
    (voice,) = names.listed(tmp_path)
    assert (voice.recordings, voice.talk_s, voice.heard_in) == (0, 0.0, ())


NASTY = 'Eve\n\x1b[31m<v Bob>\u202e{\\an8} --> =1+1 "&\ud800'


def test_a_nasty_name_reaches_no_format_unclean(tmp_path: Path) -> None:
    names.update(tmp_path, {"VOICE_0001": ONE})
    names.rename(tmp_path, "VOICE_0001", NASTY)
    given = names.load(tmp_path)
    shown = given["VOICE_0001"]
    assert not set(shown) & set("\n\x1b\u202e\ud800")
    one = transcript("a", [0])
    (speaker,) = one.speakers
    voiced = Speaker(speaker.label, 10, speaker.embedding, voice="VOICE_0001")
    named = names.applied(dataclasses.replace(one, speakers=(voiced,)), given)
    assert named.speakers[0].shown == shown
    vtt = render("vtt", named, FormatOptions()).decode()
    assert vtt.count("-->") == 1
    assert "<v Eve" in vtt and "&lt;v Bob" in vtt
    srt = render("srt", named, FormatOptions()).decode()
    assert srt.count("-->") == 1 and "{\\" not in srt


def test_halves_of_surrogates_written_by_hand_are_kept(tmp_path: Path) -> None:
    write(tmp_path, '{"voices": {"V": {"name": "a\\ud800", "recordings": 1}}}')
    assert names.load(tmp_path) == {"V": "a\ufffd"}
    names.update(tmp_path, {})
    assert '"a\\ud800"' in (tmp_path / "speakers.json").read_text(encoding="utf-8")
    assert names.load(tmp_path) == {"V": "a\ufffd"}


def test_renaming_cleans_and_takes_away(tmp_path: Path) -> None:
    names.update(tmp_path, {"VOICE_0001": ONE})
    assert names.rename(tmp_path, "VOICE_0001", " Ann \n Lee ") == "Ann Lee"
    assert names.load(tmp_path) == {"VOICE_0001": "Ann Lee"}
    assert names.rename(tmp_path, "VOICE_0001", " \x1b ") is None
    assert names.load(tmp_path) == {}
    with pytest.raises(UsageError, match="no voice 'VOICE_0009'"):
        names.rename(tmp_path, "VOICE_0009", "X")


def test_names_go_to_voices_and_leave_enrolled_ones_alone() -> None:
    given = {"VOICE_0001": "Ann"}
    assert names.named(Speaker("S", 1, voice="VOICE_0001"), given).name == "Ann"
    assert names.named(Speaker("S", 1, voice="VOICE_0002", name="Old"), given).name is None
    assert names.named(Speaker("S", 1), given).name is None
    enrolled = Speaker("S", 1, voice="VOICE_0001", name="Zoe", score=0.8)
    assert names.named(enrolled, given) is enrolled
