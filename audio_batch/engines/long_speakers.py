"""Which speakers of a long recording's pieces are the same. Pure, any thread.

The clustering is that of voices over many recordings (`voices.agglomeration`), with pieces for
recordings: two speakers of one piece are never taken for one, since its diarization heard both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from audio_batch.options import SpeakerLimits
from audio_batch.transcript import Speaker
from audio_batch.voices.agglomeration import Group, agglomerate

_LEAST_THRESHOLD = 0.01
"""A speaker without embedding is like nobody: its cosine is 0, and must link with none."""
_HALVINGS = 30


@dataclass(frozen=True, slots=True, eq=False)
class LinkedSpeaker:
    """A speaker of the whole recording.

    `members` are (number of the piece, label there); `mean` is the mean of their embeddings of
    norm 1, each weighing by its talk time, shape (d,); zeros where none has an embedding.
    """

    members: tuple[tuple[int, str], ...]
    mean: NDArray[np.float32]


def link_speakers(
    pieces: Sequence[Sequence[Speaker]], limits: SpeakerLimits, threshold: float
) -> list[LinkedSpeaker]:
    """The speakers of a recording from those of its pieces.

    Where `limits` asks for more of them, fewer are taken for one, as far as the pieces have that
    many between them. Where it allows fewer, the likest are taken for one, alike or not.

    Args:
        pieces: each piece's speakers, in order.
        threshold: mean cosine from which speakers of different pieces are one.
    """
    heard = [(i, speaker) for i, speakers in enumerate(pieces) for speaker in speakers]
    size = max((len(s.embedding) for _, s in heard if s.embedding), default=1)
    parts = [_Part(i, s.label, _direction(s, size), max(s.talk_s, 1e-3)) for i, s in heard]
    groups = _gather(parts, max(threshold, _LEAST_THRESHOLD))
    least = limits.num_speakers or limits.min_speakers or 1
    if len(groups) < least <= len(parts):
        groups = _gather_fewer(parts, least, threshold)
    groups = _merge_to(groups, limits.num_speakers or limits.max_speakers or len(parts), parts)
    return [
        LinkedSpeaker(tuple((parts[n].piece, parts[n].label) for n in group.members), group.mean)
        for group in groups
    ]


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """A speaker of a piece; `vector` has norm 1, or is zero where it has no embedding."""

    piece: int
    label: str
    vector: NDArray[np.float32]
    talk_s: float


def _direction(speaker: Speaker, size: int) -> NDArray[np.float32]:
    if speaker.embedding is None:
        return np.zeros(size, np.float32)
    return np.array(speaker.embedding, np.float32)


def _gather(parts: Sequence[_Part], threshold: float) -> list[Group]:
    groups = [Group([n], p.vector, p.talk_s, {p.piece}) for n, p in enumerate(parts)]
    return agglomerate(groups, threshold)


def _gather_fewer(parts: Sequence[_Part], least: int, threshold: float) -> list[Group]:
    """Groups by the lowest threshold above the given one that leaves `least` of them or more."""
    low, high = threshold, 1.01  # none is as like as that
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if len(_gather(parts, middle)) < least:
            low = middle
        else:
            high = middle
    return _gather(parts, high)


def _merge_to(groups: list[Group], most: int, parts: Sequence[_Part]) -> list[Group]:
    """Go on merging the likest two until there are no more than `most`."""
    while len(groups) > most:
        means = np.stack([group.mean for group in groups])
        likeness = means @ means.T
        for i, one in enumerate(groups):
            for j, other in enumerate(groups):
                if i >= j or not one.recordings.isdisjoint(other.recordings):
                    likeness[i, j] = -np.inf
        i, j = divmod(int(likeness.argmax()), len(groups))
        if likeness[i, j] == -np.inf:
            return _share_out(groups, most, parts)
        groups[i].take(groups.pop(j))
    return groups


def _share_out(groups: Sequence[Group], most: int, parts: Sequence[_Part]) -> list[Group]:
    """Keep the `most` groups that talk longest; each part of the others joins the likest that may.

    For where each two groups share a piece and yet no piece has more than `most` speakers. A part
    whose piece all the kept ones were heard in stays alone.
    """
    ranked = sorted(groups, key=lambda group: -group.weight_s)
    kept, rest = ranked[:most], ranked[most:]
    loose = sorted((n for group in rest for n in group.members), key=lambda n: -parts[n].talk_s)
    alone = []
    for n in loose:
        part = parts[n]
        single = Group([n], part.vector, part.talk_s, {part.piece})
        free = [group for group in kept if part.piece not in group.recordings]
        if free:
            max(free, key=lambda group: float(group.mean @ part.vector)).take(single)
        else:
            alone.append(single)
    return kept + alone
