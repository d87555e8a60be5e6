"""The transcripts of an output folder, or of a copy of one without its journal."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import TypeAdapter, ValidationError

from audio_batch.errors import AssetError, SetupError, UsageError
from audio_batch.journal import Journal
from audio_batch.output_folder import OutputFolder, of_a_run
from audio_batch.outputs import Outputs
from audio_batch.storage import STATE_FOLDER
from audio_batch.text import for_terminal, redact
from audio_batch.transcript import Transcript


class MissingTranscript(ValueError):
    """There is no usable transcript of an asset; the message says why."""


@dataclass(frozen=True, slots=True)
class Hypotheses:
    """Where in the outputs the transcripts are, by asset id; they are read one at a time.

    `reasons` says of assets without one what the journal says of them. `notes` are what is odd
    about the folder, a sentence each.
    """

    where: str
    outputs: Outputs
    paths: Mapping[str, str]
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
            text = self.outputs.read(PurePosixPath(path)).decode("utf-8-sig")
            data = json.loads(text, parse_constant=_refused)
            transcript = Transcript.from_json(data)
            return _sound().validate_python(asdict(transcript))
        except (OSError, AssetError) as error:
            reason = f"cannot be read: {getattr(error, 'strerror', None) or error}"
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            reason = f"cannot be used: {place}: {first['msg']}"
        except (ValueError, RecursionError) as error:
            reason = f"cannot be used: {error}"
        raise MissingTranscript(for_terminal(f"{path} {reason}"))


@functools.cache
def _sound() -> TypeAdapter[Transcript]:
    """Checks what `Transcript.from_json` takes as it comes; the file may be anybody's."""
    return TypeAdapter(Transcript)


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is no number")


def hypotheses(location: str | Path, state_dir: Path | None = None) -> Hypotheses:
    """Find the transcripts at a location: those of its journal, else every canonical JSON.

    Raises:
        UsageError: there is no such folder, or no journal of a store's.
        SetupError: it holds no transcripts, or its journal is damaged.
    """
    folder = OutputFolder.at(str(location), state_dir=state_dir)
    if not folder.is_local:
        folder = of_a_run(str(location), state_dir)
    elif not folder.root.is_dir():
        raise UsageError(
            f"There is no folder {location}.", remedy="Name the --output-dir of a run."
        )
    where = redact(str(location))
    journalled = folder.journal_path.is_file()
    found = _journalled(folder, where) if journalled else _found(folder, where)
    if not found.paths:
        raise SetupError(
            f"{where} holds no transcripts.",
            remedy="Run the manifest first, or name the folder that has its JSON outputs.",
        )
    return found


def _journalled(folder: OutputFolder, where: str) -> Hypotheses:
    journal = Journal(folder.journal_path, read_only=True)
    try:
        paths, reasons = dict[str, str](), dict[str, str]()
        for entry in journal.entries():
            outputs = [output.path for output in entry.outputs if output.format == "json"]
            if outputs:
                paths[entry.asset_id] = outputs[0]
            else:
                reasons[entry.asset_id] = entry.error_text or f"it is {entry.state.value}"
    finally:
        journal.close()
    return Hypotheses(where, folder.place.open(), paths, reasons)


def _found(folder: OutputFolder, where: str) -> Hypotheses:
    paths, notes = dict[str, str](), list[str]()
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
            first = paths.setdefault(asset_id, name)
            if first != name:
                notes.append(for_terminal(f"{name} is left out: {first} is of the same asset"))
    return Hypotheses(where, folder.place.open(), paths, {}, tuple(notes))
