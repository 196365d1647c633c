"""A web server on 127.0.0.1 that tests fill with files, and that misbehaves as they ask.

with WebServer({"a/b.bin": b"..."}) as server:
    server.on("GET", Fault(status=503), Fault(drop_after=100))    # the first two GETs; later ones are good
    ...
    assert [request.method for request in server.requests] == ["HEAD", "GET", "GET", "GET"]

Servers with answers of their own derive from it and override `reply`.
"""

import hashlib
import re
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, unquote, urlsplit

from requests.structures import CaseInsensitiveDict

from tests.waiting import PATIENCE_S

_PIECE_BYTES = 4096


@dataclass(frozen=True)
class Fault:
    """How one answer differs from the right one.

    Attributes:
        status: Sent without the file.
        headers: Added or replaced; None removes.
        drop_after: The connection is closed after so many bytes of the body.
        body: Sent in place of the file's bytes.
        damage: Changes the bytes that are sent, in a file's first 2000 bytes; their number stays.
        whole: The whole file is sent, whatever range was asked for.
        careless: A range is sent, whatever version it was asked of.
        stall_after: The connection stays open but silent after so many bytes of the body, until the server ends.
        pause_s: Wait before each 4 KiB of the body.
    """

    status: int | None = None
    headers: Mapping[str, str | None] = field(default_factory=dict)
    drop_after: int | None = None
    stall_after: int | None = None
    body: bytes | None = None
    damage: bool = False
    whole: bool = False
    careless: bool = False
    pause_s: float = 0.0


@dataclass(frozen=True)
class Request:
    """What a client asked for.

    Attributes:
        target: Path and query as they came.
        path: Decoded, without the slash before it.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def path(self) -> str:
        return unquote(urlsplit(self.target).path).lstrip("/")

    @property
    def query(self) -> dict[str, str]:
        return {name: values[-1] for name, values in parse_qs(urlsplit(self.target).query).items()}


@dataclass(frozen=True)
class Reply:
    """The right answer.

    Attributes:
        ranges: Whether a part of the body may be asked for.
    """

    status: int = 200
    headers: Mapping[str, str | None] = field(default_factory=dict)
    body: bytes = b""
    ranges: bool = False


class WebServer:
    """Serves `files` (bytes by path) with ETag, Range and If-Range. Change `files` and `always` at any time.

    Attributes:
        coding: What bytes are compressed by, whatever was asked for, by path: name and function. The ETag gets a
            suffix, ranges are of the compressed bytes, as servers do that compress beforehand.
    """

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = dict(files)
        self.requests: list[Request] = []
        self.always: dict[str, Fault] = {}
        self.coding: dict[str, tuple[str, Callable[[bytes], bytes]]] = {}
        self.ended = threading.Event()
        self._queues: dict[str, deque[Fault]] = defaultdict(deque)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def reply(self, request: Request) -> Reply:
        """Return the right answer to a request."""
        data = self.files.get(request.path)
        if data is None:
            return Reply(404)
        if (coding := self.coding.get(request.path)) is not None:
            suffix = "-gzip" if "gzip" in coding[0].lower() else ""
            headers = {"ETag": f'{etag_of(data)[:-1]}{suffix}"', "Content-Encoding": coding[0]}
            return Reply(headers=headers, body=coding[1](data), ranges=True)
        return Reply(headers={"ETag": etag_of(data)}, body=data, ranges=True)

    def on(self, method: str, *faults: Fault) -> None:
        """Answer the next requests of a method with these faults, one each."""
        self._queues[method].extend(faults)

    def asked(self, method: str) -> list[Request]:
        """Return the requests of a method so far."""
        return [request for request in self.requests if request.method == method]

    def forget(self) -> None:
        """Forget requests and faults."""
        self.requests.clear()
        self.always.clear()
        self._queues.clear()

    def take(self, request: Request) -> Fault:
        """Note a request and return the fault that its answer shall have."""
        self.requests.append(request)
        queue = self._queues[request.method]
        return queue.popleft() if queue else self.always.get(request.method, Fault())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(PATIENCE_S)


def etag_of(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


def _damaged(body: bytes) -> bytes:
    return body[:1000] + bytes(255 - byte for byte in body[1000:2000]) + body[2000:]


def _part(reply: Reply, request: Request, careless: bool) -> Reply:
    """Return the part of a reply that was asked for, if one was, and only of this version."""
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
    versions = (None, reply.headers.get("ETag"), reply.headers.get("Last-Modified"))
    if wanted is None or (request.headers.get("If-Range") not in versions and not careless):
        return reply
    start, end = int(wanted[1]), min(int(wanted[2] or len(reply.body) - 1), len(reply.body) - 1)
    if start >= len(reply.body):
        return Reply(416, {"Content-Range": f"bytes */{len(reply.body)}"})
    headers = {**reply.headers, "Content-Range": f"bytes {start}-{end}/{len(reply.body)}"}
    return Reply(206, headers, reply.body[start : end + 1])


def _handler(server: WebServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            request = Request(self.command, self.path, CaseInsensitiveDict(self.headers), body)
            fault = server.take(request)
            reply = Reply(fault.status) if fault.status is not None else server.reply(request)
            data = reply.body if fault.body is None else fault.body
            headers = {**reply.headers, **fault.headers}
            ranges = reply.ranges and not fault.whole and fault.body is None
            reply = Reply(reply.status, headers, _damaged(data) if fault.damage else data)
            if ranges:
                reply = _part(reply, request, fault.careless)
            headers = {"Content-Length": str(len(reply.body)), **reply.headers, **fault.headers}
            self._send(reply.status, headers, b"" if self.command == "HEAD" else reply.body, fault)

        do_HEAD = do_GET
        do_POST = do_GET
        do_CONNECT = do_GET

        def log_message(self, *_: object) -> None:
            pass

        def _send(self, status: int, headers: Mapping[str, str | None], body: bytes, fault: Fault) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if value is not None:
                    self.send_header(name, value)
            try:
                self.end_headers()
                body = body[: fault.drop_after][: fault.stall_after]
                for start in range(0, len(body), _PIECE_BYTES):
                    time.sleep(fault.pause_s)
                    self.wfile.write(body[start : start + _PIECE_BYTES])
                if fault.stall_after is not None:
                    server.ended.wait(PATIENCE_S)
            except (BrokenPipeError, ConnectionResetError):  # the client has enough
                pass

    return Handler
