"""Errors of words and characters, who said them, and the times of words. Any thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from audio_batch.accuracy.errors import Errors, pooled
from audio_batch.accuracy.normalization import Normalization, is_spaceless, normalized

if TYPE_CHECKING:
    import jiwer


@dataclass(frozen=True, slots=True)
class TimedWord:
    """A word and when it is said, in seconds from the start of the recording."""

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Boundaries:
    """How far the words that were heard right are from where they are, in seconds, unsigned.

    `start_errors_s[i]` and `end_errors_s[i]` need not be of the same word: where one side writes a
    word in two, only its outer boundaries count.
    """

    start_errors_s: tuple[float, ...]
    end_errors_s: tuple[float, ...]


def score_words(
    reference: str, hypothesis: str, *, normalization: Normalization = Normalization.BASIC
) -> Errors:
    """Word errors: WER = (substitutions + deletions + insertions) / words of the reference.

    By jiwer: the fewest such edits (Levenshtein) over words between blanks, after normalization.
    """
    texts = (normalized(text, normalization) for text in (reference, hypothesis))
    return _errors(_aligned_words(*texts))


def score_characters(
    reference: str, hypothesis: str, *, normalization: Normalization = Normalization.BASIC
) -> Errors:
    """Character errors: CER, as `score_words` over characters. Any blank is a character as well,
    but in scripts that have none between words blanks are left out on both sides.
    """
    drop = is_spaceless(reference)
    texts = (_characters(t, normalization, drop_blanks=drop) for t in (reference, hypothesis))
    return _errors(_aligned_characters(*texts))


def cpwer(
    reference: Mapping[str, str],
    hypothesis: Mapping[str, str],
    *,
    normalization: Normalization = Normalization.BASIC,
) -> Errors:
    """Speaker-attributed word errors: the concatenated minimum-permutation WER.

    Every speaker's words are one text. Speakers of both sides are paired one to one so that the
    edits within the pairs are fewest in all; where one side has more speakers, the others' words
    are all deleted or all inserted. cpWER = those edits / words of the reference. In scripts
    without blanks between words it is characters that are counted (cpCER).

    Source: Watanabe et al., CHiME-6 Challenge, arXiv:2004.09249; equal to meeteval's `cpwer`.

    Args:
        reference: speaker to all that the speaker says, in order of time.
        hypothesis: likewise; its names need not be the reference's.
    """
    from scipy.optimize import linear_sum_assignment

    spaceless = is_spaceless(" ".join(reference.values()))

    def pair(one: str, other: str) -> Errors:
        if not spaceless:
            return score_words(one, other, normalization=normalization)
        texts = (_characters(text, normalization, drop_blanks=True) for text in (one, other))
        return _errors(_aligned_characters(*texts))

    rest = len(reference) - len(hypothesis)
    theirs = [*hypothesis.values(), *[""] * rest]
    pairs = [[pair(one, o) for o in theirs] for one in (*reference.values(), *[""] * -rest)]
    if not pairs:
        return Errors(0.0, {"substitutions": 0.0, "deletions": 0.0, "insertions": 0.0})
    rows, columns = linear_sum_assignment([[errors.count for errors in row] for row in pairs])
    return pooled(pairs[row][column] for row, column in zip(rows, columns, strict=True))


def score_boundaries(
    reference: Sequence[TimedWord],
    hypothesis: Sequence[TimedWord],
    *,
    normalization: Normalization = Normalization.BASIC,
) -> Boundaries:
    """Word-boundary errors: |start - start| and |end - end| of the words that were heard right.

    "Heard right" is what `score_words`' alignment has as equal, so both sides must be in the order
    of the words. A word that normalization splits begins with its first part and ends with its
    last.
    """
    ours, theirs = _parts(reference, normalization), _parts(hypothesis, normalization)
    found = _aligned_words(*(" ".join(part.text for part in parts) for parts in (ours, theirs)))
    starts, ends = list[float](), list[float]()
    for chunk in found.alignments[0]:
        if chunk.type != "equal":
            continue
        for one, other in zip(
            ours[chunk.ref_start_idx : chunk.ref_end_idx],
            theirs[chunk.hyp_start_idx : chunk.hyp_end_idx],
            strict=True,
        ):
            if one.start_s is not None and other.start_s is not None:
                starts.append(abs(one.start_s - other.start_s))
            if one.end_s is not None and other.end_s is not None:
                ends.append(abs(one.end_s - other.end_s))
    return Boundaries(tuple(starts), tuple(ends))


@dataclass(frozen=True, slots=True)
class _Part:
    """What is compared of a word; None where it is inside the word as it was written."""

    text: str
    start_s: float | None
    end_s: float | None


def _parts(words: Sequence[TimedWord], normalization: Normalization) -> list[_Part]:
    parts = []
    for word in words:
        texts = normalized(word.text, normalization).split()
        last = len(texts) - 1
        for place, text in enumerate(texts):
            start_s = word.start_s if place == 0 else None
            parts.append(_Part(text, start_s, word.end_s if place == last else None))
    return parts


def _characters(text: str, normalization: Normalization, *, drop_blanks: bool) -> str:
    text = normalized(text, normalization)
    return text.replace(" ", "") if drop_blanks else text


def _aligned_words(reference: str, hypothesis: str) -> jiwer.WordOutput:
    import jiwer

    return jiwer.process_words([reference], [hypothesis])


def _aligned_characters(reference: str, hypothesis: str) -> jiwer.CharacterOutput:
    import jiwer

    return jiwer.process_characters([reference], [hypothesis])


def _errors(found: Any) -> Errors:
    return Errors(
        float(found.hits + found.substitutions + found.deletions),
        {
            "substitutions": float(found.substitutions),
            "deletions": float(found.deletions),
            "insertions": float(found.insertions),
        },
    )
