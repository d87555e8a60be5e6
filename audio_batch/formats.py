"""A transcript in the formats that people ask for: one pure function a format, and `FORMATS`.

`json` is canonical and holds everything; each of the others can be made from it again. Line ends
are LF (CRLF in csv), the encoding is UTF-8 without a byte order mark, and an empty transcript gives
a valid file without entries. All of it runs in any thread and needs no model.

The text in a transcript is untrusted. In json it stands unchanged, with control, bidirectional and
lone surrogate characters as escapes; everywhere else it is one clean line (`text.for_document`),
and what the format would take for its own syntax is made harmless as its function describes.
Speakers are labels in json and have the names that people read (`Speaker.shown`) everywhere else.
"""

from __future__ import annotations

import csv
import html
import io
import itertools
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from audio_batch.errors import UsageError
from audio_batch.formats_rttm import rttm, uem
from audio_batch.subtitles import Cue, Utterance, cues, highlights, join, runs, span_ms, utterances
from audio_batch.text import for_document, for_terminal
from audio_batch.transcript import Transcript


@dataclass(frozen=True, slots=True)
class FormatOptions:
    """How text formats are laid out; `json` ignores all of it.

    Args:
        max_line_width: columns of a subtitle line; None for 42. A wide character takes two.
        max_line_count: lines of a subtitle; None for 2. With the width also given, subtitles no
            longer keep to the segments (see `subtitles.cues`).
        highlight_words: underline each word while it is spoken (srt, vtt), where there are word
            times.
        paragraph_gap_s: a silence between segments that begins a new paragraph (txt).

    Raises:
        UsageError: a figure that cannot be meant.
    """

    max_line_width: int | None = None
    max_line_count: int | None = None
    highlight_words: bool = False
    paragraph_gap_s: float = 2.0

    def __post_init__(self) -> None:
        limits = (("width", self.max_line_width), ("count", self.max_line_count))
        for what, limit in limits:
            if limit is not None and limit < 1:
                raise UsageError(f"A subtitle line {what} of {limit} leaves no room for text.")
        if not (math.isfinite(self.paragraph_gap_s) and self.paragraph_gap_s >= 0):
            raise UsageError(
                f"A paragraph gap of {self.paragraph_gap_s} is no length of a pause in seconds."
            )


@dataclass(frozen=True, slots=True)
class Format:
    """An output format: the name users give, the file name's suffix, and the function."""

    name: str
    suffix: str
    render: Callable[[Transcript, FormatOptions], str]


# --- json ------------------------------------------------------------------------------------

_ESCAPED_IN_JSON = re.compile(
    "[\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
# The line breaks within a list of numbers alone. No string is meant: those have none.
_NUMBERS_IN_JSON = re.compile(r"(?<=\[)\n\s+[-+.\deE]+(?:,\n\s+[-+.\deE]+)*+\n\s+(?=\])")
_SCORES = ("avg_logprob", "no_speech_prob", "compression_ratio", "temperature", "probability")


def _json(transcript: Transcript, _options: FormatOptions) -> str:
    """`Transcript.to_json` with times in whole milliseconds and no NaN or infinity (null).

    A time that is no number is repaired as `subtitles.span_ms` says. Scores and embeddings are
    rounded to six decimals, below which machines differ; an embedding that is not wholly numbers
    is none. A list of numbers stands on one line. A file is plain to `cat`: characters that could
    steer a terminal are escapes, which readers undo.
    """
    body = transcript.to_json()
    body["duration_s"] = _time(transcript.duration_s)
    body["language_probability"] = _score(transcript.language_probability)
    for speaker in body["speakers"]:
        speaker["talk_s"] = _time(speaker["talk_s"])
        speaker["score"] = _score(speaker["score"])
        speaker["embedding"] = _vector(speaker["embedding"])
    _settle(body["turns"])
    _settle(body["exclusive_turns"])
    _settle(body["segments"])
    for segment in body["segments"]:
        _settle(segment["words"], round(segment["start_s"] * 1000))
    text = json.dumps(_finite(body), ensure_ascii=False, allow_nan=False, indent=2) + "\n"
    text = _NUMBERS_IN_JSON.sub(lambda found: " ".join(found[0].split()), text)
    return _ESCAPED_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _time(time_s: float) -> float:
    return span_ms(0, time_s)[1] / 1000


def _vector(values: Sequence[float] | None) -> list[float] | None:
    if values is None or not all(map(math.isfinite, values)):
        return None
    return [round(float(value), 6) for value in values]


def _settle(stretches: Sequence[dict[str, Any]], after_ms: int = 0) -> None:
    for stretch in stretches:
        start_ms, after_ms = span_ms(stretch["start_s"], stretch["end_s"], after_ms)
        stretch["start_s"], stretch["end_s"] = start_ms / 1000, after_ms / 1000
        stretch.update({name: _score(stretch[name]) for name in _SCORES if name in stretch})


def _score(value: float | None) -> float | None:
    return None if value is None else round(float(value), 6)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


# --- txt -------------------------------------------------------------------------------------


def _txt(transcript: Transcript, options: FormatOptions) -> str:
    """Paragraphs, one line each, a blank line between; `Name: ` before them where it is known.

    A paragraph ends where the speaker changes and at a silence of `paragraph_gap_s` or more
    between segments.
    """
    gap_ms = options.paragraph_gap_s * 1000

    def parted(one: Utterance, two: Utterance) -> bool:
        return one.speaker != two.speaker or two.start_ms - one.end_ms >= gap_ms

    return "\n".join(
        _named(paragraph[0].speaker, join(t for utterance in paragraph for t in utterance.tokens))
        + "\n"
        for paragraph in runs(utterances(transcript), parted)
    )


def _named(speaker: str | None, text: str) -> str:
    return f"{speaker}: {text}" if speaker else text


# --- srt, vtt --------------------------------------------------------------------------------


def _srt(transcript: Transcript, options: FormatOptions) -> str:
    """SubRip: cues numbered from 1, `HH:MM:SS,mmm`, `Name: ` before the text.

    Players read HTML-like tags and `{\\…}` codes and there is no escape for them: `<` becomes `‹`,
    an arrow `->`, and the brace before a backslash a parenthesis.
    """
    blocks = (
        f"{number}\n{_clock(start_ms, ',')} --> {_clock(end_ms, ',')}\n{text}\n"
        for number, (start_ms, end_ms, text) in enumerate(
            (
                (start_ms, end_ms, _named(cue.speaker and _srt_safe(cue.speaker), text))
                for cue in _cues(transcript, options, names_in_lines=True)
                for start_ms, end_ms, text in _shown(cue, options, _srt_safe)
            ),
            start=1,
        )
    )
    return "\n".join(blocks)


def _srt_safe(text: str) -> str:
    return re.sub(r"-{2,}>", "->", text).replace("<", "‹").replace("{\\", "(\\")


def _vtt(transcript: Transcript, options: FormatOptions) -> str:
    """WebVTT (w3.org/TR/webvtt1): the speaker as a voice span; `& < >` as character references."""
    blocks = (
        f"{_clock(start_ms, '.')} --> {_clock(end_ms, '.')}\n{voice}{text}\n"
        for cue in _cues(transcript, options)
        for voice in ([f"<v {_vtt_safe(cue.speaker)}>"] if cue.speaker else [""])
        for start_ms, end_ms, text in _shown(cue, options, _vtt_safe)
    )
    return "\n".join(("WEBVTT\n", *blocks))


def _vtt_safe(text: str) -> str:
    return html.escape(text, quote=False)


def _cues(
    transcript: Transcript, options: FormatOptions, *, names_in_lines: bool = False
) -> list[Cue]:
    return cues(
        transcript,
        max_line_width=options.max_line_width,
        max_line_count=options.max_line_count,
        names_in_lines=names_in_lines,
    )


def _shown(
    cue: Cue, options: FormatOptions, safe: Callable[[str], str]
) -> list[tuple[int, int, str]]:
    """Start and end in ms and text of each state of the cue: one, or one for each word spoken."""
    if not options.highlight_words:
        return [(cue.start_ms, cue.end_ms, _marked(cue, None, safe))]
    return [(start, end, _marked(cue, word, safe)) for start, end, word in highlights(cue)]


def _marked(cue: Cue, word: int | None, safe: Callable[[str], str]) -> str:
    """The cue's lines, the word of that index underlined."""
    lines: list[str] = []
    first = 0
    for tokens in cue.lines:
        index = -1 if word is None else word - first
        if 0 <= index < len(tokens):
            # The sides are made safe as a whole, not token by token: an arrow can be two tokens.
            lit = tokens[index].text
            before = join(tokens[:index]) + (" " if index and tokens[index].blank_before else "")
            after = join(tokens[index:]).removeprefix(lit)
            lines.append(f"{safe(before)}<u>{safe(lit)}</u>{safe(after)}")
        else:
            lines.append(safe(join(tokens)))
        first += len(tokens)
    return "\n".join(lines)


def _clock(time_ms: int, mark: str) -> str:
    minutes, rest_ms = divmod(time_ms, 60_000)
    seconds, rest_ms = divmod(rest_ms, 1000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{seconds:02d}{mark}{rest_ms:03d}"


# --- tsv, csv, aud ---------------------------------------------------------------------------


def _tsv(transcript: Transcript, _options: FormatOptions) -> str:
    """Whisper's own columns `start end text`, in ms, then `speaker` where any is known.

    There is no quoting: the text has no tabs or line ends left. For a leading `=`, see `_guarded`;
    a spreadsheet takes quotes before one off, and so they hide none.
    """
    spoken = utterances(transcript)
    named = any(utterance.speaker for utterance in spoken)
    rows = [["start", "end", "text", *(["speaker"] if named else [])]]
    for one in spoken:
        cells = [_guarded(text, past='" ') for text in (join(one.tokens), one.speaker or "")]
        rows.append([str(one.start_ms), str(one.end_ms), *(cells if named else cells[:1])])
    return "".join("\t".join(row) + "\n" for row in rows)


def _csv(transcript: Transcript, _options: FormatOptions) -> str:
    """RFC 4180 with the header `id,start_s,end_s,speaker,text`; by the id, files can be joined.

    For a leading `=` and its like see `_guarded`. Where the comma is the decimal mark, spreadsheets
    part columns at semicolons: what follows one is guarded too.
    """
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\r\n")
    writer.writerow(("id", "start_s", "end_s", "speaker", "text"))

    def cell(text: str) -> str:
        return ";".join(map(_guarded, text.split(";")))

    asset_id = cell(for_document(transcript.asset_id))
    for one in utterances(transcript):
        times = (f"{one.start_ms / 1000:.3f}", f"{one.end_ms / 1000:.3f}")
        writer.writerow((asset_id, *times, cell(one.speaker or ""), cell(join(one.tokens))))
    return target.getvalue()


def _aud(transcript: Transcript, _options: FormatOptions) -> str:
    """Audacity's label track (File > Import > Labels): start and end in s, `Name: ` and the text.

    Tabs part the columns; the text has none left.
    """
    return "".join(
        f"{one.start_ms / 1000:.3f}\t{one.end_ms / 1000:.3f}\t"
        f"{_named(one.speaker, join(one.tokens))}\n"
        for one in utterances(transcript)
    )


def _guarded(text: str, *, past: str = "") -> str:
    """A spreadsheet runs a cell that begins with one of these; an apostrophe makes it text.

    `past`: characters that may stand before it, since a spreadsheet drops them.
    """
    return f"'{text}" if text.lstrip(past).startswith(tuple("=+-@\t\r＝＋－＠")) else text


# --- lrc -------------------------------------------------------------------------------------


def _lrc(transcript: Transcript, options: FormatOptions) -> str:
    """Lyrics: `[ti:]`, `[length:]` and `[re:]` tags, then `[mm:ss.xx]` and a cue in one line.

    What looks like a time tag within the text is put in parentheses.
    """
    title = for_document(transcript.name).replace("[", "(").replace("]", ")")
    length_s = span_ms(0, transcript.duration_s)[1] // 1000
    tags = [f"[ti:{title}]"] if title else []
    tags += [f"[length:{length_s // 60:02d}:{length_s % 60:02d}]", "[re:audio-batch]"]
    for cue in _cues(transcript, options, names_in_lines=True):
        minutes, rest_cs = divmod(round(cue.start_ms / 10), 6000)
        text = _named(cue.speaker, join(itertools.chain.from_iterable(cue.lines)))
        text = re.sub(r"[\[<](\d+:[\d.:]*)[\]>]", r"(\1)", text)
        tags.append(f"[{minutes:02d}:{rest_cs // 100:02d}.{rest_cs % 100:02d}]{text}")
    return "".join(f"{tag}\n" for tag in tags)


# --- all of them -----------------------------------------------------------------------------

FORMATS: Mapping[str, Format] = {
    known.name: known
    for known in (
        Format("json", ".json", _json),
        Format("txt", ".txt", _txt),
        Format("srt", ".srt", _srt),
        Format("vtt", ".vtt", _vtt),
        Format("tsv", ".tsv", _tsv),
        Format("csv", ".csv", _csv),
        Format("lrc", ".lrc", _lrc),
        Format("aud", ".aud", _aud),
        Format("rttm", ".rttm", rttm),
        Format("uem", ".uem", uem),
    )
}
"""Every format by its name, the canonical one first."""


NO_FORMAT = "none"
"""Asked for by itself: nothing is published, the run only measures the program."""


def parse_formats(text: str | Sequence[str]) -> tuple[str, ...]:
    """The formats that `"srt,vtt"`, `"all"` or a list of such texts names.

    `json` is always among them and first, the others follow in the order of `FORMATS` without
    repetition, so that two ways to ask for the same are equal. `rttm` brings `uem` along: turns
    cannot be scored without the part of the recording that they are good for. `none`, by itself,
    is no format at all.

    Raises:
        UsageError: a name that is none of `FORMATS`; the message lists them.
    """
    texts = (text,) if isinstance(text, str) else text
    asked = {name.lower() for part in texts for name in re.split(r"[\s,]+", part) if name}
    if asked == {NO_FORMAT}:
        return ()
    for name in sorted(asked - {"all"}):
        _known(name)
    if "rttm" in asked:
        asked.add("uem")
    return tuple(name for name in FORMATS if name == "json" or name in asked or "all" in asked)


def render(name: str, transcript: Transcript, options: FormatOptions) -> bytes:
    """The file's content in the named format, as UTF-8; the same bytes on every machine.

    Raises:
        UsageError: a name that is none of `FORMATS`.
    """
    return _known(name).render(transcript, options).encode("utf-8")


def _known(name: str) -> Format:
    if name not in FORMATS:
        raise UsageError(
            f"There is no output format {for_terminal(name)!r}.",
            remedy=f"The formats are {', '.join(FORMATS)}, or all.",
        )
    return FORMATS[name]
