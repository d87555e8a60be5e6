"""Asking the checks, one after the other; none of them can end the program."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from audio_batch.errors import AudioBatchError
from audio_batch.preflight import (
    machine,
    overwriting,
    software,
    speech_models,
    stores,
    survival,
    work,
)
from audio_batch.preflight.check import Check, Finding, error
from audio_batch.preflight.facts import Facts, PreflightRequest
from audio_batch.text import for_terminal, redact

CheckFunction = Callable[[Facts], Iterable[Finding]]

ALL: Sequence[tuple[str, CheckFunction]] = (
    ("python", software.python),
    ("packages", software.packages),
    ("telemetry", software.telemetry),
    ("driver", machine.driver),
    ("devices", machine.devices),
    ("cuda", machine.cuda),
    ("memory", machine.memory),
    ("isolation", survival.isolation),
    ("remembered", survival.remembered),
    ("model", speech_models.recognition),
    ("token", speech_models.token),
    ("diarization", speech_models.diarization),
    ("alignment", speech_models.alignment),
    ("stores", stores.packages),
    ("aws", stores.aws),
    ("clouds", stores.other_clouds),
    ("inputs", work.inputs),
    ("names", work.names),
    ("overwriting", overwriting.overwriting),
    ("output-folder", work.output_folder),
    ("space", work.space),
)
"""What the doctor asks, in its order. The names are stable."""

BEFORE_RUN: Sequence[tuple[str, CheckFunction]] = tuple(
    (name, function)
    for name, function in ALL
    if name in ("devices", "cuda", "memory", "names", "overwriting", "space")
)
"""What a run asks: it finds the manifest, its recordings, the models, the devices and the lock by
itself, and says so in its own words. None of these asks the network."""


def checks(
    request: PreflightRequest, which: Sequence[tuple[str, CheckFunction]] = ALL
) -> Iterator[Check]:
    """The answers as they come; a check that has nothing to say gives none. Never raises."""
    facts = Facts(request)
    for name, function in which:
        for finding in _asked(function, facts):
            yield Check(name, finding.status, _clean(finding.message), _clean(finding.remedy))


def before_run(request: PreflightRequest) -> list[Check]:
    """What a run should be told before its first asset: warnings and errors only."""
    return [check for check in checks(request, BEFORE_RUN) if check.status != "ok"]


def _asked(function: CheckFunction, facts: Facts) -> Iterator[Finding]:
    try:
        yield from function(facts)
    except AudioBatchError as failure:
        yield error(failure.message, failure.remedy)
    except Exception as failure:  # a check that fails is itself a finding
        text = str(failure).partition("\n")[0]
        yield error(
            f"This could not be checked: {type(failure).__name__}{f': {text}' if text else ''}.",
            "Please report it, with this line.",
        )


def _clean(text: str) -> str:
    return for_terminal(redact(text))
