"""Files on web servers, and what all kinds of storage have in common that are read over HTTP.

Credentials go only where they belong: each kind says which for which URL, a redirect to another origin drops them, and
those in ~/.netrc are never used. No message holds a URL, whose path or query may be a signature; it holds the storage's
name and the file's path.
"""

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Self, TypeVar
from urllib.parse import unquote, urlsplit

import requests
import urllib3
from requests.auth import AuthBase, HTTPBasicAuth

from microdiff.errors import SourceError
from microdiff.storage import Body, CannotResume, NotFound, Storage, TryAgain, failures, response_headers
from microdiff.storage.codings import BadCoding, UnknownCoding, codings_of, decoded, is_own_coding
from microdiff.storage.retry import retried
from microdiff.storage.urls import same_origin
from microdiff.storage.versions import FileVersion, same_etag

TIMEOUT_S = 60.0  # without a byte
_CHUNK_BYTES = 2**18
_BUSY = (408, 425, 429)
_HOPELESS = (
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidSchema,
    requests.exceptions.MissingSchema,
    requests.exceptions.InvalidHeader,
    requests.exceptions.TooManyRedirects,
)

T = TypeVar("T")

logging.getLogger("urllib3").setLevel(logging.ERROR)  # what it says below that holds URLs, with their signatures


class NoCredentials(AuthBase):
    """Send no credentials. Without an explicit auth, requests would take them from ~/.netrc."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Return the request as it is."""
        return request


@dataclass(frozen=True, kw_only=True)
class HttpStorage(Storage):
    """A storage read over HTTP. Subclasses say where a file is, with which credentials, and what a refusal means.

    Attributes:
        decodes: Whether what a server compressed for the way, unasked, is decompressed.
        skips_caches: Whether files are read past the caches of proxies, which may hold damaged ones.
    """

    decodes: bool = field(default=True, compare=False)
    skips_caches: bool = field(default=False, compare=False)

    @abstractmethod
    def url(self, path: str) -> str:
        """Return where a file is.

        Raises:
            SourceError: It is nowhere.
        """

    def auth(self, url: str) -> AuthBase:
        """Return the credentials for a URL: by default, the user and password in it."""
        parts = urlsplit(url)
        return basic_auth(unquote(parts.username or ""), unquote(parts.password or ""))

    def known(self, path: str) -> FileVersion | None:
        """Return which version of a file was described, if that is remembered."""
        return None

    def as_sent(self) -> Self:
        """Return this storage, giving bytes as they are sent."""
        return replace(self, decodes=False)

    def past_caches(self) -> Self:
        """Return this storage, reading past the caches of proxies."""
        return replace(self, skips_caches=True)

    def refusal(self, answer: requests.Response, where: str) -> SourceError:
        """Return the error that an answer means which says no, with what to do about it."""
        status = answer.status_code
        if status == 407:
            return SourceError(f"{where}: {failures.ProxyRefuses(status)}")
        if status in (404, 410):
            return NotFound(f"{where}: no such file (HTTP {status}). Check {self.setting}.")
        remedy = ", and the user and password in it" if status in (401, 403) else ""
        return SourceError(f"{where}: HTTP {status} {answer.reason}. Check {self.setting}{remedy}.")

    def is_transient(self, answer: requests.Response) -> bool:
        """Tell whether asking again may help."""
        return answer.status_code in _BUSY or answer.status_code >= 500

    @contextmanager
    def answer(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        url: str | None = None,
        expected: Sequence[int] = (200, 206),
    ) -> Iterator[requests.Response]:
        """Send one request and give the answer, whose body has not been received yet.

        Args:
            method: HTTP method.
            path: The file asked for, for messages.
            headers: Besides those that every request has.
            url: Where to ask, if not at the file's own URL.
            expected: Statuses that are no error.

        Raises:
            TryAgain: The server is busy or unreachable, or breaks off.
            CannotResume: It has no such range.
            SourceError: It refuses.
        """
        where = "/".join(filter(None, (self.name, path)))
        sent = {"Accept-Encoding": "identity", "User-Agent": "microdiff", **(headers or {})}
        address = url or self.url(path)
        auth = self.auth(address)
        try:
            with (
                OriginSession() as session,
                _sent(session, method, address, headers=sent, auth=auth) as answer,
            ):
                if answer.status_code not in expected:
                    raise self._error(answer, where, address)
                yield answer
        except requests.RequestException as error:  # its text holds the URL
            if isinstance(error, requests.exceptions.InvalidProxyURL):
                raise SourceError(f"{where}: the proxy's address is no URL. Check http_proxy, https_proxy.") from None
            if isinstance(error, _HOPELESS):
                raise SourceError(f"{where}: {type(error).__name__}. Check {self.setting}.") from None
            try:
                problem = failures.reason(error, urlsplit(address).hostname)
            except failures.ProxyRefuses as refusal:
                raise SourceError(f"{where}: {refusal}") from None
            raise problem from None

    def ask(self, method: str, path: str, read: Callable[[requests.Response], T], **options: Any) -> T:
        """Send a request, repeating it while the server is busy, and return what `read` makes of the answer.

        Args:
            method: HTTP method.
            path: The file asked for, for messages.
            read: Reads the answer.
            options: As for `answer`.

        Raises:
            SourceError: The server refuses, or stays unreachable.
        """

        def request() -> T:
            with self.answer(method, path, **options) as answer:
                return read(answer)

        return retried(self, path, request)

    @contextmanager
    def read(self, path: str, start: int = 0, version: str = "") -> Iterator[Body]:
        """Open a file.

        Raises:
            SourceError: Also where it is compressed in a way that is not read here.
        """
        headers = {"Cache-Control": "no-cache"} if self.skips_caches else {}
        if start:
            headers["Range"] = f"bytes={start}-"
        if start and version and not version.startswith("W/"):
            headers["If-Range"] = version
        with ExitStack() as stack:
            answer = stack.enter_context(self.answer("GET", path, headers=headers))
            name = self._version_name(path, version, answer)
            if "If-Range" in headers and answer.status_code == 200 and name == version != _version(answer).name:
                # A server beside the one that named this version: it has the same bytes, and does not know the name.
                stack.close()
                del headers["If-Range"]
                answer = stack.enter_context(self.answer("GET", path, headers=headers))
                name = self._version_name(path, version, answer)
            is_part, size = answer.status_code == 206, response_headers.stated_size(answer)
            if is_part and response_headers.starts_at(answer) != start:
                raise CannotResume(f"the server sent another range than bytes {start}-")
            chunks, is_decoded = self._decoded(answer, path)
            if is_decoded and is_part:
                raise CannotResume("the server compresses what it sends, and cannot continue")
            yield Body(start if is_part else 0, size, name, chunks, is_decoded)

    def _version_name(self, path: str, wanted: str, answer: requests.Response) -> str:
        """Return what an answer's version is called: as the one wanted or described, if it is the same."""
        found, known = _version(answer), self.known(path)
        if wanted and found.etag and same_etag(found.etag, wanted):
            return wanted
        return known.name if known is not None and known.is_same(found) else found.name

    def _decoded(self, answer: requests.Response, path: str) -> tuple[Iterator[bytes], bool]:
        """Return an answer's bytes without what was done to them for the way, and whether that was anything."""
        chunks = _chunks(answer.raw)
        if not self.decodes:
            return chunks, False
        try:
            codings = codings_of(answer.headers.get("Content-Encoding", ""))
        except UnknownCoding as error:
            raise SourceError(f"{self.name}/{path}: {error}. Check {self.setting}.") from None
        if not codings:
            return chunks, False
        if answer.status_code == 206 and response_headers.starts_at(answer):
            return chunks, not is_own_coding(path)  # from the middle nothing can be told
        try:
            chunks, is_any = decoded(chunks, codings, path)
        except BadCoding as error:
            raise TryAgain(f"what the server compressed is damaged ({error})") from None
        return _undamaged(chunks), is_any

    def _error(self, answer: requests.Response, where: str, asked: str) -> SourceError:
        if answer.status_code == 416:
            return CannotResume("the server has nothing from there on")
        if self.is_transient(answer):
            return TryAgain(response_headers.status(answer, asked), response_headers.wait_asked_for(answer))
        return self.refusal(answer, where)


class OriginSession(requests.Session):
    """Requests whose credentials stay with the origin they were given for."""

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        """Drop the credentials from a request that a redirect sends elsewhere."""
        if not same_origin(str(response.request.url), str(prepared_request.url)):
            prepared_request.headers.pop("Authorization", None)


@contextmanager
def _sent(session: requests.Session, method: str, address: str, **options: Any) -> Iterator[requests.Response]:
    """Send a request, redirects included; one to what is no URL is an error like others."""
    try:
        answer = session.request(method, address, stream=True, timeout=TIMEOUT_S, **options)
    except requests.RequestException:
        raise
    except ValueError:  # of urllib3 and urllib, from parts of a URL
        raise requests.exceptions.InvalidURL from None
    with answer:
        yield answer


def basic_auth(user: str, password: str) -> AuthBase:
    """Return a user and password as credentials, none if there is no user."""
    return HTTPBasicAuth(user.encode(), password.encode()) if user else NoCredentials()


def _version(answer: requests.Response) -> FileVersion:
    return response_headers.version(answer)


def _undamaged(chunks: Iterator[bytes]) -> Iterator[bytes]:
    try:
        yield from chunks
    except BadCoding as error:
        raise TryAgain(f"what the server compressed is damaged ({error})") from None


def _chunks(body: Any) -> Iterator[bytes]:
    """Yield a body as it comes."""
    try:
        # read1 hands over what has come even if the connection then breaks; read would drop up to a chunk.
        while chunk := body.read1(_CHUNK_BYTES, decode_content=False):
            yield chunk
    except urllib3.exceptions.HTTPError as error:
        raise TryAgain(f"the connection broke ({type(error).__name__})") from None
