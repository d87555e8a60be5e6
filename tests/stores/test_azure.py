"""Who is let in to Azure, and by which names: URLs, AZURE_STORAGE_ variables."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from program import Answer, write_tone

from audio_batch.errors import SetupError
from audio_batch.remote import stores
from audio_batch.remote.access import Access
from audio_batch.remote.azure import AzureStore, objects
from stores.clouds import ACCOUNT, KEY, Azure

pytestmark = pytest.mark.slow

Cli = Callable[..., Answer]
NULL = ("--engine", "null", "--isolation", "thread", "--state-dir", "state")
NAMED = "AZURE_STORAGE_CONNECTION_STRING"


@pytest.fixture
def outside(azure: Azure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Azure:
    """A recording that is stored, its manifest, and nothing that lets anybody in."""
    url = azure.put("in/a.wav", write_tone(tmp_path / "a.wav", 0.5))
    assets = [{"id": "a", "uri": url}]
    (tmp_path / "manifest.json").write_text(json.dumps({"assets": assets}), encoding="utf-8")
    for name in azure.environment:
        monkeypatch.delenv(name)
    return azure


def test_without_an_account_nothing_begins(cli: Cli, outside: Azure) -> None:
    done = cli("run", "manifest.json", *NULL, "-o", "out")
    assert done.code == 5, done.err
    assert "No account of Azure is named. Set AZURE_STORAGE_CONNECTION_STRING" in " ".join(
        done.err.split()
    )
    done = cli("run", "manifest.json", *NULL, "-o", "out", env={NAMED: "rubbish"})
    assert (done.code, "settings of Azure cannot be used" in done.err) == (5, True), done.err
    assert outside.counts().total() == 0


@pytest.mark.usefixtures("outside")
def test_without_a_sign_in_nothing_begins(cli: Cli) -> None:
    done = cli(
        "run", "manifest.json", *NULL, "-o", "out", env={"AZURE_STORAGE_ACCOUNT": "somebody"}
    )
    assert done.code == 5, done.err
    said = " ".join(done.err.split())
    assert "Nobody is signed in to Azure (somebody), or not any more. Sign in by `az login`" in said


def test_a_wrong_key_is_a_refusal(cli: Cli, tmp_path: Path, outside: Azure) -> None:
    wrong = {NAMED: outside.connection.replace(KEY, "A" * 84 + "AA==")}
    done = cli("run", "manifest.json", *NULL, "-o", outside.url("out"), env=wrong)
    assert done.code == 5, done.err
    assert "az://recordings/out cannot be listed: access is denied" in done.err
    assert KEY not in done.err
    done = cli("run", "manifest.json", "--model", "demo", *NULL[2:-1], "s", "-o", "out", env=wrong)
    assert done.code == 3, done.err
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert [failure["kind"] for failure in summary["failures"]] == ["input_forbidden"]


@pytest.mark.parametrize("scheme", ["az", "abfs", "abfss"])
def test_the_account_may_stand_in_the_url(
    cli: Cli, tmp_path: Path, azure: Azure, scheme: str
) -> None:
    data = write_tone(tmp_path / "a.wav", 0.5).read_bytes()
    azure.put("in/a.wav", data)
    where = f"{scheme}://recordings@{ACCOUNT}.dfs.core.windows.net"
    assets = [{"id": "a", "uri": f"{where}/in/a.wav"}]
    (tmp_path / "manifest.json").write_text(json.dumps({"assets": assets}), encoding="utf-8")
    done = cli("run", "manifest.json", "--model", "demo", *NULL[2:], "-o", f"{where}/out")
    assert done.code == 0, done.err
    assert azure.keys("out/") == ["out/a.json", "out/a.srt", "out/a.txt", "out/summary.json"]
    assert json.loads(azure.get("out/a.json"))["source"] == f"{where}/in/a.wav"
    assert cli("status", f"{where}/out", "--state-dir", "state").code == 0


def test_many_are_listed_page_by_page(azure: Azure) -> None:
    wanted = [azure.put(f"many/{n:03d} ü.wav", b"x" * n) for n in range(45)]
    absent = [azure.url(f"many/{n:03d} ü.wav") for n in (45, 46)]

    def files(uri: str) -> Any:
        return stores.filesystem(uri, Access())

    store = AzureStore(files, lambda old, uri: None, page=20)  # noqa: ARG005
    found = store.look_at_many([*wanted, *absent])
    assert azure.counts() == {"LIST": 3}
    assert [found[url] for url in absent] == [None, None]
    assert [found[url] for url in wanted] == [store.look(url) for url in wanted]
    listed = dict(objects(files(azure.url()), "recordings/many", 20))
    assert listed == {f"{n:03d} ü.wav": n for n in range(45)}
    assert azure.counts()["LIST"] == 6


def test_another_account_than_that_of_the_connection_is_refused(azure: Azure) -> None:
    with pytest.raises(SetupError, match="names the account other, and AZURE_STORAGE"):
        stores.filesystem("az://c@other.blob.core.windows.net/a.wav", Access())
    assert azure.counts().total() == 0


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("az://c/a.wav", "mine.blob.core.windows.net"),
        ("az://c@other/a.wav", "other.blob.core.windows.net"),
        ("abfss://c@other.dfs.core.windows.net/a.wav", "other.blob.core.windows.net"),
        ("az://c@other.blob.core.chinacloudapi.cn/a", "other.blob.core.chinacloudapi.cn"),
    ],
)
def test_hosts_of_accounts(
    outside: Azure, monkeypatch: pytest.MonkeyPatch, url: str, host: str
) -> None:
    del outside
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT", "mine")
    monkeypatch.setenv("AZURE_STORAGE_KEY", KEY)
    access = Access(aws_profile=url)  # another one than any that is open
    assert stores.filesystem(url, access).service_client.primary_hostname == host
