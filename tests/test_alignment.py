"""Forced alignment: the search against whisperX's, odd segments, and real words at their times."""

from __future__ import annotations

import csv
import json
import math
import random
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from shipped import EXAMPLES, SPOKEN

from audio_batch import models
from audio_batch.engines import (
    LoadRequest,
    Recognizer,
    aligners,
    forced,
    open_engine,
    word_times,
)
from audio_batch.engines.aligners import AlignerReference, find_aligner
from audio_batch.engines.alignment import load_aligner, translate
from audio_batch.engines.base import Aligner
from audio_batch.errors import AssetError, DeviceError, ErrorKind, SetupError
from audio_batch.gpu.devices import CPU, Device
from audio_batch.media import decode
from audio_batch.options import DecodingOptions, resolve_decoding
from audio_batch.transcript import Segment, Word

RATE_HZ = 16_000
LETTERS = forced.Alphabet({"a": 2, "b": 3, "c": 4, "é": 5}, blank=0, separator=1)


@pytest.fixture(scope="module")
def whisperx_alignment() -> Any:
    return pytest.importorskip("whisperx.alignment")


@pytest.fixture(scope="module")
def reference() -> AlignerReference:
    found = find_aligner("en", align_model="demo", model_dir=None, offline=True)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def aligner(reference: AlignerReference) -> Aligner:
    return load_aligner(reference, "en", CPU)


@pytest.fixture(scope="module")
def phone_number() -> tuple[NDArray[np.float32], str]:
    asset = next(asset for asset in SPOKEN if asset["id"] == "phone-number")
    return decode(EXAMPLES / asset["path"]).samples, asset["text"]


def aligned(
    aligner: Aligner, samples: NDArray[np.float32], *segments: Segment, language: str = "en"
) -> tuple[tuple[Segment, ...], tuple[str, ...]]:
    """What becomes of segments, with the promises that hold whatever they are."""
    reached: list[float] = []
    found = aligner.align(samples, segments, language, reached.append)
    end_s = len(samples) / RATE_HZ
    assert [segment.text for segment in found.segments] == [segment.text for segment in segments]
    for before, after in zip(segments, found.segments, strict=True):
        if before.words:
            assert [w.text for w in after.words] == [w.text for w in before.words]
            assert [w.probability for w in after.words] == [w.probability for w in before.words]
        starts = [word.start_s for word in after.words]
        assert starts == sorted(starts)
        for piece in (after, *after.words):
            assert 0 <= piece.start_s <= piece.end_s <= end_s
    assert all(0 <= position <= end_s for position in reached)
    return found.segments, found.notes


def spoken(text: str, start_s: float, end_s: float, **word: Any) -> Segment:
    """A segment whose words share its time evenly."""
    spellings = text.split()
    step_s = (end_s - start_s) / max(1, len(spellings))
    words = tuple(
        Word(spelling, start_s + n * step_s, start_s + (n + 1) * step_s, **word)
        for n, spelling in enumerate(spellings)
    )
    return Segment(text, start_s, end_s, words)


# The tables and the search, against the libraries themselves.


def test_the_tables_are_the_libraries(whisperx_alignment: Any) -> None:
    import torchaudio
    from torchaudio.pipelines import Wav2Vec2ASRBundle

    assert whisperx_alignment.DEFAULT_ALIGN_MODELS_TORCH == aligners.TORCHAUDIO_DEFAULTS
    assert whisperx_alignment.DEFAULT_ALIGN_MODELS_HF == aligners.HUB_DEFAULTS
    assert set(whisperx_alignment.LANGUAGES_WITHOUT_SPACES) <= word_times.WITHOUT_BLANKS
    bundles = {name: getattr(torchaudio.pipelines, name) for name in torchaudio.pipelines.__all__}
    paths = {n: b._path for n, b in bundles.items() if isinstance(b, Wav2Vec2ASRBundle)}
    del paths["MMS_FA"]
    assert paths == aligners.BUNDLES


@pytest.mark.parametrize(
    ("frames", "symbols"), [(1, 1), (7, 7), (40, 9), (300, 60), (90, 1), (20, 19)]
)
def test_the_search_is_whisperxs(whisperx_alignment: Any, frames: int, symbols: int) -> None:
    import torch

    chance = np.random.default_rng(frames + symbols)
    for _ in range(5):
        logits = torch.from_numpy(chance.normal(0, 3, (frames, 12)))
        scores = torch.log_softmax(logits, -1)
        columns = chance.integers(1, 12, symbols)
        trellis = whisperx_alignment.get_trellis(scores, columns.tolist(), 0)
        path = whisperx_alignment.backtrack(trellis, scores, columns.tolist(), 0)
        spans = whisperx_alignment.merge_repeats(path, ["x"] * symbols)
        found = forced.best_path(scores.numpy(), columns, 0)
        assert found == ([span.start for span in spans], spans[-1].end)


def test_whisperxs_own_code_aligns_with_the_demo_aligner(
    whisperx_alignment: Any,
    reference: AlignerReference,
    aligner: Aligner,
    phone_number: tuple[NDArray[np.float32], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class OneSentence:
        """In place of NLTK's data, which whisperX would fetch."""

        def span_tokenize(self, text: str) -> list[tuple[int, int]]:
            return [(0, len(text))]

    samples, text = phone_number
    monkeypatch.setattr(whisperx_alignment, "nltk_load", lambda _: OneSentence())
    model, metadata = whisperx_alignment.load_align_model("en", "cpu", str(reference.path))
    end_s = len(samples) / RATE_HZ
    theirs = whisperx_alignment.align(
        [{"start": 0.0, "end": end_s, "text": text}], model, metadata, samples, "cpu"
    )["word_segments"]
    (ours,), _ = aligned(aligner, samples, Segment(text, 0.0, end_s))
    assert [word["word"] for word in theirs] == [word.text for word in ours.words]
    for their, our in zip(theirs, ours.words, strict=True):
        assert abs(their["start"] - our.start_s) < 0.03
        assert abs(their["end"] - our.end_s) < 0.03


def test_what_does_not_fit_has_no_path() -> None:
    scores = np.log(np.full((4, 3), 1 / 3, np.float32))
    assert forced.best_path(scores, np.array([1, 2, 1, 2, 1]), 0) is None
    assert forced.best_path(scores, np.array([], dtype=int), 0) is None
    assert forced.best_path(scores[:0], np.array([1]), 0) is None
    scores[2, 1] = np.nan
    assert forced.best_path(scores, np.array([1]), 0) is None
    assert forced.best_path(np.full((4, 3), -np.inf, np.float32), np.array([1]), 0) is None


# Letters.


def test_an_alphabet_has_no_special_signs_and_prefers_lower_case() -> None:
    signs = {"-": 0, "|": 1, "A": 2, "a": 7, "B": 3, "<s>": 4, "[UNK]": 5, "'": 6, ".": 8}
    made = forced.alphabet(signs, blank=0, separator="|")
    assert made == forced.Alphabet({"a": 7, "b": 3, "'": 6}, 0, 1)
    assert forced.alphabet(signs, blank=0, separator=None).separator is None
    assert forced.alphabet({"x": 0, "y": 1}, blank=0, separator="|") == forced.Alphabet(
        {"y": 1}, 0, None
    )


@pytest.mark.parametrize(
    ("word", "columns"),
    [
        ("Abc", (2, 3, 4)),
        ("«abc»,", (2, 3, 4)),
        ("à", (2,)),
        ("e\u0301", (5,)),
        ("é", (5,)),
        ("xa", (forced.WILDCARD, 2)),
        ("42", (forced.WILDCARD,) * 6),
        ("你", (forced.WILDCARD,) * 3),
        ("ɓ\u064e", (forced.WILDCARD,)),
        ("a’b", (2, 3)),
        ("—", ()),
        ("", ()),
        ("\u202e\x00", ()),
    ],
)
def test_words_are_spelt_with_the_letters_that_are_known(
    word: str, columns: tuple[int, ...]
) -> None:
    assert forced.spell(word, LETTERS) == columns


def frames(*symbols: int) -> NDArray[np.float32]:
    """Scores in which each frame surely is that symbol."""
    made = np.full((len(symbols), 6), 1e-4, np.float32)
    made[np.arange(len(symbols)), symbols] = 1
    return np.log(made / made.sum(1, keepdims=True))


def test_a_word_ends_with_the_separator_or_the_next_word() -> None:
    heard = frames(0, 2, 0, 3, 0, 1, 0, 0, 4, 0, 2, 0, 0)
    words = [(2, 3), (4,), (2,)]
    assert forced.place(heard, words, [False, True, False], LETTERS) == [(1, 5), (8, 10), (10, 11)]


def test_a_letter_that_is_not_known_takes_what_is_said_there() -> None:
    heard = frames(0, 2, 1, 0, 4, 5, 0, 1, 3, 0)
    wild = (forced.WILDCARD, forced.WILDCARD)
    found = forced.place(heard, [(2,), wild, (3,)], [False, True, True], LETTERS)
    assert found == [(1, 2), (4, 7), (8, 9)]


# Times of segments and words before the alignment.


def test_pieces_are_padded_by_half_of_a_pause_at_most() -> None:
    segments = [spoken("a", 0.1, 1.0), spoken("b", 1.2, 2.0), spoken("c", 1.9, 3.0)]
    assert word_times.pieces([], 10.0) == []
    found = word_times.pieces(segments, 10.0)
    assert [(round(p.start_s, 3), round(p.end_s, 3)) for p in found] == [
        (0.0, 1.1),
        (1.1, 2.0),
        (1.9, 3.5),
    ]


def test_long_segments_are_cut_at_pauses() -> None:
    words = tuple(Word("a", n + (n >= 50) * 5.0, n + (n >= 50) * 5.0 + 0.9) for n in range(100))
    segment = Segment("a " * 100, 0.0, 104.9, words)
    found = word_times.pieces([segment], 200.0)
    assert [p.first for p in found][1:] == [p.end for p in found][:-1]
    assert (found[0].first, found[-1].end) == (0, 100)
    assert 50 in [p.first for p in found]
    assert all(p.end_s - p.start_s <= word_times.PIECE_S + 2 * word_times.PADDING_S for p in found)


@pytest.mark.parametrize("last_s", [1e3, 1e9])
def test_word_times_of_any_spread_are_cut_without_end(last_s: float) -> None:
    words = tuple(Word("a", t, t) for t in [0.0] * 3000 + [last_s])
    found = word_times.pieces([Segment("", 0, last_s, words)], last_s)
    assert [(p.first, p.end) for p in found] == [(0, 3000), (3000, 3001)]


def test_blanks_between_words_are_those_of_the_text() -> None:
    words = tuple(Word(text, 0, 1) for text in ("the", "ice", "-cream", "man", "gone"))
    found = word_times.gaps(Segment("the ice-cream man", 0, 1, words), "en")
    assert found == [False, True, False, True, True]
    assert word_times.gaps(Segment("你 好", 0, 1, words[:2]), "zh") == [False, False]


# The demonstration aligner on odd segments.


def test_silence_and_nothing_survive(aligner: Aligner) -> None:
    quiet = np.zeros(3 * RATE_HZ, np.float32)
    assert aligned(aligner, quiet) == ((), ())
    given = (
        Segment("", 0, 0),
        Segment("  ", 0.5, 1.0),
        spoken("one two", 1.0, 2.0),
        Segment("", 2, 2, (Word("", 2, 2), Word(" ", 2, 2))),
    )
    segments, notes = aligned(aligner, quiet, *given)
    assert segments[:2] == given[:2]
    assert notes == ()
    nothing = np.zeros(0, np.float32)
    _, notes = aligned(aligner, nothing, spoken("one two", 0.0, 1.0), Segment("one", 0, 0))
    assert notes == ("2 of 2 segments could not be aligned and keep their times",)
    aligned(aligner, quiet[:3], spoken("a", 0, 1), spoken("b", 1, 2))


def test_times_that_are_none_are_mended(
    aligner: Aligner, phone_number: tuple[NDArray[np.float32], str]
) -> None:
    samples, _ = phone_number
    end_s = len(samples) / RATE_HZ
    nan, inf = math.nan, math.inf
    aligned(
        aligner,
        samples,
        Segment("five five", nan, nan, (Word("five", nan, nan), Word("five", nan, 0.5))),
        Segment("five", -inf, inf, (Word("five", -3, 1e12),)),
        Segment("zero one", 2.0, 1.0, (Word("zero", 2.0, 1.0), Word("one", 0.5, 0.4))),
        Segment("four", end_s, end_s + 5, (Word("four", end_s + 1, end_s + 5),)),
        Segment("two", 3.0, 3.0, (Word("two", 3.0, 3.0),)),
    )
    broken = samples.copy()
    broken[RATE_HZ : RATE_HZ + 5] = nan
    given = spoken("five five", 0.5, 1.5)
    (kept,), notes = aligned(aligner, broken, given)
    assert kept == given
    assert notes == ("1 of 1 segments could not be aligned and keep their times",)


def test_more_letters_than_frames_keep_their_times(aligner: Aligner) -> None:
    given = spoken("seven " * 40, 1.0, 1.2)
    (kept,), notes = aligned(aligner, np.zeros(2 * RATE_HZ, np.float32), given)
    assert kept == given
    assert len(notes) == 1


def test_segments_that_overlap_are_aligned_each(
    aligner: Aligner, phone_number: tuple[NDArray[np.float32], str]
) -> None:
    samples, text = phone_number
    end_s = len(samples) / RATE_HZ
    given = spoken(text, 0.0, end_s)
    (alone,), _ = aligned(aligner, samples, given)
    both, _ = aligned(aligner, samples, given, given)
    assert both == (alone, alone)


def test_words_without_known_letters_get_times_between_their_neighbours(
    aligner: Aligner, phone_number: tuple[NDArray[np.float32], str]
) -> None:
    samples, text = phone_number
    end_s = len(samples) / RATE_HZ
    (plain,), _ = aligned(aligner, samples, spoken(text, 0.0, end_s))
    odd = text.replace("zero", "0").replace("four", "— 四,")
    (mixed,), notes = aligned(aligner, samples, spoken(odd, 0.0, end_s, probability=0.5))
    assert notes == ("2 words have no letter that the aligner knows: times there are estimates",)
    words = [word for word in mixed.words if word.text != "—"]
    for wanted, word in zip(plain.words, words, strict=True):
        assert abs(wanted.start_s - word.start_s) < 0.2
    given = spoken("5 5 5", 0.5, 2.0)
    (kept,), notes = aligned(aligner, samples, given)
    assert kept.words == given.words
    assert len(notes) == 1


def test_a_segment_without_words_gets_those_of_its_text(
    aligner: Aligner, phone_number: tuple[NDArray[np.float32], str]
) -> None:
    samples, text = phone_number
    given = Segment(f" {text} ", 0.0, len(samples) / RATE_HZ)
    (found,), notes = aligned(aligner, samples, given)
    assert " ".join(word.text for word in found.words) == text
    assert notes == ()
    (kept,), notes = aligned(aligner, samples, given, language="ja")
    assert (kept, len(notes)) == (given, 1)
    long = np.tile(samples, 10)
    (kept,), notes = aligned(aligner, long, replace(given, end_s=len(long) / RATE_HZ))
    assert (kept.words, len(notes)) == ((), 1)


def test_minutes_in_one_segment_are_aligned_piece_by_piece(
    aligner: Aligner, phone_number: tuple[NDArray[np.float32], str]
) -> None:
    samples, text = phone_number
    once_s = len(samples) / RATE_HZ
    (one,), _ = aligned(aligner, samples, spoken(text, 0.0, once_s))
    words = tuple(
        replace(w, start_s=w.start_s + n * once_s, end_s=w.end_s + n * once_s)
        for n in range(12)
        for w in one.words
    )
    given = Segment(" ".join([text] * 12), 0.0, 12 * once_s, words)
    (found,), notes = aligned(aligner, np.tile(samples, 12), given)
    assert notes == ()
    errors = [abs(a.start_s - b.start_s) for a, b in zip(words, found.words, strict=True)]
    assert float(np.median(errors)) < 0.03


def test_threads_share_an_aligner(
    aligner: Aligner, phone_number: tuple[NDArray[np.float32], str]
) -> None:
    samples, text = phone_number
    given = spoken(text, 0.0, len(samples) / RATE_HZ)
    wanted, _ = aligned(aligner, samples, given)
    found: list[Sequence[Segment]] = []

    def work() -> None:
        for _ in range(3):
            found.append(aligner.align(samples, (given,), "en", lambda _: None).segments)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [wanted] * 12


# Real words at their times.


def loudness(samples: NDArray[np.float32], start_s: float, end_s: float) -> float:
    part = samples[int(start_s * RATE_HZ) : int(end_s * RATE_HZ)]
    return float(np.sqrt((part**2).mean())) if len(part) else 0.0


@pytest.fixture(scope="module")
def whisper() -> tuple[Recognizer, DecodingOptions]:
    model = models.find("demo")
    options, _ = resolve_decoding({}, preset=None, model_defaults=model.defaults)
    recognizer = open_engine("faster-whisper").load(LoadRequest(model, CPU, 1, cpu_threads=1))
    return recognizer, options


@pytest.mark.parametrize("asset", SPOKEN, ids=lambda asset: str(asset["id"]))
def test_the_examples_words_lie_where_something_is_said(
    aligner: Aligner, whisper: tuple[Recognizer, DecodingOptions], asset: dict[str, Any]
) -> None:
    samples = decode(EXAMPLES / asset["path"]).samples
    heard = whisper[0].transcribe(samples, whisper[1], lambda _: None).segments
    found, notes = aligned(aligner, samples, *heard)
    assert notes == ()
    words = [word for segment in found for word in segment.words]
    assert " ".join(word.text for word in words) == asset["text"]
    loud = [loudness(samples, word.start_s, word.end_s) for word in words]
    assert min(loud) > 0.2 * float(np.median(loud))
    assert all(0.06 <= word.end_s - word.start_s <= 1.0 for word in words)


def test_held_out_words_are_timed_within_the_bar_and_better_than_by_cross_attention(
    aligner: Aligner, whisper: tuple[Recognizer, DecodingOptions], shared: Path
) -> None:
    """A sample of `scripts/demo_aligner/evaluate.py`; takes lose their quiet edges beforehand."""
    chance = random.Random(3)
    errors: dict[str, list[float]] = {"cross-attention": [], "aligner": []}
    for speaker in ("george", "jackson", "lucas", "nicolas"):
        takes = held_out(shared / "data" / "digits", speaker)
        at, parts, edges, text = 0, [], [], []
        for word, take in chance.sample(takes, 20):
            pause = np.zeros(int(chance.uniform(0.1, 0.9) * RATE_HZ), np.float32)
            at += len(pause)
            edges += [at / RATE_HZ, (at + len(take)) / RATE_HZ]
            at += len(take)
            parts += [pause, take]
            text.append(word)
        samples = np.concatenate([*parts, np.zeros(RATE_HZ // 2, np.float32)])
        heard = whisper[0].transcribe(samples, whisper[1], lambda _: None).segments
        if " ".join(segment.text for segment in heard).split() != text:
            continue
        found, _ = aligned(aligner, samples, *heard)
        for name, segments in (("cross-attention", heard), ("aligner", found)):
            words = [word for segment in segments for word in segment.words]
            times = [time for word in words for time in (word.start_s, word.end_s)]
            errors[name] += np.abs(np.subtract(times, edges)).tolist()
    assert len(errors["aligner"]) >= 80
    assert np.median(errors["aligner"]) <= 0.08
    assert np.median(errors["aligner"]) < np.median(errors["cross-attention"])


def held_out(data: Path, speaker: str) -> list[tuple[str, NDArray[np.float32]]]:
    """The takes of a speaker that neither demonstration model was trained on."""
    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    with (data / "fsdd_index.csv").open(newline="", encoding="utf-8") as file:
        rows = [r for r in csv.DictReader(file) if (r["speaker"], r["split"]) == (speaker, "test")]
    whole = decode(data / rows[0]["file"]).samples  # 8 kHz in the file, 16 kHz here
    takes = []
    for row in rows:
        take = whole[2 * int(row["start_sample"]) : 2 * int(row["end_sample"])]
        # The takes begin and end with up to 0.2 s of quiet, which is no part of the word.
        level = np.convolve(np.abs(take), np.full(160, 1 / 160), "same")
        loud = np.flatnonzero(level > 0.04 * level.max())
        takes.append((names[int(row["digit"])], take[loud[0] : loud[-1] + 1]))
    return takes


# What fails.


def test_a_folder_that_is_no_aligner_is_refused(
    reference: AlignerReference, tmp_path: Path
) -> None:
    for path in reference.path.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(SetupError, match=r"'en' cannot be loaded.*another --align-model"):
        load_aligner(replace(reference, path=tmp_path), "en", CPU)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(SetupError, match="cannot be loaded"):
        load_aligner(replace(reference, path=tmp_path), "en", CPU)


def test_a_model_that_writes_no_letters_is_refused(
    reference: AlignerReference, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    for path in reference.path.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = load_file(reference.path / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SetupError, match=r"no weights for lm_head\.weight"):
        load_aligner(replace(reference, path=tmp_path), "en", CPU)


def test_a_folder_as_older_hub_models_have_it_aligns_the_same(
    reference: AlignerReference,
    aligner: Aligner,
    phone_number: tuple[NDArray[np.float32], str],
    tmp_path: Path,
) -> None:
    """A pickle of weights, capital letters, [PAD] as the last column, a normalised waveform."""
    import torch
    from safetensors.torch import load_file

    names = json.loads((reference.path / "vocab.json").read_text())
    weights = load_file(reference.path / "model.safetensors")
    for key in ("lm_head.weight", "lm_head.bias"):
        weights[key] = torch.roll(weights[key], -1, 0)
    torch.save(weights, tmp_path / "pytorch_model.bin")
    changed = {"<pad>": "[PAD]", "<unk>": "[UNK]"}
    vocabulary = {
        changed.get(sign, sign.upper() if len(sign) == 1 else sign): (code - 1) % len(names)
        for sign, code in names.items()
    }
    config = json.loads((reference.path / "config.json").read_text())
    extractor = json.loads((reference.path / "preprocessor_config.json").read_text())
    for name, content in (
        ("config.json", {**config, "pad_token_id": len(names) - 1}),
        ("preprocessor_config.json", {**extractor, "do_normalize": True}),
        ("vocab.json", vocabulary),
        ("special_tokens_map.json", {"pad_token": "[PAD]", "unk_token": "[UNK]"}),
    ):
        (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
    found = find_aligner("en", align_model=str(tmp_path), model_dir=None, offline=True)
    assert found is not None
    samples, text = phone_number
    given = Segment(text, 0.0, len(samples) / RATE_HZ)
    (wanted,), _ = aligned(aligner, samples, given)
    (old,), _ = aligned(load_aligner(found, "en", CPU), samples, given)
    for one, other in zip(wanted.words, old.words, strict=True):
        assert abs(one.start_s - other.start_s) <= 0.021
        assert abs(one.end_s - other.end_s) <= 0.021


def test_a_gpu_that_torch_does_not_see_is_a_device_error(reference: AlignerReference) -> None:
    gpu = Device("cuda:99", "cuda", 99, "GPU-x", "GPU", None)
    with pytest.raises(DeviceError, match="not visible to torch"):
        load_aligner(reference, "en", gpu)


def test_what_torch_raises_is_translated() -> None:
    import torch

    for error in (
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"),
        MemoryError(),
    ):
        short = translate(error)
        assert isinstance(short, AssetError)
        assert (short.kind, short.transient) == (ErrorKind.OUT_OF_MEMORY, True)
    assert isinstance(translate(RuntimeError("CUDA error: an illegal access")), DeviceError)
    assert isinstance(translate(RuntimeError("cuDNN error: EXECUTION_FAILED")), DeviceError)
    other = translate(ValueError("odd\nmore"))
    assert isinstance(other, AssetError)
    assert (other.kind, other.transient) == (ErrorKind.ALIGNMENT, False)
    assert other.message == "This could not be aligned: ValueError: odd."
