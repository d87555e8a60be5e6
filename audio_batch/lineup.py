"""The models of a run: which stages there are and what does them. Nothing is loaded here."""

from __future__ import annotations

import logging
from collections.abc import Callable, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from audio_batch import models
from audio_batch.config import OF_SPEAKERS, Settings
from audio_batch.engines import DEFAULT_ENGINE
from audio_batch.errors import SetupError, UsageError
from audio_batch.languages import asked_language
from audio_batch.options import WantedStages

if TYPE_CHECKING:
    from audio_batch.diarization_models import DiarizationReference
    from audio_batch.engines.aligners import AlignerReference

DEFAULT_MODEL = "large-v3-turbo"

_log = logging.getLogger("audio_batch.setup")


def find_model(
    settings: Settings, *, say: Callable[[str], None] = lambda _: None
) -> models.ModelReference:
    """The model that the settings name, fetched if need be; see `models.find`."""
    name = settings.model or DEFAULT_MODEL
    if settings.recognizer not in (None, DEFAULT_ENGINE):
        name = settings.model or settings.recognizer
        return models.null_model(name) if settings.recognizer == "null" else models.named_only(name)
    return models.find(name, model_dir=settings.model_dir, offline=bool(settings.offline), say=say)


@dataclass(frozen=True, slots=True)
class AlignerSearch:
    """Finds the aligner of a language; plain values, ready to cross a process border."""

    align_model: str | None
    model_dir: Path | None
    offline: bool
    token: str | None = field(repr=False)

    def __call__(self, language: str) -> AlignerReference | None:
        """That language's aligner, fetched if need be; None where there is none.

        Raises:
            SetupError: it is known and cannot be had.
        """
        from audio_batch.engines.aligners import find_aligner

        return find_aligner(
            language,
            align_model=self.align_model,
            model_dir=self.model_dir,
            offline=self.offline,
            token=self.token,
            say=_log.info,  # a worker may be asking, who has no business with the display
        )


@dataclass(frozen=True, slots=True)
class Lineup:
    """The models of a run, one a stage, all of them on this machine but the aligners.

    `diarizer` None leaves speakers out; `keep_speakers` then says that the model cannot be had,
    not that nobody wants it. `speakers_asked` says that a run without it would be no use.
    `aligner` is the identity of what is asked for, None for nothing:
    which aligner that is depends on the language.
    """

    model: models.ModelReference
    diarizer: DiarizationReference | None
    speakers_asked: bool
    keep_speakers: bool
    aligner: str | None
    aligner_of: Callable[[str], AlignerReference | None]

    @property
    def wanted(self) -> WantedStages:
        """The stages and what identifies their models."""
        return WantedStages(
            model=self.model.identity,
            aligner=self.aligner,
            diarizer=self.diarizer.identity if self.diarizer else None,
            keep_speakers=self.keep_speakers,
        )


class Notice(Protocol):
    """Tells the person something; `warning` raises its level."""

    def __call__(self, text: str, *, warning: bool = False) -> None:
        """Tell it."""
        ...


def find_lineup(settings: Settings, languages: Set[str], *, notice: Notice) -> Lineup:
    """Find every model that the settings name, fetched if need be, and say what was decided.

    `languages` are those that assets say they are in: their aligners are looked for now.

    Raises:
        UsageError, SetupError: a model that is asked for cannot be had.
    """
    from audio_batch.hub import read_token

    model = find_model(settings, say=notice)
    asked = wants_speakers(settings)
    token = None
    try:
        token = read_token(settings.hf_token_file)
    except UsageError as error:
        # One that is named must be right; one that lies about somewhere may be nobody's wish.
        if asked or settings.hf_token_file is not None:
            raise
        notice(str(error), warning=True)
    diarizer = _find_diarizer(settings, token, asked, notice)
    keep = diarizer is None and asked is None

    aligner_of = AlignerSearch(
        settings.align_model, settings.model_dir, bool(settings.offline), token
    )
    aligner = _aligner(settings, languages, aligner_of, notice)
    return Lineup(model, diarizer, bool(asked), keep, aligner, aligner_of)


def _aligner(
    settings: Settings,
    languages: Set[str],
    aligner_of: Callable[[str], AlignerReference | None],
    notice: Notice,
) -> str | None:
    """The identity of the aligner that is asked for; what can be missed early is missed early."""
    wanted = settings.align if settings.align is not None else settings.align_model is not None
    if settings.recognizer == "null" and not settings.align:
        return None  # a dry run
    if not wanted:
        if settings.align_model is not None:
            raise UsageError(
                "--align-model has no effect with --no-align.", remedy="Leave one of them out."
            )
        return None
    language = asked_language(settings.language)
    if settings.align_model is None:
        _look_for_aligners(languages | ({language} if language else set()), aligner_of, notice)
        return "by language"
    reference = aligner_of(language or "en")
    if reference is not None and reference.is_demo:
        from audio_batch.engines.aligners import DEMO_NOTICE

        notice(DEMO_NOTICE, warning=True)
    return reference.identity if reference is not None else settings.align_model


def _look_for_aligners(
    languages: Set[str], aligner_of: Callable[[str], AlignerReference | None], notice: Notice
) -> None:
    """Miss now what would be missed at night: an end if no language has one, else a warning."""
    failures = []
    for language in sorted(languages):
        try:
            aligner_of(language)
        except SetupError as error:
            failures.append(error)
    if failures and len(failures) == len(languages):
        raise failures[0]
    for failure in failures:
        notice(str(failure), warning=True)


def wants_speakers(settings: Settings) -> bool | None:
    """Whether speakers are asked for; None where they are welcome, should there be a model.

    Raises:
        UsageError: settings about speakers beside --no-diarize.
    """
    for flag, wish in (("speaker_threshold", "speakers"), ("link_threshold", "link_speakers")):
        if getattr(settings, flag) is not None and not getattr(settings, wish):
            dashed = wish.replace("_", "-")
            raise UsageError(
                f"--{flag.replace('_', '-')} has no effect without --{dashed}.",
                remedy=f"Add --{dashed}, or leave it out.",
            )
    named = [name for name in OF_SPEAKERS if getattr(settings, name)]
    if settings.diarize is False and named:
        raise UsageError(
            f"--{named[0].replace('_', '-')} has no effect with --no-diarize.",
            remedy="Leave one of them out.",
        )
    if settings.diarize is None and settings.recognizer == "null":
        return False  # a dry run
    if settings.diarize is None:
        # Whoever names a model or voices wants them; how many there are may just be known.
        asked = settings.diarize_model or settings.speakers or settings.link_speakers
        return True if asked else None
    return settings.diarize


def _find_diarizer(
    settings: Settings, token: str | None, asked: bool | None, notice: Notice
) -> DiarizationReference | None:
    """The diarization model, fetched if need be; what was decided is said.

    Raises:
        SetupError: speakers are asked for and the model cannot be had.
    """
    from audio_batch import diarization_models as found

    if asked is False:
        return None
    name = settings.diarize_model or found.DEFAULT_DIARIZATION_MODEL
    place: dict[str, Any] = {
        "model_dir": settings.model_dir,
        "offline": bool(settings.offline),
        "token": token,
    }
    try:
        if asked:
            reference = found.find_diarization(name, **place, say=notice)
            notice(f"Speakers are told apart by {name}, as you ask.")
            return reference
        available, reason = found.is_available(name, **place)
        if available:
            reference = found.find_diarization(name, **place, say=notice)
            notice(f"Speakers are told apart by {name}: {reason}")
            return reference
    except SetupError as error:
        if asked:
            raise
        reason = str(error)
    notice(f"Speakers are not told apart: {reason} (--no-diarize silences this.)", warning=True)
    return None
