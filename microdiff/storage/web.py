"""A source that is a web server."""

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit

import requests
from requests.structures import CaseInsensitiveDict

from microdiff.errors import SourceError
from microdiff.storage import SourceFile, response_headers
from microdiff.storage.http import HttpSource
from microdiff.storage.urls import without_secrets

_DIGEST_BYTES = {"sha256": 32, "md5": 16}


@dataclass(frozen=True, kw_only=True)
class WebSource(HttpSource):
    """A root on a web server.

    Attributes:
        root: Its URL. A user and password in it are sent to its server alone; a query (a signature, say) goes with
            every request.
    """

    root: str = field(repr=False)

    @property
    def name(self) -> str:
        """The root without user, password and query."""
        return without_secrets(self.root)

    def url(self, path: str) -> str:
        """Return where a file is."""
        root = urlsplit(self.root)
        return root._replace(path=f"{root.path.rstrip('/')}/{quote(path)}").geturl()

    def list(self, folder: str) -> Sequence[str]:
        """Refuse: web servers do not list.

        Raises:
            SourceError: Always.
        """
        raise SourceError(
            f"{self.name}/{folder}: the files on a plain web server cannot be listed. "
            "Use a source that can: hf://, s3://, a list of links, or a local folder."
        )

    def stat(self, path: str, checksum: str | None = None) -> SourceFile:
        """Describe a file by what the server's headers say: a checksum if there is one, else the ETag."""
        size, etag, published = self.ask("HEAD", path, _facts)
        identity = checksum or published or (f"etag:{etag}" if etag else None)
        if size is None:
            raise SourceError(f"{self.name}/{path}: the server does not state the file's size")
        if identity is None:
            raise SourceError(
                f"{self.name}/{path}: the server states no ETag, so its bytes cannot be identified. "
                "Give their checksum in datasets.*.download.sha256."
            )
        return SourceFile(path, size, identity)


def _facts(answer: requests.Response) -> tuple[int | None, str, str | None]:
    return response_headers.stated_size(answer), answer.headers.get("ETag", ""), _published_checksum(answer.headers)


def _published_checksum(headers: CaseInsensitiveDict[str]) -> str | None:
    """Return a checksum of the whole file that servers publish: Google's hashes, Digest (RFC 3230) or Content-MD5."""
    for name, pattern, kind in (
        ("Repr-Digest", r"\bsha-256=:([\w+/=]+):", "sha256"),
        ("Digest", r"\bsha-256=([\w+/=]+)", "sha256"),
        ("x-goog-hash", r"\bmd5=([\w+/=]+)", "md5"),
        ("Content-MD5", r"^([\w+/=]+)$", "md5"),
    ):
        found = re.search(pattern, headers.get(name, ""), re.IGNORECASE)
        if found is None:
            continue
        try:
            digest = base64.b64decode(found[1], validate=True)
        except binascii.Error:
            continue
        if len(digest) == _DIGEST_BYTES[kind]:  # some servers send hexadecimal digits, which decode too
            return f"{kind}:{digest.hex()}"
    return None
