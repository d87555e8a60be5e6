"""Linking the voices of a whole output folder: read, decide, remember, write anew what changes.

    settle → read every voice, one transcript at a time → link each embedding space
    → remember what was decided → write each transcript whose speakers change → speakers.json

To be called with the folder's lock held, in the thread that holds the journal. It may be killed at
any time and done again: what was decided stands before the first file is touched, and a
transcript's new canonical JSON is announced before it is published, so that the journal learns of
it in any case (`settle`). No model, no GPU.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath

import numpy as np

from audio_batch.errors import AssetError, ErrorKind, SetupError, UsageError
from audio_batch.formats import FORMATS, FormatOptions, render
from audio_batch.journal import Journal, JournalEntry
from audio_batch.journal_counts import ALL
from audio_batch.outcome import State
from audio_batch.seal import sealed_again
from audio_batch.storage import PublishedFile, contained, publish, write_atomic
from audio_batch.text import for_terminal
from audio_batch.transcript import Speaker, Transcript
from audio_batch.voices import memory, names
from audio_batch.voices.linking import Key, VoiceSample, highest_number, link

_HEARD_IN = 5

_log = logging.getLogger("audio_batch.voices")


@dataclass(frozen=True, slots=True)
class LinkReport:
    """What a linking did, or in a dry run would do.

    `voices` by id; `new` are the ids given for the first time; `unlinked` voices had too little
    talk or no vector; `spaces` counts the recordings' voices in each embedding space. `changed`
    transcripts were written anew; `left_out` says, a sentence each, what could not be done.
    """

    recordings: int
    voices: Mapping[str, names.VoiceSummary]
    new: tuple[str, ...]
    unlinked: int
    spaces: Mapping[str, int]
    changed: tuple[str, ...]
    left_out: tuple[str, ...]


def link_output(
    root: Path,
    journal: Journal,
    *,
    threshold: float | None = None,
    relink: bool = False,
    dry_run: bool = False,
) -> LinkReport:
    """Give the voices of all of a folder's recordings their ids and names, in every format.

    Args:
        threshold: see `linking.link`; None for the one that the diarization model recommends,
            which stands in the transcripts.
        relink: forget who was linked with whom.
        dry_run: only say what would be done.

    Raises:
        UsageError: a threshold that cannot be meant, or none to be had; `speakers.json` is
            unusable.
        SetupError: the disk is full, or the program's own files cannot be used.
    """
    if threshold is not None and not 0 < threshold < 1:
        raise UsageError(f"--link-threshold must lie between 0 and 1, not {threshold:g}.")
    settle(root, journal)
    given, listed = names.load(root), {voice.voice for voice in names.listed(root)}
    remembered = memory.recall(journal.path.parent)
    survey = _Survey()
    for entry in _published(journal):
        survey.read(root, entry, remembered)
    new = _decide(survey, remembered, threshold, relink, listed)
    if not dry_run and survey.recordings:
        memory.keep(journal.path.parent, remembered)

    changed = []
    layouts = cache(lambda run_id: _layout(journal, run_id))
    for entry in _published(journal):
        if not survey.changes(entry.asset_id, given):
            continue
        try:
            if not dry_run:
                _rewrite(root, journal, entry, survey.decided, given, layouts(entry.run_id))
            changed.append(entry.asset_id)
        except AssetError as error:
            if error.kind is ErrorKind.DISK_FULL:
                raise SetupError(error.message, remedy=error.remedy) from error
            survey.left_out.append(str(error))
    voices = survey.summaries()
    if not dry_run:
        _announcement(journal).unlink(missing_ok=True)
        if voices or listed:
            names.update(root, voices)
    return LinkReport(
        recordings=len(survey.recordings),
        voices=voices,
        new=new,
        unlinked=sum(voice is None for voice in survey.decided.values()),
        spaces={space: len(samples) for space, samples in sorted(survey.samples.items())},
        changed=tuple(changed),
        left_out=tuple(for_terminal(line) for line in survey.left_out),
    )


def apply_names(root: Path, journal: Journal) -> list[str]:
    """Write the names of `speakers.json` into every transcript and its formats; nothing is linked.

    Returns:
        What could not be done, a sentence each.

    Raises:
        UsageError: `speakers.json` is unusable.
        SetupError: the disk is full.
    """
    settle(root, journal)
    given = names.load(root)
    layouts = cache(lambda run_id: _layout(journal, run_id))
    left_out = []
    for entry in _published(journal):
        try:
            transcript = _read(root, entry)
            if names.applied(transcript, given) == transcript:
                continue
            borne = {(entry.asset_id, s.label): s.voice for s in transcript.speakers}
            _rewrite(root, journal, entry, borne, given, layouts(entry.run_id))
        except AssetError as error:
            if error.kind is ErrorKind.DISK_FULL:
                raise SetupError(error.message, remedy=error.remedy) from error
            left_out.append(str(error))
    _announcement(journal).unlink(missing_ok=True)
    return left_out


@dataclass(slots=True)
class _Survey:
    """Who speaks in the transcripts of a folder, without the words; then who they are."""

    recordings: dict[str, tuple[Speaker, ...]] = field(default_factory=dict)
    samples: dict[str, list[VoiceSample]] = field(default_factory=lambda: defaultdict(list))
    thresholds: dict[str, float] = field(default_factory=dict)
    digests: dict[Key, str] = field(default_factory=dict)
    decided: dict[Key, str | None] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def read(self, root: Path, entry: JournalEntry, remembered: memory.Memory) -> None:
        """Take in one transcript; of its vectors only what linking needs stays in memory."""
        try:
            transcript = _read(root, entry)
        except AssetError as error:
            self.left_out.append(str(error))
            return
        about = transcript.provenance.get("diarization")
        about = about if isinstance(about, dict) else {}
        space = about.get("embedding_identity")
        recommended = about.get("link_threshold")
        slim = []
        for speaker in transcript.speakers:
            slim.append(dataclasses.replace(speaker, embedding=None))
            key = entry.asset_id, speaker.label
            self.decided[key] = None
            if speaker.embedding is None or not isinstance(space, str):
                continue
            self.digests[key] = memory.embedding_digest(speaker)
            vector = np.asarray(speaker.embedding, dtype=np.float32)
            voice = remembered.voice_of(entry.asset_id, speaker)
            self.samples[space].append(VoiceSample(*key, vector, speaker.talk_s, voice))
            if isinstance(recommended, int | float) and 0 < recommended < 1:
                self.thresholds[space] = max(recommended, self.thresholds.get(space, 0.0))
        self.recordings[entry.asset_id] = tuple(slim)

    def changes(self, asset_id: str, given: Mapping[str, str]) -> bool:
        """Whether what was decided is not what the transcript says."""
        speakers = self.recordings.get(asset_id, ())
        return any(_voiced(asset_id, s, self.decided, given) != s for s in speakers)

    def summaries(self) -> dict[str, names.VoiceSummary]:
        """Every voice that is heard, by id."""
        talk_s: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        for asset_id, speakers in self.recordings.items():
            for speaker in speakers:
                voice = self.decided[asset_id, speaker.label]
                if voice is not None:
                    talk_s[voice][asset_id] += speaker.talk_s
        return {
            voice: names.VoiceSummary(
                recordings=len(by_asset),
                talk_s=round(sum(by_asset.values()), 1),
                heard_in=tuple(sorted(by_asset, key=lambda a: (-by_asset[a], a))[:_HEARD_IN]),
            )
            for voice, by_asset in sorted(talk_s.items())
        }


def _decide(
    survey: _Survey,
    remembered: memory.Memory,
    threshold: float | None,
    relink: bool,
    listed: set[str],
) -> tuple[str, ...]:
    """Link every space; put the decisions into both survey and memory; return the new ids."""
    for space in survey.samples:
        if threshold is None and space not in survey.thresholds:
            raise UsageError(
                "The transcripts do not say how alike two vectors of one person's voice are "
                f"({for_terminal(space)}).",
                remedy="Give a --link-threshold, such as 0.7: higher keeps more voices apart.",
            )
    borne = {s.voice for samples in survey.samples.values() for s in samples if s.voice}
    kept = {voice for voices in remembered.known.values() for voice in voices}
    last = max(remembered.last_number, highest_number(borne | kept | listed))
    if relink:
        remembered.known.clear()
        remembered.decided.clear()
    new: list[str] = []
    for space, samples in sorted(survey.samples.items()):
        linking = link(
            samples,
            remembered.known.get(space, {}),
            survey.thresholds[space] if threshold is None else threshold,
            first_number=last + len(new) + 1,
            relink=relink,
        )
        new += linking.new
        survey.decided.update(linking.assigned)
        remembered.known[space] = dict(linking.voices)
    remembered.last_number = last + len(new)
    for asset_id, speakers in survey.recordings.items():
        remembered.decided[asset_id] = {
            s.label: (survey.decided[asset_id, s.label], digest)
            for s in speakers
            if (digest := survey.digests.get((asset_id, s.label)))
        }
    return tuple(new)


def _voiced(
    asset_id: str, speaker: Speaker, decided: Mapping[Key, str | None], given: Mapping[str, str]
) -> Speaker:
    voice = decided[asset_id, speaker.label]
    return names.named(dataclasses.replace(speaker, voice=voice), given)


def _published(journal: Journal) -> Iterator[JournalEntry]:
    """The rows whose transcripts stand, in pages: meanwhile the journal may be written."""
    for entry in journal.tally().entries(ALL):
        if entry.state in (State.DONE, State.INCOMPLETE) and _canonical(entry.outputs):
            yield entry


def _canonical(outputs: tuple[PublishedFile, ...]) -> PublishedFile | None:
    return next((output for output in outputs if output.format == "json"), None)


def _read(root: Path, entry: JournalEntry) -> Transcript:
    """The transcript that the journal vouches for.

    Raises:
        AssetError: there is no such file any more, or another.
    """
    published = _canonical(entry.outputs)
    assert published is not None
    try:
        data = contained(root, PurePosixPath(published.path)).read_bytes()
        if hashlib.sha256(data).hexdigest() != published.sha256:
            raise ValueError("it was changed since")
        transcript = Transcript.from_json(json.loads(data))
        if transcript.asset_id != entry.asset_id:
            raise ValueError("it is another asset's")
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise AssetError(
            ErrorKind.OUTPUT,
            f"{published.path} is not the file that was published: {reason}.",
            remedy="The next run makes it again.",
        ) from error
    return transcript


def _rewrite(
    root: Path,
    journal: Journal,
    entry: JournalEntry,
    decided: Mapping[Key, str | None],
    given: Mapping[str, str],
    layout: FormatOptions,
) -> None:
    """Write one asset's outputs anew where they change, the canonical JSON last, and journal it.

    Raises:
        AssetError: a file cannot be read or written; the JSON is then as it was.
    """
    transcript = _read(root, entry)
    transcript = dataclasses.replace(
        transcript,
        speakers=tuple(_voiced(entry.asset_id, s, decided, given) for s in transcript.speakers),
    )
    written = []
    for old in sorted(entry.outputs, key=lambda output: output.format == "json"):
        if old.format not in FORMATS:
            written.append(old)
            continue
        data = (
            sealed_again(transcript, written)
            if old.format == "json"
            else render(old.format, transcript, layout)
        )
        new = PublishedFile(old.format, old.path, len(data), hashlib.sha256(data).hexdigest())
        written.append(new)
        if new.format == "json":
            announcement = {
                "asset_id": entry.asset_id,
                "outputs": [dataclasses.asdict(output) for output in written],
            }
            write_atomic(_announcement(journal), json.dumps(announcement).encode("ascii"))
        if new != old:
            publish(root, PurePosixPath(new.path), data, format_name=new.format)
    journal.replace_outputs(entry.asset_id, tuple(written))


def _layout(journal: Journal, run_id: int) -> FormatOptions:
    """How the texts of a run are laid out."""
    run = journal.run(run_id)
    settings = run.request.get("settings", {}) if run else {}
    return FormatOptions(
        max_line_width=settings.get("max_line_width"),
        max_line_count=settings.get("max_line_count"),
        highlight_words=bool(settings.get("highlight_words")),
    )


def _announcement(journal: Journal) -> Path:
    return journal.path.with_name("relinking.json")


def settle(root: Path, journal: Journal) -> None:
    """Journal what a killed linking published last; to be called with the folder's lock held.

    Else that one transcript would no longer be the file that the journal vouches for, and a run
    would transcribe its recording again.
    """
    path = _announcement(journal)
    if not path.exists():
        return
    try:
        document = json.loads(path.read_bytes())
        asset_id = document["asset_id"]
        outputs = tuple(PublishedFile(**output) for output in document["outputs"])
        canonical = _canonical(outputs)
        data = contained(root, PurePosixPath(canonical.path)).read_bytes() if canonical else b""
    except (OSError, ValueError, KeyError, TypeError, AssetError) as error:
        _log.warning("%s tells nothing and is removed: %s", path.name, error)
    else:
        entry = next(iter(journal.lookup.entries([asset_id])), None)
        known = _canonical(entry.outputs) if entry else None
        standing = hashlib.sha256(data).hexdigest()
        if canonical and known and known.path == canonical.path and standing == canonical.sha256:
            journal.replace_outputs(asset_id, outputs)
    path.unlink(missing_ok=True)
