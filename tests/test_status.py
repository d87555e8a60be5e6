"""What a person is told: by `status`, by the closing table, in JSON; of many assets, of parts."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import sqlite3
import time
import tracemalloc
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

import pytest
from program import Answer
from rich.console import Console

from audio_batch import journal_counts, summary
from audio_batch.errors import ErrorKind, ExitCode
from audio_batch.journal import Journal
from audio_batch.journals import Journals
from audio_batch.outcome import Outcome, RunResult, Stage, StageRecord, State, StoreAway
from audio_batch.output_folder import OutputFolder
from audio_batch.shards import Shard
from audio_batch.storage import PublishedFile

OUTPUT = PublishedFile(format="json", path="a.json", size_bytes=3, sha256="0" * 64)
DOUBTS = ("no words in 312 s of speech", "the same [b]word[/b] 40 times on end")


def filled(root: Path, *ids: str, shard: str | None = None) -> Path:
    """A folder in which one run was: what came of its assets is told by their ids."""
    folder = OutputFolder.at(str(root), shard=shard)
    folder.create()
    journal = Journal(folder.journal_path)
    run = journal.begin_run(version="0", request={"manifest": "m.json"})
    with journal.grouped():
        for asset_id in ids:
            add(journal, run, asset_id)
    journal.end_run(run, 0)
    journal.close()
    return root


def add(journal: Journal, run: int, asset_id: str) -> None:
    journal.start(
        asset_id,
        name=asset_id.title(),
        source="1:1",
        fingerprint="f",
        rendering="r",
        device="cpu",
        run_id=run,
    )
    if asset_id.startswith("running"):
        return
    heard = StageRecord(asset_id, Stage.TRANSCRIBE, "1:1", "f", OUTPUT, "cpu", 1.0)
    done = Outcome(
        asset_id,
        State.DONE,
        "f",
        "cpu",
        outputs=(OUTPUT,),
        notes=("clipped",) if asset_id == "suspect" else (),
        suspicions=DOUBTS if asset_id in ("suspect", "redone") else (),
        stages=(heard,),
    )
    failed = Outcome(
        asset_id,
        State.FAILED,
        "f",
        "cpu",
        error_kind=ErrorKind.NOT_MEDIA,
        error_text="no media",
    )
    journal.finish(failed if asset_id.startswith("failed") else done, redo=asset_id == "redone")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder in which one transcript is sound, two are suspect, and one asset failed."""
    return filled(tmp_path / "out", "sound", "suspect", "redone", "failed")


def ids(answer: Answer) -> set[str]:
    assert answer.code == 0
    return {asset["asset_id"] for asset in json.loads(answer.out)["assets"]}


def test_status_lists_the_suspects(cli: Callable[..., Answer], out: Path) -> None:
    assert ids(cli("status", out, "--json", "--suspect")) == {"suspect", "redone"}
    assert ids(cli("status", out, "--json", "--suspect", "--failed")) == {
        "suspect",
        "redone",
        "failed",
    }
    body = json.loads(cli("status", out, "--json").out)
    assert (len(body["assets"]), body["suspect"], body["counts"]["done"]) == (4, 2, 3)
    told = {asset["asset_id"]: (asset["suspicions"], asset["redone"]) for asset in body["assets"]}
    assert told["suspect"] == (list(DOUBTS), 0)
    assert told["redone"] == (list(DOUBTS), 1)
    assert told["sound"] == ([], 0)


def test_status_shows_them_as_text(cli: Callable[..., Answer], out: Path) -> None:
    shown = cli("status", out, "--suspect", env={"COLUMNS": "200"}).out
    assert "3 done, 1 failed, 2 of them suspect" in shown
    assert "suspect: no words in 312 s of speech; suspect: the same [b]word[/b] 40 times" in shown
    assert "clipped" in shown
    assert "Sound" not in shown


def test_nothing_runs_after_the_last_run_has_ended(cli: Callable[..., Answer], out: Path) -> None:
    """A run that leaves work behind in native code ends without a word on that work."""
    journal = Journal(OutputFolder(out).journal_path)
    run = journal.begin_run(version="0", request={})
    journal.start(
        "left", name="Left", source="1", fingerprint="f", rendering="r", device="cpu", run_id=run
    )
    with OutputFolder(out).locked():
        at_work = json.loads(cli("status", out, "--json").out)["counts"]
    assert (at_work["running"], at_work["interrupted"]) == (1, 0)
    journal.end_run(run, 130)
    journal.close()
    ended = json.loads(cli("status", out, "--json").out)
    assert (ended["counts"]["running"], ended["counts"]["interrupted"]) == (0, 1)
    assert "running" not in {asset["state"] for asset in ended["assets"]}


def test_stores_that_were_away_are_told_with_what_to_do(tmp_path: Path) -> None:
    out = filled(tmp_path / "out", "sound")
    one = summed_up(out, 3, result=RunResult(stores_away=(AWAY,)))
    assert one.exit_code == 5
    told = f"{AWAY.store} is away: {AWAY.reason}; 2 assets wait for it. {AWAY.remedy}"
    assert told in shown(one)
    for stopped, code in (("interrupted", 130), ("stopped_by_failure", 3)):
        result = RunResult(stores_away=(AWAY,), **{stopped: True})
        assert summed_up(out, 3, result=result).exit_code == code


AWAY = StoreAway("s3://", "nobody is signed in", 2, "Sign in, and run the same command.")


@pytest.mark.parametrize(
    ("result", "ended_by", "words"),
    [
        (RunResult(out_of_time=True), "time_limit", "The time was up (--until, --max-runtime)"),
        (RunResult(interrupted=True), "signal", "It was interrupted"),
        (RunResult(stopped_by_failure=True), "failure", "It was ended after a failure"),
        (RunResult(stores_away=(AWAY,)), "store_away", "A store was away"),
    ],
)
def test_what_left_assets_to_the_next_run_is_told(
    tmp_path: Path, result: RunResult, ended_by: str, words: str
) -> None:
    out = filled(tmp_path / "out", "sound")
    one = summed_up(out, 2, result=result)
    assert one.to_json()["ended_by"] == ended_by
    assert words.lower() in summary.line(one).lower()
    assert f"{words}: 1 asset is left; run the same command again to go on." in shown(one)
    whole = summed_up(out, 1, result=result)
    assert whole.to_json()["ended_by"] is None
    assert words not in shown(whole)


def summed_up(
    out: Path,
    selected: int,
    *,
    result: RunResult | None = None,
    run_id: int | None = 1,
    done_before: int = 0,
    standing: Collection[str] = (),
) -> summary.Summary:
    journal = Journal(OutputFolder(out).journal_path, read_only=True)
    return summary.summarise(
        manifest="m.json",
        output_folder=str(out),
        journal=journal,
        selected=selected,
        done_before=done_before,
        stands=standing.__contains__,
        run_id=run_id,
        result=result or RunResult(),
    )


def shown(one: summary.Summary) -> str:
    text = io.StringIO()
    summary.show(one, Console(file=text, width=200))
    return text.getvalue()


def test_a_suspicion_is_told_and_changes_no_exit_code(tmp_path: Path) -> None:
    one = summed_up(filled(tmp_path / "out", "sound", "suspect", "redone"), 3)
    assert (one.exit_code, one.done) == (ExitCode.OK, 3)
    assert one.to_json()["suspect"] == [
        {"id": "redone", "name": "Redone", "suspicions": list(DOUBTS), "redone": 1},
        {"id": "suspect", "name": "Suspect", "suspicions": list(DOUBTS), "redone": 0},
    ]
    assert "3 done now, 0 before, 0 failed, 2 suspect, 0 not done" in summary.line(one)
    text = shown(one)
    assert "of these suspect │    2" in text
    assert "suspect, though done again: Redone (redone): no words in 312 s of speech" in text
    assert "Perhaps not the whole truth: 1; --redo-suspect does them again, once" in text


def test_a_sound_night_says_nothing_of_suspicions(tmp_path: Path) -> None:
    one = summed_up(filled(tmp_path / "out", "sound"), 1)
    assert one.to_json()["suspect"] == []
    assert "suspect" not in shown(one) + summary.line(one)


def test_what_earlier_runs_left_is_told_of_selected_assets_only(out: Path) -> None:
    journal = Journal(OutputFolder(out).journal_path)
    run = journal.begin_run(version="0", request={})
    add(journal, run, "failed-now")
    add(journal, run, "new")
    journal.close()
    # Selected: these two, "sound" and "suspect", which are done, and "failed", which is left.
    one = summed_up(out, 6, run_id=run, done_before=2, standing=("suspect", "failed"))
    assert (one.done, one.done_before, one.failed, one.failed_before) == (1, 2, 1, 1)
    assert one.not_done == 1
    assert [failure["id"] for failure in one.failures] == ["failed", "failed-now"]
    assert [doubt["id"] for doubt in one.suspect] == ["suspect"]
    assert [noted["id"] for noted in one.noted] == ["suspect"]
    # The next run has all of it to do again and comes to nothing: nothing stands.
    again = summed_up(out, 6, run_id=run + 1)
    assert (again.done, again.failed, again.failed_before, again.not_done) == (0, 0, 0, 6)
    assert again.failures == again.suspect == again.noted == []


def test_the_file_has_every_failure_and_the_table_the_first(tmp_path: Path) -> None:
    failed = [f"failed-{number:03d}" for number in range(summary.SHOWN_FAILURES + 10)]
    out = filled(tmp_path / "out", *failed, "suspect")
    one = summed_up(out, len(failed) + 1)
    assert "and 10 more failures; see summary.json" in shown(one)
    summary.write(one, tmp_path / "summary.json")
    body = json.loads((tmp_path / "summary.json").read_text(encoding="ascii"))
    assert [failure["id"] for failure in body["failures"]] == failed
    assert [doubt["id"] for doubt in body["suspect"]] == ["suspect"]
    assert [noted["id"] for noted in body["noted"]] == ["suspect"]
    assert set(body) == set(one.to_json())
    assert body["failed"] == len(failed)
    assert len(one.to_json()["failures"]) == summary.SHOWN_FAILURES


def test_results_that_the_database_has_not_taken_are_told(tmp_path: Path) -> None:
    one = summed_up(filled(tmp_path / "out", "sound"), 1)
    assert one.to_json()["results_undelivered"] is None
    assert "database" not in shown(one)
    one.results_undelivered = 3
    assert one.to_json()["results_undelivered"] == 3
    assert re.search(r"results not written +│ +3", shown(one))
    assert "audio-batch results push" in shown(one)


# ---- Many assets


def listed(shown: str) -> list[str]:
    """The ids that `status` shows, in their order."""
    lines = (line.split() for line in shown.splitlines())
    return [line[1] for line in lines if line[0] in ("done", "failed")]


def test_the_list_is_bounded_and_begins_with_what_failed(
    cli: Callable[..., Answer], tmp_path: Path
) -> None:
    done = [f"a-{number:03d}" for number in range(260)]
    out = filled(tmp_path / "out", *done, "failed-1", "failed-2", "suspect")
    shown = cli("status", out).out
    rows = listed(shown)
    assert len(rows) == 200
    assert rows[:4] == ["failed-1", "failed-2", "suspect", "a-000"]
    assert "261 done, 2 failed, 1 of them suspect" in shown
    assert "These are 200 of 263; --all shows every one" in shown
    every = cli("status", out, "--all").out
    assert listed(every) == ["failed-1", "failed-2", "suspect", *done]
    assert "These are" not in every
    counts = cli("status", out, "--counts").out
    assert "261 done, 2 failed, 1 of them suspect" in counts
    assert not listed(counts)
    body = json.loads(cli("status", out, "--counts", "--json").out)
    assert (body["counts"]["done"], body["assets"]) == (261, [])


def test_json_is_ascii_whatever_is_in_the_journal(cli: Callable[..., Answer], out: Path) -> None:
    journal = Journal(OutputFolder(out).journal_path)
    run = journal.begin_run(version="0", request={})
    name = 'Gr\u00fc\u00df \U0001f600 "q" \x1b[31m \u202e'
    journal.start(
        "odd", name=name, source="1", fingerprint="f", rendering="r", device="cpu", run_id=run
    )
    journal.finish(Outcome("odd", State.DONE, "f", "cpu", duration_s=1.25, outputs=(OUTPUT,)))
    journal.end_run(run, 0)
    (entry,) = (entry for entry in journal.entries() if entry.asset_id == "odd")
    journal.close()
    text = cli("status", out, "--json").out
    assert text.isascii()
    assert "\x1b" not in text
    (odd,) = (asset for asset in json.loads(text)["assets"] if asset["asset_id"] == "odd")
    expected = json.loads(json.dumps(dataclasses.asdict(entry)))
    assert set(odd) == set(expected)
    for key in ("started_at", "finished_at"):
        assert odd.pop(key) == pytest.approx(expected.pop(key))
    assert odd == expected


def test_a_page_never_holds_the_journal(out: Path) -> None:
    """Whoever reads slowly keeps no run from committing."""
    reader = Journal(OutputFolder(out).journal_path, read_only=True)
    pages = reader.tally().as_json(journal_counts.FAILED | journal_counts.REST)
    rows = reader.tally().entries(journal_counts.ALL)
    assert next(pages).count("asset_id") == 1
    next(rows)
    writer = Journal(OutputFolder(out).journal_path)
    writer._db.execute("PRAGMA busy_timeout = 0")
    run = writer.begin_run(version="0", request={})
    writer.end_run(run, 0)
    assert len(list(rows)) == 3
    assert len(list(pages)) == 1
    reader.close()
    writer.close()


def test_pages_are_gone_through_to_the_end(tmp_path: Path) -> None:
    ids = [f"a-{number:05d}" for number in range(journal_counts.PAGE + 3)]
    out = filled(tmp_path / "out", *ids)
    journal = Journal(OutputFolder(out).journal_path, read_only=True)
    assert [entry.asset_id for entry in journal.tally().entries(journal_counts.ALL)] == ids
    some = journal.tally().entries(journal_counts.REST, journal_counts.PAGE + 1)
    assert [entry.asset_id for entry in some] == ids[: journal_counts.PAGE + 1]
    pages = list(journal.tally().as_json(journal_counts.ALL))
    assert len(pages) == 2
    rows = json.loads(f"[{journal_counts.BETWEEN.join(pages)}]")
    assert [row["asset_id"] for row in rows] == ids
    journal.close()
    # A second journal has all but the first ones, and some of its own, and is newer.
    others = [*ids[3:], "b-1", "b-2"]
    filled(out, *others, shard="1/1")
    with Journals(OutputFolder(out).whole) as journals:
        assert [part.tally.counts().states[State.DONE] for part in journals.parts] == [
            3,
            len(others),
        ]
        listed = [entry.asset_id for entry in journals.entries(journal_counts.ALL)]
    assert sorted(listed) == sorted({*ids, *others})


def test_an_older_journal_is_read_as_it_is(cli: Callable[..., Answer], tmp_path: Path) -> None:
    """Schema 4, as before the index of suspicions; and schema 2, which knew none."""
    out = filled(tmp_path / "out", "sound", "suspect", "failed")
    path = OutputFolder(out).journal_path
    db = sqlite3.connect(path)
    db.execute("UPDATE meta SET value = '4' WHERE key = 'schema_version'")
    db.execute("DROP INDEX assets_suspect")
    db.execute("DROP INDEX assets_noted")
    db.commit()
    before = path.read_bytes()
    body = json.loads(cli("status", out, "--json").out)
    assert path.read_bytes() == before
    assert (body["counts"]["done"], body["counts"]["failed"], body["suspect"]) == (2, 1, 1)
    db.execute("ALTER TABLE assets DROP COLUMN suspicions")
    db.execute("ALTER TABLE assets DROP COLUMN redone")
    db.execute("UPDATE meta SET value = '2' WHERE key = 'schema_version'")
    db.commit()
    db.close()
    body = json.loads(cli("status", out, "--json").out)
    assert (body["counts"]["done"], body["suspect"]) == (2, 0)
    assert [asset["suspicions"] for asset in body["assets"]] == [[], [], []]
    assert "failed" in cli("status", out, "--failed").out


def test_a_folder_without_a_journal_is_told(cli: Callable[..., Answer], tmp_path: Path) -> None:
    answer = cli("status", tmp_path / "nothing")
    assert answer.code == 2
    assert "holds no journal of a run" in answer.err


def test_a_store_is_told_from_its_local_state(cli: Callable[..., Answer], tmp_path: Path) -> None:
    """Nothing is asked of the store: the journal is here."""
    state = OutputFolder(filled(tmp_path / "local", "sound", "failed")).state
    url = "s3://bucket/night"
    told = cli("status", url, "--state-dir", state, "--json")
    assert json.loads(told.out)["counts"]["done"] == 1, told.err
    by_variable = cli("status", url, "--counts", env={"AUDIO_BATCH_STATE_DIR": str(state)})
    assert "1 done, 1 failed" in by_variable.out
    home = {"XDG_STATE_HOME": str(tmp_path / "home")}
    unknown = cli("status", url, env=home)
    assert (unknown.code, "--state-dir" in unknown.err) == (2, True)


# ---- Parts (--shard)


def of_part(shard: str, ids: Iterable[str]) -> list[str]:
    return [asset_id for asset_id in ids if Shard.parse(shard).takes(asset_id)]


def test_parts_are_told_as_one(cli: Callable[..., Answer], tmp_path: Path) -> None:
    ids = [f"asset-{number}" for number in range(40)]
    out = tmp_path / "out"
    for shard in ("1/3", "3/3"):
        filled(out, *of_part(shard, ids), shard=shard)
    body = json.loads(cli("status", out, "--json").out)
    there = sorted(of_part("1/3", ids) + of_part("3/3", ids))
    assert body["counts"]["done"] == len(there)
    assert sorted(asset["asset_id"] for asset in body["assets"]) == there
    assert [part["shard"] for part in body["parts"]] == ["1/3", "3/3"]
    assert body["parts_not_begun"] == ["2/3"]
    shown = cli("status", out).out
    assert "Part 1/3: began" in shown
    assert "Not begun: 2/3." in shown


def test_an_asset_of_several_journals_counts_once(
    cli: Callable[..., Answer], tmp_path: Path
) -> None:
    """First a run over all, in which one failed; then two parts, which did some of it again."""
    ids = [f"asset-{number}" for number in range(20)]
    out = filled(tmp_path / "out", *ids, "failed-once", "failed-twice")
    for shard in ("1/2", "2/2"):
        mine = of_part(shard, [*ids[:5], "failed-twice"])
        folder = filled(out, *mine, shard=shard)
        journal = Journal(OutputFolder.at(str(folder), shard=shard).journal_path)
        run = journal.begin_run(version="0", request={})
        for asset_id in of_part(shard, ["failed-once", ids[7], "new"]):
            journal.start(
                asset_id,
                name=asset_id,
                source="1",
                fingerprint="f",
                rendering="r",
                device="cpu",
                run_id=run,
            )
            if asset_id != ids[7]:  # that one is at work: what stood of it stands
                journal.finish(Outcome(asset_id, State.DONE, "f", "cpu", outputs=(OUTPUT,)))
        journal.close()
    body = json.loads(cli("status", out, "--json").out)
    states = {asset["asset_id"]: asset["state"] for asset in body["assets"]}
    assert len(body["assets"]) == len(states) == 23
    assert states == {
        **dict.fromkeys([*ids, "failed-once", "new"], "done"),
        "failed-twice": "failed",
    }
    assert {state: n for state, n in body["counts"].items() if n} == {"done": 22, "failed": 1}
    failed = json.loads(cli("status", out, "--json", "--failed").out)
    assert [asset["asset_id"] for asset in failed["assets"]] == ["failed-twice"]


# ---- A million


def a_million(root: Path, count: int) -> None:
    """As a run leaves it: each thousandth failed, as many are suspect."""
    folder = OutputFolder(root)
    folder.create()
    journal = Journal(folder.journal_path)
    run = journal.begin_run(version="0", request={"manifest": "m.json"})
    for asset_id in ("failed", "suspect", "sound"):
        add(journal, run, asset_id)
    journal.end_run(run, 3)
    journal.close()
    with sqlite3.connect(folder.journal_path) as db:
        names = [row[1] for row in db.execute("PRAGMA table_info(assets)")][1:]
        for like, where in (
            ("failed", "n % 1000 = 7"),
            ("suspect", "n % 1000 = 8"),
            ("sound", "n % 1000 NOT IN (7, 8)"),
        ):
            db.execute(
                f"WITH RECURSIVE c (n) AS (SELECT 3 UNION ALL SELECT n + 1 FROM c WHERE n < ?)"
                f" INSERT INTO assets (asset_id, {', '.join(names)})"
                f" SELECT printf('asset-%07d', n), {', '.join(names)} FROM c, assets"
                f" WHERE asset_id = '{like}' AND {where}",
                (count - 1,),
            )


@pytest.mark.slow
def test_a_million_assets_are_counted_at_once(cli: Callable[..., Answer], tmp_path: Path) -> None:
    count = 1_000_000
    a_million(tmp_path / "out", count)
    measured: dict[str, float] = {}
    for flags in (("--counts",), (), ("--failed", "--json"), ("--json",)):
        begin = time.monotonic()
        answer = cli("status", tmp_path / "out", *flags)
        measured[" ".join(flags) or "status"] = round(time.monotonic() - begin, 2)
        assert answer.code == 0
        if "--json" in flags:
            listed = answer.out.count('{"asset_id"')
            assert listed == (1001 if "--failed" in flags else count)
    begin = time.monotonic()
    tracemalloc.start()
    one = summed_up(tmp_path / "out", count)
    summary.write(one, tmp_path / "summary.json")
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    measured["summary"] = round(time.monotonic() - begin, 2)
    print(measured, f"{peak_bytes / 1e6:.0f} MB")
    assert one.done + one.failed == count
    assert len(json.loads((tmp_path / "summary.json").read_text())["failures"]) == one.failed
    assert peak_bytes < 50e6
    assert measured["status"] < 20  # the bar is 2, on an idle machine


LONG = "0f8fad5b-d9cb-469f-a165-70867728950e"


def of_long_ids(root: Path) -> Path:
    """One asset that is done and one that failed, with ids and a reason that fill no column."""
    folder = OutputFolder(root)
    folder.create()
    journal = Journal(folder.journal_path)
    run = journal.begin_run(version="0", request={"selected": 3, "todo": 3})
    for asset_id, state in ((LONG, State.FAILED), (LONG[::-1], State.DONE)):
        start = {"source": "1", "fingerprint": "f", "rendering": "r", "device": "cuda:0"}
        journal.start(asset_id, name="An [i]interview[/i]", run_id=run, **start)
        failed = state is State.FAILED
        why = "no\nwords " * 20 if failed else None
        kind = ErrorKind.MODEL if failed else None
        end = Outcome(asset_id, state, "f", "cuda:0", error_kind=kind, error_text=why)
        journal.finish(end)
    journal.end_run(run, 3)
    journal.close()
    return root


def test_each_asset_is_a_line_with_its_whole_id(cli: Callable[..., Answer], tmp_path: Path) -> None:
    out = of_long_ids(tmp_path / "out")
    lines = cli("status", out).out.splitlines()
    assert lines[1] == "1 done, 1 failed of 3 selected"
    reason = ("no words " * 20).rstrip()
    assert lines[2].rstrip() == f"failed {LONG} (An [i]interview[/i]) on cuda:0: {reason}"
    assert lines[3:] == [f"done {LONG[::-1]} (An [i]interview[/i]) on cuda:0"]
    only = cli("status", out, "--failed").out.splitlines()
    assert only == lines[:3]
