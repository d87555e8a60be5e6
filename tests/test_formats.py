"""Every format: its grammar, its golden files, what independent readers make of it.

The expected files lie in `golden/`; `python tests/test_formats.py` writes them anew, to be read
through before they are committed.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import av
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audio_batch.errors import UsageError
from audio_batch.formats import FORMATS, FormatOptions, parse_formats, render
from audio_batch.text import for_document
from audio_batch.transcript import Segment, Speaker, Transcript, Turn, Word

GOLDEN = Path(__file__).parent / "golden"
DEFAULT = FormatOptions()


def words(
    text: str, start_s: float, word_s: float = 0.35, speaker: str | None = None
) -> tuple[Word, ...]:
    times = ((start_s + i * word_s, start_s + (i + 0.8) * word_s) for i in range(len(text)))
    return tuple(
        Word(word, round(begin_s, 3), round(end_s, 3), 0.875, speaker)
        for word, (begin_s, end_s) in zip(text.split(), times, strict=False)
    )


LONG = (
    "Good morning, everyone. Today we will look at how the river changed its course over the last "
    "two hundred years, and why nobody in the valley noticed it for so very long."
)
PLAIN = Transcript(
    asset_id="talk-1",
    source="talks/river.wav",
    name="The river",
    language="en",
    language_probability=0.98,
    duration_s=31.5,
    segments=(
        Segment(f" {LONG}", 0.5, 11.7, words(LONG, 0.5), avg_logprob=-0.25, no_speech_prob=0.01),
        Segment(" Let us begin.", 12.0, 13.05, words("Let us begin.", 12.0)),
        Segment(" It begins with a map.", 20.0, 22.5),
    ),
    media={"container": "wav", "codec": "pcm_s16le", "declared_duration_s": 31.5},
    provenance={"model": "demo", "options": {"beam_size": 5}},
)
NASTY = Transcript(
    asset_id="=1+1",
    source="häuser/\udcff.wav",
    name="[ti] Über\n\x1b[31mred\u202e",
    language="mul",
    duration_s=4000.25,
    segments=(
        Segment(
            "Ready? Ja! -->",
            0.0,
            3.0,
            (
                Word("Ready?", 0.0, 0.5, speaker="Ann <b>&\n"),
                Word("Ja!", 1.0, 1.5, 0.5, speaker="Bjørn: \u202e"),
                Word("-->", 1.5, 1.5, speaker="Bjørn: \u202e"),
            ),
        ),
        Segment('=HYPERLINK("http://x")\t"quoted",\r\n\r\nline', 3.0, 3.0, speaker="@me"),
        Segment("{\\an8}<i>tags</i> & \x00nul \x9bcsi \udc80 [12:34.56]<00:01.00>!", 4.0, 6.0),
        Segment("今日は天気がいいから、散歩しましょう。", 3599.9996, 3605.0, speaker="アン"),
        Segment("שלום\u200f! Vraiment\u202f?", 3605.5, math.nan),
        Segment(" \n\t ", 3606.0, 3607.0),
        Segment("- crossing -", 3500.0, 3400.0, avg_logprob=-math.inf, temperature=math.nan),
    ),
    turns=(Turn("Ann <b>&\n", 0.0, 0.9999), Turn("アン", 3599.9996, 3605.0)),
    metadata={"folder": "a/b", "x": [1, math.inf, {"y": "\u2028"}], "time_s": 1.23456789},
)
DUET = Transcript(
    asset_id="duet 1",
    source="talks/duet.wav",
    name="Duet",
    language="en",
    duration_s=20.0,
    segments=(
        Segment(" Shall we begin?", 0.5, 1.7, words("Shall we begin?", 0.5, 0.4, "SPEAKER_00")),
        Segment(" Yes, do.", 1.8, 2.6, words("Yes, do.", 1.8, 0.4, "SPEAKER_01"), "SPEAKER_01"),
        Segment(" Then I", 2.4, 3.0, words("Then I", 2.4, 0.3, "SPEAKER_00"), "SPEAKER_00"),
        Segment(" will, too.", 3.0, 3.6, words("will, too.", 3.0, 0.3, "SPEAKER_02"), "SPEAKER_02"),
        Segment(" (Noise.)", 9.0, 9.5, words("(Noise.)", 9.0)),
        Segment(" Somebody else.", 12.0, 13.0, (), "SPEAKER_03"),
        Segment(" No words here.", 14.0, 15.0, (), "SPEAKER_01"),
    ),
    speakers=(
        Speaker("SPEAKER_00", 2.35, (0.125, -0.5, 1e-05), "voice-0001", "Ann Öz", 0.8125),
        Speaker("SPEAKER_01", 1.0, (0.25, 0.5, 0.75), "voice-0002"),
        Speaker("SPEAKER_02", 0.8, None, None, "Ann Öz", 0.75),
        Speaker("SPEAKER_03", 1.0),
    ),
    turns=(
        Turn("SPEAKER_00", 0.5, 3.05),
        Turn("SPEAKER_01", 1.75, 2.7),
        Turn("SPEAKER_02", 2.95, 3.6),
        Turn("SPEAKER_03", 12.0, 13.0),
        Turn("SPEAKER_01", 13.95, 15.0),
    ),
    exclusive_turns=(
        Turn("SPEAKER_00", 0.5, 1.75),
        Turn("SPEAKER_01", 1.75, 2.4),
        Turn("SPEAKER_00", 2.4, 3.0),
        Turn("SPEAKER_02", 3.0, 3.6),
        Turn("SPEAKER_03", 12.0, 13.0),
        Turn("SPEAKER_01", 13.95, 15.0),
    ),
    missing=("align",),
)
EMPTY = Transcript("silence", "s.wav", "Silence", None, 30.0, ())

CASES = {
    "plain": (PLAIN, DEFAULT, tuple(FORMATS)),
    "nasty": (NASTY, DEFAULT, tuple(FORMATS)),
    "empty": (EMPTY, DEFAULT, tuple(FORMATS)),
    "duet": (DUET, DEFAULT, tuple(FORMATS)),
    "plain-30x1": (PLAIN, FormatOptions(max_line_width=30, max_line_count=1), ("srt",)),
    "nasty-highlight": (NASTY, FormatOptions(highlight_words=True), ("srt", "vtt")),
    "duet-highlight": (DUET, FormatOptions(highlight_words=True), ("srt", "vtt")),
}
GOLDEN_FILES = [(case, name) for case, (_, _, names) in CASES.items() for name in names]


@pytest.mark.parametrize(("case", "name"), GOLDEN_FILES)
def test_golden(case: str, name: str) -> None:
    transcript, options, _ = CASES[case]
    expected = (GOLDEN / f"{case}{FORMATS[name].suffix}").read_bytes()
    assert render(name, transcript, options).decode() == expected.decode()
    assert render(name, transcript, options) == expected


def test_every_golden_file_has_a_case() -> None:
    assert {path.name for path in GOLDEN.iterdir() if not path.name.startswith(".")} == {
        f"{case}{FORMATS[name].suffix}" for case, name in GOLDEN_FILES
    }


# --- names -------------------------------------------------------------------------------------

ALL = ("json", "txt", "srt", "vtt", "tsv", "csv", "lrc", "aud", "rttm", "uem")


def test_suffixes_are_those_of_no_other_format() -> None:
    """Outputs share a name but for the suffix, and a name is found again by taking it away."""
    suffixes = [known.suffix for known in FORMATS.values()]
    assert suffixes == [f".{name}" for name in FORMATS]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("srt,vtt", ("json", "srt", "vtt")),
        ("vtt, SRT", ("json", "srt", "vtt")),
        ("all", ALL),
        ("txt,all", ALL),
        ("rttm aud,uem", ("json", "aud", "rttm", "uem")),
        ("json", ("json",)),
        ("", ("json",)),
        ([], ("json",)),
        (["csv", "txt,csv", "json"], ("json", "txt", "csv")),
    ],
)
def test_parse_formats(asked: str | list[str], expected: tuple[str, ...]) -> None:
    assert parse_formats(asked) == expected


@pytest.mark.parametrize("asked", ["docx", "srt,docx", ["all", "docx"], ".srt", "s\x1brt"])
def test_an_unknown_format_is_refused_by_name(asked: str | list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        parse_formats(asked)
    assert ", ".join(ALL) in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_render_refuses_an_unknown_format() -> None:
    with pytest.raises(UsageError, match="'docx'"):
        render("docx", PLAIN, DEFAULT)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_line_width": 0},
        {"max_line_width": -3},
        {"max_line_count": 0},
        {"paragraph_gap_s": -0.1},
        {"paragraph_gap_s": math.nan},
    ],
)
def test_options_that_cannot_be_meant_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        FormatOptions(**wrong)


# --- json --------------------------------------------------------------------------------------


def test_json_reads_back_as_the_transcript() -> None:
    data = json.loads(render("json", PLAIN, DEFAULT))
    assert next(iter(data)) == "schema_version"
    assert Transcript.from_json(data) == PLAIN


def test_json_times_are_finite_whole_milliseconds_and_metadata_is_untouched() -> None:
    data = json.loads(render("json", NASTY, DEFAULT), parse_constant=pytest.fail)
    assert data["turns"][0]["end_s"] == 1.0
    assert (data["segments"][4]["start_s"], data["segments"][4]["end_s"]) == (3605.5, 3605.5)
    assert data["segments"][6]["avg_logprob"] is None
    assert data["metadata"] == {
        "folder": "a/b",
        "x": [1, None, {"y": "\u2028"}],
        "time_s": 1.23456789,
    }
    assert data["source"] == NASTY.source
    assert data["segments"][1]["text"] == NASTY.segments[1].text


def test_json_keeps_labels_and_says_who_they_are() -> None:
    data = json.loads(render("json", DUET, DEFAULT))
    assert Transcript.from_json(data) == DUET
    assert [segment["speaker"] for segment in data["segments"][:3]] == [
        None,
        "SPEAKER_01",
        "SPEAKER_00",
    ]
    assert data["segments"][0]["words"][0]["speaker"] == "SPEAKER_00"
    assert data["turns"][1] == {"speaker": "SPEAKER_01", "start_s": 1.75, "end_s": 2.7}
    assert data["exclusive_turns"][1]["end_s"] == 2.4
    assert data["speakers"][0]["name"] == "Ann Öz"
    assert data["speakers"][0]["voice"] == "voice-0001"
    assert data["missing"] == ["align"]


def test_json_rounds_what_machines_differ_in() -> None:
    speaker = Speaker("A", 1.23456, (0.12345678, -1 / 3), score=2 / 3)
    turns = (Turn("A", 0.50049, 9.0), Turn("B", 0.6, 0.70051), Turn("A", 0.6, 0.65))
    made = dataclasses.replace(EMPTY, speakers=(speaker,), turns=turns, exclusive_turns=turns[:1])
    again = Transcript.from_json(json.loads(render("json", made, DEFAULT)))
    assert again.speakers == (Speaker("A", 1.235, (0.123457, -0.333333), score=0.666667),)
    assert again.turns == (Turn("A", 0.5, 9.0), Turn("B", 0.6, 0.701), Turn("A", 0.6, 0.65))
    assert again.exclusive_turns == (Turn("A", 0.5, 9.0),)


def test_a_word_that_no_clock_placed_is_in_its_segment() -> None:
    spoken = (Word("a", math.nan, math.nan), Word("b", 8.0, 9.0), Word("c", math.nan, math.nan))
    made = dataclasses.replace(EMPTY, segments=(Segment("a b c", 7.0, 9.5, spoken),))
    data = json.loads(render("json", made, DEFAULT))
    times = [(word["start_s"], word["end_s"]) for word in data["segments"][0]["words"]]
    assert times == [(7.0, 7.0), (8.0, 9.0), (9.0, 9.0)]


def test_json_writes_an_embedding_on_one_line() -> None:
    vector = tuple((-1) ** i * i / 10**6 for i in range(512))
    speakers = (Speaker("A", 1.0, vector), Speaker("B", 1.0, (math.nan, 1.0)))
    metadata = {"text": "[\n  1,\n  2\n]", "list": [1, 2.5], "mixed": [1, "2"], "none": []}
    made = dataclasses.replace(EMPTY, speakers=speakers, metadata=metadata)
    text = render("json", made, DEFAULT).decode()
    data = json.loads(text)
    assert data["speakers"][0]["embedding"] == list(vector)
    assert data["speakers"][1]["embedding"] is None
    assert data["metadata"] == metadata
    (line,) = [line for line in text.splitlines() if '"embedding": [' in line]
    assert line.strip().startswith('"embedding": [0.0, -1e-06, 2e-06, ')
    assert line.endswith("-0.000511],")
    assert '"list": [1, 2.5],' in text


def test_json_is_safe_to_show() -> None:
    text = render("json", NASTY, DEFAULT).decode()
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)
    assert "今日は" in text


def test_formats_made_from_the_json_are_the_same() -> None:
    """What `export` relies on."""
    for transcript in (PLAIN, NASTY, EMPTY, DUET):
        again = Transcript.from_json(json.loads(render("json", transcript, DEFAULT)))
        for name in FORMATS:
            assert render(name, again, DEFAULT) == render(name, transcript, DEFAULT)


# --- txt ---------------------------------------------------------------------------------------


def test_txt_begins_a_paragraph_at_a_pause() -> None:
    segments = (Segment("A.", 0, 1), Segment("B.", 2.9, 4), Segment("C.", 6, 7))
    transcript = dataclasses.replace(EMPTY, segments=segments)
    assert render("txt", transcript, DEFAULT) == b"A. B.\n\nC.\n"
    assert render("txt", transcript, FormatOptions(paragraph_gap_s=5)) == b"A. B. C.\n"
    assert render("txt", transcript, FormatOptions(paragraph_gap_s=1)) == b"A.\n\nB.\n\nC.\n"


def test_txt_is_turn_by_turn_where_speakers_are_known() -> None:
    segments = (
        Segment("A.", 0, 1, speaker="Ann"),
        Segment("B.", 1, 2, speaker="Ann"),
        Segment("C.", 2, 3, speaker="Bob"),
        Segment("D.", 3, 4),
    )
    transcript = dataclasses.replace(EMPTY, segments=segments)
    assert render("txt", transcript, DEFAULT) == b"Ann: A. B.\n\nBob: C.\n\nD.\n"


def test_txt_shows_names_and_leaves_a_voice_without_one_alone() -> None:
    assert render("txt", DUET, DEFAULT).decode() == (
        "Ann Öz: Shall we begin?\n\nvoice-0002: Yes, do.\n\nAnn Öz: Then I will, too.\n\n"
        "(Noise.)\n\nSPEAKER_03: Somebody else.\n\nvoice-0002: No words here.\n"
    )


# --- srt, vtt ----------------------------------------------------------------------------------

SRT_TIME = r"\d{2,}:[0-5]\d:[0-5]\d,\d{3}"
SRT_CUE = rf"(\d+)\n({SRT_TIME}) --> ({SRT_TIME})\n((?:.+\n)+)"
VTT_TIME = r"\d{2,}:[0-5]\d:[0-5]\d\.\d{3}"
VTT_TEXT = r"(?:[^&<>\n]|&(?:amp|lt|gt);|</?u>)+"
VTT_VOICE = r"<v (?:[^&<>\n]|&(?:amp|lt|gt);)+>"
VTT_CUE = rf"({VTT_TIME}) --> ({VTT_TIME})\n((?:{VTT_VOICE})?(?:{VTT_TEXT}\n)+)"


def seconds(clock: str) -> float:
    hours, minutes, rest = clock.replace(",", ".").split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(rest)


def check_srt(text: str) -> None:
    assert re.fullmatch(rf"(?:{SRT_CUE}(?:\n(?=\d)|\Z))*", text)
    found = re.findall(SRT_CUE, text)
    assert [int(number) for number, *_ in found] == list(range(1, len(found) + 1))
    assert all(seconds(start) < seconds(end) for _, start, end, _ in found)
    starts = [seconds(start) for _, start, *_ in found]
    assert starts == sorted(starts)
    assert all("-->" not in body and "{\\" not in body for *_, body in found)
    assert all("<" not in re.sub("</?u>", "", body) for *_, body in found)


def check_vtt(text: str) -> None:
    assert re.fullmatch(rf"WEBVTT\n(?:\n{VTT_CUE})*", text)
    found = re.findall(VTT_CUE, text)
    assert all(seconds(start) < seconds(end) for start, end, _ in found)
    starts = [seconds(start) for start, *_ in found]
    assert starts == sorted(starts)


def read_by_ffmpeg(content: bytes, name: str) -> list[tuple[float, float, str]]:
    """Start, duration and raw text of each cue, as the parsers of ffmpeg see them."""
    container_format = {"vtt": "webvtt"}.get(name, name)
    with av.open(io.BytesIO(content), format=container_format) as container:
        stream = container.streams[0]
        return [
            (
                float(packet.pts * packet.time_base),
                float(packet.duration * packet.time_base),
                bytes(packet).decode(),
            )
            for packet in container.demux(stream)
            if packet.size
        ]


@pytest.mark.parametrize("highlight", [False, True])
@pytest.mark.parametrize(
    "transcript", [PLAIN, NASTY, EMPTY, DUET], ids=["plain", "nasty", "empty", "duet"]
)
def test_subtitles_keep_to_their_grammar(transcript: Transcript, highlight: bool) -> None:
    options = FormatOptions(highlight_words=highlight)
    check_srt(render("srt", transcript, options).decode())
    check_vtt(render("vtt", transcript, options).decode())


@pytest.mark.parametrize("transcript", [PLAIN, NASTY, DUET], ids=["plain", "nasty", "duet"])
@pytest.mark.parametrize(("name", "cue"), [("srt", SRT_CUE), ("vtt", VTT_CUE)])
def test_ffmpeg_reads_every_cue(transcript: Transcript, name: str, cue: str) -> None:
    content = render(name, transcript, DEFAULT)
    found = [groups[-3:] for groups in re.findall(cue, content.decode())]
    read = read_by_ffmpeg(content, name)
    assert [text for *_, text in read] == [text.rstrip("\n") for *_, text in found]
    assert [start for start, *_ in read] == pytest.approx([seconds(start) for start, *_ in found])
    assert [start + duration for start, duration, _ in read] == pytest.approx(
        [seconds(end) for _, end, _ in found]
    )


def test_srt_and_vtt_name_the_speaker_of_each_cue() -> None:
    segments = (Segment("Hi.", 0, 1, speaker="Ann"), Segment("Yes?", 1, 2))
    transcript = dataclasses.replace(EMPTY, segments=segments)
    assert render("srt", transcript, DEFAULT).decode() == (
        "1\n00:00:00,000 --> 00:00:01,000\nAnn: Hi.\n\n2\n00:00:01,000 --> 00:00:02,000\nYes?\n"
    )
    assert render("vtt", transcript, DEFAULT).decode() == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.000\n<v Ann>Hi.\n\n"
        "00:00:01.000 --> 00:00:02.000\nYes?\n"
    )


def test_a_highlighted_word_keeps_its_speaker() -> None:
    options = FormatOptions(highlight_words=True)
    assert "\nAnn Öz: Shall <u>we</u> begin?\n" in render("srt", DUET, options).decode()
    assert "\n<v voice-0002>Yes, <u>do.</u>\n" in render("vtt", DUET, options).decode()


def test_a_cue_of_flowing_words_has_one_speaker() -> None:
    options = FormatOptions(max_line_width=80, max_line_count=2)
    found = re.findall(VTT_CUE, render("vtt", DUET, options).decode())
    assert [body for *_, body in found][:3] == [
        "<v Ann Öz>Shall we begin?\n",
        "<v voice-0002>Yes, do.\n",
        "<v Ann Öz>Then I will, too.\n",
    ]


def test_highlighting_underlines_one_word_at_a_time() -> None:
    spoken = (Word("a", 0, 1), Word("-b", 1, 2), Word("c", 2, 3))
    transcript = dataclasses.replace(EMPTY, segments=(Segment("a-b c", 0, 3, spoken),))
    shown = render("srt", transcript, FormatOptions(highlight_words=True)).decode()
    assert [body for *_, body in re.findall(SRT_CUE, shown)] == [
        "<u>a</u>-b c\n",
        "a<u>-b</u> c\n",
        "a-b <u>c</u>\n",
    ]


def test_an_arrow_of_two_words_is_no_arrow() -> None:
    text = "a -- > --> ---> -- --"
    for spelling in (["--", ">"], ["-", "->"], ["-->"], ["---->"]):
        timed = tuple(Word(word, i, i + 1) for i, word in enumerate(spelling))
        segment = Segment("".join(spelling), 0, len(timed), timed)
        transcript = dataclasses.replace(EMPTY, segments=(segment, Segment(text, 9, 10)))
        for highlight in (False, True):
            options = FormatOptions(highlight_words=highlight)
            check_srt(render("srt", transcript, options).decode())
            check_vtt(render("vtt", transcript, options).decode())


def test_long_recordings_have_hours() -> None:
    transcript = dataclasses.replace(EMPTY, segments=(Segment("late", 360_000, 360_001),))
    assert "100:00:00,000 --> 100:00:01,000" in render("srt", transcript, DEFAULT).decode()
    assert "100:00:00.000 --> 100:00:01.000" in render("vtt", transcript, DEFAULT).decode()
    assert "[6000:00.00]late" in render("lrc", transcript, DEFAULT).decode()


# --- tsv, csv, lrc, aud ------------------------------------------------------------------------


def test_tsv_has_whispers_columns() -> None:
    rows = render("tsv", PLAIN, DEFAULT).decode().splitlines()
    assert rows[0] == "start\tend\ttext"
    assert rows[2] == "12000\t13050\tLet us begin."


def test_tsv_names_speakers_where_any_is_known() -> None:
    rows = [row.split("\t") for row in render("tsv", NASTY, DEFAULT).decode().splitlines()]
    assert rows[0] == ["start", "end", "text", "speaker"]
    assert {len(row) for row in rows} == {4}
    assert rows[1] == ["0", "500", "Ready?", "Ann <b>&"]


def test_csv_reads_back() -> None:
    content = render("csv", NASTY, DEFAULT).decode()
    assert content.count("\r\n") == content.count("\n") == len(content.splitlines())
    rows = list(csv.DictReader(io.StringIO(content, newline=""), strict=True))
    assert {row["id"] for row in rows} == {"'=1+1"}
    assert rows[0]["speaker"] == "Ann <b>&"
    assert (rows[2]["start_s"], rows[2]["end_s"]) == ("3.000", "3.000")
    assert rows[2]["text"] == '\'=HYPERLINK("http://x") "quoted", line'


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "＝", "\t=", "\r@", " +", "\x00="])
def test_no_cell_is_a_formula(start: str) -> None:
    formula = f"{start}cmd|' /C calc'!A0"
    transcript = dataclasses.replace(
        EMPTY,
        segments=(Segment(formula, 0, 1, speaker="A"),),
        speakers=(Speaker("A", 1.0, name=formula),),
    )
    for name, separator in (("csv", ","), ("tsv", "\t")):
        row = render(name, transcript, DEFAULT).decode().splitlines()[1]
        assert [cell[0] for cell in row.split(separator)[-2:]] == ["'", "'"]


def test_aud_is_a_label_track() -> None:
    rows = [row.split("\t") for row in render("aud", DUET, DEFAULT).decode().splitlines()]
    assert rows[0] == ["0.500", "1.700", "Ann Öz: Shall we begin?"]
    assert rows[4] == ["9.000", "9.500", "(Noise.)"]
    assert {len(row) for row in rows} == {3}
    assert all(float(start) <= float(end) for start, end, _ in rows)


def test_ffmpeg_reads_every_lyric() -> None:
    for transcript in (PLAIN, NASTY, DUET):
        content = render("lrc", transcript, DEFAULT)
        lines = content.decode().splitlines()
        timed = [line for line in lines if re.match(r"\[\d", line)]
        assert lines[-len(timed) :] == timed
        read = read_by_ffmpeg(content, "lrc")
        assert [text.rstrip("\n") for *_, text in read] == [line[10:] for line in timed]
        assert all(re.match(r"\[\d\d:[0-5]\d\.\d\d\]\S", line) for line in timed)


# --- all of them -------------------------------------------------------------------------------

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=30) | st.sampled_from(
    ["-->", "<b>", "&amp;", "{\\an8}", "1", "[00:01.00]", "=1", '"', "NOTE", "WEBVTT", ",", "\n\n"]
)
ANY_TIME = st.floats() | st.floats(0, 1000)
SCORES = st.none() | st.floats()
LABELS = st.sampled_from(["SPEAKER_00", "SPEAKER_01"]) | ANY_TEXT
VECTORS = st.none() | st.lists(st.floats(), max_size=3).map(tuple)
VOICES = st.none() | ANY_TEXT
TURNS = st.lists(st.builds(Turn, LABELS, ANY_TIME, ANY_TIME), max_size=4).map(tuple)


@st.composite
def segments(draw: st.DrawFn) -> Segment:
    word = st.builds(Word, ANY_TEXT, ANY_TIME, ANY_TIME, SCORES, st.none() | LABELS)
    made = draw(st.lists(word, max_size=4))
    text = draw(st.just("".join(word.text for word in made)) | ANY_TEXT)
    speaker = draw(st.none() | LABELS)
    return Segment(text, draw(ANY_TIME), draw(ANY_TIME), tuple(made), speaker, draw(SCORES))


TRANSCRIPTS = st.builds(
    Transcript,
    asset_id=ANY_TEXT,
    source=ANY_TEXT,
    name=ANY_TEXT,
    language=st.none() | st.just("en"),
    duration_s=ANY_TIME,
    segments=st.lists(segments(), max_size=4).map(tuple),
    speakers=st.lists(
        st.builds(Speaker, LABELS, ANY_TIME, VECTORS, VOICES, VOICES, SCORES), max_size=3
    ).map(tuple),
    turns=TURNS,
    exclusive_turns=TURNS,
    metadata=st.dictionaries(ANY_TEXT, ANY_TEXT | st.floats() | st.none(), max_size=3),
)
OPTIONS = st.builds(
    FormatOptions,
    st.none() | st.integers(1, 50),
    st.none() | st.integers(1, 3),
    st.booleans(),
    st.floats(0, 10),
)


@settings(deadline=None)
@given(TRANSCRIPTS, OPTIONS)
def test_whatever_an_engine_returns_every_file_is_well_formed(
    transcript: Transcript, options: FormatOptions
) -> None:
    texts = {name: render(name, transcript, options).decode() for name in FORMATS}

    Transcript.from_json(json.loads(texts["json"], parse_constant=pytest.fail))
    check_srt(texts["srt"])
    check_vtt(texts["vtt"])
    rows = list(csv.reader(io.StringIO(texts["csv"], newline=""), strict=True))
    assert {len(row) for row in rows} == {5}
    tsv_rows = texts["tsv"].split("\n")
    assert tsv_rows.pop() == ""
    assert len({row.count("\t") for row in tsv_rows}) == 1
    assert len(tsv_rows) == len(rows)
    assert re.fullmatch(r"(\[(ti|length|re):.*\]\n)+(\[\d{2,}:\d\d\.\d\d\].+\n)*", texts["lrc"])
    assert re.fullmatch(r"(.+\n(\n.+\n)*)?", texts["txt"])
    assert re.fullmatch(r"(\d+\.\d{3}\t\d+\.\d{3}\t[^\t\n]+\n)*", texts["aud"])
    turn = r"SPEAKER \S+ 1 \d+\.\d{3} \d+\.\d{3} <NA> <NA> \S+ <NA> <NA>\n"
    assert re.fullmatch(f"({turn})*", texts["rttm"])
    assert re.fullmatch(r"(\S+ 1 0\.000 \d+\.\d{3}\n)?", texts["uem"])
    for name, text in texts.items():
        allowed = {"tsv": "\n\t", "aud": "\n\t", "csv": "\n\r"}.get(name, "\n")
        assert not [c for c in text if (c < " " and c not in allowed) or "\x7f" <= c <= "\x9f"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Ann <b>\n-->\t{\\an8}", "Ann <b> --> {\\an8}"),
        ("\u202egnihton\x1b[2J", "gnihton[2J"),
        ("=1+1", "=1+1"),
        ("\u202e", "A"),
        (" ", "A"),
    ],
)
def test_an_enrolled_name_is_untrusted(name: str, shown: str) -> None:
    made = dataclasses.replace(
        EMPTY,
        segments=(Segment("Hi.", 0, 1, speaker="A"), Segment("Ho.", 1, 2, speaker="A")),
        speakers=(Speaker("A", 2.0, name=name),),
        turns=(Turn("A", 0.0, 2.0),),
    )
    texts = {known: render(known, made, DEFAULT).decode() for known in FORMATS}
    assert texts["txt"] == f"{shown}: Hi. Ho.\n"
    assert texts["aud"] == f"0.000\t1.000\t{shown}: Hi.\n1.000\t2.000\t{shown}: Ho.\n"
    check_srt(texts["srt"])
    check_vtt(texts["vtt"])
    assert len(read_by_ffmpeg(texts["srt"].encode(), "srt")) == 2
    assert len(read_by_ffmpeg(texts["vtt"].encode(), "vtt")) == 2
    assert {len(row.split("\t")) for row in texts["tsv"].splitlines()} == {4}
    assert json.loads(texts["json"])["speakers"][0]["name"] == name


@settings(deadline=None)
@given(st.lists(ANY_TEXT, max_size=5))
def test_no_text_is_lost(given_texts: list[str]) -> None:
    transcript = dataclasses.replace(
        EMPTY, segments=tuple(Segment(text, i, i + 1) for i, text in enumerate(given_texts))
    )
    said = [line for text in given_texts if (line := for_document(text))]

    shown = render("txt", transcript, DEFAULT).decode()
    assert re.sub("[ \n]", "", shown) == re.sub(" ", "", "".join(said))
    rows = list(csv.reader(io.StringIO(render("csv", transcript, DEFAULT).decode(), newline="")))
    assert [row[4].removeprefix("'") for row in rows[1:]] == [t.removeprefix("'") for t in said]


if __name__ == "__main__":
    for case, name in GOLDEN_FILES:
        transcript, options, _ = CASES[case]
        target = GOLDEN / f"{case}{FORMATS[name].suffix}"
        target.write_bytes(render(name, transcript, options))
