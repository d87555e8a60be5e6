"""Lowered priorities, as the system itself reports them: every test in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import Any

import psutil
import pytest
from program import environment

from audio_batch import manners
from audio_batch.errors import UsageError

linux = pytest.mark.skipif(
    sys.platform != "linux", reason="priorities by thread, as Linux has them"
)

REPORT = """
import json, os, subprocess, sys, threading
import psutil
from audio_batch import manners

waiting = threading.Event()
before = threading.Thread(target=waiting.wait)
before.start()
warnings = manners.apply({nice}, {ionice!r})
after = threading.Thread(target=waiting.wait)
after.start()
ASK = "import psutil; p = psutil.Process(); print(int(p.nice()), list(map(int, p.ionice())))"
child = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True)
print(json.dumps({{
    "warnings": warnings,
    "nice": [os.getpriority(os.PRIO_PROCESS, t.native_id) for t in (before, after)],
    "io": [list(map(int, psutil.Process(t.native_id).ionice())) for t in (before, after)],
    "child": child.stdout.strip(),
}}))
waiting.set()
"""


def applied(nice: int | None, ionice: str | None, *prefix: str) -> dict[str, Any]:
    done = subprocess.run(
        [*prefix, sys.executable, "-c", REPORT.format(nice=nice, ionice=ionice)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


IDLE, BEST_EFFORT = 3, 2
"""Classes of ioprio_set(2)."""


@linux
def test_every_thread_and_every_child_is_lowered() -> None:
    found = applied(19, "idle")
    assert found["warnings"] == []
    assert found["nice"] == [19, 19]
    assert [group for group, _ in found["io"]] == [IDLE, IDLE]
    assert found["child"].startswith(f"19 [{IDLE},")


@linux
def test_low_is_the_least_of_the_ordinary() -> None:
    found = applied(None, "low")
    assert found["nice"] == [os.getpriority(os.PRIO_PROCESS, 0)] * 2
    assert found["io"] == [[BEST_EFFORT, 7]] * 2


@linux
@pytest.mark.skipif(shutil.which("ionice") is None, reason="needs ionice")
def test_a_priority_that_is_lower_already_stays() -> None:
    found = applied(5, "low", "nice", "-n", "15", "ionice", "-c", "3")
    assert min(found["nice"]) >= 15
    assert [group for group, _ in found["io"]] == [IDLE, IDLE]


@linux
def test_nothing_is_touched_without_a_flag() -> None:
    mine = psutil.Process()
    found = applied(None, None)
    assert found["nice"] == [int(mine.nice())] * 2
    assert found["io"] == [list(map(int, mine.ionice()))] * 2


@pytest.mark.parametrize("nice", [-5, 0, 20])
def test_a_priority_is_never_raised(nice: int) -> None:
    before = psutil.Process().nice()
    with pytest.raises(UsageError, match=r"can only be lowered.*1 .* to 19"):
        manners.apply(nice, None)
    with pytest.raises(UsageError, match="Say idle or low"):
        manners.apply(19, "normal")  # type: ignore[arg-type]
    assert psutil.Process().nice() == before, "and nothing was done by halves"
