"""How a canonical JSON vouches for itself and for the outputs beside it.

Its `provenance` says what it was made of (`source_identity`, `fingerprint`), how it was written
(`rendering`), which other files were published with it (`outputs`: format, path, size_bytes,
sha256), and the hash of the file itself (`sha256`: of its bytes with 64 zeros in the place of that
hash). A journal that is lost is made again from these; see `recovery`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from audio_batch.formats import FormatOptions, render
from audio_batch.storage import PublishedFile
from audio_batch.transcript import Transcript

_UNSEALED = "0" * 64

_BEGINS = re.compile(rb'\s*\{\s*"schema_version": \d+,\s*"asset_id": ("(?:[^"\\]|\\.)*")')
"""How a canonical JSON begins, also one that was cut off."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """What a canonical JSON says, once its seal was found whole.

    `outputs` are the files that were published with it, without itself.
    """

    transcript: Transcript
    source: str
    fingerprint: str
    rendering: str
    outputs: tuple[PublishedFile, ...]


def seal(
    transcript: Transcript,
    outputs: Sequence[PublishedFile],
    *,
    source: str,
    rendering: str,
) -> bytes:
    """The canonical JSON of a transcript, with its seal.

    Args:
        outputs: what was published with it, without itself.
        source: the identity of the recording.
        rendering: as the journal has it.
    """
    provenance = {
        **transcript.provenance,
        "source_identity": source,
        "rendering": rendering,
        "outputs": [dataclasses.asdict(output) for output in outputs],
    }
    provenance.pop("sha256", None)
    body = dataclasses.replace(transcript, provenance={**provenance, "sha256": _UNSEALED})
    data = render("json", body, FormatOptions())
    before, mark, after = data.rpartition(f'"sha256": "{_UNSEALED}"'.encode("ascii"))
    digest = hashlib.sha256(data).hexdigest()
    return before + mark.replace(_UNSEALED.encode("ascii"), digest.encode("ascii")) + after


def sealed_again(transcript: Transcript, outputs: Sequence[PublishedFile]) -> bytes:
    """The canonical JSON of a published transcript in which something was changed.

    One that never had a seal, as an earlier version wrote it, gets none.
    """
    about = transcript.provenance
    source, rendering = about.get("source_identity"), about.get("rendering")
    if not (isinstance(source, str) and isinstance(rendering, str)):
        return render("json", transcript, FormatOptions())
    return seal(transcript, outputs, source=source, rendering=rendering)


def opened(data: bytes) -> Sealed | None:
    """What a canonical JSON says; None where it has no seal, or a byte of it is another."""
    try:
        transcript = Transcript.from_json(json.loads(data))
        about = transcript.provenance
        digest = about["sha256"].encode("ascii")
        before, found, after = data.rpartition(digest)
        plain = before + _UNSEALED.encode("ascii") + after
        if not found or hashlib.sha256(plain).hexdigest().encode("ascii") != digest:
            return None
        texts = (about["source_identity"], about["fingerprint"], about["rendering"])
        outputs = tuple(PublishedFile(**output) for output in about["outputs"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    sound = all(
        isinstance(text, str)
        for text in (*texts, *(t for o in outputs for t in (o.format, o.path, o.sha256)))
    ) and all(isinstance(output.size_bytes, int) for output in outputs)
    return Sealed(transcript, *texts, outputs) if sound else None


def owner_of(data: bytes) -> str | None:
    """The id of the asset whose transcript a JSON is, whole or not; None where it is none."""
    try:
        if found := _BEGINS.match(data):
            body: Any = {"asset_id": json.loads(found[1]), "segments": []}
        else:
            body = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(body, dict) or not isinstance(body.get("segments"), list):
        return None
    asset_id = body.get("asset_id")
    return asset_id if isinstance(asset_id, str) else None


def named_in(canonical: bytes) -> set[str]:
    """The paths of the files that a canonical JSON, sealed or not, says were published with it."""
    try:
        body: Any = json.loads(canonical)
        return {str(output["path"]) for output in body["provenance"]["outputs"]}
    except (ValueError, KeyError, TypeError, RecursionError):
        return set()
