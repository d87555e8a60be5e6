"""Azure's and Google's stores on loopback, by the emulators that there are, behind faulty proxies.

Azurite is Microsoft's own, gcp-storage-emulator is a package of Python. Neither is needed for
anything but a few slow tests, so neither comes with `[test]`: `scripts/check-slow` says how to
install them.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import hmac
import http.client
import json
import os
import queue
import re
import shutil
import subprocess
import sys
import threading
import xml.etree.ElementTree as ET
from collections import Counter
from email.utils import formatdate
from pathlib import Path
from typing import Self
from urllib.parse import quote, unquote

from stores.faults import Rule
from stores.servers import Answer, Asked, S3Proxy

BUCKET = "recordings"
ACCOUNT = "devstoreaccount1"
KEY = base64.b64encode(b"no secret, but long enough for a key of Azure's: 64 bytes of it.").decode()

_WITH_ITS_STARTER = """
process.stdin.resume().on("end", () => process.exit()); require(process.argv[1]);
"""
"""Node ends the emulator when whoever started it has ended, however it ended."""


class Process:
    """An emulator as a process; it ends when its standard input does."""

    def __init__(self, command: list[str], env: dict[str, str], folder: Path | None = None) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **env},
            cwd=folder,
            text=True,
        )
        self.port = self._told()

    def _told(self) -> int:
        """The port, from the first line that ends with one; Azurite says 0 before it has one."""
        assert self._process.stdout is not None
        lines: queue.Queue[str] = queue.Queue()

        def read() -> None:
            assert self._process.stdout is not None
            for line in self._process.stdout:
                lines.put(line)
            lines.put("")

        threading.Thread(target=read, daemon=True).start()
        while line := lines.get(timeout=60):
            if found := re.search(r"\b([1-9]\d+)\s*$", line):
                return int(found[1])
        raise RuntimeError("the emulator has not started")

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def azurite_program() -> str | None:
    """The script of Azurite's blob service; None where it is not installed."""
    named = os.environ.get("AUDIO_BATCH_AZURITE") or shutil.which("azurite-blob")
    return str(Path(named).resolve()) if named and shutil.which("node") else None


class Azurite(Process):
    """Microsoft's emulator of Blob Storage, in memory."""

    def __init__(self, folder: Path) -> None:
        program = azurite_program()
        assert program is not None
        flags = ["--blobPort", "0", "--inMemoryPersistence", "--skipApiVersionCheck"]
        command = ["node", "-e", _WITH_ITS_STARTER, program, *flags, "--disableTelemetry"]
        super().__init__(command, {"AZURITE_ACCOUNTS": f"{ACCOUNT}:{KEY}"}, folder)


class GoogleEmulator(Process):
    """gcp-storage-emulator, in memory."""

    def __init__(self) -> None:
        super().__init__([sys.executable, str(Path(__file__).with_name("google_process.py"))], {})


class Cloud:
    """One service behind a proxy, with an empty bucket: what `s3.S3` is for S3."""

    scheme = ""

    def __init__(self, port: int, proxy: S3Proxy) -> None:
        self._port = port
        self.proxy = proxy
        proxy.start()
        self.empty()

    def empty(self) -> None:
        """Forget every object, rule and request."""
        self.proxy.trouble.clear()
        self.proxy.trouble.rules.clear()
        self._make()
        for key in self.keys():
            self.delete(key)

    def _make(self) -> None:
        """Make the bucket, which may be there."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the proxy."""
        self.proxy.stop()

    def go(self) -> None:
        """Be gone: connections are refused."""
        self.proxy.stop()

    def come_back(self) -> None:
        """Be there again, under the same address."""
        self.proxy = type(self.proxy)(self._port, self.proxy.port)
        self.proxy.start()

    @property
    def environment(self) -> dict[str, str]:
        """What the program needs to get in."""
        raise NotImplementedError

    def url(self, key: str = "") -> str:
        """The URL of an object."""
        return f"{self.scheme}://{BUCKET}/{key}"

    def counts(self) -> Counter[str]:
        """Requests of the program by kind."""
        return self.proxy.trouble.counts()

    def put(self, key: str, data: bytes | Path) -> str:
        """Store an object. Returns its URL."""
        raise NotImplementedError

    def get(self, key: str) -> bytes:
        """An object's bytes."""
        raise NotImplementedError

    def delete(self, key: str) -> None:
        """Remove an object."""
        raise NotImplementedError

    def keys(self, prefix: str = "") -> list[str]:
        """The keys below a prefix, sorted."""
        raise NotImplementedError

    def objects(self, prefix: str = "") -> dict[str, bytes]:
        """Every object below a prefix, by its key without the prefix."""
        return {key.removeprefix(prefix): self.get(key) for key in self.keys(prefix)}

    def _asked(
        self, method: str, target: str, headers: dict[str, str], body: bytes = b""
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            connection.request(method, target, body=body, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


class AzureProxy(S3Proxy):
    """Before Azurite."""

    def kind(self, asked: Asked) -> str:
        """LIST, CONTAINER, PART, or the method."""
        if asked.query.get("comp") == ["list"]:
            return "LIST"
        if asked.query.get("restype") == ["container"]:
            return "CONTAINER"
        return "PART" if "blockid" in asked.query else asked.method

    def refusal(self, asked: Asked, rule: Rule) -> Answer:
        """As Azure says it."""
        status = rule.status or 503
        codes = {403: "AuthorizationFailure", 404: "BlobNotFound", 503: "ServerBusy"}
        code = rule.code or codes.get(status, "InternalError")
        text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>No.</Message></Error>"
        body = b"" if asked.method == "HEAD" else text.encode()
        return Answer(status, [("x-ms-error-code", code), ("Content-Type", "text/xml")], body)


class Azure(Cloud):
    """A container of Azurite's."""

    scheme = "az"

    def __init__(self, azurite: Azurite) -> None:
        super().__init__(azurite.port, AzureProxy(azurite.port))

    def _make(self) -> None:
        self._do("PUT", "?restype=container")

    @property
    def connection(self) -> str:
        """The connection string."""
        return (
            f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};"
            f"BlobEndpoint={self.proxy.url}/{ACCOUNT};"
        )

    @property
    def environment(self) -> dict[str, str]:
        """See `Cloud`."""
        return {"AZURE_STORAGE_CONNECTION_STRING": self.connection}

    def put(self, key: str, data: bytes | Path) -> str:
        """See `Cloud`."""
        body = data.read_bytes() if isinstance(data, Path) else data
        status, said = self._do("PUT", f"/{quote(key)}", {"x-ms-blob-type": "BlockBlob"}, body)
        assert status == 201, said
        return self.url(key)

    def get(self, key: str) -> bytes:
        """See `Cloud`."""
        status, data = self._do("GET", f"/{quote(key)}")
        assert status == 200, data
        return data

    def delete(self, key: str) -> None:
        """See `Cloud`."""
        self._do("DELETE", f"/{quote(key)}")

    def keys(self, prefix: str = "") -> list[str]:
        """See `Cloud`."""
        query = f"?comp=list&prefix={quote(prefix, safe='')}&restype=container"
        status, data = self._do("GET", query)
        assert status == 200, data
        found = ET.fromstring(data).findall(".//Blob/Name")
        return sorted(
            unquote(name.text or "") if name.get("Encoded") == "true" else name.text or ""
            for name in found
        )

    def _do(
        self, method: str, rest: str, more: dict[str, str] | None = None, body: bytes = b""
    ) -> tuple[int, bytes]:
        """A request signed by the account's key, as Azure's REST documentation has it."""
        path, _, query = f"/{ACCOUNT}/{BUCKET}{rest}".partition("?")
        headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-12-02"}
        headers |= more or {}
        lines = [f"{name}:{value}" for name, value in sorted(headers.items())]
        lines.append(f"/{ACCOUNT}{path}")
        lines += [
            ":".join(unquote(word) for word in part.partition("=")[::2])
            for part in sorted(filter(None, query.split("&")))
        ]
        length = str(len(body)) if body else ""
        text = "\n".join([method, "", "", length, *([""] * 8), *lines])
        digest = hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()
        signed = base64.b64encode(digest).decode()
        headers["Authorization"] = f"SharedKey {ACCOUNT}:{signed}"
        target = path + (f"?{query}" if query else "")
        return self._asked(method, target, {**headers, "Content-Length": str(len(body))}, body)


class GoogleProxy(S3Proxy):
    """Before Google's emulator: what that leaves out of the service's documentation.

    Attributes:
        page: so many objects a page of a listing holds at most.
    """

    page = 1000

    def __init__(self, upstream_port: int, port: int = 0) -> None:
        super().__init__(upstream_port, port)
        self._uploads = threading.Lock()

    def answer(self, asked: Asked) -> Answer:
        """404 where a generation is not there any more; listings in pages, from `startOffset`.

        412 for what is to be uploaded as generation 0, and is there.
        """
        if self.kind(asked) == "LIST":
            return self._page(asked)
        if asked.query.get("ifGenerationMatch") == ["0"]:
            with self._uploads:
                if self._is_there(asked):
                    return self.refusal(asked, Rule("error", status=412))
                return super().answer(asked)
        wanted = asked.query.get("generation")
        if wanted and self.kind(asked) == "GET":
            look = asked.path.removeprefix("/download")
            found = super().answer(dataclasses.replace(asked, target=look))
            assert isinstance(found.body, bytes)
            if found.status != 200 or [json.loads(found.body)["generation"]] != wanted:
                return self.refusal(asked, Rule("error", status=404))
        return super().answer(asked)

    def _is_there(self, asked: Asked) -> bool:
        told = re.search(rb'"name": ("(?:[^"\\]|\\.)*")', asked.body)
        assert told is not None
        name = quote(json.loads(told[1]), safe="")
        target = asked.path.removeprefix("/upload") + f"/{name}"
        look = dataclasses.replace(asked, method="GET", target=target, body=b"")
        return super().answer(look).status == 200

    def _page(self, asked: Asked) -> Answer:
        found = super().answer(asked)
        if found.status != 200 or not isinstance(found.body, bytes):
            return found
        said = {name: values[0] for name, values in asked.query.items()}
        first = max(said.get("startOffset", ""), said.get("pageToken", ""))
        items = json.loads(found.body).get("items", [])
        rest = sorted((it for it in items if it["name"] >= first), key=lambda it: str(it["name"]))
        size = min(self.page, int(said.get("maxResults", 1000)))
        body: dict[str, object] = {"items": rest[:size]}
        if len(rest) > size:
            body["nextPageToken"] = rest[size]["name"]
        return Answer(200, [("Content-Type", "application/json")], json.dumps(body).encode())

    def kind(self, asked: Asked) -> str:
        """GET, PUT, LOOK (at an object), LIST, BUCKET, or the method."""
        if asked.path.startswith("/download/"):
            return "GET"
        if asked.path.startswith("/upload/"):
            return "PUT"
        if asked.method != "GET":
            return asked.method
        rest = asked.path.partition("/b/")[2].split("/")
        return {1: "BUCKET", 2: "LIST"}.get(len(rest), "LOOK")

    def refusal(self, asked: Asked, rule: Rule) -> Answer:
        """As Google says it."""
        del asked
        status = rule.status or 503
        words = {
            401: "Invalid Credentials",
            403: "it does not have storage.objects.get access",
            412: "At least one of the pre-conditions you specified did not hold.",
        }
        error = {"code": status, "message": words.get(status, "out of order"), "errors": []}
        headers = [("Content-Type", "application/json")]
        return Answer(status, headers, json.dumps({"error": error}).encode())


class Google(Cloud):
    """A bucket of Google's emulator."""

    scheme = "gs"

    def __init__(self, emulator: GoogleEmulator) -> None:
        super().__init__(emulator.port, GoogleProxy(emulator.port))

    def _make(self) -> None:
        body, headers = json.dumps({"name": BUCKET}).encode(), {"Content-Type": "application/json"}
        self._asked("POST", "/storage/v1/b?project=p", headers, body)

    @property
    def environment(self) -> dict[str, str]:
        """See `Cloud`."""
        # Without the last, each process would look for a machine of Google's around it.
        return {"STORAGE_EMULATOR_HOST": self.proxy.url, "NO_GCE_CHECK": "true"}

    def put(self, key: str, data: bytes | Path) -> str:
        """See `Cloud`."""
        body = data.read_bytes() if isinstance(data, Path) else data
        target = f"/upload/storage/v1/b/{BUCKET}/o?uploadType=media&name={quote(key, safe='')}"
        status, said = self._asked("POST", target, {"Content-Type": "audio/wav"}, body)
        assert status == 200, said
        return self.url(key)

    def get(self, key: str) -> bytes:
        """See `Cloud`."""
        status, data = self._asked(
            "GET", f"/download/storage/v1/b/{BUCKET}/o/{quote(key, safe='')}?alt=media", {}
        )
        assert status == 200, data
        return data

    def delete(self, key: str) -> None:
        """See `Cloud`."""
        self._asked("DELETE", f"/storage/v1/b/{BUCKET}/o/{quote(key, safe='')}", {})

    def keys(self, prefix: str = "") -> list[str]:
        """See `Cloud`."""
        query = f"prefix={quote(prefix, safe='')}"
        status, data = self._asked("GET", f"/storage/v1/b/{BUCKET}/o?{query}", {})
        assert status == 200, data
        return sorted(item["name"] for item in json.loads(data).get("items", ()))
