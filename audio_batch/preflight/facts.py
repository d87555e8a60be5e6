"""What several checks need to know, each found out once, when the first of them asks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from audio_batch import models
from audio_batch.asset import Asset
from audio_batch.assets import languages_of
from audio_batch.config import Settings
from audio_batch.errors import AudioBatchError
from audio_batch.gpu.cuda import pin_device_order
from audio_batch.gpu.devices import Device, resolve_devices
from audio_batch.gpu.probe import SOURCES
from audio_batch.gpu.snapshot import GpuSnapshot, ProbeAbsent, ProbeError
from audio_batch.hub import is_offline
from audio_batch.languages import code_of
from audio_batch.lineup import DEFAULT_MODEL
from audio_batch.manifest import Manifest
from audio_batch.naming import OutputNamer
from audio_batch.output_folder import OutputFolder
from audio_batch.output_names import OutputNames
from audio_batch.preflight.servers import Servers

FLOOR_BYTES = 200_000_000
"""Free space below which a run is not worth beginning: the journal and a log fit, little else."""


@dataclass(frozen=True, slots=True)
class PreflightRequest:
    """What a run is asked to do, as far as checks go.

    Args:
        manifest: None where only the machine and the models are asked about.
        assets: those of the manifest that the run takes (or still has to do).
        folder: where the outputs go; None where nobody asks.
        devices: the run's, where they are known already.
        output_names: the output names of the whole manifest, where they are known already.
        strangers: files of nobody's under names that are to be written, where they are known
            already.
        anything_there: whether anything stands under such a name, where it is known already.
        floor_bytes: free space of the output folder's disk below which that is an error.
    """

    settings: Settings
    manifest: Manifest | None = None
    assets: Sequence[Asset] = ()
    folder: OutputFolder | None = None
    devices: tuple[Device, ...] | None = None
    output_names: OutputNames | None = None
    strangers: tuple[str, ...] | None = None
    anything_there: bool | None = None
    floor_bytes: int = FLOOR_BYTES


@dataclass(frozen=True, slots=True)
class GpuReport:
    """What the driver says of its GPUs: by which source, and what kept the others from it.

    `source` is "nvml", "nvidia-smi" or "" (none answers); `broken` says of a source that is
    installed why it does not work.
    """

    source: str = ""
    gpus: tuple[GpuSnapshot, ...] = ()
    broken: tuple[str, ...] = ()


class Facts:
    """A request and what is found out about it. One thread."""

    def __init__(self, request: PreflightRequest) -> None:
        self.request = request
        self.settings = request.settings

    @cached_property
    def gpu_report(self) -> GpuReport:
        """The GPUs as the first source that answers reports them."""
        broken: list[str] = []
        for source in SOURCES:
            try:
                probe = source()
                try:
                    return GpuReport(probe.name, probe.snapshots(), tuple(broken))
                finally:
                    probe.close()
            except ProbeAbsent:
                continue
            except ProbeError as failure:
                broken.append(str(failure))
        return GpuReport(broken=tuple(broken))

    @property
    def device_spec(self) -> str:
        """What was asked for with --device or --device-index."""
        if self.settings.experimental:
            return "auto"
        return (self.settings.device_index or self.settings.device or "auto").strip().lower()

    @cached_property
    def devices(self) -> tuple[Device, ...]:
        """Where the models will live.

        Raises:
            UsageError, SetupError: see `resolve_devices`.
        """
        if self.request.devices is not None:
            return self.request.devices
        pin_device_order(os.environ)
        return resolve_devices(self.device_spec, self.gpu_report.gpus, environ=os.environ)

    @cached_property
    def cuda_devices(self) -> tuple[Device, ...]:
        """Those that are GPUs of this machine; none where the devices cannot be told (another check
        says why)."""
        if self.settings.executor == "ray":
            return ()
        try:
            return tuple(device for device in self.devices if device.kind == "cuda")
        except AudioBatchError:
            return ()

    @cached_property
    def servers(self) -> Servers:
        """The model hub, asked with the token that the run would use, and others."""
        return Servers(self.token)

    @cached_property
    def token(self) -> str | None:
        """The Hugging Face token; None where there is none, or none that is any good."""
        from audio_batch.diarization_models import read_token

        try:
            return read_token(self.settings.hf_token_file)
        except AudioBatchError:
            return None

    @property
    def offline(self) -> bool:
        """Whether the network must not be asked."""
        return bool(self.settings.offline) or is_offline()

    @property
    def model_name(self) -> str:
        """The recognition model that was asked for."""
        return self.settings.model or DEFAULT_MODEL

    @cached_property
    def local_model(self) -> models.ModelReference | None:
        """The recognition model, if it is on this machine.

        Raises:
            UsageError, SetupError: no model can have this name; its folder is unusable.
        """
        repository = self.model_repository
        if repository and models.cached_folder(repository, self.settings.model_dir) is None:
            return None
        return models.find(self.model_name, model_dir=self.settings.model_dir, offline=True)

    @property
    def model_repository(self) -> str | None:
        """The hub repository that the recognition model's name stands for, if it is one."""
        return hub_repository(self.model_name)

    @property
    def model_bytes(self) -> int | None:
        """Size of the recognition model's weights, where it can be told without the network."""
        if self.settings.recognizer == "null":
            return None
        try:
            return self.local_model.size_bytes if self.local_model is not None else None
        except AudioBatchError:
            return None

    @cached_property
    def output_names(self) -> OutputNames:
        """The output names of the whole manifest, so as a run names them.

        Raises:
            UsageError: the template cannot be used.
        """
        if self.request.output_names is not None:
            return self.request.output_names
        assets = self.request.manifest.assets if self.request.manifest else ()
        return OutputNamer(self.settings.output_template).over(assets)

    @property
    def wants_alignment(self) -> bool:
        """Whether a run would align: asked for, or implied by naming an aligner."""
        asked = self.settings.align
        return bool(self.settings.align_model) if asked is None else asked

    @property
    def languages(self) -> tuple[str, ...]:
        """Codes of the languages that are named: by --language, and by the assets."""
        named = (self.settings.language, *languages_of(self.request.assets))
        return tuple(sorted({code for text in named if text and (code := code_of(text))}))


def hub_repository(name: str) -> str | None:
    """The hub repository that a model's name stands for; None for demo and local folders."""
    if name not in models.REPOSITORIES and Path(name).expanduser().is_dir():
        return None
    return models.repository_of(name)
