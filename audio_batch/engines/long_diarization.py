"""Long recordings, diarized in pieces whose speakers are then found in one another.

Clustering compares all of a recording's embeddings pair by pair, so that its memory and time grow
with the square of the length: 60 min in windows 0.5 s apart have some 10,800 embeddings, which take
1 GB and 12 s; 12 hours would take 130 GB and half an hour without a word. In pieces both grow
with the length alone.

What it costs: the speakers of each piece are told apart without the other pieces. Who says little
in a piece may be taken there for somebody else.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from audio_batch.engines.base import Diarization, StepProgress
from audio_batch.engines.long_speakers import link_speakers
from audio_batch.engines.pyannote_pipeline import SAMPLE_RATE_HZ
from audio_batch.engines.pyannote_records import apart, unit
from audio_batch.errors import AssetError, ErrorKind
from audio_batch.options import SpeakerLimits
from audio_batch.transcript import Speaker, Turn

PIECE_S = 3600.0
"""What is longer is cut: as much as 1 GB holds the distances of (see above)."""
MIN_PIECE_S = 600.0
"""No shorter ones are tried when memory runs out: too few of everyone's words are in them."""
DEFAULT_LINK_THRESHOLD = 0.5
"""Cosine from which the speakers of two pieces are one, for models that recommend none: a usual
starting value for embeddings trained with a margin, not measured."""

_REACH_S = 30.0
"""How far from an even cut a quiet spot is looked for."""
_FRAME = SAMPLE_RATE_HZ // 50  # 20 ms, so that pieces begin at whole milliseconds
_PAUSE_FRAMES = 25
_JOIN_S = 0.1
"""A turn that ends or begins this near a cut was cut by it: analysis frames are coarse."""

_log = logging.getLogger("audio_batch.diarization")

DiarizePiece = Callable[[NDArray[np.float32], SpeakerLimits, StepProgress], Diarization]
"""Diarizes sound in one go; raises AssetError, OUT_OF_MEMORY where a shorter piece may do."""


@dataclass(frozen=True, slots=True)
class _Piece:
    begin_s: float
    end_s: float
    found: Diarization


def diarize_in_pieces(
    sound: NDArray[np.float32],
    limits: SpeakerLimits,
    progress: StepProgress,
    diarize: DiarizePiece,
    *,
    piece_s: float = PIECE_S,
    min_piece_s: float = MIN_PIECE_S,
    link_threshold: float | None = None,
    count_needed: bool = False,
) -> Diarization:
    """Diarize a recording, in pieces if it is longer than `piece_s`.

    When memory runs out over a piece, it and what follows are cut into halves of it; what has been
    done stays. Bounds on the number of speakers hold for the whole: a piece is only told the
    largest. `min_speakers` (and `num_speakers` from below) is therefore no more than tried: voices
    are then taken for one in fewer pieces, but none is sought in a piece that did not hear it.

    Args:
        sound: float32, mono, 16 kHz, shape (n,), contiguous.
        progress: told a share of the whole recording that never goes back.
        diarize: see `DiarizePiece`.
        piece_s: at least a second.
        min_piece_s: a piece that is no longer is not halved.
        link_threshold: cosine from which the speakers of two pieces are one; None for a default.
        count_needed: `diarize` must be told how many speakers there are.

    Raises:
        AssetError: whatever `diarize` raised, and memory ran out over the shortest piece too.
    """
    within = SpeakerLimits(max_speakers=limits.num_speakers or limits.max_speakers)
    if count_needed:
        within = SpeakerLimits(num_speakers=limits.num_speakers)
    told = _Share(progress, len(sound))
    pieces: list[_Piece] = []
    begin = 0
    while begin < len(sound):
        end = next_cut(sound, begin, piece_s)
        whole = end - begin == len(sound)
        told.window = (begin, end)
        try:
            found = diarize(sound[begin:end], limits if whole else within, told)
        except AssetError as error:
            length_s = (end - begin) / SAMPLE_RATE_HZ
            if error.kind is not ErrorKind.OUT_OF_MEMORY or length_s <= min_piece_s:
                raise
            piece_s = max(min_piece_s, length_s / 2)
            _log.warning("%s Trying pieces of %.0f s at most.", error, piece_s)
            continue
        if whole:
            return found
        pieces.append(_Piece(begin / SAMPLE_RATE_HZ, end / SAMPLE_RATE_HZ, found))
        begin = end
    threshold = DEFAULT_LINK_THRESHOLD if link_threshold is None else link_threshold
    done = _together(pieces, limits, threshold)
    progress("linking", 1.0)
    notes = [*done.notes, f"diarized in {len(pieces)} pieces"]
    if link_threshold is None:
        notes.append(f"the model recommends no threshold to link voices: {threshold} is used")
    return replace(done, notes=tuple(notes))


def next_cut(sound: NDArray[np.float32], begin: int, piece_s: float) -> int:
    """Where the piece from `begin` on ends: its end is the quietest spot near an even cut.

    Positions are samples, multiples of 20 ms but for the recording's end. No piece is longer than
    `piece_s`.
    """
    left, most = len(sound) - begin, int(piece_s * SAMPLE_RATE_HZ) // _FRAME * _FRAME
    if left <= most:
        return len(sound)
    even = left / math.ceil(left / most)
    reach = min(_REACH_S * SAMPLE_RATE_HZ, 0.1 * most)
    first = begin + int(even - reach) // _FRAME * _FRAME
    last = begin + min(int(even + reach) // _FRAME * _FRAME, most)
    frames = sound[first:last].reshape(-1, _FRAME)
    power = np.einsum("ij,ij->i", frames, frames, dtype=np.float64)
    width = min(_PAUSE_FRAMES, len(power))
    around = np.convolve(power, np.ones(width), mode="valid")
    return first + (int(around.argmin()) + width // 2) * _FRAME


class _Share:
    """A piece's progress as the recording's, which never goes back, not even when one is halved."""

    def __init__(self, progress: StepProgress, samples: int) -> None:
        self.window = (0, samples)
        self._progress = progress
        self._samples = samples
        self._reached = 0.0

    def __call__(self, step: str, share: float) -> None:
        begin, end = self.window
        whole = (
            share
            if end - begin == self._samples
            else ((begin + share * (end - begin)) / self._samples)
        )
        self._reached = max(self._reached, whole)
        self._progress(step, round(self._reached, 4))


def _together(pieces: Sequence[_Piece], limits: SpeakerLimits, threshold: float) -> Diarization:
    """The pieces' diarizations as one, with labels in the order in which voices are heard."""
    groups = link_speakers([piece.found.speakers for piece in pieces], limits, threshold)
    names: list[dict[str, str]] = [{} for _ in pieces]
    for number, group in enumerate(groups):
        for i, label in group.members:
            names[i][label] = str(number)
    turns = _join(pieces, [piece.found.turns for piece in pieces], names)
    alone = _join(pieces, [piece.found.exclusive_turns for piece in pieces], names)
    labels = {
        name: f"SPEAKER_{number:02d}"
        for number, name in enumerate(dict.fromkeys(turn.speaker for turn in turns))
    }
    return Diarization(
        turns=tuple(replace(turn, speaker=labels[turn.speaker]) for turn in turns),
        # A turn that was joined over a cut may cover another's last or first moment.
        exclusive_turns=tuple(replace(turn, speaker=labels[turn.speaker]) for turn in apart(alone)),
        speakers=tuple(
            Speaker(
                label,
                round(sum(t.end_s - t.start_s for t in turns if t.speaker == name), 3),
                unit(groups[int(name)].mean),
            )
            for name, label in labels.items()
        ),
        notes=tuple(dict.fromkeys(note for piece in pieces for note in piece.found.notes)),
    )


def _join(
    pieces: Sequence[_Piece], turns: Iterable[Sequence[Turn]], names: Sequence[dict[str, str]]
) -> list[Turn]:
    """The pieces' turns on the recording's clock, those that a cut went through whole again."""
    whole: list[Turn] = []
    cut: dict[str, int] = {}
    for piece, heard, named in zip(pieces, turns, names, strict=True):
        reaching: dict[str, int] = {}
        for turn in heard:
            speaker = named[turn.speaker]
            start_s = round(piece.begin_s + turn.start_s, 3)
            end_s = round(piece.begin_s + turn.end_s, 3)
            place = cut.pop(speaker, None) if turn.start_s <= _JOIN_S else None
            if place is None:
                place = len(whole)
                whole.append(Turn(speaker, start_s, end_s))
            else:
                whole[place] = replace(whole[place], end_s=max(whole[place].end_s, end_s))
            if end_s >= piece.end_s - _JOIN_S:
                reaching[speaker] = place
        cut = reaching
    return sorted(whole, key=lambda turn: (turn.start_s, turn.end_s, turn.speaker))
