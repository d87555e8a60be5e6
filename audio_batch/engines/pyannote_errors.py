"""What pyannote, PyTorch, SciPy and scikit-learn raise, made errors of this program."""

from __future__ import annotations

from audio_batch.diarization_models import DiarizationReference
from audio_batch.engines.failures import (
    device_error,
    first_line,
    is_device_trouble,
    is_out_of_memory,
)
from audio_batch.errors import AssetError, DeviceError, ErrorKind, SetupError
from audio_batch.gpu.devices import Device


def load_error(
    error: Exception, reference: DiarizationReference, device: Device
) -> DeviceError | SetupError:
    """Translate what loading raised: the folder's fault, or the device's."""
    text = first_line(error)
    no_memory = is_out_of_memory(error)
    if no_memory or (device.kind == "cuda" and is_device_trouble(text)):
        return DeviceError(
            f"{device.id} cannot load the diarization model {reference.name!r}: {text}.",
            remedy="Check its free memory and the driver, or use --device cpu.",
            lacks_memory=no_memory,
        )
    return SetupError(
        f"The diarization model {reference.name!r} cannot be loaded from {reference.path}: {text}.",
        remedy="Download it again; it must be a pipeline of pyannote.audio 4 or before.",
    )


def translate(error: Exception) -> AssetError | DeviceError:
    """The one seam for what the libraries raise at work."""
    text = first_line(error)
    if is_out_of_memory(error):
        return AssetError(
            ErrorKind.OUT_OF_MEMORY,
            f"The device ran out of memory while telling speakers apart: {text}.",
            remedy="Use a smaller --max-per-gpu, or fewer --threads.",
            transient=True,
        )
    return device_error(text) or AssetError(
        ErrorKind.DIARIZATION,
        f"The speakers could not be told apart: {type(error).__name__}: {text}.",
    )
