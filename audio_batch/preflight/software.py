"""Python, the libraries and what they would tell the world; by their metadata, never imported."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib import metadata

from audio_batch.preflight.check import Finding, error, ok, warning
from audio_batch.preflight.facts import Facts

DISTRIBUTION = "audio-batch"
_AGAIN = "Install audio-batch again into a fresh virtual environment."
_SHOWN = ("faster-whisper", "ctranslate2", "torch", "pyannote-audio", "whisperx")


def python(_facts: Facts) -> Iterator[Finding]:
    """Whether this Python is one that the package is made for."""
    from packaging.specifiers import SpecifierSet

    version = platform.python_version()
    text = f"Python {version} on {platform.system()} {platform.machine()}"
    try:
        wanted = str(metadata.metadata(DISTRIBUTION).json.get("requires_python", ""))
    except metadata.PackageNotFoundError:
        yield warning(f"{text}; audio-batch runs from a folder and is not installed.", _AGAIN)
        return
    if SpecifierSet(wanted).contains(version, prereleases=True):
        yield ok(f"{text}.")
    else:
        yield error(f"{text}; audio-batch needs {wanted}.", "Use another Python.")


def packages(_facts: Facts) -> Iterator[Finding]:
    """Whether the libraries are there, in versions that the package takes."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    try:
        lines = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        lines = []
    found: dict[str, str] = {}
    for requirement in map(Requirement, lines):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield error(f"{requirement.name} is not installed.", _AGAIN)
            continue
        found[canonicalize_name(requirement.name)] = version
        if not requirement.specifier.contains(version, prereleases=True):
            yield error(
                f"{requirement.name} {version} is installed, but {requirement.specifier} is "
                "needed.",
                _AGAIN,
            )
    shown = [f"{name} {found[name]}" for name in _SHOWN if name in found]
    if shown:
        yield ok(f"{', '.join(shown)}.")


def telemetry(_facts: Facts) -> Iterator[Finding]:
    """That neither pyannote.audio nor ONNX Runtime reports to its makers.

    `engines.pyannote` and `logs.quieten` switch that off whatever the environment says.
    """
    text = "Reports to the makers of pyannote.audio and of ONNX Runtime are off"
    value = os.environ.get("PYANNOTE_METRICS_ENABLED", "")
    if value.lower() in ("true", "1"):
        text += f"; PYANNOTE_METRICS_ENABLED={value} of the environment is overruled"
    yield ok(f"{text}.")
