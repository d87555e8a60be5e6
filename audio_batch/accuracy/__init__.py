"""How right the transcripts are: words, characters, speakers and times against references.

`audio-batch eval` is made of this, and it serves programs as well: `score_words`,
`score_characters`, `cpwer`, `score_boundaries` and `score_diarization` take plain values and give
`Errors`, which `pooled` adds up.

    references.py   what a manifest's entries give as the truth
    hypotheses.py   the transcripts of an output folder
    evaluation.py   one against the other, per asset and in all
    comparison.py   two output folders side by side

Nothing heavy is imported before something is scored, torch never.
"""

from audio_batch.accuracy.errors import Errors, pooled
from audio_batch.accuracy.speakers import DiarizationScore, score_diarization
from audio_batch.accuracy.words import (
    Boundaries,
    TimedWord,
    cpwer,
    score_boundaries,
    score_characters,
    score_words,
)

__all__ = [
    "Boundaries",
    "DiarizationScore",
    "Errors",
    "TimedWord",
    "cpwer",
    "pooled",
    "score_boundaries",
    "score_characters",
    "score_diarization",
    "score_words",
]
