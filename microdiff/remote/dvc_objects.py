"""Objects of a DVC remote: files that are named by the MD5 of their bytes."""

from pathlib import Path

from microdiff.core.progress import Reporter
from microdiff.errors import SourceError
from microdiff.storage import Damaged, Storage
from microdiff.storage.fetching import fetch_verified
from microdiff.storage.retry import ATTEMPTS


def object_path(md5: str) -> str:
    """Return where DVC keeps an object below a remote's root."""
    return f"files/md5/{md5[:2]}/{md5[2:]}"


def fetch_object(store: Storage, md5: str, part: Path, report: Reporter, attempts: int = ATTEMPTS) -> None:
    """Fetch an object into a file, continuing what an earlier attempt left there.

    Args:
        store: The remote.
        md5: The object's name, and the MD5 of its bytes; that of a folder ends in `.dir`.
        part: Receives it; whole and on disk when this returns, and not to be used before.
        report: Hears of bytes received, and of attempts that are repeated.
        attempts: How many may fail in a row without a byte of progress.

    Raises:
        SourceError: It cannot be had, or the remote holds other bytes under its name; then `part` is removed.
    """
    path, identity = object_path(md5), f"md5:{md5.removesuffix('.dir')}"
    try:
        fetch_verified(store.with_reporter(report), path, part, identity=identity, attempts=attempts)
    except Damaged as error:
        raise SourceError(
            f"{store.name}/{path}: the object is damaged: "
            f"its bytes have MD5 {error.found.removeprefix('md5:')}, twice. Nothing was kept.\n"
            "Delete it from the remote and run dvc push where the data is whole (a push skips what is there)."
        ) from None
