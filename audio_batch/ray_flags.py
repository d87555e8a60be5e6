"""What flags mean with `--engine ray`, and which mean nothing: told before anything is created."""

from __future__ import annotations

import re
from collections.abc import Sequence

from audio_batch.config import Settings
from audio_batch.errors import UsageError
from audio_batch.text import for_terminal, redact

# What of a URL keeps no secret, though `redact` masks it: a variable's name, and a user's alone (on
# the web it may be a token). A user whose password was a variable has a colon behind it.
_VARIABLE = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}")
_USER = re.compile(r"(?i)(?:(?<!http://)(?<!https://)(?<=://)[^\s/?#:@]*|(?<=://)[^\s/?#:@]*:)@")

_OF_RAY = ("ray_address", "ray_results", "ray_workers")


def check(settings: Settings) -> None:
    """See the module's docstring; of a run without Ray, that no flag of Ray's is there.

    Raises:
        UsageError: a flag that has no effect, or a value that cannot be honoured.
    """
    if settings.executor != "ray":
        for name in _OF_RAY:
            if getattr(settings, name):
                raise UsageError(
                    f"--{name.replace('_', '-')} has no effect without --engine ray.",
                    remedy="Add it, or leave that out.",
                )
        return
    if settings.cpu_fallback:
        raise UsageError(
            "--cpu-fallback has no effect with --engine ray.",
            remedy="Leave it out; --device cpu uses the cores of every node.",
        )
    if settings.isolation == "thread":
        raise UsageError(
            "--isolation thread has no effect with --engine ray: workers are processes.",
            remedy="Leave it out.",
        )
    if settings.downloads is not None:
        raise UsageError(
            "--downloads has no effect with --engine ray: a node fetches what its worker reads "
            "ahead.",
            remedy="Leave it out; --prefetch says how many that is.",
        )
    if settings.ray_workers is not None and settings.ray_workers < 1:
        raise UsageError(f"--ray-workers must be at least 1, not {settings.ray_workers}.")
    if settings.device_index is not None:
        kind_of(settings.device_index)
    elif not settings.experimental:
        kind_of(settings.device or "auto")


def kind_of(spec: str) -> str:
    """What `--device` asks of a cluster: `auto`, `cpu` or `cuda`.

    Raises:
        UsageError: it is none of these.
    """
    word = spec.strip().lower()
    if word not in ("auto", "cpu", "cuda"):
        raise UsageError(
            f"--device {spec} names devices of this machine; those of a cluster have no numbers.",
            remedy="Write --device auto, cpu or cuda.",
        )
    return word


def require_no_secret(words: Sequence[str]) -> None:
    """Ray notes a driver's command line (`entrypoint`), and shows it to all who reach the cluster.

    Raises:
        UsageError: a secret stands in it.
    """
    for word in words:
        bare = _USER.sub("", _VARIABLE.sub("", word))
        if redact(bare) != bare:
            raise UsageError(
                f"There is a secret in the command line ({for_terminal(redact(word))[:200]}), "
                "which Ray would note and show to everybody who reaches the cluster.",
                remedy="Name databases by AUDIO_BATCH_DATABASE_URL and AUDIO_BATCH_RESULTS_DB, or "
                "write '${VARIABLE}' instead of the secret.",
            )
