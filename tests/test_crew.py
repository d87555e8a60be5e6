# ruff: noqa: ARG002 - stand-ins have the arguments of what they stand for
"""Devices that load late: what a run makes of models that are there after all."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence, Set

from audio_batch import events
from audio_batch.crew import Crew
from audio_batch.gpu.balancer import Balancer
from audio_batch.gpu.devices import CPU
from audio_batch.outcome import RunResult, Stage

PATIENT_S = 60.0


class Late:
    """Loads when it is let, and knows how often it was begun."""

    def __init__(self) -> None:
        self.begun = 0
        self.may_end = threading.Event()

    def begin(self, device: str, needed: Set[Stage]) -> None:
        """Count."""
        self.begun += 1

    def load(self, device: str, needed: Set[Stage]) -> Sequence[str]:
        """Wait until the test lets it end."""
        assert self.may_end.wait(PATIENT_S)
        return ()


def test_models_that_are_there_late_are_not_loaded_again() -> None:
    """Else their process would be ended with what it has been given to do meanwhile."""
    inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
    told: list[events.Event] = []
    loader, balancer = Late(), Balancer((CPU,), {"cpu": 1}, None)
    crew = Crew(
        balancer,
        loader,
        max_restarts=3,
        reserve=None,
        ladder=None,
        inbox=inbox,
        emit=told.append,
        result=RunResult(),
    )
    crew.load_all({Stage.TRANSCRIBE})
    crew.look_after_loading(-1.0)  # any time is too long
    assert ["It is tried again" in str(event) for event in told] == [True]
    assert crew.is_held("cpu")
    loader.may_end.set()
    inbox.get(timeout=PATIENT_S)()
    assert not crew.is_held("cpu")
    crew.look_after_loading(None)  # when it would have been due again
    assert loader.begun == 1
    assert not crew.is_held("cpu")
