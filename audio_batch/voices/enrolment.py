"""Known voices: `enrolled.json` names people and recordings in which each of them talks alone.

    {"Alice": ["alice1.wav", "alice2.wav"], "Bob": "voices/bob.flac"}

Paths are relative to the file. A recording's voices are compared with them and the best match that
is good enough gives the name; within a recording a name is given once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audio_batch.errors import AssetError, UsageError
from audio_batch.text import for_document, for_terminal
from audio_batch.transcript import Speaker

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MAX_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Enrolment:
    """Names with their reference clips, in the file's order.

    `digest` names all of it, the clips' content included: part of the key by which a run knows
    what it has done.
    """

    path: Path
    clips: dict[str, tuple[Path, ...]]
    digest: str


@dataclass(frozen=True, slots=True, eq=False)
class Enrolled:
    """Known voices as unit vectors, shape (names, d), of one embedding space."""

    names: tuple[str, ...]
    vectors: NDArray[np.float32]


def read(path: Path) -> Enrolment:
    """Read and check an enrolment; every clip is read once, for the digest.

    Raises:
        UsageError: the first thing that is wrong, with its place.
    """
    entries = _parsed(path)
    clips: dict[str, tuple[Path, ...]] = {}
    spelled: dict[str, str] = {}
    for key, value in entries:
        name = for_document(key)
        if not name:
            raise _wrong(path, "there is an empty name")
        known = spelled.setdefault(unicodedata.normalize("NFKC", name).casefold(), name)
        if name in clips or known != name:
            raise _wrong(path, f"{name!r} stands in it twice (as {known!r} before)")
        clips[name] = _clips(path, name, value)
    if not clips:
        raise _wrong(path, "it names nobody")
    return Enrolment(path, clips, _digest(path, clips))


def embed_references(
    enrolment: Enrolment,
    embed: Callable[[NDArray[np.float32]], Sequence[float]],
    decode: Callable[[Path], NDArray[np.float32]],
) -> Enrolled:
    """Turn every name's clips into one vector: the mean of the clips' unit vectors, made unit.

    Args:
        embed: `Diarizer.embed`.
        decode: samples (float32, mono, 16 kHz) of a recording.

    Raises:
        UsageError: a clip is no recording, or holds too little to know a voice by.
        DeviceError: the device has failed.
    """
    import numpy as np

    vectors = []
    for name, paths in enrolment.clips.items():
        units = []
        for clip in paths:
            try:
                vector = np.asarray(embed(decode(clip)), dtype=np.float64)
            except AssetError as error:
                raise _wrong(enrolment.path, f"{name}: {clip.name}: {error.message}") from error
            norm = float(np.linalg.norm(vector))
            if not (np.isfinite(norm) and norm > 0):
                raise _wrong(enrolment.path, f"{name}: {clip.name}: no voice is heard in it")
            units.append(vector / norm)
        mean = np.mean(units, axis=0)
        norm = float(np.linalg.norm(mean))
        if norm < 1e-6:
            raise _wrong(enrolment.path, f"{name}: the clips have nothing in common")
        vectors.append(mean / norm)
    return Enrolled(tuple(enrolment.clips), np.stack(vectors).astype(np.float32))


def identify(
    speakers: Sequence[Speaker], enrolled: Enrolled, threshold: float
) -> tuple[Speaker, ...]:
    """Name the voices of one recording; a name goes to one voice, a voice gets one name.

    Of all ways to give the names out, the one whose cosines lie the farthest above the threshold
    in sum (`scipy.optimize.linear_sum_assignment`): a sure match is not given up for two doubtful
    ones. A voice without a match keeps no enrolled name from earlier.

    Args:
        threshold: cosine from which a voice is a known one.
    """
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    cosines = np.full((len(speakers), len(enrolled.names)), -1.0)
    for i, speaker in enumerate(speakers):
        vector = np.asarray(speaker.embedding or (), dtype=np.float64)
        norm = float(np.linalg.norm(vector))
        if vector.shape == enrolled.vectors.shape[1:] and np.isfinite(norm) and norm > 0:
            cosines[i] = enrolled.vectors @ (vector / norm)
    # The grain of salt lets a cosine of just the threshold count for more than none.
    worth = np.where(cosines >= threshold, cosines - threshold + 1e-9, 0.0)
    rows, columns = linear_sum_assignment(worth, maximize=True)
    matches = {
        int(i): (enrolled.names[j], round(float(cosines[i, j]), 4))
        for i, j in zip(rows, columns, strict=True)
        if cosines[i, j] >= threshold
    }
    return tuple(_named(speaker, matches.get(i)) for i, speaker in enumerate(speakers))


def _named(speaker: Speaker, match: tuple[str, float] | None) -> Speaker:
    if match is not None:
        return dataclasses.replace(speaker, name=match[0], score=match[1])
    if speaker.score is None:
        return speaker
    return dataclasses.replace(speaker, name=None, score=None)


def _parsed(path: Path) -> list[tuple[str, Any]]:
    """The names and what stands behind them, as they come."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise _wrong(path, "it is too large to be a list of names")
        text = path.read_bytes().decode("utf-8-sig")
        # Pairs, not a dict, which would keep the last of two equal names and say nothing.
        pairs = json.loads(text, object_pairs_hook=_Pairs)
    except OSError as error:
        raise _wrong(path, error.strerror or type(error).__name__) from error
    except UnicodeDecodeError as error:
        raise _wrong(path, f"byte {error.start + 1} is not UTF-8") from error
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise _wrong(path, f"{place}: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise _wrong(path, str(error)) from error
    if not isinstance(pairs, _Pairs):
        raise _wrong(path, "it is no JSON object of names")
    return list(pairs)


class _Pairs(list[tuple[str, Any]]):
    """A JSON object, in order and with what stands in it twice."""


def _clips(path: Path, name: str, value: Any) -> tuple[Path, ...]:
    texts = [value] if isinstance(value, str) else value
    if isinstance(texts, _Pairs) or not isinstance(texts, list) or not texts:
        raise _wrong(path, f"{name}: the path of a recording is wanted, or a list of them")
    found = []
    for number, text in enumerate(texts, start=1):
        place = name if isinstance(value, str) else f"{name}, clip {number}"
        if not isinstance(text, str) or not text.strip() or "\0" in text:
            raise _wrong(path, f"{place}: the path of a recording is wanted")
        try:
            clip = path.parent / Path(text).expanduser()
            there = clip.is_file()
        except (OSError, ValueError, RuntimeError):  # a name too long, no home folder
            there = False
        if not there:
            raise _wrong(path, f"{place}: there is no file {text}")
        if clip in found:
            raise _wrong(path, f"{place}: {text} stands in it twice")
        found.append(clip)
    return tuple(found)


def _digest(path: Path, clips: dict[str, tuple[Path, ...]]) -> str:
    total = hashlib.sha256()
    for name in sorted(clips):
        total.update(json.dumps(name).encode("ascii"))
        for clip in clips[name]:
            try:
                with clip.open("rb") as file:
                    total.update(hashlib.file_digest(file, "sha256").digest())
            except OSError as error:
                reason = error.strerror or type(error).__name__
                raise _wrong(path, f"{name}: {clip.name} cannot be read: {reason}") from error
    return total.hexdigest()[:16]


def _wrong(path: Path, reason: str) -> UsageError:
    return UsageError(for_terminal(f"--speakers {path}: {reason[:300].rstrip('.')}."))
