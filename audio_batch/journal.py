"""The journal: what became of every asset, in SQLite, written by the parent alone.

Every write is durable when its call returns, or when the group it stands in has ended.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from audio_batch import journal_rows, journal_runs, journal_stages
from audio_batch.errors import ErrorKind
from audio_batch.journal_counts import Tally
from audio_batch.journal_file import JournalFile
from audio_batch.journal_formats import Formats
from audio_batch.journal_lookup import Lookup
from audio_batch.journal_outbox import Outbox
from audio_batch.journal_rows import JournalEntry, RunRecord, outputs_json, storable, with_left
from audio_batch.outcome import Outcome, Published, Stage, StageRecord, State
from audio_batch.storage import PublishedFile

__all__ = ["Journal", "JournalEntry", "RunRecord"]

_FACTS = {
    "outputs": "'[]'",
    "notes": "'[]'",
    "missing": "'[]'",
    "suspicions": "'[]'",
    "redone": "0",
    "timings_s": "'{}'",
    "duration_s": "NULL",
    "speech_s": "NULL",
    "language": "NULL",
}
"""What is known of an asset as it was last done, and its empty value."""

_NEW_FACTS = (
    ", duration_s = :duration, speech_s = :speech, language = :language,"
    " notes = :notes, timings_s = :timings, missing = :missing, suspicions = :suspicions"
)

_SAME = "source = :source AND fingerprint = :fingerprint"

_START = (
    "INSERT INTO assets (asset_id, name, state, source, fingerprint, rendering,"
    " attempts, deaths, device, started_at, run_id)"
    " VALUES (:id, :name, 'running', :source, :fingerprint, :rendering, 1, 0,"
    " :device, :now, :run)"
    " ON CONFLICT (asset_id) DO UPDATE SET"
    f" attempts = CASE WHEN {_SAME} THEN attempts + 1 ELSE 1 END,"
    f" deaths = CASE WHEN {_SAME} THEN deaths ELSE 0 END,"
    + "".join(
        f" {column} = CASE WHEN {_SAME} THEN {column} ELSE {empty} END,"
        for column, empty in _FACTS.items()
    )
    + " name = :name, state = 'running', source = :source, fingerprint = :fingerprint,"
    " rendering = :rendering, device = :device, started_at = :now,"
    " finished_at = NULL, error_kind = NULL, error_text = NULL, run_id = :run"
    " RETURNING attempts"
)


class Journal:
    """The one door to the journal. Not thread-safe: the parent's main thread holds it.

    Raises (every method):
        SetupError: the file is damaged, of a newer version, or cannot be written.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self._file = JournalFile(path, read_only=read_only)
        self._db = self._file.db
        self.lookup = Lookup(self._file)
        self.outbox = Outbox(self._file)
        self.formats = Formats(self._file)

    def close(self) -> None:
        """Close the file; what was committed is there whether this is called or not."""
        self._file.close()

    @contextlib.contextmanager
    def grouped(self) -> Iterator[None]:
        """Commit every write of the body at once, at its end: then, and only then, it is durable.

        A group without writes costs nothing. A write that fails takes all of the group back, goes
        on as SetupError, and answers the group's further writes. Any other error of the body goes
        on once what was written before it is committed: those outcomes are true whatever came
        after them, and to forget them would have work done twice.

        Raises:
            SetupError: a write or the commit failed; nothing of the group is in the journal.
            ValueError: a group is open already.
        """
        with self._file.grouped():
            yield

    # -- runs ---------------------------------------------------------------------------------

    def begin_run(self, *, version: str, request: dict[str, Any]) -> int:
        """Record a new run and return its number."""
        with self._file.transaction():
            cursor = self._db.execute(
                "INSERT INTO runs (started_at, version, request) VALUES (?, ?, ?)",
                (time.time(), version, json.dumps(request, ensure_ascii=True)),
            )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def end_run(self, run_id: int, exit_code: int) -> None:
        """Record how a run ended."""
        with self._file.transaction():
            self._db.execute(
                "UPDATE runs SET finished_at = ?, exit_code = ? WHERE run_id = ?",
                (time.time(), exit_code, run_id),
            )

    def record_idle_run(
        self, *, version: str, request: dict[str, Any], started_at: float, exit_code: int
    ) -> None:
        """Record a run that has ended with nothing to do; see `journal_runs.record_idle`."""
        with self._file.transaction():
            journal_runs.record_idle(self._db, version, request, started_at, exit_code)

    def last_run(self, *, idle: bool = True) -> RunRecord | None:
        """The newest run, or None in a new journal.

        Args:
            idle: whether one that had nothing to do counts as well as any; else it is told only
                where there is no other.
        """
        with self._file.translated():
            return journal_runs.last(self._db, idle=idle)

    def run(self, run_id: int) -> RunRecord | None:
        """A run by its number, or None."""
        with self._file.translated():
            row = self._db.execute("SELECT * FROM runs WHERE run_id = ?", (run_id,)).fetchone()
            return journal_rows.run_of(row) if row else None

    # -- assets -------------------------------------------------------------------------------

    def settle_debris(self, *, crashed: bool) -> list[str]:
        """Turn `running` rows of a dead run into `interrupted` ones; return their ids.

        To be called with the folder's lock held, so that nobody is at work. `crashed` says that
        the dead process left a crash report: each asset it ran is then under suspicion, and the
        death is counted against it.
        """
        with self._file.transaction():
            rows = self._db.execute(
                "SELECT asset_id FROM assets WHERE state = 'running'"
            ).fetchall()
            now = time.time()
            self._db.execute(
                "UPDATE assets SET state = 'interrupted', finished_at = ?, deaths = deaths + ?"
                " WHERE state = 'running'",
                (now, int(crashed)),
            )
            self._db.execute(
                "UPDATE attempts SET state = 'interrupted', finished_at = ?"
                " WHERE state = 'running'",
                (now,),
            )
        return [row["asset_id"] for row in rows]

    def start(
        self,
        asset_id: str,
        *,
        name: str,
        source: str,
        fingerprint: str,
        rendering: str,
        device: str,
        run_id: int,
    ) -> int:
        """Commit that an attempt begins; return its number for this source and fingerprint.

        Attempts begin at 1 again when the input or the options have changed.
        """
        now = time.time()
        with self._file.transaction():
            ((attempts,),) = self._db.execute(
                _START,
                {
                    "id": asset_id,
                    "name": storable(name),
                    "source": source,
                    "fingerprint": fingerprint,
                    "rendering": rendering,
                    "device": device,
                    "now": now,
                    "run": run_id,
                },
            )
            self._db.execute(
                "INSERT INTO attempts (asset_id, run_id, device, state, started_at)"
                " VALUES (?, ?, ?, 'running', ?)",
                (asset_id, run_id, device, now),
            )
        return int(attempts)

    def finish(self, outcome: Outcome, *, counts: bool = True, redo: bool = False) -> None:
        """Commit what became of an attempt.

        Args:
            counts: False takes the attempt back (not its row).
            redo: it was made because of suspicions (`Planned.redo`), and counts as such once it
                has ended or its words stand.
        """
        with self._file.transaction():
            self._finish(outcome, counts, redo)
            for record in outcome.stages:
                journal_stages.keep(self._db, record)

    def finish_stage(self, record: StageRecord) -> None:
        """Commit that a stage of a running asset is done and its result kept."""
        with self._file.transaction():
            journal_stages.keep(self._db, record)

    def publish_early(self, published: Published) -> None:
        """Commit what was written of an asset that is still at work."""
        with self._file.transaction():
            self._db.execute(
                "UPDATE assets SET outputs = ?, missing = ?, duration_s = ? WHERE asset_id = ?",
                (
                    outputs_json(published.outputs),
                    json.dumps(list(published.missing)),
                    published.duration_s,
                    published.asset_id,
                ),
            )

    def stages(self) -> dict[str, dict[Stage, StageRecord]]:
        """The newest result of every stage, by asset and stage."""
        if self._file.version < journal_stages.SINCE_VERSION:
            return {}
        with self._file.translated():
            return journal_stages.kept(self._db)

    def parts(self) -> dict[str, list[StageRecord]]:
        """What was heard of assets' parts, by asset, where the words of the whole are not there."""
        if self._file.version < journal_stages.PARTS_SINCE_VERSION:
            return {}
        with self._file.translated():
            return journal_stages.parts(self._db)

    def stage_counts(self) -> dict[str, int]:
        """How often each stage was ever done, over all assets and runs."""
        if self._file.version < journal_stages.SINCE_VERSION:
            return {}
        with self._file.translated():
            return journal_stages.counts(self._db)

    def adopt(self, entries: Iterable[JournalEntry], run_id: int) -> None:
        """Commit rows of assets that have none here, and were done by others.

        Args:
            run_id: of the run that takes them over; the entries' own is none of this journal's.
        """
        with self._file.transaction():
            self._db.executemany(
                journal_rows.INSERT_ENTRY,
                [{**journal_rows.values_of(entry), "run_id": run_id} for entry in entries],
            )

    def replace_outputs(self, asset_id: str, outputs: tuple[PublishedFile, ...]) -> None:
        """Commit that an asset's outputs were written again by other means than a run."""
        with self._file.transaction():
            self._db.execute(
                "UPDATE assets SET outputs = ? WHERE asset_id = ?",
                (outputs_json(outputs), asset_id),
            )

    def _finish(self, outcome: Outcome, counts: bool, redo: bool) -> None:
        now = time.time()
        # What an earlier attempt found out stands beside its outputs until new ones take its place.
        # An incomplete transcript stands too, whether or not there will be another attempt.
        published = bool(outcome.outputs)
        redone = ""
        if redo and (published or outcome.state is State.DONE):
            redone = ", redone = redone + 1"
        elif published and any(record.stage is Stage.TRANSCRIBE for record in outcome.stages):
            redone = ", redone = 0"
        values: dict[str, object] = {
            "state": outcome.state.value,
            "now": now,
            "kind": outcome.error_kind,
            "text": storable(outcome.error_text),
            "device": outcome.device,
            "back": 0 if counts else 1,
            "died": int(outcome.died),
            "id": outcome.asset_id,
        }
        more = redone
        if outcome.source is not None and outcome.state is State.DONE:
            more += ", source = :source"
            values["source"] = outcome.source
        if published:
            more += ", outputs = :outputs"
            values["outputs"] = outputs_json(outcome.outputs)
            if not outcome.rendered_only:
                more += _NEW_FACTS
                values["duration"] = outcome.duration_s
                values["speech"] = outcome.speech_s
                values["language"] = outcome.language
                values["notes"] = _json_of(outcome.notes)
                values["timings"] = json.dumps(outcome.timings_s)
                values["missing"] = _json_of(outcome.missing)
                values["suspicions"] = _json_of(outcome.suspicions)
        elif outcome.left:
            more += ", outputs = :outputs"
            row = self._db.execute("SELECT outputs FROM assets WHERE asset_id = :id", values)
            values["outputs"] = "".join(with_left(column, outcome.left) for (column,) in row)
        self._db.execute(
            "UPDATE assets SET state = :state, finished_at = :now, error_kind = :kind,"
            " error_text = :text, device = :device, attempts = max(0, attempts - :back),"
            f" deaths = deaths + :died{more} WHERE asset_id = :id",
            values,
        )
        self._db.execute(
            "UPDATE attempts SET state = ?, finished_at = ?, error_kind = ?, error_text = ?"
            " WHERE asset_id = ? AND state = 'running'",
            (values["state"], now, values["kind"], values["text"], values["id"]),
        )

    def quarantine(self, asset_id: str, text: str) -> None:
        """Set aside an asset whose attempts killed the program too often."""
        with self._file.transaction():
            self._db.execute(
                "UPDATE assets SET state = 'quarantined', error_kind = ?, error_text = ?"
                " WHERE asset_id = ?",
                (ErrorKind.WORKER_DIED, text, asset_id),
            )

    def retell(self, asset_id: str, text: str) -> None:
        """Have a failure that still stands say what it stands for by now."""
        with self._file.transaction():
            self._db.execute(
                "UPDATE assets SET error_text = :text WHERE asset_id = :id AND error_text <> :text",
                {"text": storable(text), "id": asset_id},
            )

    def forgive(self, asset_ids: Iterable[str]) -> None:
        """Give failed or quarantined assets a fresh count of attempts (`--retry-failed`)."""
        with self._file.transaction():
            self._db.executemany(
                "UPDATE assets SET attempts = 0, deaths = 0 WHERE asset_id = ?",
                [(asset_id,) for asset_id in asset_ids],
            )

    def take_back(self, attempts: Mapping[str, int]) -> None:
        """Have earlier attempts not count: so many of each asset; their rows stay."""
        with self._file.transaction():
            self._db.executemany(
                "UPDATE assets SET attempts = max(0, attempts - ?) WHERE asset_id = ?",
                [(count, asset_id) for asset_id, count in attempts.items()],
            )

    def entries(self) -> Iterator[JournalEntry]:
        """Every asset's row, by id."""
        with self._file.translated():
            columns = journal_rows.entry_columns(self._file.version)
            for row in self._db.execute(f"SELECT {columns} FROM assets ORDER BY asset_id"):
                yield journal_rows.entry_of(row)

    def tally(self, *, over: bool = False) -> Tally:
        """Its assets, counted and gone through by SQL; see `journal_counts.Tally`."""
        return Tally(self._file, over=over)

    def requeue(
        self,
        outputs: Mapping[str, Sequence[PublishedFile]],
        stages: Iterable[tuple[str, Stage]],
        text: str,
    ) -> None:
        """Commit that files are not what was journalled, so that the next run makes them again.

        Args:
            outputs: of each asset with damaged outputs, those that are sound.
            stages: the kept results that are damaged: nothing will be taken from them any more.
            text: why, for `status`.
        """
        with self._file.transaction():
            for asset_id, sound in outputs.items():
                self._db.execute(
                    "UPDATE assets SET outputs = ? WHERE asset_id = ?",
                    (outputs_json(sound), asset_id),
                )
                # What was done once can be done: earlier attempts and deaths no longer count.
                self._db.execute(
                    "UPDATE assets SET state = 'interrupted', error_kind = ?, error_text = ?,"
                    " attempts = 0, deaths = 0"
                    " WHERE asset_id = ? AND state IN ('done', 'incomplete', 'failed')",
                    (ErrorKind.OUTPUT, text, asset_id),
                )
            journal_stages.take_back(self._db, stages)


def _json_of(texts: Sequence[str]) -> str:
    return json.dumps(list(texts)) if texts else "[]"
