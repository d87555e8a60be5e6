"""Who spoke when, as scorers read it: RTTM, and in UEM the part of the recording that it covers.

The fields are those of NIST's md-eval.pl (the Rich Transcription evaluation plans of 2003 to 2009),
which dscore, pyannote and meeteval read too. Blanks part the fields and nothing can quote them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from audio_batch.subtitles import span_ms, speaker_namer
from audio_batch.text import for_document
from audio_batch.transcript import Transcript

# What pandas, which reads these files for pyannote, takes for "no value"; so is nothing at all.
_MISSING = re.compile(r"|<?NA>?|N/A|n/a|NULL|null|None|-?(NaN|nan|1\.#IND|1\.#QNAN)")


def rttm(transcript: Transcript, _options: object) -> str:
    """A line for each turn; those of different speakers may overlap.

    Speakers have the names that people read, with `_` for blanks. Labels that are shown alike are
    one speaker, whose turns are joined where they overlap; names that only became alike are
    numbered. A turn under half a millisecond is left out. Without turns the file is empty.
    """
    name = speaker_namer(transcript)
    spans: dict[str, list[tuple[int, int]]] = {}
    for turn in transcript.turns:
        spans.setdefault(name(turn.speaker) or "", []).append(span_ms(turn.start_s, turn.end_s))
    file = _field(transcript.asset_id)
    lines = sorted(
        (start_ms, end_ms, speaker)
        for speaker, its in zip(_distinct(spans), spans.values(), strict=True)
        for start_ms, end_ms in _joined(its)
        if end_ms > start_ms
    )
    return "".join(
        f"SPEAKER {file} 1 {start_ms / 1000:.3f} {(end_ms - start_ms) / 1000:.3f}"
        f" <NA> <NA> {speaker} <NA> <NA>\n"
        for start_ms, end_ms, speaker in lines
    )


def uem(transcript: Transcript, _options: object) -> str:
    """The whole recording as it was decoded, on the channel that the RTTM names (md-eval.pl asks).

    Without length the file is empty: readers refuse a stretch of none.
    """
    _, end_ms = span_ms(0, transcript.duration_s)
    return f"{_field(transcript.asset_id)} 1 0.000 {end_ms / 1000:.3f}\n" if end_ms else ""


def _joined(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for start_ms, end_ms in sorted(spans):
        if joined and start_ms < joined[-1][1]:
            start_ms, before_ms = joined.pop()
            end_ms = max(end_ms, before_ms)
        joined.append((start_ms, end_ms))
    return joined


def _distinct(names: Iterable[str]) -> list[str]:
    """The names as fields, all different: "A B" and "A_B" become `A_B` and `A_B_2`."""
    given: dict[str, None] = {}
    for name in names:
        field, number = _field(name), 2
        distinct = field
        while distinct in given:
            distinct, number = f"{field}_{number}", number + 1
        given[distinct] = None
    return list(given)


def _field(text: str) -> str:
    """`text` as one field: no blanks, no quotation mark, no comment, no word for "no value"."""
    field = re.sub(r"[\s\ufeff]+", "_", for_document(text)).replace('"', "'")
    field = re.sub(r"^[;#]", "_", field)
    return f"{field}_" if _MISSING.fullmatch(field) else field
