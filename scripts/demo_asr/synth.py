"""Synthesised digit speech with known word times, made by espeak-ng through its C library.

The command line tool does not tell when a word begins; the library does (word events), so the
library is called through ctypes.  Times are in seconds, audio is float32 mono at 16 kHz.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import pickle
import random
from collections.abc import Sequence
from math import gcd
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly

Audio = NDArray[np.float32]
RATE = 16_000  # samples a second of everything in these scripts

LANGUAGES = (
    "en-us",
    "en-us",
    "en-us",
    "en",
    "en",
    "en",
    "en-gb-x-rp",
    "en-gb-scotland",
    "en-gb-x-gbclan",
    "en-gb-x-gbcwmd",
    "en-029",
)
# Twice the standard variants (the ones people use), once the rest; whispering and robot voices
# are left out.
STANDARD = ("", "", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "f1", "f2", "f3", "f4", "f5")
VARIANTS = (
    *STANDARD,
    *STANDARD,
    *("Alex", "Alicia", "Andrea", "Andy", "Annie", "Denis", "Diogo", "Gene", "Gene2", "Hugo"),
    *("Jacky", "Lee", "Marco", "Mario", "Michael", "Mike", "adam", "anika", "announcer", "antonio"),
    *("aunty", "belinda", "benjamin", "boris", "caleb", "david", "ed", "edward", "grandma"),
    *("grandpa", "iven", "john", "klatt", "klatt2", "klatt3", "klatt4", "linda", "max", "michel"),
    *("norbert", "pablo", "paul", "quincy", "rob", "robert", "steph", "steph2", "travis", "victor"),
)

_WORD, _SYNCHRONOUS, _RATE, _PITCH, _RANGE, _GAP = 1, 2, 1, 3, 4, 7


class _EventId(ctypes.Union):
    _fields_ = (
        ("number", ctypes.c_int),
        ("name", ctypes.c_char_p),
        ("string", ctypes.c_char * 8),
    )


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    )


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


class Espeak:
    """One espeak-ng library, which speaks text with a voice and tells where words begin."""

    def __init__(self) -> None:
        name = ctypes.util.find_library("espeak-ng") or "libespeak-ng.so.1"
        self._lib = ctypes.CDLL(name)
        self._rate = int(self._lib.espeak_Initialize(_SYNCHRONOUS, 0, None, 0))
        if self._rate <= 0:
            raise RuntimeError("espeak-ng could not be initialised")
        self._samples: list[NDArray[np.int16]] = []
        self._starts: list[int] = []
        self._callback = _Callback(self._receive)  # kept: the library holds a bare pointer to it
        self._lib.espeak_SetSynthCallback(self._callback)

    def _receive(self, wav: object, count: int, events: object) -> int:
        if wav and count > 0:
            self._samples.append(np.ctypeslib.as_array(wav, shape=(count,)).copy())
        i = 0
        while events[i].type != 0:  # type: ignore[index]
            if events[i].type == _WORD:  # type: ignore[index]
                self._starts.append(int(events[i].sample))  # type: ignore[index]
            i += 1
        return 0

    def say(
        self, text: str, voice: str, speed: int, pitch: int, range_: int = 50, gap: int = 0
    ) -> tuple[Audio, list[float]] | None:
        """Audio of ``text`` and the second at which each word begins; None without the voice.

        ``speed`` is in words a minute, ``pitch`` and ``range_`` are 0-100, ``gap`` in 10 ms.
        """
        if self._lib.espeak_SetVoiceByName(voice.encode()) != 0:
            return None
        for number, value in ((_RATE, speed), (_PITCH, pitch), (_RANGE, range_), (_GAP, gap)):
            self._lib.espeak_SetParameter(number, value, 0)
        self._samples, self._starts = [], []
        data = text.encode()
        flags = 1  # UTF-8
        self._lib.espeak_Synth(data, len(data) + 1, 0, 1, 0, flags, None, None)
        self._lib.espeak_Synchronize()
        if not self._samples:
            return None
        wave = np.concatenate(self._samples).astype(np.float32) / 32768.0
        divisor = gcd(RATE, self._rate)
        wave = resample_poly(wave, RATE // divisor, self._rate // divisor).astype(np.float32)
        return wave, [s / self._rate for s in self._starts]


def word_spans(
    wave: Audio, starts: Sequence[float], floor: float = 0.02
) -> list[tuple[float, float]]:
    """(start, end) in seconds of each word: from its event to the next, less the quiet edges."""
    spans = []
    hop = RATE // 200
    for i, start in enumerate(starts):
        first = int(start * RATE)
        last = int(starts[i + 1] * RATE) if i + 1 < len(starts) else len(wave)
        part = wave[first:last]
        count = len(part) // hop
        if count < 4:
            return []
        level = np.sqrt((part[: count * hop].reshape(count, hop) ** 2).mean(1))
        loud = np.flatnonzero(level > floor * level.max())
        begin = (first + loud[0] * hop) / RATE
        spans.append((float(begin), float((first + (loud[-1] + 1) * hop) / RATE)))
    return spans


def make_utterances(
    words: Sequence[str], count: int, seed: int
) -> list[tuple[Audio, list[tuple[str, float, float]], str]]:
    """``count`` spoken strings of ``words``: audio, (word, start s, end s) of each, voice."""
    rng = random.Random(seed)
    espeak = Espeak()
    made: list[tuple[Audio, list[tuple[str, float, float]], str]] = []
    tries = 0
    while len(made) < count and tries < 3 * count:
        tries += 1
        variant = rng.choice(VARIANTS)
        voice = rng.choice(LANGUAGES) + (f"+{variant}" if variant else "")
        chosen = [rng.choice(words) for _ in range(rng.randint(4, 12))]
        joint = rng.choice((", ", ", ", ", ", " ", " ", ". "))
        gap = rng.choice((0, 0, 0, 2, 5))
        said = espeak.say(
            joint.join(chosen),
            voice,
            rng.randint(110, 190),
            rng.randint(25, 75),
            rng.randint(20, 80),
            gap,
        )
        if said is None or len(said[1]) != len(chosen):
            continue
        spans = word_spans(*said)
        if len(spans) == len(chosen):
            made.append(
                (said[0], [(w, a, b) for w, (a, b) in zip(chosen, spans, strict=True)], voice)
            )
    return made


def cached_utterances(
    words: Sequence[str], count: int, seed: int, folder: Path
) -> list[tuple[Audio, list[tuple[str, float, float]], str]]:
    """``make_utterances``, kept in ``folder`` so that a second run need not speak again."""
    path = folder / f"espeak_{len(words)}_{count}_{seed}.pickle"
    if path.exists():
        return pickle.loads(path.read_bytes())  # type: ignore[no-any-return]
    made = make_utterances(words, count, seed)
    folder.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(made))
    return made
