"""Read the pictures of the raw format: per partition a WebDataset tar, members `<key>.<jpg, png or webp>`."""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from microdiff.core.verified_files import Input, open_input, path_of
from microdiff.errors import SchemaError

_END = bytes(2 * tarfile.BLOCKSIZE)
_READ_BYTES = 2**20


@dataclass(frozen=True)
class RawImage:
    """A kept picture: its key and its encoded bytes."""

    key: str
    data: bytes


def read_images(tar: Input) -> Iterator[RawImage]:
    """Yield a partition's kept pictures in order.

    Args:
        tar: The partition's tar. One that is verified has been when the last picture was taken, not before.

    Raises:
        DamagedError: It is not the recorded one.
        SchemaError: It is missing, or no tar.
    """
    for name, data in read_members(tar):
        yield RawImage(name.partition(".")[0], data)


def read_members(tar: Input) -> Iterator[tuple[str, bytes]]:
    """Yield the names and the bytes of a raw partition's members in order; see `read_images`."""
    path = path_of(tar)
    try:
        with open_input(tar) as file, tarfile.open(fileobj=file, mode="r|", bufsize=_READ_BYTES) as opened:
            for member in opened:
                content = opened.extractfile(member)
                if content is None:
                    raise SchemaError(f"{path}: {member.name} is not a file")
                yield member.name, content.read()
            _check_end(path, opened.offset)
    except FileNotFoundError as error:
        raise SchemaError(f"{path}: missing") from error
    except tarfile.TarError as error:
        raise SchemaError(f"{path}: damaged ({error})") from error


def _check_end(path: Path, offset: int) -> None:
    """Check that an archive ends where its last member does: tarfile takes a damaged header for the end."""
    with path.open("rb") as file:
        file.seek(offset)
        if file.read(len(_END)) != _END:
            raise SchemaError(f"{path}: damaged (no end of archive after {offset} bytes)")
