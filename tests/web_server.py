"""A web server on 127.0.0.1 that tests fill with files, and that misbehaves as they ask.

with WebServer({"a/b.bin": b"..."}) as server:
    server.on("GET", Fault(status=503), Fault(drop_after=100))    # the first two GETs; later ones are good
    ...
    assert [request.method for request in server.requests] == ["HEAD", "GET", "GET", "GET"]
"""

import hashlib
import re
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import unquote, urlsplit

_PIECE_BYTES = 4096


@dataclass(frozen=True)
class Fault:
    """How one answer differs from the right one.

    Attributes:
        status: Sent without the file.
        headers: Added or replaced; None removes.
        drop_after: The connection is closed after so many bytes of the body.
        body: Sent in place of the file's bytes.
        whole: The whole file is sent, whatever range was asked for.
        pause_s: Wait before each 4 KiB of the body.
    """

    status: int | None = None
    headers: Mapping[str, str | None] = field(default_factory=dict)
    drop_after: int | None = None
    body: bytes | None = None
    whole: bool = False
    pause_s: float = 0.0


@dataclass(frozen=True)
class Request:
    """What a client asked for."""

    method: str
    path: str
    headers: Mapping[str, str]


class WebServer:
    """Serves `files` (bytes by path) with ETag, Range and If-Range. Change `files` and `always` at any time."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = dict(files)
        self.requests: list[Request] = []
        self.always: dict[str, Fault] = {}
        self._queues: dict[str, deque[Fault]] = {"GET": deque(), "HEAD": deque()}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def on(self, method: str, *faults: Fault) -> None:
        """Answer the next requests of a method with these faults, one each."""
        self._queues[method].extend(faults)

    def asked(self, method: str) -> list[Request]:
        """Return the requests of a method so far."""
        return [request for request in self.requests if request.method == method]

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
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def etag_of(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


def _handler(server: WebServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def log_message(self, *_: object) -> None:
            pass

        def _answer(self, *, with_body: bool) -> None:
            path = unquote(urlsplit(self.path).path).lstrip("/")
            fault = server.take(Request(self.command, path, dict(self.headers)))
            data = server.files.get(path)
            if fault.status is not None or data is None:
                self._send(fault.status or 404, {"Content-Length": "0", **fault.headers}, b"", fault)
                return
            status, headers, body = self._whole_or_range(data, fault)
            if fault.body is not None:
                body = fault.body
            headers = {"Content-Length": str(len(body)), **headers, **fault.headers}
            self._send(status, headers, body if with_body else b"", fault)

        def _whole_or_range(self, data: bytes, fault: Fault) -> tuple[int, dict[str, str | None], bytes]:
            headers: dict[str, str | None] = {"ETag": etag_of(data), "Accept-Ranges": "bytes"}
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            if wanted is None or fault.whole or self.headers.get("If-Range", headers["ETag"]) != headers["ETag"]:
                return 200, headers, data
            start = int(wanted[1])
            return 206, headers | {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}, data[start:]

        def _send(self, status: int, headers: Mapping[str, str | None], body: bytes, fault: Fault) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if value is not None:
                    self.send_header(name, value)
            self.end_headers()
            body = body[: fault.drop_after]
            for start in range(0, len(body), _PIECE_BYTES):
                time.sleep(fault.pause_s)
                try:
                    self.wfile.write(body[start : start + _PIECE_BYTES])
                except (BrokenPipeError, ConnectionResetError):  # the client has enough
                    return

    return Handler
