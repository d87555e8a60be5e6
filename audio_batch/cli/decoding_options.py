"""The flags of recognition and of speech detection: what a model hears, and in what windows."""

from __future__ import annotations

from typing import Annotated

from audio_batch.cli.option import opt

_DECODING = "Decoding"
_MODES = "sequential only (--batch-size 1)"

Language = Annotated[
    str | None, opt("Code or name \\[auto: heard in each asset].", "--language", panel=_DECODING)
]
Task = Annotated[
    str | None, opt("transcribe, or translate into English.", "--task", panel=_DECODING)
]
InitialPrompt = Annotated[
    str | None, opt("Text that sets spelling and style.", "--initial-prompt", panel=_DECODING)
]
Hotwords = Annotated[str | None, opt("Words to be expected.", "--hotwords", panel=_DECODING)]
BeamSize = Annotated[int | None, opt("Beams \\[5].", "--beam-size", panel=_DECODING)]
BestOf = Annotated[
    int | None, opt(f"Samples at a temperature above 0; {_MODES}.", "--best-of", panel=_DECODING)
]
Patience = Annotated[
    float | None, opt("Beam search patience \\[1].", "--patience", panel=_DECODING)
]
LengthPenalty = Annotated[
    float | None, opt("Beam search length penalty \\[1].", "--length-penalty", panel=_DECODING)
]
RepetitionPenalty = Annotated[
    float | None, opt("Above 1 punishes repeats \\[1].", "--repetition-penalty", panel=_DECODING)
]
NoRepeatNgramSize = Annotated[
    int | None,
    opt("Never repeat n-grams of this size \\[off].", "--no-repeat-ngram-size", panel=_DECODING),
]
Temperature = Annotated[
    str | None,
    opt(
        "One, or with --batch-size 1 a fallback ladder 0,0.2,0.4.",
        "--temperature",
        panel=_DECODING,
    ),
]
CompressionRatioThreshold = Annotated[
    float | None,
    opt(
        f"Above it a window is done again; {_MODES} \\[2.4].",
        "--compression-ratio-threshold",
        panel=_DECODING,
    ),
]
LogprobThreshold = Annotated[
    float | None,
    opt(
        f"Below it a window is done again; {_MODES} \\[-1].",
        "--logprob-threshold",
        panel=_DECODING,
    ),
]
NoSpeechThreshold = Annotated[
    float | None,
    opt(
        f"Above it a window is silent; {_MODES} \\[0.6].",
        "--no-speech-threshold",
        panel=_DECODING,
    ),
]
ConditionOnPreviousText = Annotated[
    bool | None,
    opt(
        f"Prompt each window with the last; {_MODES} \\[no].",
        "--condition-on-previous-text/--no-condition-on-previous-text",
        panel=_DECODING,
    ),
]
WordTimestamps = Annotated[
    bool | None,
    opt("Times of words \\[yes].", "--word-timestamps/--no-word-timestamps", panel=_DECODING),
]
HallucinationSilenceThreshold = Annotated[
    float | None,
    opt(
        f"Seconds of silence around a doubtful text to skip; {_MODES}.",
        "--hallucination-silence-threshold",
        panel=_DECODING,
    ),
]
VadMethod = Annotated[
    str | None, opt("silero, or none \\[silero].", "--vad-method", panel=_DECODING)
]
VadOnset = Annotated[
    float | None,
    opt("Speech probability that begins speech \\[0.5].", "--vad-onset", panel=_DECODING),
]
VadOffset = Annotated[
    float | None,
    opt("Speech probability that ends it \\[onset - 0.15].", "--vad-offset", panel=_DECODING),
]
VadMinSpeechMs = Annotated[
    int | None, opt("Shorter speech is dropped \\[0].", "--vad-min-speech-ms", panel=_DECODING)
]
VadMinSilenceMs = Annotated[
    int | None,
    opt(
        "Shorter silence does not cut \\[160; sequential 2000].",
        "--vad-min-silence-ms",
        panel=_DECODING,
    ),
]
VadPadMs = Annotated[
    int | None, opt("Added to both sides of speech \\[400].", "--vad-pad-ms", panel=_DECODING)
]
ChunkLength = Annotated[
    int | None, opt("Longest window in seconds \\[30].", "--chunk-length", panel=_DECODING)
]
