"""What a rerun does with each asset: the table of states."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from audio_batch.errors import ErrorKind
from audio_batch.journal import JournalEntry
from audio_batch.manifest import Asset
from audio_batch.options import TEMPERATURE_LADDER, DecodingOptions, RunOptions, WantedStages
from audio_batch.outcome import Outcome, Stage, StageRecord, State
from audio_batch.plan import Action, Planned, due_for_redo, intact, plan, redo_of, safer
from audio_batch.remote.downloads import UNKNOWN
from audio_batch.storage import STATE_FOLDER, PublishedFile

OPTIONS = RunOptions(model="m", engine="null", decoding=DecodingOptions(), formats=("json", "txt"))
ASSET = Asset(id="a", uri="a.wav", path=Path("a.wav"), name="a", position=0)


def entry(root: Path, options: RunOptions = OPTIONS, **more: Any) -> JournalEntry:
    """The row of an asset that was done with `options`, its outputs on disk."""
    outputs = []
    for name in ("json", "txt"):
        (root / f"a.{name}").write_bytes(b"12345")
        outputs.append(PublishedFile(name, f"a.{name}", 5, "0"))
    values: dict[str, Any] = {
        "asset_id": "a",
        "name": "a",
        "state": State.DONE,
        "source": "1:1",
        "fingerprint": options.recognition_fingerprint(options.decoding, "id"),
        "rendering": f"{options.render_fingerprint(('json', 'txt'))}:a|{options.admission}",
        "attempts": 1,
        "deaths": 0,
        "outputs": tuple(outputs),
        "notes": (),
        "missing": (),
        "suspicions": (),
        "redone": 0,
        "timings_s": {},
        "run_id": 1,
    }
    values = {f.name: None for f in dataclasses.fields(JournalEntry)} | values | more
    return JournalEntry(**values)


def action(
    root: Path,
    row: JournalEntry | None,
    *,
    options: RunOptions = OPTIONS,
    asset: Asset = ASSET,
    source: str = "1:1",
    name: str = "a",
) -> Action:
    (planned,) = plan(
        [asset],
        [row] if row else [],
        options,
        wanted=WantedStages("id"),
        output_names={"a": name},
        state=root / STATE_FOLDER,
        stands=partial(intact, root=root),
        source_identity=lambda _: source,
    )
    assert planned.fresh == (
        row is not None
        and (
            options.overwrite
            or planned.redo
            or (options.retry_failed and not row.outputs)
            or (
                row.state is State.FAILED
                and source == row.source
                and planned.action is not Action.LEAVE_FAILED
            )
        )
    )
    return planned.action


def test_what_is_new_is_done(tmp_path: Path) -> None:
    assert action(tmp_path, None) is Action.PROCESS


def test_what_is_done_is_kept(tmp_path: Path) -> None:
    assert action(tmp_path, entry(tmp_path)) is Action.KEEP


def test_a_changed_input_is_done_again(tmp_path: Path) -> None:
    assert action(tmp_path, entry(tmp_path), source="2:2") is Action.PROCESS


def test_a_changed_option_is_done_again(tmp_path: Path) -> None:
    other = dataclasses.replace(OPTIONS, decoding=DecodingOptions(beam_size=2))
    assert action(tmp_path, entry(tmp_path), options=other) is Action.PROCESS


def test_a_changed_wish_of_the_asset_is_done_again(tmp_path: Path) -> None:
    german = dataclasses.replace(ASSET, language="de")
    assert action(tmp_path, entry(tmp_path), asset=german) is Action.PROCESS


def test_other_formats_or_names_cost_no_transcription(tmp_path: Path) -> None:
    more = dataclasses.replace(OPTIONS, formats=("json", "txt", "vtt"))
    assert action(tmp_path, entry(tmp_path), options=more) is Action.RENDER
    assert action(tmp_path, entry(tmp_path), name="b") is Action.RENDER


def test_a_lost_output_is_written_again(tmp_path: Path) -> None:
    row = entry(tmp_path)
    (tmp_path / "a.txt").unlink()
    assert action(tmp_path, row) is Action.RENDER
    (tmp_path / "a.txt").write_bytes(b"torn")
    assert action(tmp_path, row) is Action.RENDER


def test_a_lost_canonical_output_is_done_again(tmp_path: Path) -> None:
    row = entry(tmp_path)
    (tmp_path / "a.json").unlink()
    assert action(tmp_path, row) is Action.PROCESS


def test_an_interrupted_rendering_is_rendered(tmp_path: Path) -> None:
    assert action(tmp_path, entry(tmp_path, state=State.INTERRUPTED)) is Action.RENDER


def test_what_was_interrupted_is_done(tmp_path: Path) -> None:
    assert action(tmp_path, entry(tmp_path, state=State.INTERRUPTED, outputs=())) is (
        Action.PROCESS
    )


@pytest.mark.parametrize("state", [State.FAILED, State.QUARANTINED])
def test_what_failed_is_left_until_asked_for_or_changed(tmp_path: Path, state: State) -> None:
    row = entry(tmp_path, state=state, outputs=())
    assert action(tmp_path, row) is Action.LEAVE_FAILED
    again = dataclasses.replace(OPTIONS, retry_failed=True)
    assert action(tmp_path, row, options=again) is Action.PROCESS
    assert action(tmp_path, row, source="2:2") is Action.PROCESS


PASSING = (
    *(
        "output",
        "output_exists",
        "disk_full",
        "out_of_memory",
        "device",
        "timeout",
        "input_unreadable",
    ),
    *("input_forbidden", "network"),
)


@pytest.mark.parametrize("kind", ErrorKind)
def test_what_failed_by_the_nights_fault_is_tried_by_every_next_run(
    tmp_path: Path, kind: ErrorKind
) -> None:
    row = entry(tmp_path, state=State.FAILED, outputs=(), error_kind=kind)
    assert (action(tmp_path, row) is Action.PROCESS) == (kind in PASSING)
    set_aside = dataclasses.replace(row, state=State.QUARANTINED)
    assert action(tmp_path, set_aside) is Action.LEAVE_FAILED


def test_a_transcript_that_could_not_be_written_again_is_rendered(tmp_path: Path) -> None:
    row = entry(tmp_path, state=State.FAILED, error_kind=ErrorKind.OUTPUT)
    assert action(tmp_path, row) is Action.RENDER


@pytest.mark.parametrize("kind", [ErrorKind.TIMEOUT, ErrorKind.DEVICE, ErrorKind.OUT_OF_MEMORY])
def test_what_may_cost_as_much_again_comes_last(tmp_path: Path, kind: ErrorKind) -> None:
    other = dataclasses.replace(ASSET, id="b", position=1)
    planned = plan(
        [ASSET, other],
        [entry(tmp_path, state=State.FAILED, outputs=(), error_kind=kind)],
        OPTIONS,
        wanted=WantedStages("id"),
        output_names={"a": "a", "b": "b"},
        state=tmp_path / STATE_FOLDER,
        stands=partial(intact, root=tmp_path),
        source_identity=lambda _: "1:1",
    )
    assert [(item.asset.id, item.fresh) for item in planned] == [("b", False), ("a", True)]


def test_what_crashed_the_program_too_often_is_set_aside(tmp_path: Path) -> None:
    row = entry(tmp_path, state=State.INTERRUPTED, outputs=(), deaths=2)
    assert action(tmp_path, row) is Action.PROCESS
    row = dataclasses.replace(row, deaths=3)
    assert action(tmp_path, row) is Action.QUARANTINE


def test_old_outputs_that_are_gone_clear_no_suspect(tmp_path: Path) -> None:
    row = entry(tmp_path, state=State.INTERRUPTED, deaths=3)
    assert action(tmp_path, row) is Action.RENDER
    (tmp_path / "a.json").unlink()
    assert action(tmp_path, row) is Action.QUARANTINE


@pytest.mark.parametrize("how", [{"deaths": 1}, {"attempts": 2}])
def test_what_the_program_died_of_is_a_suspect_that_comes_last(
    how: dict[str, int], tmp_path: Path
) -> None:
    """By a crash, or killed more than once, as for lack of memory."""
    row = entry(tmp_path, state=State.INTERRUPTED, outputs=(), **how)
    others = [dataclasses.replace(ASSET, id=id_, position=n) for n, id_ in enumerate("bc", 1)]
    items = plan(
        [ASSET, *others],
        [row],
        OPTIONS,
        wanted=WantedStages("id"),
        output_names={"a": "a", "b": "b", "c": "c"},
        state=tmp_path / STATE_FOLDER,
        stands=partial(intact, root=tmp_path),
        source_identity=lambda _: "1:1",
    )
    assert [(item.asset.id, item.suspect) for item in items] == [
        ("b", False),
        ("c", False),
        ("a", True),
    ]


def test_limits_that_refuse_recordings_touch_only_what_they_refused(tmp_path: Path) -> None:
    higher = dataclasses.replace(OPTIONS, max_duration_s=1e6)
    assert action(tmp_path, entry(tmp_path), options=higher) is Action.KEEP
    row = entry(tmp_path, state=State.FAILED, outputs=(), error_kind=ErrorKind.MEDIA_LIMIT)
    assert action(tmp_path, row) is Action.LEAVE_FAILED
    (planned,) = plan(
        [ASSET],
        [row],
        higher,
        wanted=WantedStages("id"),
        output_names={"a": "a"},
        state=tmp_path / STATE_FOLDER,
        stands=partial(intact, root=tmp_path),
        source_identity=lambda _: "1:1",
    )
    assert planned.action is Action.PROCESS


def test_damage_is_refused_afterwards_where_that_is_asked_for(tmp_path: Path) -> None:
    strict = dataclasses.replace(OPTIONS, damaged="fail")
    assert action(tmp_path, entry(tmp_path), options=strict) is Action.KEEP
    row = entry(tmp_path, notes=("damaged: 3 s of 4 s decoded",))
    assert action(tmp_path, row, options=strict) is Action.PROCESS
    assert action(tmp_path, row) is Action.KEEP


def test_a_failed_rendering_is_rendered_again_when_asked_for(tmp_path: Path) -> None:
    row = entry(tmp_path, state=State.FAILED)
    again = dataclasses.replace(OPTIONS, retry_failed=True)
    (planned,) = plan(
        [ASSET],
        [row],
        again,
        wanted=WantedStages("id"),
        output_names={"a": "a"},
        state=tmp_path / STATE_FOLDER,
        stands=partial(intact, root=tmp_path),
        source_identity=lambda _: "1:1",
    )
    assert (planned.action, planned.fresh) == (Action.RENDER, True)


def test_overwrite_does_everything(tmp_path: Path) -> None:
    options = dataclasses.replace(OPTIONS, overwrite=True)
    assert action(tmp_path, entry(tmp_path), options=options) is Action.PROCESS


REDO = dataclasses.replace(OPTIONS, redo_suspect=True)
DOUBTS = ("no words in 312 s of speech",)


def planned_for(root: Path, row: JournalEntry | None, options: RunOptions = REDO) -> Planned:
    (planned,) = plan(
        [ASSET],
        [row] if row else [],
        options,
        wanted=WantedStages("id"),
        output_names={"a": "a"},
        state=root / STATE_FOLDER,
        stands=partial(intact, root=root),
        source_identity=lambda _: "1:1",
    )
    return planned


def test_suspect_transcripts_are_done_again_where_asked_for_and_once(tmp_path: Path) -> None:
    row = entry(tmp_path, suspicions=DOUBTS)
    assert action(tmp_path, row) is Action.KEEP
    planned = planned_for(tmp_path, row)
    assert (planned.action, planned.redo, planned.published) == (Action.PROCESS, True, None)
    assert planned.decoding == safer(OPTIONS.decoding)
    assert planned.fingerprint == row.fingerprint  # a run without the flag keeps what it makes
    for settled in (dataclasses.replace(row, redone=1), dataclasses.replace(row, suspicions=())):
        assert action(tmp_path, settled, options=REDO) is Action.KEEP


def test_an_interrupted_redo_is_done_again_unless_it_crashed_the_program(tmp_path: Path) -> None:
    row = entry(tmp_path, suspicions=DOUBTS, state=State.INTERRUPTED)
    assert planned_for(tmp_path, row).redo
    assert action(tmp_path, row) is Action.RENDER
    crashed = planned_for(tmp_path, dataclasses.replace(row, deaths=1))
    assert (crashed.action, crashed.redo) == (Action.RENDER, False)


def test_what_is_done_window_by_window_already_is_not_done_again(tmp_path: Path) -> None:
    options = dataclasses.replace(REDO, decoding=safer(OPTIONS.decoding))
    row = entry(tmp_path, options, suspicions=DOUBTS)
    assert action(tmp_path, row, options=options) is Action.KEEP


def test_a_refused_recording_is_refused_whatever_its_transcript_is(tmp_path: Path) -> None:
    strict = dataclasses.replace(REDO, damaged="fail")
    row = entry(tmp_path, suspicions=DOUBTS, notes=("damaged: 3 s of 4 s decoded",))
    planned = planned_for(tmp_path, row, strict)
    assert (planned.action, planned.redo) == (Action.PROCESS, False)


def test_safer_decoding_is_whispers_own_and_keeps_the_wishes() -> None:
    asked = DecodingOptions(
        language="de",
        beam_size=3,
        word_timestamps=False,
        vad_onset=0.4,
        compression_ratio_threshold=None,
        condition_on_previous_text=True,
    )
    again = safer(asked)
    assert (again.language, again.beam_size, again.word_timestamps) == ("de", 3, False)
    assert (again.sequential, again.temperature, again.vad_onset) == (True, TEMPERATURE_LADDER, 0.4)
    assert (again.compression_ratio_threshold, again.logprob_threshold) == (2.4, -1.0)
    assert (again.no_speech_threshold, again.condition_on_previous_text) == (0.6, False)
    assert safer(again) == again


def test_a_redo_hears_the_words_anew_and_keeps_the_speakers(tmp_path: Path) -> None:
    first = dataclasses.replace(planned_for(tmp_path, None), stages={s: s.value for s in Stage})
    records = {
        stage: StageRecord(
            "a", stage, "1:1", first.stages[stage], PublishedFile("x", "a.json", 5, "0"), "cpu", 1.0
        )
        for stage in Stage
    }
    again = redo_of(dataclasses.replace(first, kept=records))
    assert set(again.kept) == {Stage.DIARIZE}
    assert again.missing == (Stage.TRANSCRIBE, Stage.ALIGN)
    assert again.stages == first.stages


def test_a_redo_follows_a_suspect_outcome_once(tmp_path: Path) -> None:
    planned = planned_for(tmp_path, None)
    suspect = Outcome("a", State.DONE, planned.fingerprint, "cpu", suspicions=DOUBTS)
    assert due_for_redo(planned, suspect, REDO)
    assert not due_for_redo(planned, suspect, OPTIONS)
    assert not due_for_redo(redo_of(planned), suspect, REDO)
    assert not due_for_redo(planned, dataclasses.replace(suspect, suspicions=()), REDO)
    assert not due_for_redo(planned, dataclasses.replace(suspect, state=State.INCOMPLETE), REDO)
    redone = planned_for(tmp_path, entry(tmp_path, suspicions=DOUBTS, redone=1))
    assert not due_for_redo(redone, suspect, REDO)
    assert due_for_redo(redone, suspect, dataclasses.replace(REDO, overwrite=True))
    changed = dataclasses.replace(redone, source="2:2")
    assert due_for_redo(changed, suspect, REDO)


@pytest.mark.parametrize("seen", [UNKNOWN, None])
def test_what_could_not_be_looked_at_is_done_from_what_lies_there_now(
    tmp_path: Path, seen: str | None
) -> None:
    """But what is done already, and what goes on from kept stages, is of the earlier recording."""
    asset = dataclasses.replace(ASSET, uri="https://one/a.wav", path=None, seen=seen)
    other = dataclasses.replace(OPTIONS, decoding=DecodingOptions(beam_size=2))

    def source(row: JournalEntry, options: RunOptions = OPTIONS, **more: Any) -> str:
        (found,) = plan(
            [asset],
            [row],
            options,
            wanted=WantedStages("id", keep_speakers=True),
            output_names={"a": "a"},
            state=tmp_path,
            stands=partial(intact, root=tmp_path),
            source_identity=lambda _: UNKNOWN,
            **more,
        )
        return found.source

    assert source(entry(tmp_path)) == "1:1"
    assert source(entry(tmp_path), other) == UNKNOWN
    killed = entry(tmp_path, state=State.INTERRUPTED, outputs=(), deaths=1)
    assert source(killed) == UNKNOWN
    diarized = StageRecord(
        "a", Stage.DIARIZE, "1:1", "who", PublishedFile("x", "a.json", 5, "0"), "cpu", 1.0
    )
    kept = {"a": {Stage.DIARIZE: diarized}}
    assert source(entry(tmp_path), other, stages=kept) == "1:1"
