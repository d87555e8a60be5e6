"""What the program says about AWS before it begins, and what it does when credentials end."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from program import Answer, environment

from audio_batch.remote import stores
from audio_batch.remote.access import Access
from stores.faults import Faults
from stores.identity_center import Home, IdentityCenter
from stores.s3 import S3

Cli = Callable[..., Answer]


def found(answer: Answer, name: str) -> list[tuple[str, str]]:
    checks = json.loads(answer.out)["checks"]
    return [(each["status"], each["message"]) for each in checks if each["name"] == name]


@pytest.mark.slow
def test_the_doctor_says_who_the_run_would_be(cli: Cli, s3: S3) -> None:
    flags = ("--output-dir", s3.url("out"), "--s3-endpoint", s3.endpoint, "--json")
    answer = cli("doctor", *flags)
    ((status, text),) = found(answer, "aws")
    assert status == "ok" and text.startswith("arn:aws:sts::123456789012:") and "by env" in text
    assert found(answer, "stores")[0][0] == "ok"
    ((status, text),) = found(cli("doctor", *flags, "--aws-profile", "absent"), "aws")
    assert status == "error" and "no profile absent" in text
    assert not found(cli("doctor", "--output-dir", "out", "--json"), "aws")


def test_the_doctor_warns_of_a_sign_in_that_ends_within_the_night(
    cli: Cli, s3: S3, tmp_path: Path
) -> None:
    with IdentityCenter() as center:
        home = Home(tmp_path / "home", {"AWS_ENDPOINT_URL_SSO": center.url})
        home.sso(session=False)
        home.token("access-1", ends_in_s=7200, session=False)
        center.good = {"access-1"}
        env = {**home.environment, "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
        flags = ("--s3-endpoint", s3.endpoint, "--aws-profile", "night", "--json")
        answer = cli("doctor", "--output-dir", s3.url("out"), *flags, env=env)
    signed, early = found(answer, "aws")
    assert signed[0] == "ok" and "by sso" in signed[1]
    assert early[0] == "warning" and "does not renew itself" in early[1]


def test_credentials_that_end_early_are_asked_for_again(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path / "home")
    log = home.numbered_keys(lasting_s=86400)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name, value in home.environment.items():
        monkeypatch.setenv(name, value)
    s3.put("a.wav", b"sound")
    s3.inject(Faults(expire_after=3))
    store = stores.store("s3://", Access(s3_endpoint=s3.endpoint, aws_profile="night"))
    refused = 0
    for _ in range(12):
        try:
            assert store.look(s3.url("a.wav")).size_bytes == 5
        except OSError:
            refused += 1
    keys = {seen.key for seen in s3.trouble.seen if seen.status == 200}
    assert (refused, keys) == (3, {f"AKIDNIGHT{n:04d}" for n in (1, 2, 3)})
    assert log.stat().st_size == 3


def test_keys_are_renewed_before_they_end(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path / "home")
    home.numbered_keys(lasting_s=120)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name, value in home.environment.items():
        monkeypatch.setenv(name, value)
    s3.put("a.wav", b"sound")
    store = stores.store("s3://", Access(s3_endpoint=s3.endpoint, aws_profile="night"))
    for _ in range(4):
        assert store.look(s3.url("a.wav")).size_bytes == 5
    assert len({seen.key for seen in s3.trouble.seen}) >= 4, "two minutes are not waited for"


LOOKS = """
import sys
from audio_batch.remote import stores
from audio_batch.remote.access import Access
from audio_batch.remote.failures import trouble
store = stores.store("s3://", Access(s3_endpoint=sys.argv[2], aws_profile="night"))
for _ in sys.stdin:
    try:
        print(store.look(sys.argv[1]).size_bytes, flush=True)
    except Exception as error:
        found = trouble(error)
        print("expired" if found.expired else repr(error), flush=True)
"""


def test_a_sign_in_that_ends_in_the_middle_and_comes_back(
    s3: S3, tmp_path: Path, children: list[subprocess.Popen[str]]
) -> None:
    with IdentityCenter() as center:
        home = Home(tmp_path / "home", {"AWS_ENDPOINT_URL_SSO": center.url})
        home.sso()
        home.token("access-1", ends_in_s=7200)
        center.good, center.lasting_s = {"access-1"}, 120
        s3.put("a.wav", b"sound")
        env = {name: text for name, text in environment().items() if not name.startswith("AWS_")}
        process = subprocess.Popen(
            [sys.executable, "-c", LOOKS, s3.url("a.wav"), s3.endpoint],
            env={**env, **home.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        children.append(process)

        def look() -> str:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            return process.stdout.readline().strip()

        assert [look(), look()] == ["5", "5"]
        assert len(center.given) >= 2, "a role's keys are renewed by the sign-in"
        center.good.clear()
        assert look() == "expired"
        home.token("access-2", ends_in_s=7200)
        center.good = {"access-2"}
        assert [look(), look()] == ["5", "5"], "somebody has signed in on another terminal"


def test_a_run_that_nobody_is_signed_in_for_ends_before_it_begins(
    cli: Cli, s3: S3, tmp_path: Path
) -> None:
    home = Home(tmp_path / "home")
    home.sso()
    home.token("access-old", ends_in_s=-60)
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps([{"id": "a", "uri": s3.url("a.wav")}]), encoding="utf-8")
    env = {**home.environment, "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
    flags = ("--engine", "null", "-o", "out", "--s3-endpoint", s3.endpoint)
    answer = cli("run", manifest, *flags, "--aws-profile", "night", env=env)
    assert answer.code == 5
    assert "aws sso login --profile night" in " ".join(answer.err.split())
    assert "Traceback" not in answer.err
    assert not s3.counts() and not (tmp_path / "out").exists()
