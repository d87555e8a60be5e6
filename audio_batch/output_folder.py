"""Where a run's outputs go, and where it keeps its state: journal, lock, kept stages, summary.

Outputs go to a local folder or below the URL of an object store. The state is always local: a
journal needs locks and durable writes, which no object store has. It lies in `.audio-batch` within
a local output folder; for a remote one, in the user's state folder under a name made from the URL;
or where --state-dir says. A shard of a manifest has a state of its own below that of the whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import platformdirs

from audio_batch import locations, turns
from audio_batch.errors import SetupError, UsageError
from audio_batch.folder_lock import LOCK, FolderLock, despite_removal
from audio_batch.leftovers import Leftovers
from audio_batch.manifest_sources import SourceError, local_text
from audio_batch.outputs import OutputPlace
from audio_batch.remote.access import Access
from audio_batch.shards import FOLDER as SHARDS
from audio_batch.shards import Shard, states
from audio_batch.storage import (
    STATE_FOLDER,
    make_folder,
    temporary_name,
    write_atomic,
)
from audio_batch.text import for_terminal, redact

OWNER = "location.json"
"""In a state folder that is not within its output folder: whose state it is."""

_READABLE = 40
"""How much of a URL stands in the name of its state folder."""


class OutputFolder:
    """A place for outputs, with the state that belongs to it and the lock that one run holds.

    `root` is the local folder of the outputs; for remote ones it is that of the state. `where`
    says to people where the outputs are. `whole` is the state folder without regard to shards.
    """

    def __init__(
        self,
        root: Path,
        *,
        state: Path | None = None,
        url: str = "",
        access: Access | None = None,
        shard: Shard | None = None,
    ) -> None:
        self.root = root
        self.shard = shard
        self.url = url
        self.where = redact(url) if url else str(root)
        self.whole = root / STATE_FOLDER if state is None else state
        self.state = self.whole / SHARDS / shard.tag if shard else self.whole
        tag = shard.tag if shard else ""
        within = None if url else root
        self._leftovers = Leftovers(within, self.whole, shard, elsewhere=self.is_elsewhere)
        self.place = OutputPlace(url or str(root), access, self._leftovers.tag)
        self.journal_path = self.state / "journal.sqlite3"
        self.crash_log_path = self.state / "crash.log"
        self.summary_path = root / (f"summary.{tag}.json" if tag else "summary.json")
        self._lock_path = self.state / LOCK
        self._is_made = False

    @classmethod
    def at(
        cls,
        location: str,
        *,
        state_dir: Path | None = None,
        shard: str | None = None,
        access: Access | None = None,
    ) -> OutputFolder:
        """The output folder at a location.

        Args:
            state_dir: where journal, lock and kept stages go; None: see the module's docstring.
            shard: "2/4": the state of that part of the manifest.
            access: what may be asked of an object store; None: as the environment says.

        Raises:
            UsageError: it is nowhere that outputs can be written.
        """
        part = None if shard is None else Shard.parse(shard)
        state = None if state_dir is None else state_dir.expanduser().absolute()
        url = _url(location)
        if url:
            state = state or _home_of(url)
            return cls(state, state=state, url=url, access=access, shard=part)
        return cls(_local(location), state=state, shard=part)

    @property
    def is_elsewhere(self) -> bool:
        """Whether the state of local outputs lies in a folder of its own."""
        return self.is_local and self.whole != self.root / STATE_FOLDER

    @property
    def is_local(self) -> bool:
        """Whether the outputs are files of a folder."""
        return not self.url

    def require_local(self, what: str) -> None:
        """See that transcripts can be written anew in place.

        Raises:
            UsageError: the outputs are not in a local folder.
        """
        if not self.is_local:
            raise UsageError(
                f"{what} needs a local --output-dir: {self.where} cannot be changed in place.",
                remedy="Give a local --output-dir, and copy what it holds when it is done.",
            )

    def require_linkable(self) -> None:
        """See that a run can link the voices of all recordings when it ends.

        Raises:
            UsageError: the outputs are not in a local folder, or are a shard's.
        """
        self.require_local("--link-speakers")
        if self.shard is not None:
            raise UsageError(
                "--link-speakers needs all recordings, and a --shard has some.",
                remedy="Run the manifest with it once more without --shard when all shards are "
                "done: that run takes over what they did, and links.",
            )

    def create(self) -> None:
        """Make the folders and see that they can be written to; nothing is sent to a store.

        Raises:
            SetupError: one cannot be made or written to, or something in it is a link; what a
                store's URL needs is not installed.
            UsageError: the state folder is another output folder's.
        """
        self._refuse_links()
        despite_removal(self._make)
        self._is_made = True
        self.place.open()

    def _make(self) -> None:
        within = self.state.is_relative_to(self.root)
        try:
            for folder in (self.state,) if within else (self.root, self.state):
                make_folder(folder, self.root if within else folder)
                probe = folder / temporary_name()
                os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
                probe.unlink()
        except OSError as error:
            raise self._unwritable(folder, error) from error
        self._own()

    def _unwritable(self, folder: Path, error: OSError | NotImplementedError) -> SetupError:
        reason = getattr(error, "strerror", None) or error
        is_state = folder.is_relative_to(self.whole) and self.whole != self.root / STATE_FOLDER
        name, flag = ("state", "--state-dir") if is_state else ("output", "--output-dir")
        return SetupError(
            f"The {name} folder {folder} cannot be written to: {reason}.",
            remedy=f"Choose another {flag}, or mend its permissions.",
        )

    def _refuse_links(self) -> None:
        """The state's files are written in place, through their names: none may lead elsewhere."""
        folders = [self.whole, self.state]
        if self.is_elsewhere:
            folders.append(self.root / STATE_FOLDER)  # a lock is taken there
        for folder in dict.fromkeys(folders):
            inside: list[Path] = []
            if folder.is_dir():
                with contextlib.suppress(FileNotFoundError):  # a failed start takes it back
                    inside = list(folder.iterdir())
            for path in (folder, *inside):
                if path.is_symlink():
                    raise SetupError(
                        f"{path} is a link; what is written there would change another file.",
                        remedy="Remove the link, or choose another --output-dir.",
                    )

    def _own(self) -> None:
        """Write down whose state this is, where its place does not tell."""
        if self.whole != self.root / STATE_FOLDER and not self._checked_owner():
            text = json.dumps({"outputs": self._identity}, indent=2) + "\n"
            write_atomic(self.whole / OWNER, text.encode("ascii"))

    def _checked_owner(self) -> bool:
        """Whether the state says whose it is.

        Raises:
            UsageError: another's.
        """
        try:
            known = json.loads((self.whole / OWNER).read_bytes())["outputs"]
        except (OSError, ValueError, KeyError, TypeError):
            return False
        if known != self._identity:
            raise UsageError(
                f"{self.whole} holds the state of {for_terminal(str(known))}, not of {self.where}.",
                remedy="Give each output folder a --state-dir of its own. If the outputs were "
                f"moved, remove {OWNER} there.",
            )
        return True

    @property
    def _identity(self) -> str:
        return _plain(self.url) if self.url else str(self.root)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for one run; see `FolderLock`.

        Raises:
            LockedError: another run holds it (exit 11).
            SetupError: it cannot be locked, or something in the state folder is a link.
        """
        self._refuse_links()
        lock = FolderLock(self.where, self.shard, self._unwritable)
        with contextlib.ExitStack() as held:
            lock.take(held, self.whole)
            if self.is_elsewhere and (self._is_made or self.root.is_dir()):
                # Runs with other states may write into the same folder.
                with contextlib.suppress(SetupError):
                    lock.take(held, self.root / STATE_FOLDER)
            turns.end()
            yield

    def refuse_second(self) -> None:
        """Say early that another run holds the folder; `locked` is what keeps two runs apart.

        Of the locks of shards nothing is asked: a settings file may say that this is one of them.

        Raises:
            LockedError: another run holds it (exit 11).
            SetupError: see `locked`.
        """
        if self._lock_path.is_file():
            self._refuse_links()
            FolderLock(self.where, self.shard, self._unwritable).look(self._lock_path)

    def leftovers(self) -> Iterator[Path]:
        """Temporary files that a killed run left; to be called with the lock held."""
        return self._leftovers.find()

    def sweep(self) -> int:
        """Remove the leftovers of a killed run; to be called with the lock held."""
        return self._leftovers.sweep()

    def require(self) -> None:
        """For commands that read a finished run.

        Raises:
            UsageError: the folder holds no journal (exit 2), or the state is another's.
        """
        if not self.journal_path.is_file():
            raise UsageError(
                f"{self.where} holds no journal of a run.",
                remedy="Name the --output-dir of a run, and its --state-dir where it had one.",
            )
        if self.whole != self.root / STATE_FOLDER:
            self._checked_owner()

    def reserved(self) -> set[PurePosixPath]:
        """Names that no asset's output may have: those of summaries of shards, beside each other.

        Of as many shards as this run is one of, or as the state knows.
        """
        counts = {shard.count for shard, _ in states(self.whole) if shard is not None}
        if self.shard is not None:
            counts.add(self.shard.count)
        return {
            PurePosixPath(f"summary.{Shard(index, count).tag}")
            for count in counts
            for index in range(1, count + 1)
        }

    def send_summary(self, *, replace: bool) -> None:
        """Put the summary, which is written locally, beside remote outputs too.

        Args:
            replace: whether what has its name there may be written over, whatever it is.

        Raises:
            AssetError: it cannot be written there.
        """
        data, name = self.summary_path.read_bytes(), PurePosixPath(self.summary_path.name)
        self.place.open().publish(name, data, format_name="", replace=replace)


def of_a_run(
    location: str, state_dir: Path | None = None, shard: str | None = None
) -> OutputFolder:
    """The output folder of a run, reached as the last run that did something there has.

    Raises:
        UsageError: there is no journal of one.
        SetupError: the journal cannot be read.
    """
    folder = OutputFolder.at(location, state_dir=state_dir, shard=shard)
    folder.require()
    if folder.is_local:
        return folder
    from audio_batch.journal import Journal

    journal = Journal(folder.journal_path, read_only=True)
    run = journal.last_run(idle=False)
    journal.close()
    settings = run.request.get("settings", {}) if run else {}
    access = Access(
        s3_endpoint=settings.get("s3_endpoint"), aws_profile=settings.get("aws_profile")
    )
    return OutputFolder.at(location, state_dir=state_dir, shard=shard, access=access)


def _url(location: str) -> str:
    """The URL of a folder in an object store; "" for what is local.

    Raises:
        UsageError: a scheme that nothing can be written to.
    """
    scheme = locations.scheme(location)
    if scheme in locations.OBJECT_STORES:
        if not location.partition("://")[2].strip("/"):
            raise UsageError(
                f"{location} names no bucket or container.",
                remedy=f"For example: {scheme}://bucket/transcripts.",
            )
        return scheme + location.rstrip("/")[len(scheme) :]
    if scheme in ("", "file"):
        return ""
    known = ", ".join(f"{name}://" for name in ("s3", "gs", "az", "file"))
    raise UsageError(
        f"Nothing can be written to {redact(location)}.", remedy=f"Give a path, or one of {known}."
    )


def _local(location: str) -> Path:
    """The folder that a path or a `file:` URL names."""
    try:
        text = local_text(location) if locations.scheme(location) else location
    except SourceError as error:
        raise UsageError(f"--output-dir: {error}.") from error
    return Path(locations.absolute(text, Path()))


def _plain(url: str) -> str:
    """One spelling of a URL, whichever of a scheme's names it begins with."""
    scheme = locations.scheme(url)
    same = {"s3a": "s3", "gcs": "gs", "abfs": "az", "abfss": "az"}
    return same.get(scheme, scheme) + url[len(scheme) :]


def _home_of(url: str) -> Path:
    """Where the state of a remote output folder lies: by a name that is readable and unique."""
    plain = _plain(url)
    readable = re.sub("[^A-Za-z0-9]+", "-", plain.partition("://")[2])[-_READABLE:].strip("-")
    digest = hashlib.sha256(plain.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    home = platformdirs.user_state_path("audio-batch", appauthor=False)
    return home / "outputs" / f"{readable}-{digest}"
