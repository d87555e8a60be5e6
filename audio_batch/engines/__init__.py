"""Speech recognition engines behind one protocol. Importing this package loads no speech library.

To add one here: write a module with a class that meets `Engine`, and name it in `_OURS`. Another
distribution brings its own by an entry point of the group `audio_batch.engines`:

    [project.entry-points."audio_batch.engines"]
    my-engine = "my_package.engine:MyEngine"

Such an engine gets `--model` as it is written.
"""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points

from audio_batch.engines.base import Engine, LoadRequest, Recognition, Recognizer
from audio_batch.errors import SetupError, UsageError

ENTRY_POINTS = "audio_batch.engines"

DEFAULT_ENGINE = "faster-whisper"

_OURS = {
    DEFAULT_ENGINE: "audio_batch.engines.whisper:FasterWhisperEngine",
    "null": "audio_batch.engines.null:NullEngine",
}


def check_engine(name: str) -> None:
    """See that there is an engine of that name, without importing it.

    Raises:
        UsageError: there is none.
    """
    if name not in _OURS and not entry_points(group=ENTRY_POINTS, name=name):
        known = [*_OURS, *sorted(entry_points(group=ENTRY_POINTS).names)]
        raise UsageError(f"There is no engine {name!r}; known: {', '.join(known)}.")


def open_engine(name: str) -> Engine:
    """The engine of that name; its own libraries are imported when it loads a model.

    Raises:
        UsageError: there is none of that name.
        SetupError: another distribution's cannot be imported.
    """
    check_engine(name)
    if name in _OURS:
        module, _, attribute = _OURS[name].partition(":")
        engine: Engine = getattr(importlib.import_module(module), attribute)()
        return engine
    (found, *_) = entry_points(group=ENTRY_POINTS, name=name)
    try:
        brought: Engine = found.load()()
    except Exception as error:
        raise SetupError(
            f"The engine {name!r} ({found.value}) cannot be loaded: {error}.",
            remedy="Install its distribution again, or use another --engine.",
        ) from error
    return brought


__all__ = [
    "DEFAULT_ENGINE",
    "Engine",
    "LoadRequest",
    "Recognition",
    "Recognizer",
    "check_engine",
    "open_engine",
]
