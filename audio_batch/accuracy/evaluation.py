"""Transcripts against references, per asset and in all. Any thread."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain

from audio_batch.accuracy.errors import Errors, pooled
from audio_batch.accuracy.hypotheses import Hypotheses, MissingTranscript
from audio_batch.accuracy.measures import MEASURES
from audio_batch.accuracy.normalization import Normalization, is_spaceless
from audio_batch.accuracy.references import Reference, References
from audio_batch.accuracy.speakers import score_diarization
from audio_batch.accuracy.words import (
    Boundaries,
    TimedWord,
    cpwer,
    score_boundaries,
    score_characters,
    score_words,
)
from audio_batch.manifest import Asset
from audio_batch.outcome import Stage
from audio_batch.subtitles import join, speaker_namer, utterances
from audio_batch.transcript import Transcript, Turn

_OF_SPEAKERS = frozenset({"cpwer", "cpcer", "der", "jer", "speakers"})


class Status(StrEnum):
    """What could be done about an asset."""

    MEASURED = "measured"
    MISSING = "missing"
    NOT_MEASURED = "not measured"
    NO_REFERENCE = "no reference"


@dataclass(frozen=True, slots=True)
class Rules:
    """What is scored and what is forgiven; see `score_words` and `score_diarization`.

    With `missing_as_empty` a transcript that is not there counts as one without words, and one
    whose diarization failed as one without speakers.
    """

    normalization: Normalization = Normalization.BASIC
    collar_s: float = 0.25
    skip_overlap: bool = False
    missing_as_empty: bool = False


@dataclass(frozen=True, slots=True)
class AssetScore:
    """One asset. `errors` is by measure; those of `wanted` that it lacks could not be measured.

    `speakers` is how many there are and how many were found. `notes` say what is missing and why.
    """

    id: str
    name: str
    status: Status
    errors: Mapping[str, Errors] = dataclasses.field(default_factory=dict)
    wanted: frozenset[str] = frozenset()
    boundaries: Boundaries | None = None
    speakers: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()

    @property
    def main_rate(self) -> float:
        """The rate that an asset is ranked by: of words, else characters, else speakers; or -1."""
        return next((self.errors[name].rate for name in MEASURES if name in self.errors), -1.0)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All assets of a manifest against one output folder."""

    folder: str
    assets: tuple[AssetScore, ...]
    notes: tuple[str, ...] = ()

    @property
    def measures(self) -> tuple[str, ...]:
        """The measures that some reference allows."""
        wanted = frozenset(chain.from_iterable(asset.wanted for asset in self.assets))
        return tuple(name for name in MEASURES if name in wanted)

    def total(self, measure: str) -> Errors | None:
        """Over all assets that have it; None if none has."""
        found = [asset.errors[measure] for asset in self.assets if measure in asset.errors]
        return pooled(found) if found else None

    def coverage(self, measure: str) -> tuple[int, int]:
        """How many assets have a measure, of how many with a reference for it."""
        wanted = [asset for asset in self.assets if measure in asset.wanted]
        return sum(measure in asset.errors for asset in wanted), len(wanted)

    def boundaries(self) -> Boundaries | None:
        """Those of all assets; None if none has any."""
        found = [asset.boundaries for asset in self.assets if asset.boundaries is not None]
        if not found:
            return None
        return Boundaries(
            tuple(chain.from_iterable(one.start_errors_s for one in found)),
            tuple(chain.from_iterable(one.end_errors_s for one in found)),
        )

    def count(self, status: Status) -> int:
        """How many assets are so."""
        return sum(asset.status is status for asset in self.assets)


def evaluate(
    assets: Iterable[Asset],
    references: References,
    found: Hypotheses,
    rules: Rules,
    progress: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Score every asset that has a reference; `progress` is called after each asset."""
    scores = []
    for asset in assets:
        scores.append(_evaluated(asset, references.of(asset), found, rules))
        progress()
    heard = {name for score in scores if score.status is Status.MEASURED for name in score.errors}
    if heard.isdisjoint(_OF_SPEAKERS):
        # Nobody asked this run for speakers: what is missing of it does not lack them.
        scores = [_without(score, _OF_SPEAKERS) for score in scores]
    return Evaluation(found.where, tuple(scores), found.notes)


def _evaluated(
    asset: Asset, reference: Reference | None, found: Hypotheses, rules: Rules
) -> AssetScore:
    blank = AssetScore(asset.id, asset.name, Status.NO_REFERENCE)
    if reference is None:
        return blank
    blank = dataclasses.replace(blank, notes=reference.problems, status=Status.NOT_MEASURED)
    if not (wanted := _wanted(reference)):
        return blank
    try:
        transcript = found.of(asset.id)
    except MissingTranscript as error:
        notes = (*blank.notes, f"no transcript: {error}")
        blank = dataclasses.replace(blank, status=Status.MISSING, wanted=wanted, notes=notes)
        if not rules.missing_as_empty:
            return blank
        missing = tuple(stage.value for stage in Stage)
        transcript = Transcript(asset.id, asset.uri, asset.name, None, 0.0, (), missing=missing)
    score = score_transcript(reference, transcript, rules)
    if blank.status is Status.NOT_MEASURED and score.errors:
        blank = dataclasses.replace(blank, status=Status.MEASURED)
    return dataclasses.replace(
        score, name=blank.name, status=blank.status, notes=(*blank.notes, *score.notes)
    )


def _without(score: AssetScore, measures: frozenset[str]) -> AssetScore:
    errors = {name: errors for name, errors in score.errors.items() if name not in measures}
    return dataclasses.replace(score, errors=errors)


def score_transcript(reference: Reference, transcript: Transcript, rules: Rules) -> AssetScore:
    """Everything that the reference allows to say of a transcript."""
    errors, notes = dict[str, Errors](), list[str]()
    boundaries, speakers = None, None
    wanted = _wanted(reference)
    if reference.text is not None:
        texts = (reference.text, transcript.text)
        if "wer" in wanted:
            errors["wer"] = score_words(*texts, normalization=rules.normalization)
        errors["cer"] = score_characters(*texts, normalization=rules.normalization)
    told_apart = _told_apart(transcript, rules)
    if not told_apart and (reference.speakers is not None or reference.turns is not None):
        notes.append("the transcript has no speakers")
    if told_apart and reference.speakers is not None:
        name = "cpwer" if "cpwer" in wanted else "cpcer"
        said = _said(transcript)
        errors[name] = cpwer(reference.speakers, said, normalization=rules.normalization)
    if told_apart and reference.turns is not None:
        shown = speaker_namer(transcript)
        score = score_diarization(
            reference.turns,
            [
                Turn(shown(turn.speaker) or "", turn.start_s, turn.end_s)
                for turn in transcript.turns
            ],
            region=reference.region,
            collar_s=rules.collar_s,
            skip_overlap=rules.skip_overlap,
        )
        speakers = (score.speakers, score.speakers_found)
        wrong = {"wrong": float(score.speakers != score.speakers_found)}
        errors |= {"der": score.der, "jer": score.jer, "speakers": Errors(1.0, wrong)}
    if reference.words is not None:
        words = [
            TimedWord(word.text, word.start_s, word.end_s)
            for segment in transcript.segments
            for word in segment.words
        ]
        if words:
            boundaries = score_boundaries(reference.words, words, normalization=rules.normalization)
        elif transcript.segments:
            notes.append("the transcript has no times of words")
    return AssetScore(
        transcript.asset_id,
        transcript.name,
        Status.MEASURED,
        errors,
        wanted,
        boundaries,
        speakers,
        tuple(notes),
    )


def _wanted(reference: Reference) -> frozenset[str]:
    """The measures that a reference allows."""
    wanted = set[str]()
    if reference.text is not None:
        wanted |= {"cer"} if is_spaceless(reference.text) else {"wer", "cer"}
    if reference.speakers is not None:
        said = " ".join(reference.speakers.values())
        wanted.add("cpcer" if is_spaceless(said) else "cpwer")
    if reference.turns is not None:
        wanted |= {"der", "jer", "speakers"}
    return frozenset(wanted)


def _told_apart(transcript: Transcript, rules: Rules) -> bool:
    """Whether somebody has looked for speakers, be it that none was found."""
    if Stage.DIARIZE.value in transcript.missing:
        return rules.missing_as_empty
    return bool(transcript.turns or transcript.speakers or "diarization" in transcript.provenance)


def _said(transcript: Transcript) -> dict[str, str]:
    """What each speaker says, by the name that people read; "" has the words of nobody."""
    said = dict[str, list[str]]()
    for utterance in utterances(transcript):
        said.setdefault(utterance.speaker or "", []).append(join(utterance.tokens))
    return {speaker: " ".join(texts) for speaker, texts in said.items()}
