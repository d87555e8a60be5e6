"""The transcripts of an output folder, or of a copy of one without its journal."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from audio_batch.errors import SetupError, UsageError
from audio_batch.journal import Journal
from audio_batch.storage import STATE_FOLDER, OutputFolder
from audio_batch.text import for_terminal
from audio_batch.transcript import Transcript


class MissingTranscript(ValueError):
    """There is no usable transcript of an asset; the message says why."""


@dataclass(frozen=True, slots=True)
class Hypotheses:
    """Where the transcripts of a folder are, by asset id; they are read one at a time.

    `reasons` says of assets without one what the journal says of them. `notes` are what is odd
    about the folder, a sentence each.
    """

    root: Path
    paths: Mapping[str, Path]
    reasons: Mapping[str, str]
    notes: tuple[str, ...] = ()

    def of(self, asset_id: str) -> Transcript:
        """An asset's transcript.

        Raises:
            MissingTranscript: there is none, or what is there is none.
        """
        if (path := self.paths.get(asset_id)) is None:
            raise MissingTranscript(self.reasons.get(asset_id, "the folder knows nothing of it"))
        try:
            data = json.loads(path.read_text(encoding="utf-8-sig"), parse_constant=_refused)
            transcript = Transcript.from_json(data)
            return _sound().validate_python(asdict(transcript))
        except OSError as error:
            reason = f"cannot be read: {error.strerror or error}"
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            reason = f"cannot be used: {place}: {first['msg']}"
        except (ValueError, RecursionError) as error:
            reason = f"cannot be used: {error}"
        raise MissingTranscript(for_terminal(f"{path.relative_to(self.root).as_posix()} {reason}"))


@functools.cache
def _sound() -> TypeAdapter[Transcript]:
    """Checks what `Transcript.from_json` takes as it comes; the file may be anybody's."""
    return TypeAdapter(Transcript)


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is no number")


def hypotheses(root: Path) -> Hypotheses:
    """Find the transcripts below `root`: those of its journal, else every canonical JSON.

    Raises:
        UsageError: there is no such folder.
        SetupError: it holds no transcripts, or its journal is damaged.
    """
    if not root.is_dir():
        raise UsageError(f"There is no folder {root}.", remedy="Name the --output-dir of a run.")
    folder = OutputFolder(root)
    found = _journalled(folder) if folder.journal_path.is_file() else _found(folder)
    if not found.paths:
        raise SetupError(
            f"{root} holds no transcripts.",
            remedy="Run the manifest first, or name the folder that has its JSON outputs.",
        )
    return found


def _journalled(folder: OutputFolder) -> Hypotheses:
    journal = Journal(folder.journal_path, read_only=True)
    try:
        paths, reasons = dict[str, Path](), dict[str, str]()
        for entry in journal.entries():
            outputs = [output.path for output in entry.outputs if output.format == "json"]
            if outputs:
                paths[entry.asset_id] = folder.root / outputs[0]
            else:
                reasons[entry.asset_id] = entry.error_text or f"it is {entry.state.value}"
    finally:
        journal.close()
    return Hypotheses(folder.root, paths, reasons)


def _found(folder: OutputFolder) -> Hypotheses:
    paths, notes = dict[str, Path](), list[str]()
    for place, folders, names in os.walk(folder.root):
        folders[:] = sorted(name for name in folders if name != STATE_FOLDER)
        for path in (Path(place, name) for name in sorted(names) if name.endswith(".json")):
            name = path.relative_to(folder.root).as_posix()
            try:
                data = json.loads(path.read_text(encoding="utf-8-sig"))
            except (OSError, ValueError, RecursionError) as error:
                notes.append(for_terminal(f"{name} cannot be read: {error}"))
                continue
            asset_id = data.get("asset_id") if isinstance(data, dict) else None
            if not isinstance(asset_id, str):
                continue  # another program's JSON, or summary.json
            first = paths.setdefault(asset_id, path)
            if first != path:
                other = first.relative_to(folder.root).as_posix()
                notes.append(for_terminal(f"{name} is left out: {other} is of the same asset"))
    return Hypotheses(folder.root, paths, {}, tuple(notes))
