# ruff: noqa: ARG002 - stand-ins have the arguments of what they stand for
"""A recognizer that leaves off is found out, and heard again: real files, journal and plan."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from program import write_tone

from audio_batch.engines.base import Diarization, Recognition, StepProgress
from audio_batch.errors import AssetError, ErrorKind
from audio_batch.flights import job_of
from audio_batch.journal import Journal, JournalEntry
from audio_batch.manifest import Asset
from audio_batch.media import MediaLimits
from audio_batch.options import DecodingOptions, RunOptions, SpeakerLimits, WantedStages
from audio_batch.outcome import Outcome, Stage, StageRecord, State
from audio_batch.output_folder import OutputFolder
from audio_batch.outputs import LocalOutputs
from audio_batch.parts import Part
from audio_batch.pipeline import Context, process, source_identity
from audio_batch.plan import (
    Action,
    Planned,
    due_for_redo,
    intact,
    plan,
    redo_of,
    safer,
    stands_all_the_same,
)
from audio_batch.storage import STATE_FOLDER, PublishedFile
from audio_batch.transcript import Segment, Speaker, Transcript, Turn, Word

OPTIONS = RunOptions(model="m", engine="null", decoding=DecodingOptions(language="en"))
REDO = dataclasses.replace(OPTIONS, redo_suspect=True)
SPEECH_S = 120.0


@dataclass
class Liar:
    """Says that people talk for two minutes. In batches it hears words for `heard_s` of them, in
    windows for `again_s`; a time below zero is a failure."""

    heard_s: float = 24.0
    again_s: float = SPEECH_S
    deaf_to_voices: bool = False
    calls: list[str] = field(default_factory=list)
    description: dict[str, Any] = field(default_factory=lambda: {"made_by": "a liar"})
    warnings: tuple[str, ...] = ()
    embedding_identity: str = "e1"
    link_threshold: float | None = None
    enrol_threshold: float | None = None

    def recognizer(self, device: str) -> Liar:
        return self

    def diarizer(self, device: str) -> Liar:
        return self

    def aligner(self, device: str, language: str) -> None:
        return None

    def check(self, options: DecodingOptions) -> None:
        pass

    def transcribe(
        self, samples: NDArray[np.float32], options: DecodingOptions, progress: Any
    ) -> Recognition:
        self.calls.append("windows" if options.sequential else "batches")
        until_s = self.again_s if options.sequential else self.heard_s
        if until_s < 0:
            raise AssetError(ErrorKind.OUT_OF_MEMORY, "There was not enough memory.")
        segments = tuple(
            Segment(f"number {n}", float(n), n + 0.9, (Word(f"word{n}", float(n), n + 0.9),))
            for n in range(int(until_s))
        )
        return Recognition(segments, "en", speech_s=SPEECH_S, last_speech_s=SPEECH_S)

    def diarize(
        self, samples: NDArray[np.float32], limits: SpeakerLimits, progress: StepProgress
    ) -> Diarization:
        self.calls.append("voices")
        if self.deaf_to_voices:
            raise AssetError(ErrorKind.DIARIZATION, "The voices cannot be told apart.")
        turns = (Turn("SPEAKER_00", 0.0, SPEECH_S),)
        return Diarization(turns, turns, (Speaker("SPEAKER_00", SPEECH_S, (1.0,)),))

    def embed(self, samples: NDArray[np.float32]) -> tuple[float, ...]:
        return (1.0,)


@dataclass
class Nights:
    """One recording and its folder, over several runs."""

    root: Path
    liar: Liar

    def plan(self, options: RunOptions) -> Planned:
        folder = OutputFolder(self.root / "out")
        folder.create()
        path = self.root / "a.wav"
        if not path.exists():
            write_tone(path, 0.5)
        journal = Journal(folder.journal_path)
        (planned,) = plan(
            [Asset(id="a", uri="a.wav", path=path, name="A", position=0)],
            list(journal.entries()),
            options,
            wanted=WantedStages("w1", diarizer="d1"),
            stages=journal.stages(),
            output_names={"a": "a"},
            state=folder.root / STATE_FOLDER,
            stands=partial(intact, root=folder.root),
            source_identity=source_identity,
        )
        journal.close()
        return planned

    def spend(self, options: RunOptions = OPTIONS) -> list[Outcome]:
        """A run: the attempts that the plan asks for, each followed by a redo that is due."""
        planned, journal = (
            self.plan(options),
            Journal(self.root / "out/.audio-batch/journal.sqlite3"),
        )
        run_id, outcomes = journal.begin_run(version="0", request={}), []
        context = Context(
            outputs=LocalOutputs(self.root / "out"),
            state=(self.root / "out") / STATE_FOLDER,
            options=options,
            model_name="m",
            model_identity="w1",
            models=self.liar,
            limits=MediaLimits(),
            progress=lambda _: None,
            stage_done=journal.finish_stage,
            published=journal.publish_early,
            named=lambda transcript: transcript,
        )
        while planned.action in (Action.PROCESS, Action.RENDER):
            attempt = journal.start(
                "a",
                name="A",
                source=planned.source,
                fingerprint=planned.fingerprint,
                rendering=planned.rendering,
                device="cpu",
                run_id=run_id,
            )
            job = job_of(planned, "cpu", attempt, 1, 1)
            outcome = process(job, context)
            if planned.redo and outcome.state is State.FAILED:
                outcome = stands_all_the_same(outcome)
            journal.finish(outcome, redo=planned.redo)
            outcomes.append(outcome)
            if not due_for_redo(planned, outcome, options):
                break
            done = {record.stage: record for record in outcome.stages}
            planned = redo_of(dataclasses.replace(planned, kept={**planned.kept, **done}))
        journal.close()
        return outcomes

    def entry(self) -> JournalEntry:
        journal = Journal(self.root / "out/.audio-batch/journal.sqlite3", read_only=True)
        (entry,) = journal.entries()
        journal.close()
        return entry

    def transcript(self) -> Transcript:
        return Transcript.from_json(json.loads((self.root / "out/a.json").read_text()))


@pytest.fixture
def nights(tmp_path: Path) -> Nights:
    return Nights(tmp_path, Liar())


LEFT_OFF = ("the last word ends at 24 s, speech goes on until 120 s",)
LEFT_OFF_LATER = ("the last word ends at 60 s, speech goes on until 120 s",)


def test_a_suspicion_is_published_and_journalled_and_the_asset_is_done(nights: Nights) -> None:
    (outcome,) = nights.spend()
    assert (outcome.state, outcome.suspicions) == (State.DONE, LEFT_OFF)
    assert nights.transcript().suspicions == LEFT_OFF
    assert (nights.entry().suspicions, nights.entry().redone) == (LEFT_OFF, 0)
    assert nights.spend() == []


def test_another_format_costs_no_transcription_and_keeps_the_suspicion(nights: Nights) -> None:
    nights.spend()
    (outcome,) = nights.spend(dataclasses.replace(OPTIONS, formats=("json", "vtt")))
    assert (outcome.rendered_only, nights.liar.calls) == (True, ["batches", "voices"])
    assert nights.transcript().suspicions == nights.entry().suspicions == LEFT_OFF


def test_the_next_night_does_it_again_window_by_window(nights: Nights) -> None:
    nights.spend()
    (outcome,) = nights.spend(REDO)
    assert (outcome.state, outcome.suspicions) == (State.DONE, ())
    assert nights.liar.calls == ["batches", "voices", "windows"]
    assert (nights.entry().suspicions, nights.entry().redone) == ((), 1)
    transcript = nights.transcript()
    assert (len(transcript.segments), transcript.suspicions) == (120, ())
    assert transcript.provenance["options"]["sequential"] is True
    assert [turn.speaker for turn in transcript.turns] == ["SPEAKER_00"]
    # Neither with the flag nor without it is it done a third time.
    assert nights.spend(REDO) == nights.spend() == []


def test_the_same_night_does_it_again(nights: Nights) -> None:
    first, again = nights.spend(REDO)
    assert (first.suspicions, again.suspicions) == (LEFT_OFF, ())
    assert nights.liar.calls == ["batches", "voices", "windows"]
    assert (nights.entry().redone, nights.entry().attempts) == (1, 2)


def test_a_redo_that_is_suspect_too_stays_and_is_the_last(nights: Nights) -> None:
    nights.liar.again_s = 60.0
    assert [outcome.suspicions for outcome in nights.spend(REDO)] == [LEFT_OFF, LEFT_OFF_LATER]
    assert (nights.entry().suspicions, nights.entry().redone) == (LEFT_OFF_LATER, 1)
    assert nights.transcript().suspicions == LEFT_OFF_LATER
    assert nights.spend(REDO) == []


def test_a_redo_that_fails_leaves_what_there_was(nights: Nights) -> None:
    nights.spend()
    before = (nights.root / "out/a.json").read_bytes()
    nights.liar.again_s = -1.0
    (outcome,) = nights.spend(REDO)
    assert outcome.notes == (
        "still suspect, it could not be done again: There was not enough memory.",
    )
    entry = nights.entry()
    assert (entry.state, entry.suspicions, entry.redone) == (State.DONE, LEFT_OFF, 1)
    assert entry.error_text is None
    assert (nights.root / "out/a.json").read_bytes() == before
    assert nights.spend(REDO) == nights.spend() == []


def test_a_redo_takes_no_speakers_away(nights: Nights) -> None:
    """What was kept of them is lost, and they cannot be told apart again."""
    nights.spend()
    (voices,) = (nights.root / "out/.audio-batch/stages").rglob("*.diarize.json.gz")
    voices.unlink()
    nights.liar.deaf_to_voices = True
    (outcome,) = nights.spend(REDO)
    assert outcome.state is State.DONE
    published = json.loads((nights.root / "out/a.json").read_text())
    assert (published["missing"], len(published["speakers"])) == ([], 1)
    assert published["suspicions"]


def test_what_was_redone_is_told_by_its_own_options_when_its_words_are_kept(nights: Nights) -> None:
    nights.spend(REDO)
    (nights.root / "out/a.json").unlink()
    (outcome,) = nights.spend(OPTIONS)
    assert (outcome.rendered_only, nights.liar.calls) == (False, ["batches", "voices", "windows"])
    assert len(nights.transcript().segments) == 120
    told = nights.transcript().provenance["options"]
    assert told == json.loads(json.dumps(dataclasses.asdict(safer(OPTIONS.decoding))))
    assert nights.entry().redone == 1


def test_a_redo_hears_the_recording_and_not_its_old_parts() -> None:
    part = Part(0, 2, 1200.0)
    record = StageRecord(
        "a", Stage.TRANSCRIBE, "1:1", "f", PublishedFile("transcribe", "x", 1, "0"), "cpu", 1.0
    )
    planned = Planned(
        asset=Asset(id="a", uri="x", path=Path("x"), name="A", position=0),
        action=Action.PROCESS,
        decoding=DecodingOptions(),
        limits=SpeakerLimits(),
        formats=("json",),
        output_name="a",
        source="1:1",
        fingerprint="f",
        rendering="r",
        stages={Stage.TRANSCRIBE: "f"},
        parts={part: record},
    )
    assert redo_of(planned).parts == {}
