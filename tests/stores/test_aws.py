"""Signing in to AWS, with the real botocore: SSO, roles, processes, keys, and what is said."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from audio_batch.remote.access import Access
from audio_batch.remote.aws import endpoint_of
from stores.asking import check
from stores.faults import Rule
from stores.identity_center import Home, IdentityCenter
from stores.s3 import S3


@pytest.fixture
def home(tmp_path: Path, s3: S3) -> Home:
    """A home without any AWS settings; STS is the tests' own."""
    return Home(tmp_path / "home", {"AWS_ENDPOINT_URL": s3.endpoint})


@pytest.fixture
def center(home: Home) -> Iterator[IdentityCenter]:
    """The service that SSO signs in to."""
    with IdentityCenter() as server:
        home.apart = True
        home.more |= {"AWS_ENDPOINT_URL_SSO": server.url, "AWS_ENDPOINT_URL_SSO_OIDC": server.url}
        yield server


KEYS = {"AWS_ACCESS_KEY_ID": "AKIDTEST", "AWS_SECRET_ACCESS_KEY": "canary-secret"}


def test_nobody_is_asked_without_s3(home: Home, s3: S3) -> None:
    places = ("", "/data/a.wav", r"\\server\share\a.wav", "https://example.org/a.wav", "gs://b/a")
    assert check(home, locations=places)["found"] is None
    assert not s3.counts()


def test_keys_of_the_environment_are_tried_once(home: Home, s3: S3) -> None:
    answer = check(home, locations=("out", "S3://recordings/a.wav"), **KEYS)
    assert answer["found"]["arn"].startswith("arn:aws:sts::123456789012:")
    assert answer["found"]["method"] == "env"
    assert s3.counts() == {"STS": 1}


def test_no_credentials_and_half_of_them(home: Home) -> None:
    answer = check(home)
    assert answer["error"] == "There are no AWS credentials."
    assert "--aws-profile" in answer["remedy"]
    half = check(home, AWS_ACCESS_KEY_ID="AKIDTEST")
    assert "not complete" in half["error"] and "aws_secret_access_key" in half["error"].lower()


def test_which_s3_service_is_asked(home: Home, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the flag, the environment or the profile name it; nothing is read where there is no S3."""
    services = "[services own]\ns3 =\n  endpoint_url = http://10.0.0.3\n"
    home.config(f"[profile night]\nservices = own\n{services}")
    for name, value in home.environment.items():
        monkeypatch.setenv(name, value)
    night, there = Access(aws_profile="night"), ("out", "s3a://recordings/a.wav")
    assert endpoint_of(Access(s3_endpoint="http://10.0.0.1"), there) == "http://10.0.0.1"
    assert endpoint_of(Access(), there) == s3.endpoint
    assert endpoint_of(Access(), ("out", "https://s3.example/a.wav")) is None
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://10.0.0.2")
    assert endpoint_of(night, there) == "http://10.0.0.2"
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name)
    assert endpoint_of(night, there) == "http://10.0.0.3"
    assert endpoint_of(Access(), there) is None
    assert endpoint_of(Access(aws_profile="nihgt"), there) is None
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://10.0.0.4")
    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
    assert endpoint_of(night, there) is None


def test_a_profile_that_is_not_there(home: Home) -> None:
    answer = check(home, profile="nihgt")
    assert answer["error"] == "There is no profile nihgt in the AWS configuration."
    assert check(home, AWS_PROFILE="nihgt")["error"] == answer["error"]


@pytest.mark.parametrize("session", [True, False], ids=["sso-session", "legacy"])
def test_an_expired_sign_in_names_the_command(
    home: Home, s3: S3, center: IdentityCenter, session: bool
) -> None:
    home.sso(session=session)
    home.token("access-old", ends_in_s=-60, session=session)
    answer = check(home, profile="night")
    assert answer["kind"] == "SignInExpired"
    assert "SSO sign-in of profile night has expired" in answer["error"]
    assert "`aws sso login --profile night`" in answer["remedy"]
    home.token_file(session=session).unlink()
    assert check(home, AWS_PROFILE="night")["remedy"] == answer["remedy"]
    # Not expired by its date, but withdrawn: the service says so.
    home.token("access-withdrawn", ends_in_s=3600, session=session)
    assert check(home, profile="night")["remedy"] == answer["remedy"]
    assert not s3.counts() and not center.given


def test_a_good_sign_in_and_when_it_ends(home: Home, center: IdentityCenter) -> None:
    home.sso(session=False)
    home.token("access-1", ends_in_s=7200, session=False)
    center.good.add("access-1")
    found = check(home, profile="night")["found"]
    assert found["method"] == "sso" and found["arn"] and found["ends"]
    home.sso()
    home.token("access-1", ends_in_s=60, refresh="refresh-1")
    found = check(home, profile="night")["found"]
    assert found["arn"] and found["ends"] is None, "one that is renewed by itself"
    assert "access-renewed" in home.token_file().read_text(encoding="utf-8")


def test_a_role_whose_source_is_sso_names_the_source(home: Home, center: IdentityCenter) -> None:
    home.sso()
    path = home.folder / ".aws" / "config"
    role = "\n[profile role]\nrole_arn = arn:aws:iam::123456789012:role/Batch\n"
    path.write_text(path.read_text() + role + "source_profile = night\nregion = eu-central-1\n")
    home.token("access-old", ends_in_s=-60)
    assert "`aws sso login --profile night`" in check(home, profile="role")["remedy"]
    home.token("access-1", ends_in_s=7200)
    center.good.add("access-1")
    found = check(home, profile="role")["found"]
    assert ":assumed-role/Batch/" in found["arn"] and found["method"] == "assume-role"


def stub_aws(folder: Path, body: str) -> str:
    """A program `aws` in a folder of its own; returns the PATH that has it first."""
    folder.mkdir()
    program = folder / "aws.py"
    program.write_text(body, encoding="utf-8")
    if os.name == "nt":
        text = f'@"{sys.executable}" "{program}" %*\n'
        (folder / "aws.cmd").write_text(text, encoding="utf-8")
    else:
        link = folder / "aws"
        link.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{program}" "$@"\n', encoding="utf-8")
        link.chmod(0o755)
    return os.pathsep.join([str(folder), os.environ["PATH"]])


def test_aws_login_runs_it_and_looks_again(
    home: Home, center: IdentityCenter, tmp_path: Path
) -> None:
    home.sso()
    home.token("access-old", ends_in_s=-60)
    center.good.add("access-new")
    log, token = tmp_path / "asked.json", home.token_file()
    path = stub_aws(
        tmp_path / "bin",
        "import json, sys, pathlib\n"
        f"pathlib.Path({str(log)!r}).write_text(json.dumps(sys.argv[1:]))\n"
        f"token = pathlib.Path({str(token)!r})\n"
        "body = json.loads(token.read_text())\n"
        "body |= {'accessToken': 'access-new', 'expiresAt': '2099-01-01T00:00:00Z'}\n"
        "token.write_text(json.dumps(body))\n"
        "print('Attempting to open a browser')\n",
    )
    without = check(home, profile="night", PATH=path)
    assert without["kind"] == "SignInExpired" and not log.exists()
    answer = check(home, profile="night", login=True, PATH=path)
    assert answer["found"]["method"] == "sso"
    assert json.loads(log.read_text()) == ["sso", "login", "--profile", "night"]
    assert "aws sso login --profile night" in answer["said"][0]
    assert "Attempting to open a browser" in answer["stderr"], "standard output is for data"


def test_aws_login_asks_nobody_without_a_terminal(
    home: Home, center: IdentityCenter, tmp_path: Path
) -> None:
    del center
    home.sso()
    home.token("access-old", ends_in_s=-60)
    log = tmp_path / "asked"
    path = stub_aws(tmp_path / "bin", f"open({str(log)!r}, 'w')\n")
    answer = check(home, profile="night", login=True, terminal=False, PATH=path)
    assert answer["kind"] == "SignInExpired"
    assert "there is no terminal" in answer["error"]
    assert answer["remedy"] == "Run `aws sso login --profile night` on a terminal before."
    assert not log.exists() and not answer["said"]


def test_aws_login_that_fails_helps_nothing_or_is_not_installed(
    home: Home, center: IdentityCenter, tmp_path: Path
) -> None:
    del center
    home.sso()
    home.token("access-old", ends_in_s=-60)
    failing = stub_aws(tmp_path / "failing", "raise SystemExit(255)\n")
    answer = check(home, profile="night", login=True, PATH=failing)
    assert "ended with exit code 255" in answer["error"]
    idle = stub_aws(tmp_path / "idle", "")
    answer = check(home, profile="night", login=True, PATH=idle)
    assert answer["kind"] == "SignInExpired"
    (tmp_path / "empty").mkdir()
    answer = check(home, profile="night", login=True, PATH=str(tmp_path / "empty"))
    assert "there is no `aws`" in answer["error"] and "version 2" in answer["remedy"]
    # Whoever sent the recordings may have sent an `aws` beside them.
    answer = check(home, profile="night", login=True, PATH=failing, folder=tmp_path / "failing")
    assert "there is no `aws`" in answer["error"]


def credential_process(home: Home, tmp_path: Path, body: str) -> None:
    program = tmp_path / "credentials.py"
    program.write_text(body, encoding="utf-8")
    home.config(f'[profile p]\ncredential_process = "{sys.executable}" "{program}"\n')


def test_a_credential_process(home: Home, tmp_path: Path) -> None:
    keys = {"Version": 1, "AccessKeyId": "AKIDPROCESS", "SecretAccessKey": "canary-secret"}
    credential_process(home, tmp_path, f"print('''{json.dumps(keys)}''')\n")
    assert check(home, profile="p")["found"]["method"] == "custom-process"
    credential_process(
        home, tmp_path, "raise SystemExit('vault is sealed: token hf_" + "a" * 34 + "')"
    )
    answer = check(home, profile="p")
    assert "vault is sealed" in answer["error"] and "aaaa" not in answer["error"]
    old = keys | {"SessionToken": "t", "Expiration": "2020-01-01T00:00:00Z"}
    credential_process(home, tmp_path, f"print('''{json.dumps(old)}''')\n")
    answer = check(home, profile="p")
    assert answer["kind"] == "SignInExpired"
    assert "credential_process of the AWS profile p" in answer["error"]


def test_a_role_that_wants_a_code_is_refused_before_it_asks(home: Home) -> None:
    home.config(
        "[profile keys]\naws_access_key_id = AKIDTEST\naws_secret_access_key = s\n"
        "[profile coded]\nrole_arn = arn:aws:iam::123456789012:role/R\nsource_profile = keys\n"
        "mfa_serial = arn:aws:iam::123456789012:mfa/me\nregion = eu-central-1\n"
    )
    answer = check(home, profile="coded")
    assert "asks for a code (mfa_serial)" in answer["error"]
    assert "export-credentials" in answer["remedy"]
    exported = check(home, AWS_PROFILE="coded", AWS_SESSION_TOKEN="t", **KEYS)
    assert exported["found"]["method"] == "env"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("ExpiredToken", "The AWS credentials in the environment have expired."),
        ("InvalidClientTokenId", "AWS does not accept the keys of the default AWS profile"),
        ("SignatureDoesNotMatch", "AWS does not accept the keys of the default AWS profile"),
        ("RequestTimeTooSkewed", "this machine's time"),
    ],
)
def test_what_sts_refuses(home: Home, s3: S3, code: str, said: str) -> None:
    s3.rule(Rule("error", kind="STS", status=403, code=code))
    answer = check(home, **KEYS)
    assert said in answer["error"]
    assert answer["remedy"] and "canary" not in json.dumps(answer)


@pytest.mark.parametrize(
    ("code", "status"),
    [("AccessDenied", 403), ("AccessDeniedException", 403), ("InternalError", 500)],
)
def test_an_sts_that_will_not_say_ends_nothing(home: Home, s3: S3, code: str, status: int) -> None:
    s3.rule(Rule("error", kind="STS", status=status, code=code))
    answer = check(home, **KEYS)
    assert answer["found"]["arn"] == ""
    assert answer["found"]["unasked"] == f"STS answers {code}"


def test_an_answer_of_sts_that_breaks_off_ends_nothing(home: Home, s3: S3) -> None:
    s3.rule(Rule("truncated", kind="STS"))
    answer = check(home, **KEYS)
    assert answer["found"]["arn"] == ""
    assert "STS" in answer["found"]["unasked"]
    (said,) = answer["said"]
    assert "S3 may let it in" in said and "canary" not in said


def test_expired_credentials_of_the_environment(home: Home, s3: S3) -> None:
    old = {**KEYS, "AWS_SESSION_TOKEN": "t", "AWS_CREDENTIAL_EXPIRATION": "2020-01-01T00:00:00Z"}
    answer = check(home, **old)
    assert answer["error"] == "The AWS credentials in the environment have expired."
    assert not s3.counts()


def test_amazon_is_not_asked_about_another_service(home: Home, s3: S3) -> None:
    del home.more["AWS_ENDPOINT_URL"]
    answer = check(home, endpoint=s3.endpoint, **KEYS)["found"]
    assert answer == {
        "arn": "",
        "method": "env",
        "unasked": f"{s3.endpoint.removeprefix('http://')} is not Amazon's",
        "ends": None,
    }
    by_variable = check(home, AWS_ENDPOINT_URL_S3=s3.endpoint, **KEYS)["found"]
    assert by_variable == answer
    assert not s3.counts()
    asked = check(home, endpoint=s3.endpoint, AWS_ENDPOINT_URL_STS=s3.endpoint, **KEYS)["found"]
    assert asked["arn"] and s3.counts() == {"STS": 1}
    assert "no AWS credentials" in check(home, endpoint=s3.endpoint)["error"]


def test_an_sts_that_cannot_be_reached_ends_nothing(home: Home, nobody_listens: int) -> None:
    home.more["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{nobody_listens}"
    found = check(home, **KEYS)["found"]
    assert found["arn"] == ""
    assert f"127.0.0.1:{nobody_listens} cannot be reached" in found["unasked"]
