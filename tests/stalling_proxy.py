"""A TCP proxy on 127.0.0.1 that forwards so many bytes to a server, and then no more: a network at its worst moment."""

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

_PIECE_BYTES = 2**16


class StallingProxy:
    """Forwards connections to the server at a URL; `stalled` is set once `limit` bytes have been forwarded to it."""

    def __init__(self, url: str, limit: int) -> None:
        parts = urlsplit(url)
        self.stalled = threading.Event()
        self._server = (str(parts.hostname), int(parts.port or 80))
        self._left = limit
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each in (self._listener, *self._sockets):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                self._sockets += [client, server]
                threading.Thread(target=self._forward, args=(client, server, True), daemon=True).start()
                threading.Thread(target=self._forward, args=(server, client, False), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        with suppress(OSError):
            while data := source.recv(_PIECE_BYTES):
                if counted:
                    with self._lock:
                        self._left -= len(data)
                    if self._left < 0:
                        self.stalled.set()
                        return
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
