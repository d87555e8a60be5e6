"""Which setting wins, and what is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from audio_batch.errors import UsageError
from audio_batch.options import (
    PRESETS,
    SEQUENTIAL_ONLY,
    TEMPERATURE_LADDER,
    DecodingOptions,
    RunOptions,
    resolve_decoding,
)


def resolve(preset: str | None = None, defaults: Any = None, **given: Any) -> DecodingOptions:
    return resolve_decoding(given, preset=preset, model_defaults=defaults or {})[0]


def test_flag_over_preset_over_model_over_default() -> None:
    assert resolve().beam_size == 5
    assert resolve(defaults={"beam_size": 2}).beam_size == 2
    assert resolve("fast", {"beam_size": 2}).beam_size == 1
    assert resolve("fast", {"beam_size": 2}, beam_size=7).beam_size == 7


def test_none_is_not_a_setting() -> None:
    assert resolve(beam_size=None) == resolve()


@pytest.mark.parametrize("name", sorted(SEQUENTIAL_ONLY))
def test_what_batches_cannot_do_is_refused_with_the_way_out(name: str) -> None:
    value: Any = True if name == "condition_on_previous_text" else 1
    for given in (value, 0) if value is not True else (value,):
        with pytest.raises(UsageError, match=r"batched decoding.*--batch-size 1"):
            resolve(**{name: given})
    assert getattr(resolve(**{name: value, "batch_size": 1}), name) == value


def test_a_model_may_carry_defaults_for_both_modes() -> None:
    defaults = {"no_speech_threshold": 0.1, "temperature": (0.0, 0.4)}
    assert resolve(defaults=defaults).no_speech_threshold == DecodingOptions().no_speech_threshold
    assert resolve(defaults=defaults).temperature == (0.0,)
    assert resolve(defaults=defaults, batch_size=1).no_speech_threshold == 0.1


def test_the_ladder_belongs_to_the_sequential_mode() -> None:
    assert resolve(batch_size=1).temperature == TEMPERATURE_LADDER
    assert resolve().temperature == (0.0,)
    assert resolve(temperature=(0.0,)).temperature == (0.0,)
    for ladder in [(0.0, 0.2), (0.5,)]:
        with pytest.raises(UsageError, match="batched decoding"):
            resolve(temperature=ladder)
        assert resolve(temperature=ladder, batch_size=1).temperature == ladder


def test_batch_size_one_is_the_sequential_mode() -> None:
    options, size = resolve_decoding({"batch_size": 1}, preset=None, model_defaults={})
    assert (options.sequential, size) == (True, 1)
    options, size = resolve_decoding({}, preset="quality", model_defaults={})
    assert (options.sequential, size) == (True, 1)
    options, size = resolve_decoding({"batch_size": 8}, preset="quality", model_defaults={})
    assert (options.sequential, size) == (False, 8)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"beam_size": 0}, "--beam-size"),
        ({"batch_size": 0}, "--batch-size"),
        ({"chunk_length_s": 31}, "--chunk-length"),
        ({"vad_onset": 1.5}, "--vad-onset"),
        ({"vad_onset": 0.3, "vad_offset": 0.4}, "above --vad-onset"),
        ({"vad_method": "none", "vad_onset": 0.3}, "no effect with --vad-method none"),
        ({"vad_method": "none", "vad_pad_ms": 3}, "no effect with --vad-method none"),
        ({"temperature": (3.0,), "batch_size": 1}, "--temperature"),
        ({"beam_size": 1, "patience": 2.0}, "no effect with one beam"),
        (
            {
                "hallucination_silence_threshold": 2.0,
                "word_timestamps": False,
                "batch_size": 1,
            },
            "needs --word-timestamps",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(given: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        resolve(**given)


def test_every_preset_resolves() -> None:
    for preset in PRESETS:
        assert isinstance(resolve(preset), DecodingOptions)
    with pytest.raises(UsageError, match="no preset"):
        resolve("best")


def run_options(**more: Any) -> RunOptions:
    return RunOptions(model="m", engine="null", decoding=DecodingOptions(), **more)


def test_only_what_changes_the_words_is_in_the_fingerprint() -> None:
    base = run_options()
    same = run_options(formats=("json", "vtt"), threads=3, batch_size=16, device="cpu")
    decoding = DecodingOptions()
    print_ = base.recognition_fingerprint(decoding, "id")
    assert same.recognition_fingerprint(decoding, "id") == print_
    assert base.recognition_fingerprint(decoding, "other") != print_
    for field in dataclasses.fields(DecodingOptions):
        value = getattr(decoding, field.name)
        changed: Any = (not value) if isinstance(value, bool) else "x"
        other = dataclasses.replace(decoding, **{field.name: changed})
        assert base.recognition_fingerprint(other, "id") != print_, field.name


def test_the_order_of_formats_is_no_change() -> None:
    options = run_options()
    assert options.render_fingerprint(("json", "srt")) == options.render_fingerprint(
        ("srt", "json")
    )
    assert options.render_fingerprint(("json",)) != options.render_fingerprint(("json", "srt"))
