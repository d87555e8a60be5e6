"""The measures by name: what each is a rate of, and how it is defined."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Measure:
    """`title` is what tables call it, `unit` what its total counts."""

    title: str
    unit: str
    meaning: str


MEASURES: Mapping[str, Measure] = {
    "wer": Measure(
        "WER",
        "words",
        "word error rate: (substitutions + deletions + insertions) / words of the reference; by "
        "jiwer. Not given where the reference is written without blanks between words",
    ),
    "cer": Measure(
        "CER",
        "characters",
        "character error rate, likewise; the main figure for Chinese, Japanese, Thai and others "
        "that are written without blanks, which are then left out of the count",
    ),
    "cpwer": Measure(
        "cpWER",
        "words",
        "speaker-attributed word error rate: concatenated minimum-permutation WER "
        "(arXiv:2004.09249); words said by the wrong speaker count as errors",
    ),
    "cpcer": Measure(
        "cpCER",
        "characters",
        "cpWER over characters, where the reference is written without blanks between words",
    ),
    "der": Measure(
        "DER",
        "seconds",
        "diarization error rate: (missed + false alarm + confusion) / speech of the reference, "
        "overlapping turns included; by pyannote.metrics",
    ),
    "jer": Measure(
        "JER",
        "speakers",
        "Jaccard error rate: mean over the speakers of the reference, without collar; "
        "by pyannote.metrics",
    ),
    "speakers": Measure(
        "speaker count",
        "recordings",
        "recordings whose number of speakers was found wrong",
    ),
}
"""In the order in which they are shown."""
