"""What handlers promise whose archives are too large to be sorted, as a variant of `HandlerContract`.

Their records come in the order of the archive. An archive is identified by its bytes, so this order is as fixed as
sorting would make it; what must not matter is the order of the annotations. An archive that is absent is a hole, and
one that is damaged gives what can be read: both are tested beside each dataset.
"""

import io
import random
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from conftest import REPO
from microdiff.formats.records import Partition
from tests.handler_contract import HandlerContract, Raw

Members = list[tuple[str, bytes]]


def read_members(path: Path) -> Members:
    """Return the files of a tar, as far as tarfile can read them."""
    members: Members = []
    with tarfile.open(path) as tar:
        while True:
            try:
                member = tar.next()
                file = member and tar.extractfile(member)
                data = file.read() if file else b""
            except (tarfile.ReadError, EOFError):
                return members
            if member is None:
                return members
            if file is not None:
                members.append((member.name, data))


def write_members(path: Path, members: Members) -> None:
    """Write a tar, compressed if its name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.name.endswith(("gz", "tgz")) else "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


class ArchiveOrder(HandlerContract):
    """Set `annotations`, the path of their archive below the source's folder, and what `HandlerContract` wants."""

    annotations: ClassVar[str]
    archives: ClassVar[str]  # a pattern for those of the miniature

    def key(self, archive: Path, name: str) -> str:
        """Return the key of a member."""
        raise NotImplementedError  # each handler's tests say it; this class is not collected by itself

    def needed_files(self, partitions: Sequence[Partition]) -> list[str]:
        return [self.annotations]

    def reorder(self, folder: Path) -> None:
        members = read_members(folder / self.annotations)
        random.Random(2023).shuffle(members)
        write_members(folder / self.annotations, members)

    def is_ordered(self, keys: Sequence[str]) -> bool:
        archives = sorted((REPO / "samples" / self.dataset).glob(self.archives))
        order = [self.key(path, name) for path in archives for name, _ in read_members(path) if name.endswith(".jpg")]
        assert order != sorted(order)
        return [key for key in dict.fromkeys(keys) if key in set(order)] == order

    def test_the_readme_of_the_samples_says_the_same(self, raw: Raw) -> None:
        lines = (REPO / "samples" / "README.md").read_text(encoding="utf-8").splitlines()
        (row,) = [line for line in lines if line.startswith(f"| `{self.dataset}`")]
        _, _, _, records, kept, with_512, rejected, _ = (cell.strip() for cell in row.split("|"))
        reasons = {name: int(count) for count, name in (part.split() for part in rejected.split(", "))}
        assert {"in": int(records), "kept": int(kept), **reasons} == self.counts
        assert int(with_512) == sum(min(row["width"], row["height"]) == 512 for row in raw.rows)
