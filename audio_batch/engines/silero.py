"""Where speech is in a recording of any length: Silero VAD as faster-whisper uses it.

`faster_whisper.vad.get_speech_timestamps` holds two and a half times the recording that it is
given. Giving it a recording in pieces would change what it finds: the network's memory reaches back
over minutes. So the network, which is faster-whisper's own, is run here block after block with its
memory carried on, and the rules that make spans of its answers are repeated: the spans are the
same, sample for sample, and what is held beside the samples is one block (about 100 MB).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audio_batch.cpu_gate import CpuGate

SAMPLE_RATE_HZ = 16_000
_WINDOW = 512
"""Samples that the network hears at a time."""
_CONTEXT = 64
"""Samples before them that it hears again."""
_BLOCK = 10_000
"""Windows a call (320 s), as in faster-whisper: other sizes would round differently."""
_MEMORY = (1, 1, 128)
_SPLIT_SILENCE = SAMPLE_RATE_HZ * 98 / 1000
"""A span that grows too long is split at its last silence longer than this, in samples."""

Span = dict[str, int]
"""`start` and `end` in samples, as faster-whisper has them."""


def speech_spans(
    samples: NDArray[np.float32],
    parameters: Mapping[str, Any],
    cpu: CpuGate | None = None,
    alive: Callable[[], None] | None = None,
) -> list[Span]:
    """The spans of speech in `samples` (float32, mono, 16 kHz, shape (n,)), in order.

    Args:
        parameters: fields of `faster_whisper.vad.VadOptions`; the others keep their defaults.
        cpu, alive: see `probabilities`.
    """
    from faster_whisper.vad import VadOptions

    options = VadOptions(**parameters)
    found = _spans(probabilities(samples, cpu, alive), len(samples), options)
    _pad(found, len(samples), SAMPLE_RATE_HZ * options.speech_pad_ms / 1000)
    return found


def probabilities(
    samples: NDArray[np.float32],
    cpu: CpuGate | None = None,
    alive: Callable[[], None] | None = None,
) -> Iterator[float]:
    """How likely each window of 512 samples is speech, in order; silence fills the last one up.

    The network is one for all threads, each of which runs it on a core of its own.

    Args:
        cpu: what bounds how many do; entered for a block at a time (half a second of work).
        alive: called after each block; may raise to give up.
    """
    gate = cpu or CpuGate()
    session = _network()
    hidden, cell = np.zeros(_MEMORY, np.float32), np.zeros(_MEMORY, np.float32)
    before = np.zeros(_CONTEXT, np.float32)
    count = len(samples) // _WINDOW + 1
    for first in range(0, count, _BLOCK):
        last = min(first + _BLOCK, count)
        heard = np.zeros((last - first) * _WINDOW, np.float32)
        block = samples[first * _WINDOW : last * _WINDOW]
        heard[: len(block)] = block
        if last == count:
            heard[-_CONTEXT:] = 0.0  # as faster-whisper does, in passing
        windows = heard.reshape(-1, _WINDOW)
        contexts = np.concatenate([before[None], windows[:-1, -_CONTEXT:]])
        with gate:
            answer, hidden, cell = session.run(
                None, {"input": np.concatenate([contexts, windows], 1), "h": hidden, "c": cell}
            )
        before = windows[-1, -_CONTEXT:]
        if alive is not None:
            alive()
        yield from answer.ravel().tolist()


def _network() -> Any:
    """The session of the network, one for all, which reports to nobody."""
    import onnxruntime
    from faster_whisper.vad import get_vad_model

    # Windows does not ask the environment (`logs.NO_REPORTS`), and has noted the process by now.
    onnxruntime.disable_telemetry_events()
    return get_vad_model().session


def _spans(likely: Iterable[float], length: int, options: Any) -> list[Span]:
    """What is speech by the rules of `get_speech_timestamps`, before the padding.

    Speech begins at the threshold and ends where it stayed below the lower one for long enough.
    Zero stands for "none" in what is remembered of silences, as there.
    """
    onset = options.threshold
    offset = max(onset - 0.15, 0.01) if options.neg_threshold is None else options.neg_threshold
    min_speech = SAMPLE_RATE_HZ * options.min_speech_duration_ms / 1000
    min_silence = SAMPLE_RATE_HZ * options.min_silence_duration_ms / 1000
    padding = 2 * SAMPLE_RATE_HZ * options.speech_pad_ms / 1000
    max_speech = SAMPLE_RATE_HZ * options.max_speech_duration_s - _WINDOW - padding

    found: list[Span] = []
    start: int | None = None
    silence = 0  # where the present silence within speech began
    split_end = split_start = 0  # the last silence to split at, and where speech went on after it
    for index, probability in enumerate(likely):
        at = index * _WINDOW
        if probability >= onset:
            if silence:
                silence = 0
                if split_start < split_end:
                    split_start = at
            if start is None:
                start = at
                continue
        if start is not None and at - start > max_speech:
            if split_end:
                found.append({"start": start, "end": split_end})
                start = None if split_start < split_end else split_start
                silence = split_end = split_start = 0
            else:
                found.append({"start": start, "end": at})
                start = None
                silence = split_end = split_start = 0
                continue
        if start is not None and probability < offset:
            silence = silence or at
            if at - silence > _SPLIT_SILENCE:
                split_end = silence
            if at - silence >= min_silence:
                if silence - start > min_speech:
                    found.append({"start": start, "end": silence})
                start = None
                silence = split_end = split_start = 0
    if start is not None and length - start > min_speech:
        found.append({"start": start, "end": length})
    return found


def _pad(spans: list[Span], length: int, padding: float) -> None:
    """Widen the spans on either side, in place, and where they would meet, to the middle."""
    if not spans:
        return
    spans[0]["start"] = int(max(0, spans[0]["start"] - padding))
    for span, following in pairwise(spans):
        pause = following["start"] - span["end"]
        if pause < 2 * padding:
            span["end"] += pause // 2
            following["start"] = max(0, following["start"] - pause // 2)
        else:
            span["end"] = int(min(length, span["end"] + padding))
            following["start"] = int(max(0, following["start"] - padding))
    spans[-1]["end"] = int(min(length, spans[-1]["end"] + padding))
