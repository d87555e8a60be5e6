"""From packets to samples: on past bad ones, with every later word still at its own time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from audio_batch.media.container import OpenMedia, check_limits, open_media
from audio_batch.media.failures import over_limit, without_sound
from audio_batch.media.samples import Mixer, SampleStore
from audio_batch.media.tails import broken_end
from audio_batch.media.types import DEFAULT_LIMITS, SAMPLE_RATE_HZ, Audio, AudioState, MediaLimits

_MAX_FAILURES_IN_A_ROW = 1_000
"""After so many failures to find a next packet the rest of the file is given up."""

_MAX_EDGE_FAILURES = 3
"""So many packets may fail before the first sound (a stream joined midway) or after the last (an
old tag, half a frame) without anything being wrong."""

_TIMED = frozenset(
    {"asf", "flac", "flv", "matroska", "mov", "mpeg", "mpegts", "mxf", "nut", "ogg", "rm", "wtv"}
)
"""Containers that store time stamps. In the others FFmpeg counts what it saw, which tells nothing
of what was lost, and goes wrong where a stream changes its rate."""

_CHECKED = frozenset({"flac", "wavpack"})
"""Codecs whose frames carry check sums that every encoder writes well."""

_MIN_GAP_S = 0.05
"""A jump of the clock that is filled with silence; below it lie rounded time stamps."""

_MIN_RESTART_S = 1.0
"""A clock that is less behind than this may catch up by itself; else it was restarted."""

_MAX_UNDECLARED_GAP_S = 10.0
"""A longer jump that no declared length vouches for is a new clock, not a gap (as in ffmpeg)."""

_MIN_SHORTFALL_S = 0.25
"""Less than this missing at the end is an encoder's rounding, not worth a note."""

_ADJACENT_BYTES = 64
"""Room for a block's and a cluster's header between two packets that follow each other."""


def decode(
    path: Path,
    limits: MediaLimits = DEFAULT_LIMITS,
    *,
    audio_stream: int | None = None,
    span: tuple[int, int] | None = None,
) -> Audio:
    """Decode a recording's sound to 16 kHz mono float32. Runs in any thread, many at once.

    Two channels become their mean: a speaker on one of them is 6 dB quieter, and nobody is lost.
    More are mixed as `samples.Mixer` says.

    Time 0 is where the file's first stream begins, as players have it: sound that sets in later
    than the picture has silence before it. An encoder's own delay is cut by FFmpeg. Where the time
    stamps jump ahead (packets were lost, or a recorder stored nothing while muted) silence fills
    the gap, so that later words keep their times; where they jump back, or ahead without a
    declared length that vouches for it, the clock was restarted and no gap is made.

    Memory: the samples (64 kB a second) and a block of 64 MiB.

    Args:
        path: the recording.
        limits: what is refused.
        audio_stream: which audio stream, from 0; None for the default one.
        span: which samples to answer, at 16 kHz, the second one excluded. All of the recording is
            decoded and judged all the same, but only these are held.

    Raises:
        AssetError: INPUT_MISSING, INPUT_NOT_A_FILE, INPUT_UNREADABLE (what can pass is transient),
            NOT_MEDIA, NO_AUDIO_STREAM, EMPTY_AUDIO, MEDIA_LIMIT, MEDIA_DAMAGED (nothing could be
            decoded), OUT_OF_MEMORY, or OPTION for a stream that does not exist.
    """
    with open_media(path, limits, audio_stream) as media:
        take = _Take(media, limits, span)
        for packet, frame in _frames(media, take.losses):
            take.add(packet, frame)
        samples = take.finish()
        if take.total_s == 0:
            missing_s = media.declared_s if take.sound_s == 0 else None
            raise without_sound(path, take.losses.packets, missing_s)
        state, notes = _verdict(media, take)
        notes += take.strange()
    return Audio(
        samples=samples,
        sample_rate_hz=SAMPLE_RATE_HZ,
        duration_s=take.total_s,
        info=media.info,
        state=state,
        notes=tuple(notes),
        first_sample=span[0] if span else 0,
    )


@dataclass(slots=True)
class _Losses:
    """What was lost: failed packets before the first sound, between sounds, since the last one.

    Of the timeline: what was filled with silence for packets that were lost, and where the recorder
    stored none, and how often the clock was set anew.
    """

    before: int = 0
    between: int = 0
    since: int = 0
    sounded: bool = False
    gaps_s: float = 0.0
    muted_s: float = 0.0
    restarts: int = 0

    def packet_failed(self) -> None:
        self.since += 1

    def sound_came(self) -> None:
        if self.sounded:
            self.between += self.since
        else:
            self.before = self.since
        self.sounded, self.since = True, 0

    @property
    def packets(self) -> int:
        return self.before + self.between + self.since


def _frames(media: OpenMedia, losses: _Losses) -> Iterator[tuple[Any, Any]]:
    """Packets with the frames decoded from them; the decoder's last frames come with None."""
    context = media.stream.codec_context
    context.thread_count = 1  # the run's parallelism is over recordings
    if media.info.codec in _CHECKED:
        # Their decoders check sums only when told to, and else hand out noise for damaged frames.
        context.options = {"err_detect": "crccheck+explode"}
    for packet in _packets(media, losses):
        for frame in _decoded(context, packet, losses):
            yield packet, frame
    for frame in _decoded(context, None, losses):
        yield None, frame


def _packets(media: OpenMedia, losses: _Losses) -> Iterator[Any]:
    """The stream's packets. A generator that ended is finished for good: after an error a new one
    goes on where the demuxer stands. In an MP4, whose index may point anywhere, even the end of
    the file may be met before the last packet."""
    has_index = "mov" in media.info.container.split(",")
    packets = media.container.demux(media.stream)
    errors = ends = 0
    while errors + ends < _MAX_FAILURES_IN_A_ROW:
        try:
            packet = next(packets)
        except (StopIteration, IndexError):  # PyAV's last step stumbles over streams found late
            if not has_index:
                return
            ends += 1
            packets = media.container.demux(media.stream)
        except av.error.MemoryError:
            raise
        except av.FFmpegError:
            errors += 1
            losses.packet_failed()
            packets = media.container.demux(media.stream)
        else:
            # An empty packet ends the decoder: the one that PyAV sends last is replaced by ours.
            if packet.size:
                losses.since += ends
                errors = ends = 0
                yield packet


def _decoded(context: Any, packet: Any, losses: _Losses) -> list[Any]:
    try:
        frames: list[Any] = context.decode(packet)
    except (av.error.MemoryError, av.error.DecoderNotFoundError):
        raise
    except av.FFmpegError:
        if packet is not None:
            losses.packet_failed()
        return []
    return frames


class _Take:
    """What has been decoded so far, on the recording's own timeline."""

    def __init__(self, media: OpenMedia, limits: MediaLimits, span: tuple[int, int] | None) -> None:
        self.losses = _Losses()
        self.sound_s = 0.0
        self.gaps_kept = True
        self._media = media
        self._limits = limits
        self._store = SampleStore(span)
        self._mixer: Mixer | None = None
        self._position_s = 0.0
        self._names = set(media.info.container.split(","))
        self._time_base_s = float(media.stream.time_base or 0) if self._names & _TIMED else 0.0
        self._origin_s = media.start_s
        self._sound_bytes = 0
        self._packet_end: int | None = None

    @property
    def total_s(self) -> float:
        """The length on the timeline: sound and kept gaps."""
        return self._total / SAMPLE_RATE_HZ

    @property
    def _total(self) -> int:
        return self._store.count + (self._store.gaps_samples if self.gaps_kept else 0)

    def add(self, packet: Any, frame: Any) -> None:
        """Take one decoded frame.

        Raises:
            AssetError: MEDIA_LIMIT, when the recording becomes too long or changes to a format
                that is refused.
        """
        if frame.samples == 0 or frame.sample_rate <= 0:
            return
        if packet is not None:  # else the decoder is being emptied: it read nothing new
            if self._time_base_s and frame.pts is not None:
                self._keep_time(packet, frame.pts * self._time_base_s)
            elif "mp3" in self._names:
                self._measure_skipped(packet)
            self.losses.sound_came()
            self._sound_bytes += packet.size
            self._packet_end = None if packet.pos is None else packet.pos + packet.size
        if self._mixer is None or not self._mixer.takes(frame):
            channels = frame.layout.nb_channels
            check_limits(self._media.source.path, frame.sample_rate, channels, self._limits)
            self._flush()
            self._mixer = Mixer(frame)
        duration_s = frame.samples / frame.sample_rate
        self.sound_s += duration_s
        self._position_s += duration_s
        for samples in self._mixer.mix(frame):
            self._store.append(samples)
        if self.total_s > self._limits.max_duration_s:
            raise over_limit(
                self._media.source.path,
                f"is longer than the limit of {self._limits.max_duration_s:g} s",
                "Raise the limit (--max-duration) if that is right, or cut the recording.",
            )

    def finish(self) -> NDArray[np.float32]:
        """The samples that are wanted; nothing can be added afterwards.

        When sound and gaps together are longer than the file says, its time stamps are as damaged
        as the rest: then the gaps are closed.
        """
        self._flush()
        declared_s = self._media.info.duration_s
        if (
            self._store.gaps_samples
            and declared_s
            and self.total_s > declared_s + _tolerance_s(declared_s)
        ):
            self.gaps_kept = False
            self.losses.muted_s = 0.0
        return self._store.join(with_gaps=self.gaps_kept)

    def strange(self) -> list[str]:
        """Phrases about what is strange in the sound, once it is finished."""
        return self._store.heard.notes(self._total)

    def _flush(self) -> None:
        if self._mixer is not None:
            for samples in self._mixer.mix(None):
                self._store.append(samples)

    def _keep_time(self, packet: Any, pts_s: float) -> None:
        if self._origin_s is None:
            self._origin_s = pts_s
        lag_s = pts_s - self._origin_s - self._position_s
        if lag_s > _MIN_GAP_S and self._is_vouched(lag_s):
            self._leave_gap(packet, lag_s)
        elif not -_MIN_RESTART_S < lag_s <= _MIN_GAP_S:
            self.losses.restarts += 1
            self._origin_s += lag_s

    def _measure_skipped(self, packet: Any) -> None:
        """MP3 stores no times, but its packets follow each other closely: how long what was skipped
        took is known from its size. Only in a file that counts its frames; in others the skipped
        bytes may as well be the tags of files that were joined."""
        if self._media.declared_s is None or self._packet_end is None or packet.pos is None:
            return
        skipped_s = (packet.pos - self._packet_end) * self.sound_s / self._sound_bytes
        if skipped_s > _MIN_GAP_S and self._is_vouched(skipped_s):
            self._leave_gap(packet, skipped_s)

    def _is_vouched(self, gap_s: float) -> bool:
        longest_s = self._media.longest_s
        if longest_s is None:
            return gap_s <= _MAX_UNDECLARED_GAP_S
        return self._position_s + gap_s <= longest_s + 1.0

    def _leave_gap(self, packet: Any, gap_s: float) -> None:
        if self.losses.sounded or self.losses.since:
            if self.losses.since or not self._stored_nothing(packet):
                self.losses.gaps_s += gap_s
            else:
                self.losses.muted_s += gap_s
        self._store.gap(round(gap_s * SAMPLE_RATE_HZ))
        self._position_s += gap_s

    def _stored_nothing(self, packet: Any) -> bool:
        """Whether a gap is the recorder's own: the index of an MP4 says so; in Matroska and FLV
        the packet behind it follows the one before it without a foreign byte between them."""
        if "mov" in self._names:
            return True
        if not self._names & {"matroska", "flv"}:
            return False
        if packet.pos is None or self._packet_end is None:
            return False
        return bool(0 <= packet.pos - self._packet_end <= _ADJACENT_BYTES)


def _tolerance_s(declared_s: float) -> float:
    return max(1.0, 0.01 * declared_s)


def _verdict(media: OpenMedia, take: _Take) -> tuple[AudioState, list[str]]:
    """Whether everything is there, and phrases about what is not.

    What is missing at the end counts from max(1 s, 1 %) of the declared length on; a failed packet
    between two good ones counts always.
    """
    losses, declared_s, total_s = take.losses, media.declared_s, take.total_s
    of = f" of {declared_s:.1f} s" if declared_s is not None else ""
    excess_s = 0.0 if declared_s is None else total_s - declared_s
    tolerance_s = _tolerance_s(declared_s or 0.0)
    notes = []
    state: AudioState = "complete"
    if losses.between or losses.gaps_s or max(losses.before, losses.since) > _MAX_EDGE_FAILURES:
        state = "damaged"
        packets = "1 packet" if losses.packets == 1 else f"{losses.packets} packets"
        failed = f", {packets} failed" if losses.packets else ""
        notes.append(f"damaged: {take.sound_s + losses.muted_s:.1f} s{of} decoded{failed}")
    elif excess_s < -tolerance_s:
        state = "truncated"
        notes.append(f"truncated: {total_s:.1f} s{of} decoded")
    elif media.headers.cut:
        state = "truncated"
        notes.append(f"truncated: the file breaks off after {total_s:.1f} s")
    elif (broken := _broken_end(media, losses)) is not None:
        state = "truncated"
        notes.append(f"truncated: {broken}, after {total_s:.1f} s")
    elif media.headers.unmarked:
        notes.append(f"may be cut off: the file has no end mark after {total_s:.1f} s")
    elif excess_s < -_MIN_SHORTFALL_S:
        notes.append(f"ends early: {total_s:.1f} s{of} decoded")
    elif excess_s > tolerance_s:
        notes.append(f"longer than declared: {total_s:.1f} s instead of {declared_s:.1f} s")
    if not take.gaps_kept:
        notes.append("its time stamps contradict each other: later times may be early")
    if losses.restarts:
        times = "once" if losses.restarts == 1 else f"{losses.restarts} times"
        notes.append(f"its clock was set anew {times}: times count the sound alone")
    if losses.muted_s:
        notes.append(f"nothing was recorded for {losses.muted_s:.1f} s within, left silent")
    return state, notes


def _broken_end(media: OpenMedia, losses: _Losses) -> str | None:
    """What is wrong with the end of a file that nothing but its end tells anything of."""
    containers = set(media.info.container.split(","))
    if media.declared_s is not None and "mov" not in containers:
        return None
    if media.info.codec in _CHECKED and losses.since:
        return "the file breaks off within a frame"
    return broken_end(media.source, containers)
