"""Forced alignment without a model: from letters' probabilities to the times of given words.

The search is whisperX's (`whisperx.alignment.get_trellis` and `backtrack`, after torchaudio's
forced alignment tutorial), in numpy: each letter takes one frame, the frames up to the next letter
are blanks. A test holds the two equal. It is not called from whisperX because its loop over torch
operations takes 0.17 s for half a minute of speech under the interpreter lock, against 0.02 s here,
because `whisperx.align` fetches NLTK data, cuts segments into sentences and prints to stdout, and
because importing it takes 12 s. `torchaudio.functional.forced_align` is as fast, but deprecated in
torchaudio 2.8, and ends a word at its last letter's last frame, which is early.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WILDCARD = -1
"""The symbol of a letter that the aligner does not know: any letter of its own fits."""

_WILD_LETTERS = 3
"""Letters that a numeral, or a sign of a script without cases, is taken to be spoken with.

With the demonstration models and every fourth word written as a numeral, the median error of these
words' edges is 25 ms, against 34 ms with one and 32 ms if they keep their times.
"""


@dataclass(frozen=True, slots=True)
class Alphabet:
    """What the columns of an aligner's output stand for.

    Attributes:
        letters: lower-case letter to column.
        blank: the column of CTC's blank.
        separator: the column of the sign between words; None where the aligner has none.
    """

    letters: Mapping[str, int]
    blank: int
    separator: int | None


def alphabet(vocabulary: Mapping[str, int], *, blank: int, separator: str | None) -> Alphabet:
    """The alphabet of a model's vocabulary; special tokens and punctuation are left out.

    Where upper and lower case both have columns, the lower case is taken.
    """
    letters = {
        sign.lower(): column
        for sign, column in sorted(vocabulary.items())
        if len(sign.lower()) == 1 and _is_spoken(sign.lower()) and column != blank
    }
    return Alphabet(letters, blank, None if separator is None else vocabulary.get(separator))


def spell(word: str, known: Alphabet) -> tuple[int, ...]:
    """The columns of a word's letters, `WILDCARD` for those that are not known; no punctuation.

    Letters that are known only in parts, or only without their accents, are taken so.
    """
    columns: list[int] = []
    for sign in unicodedata.normalize("NFC", word.replace("’", "'")).lower():
        whole = known.letters.get(sign)
        parts = [known.letters.get(part) for part in unicodedata.normalize("NFKD", sign)]
        found = [whole] if whole is not None else [part for part in parts if part is not None]
        columns += found or [WILDCARD] * _unknown_letters(sign)
    return tuple(columns)


def _unknown_letters(sign: str) -> int:
    category = unicodedata.category(sign)
    if category == "Lo" or category[0] == "N":
        return _WILD_LETTERS
    return 1 if category[0] == "L" else 0


def _is_spoken(sign: str) -> bool:
    return sign == "'" or unicodedata.category(sign)[0] in "LMN"


def place(
    scores: NDArray[np.float32],
    words: Sequence[tuple[int, ...]],
    parted: Sequence[bool],
    known: Alphabet,
) -> list[tuple[int, int]] | None:
    """First frame and end frame of each word: from its first letter to what follows its last.

    What follows is the separator, or the next word where none stands between the two; the last
    word ends with its last letter.

    Args:
        scores: log-probabilities, shape (frames, columns).
        words: what `spell` made of each word; none of them empty.
        parted: whether a blank stands before the word (the first one's is not looked at).
        known: what the columns stand for.

    Returns:
        None where the words do not fit into the frames.
    """
    symbols: list[int] = []
    firsts: list[int] = []
    for number, (word, gap) in enumerate(zip(words, parted, strict=True)):
        if number and gap and known.separator is not None:
            symbols.append(known.separator)
        firsts.append(len(symbols))
        symbols += word
    letters = sorted(set(known.letters.values()))
    # WILDCARD is -1, and so is the place of the column that is added.
    wild = scores[:, letters].max(axis=1, keepdims=True, initial=-np.inf)
    path = best_path(np.hstack([scores, wild]), np.asarray(symbols), known.blank)
    if path is None:
        return None
    edges = [*path[0], path[1]]
    return [
        (edges[first], edges[first + len(word)]) for word, first in zip(words, firsts, strict=True)
    ]


def best_path(
    scores: NDArray[np.float32], symbols: NDArray[np.int_], blank: int
) -> tuple[list[int], int] | None:
    """The most likely frame of each symbol, in order, and the frame after the last one.

    Args:
        scores: log-probabilities, shape (frames, columns).
        symbols: columns to be passed through, at least one.
        blank: the column of all other frames; those after the last symbol are free.

    Returns:
        None where there are fewer frames than symbols, or a score is no number.
    """
    frames, count = len(scores), len(symbols)
    if frames < count or count == 0 or np.isnan(scores).any():
        return None
    reached = np.full(count + 1, -np.inf, dtype=np.float64)
    reached[0] = 0.0
    moved = np.empty((frames, count), dtype=np.bool_)
    arrived = np.empty(frames)
    for frame in range(frames):
        row = scores[frame]
        stays = reached[1:] + row[blank]
        moves = reached[:-1] + row[symbols]
        np.greater(moves, stays, out=moved[frame])
        reached[1:] = np.maximum(stays, moves)
        reached[0] += row[blank]
        arrived[frame] = reached[-1]
    frame = int(np.argmax(arrived))
    if not np.isfinite(arrived[frame]):
        return None
    end, onsets = frame + 1, []
    for symbol in range(count - 1, -1, -1):
        while not moved[frame, symbol]:
            frame -= 1
        onsets.append(frame)
        frame -= 1
    return onsets[::-1], end
