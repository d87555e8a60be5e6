"""Make the recordings of `examples/`, the manifest that lists them, and what is said in them.

    python scripts/make_examples.py [FOLDER]

Needs the program espeak-ng (Debian: `apt-get install espeak-ng`); nothing else of the project does.
What is said stands in `RECORDINGS` and nowhere else: the manifest's `text` and the references are
made from it. The
same espeak-ng and PyAV make the same files, byte for byte; other versions make other takes of the
same words.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import subprocess
import sys
import wave
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.codec.context import Flags
from av.container import OutputContainer
from numpy.typing import NDArray

Samples = NDArray[np.int16]

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
ESPEAK_RATE_HZ = 22_050
QUIET = 300
"""Below one hundredth of full scale nothing is said."""
PICTURE_WIDTH, PICTURE_HEIGHT, PICTURES_PER_S = 160, 120, 5

REFERENCES = "references.json"
ALICE, BRUNO, CLARA = "en-us+f3", "en-us+m3", "en-gb+f2"
BROKEN_FILE = """<!DOCTYPE html>
<html><head><title>404 Not Found</title></head>
<body>The recording that you asked for is not here.</body></html>
"""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one voice says in one go, and the silence after it."""

    voice: str
    text: str
    speed_wpm: int = 140
    pause_s: float = 0.8


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a recording is stored; the container is the file's suffix."""

    codec: str
    rate_hz: int
    layout: str = "mono"
    bit_rate: int | None = None
    has_picture: bool = False


@dataclass(frozen=True, slots=True)
class Recording:
    """An entry of the manifest and, with turns, the file it names."""

    id: str
    name: str
    file: str
    folder_path: str
    asset_type: str = "Audio"
    priority: int | None = None
    turns: tuple[Turn, ...] = ()
    encoding: Encoding | None = None

    @property
    def text(self) -> str:
        """All words in order."""
        return " ".join(turn.text for turn in self.turns)

    def entry(self) -> dict[str, Any]:
        """The manifest's entry."""
        entry: dict[str, Any] = {
            "id": self.id,
            "name": self.name,
            "path": f"audio/{self.file}",
            "asset_type": self.asset_type,
            "folder_path": self.folder_path,
        }
        if self.priority is not None:
            entry["priority"] = self.priority
        if self.turns:
            entry["num_speakers"] = len({turn.voice for turn in self.turns})
            entry["text"] = self.text
            entry["reference_seglst"] = REFERENCES
        return entry


RECORDINGS = (
    Recording(
        "phone-number",
        "A phone number",
        "phone_number.wav",
        "Office/Calls",
        turns=(
            Turn("en-us", "five five five", pause_s=0.4),
            Turn("en-us", "zero one four two", pause_s=0.3),
        ),
        encoding=Encoding("pcm_s16le", 16_000),
    ),
    Recording(
        "dialogue",
        "Two people compare numbers",
        "dialogue.flac",
        "Office/Calls",
        turns=(
            Turn(BRUNO, "four two seven one"),
            Turn(ALICE, "four two seven nine"),
            Turn(BRUNO, "seven one", speed_wpm=135),
            Turn(ALICE, "two seven one"),
            Turn(BRUNO, "three eight six"),
            Turn(ALICE, "three eight six", pause_s=0.4),
        ),
        encoding=Encoding("flac", 16_000),
    ),
    Recording("broken", "A download that went wrong", "broken.wav", "Office/Calls"),
    Recording(
        "door-code",
        "The code of the door",
        "door_code.mp3",
        "Office/Memos",
        priority=10,
        turns=(Turn(CLARA, "nine zero three six eight", pause_s=0.3),),
        encoding=Encoding("libmp3lame", 22_050, bit_rate=48_000),
    ),
    Recording(
        "lottery",
        "The winning numbers, on video",
        "lottery.mp4",
        "Television",
        asset_type="Video",
        turns=(
            Turn("en-us+m1", "one seven", pause_s=0.5),
            Turn("en-us+m1", "two eight", pause_s=0.5),
            Turn("en-us+m1", "four zero", pause_s=0.5),
        ),
        encoding=Encoding("aac", 44_100, "stereo", 64_000, has_picture=True),
    ),
    Recording(
        "long-count",
        "Counting up and down, with pauses",
        "long_count.opus",
        "Office/Memos",
        turns=(
            Turn("en-us+m2", "zero one two three four", pause_s=1.5),
            Turn("en-us+m2", "five six seven eight nine", pause_s=2.0),
            Turn("en-us+m2", "nine eight seven six five", pause_s=1.5),
            Turn("en-us+m2", "four three two one zero", pause_s=3.0),
            Turn("en-us+m2", "two four six eight", pause_s=1.0),
            Turn("en-us+m2", "one three five seven nine", pause_s=2.0),
            Turn("en-us+m2", "eight six four two zero", pause_s=1.5),
            Turn("en-us+m2", "nine seven five three one", pause_s=2.0),
            Turn("en-us+m2", "three two one zero", pause_s=0.5),
        ),
        encoding=Encoding("libopus", 48_000, bit_rate=16_000),
    ),
)


def manifest() -> str:
    """The text of `manifest.json`."""
    content = {
        "defaults": {"language": "en"},
        "assets": [recording.entry() for recording in RECORDINGS],
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def speak(turn: Turn) -> Samples:
    """Mono samples at `ESPEAK_RATE_HZ`: the words with commas between them, then the pause."""
    words = ", ".join(turn.text.split())
    command = ["espeak-ng", "-v", turn.voice, "-s", str(turn.speed_wpm), "--stdout", words]
    said = subprocess.run(command, check=True, capture_output=True).stdout
    with wave.open(io.BytesIO(said)) as reader:
        if reader.getframerate() != ESPEAK_RATE_HZ or reader.getnchannels() != 1:
            raise SystemExit(f"espeak-ng speaks {turn.voice} at another rate than expected.")
        # Into a pipe espeak-ng cannot write the header's length; whatever follows is sound.
        speech = np.frombuffer(reader.readframes(len(said)), dtype="<i2")
    silence = np.zeros(round(turn.pause_s * ESPEAK_RATE_HZ), dtype=np.int16)
    return np.concatenate([speech, silence])


def reference(recording: Recording, said: list[Samples]) -> list[dict[str, Any]]:
    """Who says what when, in SegLST: each turn from its first sound to its last."""
    segments = []
    begun = 0
    for turn, samples in zip(recording.turns, said, strict=True):
        heard = np.flatnonzero(np.abs(samples.astype(np.int32)) > QUIET)
        start, end = begun + int(heard[0]), begun + int(heard[-1])
        segments.append(
            {
                "session_id": recording.id,
                "speaker": turn.voice,
                "start_time": round(start / ESPEAK_RATE_HZ, 3),
                "end_time": round(end / ESPEAK_RATE_HZ, 3),
                "words": turn.text,
            }
        )
        begun += len(samples)
    return segments


def encode(path: Path, samples: Samples, encoding: Encoding) -> None:
    """Write samples at `ESPEAK_RATE_HZ` to a file, without the time of day or versions in it."""
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        sound = container.add_stream(encoding.codec, encoding.rate_hz, layout=encoding.layout)
        sound.codec_context.flags |= Flags.bitexact
        if encoding.bit_rate is not None:
            sound.codec_context.bit_rate = encoding.bit_rate
        if encoding.has_picture:
            _draw(container, len(samples) / ESPEAK_RATE_HZ)
        else:
            container.start_encoding()  # only now is the size of the codec's frames known
        resampler = av.AudioResampler(
            sound.format, encoding.layout, encoding.rate_hz, sound.codec_context.frame_size or None
        )
        frame = av.AudioFrame.from_ndarray(samples[np.newaxis], format="s16", layout="mono")
        frame.sample_rate = ESPEAK_RATE_HZ
        for part in (*resampler.resample(frame), *resampler.resample(None), None):
            container.mux(sound.encode(part))


def _draw(container: OutputContainer, duration_s: float) -> None:
    """Add a picture stream: a colour that slowly changes, for as long as the sound."""
    stream = container.add_stream("mpeg4", PICTURES_PER_S)
    stream.width, stream.height, stream.pix_fmt = PICTURE_WIDTH, PICTURE_HEIGHT, "yuv420p"
    stream.codec_context.flags |= Flags.bitexact
    count = round(duration_s * PICTURES_PER_S)
    for number in range(count):
        picture = np.empty((PICTURE_HEIGHT, PICTURE_WIDTH, 3), dtype=np.uint8)
        picture[:] = (20, 40 + 120 * number // count, 120)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
    container.mux(stream.encode(None))


def make(folder: Path) -> None:
    """Write every recording below `folder/audio`, the manifest and the references."""
    audio = folder / "audio"
    audio.mkdir(parents=True, exist_ok=True)
    references = []
    for recording in RECORDINGS:
        path = audio / recording.file
        if recording.encoding is None:
            path.write_bytes(BROKEN_FILE.encode())
        else:
            said = [speak(turn) for turn in recording.turns]
            encode(path, np.concatenate(said), recording.encoding)
            references += reference(recording, said)
        print(f"{path.name}: {path.stat().st_size:,} bytes")
    (folder / "manifest.json").write_bytes(manifest().encode())
    lines = ",\n".join(json.dumps(segment) for segment in references)
    (folder / REFERENCES).write_bytes(f"[\n{lines}\n]\n".encode())


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Make the example recordings and their manifest.")
    parser.add_argument("folder", nargs="?", type=Path, default=EXAMPLES)
    folder = parser.parse_args().folder
    if shutil.which("espeak-ng") is None:
        sys.exit("The program espeak-ng is not there. On Debian: apt-get install espeak-ng.")
    make(folder)


if __name__ == "__main__":
    main()
