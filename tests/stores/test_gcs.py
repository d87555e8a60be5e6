"""Who is let in to Google Cloud Storage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from program import Answer, write_tone

from audio_batch.errors import ErrorKind
from audio_batch.outputs import OutputPlace
from audio_batch.remote import stores
from audio_batch.remote.access import Access
from audio_batch.remote.failures import trouble
from stores.clouds import Google
from stores.faults import Rule
from stores.servers import Answer as Said
from stores.servers import WebServer

pytestmark = pytest.mark.slow

Cli = Callable[..., Answer]
NULL = ("--engine", "null", "--isolation", "thread", "--state-dir", "state")


def test_a_refusal_is_no_trouble_of_the_network(google: Google) -> None:
    url = google.put("a.wav", b"x")
    google.proxy.rule(Rule("error", status=403))
    with pytest.raises(OSError, match="Forbidden") as caught:
        stores.store(url, Access()).look(url)
    found = trouble(caught.value)
    assert (found.kind, found.passing) == (ErrorKind.INPUT_FORBIDDEN, False)
    assert google.counts() == {"LOOK": 1}


def test_many_are_listed_page_by_page(google: Google, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [google.put(f"many/{n:03d} ü.wav", b"x" * n) for n in range(10, 55)]
    google.put("many/001 before.wav", b"x")
    absent = [google.url(f"many/{n:03d} ü.wav") for n in (55, 56)]
    monkeypatch.setattr(google.proxy, "page", 20)
    store = stores.store(google.url(), Access())
    found = store.look_at_many([*wanted, *absent])
    assert google.counts() == {"LIST": 3}
    assert [found[url] for url in absent] == [None, None]
    assert [found[url] for url in wanted] == [store.look(url) for url in wanted]
    outputs = OutputPlace(google.url("many"), Access()).open()
    assert [outputs.size_bytes(f"{n:03d} ü.wav") for n in (10, 54, 55)] == [10, 54, None]
    assert google.counts()["LIST"] == 6


def test_nobody_is_told_to_sign_in(google: Google) -> None:
    url = google.put("a.wav", b"x")
    google.proxy.rule(Rule("error", status=401))
    with pytest.raises(Exception, match="Invalid Credentials") as caught:
        stores.store(url, Access()).look(url)
    found = trouble(caught.value)
    assert (found.kind, found.away) == (ErrorKind.INPUT_FORBIDDEN, "signed_out")
    assert "`gcloud auth application-default login`" in found.remedy
    assert google.counts() == {"LOOK": 1}


def test_a_sign_in_that_is_over_ends_the_run_before_it_begins(
    cli: Cli, tmp_path: Path, google: Google, web: WebServer
) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    account = {
        "type": "service_account",
        "client_email": "nightly@project.iam.gserviceaccount.com",
        "private_key": key.decode(),
        "token_uri": f"{web.url}/token",
    }
    (tmp_path / "account.json").write_text(json.dumps(account), encoding="utf-8")
    body = json.dumps({"error": "invalid_grant", "error_description": "Account is disabled."})
    headers = [("Content-Type", "application/json")]
    web.answers["/token"] = Said(400, headers, body.encode())
    assets = [{"id": "a", "uri": google.put("a.wav", write_tone(tmp_path / "a.wav"))}]
    (tmp_path / "manifest.json").write_text(json.dumps({"assets": assets}), encoding="utf-8")
    env = {"GOOGLE_APPLICATION_CREDENTIALS": "account.json", "STORAGE_EMULATOR_HOST": ""}
    done = cli("run", "manifest.json", *NULL, "-o", "out", env=env)
    assert done.code == 5, done.err
    said = " ".join(done.err.split())
    assert "Nobody is signed in to Google Cloud, or not any more" in said
    assert "`gcloud auth application-default login`" in said
    assert "PRIVATE KEY" not in done.err
    token = {"access_token": "secret-token", "expires_in": 3600, "token_type": "Bearer"}
    web.answers["/token"] = Said(200, headers, json.dumps(token).encode())
    done = cli("doctor", "manifest.json", "-o", "out", "--json", env=env)
    found = [it for it in json.loads(done.out)["checks"] if it["name"] == "clouds"]
    assert [it["message"] for it in found] == [
        "Google Cloud: by nightly@project.iam.gserviceaccount.com."
    ]


def test_who_has_no_credentials_is_told_so(cli: Cli, tmp_path: Path, google: Google) -> None:
    assets = [{"id": "a", "uri": google.put("a.wav", write_tone(tmp_path / "a.wav"))}]
    (tmp_path / "manifest.json").write_text(json.dumps({"assets": assets}), encoding="utf-8")
    env = {"STORAGE_EMULATOR_HOST": "", "HOME": str(tmp_path), "CLOUDSDK_CONFIG": str(tmp_path)}
    done = cli("doctor", "manifest.json", "-o", "out", "--json", env=env)
    found = [it for it in json.loads(done.out)["checks"] if it["name"] == "clouds"]
    assert [it["status"] for it in found] == ["warning"]
    assert "Nobody is signed in to Google Cloud" in found[0]["message"]
