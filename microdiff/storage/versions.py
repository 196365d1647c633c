"""Whether two answers are of one version of a file, though the servers behind one address do not agree on its name.

ETags differ where the bytes do not: a server that compresses marks them weak (`W/"x"`) or adds a suffix (`"x-gzip"`),
and the nodes of a cluster may each make their own, of inode numbers. Then size and time of change tell.
"""

import re
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

_SUFFIX = re.compile(r"(?:-{1,2}|[;:/.])(?:gzip|gz|x-gzip|deflate|df|br|zstd|identity)$")
_FIRST_TIME_S = 86_400 * 366 * 10  # before 1980: a date that says nothing, as of files packed reproducibly


@dataclass(frozen=True)
class FileVersion:
    """What an answer says of a file's version.

    Attributes:
        etag: As the server writes it; empty if it states none.
        modified: `Last-Modified`, likewise.
        num_bytes: Size of the whole file, None if it is not stated.
    """

    etag: str
    modified: str
    num_bytes: int | None

    @property
    def name(self) -> str:
        """What tells this version from others: ETag or time of change, or nothing."""
        return self.etag or self.modified

    def is_same(self, other: "FileVersion") -> bool:
        """Tell whether another answer is of the same version, as far as servers say."""
        if self.num_bytes is not None and other.num_bytes is not None and self.num_bytes != other.num_bytes:
            return False
        if self.etag and other.etag and same_etag(self.etag, other.etag):
            return True
        sizes_are_known = self.num_bytes is not None and other.num_bytes is not None
        return sizes_are_known and self.modified == other.modified and _says_something(self.modified)


def same_etag(one: str, other: str) -> bool:
    """Tell whether two ETags are the same but for weakness and the suffix of a coding."""
    return one == other or _opaque(one) == _opaque(other)


def _opaque(etag: str) -> str:
    text = etag.strip().removeprefix("W/").removeprefix("w/").strip('"')
    return _SUFFIX.sub("", text)


def _says_something(date: str) -> bool:
    try:
        return parsedate_to_datetime(date).timestamp() > _FIRST_TIME_S
    except (ValueError, TypeError, OverflowError):
        return False
