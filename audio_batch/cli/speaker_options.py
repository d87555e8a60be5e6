"""The flags of the stages after the words: alignment and speakers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from audio_batch.cli.option import opt

_ALIGNMENT, _SPEAKERS = "Alignment", "Speakers"

Align = Annotated[
    bool | None,
    opt(
        "Word times by forced alignment (wav2vec2) \\[only with --align-model].",
        "--align/--no-align",
        panel=_ALIGNMENT,
    ),
]
AlignModel = Annotated[
    str | None,
    opt(
        "A hub name, a torchaudio bundle, a folder, or demo \\[by language].",
        "--align-model",
        panel=_ALIGNMENT,
    ),
]
Diarize = Annotated[
    bool | None,
    opt(
        "Tell speakers apart \\[where the diarization model can be had].",
        "--diarize/--no-diarize",
        panel=_SPEAKERS,
    ),
]
DiarizeModel = Annotated[
    str | None,
    opt(
        "A hub name, a pipeline folder, or demo \\[pyannote/speaker-diarization-community-1].",
        "--diarize-model",
        panel=_SPEAKERS,
    ),
]
HfTokenFile = Annotated[
    Path | None,
    opt(
        "File with a Hugging Face token for gated models \\[HF_TOKEN, or the hub's login].",
        "--hf-token-file",
        panel=_SPEAKERS,
    ),
]
NumSpeakers = Annotated[
    int | None, opt("Exact number of speakers, where known.", "--num-speakers", panel=_SPEAKERS)
]
MinSpeakers = Annotated[
    int | None, opt("At least so many speakers.", "--min-speakers", panel=_SPEAKERS)
]
MaxSpeakers = Annotated[
    int | None, opt("At most so many speakers.", "--max-speakers", panel=_SPEAKERS)
]
Speakers = Annotated[
    Path | None,
    opt(
        "JSON of known voices: name to reference clips; they are named in every recording.",
        "--speakers",
        panel=_SPEAKERS,
    ),
]
SpeakerThreshold = Annotated[
    float | None,
    opt(
        "Cosine from which a voice is a known one \\[by the model].",
        "--speaker-threshold",
        panel=_SPEAKERS,
    ),
]
LinkSpeakers = Annotated[
    bool | None,
    opt(
        "Give the same voice the same id in all recordings.",
        "--link-speakers/--no-link-speakers",
        panel=_SPEAKERS,
    ),
]
LinkThreshold = Annotated[
    float | None,
    opt(
        "Cosine from which two voices are one \\[by the model].",
        "--link-threshold",
        panel=_SPEAKERS,
    ),
]
