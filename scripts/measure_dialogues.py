"""Words and speakers of digit dialogues, by the whole program: WER, cpWER, DER.

    python scripts/measure_dialogues.py --data ../shared/data [--count 24] [--keep FOLDER]

Composes dialogues of two and three voices from recordings that no demonstration model was trained
on (FSDD takes 0-4), runs `audio-batch run` over them twice, with the number of speakers given and
not, and `audio-batch eval` with the bars: exit code 3 where one is not kept.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import wave
from collections import defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.append(str(Path(__file__).resolve().parent / "demo_asr"))
from data import DIGITS, RATE, read_audio, resample_poly, speech_span

Audio = NDArray[np.float32]
Takes = dict[str, dict[int, list[Audio]]]

BARS = {"given": ("--max-der", "10", "--max-cpwer", "10"), "open": ("--max-der", "20")}


def takes(data: Path) -> Takes:
    """Held-out recordings by speaker and digit: 16 kHz, without the quiet around the word."""
    found: Takes = defaultdict(lambda: defaultdict(list))
    whole: dict[str, Audio] = {}
    with (data / "digits/fsdd_index.csv").open(encoding="utf-8") as rows:
        for row in csv.DictReader(rows):
            if row["split"] != "test":
                continue
            if row["file"] not in whole:
                whole[row["file"]] = read_audio(data / "digits" / row["file"])
            part = whole[row["file"]][int(row["start_sample"]) : int(row["end_sample"])]
            part = resample_poly(part, 2, 1).astype(np.float32)
            first, end = speech_span(part)
            word = part[max(0, first - 320) : end + 320]
            level = np.float32(0.06 / (np.sqrt((word**2).mean()) + 1e-6))
            found[row["speaker"]][int(row["digit"])].append(word * level)
    return found


def dialogue(
    name: str, speakers: list[str], known: Takes, rng: np.random.Generator
) -> tuple[Audio, list[dict[str, object]]]:
    """20-40 s in turns of three to seven digits; its samples and its SegLST."""
    parts = [np.zeros(RATE // 2, dtype=np.float32)]
    segments: list[dict[str, object]] = []
    last, length_s = "", rng.uniform(20, 36)
    while sum(map(len, parts)) / RATE < length_s or len(segments) < len(speakers):
        unheard = [s for s in speakers if s not in {x["speaker"] for x in segments}]
        speaker = str(rng.choice(unheard or [s for s in speakers if s != last]))
        begun = sum(map(len, parts))
        digits = rng.integers(0, 10, rng.integers(3, 8))
        for number, digit in enumerate(digits):
            if number:
                parts.append(np.zeros(int(rng.uniform(0.05, 0.3) * RATE), dtype=np.float32))
            choices = known[speaker][int(digit)]
            parts.append(choices[rng.integers(len(choices))])
        segments.append(
            {
                "session_id": name,
                "speaker": speaker,
                "start_time": begun / RATE,
                "end_time": sum(map(len, parts)) / RATE,
                "words": " ".join(DIGITS[digit] for digit in digits),
            }
        )
        parts.append(np.zeros(int(rng.uniform(0.3, 1.0) * RATE), dtype=np.float32))
        last = speaker
    return np.concatenate(parts), segments


def compose(folder: Path, data: Path, count: int, seed: int = 11) -> None:
    """Write the recordings, their references and one manifest a bar into `folder`."""
    known, rng = takes(data), np.random.default_rng(seed)
    assets, references = [], []
    for number in range(count):
        voices = 2 + number % 2
        name = f"dialogue-{voices}-{number:02d}"
        chosen = [str(s) for s in rng.choice(sorted(known), voices, replace=False)]
        samples, segments = dialogue(name, chosen, known, rng)
        with wave.open(str(folder / f"{name}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(RATE)
            file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
        references += segments
        assets.append(
            {"id": name, "path": f"{name}.wav", "reference_seglst": "references.json"}
            | {"num_speakers": voices, "language": "en"}
        )
    (folder / "references.json").write_text(json.dumps(references), encoding="utf-8")
    for bar in BARS:
        listed = [
            {k: v for k, v in asset.items() if bar == "given" or k != "num_speakers"}
            for asset in assets
        ]
        (folder / f"{bar}.json").write_text(json.dumps({"assets": listed}), encoding="utf-8")


def measure(folder: Path) -> int:
    """Run and evaluate both manifests; the worst exit code."""
    program = [sys.executable, "-m", "audio_batch"]
    models = ["--model", "demo", "--diarize-model", "demo", "--align-model", "demo"]
    worst = 0
    for bar, limits in BARS.items():
        manifest, out = folder / f"{bar}.json", folder / f"out-{bar}"
        run = [*program, "run", str(manifest), "-o", str(out), *models, "-y", "-q"]
        subprocess.run(run, check=True)
        print(f"--- number of speakers {'given' if bar == 'given' else 'not given'}", flush=True)
        judge = [*program, "eval", str(manifest), str(out), "--top", "5", *limits]
        worst = max(worst, subprocess.run(judge, check=False).returncode)
    return worst


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure words and speakers of digit dialogues.")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--keep", type=Path, help="Where the recordings and outputs are to stay.")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = asked.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        compose(folder, asked.data, asked.count)
        return measure(folder)


if __name__ == "__main__":
    sys.exit(main())
