"""What a run knows of voices when it begins, and what it finds out about them when it ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from audio_batch.config import Settings
from audio_batch.errors import SetupError, UsageError
from audio_batch.interface import Interface
from audio_batch.journal import Journal
from audio_batch.lineup import Lineup
from audio_batch.output_folder import OutputFolder
from audio_batch.voices import names
from audio_batch.voices.known import naming_key
from audio_batch.voices.memory import Memory, recall

if TYPE_CHECKING:
    from audio_batch.voices.enrolment import Enrolment


@dataclass(frozen=True, slots=True)
class RunVoices:
    """Whom a run may name.

    Attributes:
        people: the enrolled voices; None: no voices were enrolled.
        given: names by the ids of voices; None where they cannot be read.
        threshold: how alike a voice has to be to an enrolled one; None: the model's own.
    """

    people: Enrolment | None
    given: Mapping[str, str] | None
    threshold: float | None

    @classmethod
    def read(
        cls, settings: Settings, lineup: Lineup, folder: OutputFolder, interface: Interface
    ) -> RunVoices:
        """Read what the folder and the flags say; what would end the night later ends it now.

        Raises:
            UsageError: a file or a clip cannot be used, or a threshold is not known.
        """
        people = _read_people(settings, lineup)
        given = _read_names(folder, interface, linking=bool(settings.link_speakers))
        return cls(people, given, settings.speaker_threshold)

    @property
    def naming(self) -> str | None:
        """What the names in an output depend on; None: they are to stay as they are."""
        return None if self.given is None else naming_key(self.given, self.people, self.threshold)


def remembered(folder: OutputFolder, interface: Interface) -> Memory:
    """The ids of voices; without them the night goes on, and linking says what is wrong."""
    try:
        return recall(folder.state)
    except SetupError as error:
        interface.notice(str(error), warning=True)
        return Memory()


def link(settings: Settings, folder: OutputFolder, journal: Journal, interface: Interface) -> None:
    """Give the voices of all recordings their ids, where that is asked for."""
    if not settings.link_speakers:
        return
    from audio_batch.voices.folder import link_output

    report = link_output(folder.root, journal, threshold=settings.link_threshold)
    interface.notice(
        f"{len(report.voices)} voices in {report.recordings} recordings; "
        f"name them in {folder.root / names.FILE_NAME}."
    )
    for line in report.left_out:
        interface.notice(line, warning=True)


def _read_people(settings: Settings, lineup: Lineup) -> Enrolment | None:
    """The enrolled voices; what would only be missed at the end of the night is missed now."""
    model = lineup.diarizer
    for flag, wanted, given, known in (
        ("speaker", settings.speakers, settings.speaker_threshold, "enrol_threshold"),
        ("link", settings.link_speakers, settings.link_threshold, "link_threshold"),
    ):
        if wanted and given is None and model is not None and getattr(model, known) is None:
            raise UsageError(
                f"How alike two vectors of one voice are is not known of {model.name}.",
                remedy=f"Give a --{flag}-threshold, such as 0.7.",
            )
    if settings.speakers is None or model is None:
        return None
    from audio_batch.voices import enrolment

    return enrolment.read(settings.speakers)


def _read_names(
    folder: OutputFolder, interface: Interface, *, linking: bool
) -> Mapping[str, str] | None:
    """The names of voices; None where the file is damaged, which must not cost the night.

    Raises:
        UsageError: it is damaged, and to be brought up to date when the night ends.
    """
    try:
        return names.load(folder.root)
    except UsageError as error:
        if linking:
            raise  # at the end of the night it would be too late
        interface.notice(f"{error} Voices keep their ids until it is mended.", warning=True)
        return None
