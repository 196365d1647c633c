"""Members of archives by their names: what is surely no record, what should be a picture, and which key each has."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from microdiff.core.printable import escape_key

# Of the formats that microdiff.images.normalize decodes. Content decides; a name only says what to expect.
PICTURE_EXTENSIONS = frozenset(
    "jpg jpeg jpe jfif mpo png apng webp gif bmp tif tiff avif avifs jp2 j2k jpc jpf jpx j2c".split()  # noqa: SIM905
)
_OTHER_FILES = re.compile(
    r"thumbs\.db|ehthumbs\.db|desktop\.ini|@eadir|(md5|sha1|sha224|sha256|sha384|sha512)(sums?)?(\.txt)?"
    r"|.+\.(md5|sha1|sha256|sha512)",
    re.IGNORECASE,
)
_DOCUMENTS = re.compile(r"(readme|licen[cs]e|copying|notice|changelog)(\.(txt|md|rst|html))?", re.IGNORECASE)


@dataclass
class Tally:
    """Counts the members of a partition's archives that are known to be no records.

    Attributes:
        other_members: How many.
    """

    other_members: int = 0

    def unless(self, is_other: Callable[[str], bool]) -> Callable[[str], bool]:
        """Return what tells by its name whether a member is wanted, and counts those that are not."""

        def is_wanted(name: str) -> bool:
            if is_other(name):
                self.other_members += 1
                return False
            return True

        return is_wanted


def is_other(name: str) -> bool:
    """Tell whether a member is known to be no record.

    That are folders (their names end in `/`), hidden files and what is in hidden folders, what macOS and Windows leave
    behind (`__MACOSX`, `Thumbs.db`), checksums, and documents such as README and LICENSE. All else is a record.
    """
    return is_litter(name) or is_document(name)


def is_litter(name: str) -> bool:
    """Tell whether a member is any of what `is_other` lists, but for documents."""
    if name.endswith("/"):
        return True
    parts = name.split("/")
    hidden = any(part.startswith(".") and part not in (".", "..") for part in parts)
    return hidden or "__MACOSX" in parts or _OTHER_FILES.fullmatch(parts[-1]) is not None


def is_document(name: str) -> bool:
    """Tell whether a member is a document such as README.md or LICENSE."""
    return _DOCUMENTS.fullmatch(name.rpartition("/")[2]) is not None


def is_unsafe(name: str) -> bool:
    """Tell whether a member's path is absolute or leads out of its archive."""
    return name.startswith("/") or name[1:3] == ":/" or (".." in name and ".." in name.split("/"))


def is_picture(name: str) -> bool:
    """Tell by its name whether a member should be a picture. Hidden files are none."""
    return extension(name).rpartition(".")[2] in PICTURE_EXTENSIONS and stem(name) != ""


def normal_path(name: str) -> str:
    """Return a member's path without its `.` and empty parts; an absolute one stays so."""
    parts = name.split("/")
    if "" in parts or "." in parts:
        path = "/".join(part for part in parts if part not in ("", "."))
        return f"/{path}" if name.startswith("/") else path
    return name


def sample_path(name: str) -> str:
    """Return a member's path up to the first point of its last part: what WebDataset takes for the sample's key."""
    folder, slash, last = normal_path(name).rpartition("/")
    return folder + slash + last.partition(".")[0]


def stem(name: str) -> str:
    """Return a member's name without folders and from its first point on."""
    return name.rstrip("/").rpartition("/")[2].partition(".")[0]


def stem_key(name: str) -> str:
    """Return the key of a member that its name alone identifies, whatever its folder."""
    return escape_key(stem(name) or name)


def extension(name: str) -> str:
    """Return what follows the first point of a member's name, in small letters."""
    return name.rpartition("/")[2].partition(".")[2].lower()
