"""What stands already under the names that a run is about to write: whose it is.

An output name may hold another asset's transcript, which another manifest, shard or machine has
published, or a file that no run has made. Neither is written over: the name of the first counts as
taken, so that the asset gets one with a hash; the second ends the run before its first asset.
Whose a transcript is stands in its JSON; whose a text is, in the journal or in the JSON beside it.
What stands here when a run begins, and is not in its way, it may write over; `publishing` refuses
whatever comes later. An asset that has failed for that is left alone as long as the file is there.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import PurePosixPath

from audio_batch.errors import AssetError, ErrorKind, SetupError
from audio_batch.formats import FORMATS
from audio_batch.journal import Journal, JournalEntry
from audio_batch.journal_formats import Written
from audio_batch.outcome import State
from audio_batch.output_folder import OutputFolder
from audio_batch.output_names import has_hash, in_order_of
from audio_batch.outputs import Outputs, intact
from audio_batch.seal import named_in, owner_of
from audio_batch.shards import states

_JSON = FORMATS["json"].suffix

_PROGRAM = b'"program": "audio-batch '
"""What a summary begins with."""

_MOST = 10_000
"""Strangers that are remembered; the first few are told."""


@dataclass(frozen=True, slots=True)
class Claim:
    """An asset that is to be published: under which name, in which formats.

    `entry` is its row in the journal, if it has one.
    """

    asset_id: str
    output_name: str
    formats: Sequence[str]
    entry: JournalEntry | None


@dataclass(frozen=True, slots=True)
class Stranger:
    """A file under a name that is to be written, of which nothing says that it is a run's."""

    asset_id: str
    output_name: str
    path: str


class Occupied:
    """Looks at what stands under names that are to be written. One thread.

    Args:
        written: what earlier runs may have written here.
        ids: of all assets of the manifest.
        overwrites: whether anything that is there may be written over.

    Attributes:
        taken: names that hold transcripts of assets which are not of the manifest.
        anything_there: whether there was anything to be looked at.
        strangers: the first files that are nobody's, in the order in which they were met.
    """

    def __init__(
        self,
        outputs: Outputs,
        written: Written,
        ids: Callable[[], Iterable[str]],
        *,
        overwrites: bool = False,
    ) -> None:
        self._outputs = outputs
        self._written = written
        self._overwrites = overwrites
        self._ids = ids
        self._known: set[int] | None = None
        self._is_empty: bool | None = None
        self._owners: dict[str, str | None] = {}
        self._stood = array("q")
        self._is_in_order = False
        self._in_the_way: list[Stranger] = []
        self.anything_there = False
        self.taken: set[str] = set()
        self.strangers: list[Stranger] = []

    def told(self, folder: OutputFolder) -> list[str]:
        """The paths of strangers, below the folder, that no other part's journal knows, and that
        the store does not say to be ours.

        Raises:
            SetupError: a journal is damaged, or the store does not answer.
        """
        return [one.path for one in self._foreign(folder, self.strangers)]

    def still_barred(self, folder: OutputFolder) -> dict[str, str]:
        """The assets, of those looked at since the last time, that have failed because a name of
        theirs was another's, and one still is; with its path. Raises as `told`.
        """
        some, self._in_the_way = self._in_the_way, []
        return {one.asset_id: one.path for one in self._foreign(folder, some)}

    def stood(self, output_name: str, formats: Sequence[str]) -> tuple[str, ...]:
        """The formats in which something stood under a name that was looked at."""
        if not self._stood:
            return ()
        if not self._is_in_order:
            self._stood, self._is_in_order = in_order_of(self._stood), True
        return tuple(
            name
            for name in formats
            if has_hash(self._stood, hash(f"{output_name}{FORMATS[name].suffix}"))
        )

    def _foreign(self, folder: OutputFolder, some: Sequence[Stranger]) -> list[Stranger]:
        left = unowned_by_parts(folder, some)
        if self._outputs.at_once == 1 or not left:
            return left
        try:
            with ThreadPoolExecutor(self._outputs.at_once, "Occupied") as threads:
                marked = list(threads.map(self._outputs.is_marked, (one.path for one in left)))
        except AssetError as error:
            raise SetupError(error.message, remedy=error.remedy) from error
        return [one for one, is_ours in zip(left, marked, strict=True) if not is_ours]

    def is_there(self, output_name: str) -> bool:
        """Whether anything stands under a name, in any format.

        Raises:
            SetupError: the store does not answer.
        """
        if self._is_empty is None:
            self._is_empty = self._outputs.is_empty()
        return not self._is_empty and self._outputs.has_any(output_name)

    def note(self, output_name: str, data: bytes) -> None:
        """Remember whose a JSON is that somebody has read. Any thread."""
        self._owners[output_name] = owner_of(data)

    def look(self, claims: Iterable[Claim]) -> None:
        """Look at what stands under some names; `taken` and `strangers` grow.

        Raises:
            SetupError: the store does not answer.
        """
        there = [claim for claim in claims if self.is_there(claim.output_name)]
        self.anything_there = self.anything_there or bool(there)
        unknown = [claim.output_name for claim in there if self._is_to_be_read(claim)]
        for name, data in self._read(unknown):
            self._owners[name] = data if data is None else owner_of(data)
        for claim in there:
            self._judge(claim)

    def _is_to_be_read(self, claim: Claim) -> bool:
        name = claim.output_name
        if name in self._owners or not self._outputs.size_bytes(f"{name}{_JSON}"):
            return False  # an empty file is all that a power failure may leave of ours
        return not self._stands_as_journalled(claim)

    def _stands_as_journalled(self, claim: Claim) -> bool:
        path = f"{claim.output_name}{_JSON}"
        listed = claim.entry.outputs if claim.entry is not None else ()
        return any(file.path == path and intact(self._outputs, file) for file in listed)

    def _read(self, names: Sequence[str]) -> Iterator[tuple[str, bytes | None]]:
        if self._outputs.at_once == 1 or len(names) < 2:
            yield from zip(names, map(self._data, names), strict=True)
            return
        with ThreadPoolExecutor(self._outputs.at_once, "Occupied") as threads:
            yield from zip(names, threads.map(self._data, names), strict=True)

    def _data(self, name: str) -> bytes | None:
        try:
            return self._outputs.read(PurePosixPath(f"{name}{_JSON}"))
        except OSError:
            return None
        except AssetError as error:
            raise SetupError(error.message, remedy=error.remedy) from error

    def _judge(self, claim: Claim) -> None:
        name = claim.output_name
        for format_name in claim.formats:
            path = f"{name}{FORMATS[format_name].suffix}"
            # A link that leads nowhere has no size; what it leads to may only be away.
            seen = self._overwrites and self._outputs.is_seen(path)
            if seen or self._outputs.size_bytes(path) is not None:
                self._stood.append(hash(path))
                self._is_in_order = False
        size = self._outputs.size_bytes(f"{name}{_JSON}")
        # A transcript whose owner is to be had under this name, or an asset of this manifest that
        # has another by now.
        ours = size == 0
        if size and not self._stands_as_journalled(claim):
            owner = self._owners.get(name)
            if owner is None:
                if not self._is_vouched_for(claim, "json", f"{name}{_JSON}", ours):
                    self._meet(claim, "json")
                    return
            elif owner != claim.asset_id and not self._is_of_manifest(owner):
                self.taken.add(name)
                return
        ours = ours or bool(size)
        for format_name in claim.formats:
            path = f"{name}{FORMATS[format_name].suffix}"
            if (
                format_name != "json"
                and not self._is_vouched_for(claim, format_name, path, ours)
                and self._outputs.size_bytes(path)
            ):
                self._meet(claim, format_name)

    def _is_vouched_for(self, claim: Claim, format_name: str, path: str, ours: bool) -> bool:
        if claim.entry is None:
            return ours
        if claim.entry.error_kind is ErrorKind.OUTPUT_EXISTS:
            listed = is_of_row(claim.entry, claim.output_name, path, False)
            return listed or (ours and path in named_in(self._data(claim.output_name) or b""))
        if ours and claim.entry.started_at is None:
            return True  # taken over: what else was written then nobody knows
        was_asked = format_name == "json" or self._written.may_be(format_name, path)
        if ours and was_asked:
            return True  # also where the row has another name by now
        return is_of_row(claim.entry, claim.output_name, path, was_asked)

    def _is_of_manifest(self, asset_id: str) -> bool:
        if self._known is None:
            self._known = set(map(hash, self._ids()))
        return hash(asset_id) in self._known

    def _meet(self, claim: Claim, format_name: str) -> None:
        is_known = claim.entry and claim.entry.error_kind is ErrorKind.OUTPUT_EXISTS
        met = self._in_the_way if is_known else self.strangers
        if len(met) < _MOST:
            path = f"{claim.output_name}{FORMATS[format_name].suffix}"
            met.append(Stranger(claim.asset_id, claim.output_name, path))


def is_of_row(entry: JournalEntry, output_name: str, path: str, was_asked: bool) -> bool:
    """Whether a row vouches for a text: it lists it, or an attempt under its name may have left it.

    Args:
        was_asked: runs of that journal have written this format.
    """
    if any(file.path == path for file in entry.outputs):
        return True
    if entry.error_kind is ErrorKind.OUTPUT_EXISTS:
        return False  # what it has written is listed
    # As `plan.rendering_of` has it.
    name = entry.rendering.partition("|")[0].partition(":")[2]
    return name == output_name and (was_asked or entry.state is not State.DONE)


class Vouchers:
    """What all journals of an output folder vouch for, the whole's and its parts'. One thread.

    Raises:
        SetupError: one is damaged.
    """

    def __init__(self, folder: OutputFolder) -> None:
        self._journals: list[tuple[Journal, Written]] = []
        with ExitStack() as opened:
            for _, state in states(folder.whole):
                journal = Journal(state / "journal.sqlite3", read_only=True)
                opened.callback(journal.close)
                self._journals.append((journal, journal.formats.written()))
            self.close = opened.pop_all().close

    def formats(self, asset_id: str, output_name: str) -> set[str]:
        """The formats in which runs or exports may have written an asset under a name."""
        rows = [
            (entry, written)
            for journal, written in self._journals
            for entry in journal.lookup.entries([asset_id])
        ]
        paths = {name: f"{output_name}{known.suffix}" for name, known in FORMATS.items()}
        return {
            name
            for name, path in paths.items()
            if any(is_of_row(row, output_name, path, w.may_be(name, path)) for row, w in rows)
        }


def unowned_by_parts(folder: OutputFolder, strangers: Sequence[Stranger]) -> list[Stranger]:
    """Strangers without those that other journals of the folder know: the whole's, other parts'.

    Raises:
        SetupError: one of these is damaged.
    """
    left = list(strangers)
    for _, state in states(folder.whole):
        if not left or state == folder.state:
            continue
        journal = Journal(state / "journal.sqlite3", read_only=True)
        try:
            written = journal.formats.written()
            rows = {
                entry.asset_id: entry
                for entry in journal.lookup.entries({one.asset_id for one in left})
            }
        finally:
            journal.close()
        left = [one for one in left if not _knows(rows.get(one.asset_id), one, written)]
    return left


def _knows(entry: JournalEntry | None, one: Stranger, written: Written) -> bool:
    if entry is None:
        return False
    was_asked = any(
        one.path == f"{one.output_name}{known.suffix}" and written.may_be(name, one.path)
        for name, known in FORMATS.items()
    )
    return is_of_row(entry, one.output_name, one.path, was_asked)


def summary_of_others(folder: OutputFolder, outputs: Outputs, *, has_run: bool) -> list[str]:
    """The summary's name, where a file of it is there that no run has written.

    Args:
        has_run: whether the folder's journal knows of a run; then it is ours.

    Raises:
        SetupError: the store does not answer.
    """
    name = folder.summary_path.name
    if has_run or not outputs.size_bytes(name):
        return []
    try:
        return [name] if is_no_summary(outputs, name) else []
    except AssetError as error:
        raise SetupError(error.message, remedy=error.remedy) from error


def is_no_summary(outputs: Outputs, name: str) -> bool:
    """Whether what has a summary's name is no run's summary.

    Raises:
        AssetError: the store does not answer.
    """
    try:
        return _PROGRAM not in outputs.read(PurePosixPath(name))[:1000]
    except FileNotFoundError:
        return False
    except OSError:
        return True
