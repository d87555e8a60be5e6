"""One cell, measured in this process.

    python measure.py REQUEST ANSWER

Both are files of JSON. The answer is written when everything has been measured; a process that dies
before leaves none.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent))  # not there by itself in a safe environment
sys.path.append(str(Path(__file__).resolve().parents[1] / "gpu_common"))
sys.path.append(str(Path(__file__).resolve().parents[2]))
from cells import BATCHED, MODEL, OURS, PLAIN
from machine import Gpu
from watching import Watch
from whisper_shapes import PROMPT, SHAPES, max_length, max_new_tokens

_WINDOW_S = 30.0
_MEL_FRAMES = 3000
_PASSES, _ROUNDS = 20, 3

Transcribe = Callable[[str], float]
"""Takes a recording's path, returns the seconds of speech that the model was given."""


def main() -> None:
    """Measure, and write what was found."""
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # as the program has it
    cuda = request["device"].startswith("cuda")
    number = int(request["device"].partition(":")[2] or 0) if cuda else 0
    gpu = Gpu(number, os.environ) if cuda else None
    request |= {"kind": "cuda" if cuda else "cpu", "number": number}
    if cuda:
        from audio_batch.engines.cuda import preload_libraries

        preload_libraries()
    watch = Watch(gpu, gpu.free_bytes() if gpu else 0)
    measure = model_alone if request["way"] == MODEL else recordings
    answer = measure(request, watch) | watch.found()
    Path(sys.argv[2]).write_text(json.dumps(answer, indent=1) + "\n", encoding="utf-8")
    sys.stderr.flush()
    os._exit(0)  # CUDA libraries that abort while they are taken down would spoil what is measured


def model_alone(request: dict[str, Any], watch: Watch) -> dict[str, Any]:
    """Medians of the encoder's pass, and of encoder and decoder together with forced tokens.

    "forward" and "generate" are those of optimum-benchmark: passes a second, and batch size times
    tokens times passes a second, the time of generating including the encoder's.
    """
    import ctranslate2
    import numpy as np

    model = ctranslate2.models.Whisper(
        request["model"],
        device=request["kind"],
        device_index=request["number"],
        compute_type=request["compute_type"],
    )
    batch_size = request["batch_size"]
    noise = np.random.default_rng(0).random((batch_size, model.n_mels, _MEL_FRAMES), np.float32)
    features = ctranslate2.StorageView.from_array(noise)
    prompt = list(PROMPT) if model.is_multilingual else [PROMPT[0], PROMPT[-1]]
    end_of_text = _end_of_text(Path(request["model"]))

    def generate(tokens: int) -> None:
        answers = model.generate(
            features,
            [prompt] * batch_size,
            beam_size=request["beam_size"],
            max_length=max_length(tokens, len(prompt)),
            suppress_tokens=[end_of_text],
            suppress_blank=False,
        )
        counts = {len(answer.sequences_ids[0]) for answer in answers}
        if counts != {tokens}:
            raise ValueError(f"{sorted(counts)} tokens were decoded instead of {tokens}.")

    encoded = model.encode(features)  # the first pass makes room and picks kernels
    _check_width(request["shape"], encoded.shape[-1])
    del encoded
    generate(max(request["tokens"]))
    share_s = request["seconds"] / (1 + len(request["tokens"]))
    with watch:
        forward_s, passes = _median_s(lambda: model.encode(features), share_s)
        generated = []
        for tokens in request["tokens"]:
            took_s, times = _median_s(functools.partial(generate, tokens), share_s)
            generated.append(
                {
                    "tokens": tokens,
                    "passes": times,
                    "generate_s": took_s,
                    "tokens_per_s": batch_size * tokens / took_s,
                    "windows_per_s": batch_size / took_s,
                    "rtfx": _WINDOW_S * batch_size / took_s,
                    "ms_per_step": 1000 * (took_s - forward_s) / tokens,
                }
            )
    return {
        "compute_type": model.compute_type,
        "forward_s": forward_s,
        "forward_passes": passes,
        "forward_per_s": 1 / forward_s,
        "windows_per_s": batch_size / forward_s,
        "generate": generated,
    }


def recordings(request: dict[str, Any], watch: Watch) -> dict[str, Any]:
    """RTFx of whole recordings, from file to text: the median over rounds through all of them."""
    describe, transcribe = {OURS: _ours, PLAIN: _plain, BATCHED: _plain}[request["way"]](request)
    files: list[tuple[str, float]] = [(path, length) for path, length in request["recordings"]]
    transcribe(min(files, key=lambda file: file[1])[0])  # kernels are picked, libraries loaded
    ends_s = time.monotonic() + request["seconds"]
    # A part of a mixed load would be another mixture.
    cut_s = math.inf if len({length for _, length in files}) > 1 else ends_s
    rounds: list[dict[str, Any]] = []
    with watch:
        while not rounds or (len(rounds) < _ROUNDS and time.monotonic() < ends_s):
            rounds.append(_round(files, transcribe, request["in_flight"], cut_s))
    middle = statistics.median_low([found["rtfx"] for found in rounds])
    chosen = next(found for found in rounds if found["rtfx"] == middle)
    asked = {name: request[name] for name in ("in_flight", "tokens_per_window")}
    return {**describe(), **chosen, **asked, "rounds": len(rounds)}


def _round(
    files: list[tuple[str, float]], transcribe: Transcribe, in_flight: int, ends_s: float
) -> dict[str, Any]:
    """Once through the recordings, by as many threads; none is begun after `ends_s` but for the
    first ones. RTFx counts what was done.
    """
    waiting = iter(files)
    lock = threading.Lock()
    done: list[tuple[float, float]] = []
    failed: list[BaseException] = []

    def work() -> None:
        first = True
        while first or time.monotonic() < ends_s:
            first = False
            with lock:
                path, length_s = next(waiting, (None, 0.0))
            if path is None or failed:
                return
            try:
                speech_s = transcribe(path)
            except BaseException as error:
                failed.append(error)
                return
            with lock:
                done.append((length_s, speech_s))

    threads = [threading.Thread(target=work) for _ in range(min(in_flight, len(files)))]
    begun_s = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    wall_s = time.perf_counter() - begun_s
    audio_s = sum(length for length, _ in done)
    return {
        "recordings": len(done),
        "recordings_of": len(files),
        "audio_s": audio_s,
        "speech_s": round(sum(speech for _, speech in done), 3),
        # No cutting makes fewer: each window holds 30 s of one recording's speech at most.
        "least_windows": sum(math.ceil(speech / _WINDOW_S) for _, speech in done),
        "wall_s": wall_s,
        "rtfx": audio_s / wall_s,
    }


def _ours(request: dict[str, Any]) -> tuple[Callable[[], dict[str, Any]], Transcribe]:
    """The program's own engine as a run loads it; decoded by its own code, in the same threads.

    Slots are the batcher's lanes here: they are at the model at once, not what is in flight.
    """
    from audio_batch import models
    from audio_batch.cpu_gate import CpuGate
    from audio_batch.engines.base import LoadRequest
    from audio_batch.engines.whisper import FasterWhisperEngine, WhisperRecognizer
    from audio_batch.gpu.devices import CPU, Device
    from audio_batch.media import decode
    from audio_batch.options import resolve_decoding

    reference = models.describe(request["shape"], Path(request["model"]))
    device = CPU
    gpu = None
    if request["kind"] == "cuda":
        gpu = Gpu(request["number"], os.environ)
        device = Device(
            request["device"], "cuda", request["number"], gpu.uuid, gpu.name, gpu.capability
        )
    given = {"language": "en", "batch_size": request["batch_size"], **_decoding(request)}
    options, batch_size = resolve_decoding(given, preset=None, model_defaults=reference.defaults)
    cpu = CpuGate(os.cpu_count())
    loaded: Any = FasterWhisperEngine().load(
        LoadRequest(
            model=reference,
            device=device,
            slots=request["slots"],
            compute_type=request["compute_type"],
            batch_size=batch_size,
            free_bytes=gpu.free_bytes() if gpu else None,
            cpu=cpu,
        )
    )
    recognizer = WhisperRecognizer(
        loaded.model,
        reference,
        request["batch_size"],
        loaded.description,
        (),
        lanes=request["slots"],
        cpu=cpu,
    )

    def transcribe(path: str) -> float:
        with cpu:
            samples = decode(Path(path)).samples
        return recognizer.transcribe(samples, options, lambda _: None).speech_s or 0.0

    return lambda: {"engine": dict(recognizer.description)}, transcribe


def _plain(request: dict[str, Any]) -> tuple[Callable[[], dict[str, Any]], Transcribe]:
    """faster-whisper as its README has it, with the same settings as the other ways."""
    import faster_whisper

    model = faster_whisper.WhisperModel(
        request["model"],
        device=request["kind"],
        device_index=request["number"],
        compute_type=request["compute_type"],
        local_files_only=True,
    )
    settings = {"language": "en", "vad_filter": True, **_decoding(request)}
    if request["way"] == BATCHED:
        settings |= {"batch_size": request["batch_size"]}
        source: Any = faster_whisper.BatchedInferencePipeline(model)
    else:
        settings |= {"condition_on_previous_text": False}  # as ours; it makes the prompts longer
        source = model

    def transcribe(path: str) -> float:
        segments, info = source.transcribe(path, **settings)
        for _ in segments:  # which is when the work is done
            pass
        return float(info.duration_after_vad)

    return lambda: {"compute_type": model.model.compute_type}, transcribe


def _decoding(request: dict[str, Any]) -> dict[str, Any]:
    """The settings that are the same for every way, in names that all share."""
    settings = {
        "beam_size": request["beam_size"],
        "temperature": (0.0,),
        "without_timestamps": True,
        "word_timestamps": False,
    }
    if request["tokens_per_window"] is not None:
        settings["max_new_tokens"] = max_new_tokens(request["tokens_per_window"])
    return settings


def _median_s(work: Callable[[], object], seconds: float) -> tuple[float, int]:
    """The median of some runs, and how many: at least three, or one where it takes that long."""
    begun_s = time.perf_counter()
    times: list[float] = []
    for done in itertools.count(1):
        started_s = time.perf_counter()
        work()
        ended_s = time.perf_counter()
        times.append(ended_s - started_s)
        over = ended_s - begun_s
        if done >= _PASSES or over > seconds * (1 if done >= 3 else 2):
            break
    return statistics.median(times), len(times)


def _end_of_text(folder: Path) -> int:
    from tokenizers import Tokenizer

    return int(Tokenizer.from_file(str(folder / "tokenizer.json")).token_to_id("<|endoftext|>"))


def _check_width(shape: str, width: int) -> None:
    """A real model that is called by another's name would get the other's roofline."""
    if shape in SHAPES and SHAPES[shape].width != width:
        raise ValueError(f"This model is {width} wide, {shape} is {SHAPES[shape].width}.")


if __name__ == "__main__":
    main()
