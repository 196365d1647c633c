"""Files on web servers: described by what their headers say, which not every server says of every request."""

import base64
import binascii
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit

import requests
from requests.auth import AuthBase

from microdiff.core.files import digest_json, read_json, write_json
from microdiff.errors import SourceError
from microdiff.storage import SourceFile, response_headers
from microdiff.storage.http import HttpStorage, basic_auth
from microdiff.storage.urls import without_secrets
from microdiff.storage.versions import FileVersion

_DIGEST_BYTES = {"sha256": 32, "md5": 16}
_NO_HEAD = (204, 400, 403, 405, 406, 500, 501)  # what servers say that answer GET alone
_FIRST_BYTE = {"Range": "bytes=0-0"}


class _Facts(NamedTuple):
    """What a server's headers say of a file: its size, version, and checksum; no part of it need be stated."""

    num_bytes: int | None
    version: FileVersion
    checksum: str | None
    is_coded: bool


@dataclass(frozen=True, kw_only=True)
class WebStorage(HttpStorage):
    """A root on a web server.

    Attributes:
        root: Its URL. A user and password in it are sent to its server alone; a query (a signature, say) goes with
            every request.
        user: Instead of the one in the URL, if given.
        password: Likewise.
        listings: Remembers how files were described, None for not at all.
    """

    root: str = field(repr=False)
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    listings: Path | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        """The root without user, password and query."""
        return without_secrets(self.root)

    def url(self, path: str) -> str:
        """Return where a file is."""
        root = urlsplit(self.root)
        return root._replace(path=f"{root.path.rstrip('/')}/{quote(path)}").geturl()

    def auth(self, url: str) -> AuthBase:
        """Return the credentials for a URL: the user and password given, or else those in it."""
        parts = urlsplit(url)
        return basic_auth(self.user or unquote(parts.username or ""), self.password or unquote(parts.password or ""))

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
        """Describe a file by what the server's headers say: a checksum if there is one, else the ETag.

        Headers of HEAD are asked for first, and those of GET if that is refused or says too little. What another
        server behind the same address calls the version that was described before is called as it was then.
        """
        facts = None
        if not self._distrusted(path).is_file():
            facts = self.ask("HEAD", path, _facts, expected=(200, *_NO_HEAD))
        # The size of a compressed answer, which the version lacks, is not the file's.
        if facts is None or not facts.version.num_bytes or not (checksum or facts.checksum or facts.version.etag):
            by_get = self.ask("GET", path, _facts, headers=_FIRST_BYTE, expected=(200, 206, 416))
            is_empty = facts is not None and by_get is not None and facts.num_bytes == by_get.num_bytes == 0
            facts = facts if is_empty else by_get  # of an empty file, the answer to GET is an error
        if facts is None or facts.num_bytes is None:
            why = "" if facts is None or not facts.is_coded else ", which it compresses as it sends it"
            raise SourceError(
                f"{self.name}/{path}: the server does not state the file's size{why}.\n"
                f"Fetch it by other means, and give the folder that has it in {self.setting}."
            )
        etag = self._remembered(path, facts.version).etag
        identity = checksum or facts.checksum or (f"etag:{etag}" if etag else None)
        if identity is None:
            raise SourceError(
                f"{self.name}/{path}: the server states no ETag, so its bytes cannot be identified. "
                "Give their checksum in datasets.*.download.sha256."
            )
        return SourceFile(path, facts.num_bytes, identity)

    def known(self, path: str) -> FileVersion | None:
        """Return which version of a file was described."""
        record = self._record(path)
        return FileVersion(**read_json(record)) if record is not None and record.is_file() else None

    def changed(self, path: str) -> None:
        """Forget how a file was described: it has changed since, or what was said in answer to HEAD is not so."""
        if (record := self._record(path)) is not None:
            record.unlink(missing_ok=True)
            write_json(self._distrusted(path), True)

    def _remembered(self, path: str, found: FileVersion) -> FileVersion:
        """Return the version described before if a file is the same still, else the one found, to be remembered."""
        known, record = self.known(path), self._record(path)
        if known is not None and known.is_same(found):
            return known
        if record is not None:
            write_json(record, asdict(found))
        return found

    def _record(self, path: str) -> Path | None:
        if self.listings is None:
            return None
        return self.listings / f"{digest_json(['version', self.name, path])}.json"

    def _distrusted(self, path: str) -> Path:
        """Return the file that says that HEAD is not asked for a file."""
        return (self.listings or Path(os.devnull)) / f"{digest_json(['no HEAD', self.name, path])}.json"


def _facts(answer: requests.Response) -> _Facts | None:
    """Return what an answer says of a file, None if it is a refusal of HEAD."""
    if answer.status_code in _NO_HEAD:
        return None
    version = response_headers.version(answer)
    return _Facts(
        response_headers.stated_size(answer), version, _published_checksum(answer), response_headers.is_coded(answer)
    )


def _published_checksum(answer: requests.Response) -> str | None:
    """Return a checksum of the whole file that servers publish: Google's hashes, Digest (RFC 3230) or Content-MD5.

    What a server says of a file that it has compressed, or sends decompressed, is not of the file's bytes.
    """
    headers = answer.headers
    stored = headers.get("x-goog-stored-content-encoding", "identity").lower()
    if response_headers.is_coded(answer) or stored not in ("identity", ""):
        return None
    for name, pattern, kind in (
        ("Repr-Digest", r"\bsha-256=:([\w+/=]+):", "sha256"),
        ("Digest", r"\bsha-256=([\w+/=]+)", "sha256"),
        ("x-goog-hash", r"\bmd5=([\w+/=]+)", "md5"),
        ("Content-MD5", r"^([\w+/=]+)$", "md5"),
    ):
        if name == "Content-MD5" and answer.status_code != 200:
            continue  # of the part
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
