"""Forced alignment with wav2vec 2.0 models, as whisperX has it: when each word really was said.

Whisper's own word times come from its cross-attention. An aligner hears which letter is spoken in
each frame of 20 ms, and the best path of the known letters through these frames gives the words
their times (`audio_batch.engines.forced`). Text, words and their order stay as they are.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audio_batch.engines.aligners import AlignerReference
from audio_batch.engines.base import Aligner, Alignment, Progress
from audio_batch.engines.failures import device_error, first_line, is_out_of_memory
from audio_batch.engines.forced import WILDCARD, Alphabet, alphabet, place, spell
from audio_batch.engines.word_times import PIECE_S, Piece, gaps, pieces, replaced, timed, usable
from audio_batch.errors import AssetError, AudioBatchError, DeviceError, ErrorKind, SetupError
from audio_batch.gpu.devices import Device
from audio_batch.transcript import Segment

SAMPLE_RATE_HZ = 16_000
_loading = threading.Lock()
"""transformers patches torch while it loads a model: one at a time in a process."""

_STRIDE, _SURPLUS = 320, 80
"""Samples between frames of wav2vec 2.0, and by how much a frame hears more than that."""


def load_aligner(reference: AlignerReference, language: str, device: Device) -> Aligner:
    """Load a language's aligner on a device; called once for each of both, in a worker.

    Raises:
        SetupError: the model is unusable anywhere.
        DeviceError: the device cannot hold or run it.
    """
    try:
        import torch
    except (ImportError, OSError) as error:
        raise SetupError(
            f"torch cannot be imported: {first_line(error)}.",
            remedy="Install audio-batch again into a fresh virtual environment.",
        ) from error
    if device.kind == "cuda" and (device.cuda_index or 0) >= torch.cuda.device_count():
        raise DeviceError(
            f"{device.id} is not visible to torch ({torch.cuda.device_count()} CUDA devices).",
            remedy="Check the driver and CUDA_VISIBLE_DEVICES, or use --device cpu.",
        )
    place_on = device.torch_name
    try:
        with _loading:
            if reference.kind == "huggingface":
                model, known, hear = _load_huggingface(reference)
            else:
                model, known, hear = _load_torchaudio(reference)
            model = model.eval().to(place_on)
    except AudioBatchError:
        raise
    except Exception as error:
        raise _load_error(error, f"aligner {reference.name!r} of {language!r}", device) from error
    return Wav2Vec2Aligner(reference, known, lambda wave: hear(model, wave.to(place_on)))


def _load_huggingface(reference: AlignerReference) -> tuple[Any, Alphabet, Callable[..., Any]]:
    import torch
    from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

    folder = str(reference.path)
    tokenizer = Wav2Vec2CTCTokenizer.from_pretrained(folder, local_files_only=True)
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(folder, local_files_only=True)
    model, loaded = Wav2Vec2ForCTC.from_pretrained(
        folder, local_files_only=True, output_loading_info=True
    )
    # The vector for masked frames is of use in training only; some models come without it.
    missing = sorted(set(loaded["missing_keys"]) - {"wav2vec2.masked_spec_embed"})
    if missing:
        raise SetupError(
            f"The aligner {reference.name!r} is no wav2vec 2.0 model trained to write letters: "
            f"it has no weights for {missing[0]}.",
            remedy="Use a Wav2Vec2ForCTC model that was fine-tuned on the language.",
        )
    blank = tokenizer.pad_token_id
    known = alphabet(
        tokenizer.get_vocab(),
        blank=0 if blank is None else blank,
        separator=tokenizer.word_delimiter_token,
    )

    def hear(model: Any, wave: Any) -> Any:
        if extractor.do_normalize:
            wave = (wave - wave.mean()) / torch.sqrt(wave.var(correction=0) + 1e-7)
        return model(wave).logits

    return model.float(), known, hear


def _load_torchaudio(reference: AlignerReference) -> tuple[Any, Alphabet, Callable[..., Any]]:
    import torchaudio

    bundle = getattr(torchaudio.pipelines, reference.name)
    model = bundle.get_model(dl_kwargs={"model_dir": str(reference.path.parent)})
    vocabulary = {sign: column for column, sign in enumerate(bundle.get_labels())}
    known = alphabet(vocabulary, blank=vocabulary["-"], separator="|")
    return model, known, lambda model, wave: model(wave)[0]


class Wav2Vec2Aligner:
    """A loaded wav2vec 2.0 model; see `Aligner`.

    `hear` maps a waveform, shape (1, samples) on the CPU, to logits, shape (1, frames, columns).
    Evaluation changes nothing in the model, so threads need no lock.
    """

    def __init__(
        self, reference: AlignerReference, known: Alphabet, hear: Callable[[Any], Any]
    ) -> None:
        self.known = known
        self.hear = hear
        self.description: dict[str, Any] = {
            "align_model": reference.name,
            "align_model_identity": reference.identity,
        }

    def align(
        self,
        samples: NDArray[np.float32],
        segments: tuple[Segment, ...],
        language: str,
        progress: Progress,
    ) -> Alignment:
        """See `Aligner.align`."""
        duration_s = len(samples) / SAMPLE_RATE_HZ
        before = [usable(segment, language, duration_s) for segment in segments]
        words = [list(segment.words) for segment in before]
        unplaced = {n for n, segment in enumerate(before) if segment.text and not segment.words}
        moved: set[int] = set()
        estimated = 0
        for piece in pieces(before, duration_s):
            part = words[piece.segment][piece.first : piece.end]
            spelt = [spell(word.text, self.known) for word in part]
            estimated += sum(set(columns) == {WILDCARD} for columns in spelt)
            parted = gaps(before[piece.segment], language)[piece.first : piece.end]
            try:
                times = self._times(samples, piece, spelt, parted)
            except Exception as error:
                raise translate(error) from error
            if times is None:
                unplaced.add(piece.segment)
            else:
                moved.add(piece.segment)
                words[piece.segment][piece.first : piece.end] = timed(part, times)
            progress(piece.end_s)
        done = []
        for number, (given, segment) in enumerate(zip(segments, before, strict=True)):
            if number in moved:
                segment = replaced(segment, words[number], duration_s)
            elif not given.words:
                segment = dataclasses.replace(segment, words=())
            done.append(dataclasses.replace(segment, text=given.text))
        return Alignment(
            tuple(done), _notes(len(unplaced), len(segments), estimated, sum(map(len, words)))
        )

    def _times(
        self,
        samples: NDArray[np.float32],
        piece: Piece,
        spelt: list[tuple[int, ...]],
        gap_before: list[bool],
    ) -> list[tuple[float, float] | None] | None:
        """Start and end of each word, None for one without letters; None if nothing fits."""
        places: list[tuple[float, float] | None] = [None] * len(spelt)
        sounding = [number for number, columns in enumerate(spelt) if columns]
        if all(set(spelt[number]) == {WILDCARD} for number in sounding):
            return places
        first = int(piece.start_s * SAMPLE_RATE_HZ)
        frames = math.ceil((piece.end_s * SAMPLE_RATE_HZ - first) / _STRIDE)
        if not 0 < frames * _STRIDE <= (PIECE_S + 1) * SAMPLE_RATE_HZ:
            return None
        scores = self._scores(samples, first, frames * _STRIDE)
        # A word without letters hands the blank before it on to the next.
        parted = [
            any(gap_before[last + 1 : number + 1])
            for last, number in zip([-1, *sounding], sounding, strict=False)
        ]
        placed = place(scores, [spelt[number] for number in sounding], parted, self.known)
        if placed is None:
            return None
        frame_s = frames * _STRIDE / len(scores) / SAMPLE_RATE_HZ
        for number, (start, end) in zip(sounding, placed, strict=True):
            origin_s = first / SAMPLE_RATE_HZ
            places[number] = (origin_s + start * frame_s, origin_s + end * frame_s)
        return places

    def _scores(self, samples: NDArray[np.float32], first: int, count: int) -> NDArray[np.float32]:
        """Log-probabilities (frames, columns) of `count` samples, a frame for each stride."""
        import torch

        # With half of a frame's surplus at either end, frame k lies over stride k.
        begin, size = first - _SURPLUS // 2, count + _SURPLUS
        heard = np.zeros((1, size), dtype=np.float32)
        known = samples[max(0, begin) : max(0, begin + size)]
        heard[0, max(0, -begin) :][: len(known)] = known
        with torch.inference_mode():
            logits = self.hear(torch.from_numpy(heard))[0]
            scores: NDArray[np.float32] = torch.log_softmax(logits.float(), -1).cpu().numpy()
        return scores


def _notes(unplaced: int, total: int, estimated: int, words: int) -> tuple[str, ...]:
    notes = []
    if unplaced:
        notes.append(f"{unplaced} of {total} segments could not be aligned and keep their times")
    # Some numerals are in every text, and get their times from their neighbours.
    if estimated > 0.2 * words:
        some = "1 word has" if estimated == 1 else f"{estimated} words have"
        notes.append(f"{some} no letter that the aligner knows: times there are estimates")
    return tuple(notes)


def translate(error: Exception) -> AssetError | DeviceError:
    """The one seam for what torch, transformers and torchaudio raise at work."""
    text = first_line(error)
    if is_out_of_memory(error):
        _release_memory()
        return AssetError(
            ErrorKind.OUT_OF_MEMORY,
            f"The device ran out of memory in the alignment: {text}.",
            remedy="Use a smaller --batch-size or --max-per-gpu, or a smaller --align-model.",
            transient=True,
        )
    return device_error(text) or AssetError(
        ErrorKind.ALIGNMENT, f"This could not be aligned: {type(error).__name__}: {text}."
    )


def _release_memory() -> None:
    """Give back what torch keeps for itself: the recogniser on the same device may need it."""
    import torch

    with contextlib.suppress(RuntimeError):
        torch.cuda.empty_cache()


def _load_error(error: Exception, what: str, device: Device) -> SetupError | DeviceError:
    text = first_line(error)
    if is_out_of_memory(error):
        return DeviceError(f"There is no memory on {device.id} to load the {what}: {text}.")
    if device.kind == "cuda" and (failed := device_error(text, device.id)) is not None:
        return failed
    return SetupError(
        f"The {what} cannot be loaded: {type(error).__name__}: {text}.",
        remedy="Remove it and download it again, or use another --align-model.",
    )
