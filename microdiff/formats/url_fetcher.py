"""Fetch pictures with img2dataset's downloader.

    python -m microdiff.formats.url_fetcher FOLDER TIMEOUT_S RETRIES [allow_private_addresses]

In a process of its own, because img2dataset prints, costs seconds to import, and must end with whoever asked. Around
the downloader are neither img2dataset's pool of processes, which a worker must not start, nor its resizing: pictures
stay as they are and are reduced once, later. It honours `X-Robots-Tag`, names itself, follows redirects, and reads
whole answers into memory; an opener put under it bounds their time and size, refuses all but HTTP, decompresses what
servers compressed unasked, and connects to public addresses alone, whatever a name or a redirect leads to: the address
that is checked is the one that is connected to. Behind a proxy, names are looked up by the proxy: there only addresses
written as such, and names that are never public, are refused here.
"""

import http.client
import io
import os
import socket
import ssl
import sys
import threading
import time
import urllib.error
import urllib.request
import urllib.response
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from microdiff.errors import SourceError
from microdiff.formats.public_address import may_be_public
from microdiff.formats.public_connection import ALLOW_PRIVATE, PrivateAddress, connect_to_public
from microdiff.formats.request_url import request_url
from microdiff.storage.codings import codings_of, decoded

REQUEST = "urls.arrow"
_MAX_ANSWER_BYTES = 64 * 2**20
_CHUNK_BYTES = 2**18
_ANSWER_TIMEOUTS = 6  # a whole answer may take so many times the timeout of a socket, which starts anew with every byte
_THREADS = 64
_DISALLOWED = ["noai", "noimageai", "noindex", "noimageindex"]  # img2dataset's own default


def fetch(folder: Path, timeout_s: float, retries: int, allow_private: bool = False) -> bool:
    """Fetch the URLs of `folder/REQUEST`, an Arrow file with a column `url`, and tell whether that was possible.

    What came of them is then in `folder/00000.parquet`: `key` (their place in the column), `status`, `error_message`.
    The pictures are `folder/00000/<key>.jpg`, whatever they are.
    """
    # webdataset, which img2dataset imports, takes torch where it can: seconds and hundreds of megabytes, for nothing.
    sys.modules["torch"] = None  # type: ignore[assignment]
    from img2dataset.downloader import Downloader  # type: ignore[import-untyped]
    from img2dataset.resizer import Resizer  # type: ignore[import-untyped]
    from img2dataset.writer import FilesSampleWriter  # type: ignore[import-untyped]

    urllib.request.install_opener(make_opener(allow_private))
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


def make_opener(allow_private: bool = False) -> urllib.request.OpenerDirector:
    """Return an opener for HTTP and HTTPS alone, redirects included, whose answers are bounded in time and size.

    Args:
        allow_private: Whether to fetch from addresses that are not of the public internet.
    """
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        _Http(allow_private),
        _Https(allow_private),
        _Decompression(),
        urllib.request.HTTPDefaultErrorHandler(),
        _Redirection(),
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


class _PublicConnection(_Connection):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._create_connection = connect_to_public


class _SecurePublicConnection(_SecureConnection):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._create_connection = connect_to_public


class _Http(urllib.request.HTTPHandler):
    def __init__(self, allow_private: bool) -> None:
        super().__init__()
        self._allow_private = allow_private

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        if self._allow_private:
            return self.do_open(_Connection, request)
        if request.has_proxy():
            return _by_proxy(request, partial(self.do_open, _Connection))
        return self.do_open(_PublicConnection, request)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, allow_private: bool) -> None:
        super().__init__()
        self._allow_private = allow_private
        self._tls = ssl.create_default_context()  # reads all certificates: once, not for each URL

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        if self._allow_private:
            return self.do_open(_SecureConnection, request, context=self._tls)
        if getattr(request, "_tunnel_host", None) or request.has_proxy():
            return _by_proxy(request, partial(self.do_open, _SecureConnection, context=self._tls))
        return self.do_open(_SecurePublicConnection, request, context=self._tls)


def _by_proxy(request: urllib.request.Request, send: Any) -> http.client.HTTPResponse:
    """Send a request by a proxy, which looks the host up itself.

    Raises:
        PrivateAddress: The host is none of the public internet, whoever looks it up.
        URLError: The proxy cannot be reached, or refuses.
    """
    host = urlsplit(request.full_url).hostname or ""
    if not may_be_public(host):
        raise PrivateAddress(host, "")
    try:
        answer: http.client.HTTPResponse = send(request)
    except urllib.error.URLError as error:
        raise urllib.error.URLError(f"{BY_PROXY}: {error.reason}") from None
    if answer.status == 407:
        raise urllib.error.URLError(f"{BY_PROXY}: HTTP 407 {answer.reason}")
    return answer


BY_PROXY = "the proxy does not let it through"


class _Redirection(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme in ("http", "https"):
            newurl = request_url(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Decompression(urllib.request.BaseHandler):
    """Decompresses answers, before what leads elsewhere is looked at, or an answer would come by here twice."""

    handler_order = 900

    def http_response(self, request: urllib.request.Request, answer: Any) -> Any:
        coding = answer.headers.get("Content-Encoding", "")
        if not coding or not 200 <= answer.status < 300:
            return answer
        try:
            chunks, _ = decoded(_chunks(answer), codings_of(coding), "")
            data = b"".join(_bounded(chunks))
        except (ValueError, SourceError) as error:
            raise urllib.error.URLError(f"compressed: {error}") from None
        finally:
            answer.close()
        del answer.headers["Content-Encoding"]
        plain = urllib.response.addinfourl(io.BytesIO(data), answer.headers, answer.url, answer.status)
        plain.msg = answer.reason  # type: ignore[attr-defined]
        return plain

    https_response = http_response


def _chunks(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    while chunk := answer.read(_CHUNK_BYTES):
        yield chunk


def _bounded(chunks: Iterator[bytes]) -> Iterator[bytes]:
    left = _MAX_ANSWER_BYTES
    for chunk in chunks:
        left -= len(chunk)
        if left < 0:
            raise OSError(f"the answer has more than {_MAX_ANSWER_BYTES} bytes")
        yield chunk


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    allow = sys.argv[4:] == [ALLOW_PRIVATE]
    sys.exit(0 if fetch(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), allow) else 1)
