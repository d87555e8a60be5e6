"""The models: here, or to be had from the hub with the token that there is."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from audio_batch import models
from audio_batch.engines import aligners
from audio_batch.errors import SetupError
from audio_batch.languages import LANGUAGES
from audio_batch.preflight.check import Finding, error, ok, size, warning
from audio_batch.preflight.facts import Facts, hub_repository

_PARTS = {
    "pyannote/speaker-diarization-3.0": ("pyannote/segmentation-3.0",),
    "pyannote/speaker-diarization-3.1": ("pyannote/segmentation-3.0",),
}
"""Gated parts of known pipelines, whose terms are accepted one by one."""


def recognition(facts: Facts) -> Iterator[Finding]:
    """The model that hears the words."""
    name = facts.model_name
    repository = facts.model_repository
    if facts.settings.recognizer == "null":
        yield ok("The null engine needs no model.")
    elif (found := facts.local_model) is not None:
        if found.is_demo:
            yield warning(models.DEMO_NOTICE)
        else:
            yield ok(f"{name} is here ({size(found.size_bytes)}): {found.path}.")
    elif repository is None or facts.offline:
        # Cannot but say why it is not here, and how to get it.
        models.find(name, model_dir=facts.settings.model_dir, offline=True)
    else:
        yield _fetchable(name, repository, facts)


def _fetchable(name: str, repository: str, facts: Facts) -> Finding:
    from huggingface_hub.constants import HF_HUB_CACHE

    files = facts.servers.repository(
        repository,
        what=f"model {name!r}",
        remedy=f"Run `audio-batch models pull {name}` once with a network, or use --model demo or "
        "a local folder.",
    )
    if "model.bin" not in files:
        return error(
            f"{repository} on the hub is no CTranslate2 conversion: it has no model.bin.",
            "Choose a repository of a conversion, or a name that `audio-batch models list` shows.",
        )
    need = files["model.bin"]
    place = (facts.settings.model_dir or Path(HF_HUB_CACHE)).expanduser().absolute()
    there = next(folder for folder in (place, *place.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    how_big = f" ({size(need)})" if need else ""
    if need and need > free:
        return error(
            f"{name} would be fetched{how_big}, but {there} has only {size(free)} free.",
            "Free some space, or name another --model-dir.",
        )
    return ok(
        f"{name} is not here yet{how_big}; a run fetches it from the hub, as `audio-batch models "
        "pull` does now."
    )


def token(facts: Facts) -> Iterator[Finding]:
    """Whether there is a Hugging Face token; only gated models need one."""
    from audio_batch.diarization_models import read_token

    if read_token(facts.settings.hf_token_file):
        yield ok("A Hugging Face token is set.")
    else:
        yield ok("No Hugging Face token is set; only gated models need one.")


def diarization(facts: Facts) -> Iterator[Finding]:
    """The model that tells speakers apart: without it a run goes on, unless it was asked for."""
    from audio_batch.diarization_models import (
        DEFAULT_DIARIZATION_MODEL,
        DEMO_NOTICE,
        find_diarization,
    )

    settings = facts.settings
    if settings.diarize is False:
        yield ok("Not asked for: --no-diarize.")
        return
    if settings.recognizer == "null" and settings.diarize is None:
        yield ok("The null engine hears no speakers.")
        return
    name = settings.diarize_model or DEFAULT_DIARIZATION_MODEL
    try:
        found = find_diarization(
            name,
            model_dir=settings.model_dir,
            offline=True,
            token=facts.token,
            say=lambda _: None,
        )
    except SetupError as not_here:
        try:
            yield _had_from_hub(name, not_here, facts)
        except SetupError as failure:
            # Whoever names a model wants it; only the default may be missing.
            if settings.diarize or settings.diarize_model:
                raise
            yield warning(
                f"{failure.message} A run would write transcripts without speakers.",
                failure.remedy,
            )
    else:
        yield warning(DEMO_NOTICE) if found.is_demo else ok(f"{name} is here: {found.path}.")


def alignment(facts: Facts) -> Iterator[Finding]:
    """The aligner that is named, or that of every language that is named."""
    named = facts.settings.align_model
    if not facts.wants_alignment:
        yield ok("Not asked for: word times are the recognition model's own.")
    elif named not in (None, aligners.DEMO):  # serves every language
        yield _aligner("en", "", facts)
    elif not facts.languages and named is None:
        yield ok("No language is named: it is heard in each recording, and its aligner found then.")
    else:
        for language in facts.languages or ("en",):
            yield _aligner(language, f"{LANGUAGES[language]}: ", facts)


def _aligner(language: str, label: str, facts: Facts) -> Finding:
    settings = facts.settings
    try:
        found = aligners.find_aligner(
            language,
            align_model=settings.align_model,
            model_dir=settings.model_dir,
            offline=True,
        )
    except SetupError as not_here:
        try:
            return ok(f"{label}{_fetchable_aligner(language, not_here, facts)}")
        except SetupError as failure:
            return error(f"{label}{failure.message}", failure.remedy)
    if found is None:
        return warning(
            f"{label}there is no aligner; word times will be the recognition model's own.",
            "Name one with --align-model.",
        )
    if found.is_demo:
        return warning(f"{label}{aligners.DEMO_NOTICE}")
    return ok(f"{label}{found.name} is here: {found.path}.")


def _fetchable_aligner(language: str, not_here: SetupError, facts: Facts) -> str:
    """A sentence about an aligner that is not here, but to be had.

    Raises:
        SetupError: it cannot be had.
    """
    defaults = {**aligners.HUB_DEFAULTS, **aligners.TORCHAUDIO_DEFAULTS}
    name = facts.settings.align_model or defaults[language]
    if facts.offline or Path(name).expanduser().is_dir():
        raise not_here
    if name in aligners.BUNDLES:
        facts.servers.file(
            aligners.TORCHAUDIO_PAGE + aligners.BUNDLES[name],
            what=f"aligner {name!r}",
            remedy=not_here.remedy,
        )
    else:
        facts.servers.repository(name, what=f"aligner {name!r}", remedy=not_here.remedy)
    return f"{name} is not here yet; a run fetches it."


def _had_from_hub(name: str, not_here: SetupError, facts: Facts) -> Finding:
    """What the hub says of a model that is not here.

    Raises:
        SetupError: it cannot be had.
    """
    repository = hub_repository(name)
    if repository is None or facts.offline:
        raise not_here
    for part in (repository, *_PARTS.get(repository, ())):
        of = "" if part == repository else f", a part of {name!r},"
        facts.servers.repository(
            part, what=f"diarization model {part!r}{of}", remedy=not_here.remedy
        )
    return ok(f"{name} is not here yet; a run fetches it from the hub.")
