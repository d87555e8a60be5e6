"""The journal: what became of every asset, in SQLite, written by the parent alone.

Rows are durable when a call returns (`synchronous=EXTRA`: FULL, and the folder is synced too). The
rollback journal is used rather than WAL, because WAL is unsafe on network file systems and one
writer gains nothing from it.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from audio_batch import journal_schema
from audio_batch.errors import ErrorKind, SetupError
from audio_batch.outcome import Outcome, Published, Stage, StageRecord, State
from audio_batch.storage import PublishedFile

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


_DAMAGE = ("malformed", "not a database", "no such", "already exists", "Could not decode")
"""What SQLite says of a file that is not what was written; a table that is gone is one of them."""


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One asset's row.

    `suspicions` say why its words may not be all that was said, `redone` how often it was done
    again because of them: what stands came of the last time.
    """

    asset_id: str
    name: str
    state: State
    source: str
    fingerprint: str
    rendering: str
    attempts: int
    deaths: int
    device: str | None
    error_kind: ErrorKind | None
    error_text: str | None
    started_at: float | None
    finished_at: float | None
    duration_s: float | None
    speech_s: float | None
    language: str | None
    notes: tuple[str, ...]
    outputs: tuple[PublishedFile, ...]
    timings_s: dict[str, float]
    missing: tuple[str, ...]
    suspicions: tuple[str, ...]
    redone: int
    run_id: int


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run's row; `exit_code` is None for a run that is at work or was killed."""

    run_id: int
    started_at: float
    finished_at: float | None
    exit_code: int | None
    version: str
    request: dict[str, Any]


class Journal:
    """The one door to the journal. Not thread-safe: the parent's main thread holds it.

    Raises (every method):
        SetupError: the file is damaged, of a newer version, or cannot be written.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        with self._translated():
            try:
                self._open(read_only)
            except sqlite3.OperationalError as error:
                # A killed run left a transaction to roll back, which a reader may not do: open it
                # for writing once. SQLite's own locks keep this safe beside a run at work.
                if not read_only or "readonly" not in str(error):
                    raise
                self._open(read_only=False)

    def _open(self, read_only: bool) -> None:
        if read_only:
            uri = f"{self.path.resolve().as_uri()}?mode=ro"
            self._db = sqlite3.connect(uri, uri=True, timeout=30, isolation_level=None)
        else:
            self._db = sqlite3.connect(self.path, timeout=30, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        if not read_only:
            self._db.execute("PRAGMA journal_mode=DELETE")
            self._db.execute("PRAGMA synchronous=EXTRA")
            self._db.execute("PRAGMA foreign_keys=ON")
        version = journal_schema.version_of(self._db)
        journal_schema.check(version, self.path, read_only=read_only)
        if version < journal_schema.SCHEMA_VERSION and not read_only:
            with self._transaction():
                journal_schema.bring_up(self._db, version)
        if not read_only:
            # 0.1 s for 10,000 assets: damage in a page that is not read today waits for nobody.
            (sound,) = self._db.execute("PRAGMA integrity_check(1)").fetchone()
            if sound != "ok":
                raise sqlite3.DatabaseError(f"malformed: {sound}")
        self._has_stages = version >= 2 or not read_only

    def close(self) -> None:
        """Close the file; what was committed is there whether this is called or not."""
        self._db.close()

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, ValueError, TypeError, KeyError) as error:
            # The latter three: rows that SQLite takes for sound and that cannot be ours.
            text = str(error) if isinstance(error, sqlite3.Error) else "malformed"
            if "full" in text:
                problem, remedy = "the disk is full", "Free some space and run it again."
            elif any(sign in text for sign in _DAMAGE):
                problem = "the file is damaged"
                remedy = (
                    "Your outputs are untouched. Move the journal away and run it again: "
                    "everything is then done anew."
                )
            elif "locked" in text:
                problem = "another program keeps it locked"
                remedy = "Close whatever has it open and run it again."
            else:
                problem, remedy = text, "Check the folder's permissions and file system."
            raise SetupError(
                f"The journal {self.path} cannot be used: {problem}.", remedy=remedy
            ) from error

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._translated():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                # The error itself is what matters; SQLite may have rolled back already.
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    # -- runs ---------------------------------------------------------------------------------

    def begin_run(self, *, version: str, request: dict[str, Any]) -> int:
        """Record a new run and return its number."""
        with self._transaction():
            cursor = self._db.execute(
                "INSERT INTO runs (started_at, version, request) VALUES (?, ?, ?)",
                (time.time(), version, json.dumps(request, ensure_ascii=True)),
            )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def end_run(self, run_id: int, exit_code: int) -> None:
        """Record how a run ended."""
        with self._transaction():
            self._db.execute(
                "UPDATE runs SET finished_at = ?, exit_code = ? WHERE run_id = ?",
                (time.time(), exit_code, run_id),
            )

    def last_run(self) -> RunRecord | None:
        """The newest run, or None in a new journal."""
        with self._translated():
            row = self._db.execute("SELECT * FROM runs ORDER BY run_id DESC LIMIT 1").fetchone()
            return _run(row) if row else None

    def run(self, run_id: int) -> RunRecord | None:
        """A run by its number, or None."""
        with self._translated():
            row = self._db.execute("SELECT * FROM runs WHERE run_id = ?", (run_id,)).fetchone()
            return _run(row) if row else None

    # -- assets -------------------------------------------------------------------------------

    def settle_debris(self, *, crashed: bool) -> list[str]:
        """Turn `running` rows of a dead run into `interrupted` ones; return their ids.

        To be called with the folder's lock held, so that nobody is at work. `crashed` says that
        the dead process left a crash report: each asset it ran is then under suspicion, and the
        death is counted against it.
        """
        with self._transaction():
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
        with self._transaction():
            self._db.execute(
                "INSERT INTO assets (asset_id, name, state, source, fingerprint, rendering,"
                " attempts, deaths, device, started_at, run_id)"
                " VALUES (:id, :name, 'running', :source, :fingerprint, :rendering, 1, 0,"
                " :device, :now, :run)"
                " ON CONFLICT (asset_id) DO UPDATE SET"
                " attempts = CASE WHEN source = :source AND fingerprint = :fingerprint"
                " THEN attempts + 1 ELSE 1 END,"
                " deaths = CASE WHEN source = :source AND fingerprint = :fingerprint"
                " THEN deaths ELSE 0 END,"
                + "".join(
                    f" {column} = CASE WHEN source = :source AND fingerprint = :fingerprint"
                    f" THEN {column} ELSE {empty} END,"
                    for column, empty in _FACTS.items()
                )
                + ""
                " name = :name, state = 'running', source = :source, fingerprint = :fingerprint,"
                " rendering = :rendering, device = :device, started_at = :now,"
                " finished_at = NULL, error_kind = NULL, error_text = NULL, run_id = :run",
                {
                    "id": asset_id,
                    "name": _storable(name),
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
            row = self._db.execute(
                "SELECT attempts FROM assets WHERE asset_id = ?", (asset_id,)
            ).fetchone()
        return int(row["attempts"])

    def finish(self, outcome: Outcome, *, counts: bool = True, redo: bool = False) -> None:
        """Commit what became of an attempt.

        Args:
            counts: False takes the attempt back (not its row).
            redo: it was made because of suspicions (`Planned.redo`), and counts as such once it
                has ended or its words stand.
        """
        with self._transaction():
            self._finish(outcome, counts, redo)
            for record in outcome.stages:
                self._finish_stage(record)

    def finish_stage(self, record: StageRecord) -> None:
        """Commit that a stage of a running asset is done and its result kept."""
        with self._transaction():
            self._finish_stage(record)

    def _finish_stage(self, record: StageRecord) -> None:
        if record.stage is Stage.TRANSCRIBE:
            # An alignment of what was heard earlier is of no use to these words.
            self._db.execute(
                "UPDATE stages SET fingerprint = '' WHERE asset_id = :asset AND stage = :align"
                # Not the same record once more, whatever clocks said then and say now.
                " AND NOT EXISTS (SELECT 1 FROM stages WHERE asset_id = :asset"
                " AND stage = :transcribe AND finished_at = :finished)",
                {
                    "asset": record.asset_id,
                    "align": Stage.ALIGN.value,
                    "transcribe": Stage.TRANSCRIBE.value,
                    "finished": record.finished_at,
                },
            )
        # The same record may come twice: when the stage ends, and with the asset's outcome.
        self._db.execute(
            "INSERT INTO stages VALUES (:asset, :stage, :source, :fingerprint, :path, :size,"
            " :sha256, :device, :seconds, :finished, 1)"
            " ON CONFLICT (asset_id, stage) DO UPDATE SET"
            " times = times + (finished_at <> :finished), source = :source,"
            " fingerprint = :fingerprint, path = :path, size_bytes = :size, sha256 = :sha256,"
            " device = :device, seconds = :seconds, finished_at = :finished",
            {
                "asset": record.asset_id,
                "stage": record.stage.value,
                "source": record.source,
                "fingerprint": record.fingerprint,
                "path": record.file.path,
                "size": record.file.size_bytes,
                "sha256": record.file.sha256,
                "device": record.device,
                "seconds": record.seconds,
                "finished": record.finished_at,
            },
        )

    def publish_early(self, published: Published) -> None:
        """Commit what was written of an asset that is still at work."""
        with self._transaction():
            self._db.execute(
                "UPDATE assets SET outputs = ?, missing = ?, duration_s = ? WHERE asset_id = ?",
                (
                    json.dumps([asdict(output) for output in published.outputs]),
                    json.dumps(list(published.missing)),
                    published.duration_s,
                    published.asset_id,
                ),
            )

    def stages(self) -> dict[str, dict[Stage, StageRecord]]:
        """The newest result of every stage, by asset and stage."""
        found: dict[str, dict[Stage, StageRecord]] = {}
        if self._has_stages:
            with self._translated():
                for row in self._db.execute("SELECT * FROM stages"):
                    record = _stage(row)
                    found.setdefault(record.asset_id, {})[record.stage] = record
        return found

    def stage_counts(self) -> dict[str, int]:
        """How often each stage was ever done, over all assets and runs."""
        if not self._has_stages:
            return {}
        with self._translated():
            rows = self._db.execute("SELECT stage, sum(times) AS n FROM stages GROUP BY stage")
            return {row["stage"]: int(row["n"]) for row in rows}

    def replace_outputs(self, asset_id: str, outputs: tuple[PublishedFile, ...]) -> None:
        """Commit that an asset's outputs were written again by other means than a run."""
        with self._transaction():
            self._db.execute(
                "UPDATE assets SET outputs = ? WHERE asset_id = ?",
                (json.dumps([asdict(output) for output in outputs]), asset_id),
            )

    def _finish(self, outcome: Outcome, counts: bool, redo: bool) -> None:
        now = time.time()
        # What an earlier attempt found out stands beside its outputs until new ones take its place.
        # An incomplete transcript stands too, whether or not there will be another attempt.
        published = bool(outcome.outputs)
        new_outputs = ", outputs = :outputs" if published else ""
        new_facts = (
            ", duration_s = :duration, speech_s = :speech, language = :language,"
            " notes = :notes, timings_s = :timings, missing = :missing,"
            " suspicions = :suspicions"
            if published and not outcome.rendered_only
            else ""
        )
        redone = ""
        if redo and (published or outcome.state is State.DONE):
            redone = ", redone = redone + 1"
        elif published and any(record.stage is Stage.TRANSCRIBE for record in outcome.stages):
            redone = ", redone = 0"
        self._db.execute(
            "UPDATE assets SET state = :state, finished_at = :now, error_kind = :kind,"
            " error_text = :text, device = :device, attempts = max(0, attempts - :back),"
            " deaths = deaths + :died" + new_outputs + new_facts + redone + " WHERE asset_id = :id",
            {
                "state": outcome.state.value,
                "now": now,
                "kind": outcome.error_kind,
                "text": _storable(outcome.error_text),
                "outputs": json.dumps([asdict(output) for output in outcome.outputs]),
                "device": outcome.device,
                "back": 0 if counts else 1,
                "died": int(outcome.died),
                "duration": outcome.duration_s,
                "speech": outcome.speech_s,
                "language": outcome.language,
                "notes": json.dumps(list(outcome.notes)),
                "timings": json.dumps(outcome.timings_s),
                "missing": json.dumps(list(outcome.missing)),
                "suspicions": json.dumps(list(outcome.suspicions)),
                "id": outcome.asset_id,
            },
        )
        self._db.execute(
            "UPDATE attempts SET state = ?, finished_at = ?, error_kind = ?, error_text = ?"
            " WHERE asset_id = ? AND state = 'running'",
            (
                outcome.state.value,
                now,
                outcome.error_kind,
                _storable(outcome.error_text),
                outcome.asset_id,
            ),
        )

    def quarantine(self, asset_id: str, text: str) -> None:
        """Set aside an asset whose attempts killed the program too often."""
        with self._transaction():
            self._db.execute(
                "UPDATE assets SET state = 'quarantined', error_kind = ?, error_text = ?"
                " WHERE asset_id = ?",
                (ErrorKind.WORKER_DIED, text, asset_id),
            )

    def forgive(self, asset_ids: Iterable[str]) -> None:
        """Give failed or quarantined assets a fresh count of attempts (`--retry-failed`)."""
        with self._transaction():
            self._db.executemany(
                "UPDATE assets SET attempts = 0, deaths = 0 WHERE asset_id = ?",
                [(asset_id,) for asset_id in asset_ids],
            )

    def entries(self) -> Iterator[JournalEntry]:
        """Every asset's row, by id."""
        with self._translated():
            for row in self._db.execute("SELECT * FROM assets ORDER BY asset_id"):
                yield _entry(row)

    def attempt_count(self) -> int:
        """How many attempts were ever begun."""
        with self._translated():
            row = self._db.execute("SELECT count(*) AS n FROM attempts").fetchone()
        return int(row["n"])

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
        with self._transaction():
            for asset_id, sound in outputs.items():
                listed = json.dumps([asdict(output) for output in sound])
                self._db.execute(
                    "UPDATE assets SET outputs = ? WHERE asset_id = ?", (listed, asset_id)
                )
                # What was done once can be done: earlier attempts and deaths no longer count.
                self._db.execute(
                    "UPDATE assets SET state = 'interrupted', error_kind = ?, error_text = ?,"
                    " attempts = 0, deaths = 0"
                    " WHERE asset_id = ? AND state IN ('done', 'incomplete', 'failed')",
                    (ErrorKind.OUTPUT, text, asset_id),
                )
            self._db.executemany(
                "UPDATE stages SET source = '', fingerprint = '' WHERE asset_id = ? AND stage = ?",
                [(asset_id, stage.value) for asset_id, stage in stages],
            )


def _storable(text: str | None) -> str | None:
    """SQLite holds UTF-8: what a file name has beyond it (lone surrogates) is shown escaped."""
    return None if text is None else text.encode("utf-8", "backslashreplace").decode("utf-8")


def _run(row: sqlite3.Row) -> RunRecord:
    return RunRecord(**{**dict(row), "request": json.loads(row["request"])})


def _entry(row: sqlite3.Row) -> JournalEntry:
    values = dict(row)
    values["state"] = State(values["state"])
    values["error_kind"] = ErrorKind(values["error_kind"]) if values["error_kind"] else None
    values["notes"] = tuple(json.loads(values["notes"]))
    values["outputs"] = tuple(PublishedFile(**output) for output in json.loads(values["outputs"]))
    values["timings_s"] = json.loads(values["timings_s"])
    # A reader leaves an older journal as it is.
    for name in ("missing", "suspicions"):
        values[name] = tuple(json.loads(values.get(name, "[]")))
    values.setdefault("redone", 0)
    return JournalEntry(**values)


def _stage(row: sqlite3.Row) -> StageRecord:
    return StageRecord(
        asset_id=row["asset_id"],
        stage=Stage(row["stage"]),
        source=row["source"],
        fingerprint=row["fingerprint"],
        file=PublishedFile(row["stage"], row["path"], row["size_bytes"], row["sha256"]),
        device=row["device"],
        seconds=row["seconds"],
        finished_at=row["finished_at"],
    )
