"""Servers on loopback that misbehave on request: before an S3 service, and of files.

`FaultyServer` answers requests in threads of this process and does to each what its `Trouble`
says. `S3Proxy` hands them on to another server, `WebServer` answers from a folder.
"""

from __future__ import annotations

import email.utils
import hashlib
import http.client
import mimetypes
import os
import re
import socket
import struct
import sys
import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

from stores.faults import Faults, Rule, Seen, Trouble

_PIECES = 20
_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "server", "date"}


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, read to its end."""

    method: str
    target: str
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def path(self) -> str:
        """The path without its query, as it came."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> dict[str, list[str]]:
        """Its parameters."""
        return parse_qs(urlsplit(self.target).query, keep_blank_values=True)


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back: `body` whole, or in pieces without a length."""

    status: int
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes | Iterable[bytes] = b""
    length: int | None = None  # of a HEAD's Content-Length, or one that lies


class FaultyServer:
    """A server of HTTP/1.1 on 127.0.0.1 in threads; a context manager.

    Args:
        port: where it listens; 0 for any that is free.
    """

    def __init__(self, port: int = 0) -> None:
        self.trouble = Trouble()
        self._open: set[socket.socket] = set()
        self._stopping = threading.Event()
        handler = type("Handler", (_Handler,), {"owner": self})
        if sys.platform == "linux":
            # Bound as long as this lives, so that nobody else is given its port once it is stopped:
            # another may begin there. Who listens may share it, where both say so.
            reserved = socket.socket()
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            reserved.bind(("127.0.0.1", port))
            port = reserved.getsockname()[1]
            weakref.finalize(self, reserved.close)
        self._server = _Threads(("127.0.0.1", port), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """`http://127.0.0.1:PORT`."""
        return f"http://127.0.0.1:{self.port}"

    def inject(self, faults: Faults) -> None:
        """From now on these faults."""
        self.trouble.faults = faults

    def rule(self, rule: Rule) -> None:
        """From now on also this."""
        self.trouble.rules.append(rule)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """End every connection and thread."""
        self._stopping.set()
        self._server.shutdown()
        self._thread.join()
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def kind(self, asked: Asked) -> str:
        """What the request is counted as."""
        return asked.method

    def answer(self, asked: Asked) -> Answer:
        """Do what is asked."""
        raise NotImplementedError

    def refusal(self, asked: Asked, rule: Rule) -> Answer:
        """The answer of an error."""
        del asked
        return Answer(rule.status or 503, [("Content-Type", "text/plain")], b"out of order\n")


class _Threads(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = True
    request_queue_size = 128

    def server_bind(self) -> None:
        """As of any server; HTTP's would ask a name server for the name of the address."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news."""


class _Handler(BaseHTTPRequestHandler):
    owner: FaultyServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server_version, sys_version = "Store", ""

    def setup(self) -> None:
        super().setup()
        self.owner._open.add(self.connection)

    def finish(self) -> None:
        self.owner._open.discard(self.connection)
        with suppress(OSError):
            super().finish()

    def log_message(self, *_: Any) -> None:
        """Nothing is logged: `Trouble.seen` has it."""

    def _serve(self) -> None:
        asked = Asked(self.command, self.path, self.headers, self._body())
        kind, key = self.owner.kind(asked), _access_key(asked)
        rule = self.owner.trouble.of(kind, asked.path, key)
        fault = rule.fault if rule is not None else ""
        answer = None
        if rule is not None and rule.fault in ("error", "expired"):
            answer = self.owner.refusal(asked, rule)
            if rule.retry_after_s is not None:
                answer.headers.append(("Retry-After", f"{rule.retry_after_s:g}"))
        elif fault not in ("hang", "reset"):
            answer = self.owner.answer(asked)
        # Before it is sent: whoever has read the answer may count at once.
        where, status = self.headers.get("Range", ""), answer.status if answer is not None else 0
        if fault == "lost":
            answer = None
        seen = Seen(kind, asked.path, where, status, fault, key, len(asked.body))
        self.owner.trouble.note(seen)
        if answer is not None:
            self._send(answer, rule)
            return
        if fault == "hang":
            self.owner._stopping.wait(self.owner.trouble.faults.hang_s)
            self.close_connection = True
        else:
            self._reset()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            return b"".join(self._chunks())
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass

    def _reset(self) -> None:
        """End the connection as a router that has lost it does."""
        linger = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
        with suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close_connection = True

    def _send(self, answer: Answer, rule: Rule | None) -> None:
        """Send it, as the rule has it."""
        self.send_response(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value)
        whole = answer.body if isinstance(answer.body, bytes) else None
        bare = self.command == "HEAD" or answer.status in (204, 304)
        if whole is None and answer.length is None and not bare:
            self.send_header("Transfer-Encoding", "chunked")
        elif answer.status != 204:
            length = answer.length if answer.length is not None else len(whole or b"")
            self.send_header("Content-Length", str(length))
        self.end_headers()
        if bare:
            return
        if whole is None:
            self._send_pieces(answer)
            return
        fault = rule.fault if rule is not None else ""
        if fault == "truncated" and whole:
            whole = whole[: len(whole) // 2]
            self.close_connection = True
        if answer.length is not None and answer.length != len(whole):
            self.close_connection = True
        if fault == "slow" and rule is not None:
            self._trickle(whole, rule.slow_s)
        else:
            self.wfile.write(whole)

    def _send_pieces(self, answer: Answer) -> None:
        for piece in answer.body:
            assert isinstance(piece, bytes)
            if self.owner._stopping.is_set():
                self.close_connection = True
                return
            chunked = b"%x\r\n%s\r\n" % (len(piece), piece)
            self.wfile.write(chunked if answer.length is None else piece)
        if answer.length is None:
            self.wfile.write(b"0\r\n\r\n")

    def _trickle(self, body: bytes, duration_s: float) -> None:
        step = max(1, -(-len(body) // _PIECES))
        for start in range(0, len(body), step):
            if start and self.owner._stopping.wait(duration_s / _PIECES):
                self.close_connection = True
                return
            self.wfile.write(body[start : start + step])


def _access_key(asked: Asked) -> str:
    found = re.search(r"Credential=([^/]+)/", asked.headers.get("Authorization", ""))
    return found[1] if found else ""


class S3Proxy(FaultyServer):
    """Hands requests of S3 (and STS) on to another server, with the Host that it was asked by."""

    def __init__(self, upstream_port: int, port: int = 0) -> None:
        super().__init__(port)
        self._upstream_port = upstream_port

    def kind(self, asked: Asked) -> str:
        """LIST, COPY, PART, CREATE_UPLOAD, COMPLETE_UPLOAD, ABORT_UPLOAD, STS, or the method."""
        query, method = asked.query, asked.method
        if "/sts/aws4_request" in asked.headers.get("Authorization", ""):
            return "STS"
        in_bucket = "/" in asked.path.strip("/")
        if "uploads" in query:
            return "LIST_UPLOADS" if method == "GET" else "CREATE_UPLOAD"
        if "uploadId" in query:
            names = {"PUT": "PART", "POST": "COMPLETE_UPLOAD", "DELETE": "ABORT_UPLOAD"}
            return names.get(method, "LIST_PARTS")
        if method == "POST" and "delete" in query:
            return "DELETE"
        if method == "PUT" and "x-amz-copy-source" in asked.headers:
            return "COPY"
        if method == "GET" and not in_bucket:
            return "LIST"
        return method if in_bucket else f"{method}_BUCKET"

    def answer(self, asked: Asked) -> Answer:
        """Ask the other server."""
        upstream = http.client.HTTPConnection("127.0.0.1", self._upstream_port, timeout=60)
        try:
            upstream.putrequest(
                asked.method, asked.target, skip_host=True, skip_accept_encoding=True
            )
            for name, value in asked.headers.items():
                if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                    upstream.putheader(name, value)
            upstream.putheader("Content-Length", str(len(asked.body)))
            upstream.putheader("Connection", "close")
            upstream.endheaders(asked.body)
            got = upstream.getresponse()
            body = got.read()
            length = got.getheader("Content-Length") if asked.method == "HEAD" else None
            headers = [(n, v) for n, v in got.getheaders() if n.lower() not in _HOP]
            return Answer(got.status, headers, body, int(length) if length else None)
        finally:
            upstream.close()

    def refusal(self, asked: Asked, rule: Rule) -> Answer:
        """As S3 says it."""
        status = rule.status or (500 if len(asked.path) % 2 else 503)
        codes = {500: "InternalError", 503: "SlowDown", 403: "AccessDenied", 404: "NoSuchKey"}
        code = (
            "ExpiredToken" if rule.fault == "expired" else rule.code or codes.get(status, "Error")
        )
        text = f"<Error><Code>{code}</Code><Message>Injected.</Message></Error>"
        if self.kind(asked) == "STS":
            text = f"<ErrorResponse>{text}</ErrorResponse>"
        return Answer(status, [("Content-Type", "application/xml")], text.encode())


@dataclass(slots=True)
class Redirect:
    """Where a path leads."""

    to: str
    status: int = 302


class WebServer(FaultyServer):
    """Serves the files of a folder.

    Attributes:
        ranges, etags, dates, lengths: whether it does Range, ETag, Last-Modified, Content-Length.
        redirects: by path.
        answers: fixed answers by path, before any file: what a strange server says.
        private: paths that want this Authorization.
    """

    def __init__(self, folder: Path, port: int = 0) -> None:
        super().__init__(port)
        self.folder = folder
        self.ranges = self.etags = self.dates = self.lengths = True
        self.redirects: dict[str, Redirect] = {}
        self.answers: dict[str, Answer] = {}
        self.private: dict[str, str] = {}

    def kind(self, asked: Asked) -> str:
        """The method."""
        return asked.method

    def answer(self, asked: Asked) -> Answer:
        """The file, a part of it, a redirect, or 404."""
        path = asked.path
        if path in self.private and asked.headers.get("Authorization") != self.private[path]:
            return Answer(401, [("WWW-Authenticate", "Basic")])
        if redirect := self.redirects.get(path):
            return Answer(redirect.status, [("Location", redirect.to)])
        if fixed := self.answers.get(path):
            return fixed
        file = self.folder / unquote(path).lstrip("/")
        if not file.is_file() or not file.resolve().is_relative_to(self.folder.resolve()):
            return Answer(404, [], b"not found\n")
        if asked.method not in ("GET", "HEAD"):
            return Answer(405)
        return self._file(file, asked)

    def _file(self, file: Path, asked: Asked) -> Answer:
        data = file.read_bytes()
        kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        headers = [("Content-Type", kind)]
        etag = f'"{hashlib.md5(data).hexdigest()}"'
        date = email.utils.formatdate(file.stat().st_mtime, usegmt=True)
        if self.etags:
            headers.append(("ETag", etag))
        if self.dates:
            headers.append(("Last-Modified", date))
        if self.ranges:
            headers.append(("Accept-Ranges", "bytes"))
        if not self.lengths:
            return Answer(200, headers, iter([data]))
        if asked.method == "HEAD":
            return Answer(200, headers, length=len(data))
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", asked.headers.get("Range", ""))
        same = asked.headers.get("If-Range", etag) in (etag if self.etags else date, date)
        if not (self.ranges and wanted and same):
            return Answer(200, headers, data)
        first = int(wanted[1])
        last = min(int(wanted[2] or len(data) - 1), len(data) - 1)
        if first >= len(data):
            return Answer(416, [*headers, ("Content-Range", f"bytes */{len(data)}")])
        headers.append(("Content-Range", f"bytes {first}-{last}/{len(data)}"))
        return Answer(206, headers, data[first : last + 1])


def endless(piece: bytes = b"\0" * 65536, pause_s: float = 0.0) -> Iterator[bytes]:
    """A body that never ends."""
    while True:
        yield piece
        time.sleep(pause_s)
