"""Recordings with known speakers, composed for choosing thresholds and for measuring.

A scene's reference says who speaks when: a segment for each turn, from the first to the last sound
of it; pauses within a turn belong to it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import av
import numpy as np
from recordings import RATE, Audio, Speaker, background, read_audio


@dataclass(frozen=True)
class Scene:
    """A recording and its reference: (start s, end s, speaker), in order."""

    name: str
    audio: Audio
    reference: tuple[tuple[float, float, str], ...]

    @property
    def speakers(self) -> list[str]:
        """Who is heard, sorted."""
        return sorted({name for _, _, name in self.reference})


def _level(audio: Audio) -> Audio:
    return audio * np.float32(0.06 / (np.sqrt((audio**2).mean()) + 1e-6))


def _take_turns(
    name: str,
    turns: Sequence[tuple[str, Audio]],
    rng: np.random.Generator,
    pause: tuple[float, float],
    overlap: float = 0.0,
) -> Scene:
    """Turns one after the other, with pauses in seconds, a share of them overlapping by 0.3-1 s."""
    at = int(rng.uniform(0.2, 0.8) * RATE)
    end = at
    placed = []
    for i, (_, audio) in enumerate(turns):
        if i:
            early = overlap and rng.random() < overlap
            gap = -rng.uniform(0.3, 1.0) if early else rng.uniform(*pause)
            at = max(end + int(gap * RATE), 0)
        placed.append(at)
        end = max(end, at + len(audio))
    whole = np.zeros(end + RATE // 2, dtype=np.float32)
    reference = []
    for (speaker, audio), start in zip(turns, placed, strict=True):
        whole[start : start + len(audio)] += audio
        reference.append((start / RATE, (start + len(audio)) / RATE, speaker))
    return Scene(name, whole, tuple(reference))


def _string(speaker: Speaker, rng: np.random.Generator) -> Audio:
    """A turn of three to seven words with pauses of 0.05-0.3 s."""
    parts = []
    for i in range(int(rng.integers(3, 8))):
        if i:
            parts.append(np.zeros(int(rng.uniform(0.05, 0.3) * RATE), dtype=np.float32))
        parts.append(_level(speaker.clips[rng.integers(len(speaker.clips))]))
    return np.concatenate(parts)


def _order(count: int, turns: int, rng: np.random.Generator) -> list[int]:
    """Who speaks: everyone soon, then anyone but who spoke last."""
    order = [int(i) for i in rng.permutation(count)]
    while len(order) < turns:
        order.append(int(rng.choice([i for i in range(count) if i != order[-1]])))
    return order


def dialogues(
    speakers: list[Speaker], counts: Sequence[int], seed: int, label: str = "dialogue"
) -> list[Scene]:
    """Digit dialogues of 20-40 s, one for each number of voices in ``counts``."""
    rng = np.random.default_rng(seed)
    made = []
    for number, count in enumerate(counts):
        chosen = [speakers[i] for i in rng.choice(len(speakers), count, replace=False)]
        length = rng.uniform(20, 36)
        turns: list[tuple[str, Audio]] = []
        order = _order(count, 60, rng)
        while sum(len(a) / RATE + 0.6 for _, a in turns) < length:
            speaker = chosen[order[len(turns)]]
            turns.append((speaker.name, _string(speaker, rng)))
        made.append(_take_turns(f"{label}-{count}-{number:02d}", turns, rng, (0.3, 1.0)))
    return made


def pieces(speaker: Speaker, least_s: float, most_s: float) -> list[Audio]:
    """A speaker's sentences cut, where they are quiet, into parts of about these lengths."""
    made = []
    for clip in speaker.clips:
        at = 0
        while len(clip) - at >= int(least_s * RATE):
            if len(clip) - at <= int(most_s * RATE):
                end = len(clip)
            else:
                hop = RATE // 50
                low, high = at + int(least_s * RATE), at + int(most_s * RATE)
                level = [float((clip[i : i + 2 * hop] ** 2).sum()) for i in range(low, high, hop)]
                end = low + int(np.argmin(level)) * hop + hop
            made.append(_level(clip[at:end]))
            at = end
    return made


def panels(
    speakers: list[Speaker],
    counts: Sequence[int],
    seed: int,
    *,
    label: str,
    piece_s: tuple[float, float] = (2.0, 5.0),
    overlap: float = 0.0,
    most_turns: int = 40,
) -> list[Scene]:
    """Read sentences in turns, one scene for each number of voices in ``counts``."""
    rng = np.random.default_rng(seed)
    made = []
    for number, count in enumerate(counts):
        chosen = [speakers[i] for i in rng.choice(len(speakers), count, replace=False)]
        said = [list(rng.permutation(len(pieces(s, *piece_s)))) for s in chosen]
        cut = [pieces(s, *piece_s) for s in chosen]
        turns = []
        for who in _order(count, most_turns, rng):
            if not said[who]:
                break
            turns.append((chosen[who].name, cut[who][said[who].pop()]))
        made.append(_take_turns(f"{label}-{number:02d}", turns, rng, (0.2, 1.2), overlap))
    return made


def singles(speakers: list[Speaker], each: int, label: str) -> list[Scene]:
    """``each`` recordings of 4-10 s of each speaker alone."""
    rng = np.random.default_rng(0)
    made = []
    for speaker in speakers:
        for i, audio in enumerate(pieces(speaker, 4.0, 10.0)[:each]):
            made.append(
                _take_turns(f"{label}-{speaker.name}-{i}", [(speaker.name, audio)], rng, (0, 1))
            )
    return made


def noisy(scene: Scene, seed: int, decibels: float = 18.0) -> Scene:
    """The same with noise, hum or music that much below the speech."""
    rng = np.random.default_rng(seed)
    level = float(np.sqrt((scene.audio**2).mean())) * 10 ** (-decibels / 20)
    audio = scene.audio + background(rng, len(scene.audio)) * np.float32(level)
    return replace(scene, name=scene.name + "-noisy", audio=audio)


def coded(scene: Scene, bits_s: int = 32_000) -> Scene:
    """The same through MP3; what the coder puts before the sound is cut off again."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scene.mp3"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libmp3lame", rate=RATE, layout="mono")
            stream.bit_rate = bits_s
            frame = av.AudioFrame.from_ndarray(scene.audio[None], "fltp", "mono")
            frame.sample_rate = RATE
            resampler = av.AudioResampler(format=stream.format, layout="mono", rate=RATE)
            for part in [*resampler.resample(frame), *resampler.resample(None)]:
                container.mux(stream.encode(part))
            container.mux(stream.encode(None))
        audio = read_audio(path)[: len(scene.audio)]
    return replace(scene, name=scene.name + "-mp3", audio=audio)


def from_rttm(folder: Path, prefix: str = "") -> list[Scene]:
    """The recordings of a folder with a ``reference.rttm``, those whose names begin so."""
    references: dict[str, list[tuple[float, float, str]]] = {}
    for line in (folder / "reference.rttm").read_text(encoding="utf-8").splitlines():
        part = line.split()
        if part[0] == "SPEAKER" and part[1].startswith(prefix):
            start, length = float(part[3]), float(part[4])
            references.setdefault(part[1], []).append((start, start + length, part[7]))
    return [
        Scene(name, read_audio(folder / f"{name}.flac"), tuple(sorted(reference)))
        for name, reference in sorted(references.items())
    ]
