"""Read the pictures of the raw format: per partition a WebDataset tar, members `<key>.<jpg, png or webp>`."""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from microdiff.errors import SchemaError


@dataclass(frozen=True)
class RawImage:
    """A kept picture: its key and its encoded bytes."""

    key: str
    data: bytes


def read_images(folder: Path, partition: str) -> Iterator[RawImage]:
    """Yield a partition's kept pictures in order.

    Raises:
        SchemaError: The tar is damaged.
    """
    path = folder / f"{partition}.tar"
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                file = tar.extractfile(member)
                if file is None:
                    raise SchemaError(f"{path}: {member.name} is not a file")
                yield RawImage(member.name.partition(".")[0], file.read())
    except tarfile.TarError as error:
        raise SchemaError(f"{path}: damaged ({error}). Restore it with dvc checkout.") from error
