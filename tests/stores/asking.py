"""What `aws.check` answers, as plain values; also as a program with its question as JSON.

botocore settles on the home folder when it is imported: what has to do with a sign-in by SSO, which
lies there, needs a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

from program import environment

from audio_batch.errors import SetupError
from audio_batch.remote import aws
from audio_batch.remote.access import Access
from stores.identity_center import Home


def check(
    home: Home,
    *,
    profile: str | None = None,
    endpoint: str | None = None,
    login: bool = False,
    folder: Path | None = None,
    terminal: bool = True,
    locations: tuple[str, ...] = ("s3://recordings/a.wav",),
    **more: str,
) -> dict[str, Any]:
    """What `aws.check` says to a process that lives in `home`.

    Args:
        terminal: whether one that may sign in has a terminal, where this system has such.
    """
    question = {"profile": profile, "endpoint": endpoint, "login": login, "locations": locations}
    env = {key: value for key, value in environment().items() if not key.startswith("AWS_")}
    env |= {**home.environment, **more}
    if not home.apart:
        with mock.patch.dict(os.environ, env, clear=True):
            return _answer(question)
    tests = str(Path(__file__).parents[1])
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [tests, env.get("PYTHONPATH")]))
    leader, stdin = os.openpty() if login and terminal else (-1, subprocess.DEVNULL)
    done = subprocess.run(
        [sys.executable, "-m", "stores.asking", json.dumps(question)],
        env=env,
        cwd=folder,
        stdin=stdin,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    if leader >= 0:
        os.close(leader), os.close(stdin)
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout), "stderr": done.stderr}


def _answer(question: dict[str, Any]) -> dict[str, Any]:
    access = Access(aws_profile=question["profile"], s3_endpoint=question["endpoint"])
    said: list[str] = []
    try:
        found = aws.check(
            access, question["locations"], sign_in=question["login"], notice=said.append
        )
    except SetupError as error:
        kind = type(error).__name__
        return {"error": error.message, "remedy": error.remedy, "kind": kind, "said": said}
    if found is None:
        return {"found": None, "said": said}
    ends = found.ends_at.isoformat() if found.ends_at else None
    answer = {"arn": found.arn, "method": found.method, "unasked": found.unasked, "ends": ends}
    return {"found": answer, "said": said}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_answer(json.loads(sys.argv[1]))))
