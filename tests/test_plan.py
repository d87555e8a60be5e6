"""What a rerun does with each asset: the table of states."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from audio_batch.errors import ErrorKind
from audio_batch.journal import JournalEntry
from audio_batch.manifest import Asset
from audio_batch.options import DecodingOptions, RunOptions, WantedStages
from audio_batch.outcome import State
from audio_batch.plan import Action, plan
from audio_batch.storage import PublishedFile

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
        root=root,
        source_identity=lambda _: source,
    )
    assert planned.fresh == (
        row is not None and (options.overwrite or (options.retry_failed and not row.outputs))
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


def test_a_crash_makes_a_suspect_that_comes_last(tmp_path: Path) -> None:
    row = entry(tmp_path, state=State.INTERRUPTED, outputs=(), deaths=1)
    others = [dataclasses.replace(ASSET, id=id_, position=n) for n, id_ in enumerate("bc", 1)]
    items = plan(
        [ASSET, *others],
        [row],
        OPTIONS,
        wanted=WantedStages("id"),
        output_names={"a": "a", "b": "b", "c": "c"},
        root=tmp_path,
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
        root=tmp_path,
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
        root=tmp_path,
        source_identity=lambda _: "1:1",
    )
    assert (planned.action, planned.fresh) == (Action.RENDER, True)


def test_overwrite_does_everything(tmp_path: Path) -> None:
    options = dataclasses.replace(OPTIONS, overwrite=True)
    assert action(tmp_path, entry(tmp_path), options=options) is Action.PROCESS
