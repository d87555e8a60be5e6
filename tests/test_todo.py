"""What a run has to do, planned a few thousand assets at a time, is what a plan over all says."""

from __future__ import annotations

import dataclasses
import json
import random
import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from program import Answer, write_manifest

from audio_batch.errors import ErrorKind
from audio_batch.journal import Journal, JournalEntry
from audio_batch.lengths import Lengths
from audio_batch.manifest import Asset, Manifest, load
from audio_batch.naming import OutputNamer
from audio_batch.options import DecodingOptions, RunOptions, WantedStages, joint_fingerprint
from audio_batch.outcome import Stage, StageRecord, State
from audio_batch.outputs import LocalOutputs, intact
from audio_batch.plan import Action, Planned, danger, plan
from audio_batch.storage import PublishedFile
from audio_batch.survey import most_s
from audio_batch.todo import CHUNK, Planner, Todo, names_of_others

OPTIONS = RunOptions(model="m", engine="null", decoding=DecodingOptions(), formats=("json", "txt"))
WANTED = WantedStages("id")


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """An empty journal with a run in it."""
    journal = Journal(tmp_path / "journal.sqlite3")
    journal.begin_run(version="1", request={})
    yield journal
    journal.close()


def manifest_of(folder: Path, count: int, *, held: int = 10, **more: Any) -> Manifest:
    """Entries of which some ask for something themselves; their files are two."""
    (folder / "a.wav").write_bytes(b"12345")
    (folder / "b.wav").write_bytes(b"1234567")
    chance = random.Random(count)
    with (folder / "m.jsonl").open("w") as file:
        for number in range(count):
            entry: dict[str, Any] = {"id": f"x{chance.getrandbits(32):08x}-{number}"}
            entry["uri"] = chance.choice(["a.wav", "b.wav"])
            if number % 3:
                entry["duration"] = chance.choice([1, 5.5, 60])
            if number % 7 == 0:
                entry["language"] = chance.choice(["en", "de"])
            if number % 50 == 0:
                entry["prompt"] = f"Names: {number}"
            if number % 5 == 0:
                entry["priority"] = chance.choice([-1, 1, 2])
            file.write(json.dumps({**entry, **more}) + "\n")
    return load(folder / "m.jsonl", known_formats=frozenset({"json", "txt"}), held=held)


def planner_of(manifest: Manifest, journal: Journal, root: Path, **more: Any) -> Planner:
    values: dict[str, Any] = {
        "options": OPTIONS,
        "wanted": WANTED,
        "journal": journal,
        "output_names": OutputNamer().over(manifest.assets),
        "naming": "",
        "state": root / "state",
        "stands": partial(intact, LocalOutputs(root)),
    }
    return Planner(**{**values, **more})


def as_one(planner: Planner, assets: list[Asset]) -> list[Planned]:
    """The plan over all assets, made at once."""
    ids = [asset.id for asset in assets]
    return plan(
        assets,
        planner.journal.lookup.entries(ids),
        planner.options,
        wanted=planner.wanted,
        stages=planner.journal.stages(),
        naming=planner.naming,
        output_names={a.id: planner.output_names.at(a.position, a.id) for a in assets},
        state=planner.state,
        stands=planner.stands,
        source_identity=lambda _: "",
    )


def rows_for(planned: list[Planned], root: Path) -> Iterator[JournalEntry]:
    """All kinds of rows that earlier nights may have left, for most of these assets."""
    chance = random.Random(3)
    for item in planned:
        if chance.random() < 0.1:
            continue
        outputs = []
        for name in ("json", "txt")[: chance.choice([2, 2, 2, 1, 0])]:
            path = f"{item.output_name}.{name}"
            if chance.random() < 0.95:
                (root / path).write_bytes(b"12345")
            size = 5 if chance.random() < 0.95 else 6
            outputs.append(PublishedFile(name, path, size, "0"))
        layout, _, rest = item.rendering.partition("|")
        values: dict[str, Any] = {field.name: None for field in dataclasses.fields(JournalEntry)}
        state = State.DONE
        if chance.random() < 0.4:
            state = chance.choice([s for s in State if s is not State.DONE])
        values |= {
            "asset_id": item.asset.id,
            "name": item.asset.name,
            "state": state,
            "source": item.source if chance.random() < 0.9 else "1:1",
            "fingerprint": item.fingerprint if chance.random() < 0.9 else "other",
            "rendering": chance.choice(
                [*[item.rendering] * 8, f"other|{rest}", f"{layout}|99:flag|", f"{layout}|{rest}?"]
            ),
            "attempts": chance.choice([1, 1, 2]),
            "deaths": chance.choice([0, 0, 0, 1, 3]),
            "device": "cpu",
            "error_kind": None if state is State.DONE else chance.choice(list(ErrorKind)),
            "notes": chance.choice([(), (), (), ("damaged: 1 s",)]),
            "suspicions": chance.choice([(), (), (), ("quiet",)]),
            "missing": chance.choice([(), (), (), (Stage.DIARIZE.value,)]),
            "outputs": tuple(outputs),
            "timings_s": {},
            "redone": 0,
            "run_id": 1,
        }
        yield JournalEntry(**values)


def drained(todo: Todo, count: int = 10**6) -> list[Planned]:
    found: list[Planned] = []
    while len(todo):
        found += todo.take(count)
    return found


ASKED = [
    {},
    {"overwrite": True},
    {"retry_failed": True},
    {"redo_suspect": True},
    {"damaged": "fail"},
    {"max_attempts": 1},
    {"in_order": True},
    {"formats": ("json",)},
    {"formats": ()},
]


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_a_plan_in_pieces_is_the_plan(
    tmp_path: Path, journal: Journal, asked: dict[str, Any]
) -> None:
    manifest = manifest_of(tmp_path, 900)
    before = planner_of(manifest, journal, tmp_path)
    planner = dataclasses.replace(before, options=dataclasses.replace(OPTIONS, **asked))
    assets = list(manifest.assets)
    # Some rows are of the last night, with other options, some of this one, which was broken off.
    journal.adopt(rows_for(as_one(before, assets[::2]), tmp_path), 1)
    journal.adopt(rows_for(as_one(planner, assets[1::2]), tmp_path), 1)
    expected = as_one(planner, assets)
    todo = Todo.of(manifest.assets, planner)
    by_action = {action: [i for i in expected if i.action is action] for action in Action}
    assert todo.kept == len(by_action[Action.KEEP])
    assert todo.left_failed == len(by_action[Action.LEAVE_FAILED])
    assert set(todo.quarantined) == {i.asset.id for i in by_action[Action.QUARANTINE]}
    to_do = [i for i in expected if i.action in (Action.PROCESS, Action.RENDER)]
    assert len(todo) == len(to_do) > 100
    assert todo.to_hear == len(by_action[Action.PROCESS])
    assert todo.needed() == {stage for i in by_action[Action.PROCESS] for stage in i.missing}
    assert [asset.id for asset in todo.chosen()] == [i.asset.id for i in to_do]
    remarkable = {
        i.asset.id
        for i in expected
        if (i not in to_do and i.entry and (i.entry.notes or i.entry.suspicions))
        or i.action in (Action.LEAVE_FAILED, Action.QUARANTINE)
    }
    assert {i.asset.id for i in expected if todo.stands(i.asset.id)} == remarkable
    assert drained(todo) == to_do


def test_rows_that_stand_are_kept_without_their_entries(tmp_path: Path, journal: Journal) -> None:
    """The short way is gone at all, and by many assets at a time."""
    manifest = manifest_of(tmp_path, CHUNK + 500)
    planner = planner_of(manifest, journal, tmp_path)
    rows = []
    for item in as_one(planner, list(manifest.assets)):
        (tmp_path / f"{item.output_name}.json").write_bytes(b"12345")
        row = next(rows_for([item] * 30, tmp_path))
        outputs = (PublishedFile("json", f"{item.output_name}.json", 5, "0"),)
        rows.append(
            dataclasses.replace(
                row,
                state=State.DONE,
                source=item.source,
                fingerprint=item.fingerprint,
                rendering=item.rendering,
                outputs=outputs,
                error_kind=None,
                notes=(),
                suspicions=(),
                missing=(),
            )
        )
    journal.adopt(rows, 1)
    keeping = planner.keeping(set())
    sure = [n for n in range(len(rows)) if not manifest.assets[n].prompt]
    assert keeping.unsure(manifest.assets, sure, {}, neighbours=True) == []
    assert keeping.unsure(manifest.assets, sure[:9], {}, neighbours=False) == []
    todo = Todo.of(manifest.assets, planner)
    assert (todo.kept, len(todo)) == (len(rows), 0)
    # As soon as one output is gone it is to be done.
    (tmp_path / f"{manifest.assets[7].id}.json").unlink()
    again = Todo.of(manifest.assets, planner)
    assert [item.asset.position for item in drained(again)] == [7]


def test_kept_speakers_are_kept_over_the_short_way(tmp_path: Path, journal: Journal) -> None:
    manifest = manifest_of(tmp_path, 20, held=0)
    wanted = WantedStages("id", keep_speakers=True)
    planner = planner_of(manifest, journal, tmp_path, wanted=wanted)
    rows = []
    for item in as_one(planner, list(manifest.assets)):
        kept = tmp_path / "state" / f"{item.asset.id}.turns"
        kept.parent.mkdir(exist_ok=True)
        kept.write_bytes(b"123")
        file = PublishedFile("diarize", kept.name, 3, "0")
        journal.finish_stage(
            StageRecord(item.asset.id, Stage.DIARIZE, item.source, "turns", file, "cpu", 1.0, 1.0)
        )
        (tmp_path / f"{item.output_name}.json").write_bytes(b"12345")
        joint = joint_fingerprint({**item.stages, Stage.DIARIZE: "turns"})
        rows.append(
            dataclasses.replace(
                next(rows_for([item] * 30, tmp_path)),
                state=State.DONE,
                source=item.source,
                fingerprint=joint,
                rendering=item.rendering,
                error_kind=None,
                notes=(),
                missing=(),
                outputs=(PublishedFile("json", f"{item.output_name}.json", 5, "0"),),
            )
        )
    journal.adopt(rows, 1)
    assert Todo.of(manifest.assets, planner).kept == 20


def test_many_are_handed_out_as_the_runner_would_begin_them(
    tmp_path: Path, journal: Journal
) -> None:
    manifest = manifest_of(tmp_path, 21_000)
    todo = Todo.of(manifest.assets, planner_of(manifest, journal, tmp_path))
    lengths = Lengths()
    begun = [todo.take(1000) for _ in range(3)]
    assert len(todo) == 18_000
    while len(todo):
        begun.append(todo.take(5000))
    ranks = [
        (danger(item), -item.asset.priority, -lengths.of_asset(item), item.asset.position)
        for some in begun
        for item in sorted(some, key=lambda i: (-i.asset.priority, -lengths.of_asset(i)))
    ]
    assert ranks == sorted(ranks)
    assert len(ranks) == 21_000


def test_what_is_put_off_comes_again_behind_all_others(tmp_path: Path, journal: Journal) -> None:
    manifest = manifest_of(tmp_path, 900)
    todo = Todo.of(manifest.assets, planner_of(manifest, journal, tmp_path))
    in_order = drained(Todo.of(manifest.assets, todo.planner))
    some = todo.take(300)
    for item in some[::3]:
        todo.put_off(item)
    assert (len(todo), todo.ready) == (700, 600)
    more = todo.take(200)
    todo.put_off(more[7])
    todo.recall()
    assert (len(todo), todo.ready) == (501, 501)
    rest = drained(todo, 250)
    assert [*some, *more, *rest] == [*in_order, *some[::3], more[7]]
    assert [asset.id for asset in todo.chosen()] == [item.asset.id for item in in_order]


def test_what_came_back_meanwhile_is_not_done(tmp_path: Path, journal: Journal) -> None:
    manifest = manifest_of(tmp_path, 3, held=0)
    planner = planner_of(manifest, journal, tmp_path)
    rows = []
    for item in as_one(planner, list(manifest.assets)):
        outputs = (PublishedFile("json", f"{item.output_name}.json", 5, "0"),)
        plain = {"outputs": outputs, "notes": (), "suspicions": (), "missing": ()}
        row = next(rows_for([item] * 30, tmp_path))
        rows.append(
            dataclasses.replace(
                row,
                state=State.DONE,
                source=item.source,
                fingerprint=item.fingerprint,
                **{"rendering": item.rendering, "error_kind": None, **plain},
            )
        )
    journal.adopt(rows, 1)
    for asset in manifest.assets:
        (tmp_path / f"{asset.id}.json").unlink(missing_ok=True)
    todo = Todo.of(manifest.assets, planner)
    assert len(todo) == 3
    for asset in manifest.assets.pick([0, 2]):
        (tmp_path / f"{asset.id}.json").write_bytes(b"12345")
    assert [item.asset.position for item in todo.take(1) + todo.take(5)] == [1]
    assert todo.take(1) == []


def test_names_of_other_manifests_assets(tmp_path: Path, journal: Journal) -> None:
    manifest = manifest_of(tmp_path, 30, held=0)
    planner = planner_of(manifest, journal, tmp_path)
    assert list(names_of_others(manifest.assets, journal)) == []
    item = as_one(planner, list(manifest.assets))[0]
    ours, theirs = (next(rows_for([item] * 30, tmp_path)) for _ in range(2))
    published = {
        "y": (PublishedFile("txt", "none.txt", 5, "0"),),
        "z": (PublishedFile("txt", "a.txt", 5, "0"), PublishedFile("json", "a.b.json", 5, "0")),
        "ä": (PublishedFile("json", 'sub/thé"irs.json', 5, "0"),),
    }
    rows = [
        dataclasses.replace(theirs, asset_id=asset_id, outputs=outputs)
        for asset_id, outputs in published.items()
    ]
    journal.adopt([ours, *rows], 1)
    assert sorted(names_of_others(manifest.assets, journal)) == ["a.b", 'sub/thé"irs']


def test_of_many_other_assets_no_more_than_hashes_is_held(tmp_path: Path, journal: Journal) -> None:
    manifest = manifest_of(tmp_path, 30, held=0)
    row = next(
        rows_for(
            [as_one(planner_of(manifest, journal, tmp_path), list(manifest.assets))[0]] * 30,
            tmp_path,
        )
    )
    count = 60_000
    journal.adopt(
        (
            dataclasses.replace(
                row, asset_id=f"z-{n}", outputs=(PublishedFile("json", f"Z-{n}.json", 5, "0"),)
            )
            for n in range(count)
        ),
        1,
    )
    one = manifest.assets[3]
    tracemalloc.start()
    try:
        names = OutputNamer("{id}").over(
            manifest.assets, taken=names_of_others(manifest.assets, journal)
        )
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 50 * count
    assert names.at(3, one.id) == one.id
    theirs = [
        Asset(asset_id, "", None, "", n) for n, asset_id in enumerate(("z-5", "y", "z-59999"))
    ]
    told = OutputNamer().over(theirs, taken=names_of_others(manifest.assets, journal)).told_apart()
    assert [name[:5] for name in told] == ["z-5--", "z-599"]


def test_the_headers_are_read_without_the_manifest(tmp_path: Path, journal: Journal) -> None:
    entries = json.loads(write_manifest(tmp_path, 3, duration_s=2.0).read_text())["assets"]
    path = tmp_path / "m.jsonl"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    manifest = load(path, known_formats=frozenset(), held=0)
    survey = Todo.of(manifest.assets, planner_of(manifest, journal, tmp_path)).survey()
    path.write_text("written over")
    survey.start()
    until = time.monotonic() + 120
    while time.monotonic() < until and (survey.total_s() or 0) < 6.002:
        time.sleep(0.01)
    assert survey.total_s() == pytest.approx(6.003, abs=0.01)


def test_a_file_says_by_its_size_how_long_it_is_at_most() -> None:
    asset = Asset("a", "a.opus", Path("a.opus"), "a", 0, seen="5000:17")
    assert most_s(asset) == 10.0
    assert most_s(dataclasses.replace(asset, seen=None)) is None
    assert most_s(dataclasses.replace(asset, path=None)) is None


def test_many_names_that_clash_and_many_that_do_not(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"1")
    count = 60_000
    with (tmp_path / "m.jsonl").open("w") as file:
        for number in range(count):
            file.write(f'{{"id": "a-{number}", "uri": "a.wav"}}\n')
        for number in (5, 59_999):
            file.write(f'{{"id": "A-{number}", "uri": "a.wav"}}\n')
        file.write('{"id": "summary", "uri": "a.wav"}\n')
    manifest = load(tmp_path / "m.jsonl", known_formats=frozenset())
    names = OutputNamer().over(manifest.assets)
    told = [names.at(number, one) for number, one in enumerate(manifest.assets.ids())]
    changed = [
        n
        for n, (name, one) in enumerate(zip(told, manifest.assets.ids(), strict=True))
        if name != one
    ]
    assert changed == [5, 59_999, count, count + 1, count + 2]
    assert len({name.casefold() for name in told}) == count + 3
    assert len(names.told_apart()) == 4


def test_a_run_that_publishes_nothing_is_resumed_too(
    cli: Callable[..., Answer], tmp_path: Path
) -> None:
    manifest = write_manifest(tmp_path, 3)
    null = ("--engine", "null", "--model", "null:0", "-o", "out")
    assert cli("run", manifest, *null, "-f", "none").code == 0
    assert list((tmp_path / "out").glob("tone-*")) == []
    again = cli("run", manifest, *null, "-f", "none")
    assert (again.code, "Nothing to do" in again.err) == (0, True)
    # What was never published is done as soon as somebody wants it.
    assert cli("run", manifest, *null, "-f", "txt").code == 0
    assert len(list((tmp_path / "out").glob("tone-*.txt"))) == 3
    refused = cli("run", manifest, "--model", "demo", "--no-diarize", "-o", "out", "-f", "none")
    assert (refused.code, "throw away" in refused.err) == (2, True)


def test_parts_of_a_manifest_are_a_partition_of_what_is_chosen(
    cli: Callable[..., Answer], tmp_path: Path
) -> None:
    manifest = write_manifest(tmp_path, 12)
    null = ("--engine", "null", "--model", "null", "-o", "out", "-f", "txt")
    done: list[str] = []
    for part in (1, 2, 3):
        asked = ("--order", "reverse", "--limit", 9, "--shard", f"{part}/3")
        assert cli("run", manifest, *null, *asked).code == 0
        found = {path.stem for path in (tmp_path / "out").glob("tone-*.txt")} - set(done)
        done += found
    assert sorted(done) == [f"tone-{number:03d}" for number in range(3, 12)]
