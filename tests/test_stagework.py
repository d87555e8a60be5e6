# ruff: noqa: ARG002 - stand-ins have the arguments of what they stand for
"""Stages fail, are kept and are redone on their own: real journal, runner and files; the models
are stand-ins that count their calls and fail when told to."""

from __future__ import annotations

import dataclasses
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
from loaders import Loading
from numpy.typing import NDArray
from program import write_tone

from audio_batch import events
from audio_batch.attempts import StageClock
from audio_batch.engines.base import Alignment, Diarization, Recognition, StepProgress
from audio_batch.errors import AssetError, Away, DeviceError, ErrorKind, SetupError
from audio_batch.feeding import ListFeed
from audio_batch.gpu.balancer import Balancer
from audio_batch.gpu.devices import CPU
from audio_batch.journal import Journal, JournalEntry
from audio_batch.journal_formats import Written
from audio_batch.manifest import Asset
from audio_batch.media import MediaLimits
from audio_batch.occupied import Claim, Occupied
from audio_batch.options import DecodingOptions, RunOptions, SpeakerLimits, WantedStages
from audio_batch.outcome import RunResult, Stage, State
from audio_batch.output_folder import OutputFolder
from audio_batch.outputs import LocalOutputs, Outputs
from audio_batch.pipeline import Context, process, source_identity
from audio_batch.plan import Action, Planned, intact, plan
from audio_batch.pools import SerialPool
from audio_batch.runner import Runner
from audio_batch.stages import path_of
from audio_batch.storage import STATE_FOLDER, PublishedFile
from audio_batch.tell import Tell
from audio_batch.transcript import Segment, Speaker, Turn, Word
from audio_batch.verify import verify
from audio_batch.wiring import Means

OPTIONS = RunOptions(
    model="m", engine="null", decoding=DecodingOptions(language="en"), retry_delay_s=0.001
)
ALL = WantedStages("w1", aligner="a1", diarizer="d1")


@dataclass
class Stand:
    """All three models in one. `faults` holds, by stage, what the next calls raise."""

    calls: Counter[str] = field(default_factory=Counter)
    faults: dict[str, list[Exception]] = field(default_factory=dict)
    knows: tuple[str, ...] = ("en",)
    language: str = "en"
    limits: list[SpeakerLimits] = field(default_factory=list)
    description: dict[str, Any] = field(default_factory=lambda: {"made_by": "a stand-in"})
    warnings: tuple[str, ...] = ()
    embedding_identity: str = "e1"
    before_diarizing: Callable[[], None] = lambda: None
    link_threshold: float | None = None
    enrol_threshold: float | None = None

    def recognizer(self, device: str) -> Stand:
        return self

    def diarizer(self, device: str) -> Stand:
        self._fail("load diarizer")
        return self

    def aligner(self, device: str, language: str) -> Stand | None:
        return self if language in self.knows else None

    def check(self, options: DecodingOptions) -> None:
        pass

    def _fail(self, stage: str) -> None:
        if self.faults.get(stage):
            raise self.faults[stage].pop(0)

    def transcribe(
        self, samples: NDArray[np.float32], options: DecodingOptions, progress: Any
    ) -> Recognition:
        self.calls["transcribe"] += 1
        self._fail("transcribe")
        progress(0.25)
        words = (Word("good", 0.0, 0.2), Word("day", 0.3, 0.5))
        return Recognition((Segment("good day", 0.0, 0.5, words),), self.language)

    def align(
        self,
        samples: NDArray[np.float32],
        segments: tuple[Segment, ...],
        language: str,
        progress: Any,
    ) -> Alignment:
        self.calls["align"] += 1
        self._fail("align")
        moved = tuple(
            dataclasses.replace(word, start_s=word.start_s + 0.01) for word in segments[0].words
        )
        return Alignment((dataclasses.replace(segments[0], words=moved),))

    def diarize(
        self, samples: NDArray[np.float32], limits: SpeakerLimits, progress: StepProgress
    ) -> Diarization:
        self.calls["diarize"] += 1
        self.before_diarizing()
        self.limits.append(limits)
        self._fail("diarize")
        progress("embeddings", 0.5)
        turns = (Turn("SPEAKER_00", 0.0, 0.25), Turn("SPEAKER_01", 0.25, 0.5))
        voices = (Speaker("SPEAKER_00", 0.25, (1.0, 0.0)), Speaker("SPEAKER_01", 0.25, (0.0, 1.0)))
        return Diarization(turns, turns, voices)

    def embed(self, samples: NDArray[np.float32]) -> tuple[float, ...]:
        return (1.0, 0.0)


@dataclass
class House:
    """A folder with recordings, and runs over it one after the other."""

    root: Path
    stand: Stand = field(default_factory=Stand)
    told: list[events.Event] = field(default_factory=list)
    planned: list[Planned] = field(default_factory=list)
    outputs: Outputs | None = None

    def assets(self, count: int = 1, **more: Any) -> list[Asset]:
        found = []
        for n in range(count):
            path = self.root / f"a{n}.wav"
            if not path.exists():
                write_tone(path, 0.5)
            found.append(Asset(id=f"a{n}", uri=path.name, path=path, name=f"A{n}", position=n))
        return [dataclasses.replace(asset, **more) for asset in found]

    def run(
        self,
        assets: list[Asset],
        wanted: WantedStages = ALL,
        options: RunOptions = OPTIONS,
        *,
        suspect: bool = False,
        stop_after_one: bool = False,
    ) -> RunResult:
        state = self.root / "out/.audio-batch"
        state.mkdir(parents=True, exist_ok=True)
        journal = Journal(state / "journal.sqlite3")
        journal.settle_debris(crashed=False)
        self.planned = plan(
            assets,
            list(journal.entries()),
            options,
            wanted=wanted,
            stages=journal.stages(),
            output_names={asset.id: asset.id for asset in assets},
            state=(self.root / "out") / STATE_FOLDER,
            stands=partial(intact, root=self.root / "out"),
            source_identity=source_identity,
        )
        todo = [
            dataclasses.replace(x, suspect=suspect)
            for x in self.planned
            if x.action in (Action.PROCESS, Action.RENDER)
        ]

        def pool(tell: Tell, _died: object) -> SerialPool:
            context = Context(
                outputs=self.outputs or LocalOutputs(self.root / "out"),
                state=(self.root / "out") / STATE_FOLDER,
                options=options,
                model_name="m",
                model_identity=wanted.model,
                models=self.stand,
                limits=MediaLimits(),
                progress=tell.progress,
                stage_done=tell.stage_done,
                published=tell.published,
                named=lambda transcript: transcript,
            )
            return SerialPool(lambda job: process(job, context))

        def emit(event: events.Event) -> None:
            self.told.append(event)
            if stop_after_one and isinstance(event, events.AssetFinished):
                runner.stop.request("the test")

        means = Means(
            options=options,
            journal=journal,
            run_id=journal.begin_run(version="0", request={}),
            balancer=Balancer((CPU,), {"cpu": 1}, None),
            pool=pool,
            loader=lambda _pool: Loading(),
            emit=emit,
        )
        runner = Runner(means)
        try:
            journal.forgive(item.asset.id for item in todo if item.fresh)
            return runner.run(ListFeed(todo))
        finally:
            journal.close()

    @property
    def journal(self) -> Journal:
        return Journal(self.root / "out/.audio-batch/journal.sqlite3", read_only=True)

    def entry(self) -> JournalEntry:
        (entry,) = self.journal.entries()
        return entry

    def document(self, name: str = "a0") -> dict[str, Any]:
        body: dict[str, Any] = json.loads((self.root / f"out/{name}.json").read_text())
        return body


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    yield House(tmp_path)


def test_all_stages_make_one_transcript(house: House) -> None:
    assert house.run(house.assets()).done == 1
    body = house.document()
    assert [word["start_s"] for s in body["segments"] for word in s["words"]] == [0.01, 0.31]
    assert [(s["text"].strip(), s["speaker"]) for s in body["segments"]] == [
        ("good", "SPEAKER_00"),
        ("day", "SPEAKER_01"),
    ]
    assert [speaker["label"] for speaker in body["speakers"]] == ["SPEAKER_00", "SPEAKER_01"]
    assert body["provenance"]["diarization"]["embedding_identity"] == "e1"
    assert body["provenance"]["alignment"] == {"made_by": "a stand-in"}
    assert body["missing"] == []
    assert house.journal.stage_counts() == {"transcribe": 1, "align": 1, "diarize": 1}
    assert house.run(house.assets()).done == 0
    assert house.planned[0].action is Action.KEEP


def test_a_stage_that_fails_leaves_the_words_and_a_rerun_does_that_stage_only(
    house: House,
) -> None:
    house.stand.faults["diarize"] = [AssetError(ErrorKind.DIARIZATION, "no voices today.")]
    result = house.run(house.assets())
    assert (result.done, result.failed) == (0, 1)
    entry = house.entry()
    assert (entry.state, entry.missing) == (State.INCOMPLETE, ("diarize",))
    assert entry.error_kind is ErrorKind.DIARIZATION
    assert entry.error_text is not None and "no voices today" in entry.error_text
    body = house.document()
    assert body["missing"] == ["diarize"]
    assert body["text"] == "good day"
    assert (house.root / "out/a0.txt").read_text() == "good day\n"
    result = house.run(house.assets())
    assert (result.done, result.failed) == (1, 0)
    assert house.stand.calls == {"transcribe": 1, "align": 1, "diarize": 2}
    assert (house.entry().state, house.entry().missing) == (State.DONE, ())
    assert house.document()["missing"] == []


def test_a_transient_failure_of_a_stage_is_tried_again_without_the_others(house: House) -> None:
    house.stand.faults["diarize"] = [
        AssetError(ErrorKind.OUT_OF_MEMORY, "full.", transient=True) for _ in range(2)
    ]
    assert house.run(house.assets()).done == 1
    assert house.stand.calls == {"transcribe": 1, "align": 1, "diarize": 3}
    assert house.journal.stage_counts() == {"transcribe": 1, "align": 1, "diarize": 1}


def test_a_stage_that_always_fails_leaves_every_transcript(house: House) -> None:
    house.stand.faults["diarize"] = [ValueError(f"bug {n}") for n in range(5)]
    result = house.run(house.assets(5))
    assert (result.done, result.failed) == (0, 5)
    assert all(house.document(f"a{n}")["text"] == "good day" for n in range(5))
    entries = list(house.journal.entries())
    assert {entry.state for entry in entries} == {State.INCOMPLETE}
    assert {entry.error_kind for entry in entries} == {ErrorKind.INTERNAL}


def test_both_later_stages_may_fail(house: House) -> None:
    house.stand.faults["diarize"] = [AssetError(ErrorKind.DIARIZATION, "one.")]
    house.stand.faults["align"] = [MemoryError()]
    house.run(house.assets(), options=dataclasses.replace(OPTIONS, max_attempts=1))
    assert house.entry().missing == ("align", "diarize")
    house.run(house.assets())
    assert house.entry().state is State.DONE
    assert house.stand.calls == {"transcribe": 1, "align": 2, "diarize": 2}


def test_a_device_that_always_fails_in_a_later_stage_costs_no_transcript(house: House) -> None:
    house.stand.faults["diarize"] = [DeviceError("cuDNN is at odds.") for _ in range(4)]
    result = house.run(house.assets(4))
    assert (result.failed, result.not_begun) == (4, 0)
    assert [house.document(f"a{n}")["text"] for n in range(4)] == ["good day"] * 4
    assert {entry.error_kind for entry in house.journal.entries()} == {ErrorKind.DEVICE}
    assert house.run(house.assets(4)).done == 4
    assert house.stand.calls == {"transcribe": 4, "align": 4, "diarize": 8}


def test_a_store_that_is_away_in_a_later_stage_leaves_nothing_incomplete(house: House) -> None:
    away = Away("s3://calls", signed_out=False, reason="no answer")
    lost = AssetError(ErrorKind.NETWORK, "There is no answer.", transient=True, away=away)
    house.stand.faults["diarize"] = [lost]
    assert house.run(house.assets()).done == 1
    ended = [event.outcome for event in house.told if isinstance(event, events.AssetFinished)]
    assert [(one.state, one.away) for one in ended] == [(State.FAILED, away), (State.DONE, None)]
    assert house.stand.calls == {"transcribe": 1, "align": 1, "diarize": 2}


def test_what_may_pass_decides_whether_there_is_another_attempt(house: House) -> None:
    house.stand.faults["align"] = [AssetError(ErrorKind.ALIGNMENT, "never.") for _ in range(3)]
    house.stand.faults["diarize"] = [AssetError(ErrorKind.OUT_OF_MEMORY, "now.", transient=True)]
    house.run(house.assets())
    assert house.entry().missing == ("align",)
    assert house.stand.calls["diarize"] == 2


def test_an_attempt_that_will_be_repeated_leaves_its_outputs_in_the_journal(house: House) -> None:
    later = dataclasses.replace(OPTIONS, retry_delay_s=60.0)
    house.stand.faults["diarize"] = [AssetError(ErrorKind.OUT_OF_MEMORY, "now.", transient=True)]
    house.run(house.assets(), options=later, stop_after_one=True)
    entry = house.entry()
    assert (entry.state, entry.missing) == (State.INTERRUPTED, ("diarize",))
    assert {output.format for output in entry.outputs} == {"json", "txt", "srt"}
    assert house.run(house.assets()).done == 1
    assert house.document()["missing"] == []


def test_words_of_an_asset_under_suspicion_are_published_before_it_is_diarized(
    house: House,
) -> None:
    seen: list[Any] = []
    house.stand.before_diarizing = lambda: seen.append(
        (house.document()["missing"], house.document()["segments"][0]["words"][0]["start_s"])
    )
    house.stand.faults["diarize"] = [AssetError(ErrorKind.DIARIZATION, "no.")]
    house.run(house.assets(), suspect=True)
    assert seen == [(["diarize"], 0.01)]
    assert house.entry().outputs
    # What is kept is not taken out of the transcript again.
    house.run(house.assets(), suspect=True)
    assert seen[1:] == [(["diarize"], 0.01)]
    assert house.document()["missing"] == []


def test_words_heard_anew_never_get_the_times_of_others(house: House) -> None:
    house.run(house.assets())
    (house.root / "out/.audio-batch" / path_of("a0", Stage.TRANSCRIBE)).unlink()
    house.stand.faults["align"] = [AssetError(ErrorKind.OUT_OF_MEMORY, "now.", transient=True)]
    house.run(house.assets(), dataclasses.replace(ALL, diarizer="d2"))
    assert house.stand.calls["align"] == 3


def test_a_new_hearing_outdates_the_journalled_alignment(house: House) -> None:
    house.run(house.assets())
    house.run(house.assets(), WantedStages("w1"), dataclasses.replace(OPTIONS, overwrite=True))
    house.run(house.assets())
    assert house.stand.calls == {"transcribe": 2, "align": 2, "diarize": 1}


def test_times_of_words_that_are_heard_anew_are_found_anew(house: House) -> None:
    house.run(house.assets())
    (house.root / "out/.audio-batch" / path_of("a0", Stage.TRANSCRIBE)).unlink()
    house.run(house.assets(), dataclasses.replace(ALL, diarizer="d2"))
    assert house.stand.calls == {"transcribe": 2, "align": 2, "diarize": 2}


def test_a_translation_is_not_aligned(house: House) -> None:
    house.run(house.assets(task="translate"))
    assert house.stand.calls["align"] == 0
    assert any("translation is not aligned" in note for note in house.entry().notes)


def test_a_state_folder_may_be_a_link(house: House, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (house.root / "out").mkdir()
    (house.root / "out/.audio-batch").symlink_to(tmp_path / "elsewhere")
    assert house.run(house.assets()).done == 1
    assert list((tmp_path / "elsewhere/stages").rglob("*.gz"))


def test_a_model_that_cannot_be_had_for_a_later_stage_costs_that_stage(house: House) -> None:
    house.stand.faults["load diarizer"] = [SetupError("The folder is gone.")]
    assert house.run(house.assets()).failed == 1
    assert (house.entry().state, house.entry().error_kind) == (State.INCOMPLETE, ErrorKind.MODEL)


def test_other_limits_of_speakers_cost_a_diarization_and_nothing_else(house: House) -> None:
    house.run(house.assets())
    two = dataclasses.replace(OPTIONS, limits=SpeakerLimits(max_speakers=2))
    assert house.run(house.assets(), options=two).done == 1
    assert house.stand.calls == {"transcribe": 1, "align": 1, "diarize": 2}
    assert house.stand.limits[-1] == SpeakerLimits(max_speakers=2)
    # What an asset says itself stands above the run's.
    house.run(house.assets(num_speakers=3), options=two)
    assert house.stand.limits[-1] == SpeakerLimits(num_speakers=3)
    assert house.journal.stage_counts() == {"transcribe": 1, "align": 1, "diarize": 3}


def test_other_formats_redo_nothing(house: House) -> None:
    house.run(house.assets())
    house.run(house.assets(), options=dataclasses.replace(OPTIONS, formats=("json", "vtt")))
    assert house.planned[0].action is Action.RENDER
    assert "<v SPEAKER_00>" in (house.root / "out/a0.vtt").read_text()
    assert house.journal.stage_counts() == {"transcribe": 1, "align": 1, "diarize": 1}


def test_another_aligner_costs_an_alignment_another_model_the_words(house: House) -> None:
    house.run(house.assets())
    house.run(house.assets(), dataclasses.replace(ALL, aligner="a2"))
    assert house.stand.calls == {"transcribe": 1, "align": 2, "diarize": 1}
    house.run(house.assets(), dataclasses.replace(ALL, model="w2"))
    assert house.stand.calls == {"transcribe": 2, "align": 3, "diarize": 1}


def test_speakers_can_be_left_out_and_taken_back_for_nothing(house: House) -> None:
    house.run(house.assets())
    house.run(house.assets(), dataclasses.replace(ALL, diarizer=None))
    assert house.document()["speakers"] == []
    house.run(house.assets())
    assert len(house.document()["speakers"]) == 2
    assert house.stand.calls == {"transcribe": 1, "align": 1, "diarize": 1}


def test_a_diarization_model_that_is_lost_does_not_cost_the_speakers_of_earlier_nights(
    house: House,
) -> None:
    house.run(house.assets())
    lost = WantedStages("w1", aligner="a1", keep_speakers=True)
    house.run(house.assets(2), lost)
    assert [item.action for item in house.planned] == [Action.KEEP, Action.PROCESS]
    assert len(house.document("a0")["speakers"]) == 2
    assert house.document("a1")["speakers"] == []


def test_a_kept_result_that_was_changed_is_done_again(house: House) -> None:
    house.run(house.assets())
    kept = house.root / "out/.audio-batch" / path_of("a0", Stage.TRANSCRIBE)
    data = bytearray(kept.read_bytes())
    data[-9] ^= 0xFF
    kept.write_bytes(data)
    (house.root / "out/.audio-batch" / path_of("a0", Stage.ALIGN)).unlink()
    house.run(house.assets(), dataclasses.replace(ALL, diarizer="d2"))
    assert house.stand.calls == {"transcribe": 2, "align": 2, "diarize": 2}
    assert house.entry().state is State.DONE


def test_a_changed_recording_redoes_every_stage(house: House) -> None:
    assets = house.assets()
    house.run(assets)
    write_tone(assets[0].path or Path(), 0.75)
    house.run(assets)
    assert house.stand.calls == {"transcribe": 2, "align": 2, "diarize": 2}


def test_a_language_without_an_aligner_keeps_its_times_and_says_so(house: House) -> None:
    house.stand.language = "la"
    assert house.run(house.assets()).done == 1
    assert any("no aligner for language 'la'" in note for note in house.entry().notes)
    assert house.document()["segments"][0]["words"][0]["start_s"] == 0.0
    assert house.entry().state is State.DONE


def test_damage_is_refused_with_kept_words_too(house: House) -> None:
    assets = house.assets()
    path = assets[0].path or Path()
    write_tone(path, 4.0)
    path.write_bytes(path.read_bytes()[:-40_000])
    assert house.run(assets).done == 1
    strict = dataclasses.replace(OPTIONS, damaged="fail", limits=SpeakerLimits(num_speakers=2))
    house.run(assets, options=strict)
    assert house.entry().error_kind is ErrorKind.MEDIA_DAMAGED


def test_progress_grows_over_the_stages(house: House) -> None:
    house.run(house.assets())
    shares = [e.asset_share for e in house.told if isinstance(e, events.AssetProgress)]
    assert shares == sorted(shares)
    assert [e.stage for e in house.told if isinstance(e, events.AssetProgress)][-1] == (
        "diarize: embeddings"
    )


def test_a_stage_within_another_is_not_counted_twice() -> None:
    clock = StageClock()
    begun_s = time.perf_counter()
    with clock.stage("transcribe"), clock.stage("decode"):
        time.sleep(0.05)
    whole_s = time.perf_counter() - begun_s
    assert clock.timings_s["decode"] >= 0.05
    # Each is rounded to a tenth of a millisecond.
    assert clock.timings_s["decode"] + clock.timings_s["transcribe"] <= whole_s + 0.001


class Interrupting(LocalOutputs):
    """A folder in which something happens right before a JSON is published."""

    def __init__(self, root: Path, before: Callable[[Path], None]) -> None:
        super().__init__(root)
        self._folder, self._before = root, before

    def publish(
        self, relative: PurePosixPath, data: bytes, *, format_name: str, replace: bool = True
    ) -> PublishedFile:
        if format_name == "json":
            self._before(self._folder / relative)
        return super().publish(relative, data, format_name=format_name, replace=replace)


def test_what_a_failed_publication_left_is_known_as_the_assets_own(house: House) -> None:
    out = house.root / "out"
    house.outputs = Interrupting(out, lambda path: path.write_text("A person's.") and None)
    assert house.run(house.assets()).failed == 1
    entry = house.entry()
    assert (entry.state, entry.error_kind) == (State.FAILED, ErrorKind.OUTPUT_EXISTS)
    assert [file.path for file in entry.outputs] == ["a0.srt", "a0.txt"]
    assert not entry.published

    def looked() -> tuple[dict[str, str], tuple[str, ...]]:
        outputs = LocalOutputs(out)
        occupied = Occupied(outputs, Written({"json", "srt", "txt"}), lambda: ["a0"])
        claim = Claim("a0", "a0", ("json", "srt", "txt"), entry)
        occupied.look([claim])
        assert not occupied.strangers
        folder = OutputFolder.at(str(out))
        return occupied.still_barred(folder), occupied.stood("a0", claim.formats)

    barred, _ = looked()
    assert barred == {"a0": "a0.json"}
    (out / "a0.json").unlink()
    assert looked() == ({}, ("srt", "txt"))
    (out / "a0.srt").unlink()  # nothing is missing where nothing was done
    found = verify(OutputFolder.at(str(out)), house.journal)
    assert (found.outputs, found.damages) == (0, ())


def test_an_attempt_writes_over_what_an_earlier_one_left_before_it_failed(house: House) -> None:
    failures = [AssetError(ErrorKind.OUTPUT, "The folder was away.", transient=True)]

    def fail(_path: Path) -> None:
        if failures:
            raise failures.pop()

    house.stand.faults["diarize"] = [AssetError(ErrorKind.DIARIZATION, "no voices today.")]
    house.outputs = Interrupting(house.root / "out", fail)
    result = house.run(house.assets())
    assert (result.done, result.failed) == (1, 0)
    assert "SPEAKER_01" in (house.root / "out/a0.txt").read_text()
    assert house.entry().state is State.DONE
