"""audio-batch: transcribe a manifest of recordings overnight and lose nothing.

Importing this package imports no speech library: torch, ctranslate2 and pyannote.audio are loaded
by the engines, in the workers, when the first asset needs them.
"""

from audio_batch.errors import AudioBatchError, ErrorKind, ExitCode
from audio_batch.transcript import Segment, Transcript, Turn, Word

__version__ = "0.1.0"

__all__ = [
    "AudioBatchError",
    "ErrorKind",
    "ExitCode",
    "Segment",
    "Transcript",
    "Turn",
    "Word",
    "__version__",
]
