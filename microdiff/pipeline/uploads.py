"""Finished partitions on their way to the shared store, while the next ones are computed."""

import logging
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from microdiff.artifacts.manifest import MANIFEST
from microdiff.core.files import md5_of
from microdiff.errors import MicrodiffError, SourceError
from microdiff.pipeline.shared_store import SharedStore
from microdiff.pipeline.task import StoredPartition

log = logging.getLogger("microdiff")

_THREADS = 4


class Uploads:
    """Sends partitions to the shared store in the background.

    What cannot be sent is tried again at the end, and what then still cannot be is said: the next run sends it, since
    every run offers the store all partitions that it uses.

    Args:
        shared: The shared store; None where there is none: nothing is done.
    """

    def __init__(self, shared: SharedStore | None) -> None:
        self._shared = shared if shared is not None and shared.may_write else None
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="upload") if self._shared is not None else None
        self._sent: list[tuple[StoredPartition, bool, Future[bool]]] = []
        self.num_sent = 0

    def __enter__(self) -> "Uploads":
        """Return this."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait until all is sent: after an error, too, for other machines need not compute what is finished."""
        if self._pool is not None:
            if kind is not None and not issubclass(kind, MicrodiffError):
                self._pool.shutdown(wait=False, cancel_futures=True)
                return
            self.finish()
            self._pool.shutdown()

    def add(self, stored: StoredPartition, damaged_there: Collection[str] = ()) -> None:
        """Send a partition's parts, those that the store lacks.

        Args:
            stored: The partition.
            damaged_there: Fingerprints of parts that are to be replaced.
        """
        if self._pool is None or self._shared is None:
            return
        for part in stored.parts:
            replace = part.fingerprints[0] in damaged_there
            self._sent.append((part, replace, self._pool.submit(self._shared.send, part, replace=replace)))

    def send_manifest(self, folder: Path) -> None:
        """Send an artifact's manifest; say so if it cannot be sent.

        Args:
            folder: The artifact's.
        """
        if self._shared is None:
            return
        try:
            self._shared.send_manifest(md5_of(folder / MANIFEST), (folder / MANIFEST).read_bytes())
        except SourceError as error:
            log.warning("%s\nThe manifest is not in the shared store; the next run tries again.", error)

    def finish(self) -> None:
        """Wait for all, and try those once more that failed."""
        if self._shared is None:
            return
        failed: list[tuple[StoredPartition, bool]] = []
        for part, replace, future in self._sent:
            error = future.exception()
            if error is None:
                self.num_sent += future.result()
            elif isinstance(error, MicrodiffError | OSError):
                failed.append((part, replace))
            else:
                raise error
        self._sent.clear()
        lost: list[BaseException] = []
        for part, replace in failed:
            if lost:  # the first one has waited long enough
                lost.append(lost[0])
                continue
            try:
                self.num_sent += self._shared.send(part, replace=replace, insist=True)
            except (MicrodiffError, OSError) as error:
                lost.append(error)
        if lost:
            log.warning(
                "%s\n%d partitions could not be put into the shared store; the next run tries again.",
                lost[0],
                len(lost),
            )
