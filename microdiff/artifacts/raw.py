"""Read the pictures of the raw format: per partition a WebDataset tar, members `<key>.<jpg, png or webp>`."""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from microdiff.errors import SchemaError

_END = bytes(2 * tarfile.BLOCKSIZE)
_REMEDY = "Restore it with dvc checkout."


@dataclass(frozen=True)
class RawImage:
    """A kept picture: its key and its encoded bytes."""

    key: str
    data: bytes


def read_images(folder: Path, partition: str) -> Iterator[RawImage]:
    """Yield a partition's kept pictures in order.

    Raises:
        SchemaError: The tar is missing or damaged.
    """
    for name, data in read_members(folder / f"{partition}.tar"):
        yield RawImage(name.partition(".")[0], data)


def read_members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the names and the bytes of a raw partition's members in order.

    Raises:
        SchemaError: The tar is missing or damaged.
    """
    try:
        with path.open("rb") as opened, tarfile.open(fileobj=opened, mode="r:") as tar:
            for member in tar:
                file = tar.extractfile(member)
                if file is None:
                    raise SchemaError(f"{path}: {member.name} is not a file")
                yield member.name, file.read()
            opened.seek(tar.offset)
            if opened.read(len(_END)) != _END:  # tarfile takes a damaged header for the end
                raise SchemaError(f"{path}: damaged (no end of archive after {tar.offset} bytes). {_REMEDY}")
    except FileNotFoundError as error:
        raise SchemaError(f"{path}: missing. {_REMEDY}") from error
    except tarfile.TarError as error:
        raise SchemaError(f"{path}: damaged ({error}). {_REMEDY}") from error
