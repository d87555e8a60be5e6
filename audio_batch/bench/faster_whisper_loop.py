"""A plain loop over files with faster-whisper, as its documentation writes it.

Run by its path with a peer's own interpreter: it knows nothing of this package.

    python faster_whisper_loop.py JOB.json [NUMBER]

With NUMBER only that file of the job is done: a process for each asset.
"""

import json
import sys
from pathlib import Path


def main() -> None:
    """Transcribe the job's files one after the other and write a JSON for each."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    from faster_whisper import BatchedInferencePipeline, WhisperModel

    model = WhisperModel(
        job["model"],
        device=job["device"],
        device_index=job["device_index"],
        compute_type=job["compute_type"],
        cpu_threads=job["threads"],
        local_files_only=True,
    )
    transcribe = BatchedInferencePipeline(model).transcribe if job["batched"] else model.transcribe
    files = job["files"] if len(sys.argv) < 3 else [job["files"][int(sys.argv[2])]]
    for file in files:
        options = dict(job["options"])
        if options.get("vad_parameters"):
            options["vad_parameters"] = dict(options["vad_parameters"])  # it is changed in place
        found, _ = transcribe(file["path"], **options)
        segments = [{"start": one.start, "end": one.end, "text": one.text} for one in found]
        Path(file["output"]).write_text(json.dumps({"segments": segments}), encoding="utf-8")


if __name__ == "__main__":
    main()
