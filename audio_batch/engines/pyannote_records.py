"""What goes into and comes out of a diarization: samples a model can hear, records of speakers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audio_batch.engines.base import Diarization
from audio_batch.engines.pyannote_pipeline import SAMPLE_RATE_HZ
from audio_batch.options import SpeakerLimits
from audio_batch.transcript import Speaker, Turn

QUIET = 1e-4
"""Full scale is 1: below -80 dB there is nothing but dither."""

_SCAN_SAMPLES = 1024 * 1024
"""Looked at together: what says of each whether it is a number takes half as much as they do."""


def clean(samples: NDArray[np.float32]) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Samples that a model can hear, finite and within full scale, and a note of what was not.

    One sample that is no number would silence every window that holds it.
    """
    sound = np.require(samples, np.float32, ["C", "W"])
    count = 0
    for start in range(0, len(sound), _SCAN_SAMPLES):
        bad = ~np.isfinite(sound[start : start + _SCAN_SAMPLES])
        if not bad.any():
            continue
        if count == 0:
            sound = sound.copy()
        count += int(np.count_nonzero(bad))
        sound[start : start + _SCAN_SAMPLES][bad] = 0
    top = peak(sound)
    if top > 1:
        sound = sound / np.float32(top)
    return sound, (f"{count} samples are no numbers: heard as silence",) if count else ()


def peak(sound: NDArray[np.float32]) -> float:
    """The largest magnitude, without a copy; 0 for no samples."""
    return max(float(sound.max(initial=0)), -float(sound.min(initial=0)))


def loud_s(sound: NDArray[np.float32]) -> float:
    """Seconds within 40 dB of the loud parts, which is neither silence nor a faint noise."""
    frame = SAMPLE_RATE_HZ // 50
    frames = sound[: len(sound) // frame * frame].reshape(-1, frame)
    if not len(frames):
        return 0.0
    levels = np.sqrt(np.mean(np.square(frames, dtype=np.float64), axis=1))
    floor = max(QUIET, 0.01 * float(np.quantile(levels, 0.95)))
    return float(np.count_nonzero(levels > floor)) * frame / SAMPLE_RATE_HZ


def unit(vector: NDArray[Any]) -> tuple[float, ...] | None:
    """A vector of Euclidean norm 1; None where there is no direction."""
    norm = float(np.linalg.norm(vector))
    if not 0 < norm < np.inf:
        return None
    return tuple(round(float(value), 6) for value in vector / norm)


def diarization(output: Any, duration_s: float, notes: tuple[str, ...]) -> Diarization:
    """pyannote's output as records, with labels in the order in which the voices are heard."""
    all_turns = list(_turns(output.speaker_diarization, duration_s))
    alone = list(apart(_turns(output.exclusive_speaker_diarization, duration_s)))
    names = {
        label: f"SPEAKER_{number:02d}"
        for number, label in enumerate(dict.fromkeys(turn.speaker for turn in all_turns))
    }
    rows = output.speaker_embeddings
    vectors = (
        {} if rows is None else dict(zip(output.speaker_diarization.labels(), rows, strict=True))
    )
    speakers = tuple(
        Speaker(
            label=name,
            talk_s=round(sum(t.end_s - t.start_s for t in all_turns if t.speaker == label), 3),
            embedding=unit(vectors[label]) if label in vectors else None,
        )
        for label, name in names.items()
    )
    return Diarization(
        turns=tuple(Turn(names[t.speaker], t.start_s, t.end_s) for t in all_turns),
        exclusive_turns=tuple(
            Turn(names[t.speaker], t.start_s, t.end_s) for t in alone if t.speaker in names
        ),
        speakers=speakers,
        notes=notes,
    )


def _turns(annotation: Any, duration_s: float) -> Iterable[Turn]:
    """Turns in whole milliseconds within the recording (windows are padded past its end)."""
    turns = [
        Turn(str(label), round(max(0.0, span.start), 3), round(min(span.end, duration_s), 3))
        for span, _, label in annotation.itertracks(yield_label=True)
    ]
    kept = (turn for turn in turns if turn.end_s > turn.start_s)
    return sorted(kept, key=lambda turn: (turn.start_s, turn.end_s, turn.speaker))


def apart(turns: Iterable[Turn]) -> Iterator[Turn]:
    """Sorted turns without overlaps, which filled pauses (`min_duration_off`) can bring in."""
    free_s = 0.0
    for turn in turns:
        if turn.end_s > free_s:
            yield Turn(turn.speaker, max(turn.start_s, free_s), turn.end_s)
            free_s = turn.end_s


def counted(found: int, limits: SpeakerLimits) -> tuple[str, ...]:
    """A note where the voices found are not as many as were asked for."""
    least = limits.num_speakers or limits.min_speakers or 0
    most = limits.num_speakers or limits.max_speakers or found
    if found == 0:
        return ("no speakers found",)
    voices = f"{found} voice{'' if found == 1 else 's'} found"
    if found < least:
        return (f"only {voices}, {least} asked for",)
    return (f"{voices}, {most} asked for",) if found > most else ()
