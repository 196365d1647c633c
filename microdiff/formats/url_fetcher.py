"""Fetch pictures with img2dataset's downloader: `python -m microdiff.formats.url_fetcher FOLDER TIMEOUT_S RETRIES`.

In a process of its own, because img2dataset prints, costs seconds to import, and must end with whoever asked. Around
the downloader are neither img2dataset's pool of processes, which a worker must not start, nor its resizing: pictures
stay as they are and are reduced once, later. It honours `X-Robots-Tag`, names itself, follows redirects, and reads
whole answers into memory; an opener put under it bounds their time and size, and refuses all but HTTP.
"""

import http.client
import io
import os
import socket
import ssl
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

REQUEST = "urls.arrow"
_MAX_ANSWER_BYTES = 64 * 2**20
_ANSWER_TIMEOUTS = 6  # a whole answer may take so many times the timeout of a socket, which starts anew with every byte
_THREADS = 64
_DISALLOWED = ["noai", "noimageai", "noindex", "noimageindex"]  # img2dataset's own default


def fetch(folder: Path, timeout_s: float, retries: int) -> bool:
    """Fetch the URLs of `folder/REQUEST`, an Arrow file with a column `url`, and tell whether that was possible.

    What came of them is then in `folder/00000.parquet`: `key` (their place in the column), `status`, `error_message`.
    The pictures are `folder/00000/<key>.jpg`, whatever they are.
    """
    # webdataset, which img2dataset imports, takes torch where it can: seconds and hundreds of megabytes, for nothing.
    sys.modules["torch"] = None  # type: ignore[assignment]
    from img2dataset.downloader import Downloader  # type: ignore[import-untyped]
    from img2dataset.resizer import Resizer  # type: ignore[import-untyped]
    from img2dataset.writer import FilesSampleWriter  # type: ignore[import-untyped]

    urllib.request.install_opener(make_opener())
    downloader = Downloader(
        sample_writer_class=FilesSampleWriter,
        resizer=Resizer(image_size=0, resize_mode="no", resize_only_if_bigger=False, disable_all_reencoding=True),
        thread_count=_THREADS,
        save_caption=False,
        extract_exif=False,
        output_folder=str(folder),
        column_list=["url"],
        timeout=timeout_s,
        number_sample_per_shard=10**9,
        oom_shard_count=5,
        compute_hash=None,
        verify_hash_type=None,
        encode_format="jpg",
        retries=retries,
        user_agent_token="img2dataset",  # noqa: S106 - a name
        disallowed_header_directives=_DISALLOWED,
    )
    done, _ = downloader((0, str(folder / REQUEST)))
    return bool(done)


def _end_with_parent() -> None:
    """Wait for the end of standard input, which is the parent's, however it came, and end at once."""
    while os.read(0, 1):
        pass
    os._exit(1)


def make_opener() -> urllib.request.OpenerDirector:
    """Return an opener for HTTP and HTTPS alone, redirects included, whose answers are bounded in time and size."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        _Http(),
        _Https(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


class _Bounded(io.RawIOBase):
    def __init__(self, raw: io.RawIOBase, seconds: float) -> None:
        self._raw = raw
        self._seconds = seconds
        self._end = time.monotonic() + seconds
        self._left = _MAX_ANSWER_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if time.monotonic() > self._end:
            raise TimeoutError(f"the answer took more than {self._seconds:g} s")
        count: int | None = self._raw.readinto(buffer)
        self._left -= count or 0
        if self._left < 0:
            raise OSError(f"the answer has more than {_MAX_ANSWER_BYTES} bytes")
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Answer(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        bounded = _Bounded(self.fp.detach(), _ANSWER_TIMEOUTS * (sock.gettimeout() or 0.0))
        self.fp = io.BufferedReader(bounded)


class _Connection(http.client.HTTPConnection):
    response_class = _Answer


class _SecureConnection(http.client.HTTPSConnection):
    response_class = _Answer


class _Http(urllib.request.HTTPHandler):
    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Connection, request)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self) -> None:
        super().__init__()
        self._tls = ssl.create_default_context()  # reads all certificates: once, not for each URL

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_SecureConnection, request, context=self._tls)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.exit(0 if fetch(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])) else 1)
