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
from audio_batch.transcript import Segment, Transcript, Turn, Word

GOLDEN = Path(__file__).parent / "golden"
DEFAULT = FormatOptions()


def words(text: str, start_s: float, word_s: float = 0.35) -> tuple[Word, ...]:
    return tuple(
        Word(word, round(start_s + i * word_s, 3), round(start_s + (i + 0.8) * word_s, 3), 0.875)
        for i, word in enumerate(text.split())
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
EMPTY = Transcript("silence", "s.wav", "Silence", None, 30.0, ())

CASES = {
    "plain": (PLAIN, DEFAULT, tuple(FORMATS)),
    "nasty": (NASTY, DEFAULT, tuple(FORMATS)),
    "empty": (EMPTY, DEFAULT, tuple(FORMATS)),
    "plain-30x1": (PLAIN, FormatOptions(max_line_width=30, max_line_count=1), ("srt",)),
    "nasty-highlight": (NASTY, FormatOptions(highlight_words=True), ("srt", "vtt")),
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


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("srt,vtt", ("json", "srt", "vtt")),
        ("vtt, SRT", ("json", "srt", "vtt")),
        ("all", ("json", "txt", "srt", "vtt", "tsv", "csv", "lrc")),
        ("txt,all", ("json", "txt", "srt", "vtt", "tsv", "csv", "lrc")),
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
    assert "json, txt, srt, vtt, tsv, csv, lrc" in str(caught.value)
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


def test_json_is_safe_to_show() -> None:
    text = render("json", NASTY, DEFAULT).decode()
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)
    assert "今日は" in text


def test_formats_made_from_the_json_are_the_same() -> None:
    """What `export` relies on."""
    for transcript in (PLAIN, NASTY, EMPTY):
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
@pytest.mark.parametrize("transcript", [PLAIN, NASTY, EMPTY], ids=["plain", "nasty", "empty"])
def test_subtitles_keep_to_their_grammar(transcript: Transcript, highlight: bool) -> None:
    options = FormatOptions(highlight_words=highlight)
    check_srt(render("srt", transcript, options).decode())
    check_vtt(render("vtt", transcript, options).decode())


@pytest.mark.parametrize("transcript", [PLAIN, NASTY], ids=["plain", "nasty"])
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


# --- tsv, csv, lrc -----------------------------------------------------------------------------


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
    transcript = dataclasses.replace(EMPTY, segments=(Segment(f"{start}cmd|' /C calc'!A0", 0, 1),))
    for name, separator in (("csv", ","), ("tsv", "\t")):
        row = render(name, transcript, DEFAULT).decode().splitlines()[1]
        cell = row.split(separator)[-1 if name == "csv" else 2]
        assert cell.startswith("'")


def test_ffmpeg_reads_every_lyric() -> None:
    for transcript in (PLAIN, NASTY):
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


@st.composite
def segments(draw: st.DrawFn) -> Segment:
    word = st.builds(Word, ANY_TEXT, ANY_TIME, ANY_TIME, SCORES, st.none() | ANY_TEXT)
    made = draw(st.lists(word, max_size=4))
    text = draw(st.just("".join(word.text for word in made)) | ANY_TEXT)
    speaker = draw(st.none() | ANY_TEXT)
    return Segment(text, draw(ANY_TIME), draw(ANY_TIME), tuple(made), speaker, draw(SCORES))


TRANSCRIPTS = st.builds(
    Transcript,
    asset_id=ANY_TEXT,
    source=ANY_TEXT,
    name=ANY_TEXT,
    language=st.none() | st.just("en"),
    duration_s=ANY_TIME,
    segments=st.lists(segments(), max_size=4).map(tuple),
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
    for name, text in texts.items():
        allowed = {"tsv": "\n\t", "csv": "\n\r"}.get(name, "\n")
        assert not [c for c in text if (c < " " and c not in allowed) or "\x7f" <= c <= "\x9f"]


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
