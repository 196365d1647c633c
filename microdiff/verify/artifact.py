"""One artifact folder: what manifest and DVC record of it, the checks of its parts, and of it as a whole."""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from microdiff.artifacts.manifest import MANIFEST, FileRecord, Manifest, is_whole, parse_manifest
from microdiff.artifacts.mds_index import INDEX_NAME, ShardEntry, read_index
from microdiff.core.files import read_json
from microdiff.core.withdrawn import Withdrawn
from microdiff.errors import SchemaError
from microdiff.remote.dvc_dir_object import folder_digest
from microdiff.remote.dvc_record import DvcRecord
from microdiff.verify.files import Expected, check_files
from microdiff.verify.findings import Findings
from microdiff.verify.latents import check_latents
from microdiff.verify.shards import check_shard
from microdiff.verify.tables import check_captions, check_raw

ENCODERS = "encoders.json"
_SHOWN = 5
Work = tuple[str, int, Any]  # a check's name, the bytes it reads, and what does it


class Artifact:
    """One artifact folder.

    Args:
        dataset: Whose.
        kind: Which artifact.
        folder: Where it is.
        record: What DVC has recorded of it, if it has.

    Attributes:
        own: Findings on files that belong to no partition, and on the whole.
        manifest: None where it cannot be read.
        trusted: Whether the manifest is whole; a damaged one is not believed, lest it blames others.
    """

    def __init__(self, dataset: str, kind: str, folder: Path, record: DvcRecord | None) -> None:
        self.dataset, self.kind, self.folder, self.record = dataset, kind, folder, record
        self.own = Findings(dataset, kind, "")
        self.manifest: Manifest | None = None
        self._md5 = dict((record.files if record is not None else None) or {})
        check_files(folder, {MANIFEST: Expected(md5=self._md5.get(MANIFEST))}, self.own)
        try:
            if MANIFEST not in self.own.damaged and not is_whole(folder):
                self.own.add(MANIFEST, "its bytes have changed: its own digest does not fit", is_damage=True)
            self.manifest = parse_manifest(folder)
        except (SchemaError, OSError) as error:
            if MANIFEST not in self.own.damaged:
                self.own.add(MANIFEST, str(error), is_damage=True)
        self.trusted = self.manifest is not None and MANIFEST not in self.own.damaged
        self._expected = self._recorded()
        self._check_extra()

    def _recorded(self) -> dict[str, Expected]:
        """Return what is recorded of each file; a file that is not there is not expected."""
        expected = {name: Expected(md5=md5) for name, md5 in self._md5.items()}
        if self.manifest is None or not self.trusted:
            return expected
        expected |= {
            name: Expected(sha256=digest, md5=self._md5.get(name)) for name, digest in self.manifest.extra.items()
        }
        for name, file in self.manifest.files.items():
            expected[name] = Expected(file.num_bytes, file.sha256, self._md5.get(name))
        return expected

    def _check_extra(self) -> None:
        """Check the files that belong to no partition."""
        indexes = {INDEX_NAME, *(f"{path.parent.name}/{INDEX_NAME}" for path in self.folder.glob(f"*/{INDEX_NAME}"))}
        wanted = {"latents": {ENCODERS}, "shards": indexes}.get(self.kind, set())
        if self.manifest is not None and self.trusted:
            wanted |= set(self.manifest.extra)
        check_files(self.folder, {name: self.expected(name) for name in sorted(wanted)}, self.own)

    def expected(self, name: str) -> Expected:
        """Return what is recorded of a file."""
        return self._expected.get(name, Expected())

    def works(self, withdrawn: Withdrawn, share: float, *, each: bool = False) -> Iterator[Work]:
        """Yield the checks of its partitions: name, bytes to read, work.

        Latents are checked against what the manifest says of their encoders, so none are if it is not trusted.
        """
        if self.manifest is None or (self.kind == "latents" and not self.trusted):
            return
        partitions = self.manifest.partitions
        if self.kind == "shards":
            yield from self._shard_works(withdrawn, share, each)
            return
        for name, partition in partitions.items():
            expected = {file: self.expected(file) for file in partition.files}
            arguments = (self.folder, name, expected, withdrawn, self.dataset)
            if self.kind == "raw":
                work = partial(check_raw, *arguments)
            elif self.kind == "captions":
                work = partial(check_captions, *arguments)
            else:
                work = partial(check_latents, *arguments, self.manifest.facts["encoders"], share, each)
            yield f"{self.kind} {name}", partition.num_bytes, work

    def _shard_works(self, withdrawn: Withdrawn, share: float, each: bool) -> Iterator[Work]:
        bfloat16 = _bfloat16_columns(self.manifest.facts.get("encoders", {})) if self.manifest else frozenset()
        for entry in self.entries():
            file = entry.stored.name
            arguments = (
                self.folder,
                entry,
                {file: self.expected(file)},
                withdrawn,
                self.dataset,
                bfloat16,
                share,
                each,
            )
            yield f"shards {file}", entry.raw.num_bytes, partial(check_shard, *arguments)

    def entries(self) -> list[ShardEntry]:
        """Return the shards: from index.json or, where that is damaged, from the groups' own."""
        if INDEX_NAME not in self.own.damaged:
            return self._entries(INDEX_NAME)
        groups = sorted(path.parent.name for path in self.folder.glob(f"*/{INDEX_NAME}"))
        whole = [group for group in groups if f"{group}/{INDEX_NAME}" not in self.own.damaged]
        return [entry.in_folder(group) for group in whole for entry in self._entries(f"{group}/{INDEX_NAME}")]

    def _entries(self, name: str) -> list[ShardEntry]:
        try:
            return read_index(self.folder / name)
        except SchemaError as error:
            self.own.add(name, str(error), is_damage=True)
            return []

    def finish(self, parts: Iterable[Findings]) -> Findings:
        """Check what only the whole artifact shows: strange files, the index, DVC's digest."""
        md5 = dict(self.own.md5)
        damaged = set(self.own.damaged)
        for item in parts:
            md5 |= item.md5
            damaged |= item.damaged
        present = {path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file()}
        recorded = {MANIFEST, *self._expected} if self._expected else set()
        unread = {name: self.expected(name) for name in sorted((present | recorded) - md5.keys() - damaged)}
        check_files(self.folder, {name: each for name, each in unread.items() if name in recorded}, self.own)
        md5 |= self.own.md5
        for name in sorted(set(unread) - recorded) if recorded else ():
            self.own.add(name, "listed neither in manifest.json nor by DVC: remove it", is_damage=True)
        if self.kind == "latents" and ENCODERS not in damaged:
            self._check_encoders()
        if self.kind == "shards" and not damaged:
            self._check_index()
        if self.record is not None and not damaged | self.own.damaged and folder_digest(md5) != self.record.digest:
            differing = sorted(name for name in self._md5.keys() | md5.keys() if self._md5.get(name) != md5.get(name))
            where = f": {', '.join(differing[:_SHOWN])}" if self._md5 else ""
            self.own.add("", f"it is whole, but not the version in dvc.lock{where}")
        return self.own

    def _check_encoders(self) -> None:
        try:
            value = read_json(self.folder / ENCODERS)
            if self.manifest is not None and self.trusted:
                if value != self.manifest.facts["encoders"]:
                    self.own.add(ENCODERS, "it does not say what manifest.json says")
            elif value.keys() != {"image", "text"}:
                self.own.add(ENCODERS, "it does not describe encoders", is_damage=True)
        except (ValueError, AttributeError) as error:
            self.own.add(ENCODERS, f"it cannot be read ({error})", is_damage=True)

    def _check_index(self) -> None:
        """Check that index files, manifest and shards list the same."""
        every = self._entries(INDEX_NAME)
        groups = list(dict.fromkeys(entry.raw.name.partition("/")[0] for entry in every))
        nested = [entry.in_folder(group) for group in groups for entry in self._entries(f"{group}/{INDEX_NAME}")]
        if nested != every:
            self.own.add(INDEX_NAME, "it does not list what the groups' index files list")
        if self.manifest is None:
            return
        files = self.manifest.files
        columns = self.manifest.facts["columns"]
        for entry in every:
            file, stored = entry.stored.name, entry.stored
            if files.pop(file, None) != FileRecord(stored.num_bytes, stored.hashes.get("sha256", "")):
                self.own.add(INDEX_NAME, f"it does not say of {file} what manifest.json says")
            if entry.header.encodings != columns[file.partition("/")[0]]:
                self.own.add(INDEX_NAME, f"the columns of {file} are not those in manifest.json")
        for file in files:
            self.own.add(INDEX_NAME, f"it does not list {file}")
        if sum(entry.num_samples for entry in every) != self.manifest.counts["kept"]:
            self.own.add(INDEX_NAME, f"its samples add up to another number than {self.manifest.counts['kept']}")


def _bfloat16_columns(encoders: Mapping[str, Any]) -> frozenset[str]:
    """Return the columns of shards whose uint16 are the bits of bfloat16."""
    texts = [column for column, each in encoders.get("text", {}).items() if each.get("stored_dtype") == "bfloat16"]
    pictures = encoders.get("image", {}).get("stored_dtype") == "bfloat16"
    sizes = [f"{kind}_{px}" for kind in ("latents", "moments") for px in range(8, 4097, 8)] if pictures else []
    return frozenset([*texts, *sizes])
