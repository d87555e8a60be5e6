"""What the stages found, put together as one transcript."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from audio_batch import __version__, speakers
from audio_batch.outcome import Stage
from audio_batch.remote import urls
from audio_batch.stages import Aligned, Diarized, Transcribed
from audio_batch.suspicion import suspicions
from audio_batch.transcript import Transcript

if TYPE_CHECKING:
    from audio_batch.stagework import StageWork


def assemble(
    work: StageWork,
    heard: Transcribed,
    aligned: Aligned | None,
    voices: Diarized | None,
    missing: tuple[Stage, ...],
) -> Transcript:
    """Put the stages' results together: pure but for the job's own values."""
    job, context = work.job, work.context
    segments = heard.segments if aligned is None else aligned.segments
    notes = [*heard.notes, *(aligned.notes if aligned else ())]
    provenance: dict[str, Any] = {
        "program": f"audio-batch {__version__}",
        "engine": context.options.engine,
        "model": context.model_name,
        "model_identity": context.model_identity,
        **heard.about,
        "speech_s": heard.speech_s,
        "options": dataclasses.asdict(job.decoding),
        "fingerprint": job.fingerprint,
        **({"redone": True} if job.redo else {}),
    }
    if aligned is not None:
        provenance["alignment"] = aligned.about
    found = None
    if voices is not None:
        found = voices.diarization
        segments = speakers.assign(segments, found.turns, found.exclusive_turns)
        notes += found.notes
        provenance["diarization"] = voices.about
    return Transcript(
        asset_id=job.asset.id,
        source=urls.public(job.asset.uri),
        name=job.asset.name,
        language=heard.language,
        language_probability=heard.language_probability,
        duration_s=heard.duration_s,
        segments=segments,
        speakers=found.speakers if found else (),
        turns=found.turns if found else (),
        exclusive_turns=found.exclusive_turns if found else (),
        missing=tuple(stage.value for stage in missing),
        suspicions=suspicions(
            heard.segments, speech_s=heard.speech_s, last_speech_s=heard.last_speech_s
        ),
        media={**heard.media, "notes": notes},
        metadata=job.asset.metadata,
        provenance={**provenance, "timings_s": dict(work.clock.timings_s)},
    )
