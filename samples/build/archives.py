"""Archives whose bytes depend on their content alone."""

import gzip
import hashlib
import io
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

_TIMESTAMP = (2014, 1, 1, 0, 0, 0)


def write_zip(path: Path, members: Sequence[tuple[str, bytes]]) -> None:
    """Write a zip of stored members, in the given order; a name ending in a slash is a folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members:
            member = zipfile.ZipInfo(name, _TIMESTAMP)
            member.create_system = 3  # Unix, on every system
            member.external_attr = (0o40755 << 16 | 0x10) if name.endswith("/") else 0o100644 << 16
            archive.writestr(member, content)


def write_tar(path: Path, members: Sequence[tuple[str, bytes]], gzipped: bool = False) -> None:
    """Write a tar of files, in the given order; a name ending in a slash is a folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name.removesuffix("/"))
            member.size = len(content)
            if name.endswith("/"):
                member.type, member.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(member, io.BytesIO(content))
    path.write_bytes(gzip.compress(written.getvalue(), mtime=0) if gzipped else written.getvalue())


def write_sha256sums(folder: Path, files: Sequence[str]) -> None:
    """Write `folder/SHA256SUMS` for files named relative to it, in the form `sha256sum -c` reads."""
    digests = {file: hashlib.sha256((folder / file).read_bytes()).hexdigest() for file in sorted(files)}
    (folder / "SHA256SUMS").write_text("".join(f"{digest}  {file}\n" for file, digest in digests.items()))
