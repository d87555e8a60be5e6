"""An asset's outputs are published: over what is its own, and over nothing that has come meanwhile.

What stood under its names when the run began was looked at then (`occupied`), and may be written
over. Any other name has to be free, or hold what an earlier attempt at this asset has left: the
same bytes, or what a transcript of this asset names as its own. Whoever else has a name by now
keeps it, and the asset fails.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import PurePosixPath

from audio_batch.errors import AssetError, ErrorKind
from audio_batch.formats import FORMATS
from audio_batch.outputs import Outputs
from audio_batch.seal import named_in, owner_of
from audio_batch.storage import PublishedFile, name_taken


@dataclass(frozen=True, slots=True)
class Publisher:
    """Publishes one asset's outputs. Any thread.

    Args:
        replaces: formats whose names may be written over whatever has them.
    """

    outputs: Outputs
    asset_id: str
    output_name: str
    replaces: Collection[str]

    def path(self, format_name: str) -> PurePosixPath:
        """Where an output goes, below the output folder."""
        return PurePosixPath(f"{self.output_name}{FORMATS[format_name].suffix}")

    def see(self, format_name: str, data: bytes | None = None) -> None:
        """See that an output can be published, as far as that costs nothing.

        To be called for all of an asset's, so that none is left alone beside another's file.

        Args:
            data: what is to be published; None: that is not known yet.

        Raises:
            AssetError: OUTPUT_EXISTS, or what there is cannot be read.
        """
        path = self.path(format_name)
        taken = format_name not in self.replaces and self.outputs.is_seen(path.as_posix())
        if taken and not self._is_own(path, data):
            raise name_taken(path.as_posix())

    def publish(self, format_name: str, data: bytes) -> PublishedFile:
        """Publish one output.

        Raises:
            AssetError: as `Outputs.publish`.
        """
        path, replace = self.path(format_name), format_name in self.replaces
        try:
            return self.outputs.publish(path, data, format_name=format_name, replace=replace)
        except AssetError as error:
            if error.kind is not ErrorKind.OUTPUT_EXISTS or not self._is_own(path, data):
                raise
        return self.outputs.publish(path, data, format_name=format_name)

    def _is_own(self, path: PurePosixPath, data: bytes | None) -> bool:
        """Whether what has a name is of this asset: the same bytes, or a transcript says so."""
        canonical = self.path("json")
        try:
            if path != canonical and self.outputs.read(path) == data:
                return True
            found = self.outputs.read(canonical)
        except OSError:
            return False
        if owner_of(found) != self.asset_id:
            return False
        return path == canonical or path.as_posix() in named_in(found)
