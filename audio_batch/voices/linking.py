"""Which voices of many recordings are the same person's. Pure, any thread; no model, no files.

Two voices of one recording are never linked: its diarization heard them talk and tells them apart.
An id, once given, stays with its voices and is never given to another. Only voices of the same
embedding space may be handed over together.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from audio_batch.voices.agglomeration import Group, agglomerate

MIN_TALK_S = 1.5
"""Voices with less are too uncertain to found an id that others would gather under."""

FULL_WEIGHT_S = 60.0
"""Talk beyond this adds nothing to a voice's weight: its vector no longer gets better, and one
lecture must not outweigh the same person's twenty short calls."""

_MARGIN = 0.25
"""How far above the threshold, on the way to 1, a voice with little talk must be to be linked."""

Key = tuple[str, str]
"""A voice of a recording: asset id and label."""


@dataclass(frozen=True, slots=True, eq=False)
class VoiceSample:
    """One voice of one recording. `voice` is the id that it was given before, if any.

    `embedding` has shape (d,) and any norm.
    """

    asset_id: str
    label: str
    embedding: NDArray[np.float32]
    talk_s: float
    voice: str | None = None

    @property
    def key(self) -> Key:
        """What tells it from all others."""
        return self.asset_id, self.label


@dataclass(frozen=True, slots=True, eq=False)
class KnownVoice:
    """What is kept of a linked voice: the weighted mean of its unit vectors, shape (d,).

    The mean is not brought to norm 1: it is the shorter, the more the voice's samples differ.
    """

    mean: NDArray[np.float32]
    weight_s: float


@dataclass(frozen=True, slots=True, eq=False)
class Linking:
    """The id of every voice that has one. `voices` includes known ones that no sample has now.

    `unlinked` have too little talk, or no usable embedding, and are like no voice well enough.
    """

    assigned: Mapping[Key, str]
    voices: Mapping[str, KnownVoice]
    new: tuple[str, ...]
    unlinked: tuple[Key, ...]


def voice_id(number: int) -> str:
    """The id of the voice of that number, from 1."""
    return f"VOICE_{number:04d}"


def highest_number(ids: Iterable[str]) -> int:
    """The highest number among voice ids, 0 without any; other texts do not count."""
    found = (re.fullmatch(r"VOICE_(\d{1,18})", text, re.ASCII) for text in ids)
    return max((int(match[1]) for match in found if match), default=0)


def link(
    samples: Sequence[VoiceSample],
    known: Mapping[str, KnownVoice],
    threshold: float,
    *,
    first_number: int,
    relink: bool = False,
) -> Linking:
    """Link the voices of one embedding space; the order of `samples` does not matter.

    Samples with an id keep it. The others are gathered by average linkage (`agglomerate`) among
    themselves and with the voices there are, so that a late recording finds its place as if it had
    come first, but two voices with ids are never made one. New ids go by talk time, the most
    talkative voice first.

    Args:
        known: voices linked earlier; one without samples now is found again by what is kept of it.
        threshold: mean cosine, between 0 and 1, from which two voices are one.
        first_number: of the first new id; see `highest_number`.
        relink: gather everything anew. A group then takes over the id that most of its talk had,
            if no other group has more of it.
    """
    ordered = sorted(samples, key=lambda sample: sample.key)
    sizes = Counter(v.mean.size for v in known.values()) or Counter(
        sample.embedding.size for sample in ordered
    )
    size = sizes.most_common(1)[0][0] if sizes else 0
    single = _singles(ordered, size)
    gathered: dict[str, Group] = {}
    loose = []
    for i, group in single.items():
        voice = None if relink else ordered[i].voice
        if voice is None:
            loose.append(i)
        elif voice in gathered:
            gathered[voice].take(group)
        else:
            group.voice = voice
            gathered[voice] = group
    away = [
        Group([], kept.mean, kept.weight_s, voice=voice)
        for voice, kept in sorted(known.items())
        if not relink and voice not in gathered and kept.mean.shape == (size,)
    ]
    seeds = [single[i] for i in loose if ordered[i].talk_s >= MIN_TALK_S]
    short = [single[i] for i in loose if ordered[i].talk_s < MIN_TALK_S]
    groups = agglomerate([*(gathered[name] for name in sorted(gathered)), *away, *seeds], threshold)
    _add_short(groups, short, threshold + _MARGIN * (1 - threshold))
    if relink:
        _take_over_ids(groups, ordered)
    new = _number([group for group in groups if group.voice is None], ordered, first_number)

    assigned = {s.key: s.voice for s in ordered if s.voice is not None and not relink}
    assigned |= {ordered[i].key: str(group.voice) for group in groups for i in group.members}
    return Linking(
        assigned=assigned,
        voices={str(group.voice): KnownVoice(group.mean, group.weight_s) for group in groups},
        new=tuple(new),
        unlinked=tuple(s.key for s in ordered if s.key not in assigned),
    )


def _singles(ordered: Sequence[VoiceSample], size: int) -> dict[int, Group]:
    """A group of its own for every sample that has a usable embedding, by the sample's place."""
    recordings = {name: i for i, name in enumerate(sorted({s.asset_id for s in ordered}))}
    found = {}
    for i, sample in enumerate(ordered):
        norm = float(np.linalg.norm(sample.embedding.astype(np.float64)))
        if sample.embedding.shape != (size,) or not (np.isfinite(norm) and norm > 0):
            continue
        weight_s = min(max(sample.talk_s, 0.01), FULL_WEIGHT_S)
        unit = (sample.embedding / norm).astype(np.float32)
        found[i] = Group([i], unit, weight_s, {recordings[sample.asset_id]})
    return found


def _add_short(groups: Sequence[Group], short: Sequence[Group], threshold: float) -> None:
    """Give voices with little talk to the group that each is most like, likest first.

    All are judged by the groups as they were before, so that none prepares the way for another.
    """
    if not groups or not short:
        return
    likeness = np.stack([g.mean for g in short]) @ np.stack([g.mean for g in groups]).T
    likely = sorted(
        (-float(likeness[i, j]), int(i), int(j)) for i, j in np.argwhere(likeness >= threshold)
    )
    placed = set()
    for _, i, j in likely:
        if i not in placed and not short[i].recordings & groups[j].recordings:
            placed.add(i)
            groups[j].take(short[i])


def _take_over_ids(groups: Sequence[Group], ordered: Sequence[VoiceSample]) -> None:
    """Give each old id to the group with most of its talk, most first; a group takes one."""
    shared_s: dict[tuple[str, int], float] = defaultdict(float)
    for j, group in enumerate(groups):
        for i in group.members:
            voice = ordered[i].voice
            if voice is not None:
                shared_s[voice, j] += ordered[i].talk_s
    taken = set()
    for (voice, j), _ in sorted(shared_s.items(), key=lambda item: (-item[1], item[0])):
        if voice not in taken and groups[j].voice is None:
            taken.add(voice)
            groups[j].voice = voice


def _number(groups: list[Group], ordered: Sequence[VoiceSample], first: int) -> list[str]:
    """Give the groups new ids and return these."""
    groups.sort(key=lambda g: (-sum(ordered[i].talk_s for i in g.members), min(g.members)))
    for number, group in enumerate(groups, start=first):
        group.voice = voice_id(number)
    return [str(group.voice) for group in groups]
