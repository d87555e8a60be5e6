"""Speech recognition engines behind one protocol. Importing this package loads no speech library.

To add one: write a module with a class that meets `Engine`, and name it in `ENGINES`.
"""

from __future__ import annotations

from audio_batch.engines.base import Engine, LoadRequest, Recognition, Recognizer
from audio_batch.errors import UsageError

ENGINES = ("faster-whisper", "null")


def open_engine(name: str) -> Engine:
    """The engine of that name; its own libraries are imported when it loads a model.

    Raises:
        UsageError: there is none of that name.
    """
    if name == "faster-whisper":
        from audio_batch.engines.whisper import FasterWhisperEngine

        return FasterWhisperEngine()
    if name == "null":
        from audio_batch.engines.null import NullEngine

        return NullEngine()
    raise UsageError(f"There is no engine {name!r}; known: {', '.join(ENGINES)}.")


__all__ = ["ENGINES", "Engine", "LoadRequest", "Recognition", "Recognizer", "open_engine"]
