"""Who spoke when: DER, JER and the number of speakers, by pyannote.metrics. Any thread."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from audio_batch.accuracy.errors import Errors
from audio_batch.transcript import Turn

Region = Sequence[tuple[float, float]]
"""Stretches of a recording, start and end in seconds (a UEM)."""


@dataclass(frozen=True, slots=True)
class DiarizationScore:
    """One recording. `der` counts seconds of speech, `jer` speakers of the reference."""

    der: Errors
    jer: Errors
    speakers: int
    speakers_found: int


def score_diarization(
    reference: Sequence[Turn],
    hypothesis: Sequence[Turn],
    *,
    region: Region | None = None,
    collar_s: float = 0.25,
    skip_overlap: bool = False,
) -> DiarizationScore:
    """Score turns, which may overlap; names of the two sides are paired as fits best.

    DER = (missed + false alarm + confusion) / speech of the reference, all in seconds times
    speakers; NIST, Rich Transcription 2009 evaluation plan. JER = the mean over the reference's
    speakers of 1 - (intersection / union) with the speaker paired with them, 1 for one without;
    second DIHARD evaluation plan 1.1. JER and the number of speakers know neither `collar_s` nor
    `skip_overlap`.

    Turns of one speaker that touch or overlap are one turn.

    Args:
        region: what is scored at all; None is all of the recording.
        collar_s: seconds that are not scored on *each* side of every boundary of the reference,
            which is NIST's collar (its usual 0.25 leaves out 0.5 s at each). pyannote.metrics'
            `collar` is the whole width and is given twice this.
        skip_overlap: do not score where two or more speakers of the reference talk at once.
    """
    from pyannote.core import Segment, Timeline
    from pyannote.metrics.diarization import DiarizationErrorRate, JaccardErrorRate

    ends = [turn.end_s for turn in (*reference, *hypothesis)]
    stretches = [(0.0, max(ends, default=0.0))] if region is None else region
    uem = Timeline([Segment(start_s, end_s) for start_s, end_s in stretches]).support()
    truth = _annotation(reference).crop(uem)
    found = _annotation(hypothesis).crop(uem)
    rate = DiarizationErrorRate(collar=2 * collar_s, skip_overlap=skip_overlap)
    parts = rate.compute_components(truth, found, uem=uem)
    jaccard = JaccardErrorRate().compute_components(truth, found, uem=uem)
    return DiarizationScore(
        der=Errors(
            float(parts["total"]),
            {
                "missed": float(parts["missed detection"]),
                "false alarm": float(parts["false alarm"]),
                "confusion": float(parts["confusion"]),
            },
        ),
        jer=Errors(float(jaccard["speaker count"]), {"unlike": float(jaccard["speaker error"])}),
        speakers=len(truth.labels()),
        speakers_found=len(found.labels()),
    )


def _annotation(turns: Iterable[Turn]) -> Any:
    from pyannote.core import Annotation, Segment

    annotation = Annotation()
    for track, turn in enumerate(turns):
        annotation[Segment(turn.start_s, turn.end_s), track] = turn.speaker
    return annotation.support()
