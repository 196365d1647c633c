"""What every handler promises, as tests that a dataset's test class inherits.

    class TestCoco(HandlerContract):
        dataset = "coco"
        counts: ClassVar[Counts] = {"in": 38, "kept": 28, "too_small": 2, ...}

The source is the dataset's miniature in samples/ and the handler the one of presets/sample.yaml, unless the class
overrides `write_source` or `make_handler`. Datasets that need other hooks find them below, each with a default.
"""

import dataclasses
import json
import os
import pickle
import random
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from microdiff.artifacts.raw import read_images
from microdiff.artifacts.tables import read_rows
from microdiff.config.settings import DownloadSettings
from microdiff.core.ledger import Counts, Reason, add_up, check_balance
from microdiff.core.printable import is_key
from microdiff.core.progress import NullReporter
from microdiff.download.raw_writer import SCHEMA, write_raw
from microdiff.errors import SourceError
from microdiff.formats.annotations import Annotations, write_annotations
from microdiff.formats.records import Inputs, Partition, Rejection, Sample
from microdiff.handlers import Handler, handler_class
from microdiff.kinds import KindHandler
from microdiff.pipeline.params import load_params
from microdiff.storage import Source
from microdiff.storage.opening import open_source

REPO = Path(__file__).resolve().parent.parent
SETTINGS = DownloadSettings(min_side_px=256, max_side_px=512, jpeg_quality=95)
NONE = Annotations()
Record = Sample | Rejection


@dataclasses.dataclass(frozen=True)
class Raw:
    """The miniature as the download step writes it: where, what, and with which counts."""

    folder: Path
    partitions: tuple[Partition, ...]
    counts: Counts
    rows: tuple[dict[str, Any], ...]


class HandlerContract:
    """Subclass as `Test<Dataset>`, set `dataset` and `counts`, and inherit the tests."""

    dataset: ClassVar[str]
    counts: ClassVar[Counts]  # of the download step, for the whole miniature
    slice_setting: ClassVar[str | None] = None  # the field that says how many samples a partition has, if there is one
    loose: ClassVar[bool] = False  # whether the source's files are records themselves, which no partition names

    # --- what a dataset may override

    def write_source(self, folder: Path) -> None:
        """Write the source's files below `folder`, which exists."""
        shutil.copytree(REPO / "samples" / self.dataset, folder, dirs_exist_ok=True)

    def make_handler(self, folder: Path) -> Handler:
        """Return the handler for the source in `folder`: without checksums, so that it has to find damage itself."""
        handler = load_params(REPO / "presets" / "sample.yaml").dataset(self.dataset).handler
        known = {field.name for field in dataclasses.fields(handler)}
        unchecked: dict[str, Any] = {"sha256": {}} if "sha256" in known else {}
        return dataclasses.replace(handler, **unchecked)

    def open_source(self, folder: Path, work: Path) -> Source:
        """Return the source in `folder`."""
        return open_source(str(folder), work)

    def needed_files(self, partitions: Sequence[Partition]) -> list[str]:
        """Return the files that the source cannot lack, by path: by default all that partitions name."""
        return sorted({path for partition in partitions for path in partition.files})

    def reorder(self, folder: Path) -> None:
        """Write the archives again with their members in another order, where the dataset does not depend on it."""
        for path in sorted(folder.rglob("*.zip")):
            with zipfile.ZipFile(path) as archive:
                members = [(info, archive.read(info)) for info in archive.infolist()]
            random.Random(2014).shuffle(members)
            with zipfile.ZipFile(path, "w") as archive:
                for info, data in members:
                    archive.writestr(info, data)

    def is_ordered(self, keys: Sequence[str]) -> bool:
        """Tell whether keys are in the source's order: by default, sorted."""
        return list(keys) == sorted(keys)

    # --- what tests use

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "source"
        folder.mkdir()
        self.write_source(folder)
        return folder

    @pytest.fixture
    def handler(self, folder: Path) -> Handler:
        return self.make_handler(folder)

    @pytest.fixture
    def source(self, folder: Path, tmp_path: Path) -> Source:
        return self.open_source(folder, tmp_path / "work")

    @pytest.fixture(scope="class")
    @classmethod
    def raw(cls, tmp_path_factory: pytest.TempPathFactory) -> Raw:
        dataset, out = cls(), tmp_path_factory.mktemp("raw")
        folder = tmp_path_factory.mktemp(cls.dataset)
        dataset.write_source(folder)
        handler = dataset.make_handler(folder)
        source = dataset.open_source(folder, folder.with_name("work"))
        partitions = handler.partitions(source)
        with annotations_of(handler, source) as annotations:
            parts = [write_partition(handler, partition, source, out, annotations) for partition in partitions]
        tables = [out / f"{partition.name}.parquet" for partition in partitions]
        rows = [row for table in tables for row in read_rows(table, SCHEMA.names)]
        return Raw(out, tuple(partitions), add_up(parts), tuple(rows))

    # --- partitions

    def test_partition_names_sort_in_the_order_of_their_numbers(self, handler: Handler, source: Source) -> None:
        partitions = handler.partitions(source)
        names = [partition.name for partition in partitions]
        numbers = [partition.number for partition in partitions]
        assert names
        assert names == sorted(set(names))
        assert numbers == sorted(set(numbers))
        assert len({len(name) for name in names}) == 1
        assert all(name.isascii() and "/" not in name and "." not in name for name in names)
        assert any(partition.files for partition in partitions) != self.loose

    def test_partitions_and_records_do_not_depend_on_how_the_file_system_lists(
        self, handler: Handler, source: Source, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        partitions, records = handler.partitions(source), records_of(handler, source)
        listdir, scandir = os.listdir, os.scandir
        monkeypatch.setattr(os, "listdir", lambda *path: sorted(listdir(*path), reverse=True))
        monkeypatch.setattr(os, "scandir", lambda *path: _Backwards(scandir(*path)))
        assert handler.partitions(source) == partitions
        assert records_of(handler, source) == records

    def test_records_do_not_depend_on_the_order_in_archives(
        self, handler: Handler, folder: Path, tmp_path: Path
    ) -> None:
        before = records_of(handler, self.open_source(folder, tmp_path / "work"))
        self.reorder(folder)
        assert records_of(handler, self.open_source(folder, tmp_path / "work")) == before

    @pytest.mark.parametrize("size", [1, 7, 1000])
    def test_slices_hold_every_record_once_whatever_their_size(
        self, handler: Handler, source: Source, size: int
    ) -> None:
        expected = records_of(handler, source)
        sliced = dataclasses.replace(handler, **{self.slice_setting: size}) if self.slice_setting else handler
        assert records_of(sliced, source) == expected
        hints = [partition.num_records for partition in sliced.partitions(source)]
        assert None in hints or sum(hint or 0 for hint in hints) <= len(expected)

    # --- records

    def test_records_are_well_formed(self, handler: Handler, source: Source) -> None:
        for record in records_of(handler, source):
            assert isinstance(record, Sample | Rejection)
            assert is_key(record.key)
            assert isinstance(record.captions, tuple)
            assert all(isinstance(caption, str) for caption in record.captions)
            assert isinstance(record.source, str)
            assert record.source
            assert json.loads(json.dumps(record.meta, allow_nan=False)) == record.meta
            if isinstance(record, Sample):
                assert isinstance(record.image, bytes)
            else:
                assert isinstance(record.reason, Reason)

    def test_records_are_in_order(self, handler: Handler, source: Source) -> None:
        assert self.is_ordered([record.key for record in records_of(handler, source)])

    def test_a_key_is_in_one_partition_only(self, handler: Handler, source: Source) -> None:
        homes: dict[str, str] = {}
        with annotations_of(handler, source) as annotations:
            for partition in handler.partitions(source):
                for record in read(handler, partition, source, annotations):
                    assert homes.setdefault(record.key, partition.name) == partition.name

    def test_every_record_has_its_outcome(self, raw: Raw) -> None:
        assert raw.counts == self.counts
        check_balance(raw.counts, None, self.dataset)
        keys = [row["key"] for row in raw.rows]
        assert len(set(keys)) == len(keys) == raw.counts["in"]

    def test_kept_pictures_are_read_back_in_order(self, raw: Raw) -> None:
        read = [
            image.key for partition in raw.partitions for image in read_images(raw.folder / f"{partition.name}.tar")
        ]
        assert read == [row["key"] for row in raw.rows if row["status"] == "kept"]
        assert len(read) == self.counts["kept"]

    # --- sources that are not what they should be

    def test_a_missing_file_is_an_error_that_names_it(self, handler: Handler, folder: Path, tmp_path: Path) -> None:
        for path in self.needed_files(handler.partitions(self.open_source(folder, tmp_path / "work"))):
            kept = (folder / path).rename(tmp_path / "kept")
            with pytest.raises(SourceError, match=Path(path).name):
                records_of(handler, self.open_source(folder, tmp_path / "work"))
            kept.rename(folder / path)

    @pytest.mark.parametrize(
        "damage",
        [lambda data: data[: len(data) // 2], lambda _: b"<!DOCTYPE html>", lambda _: b""],
        ids=["half", "a web page", "empty"],
    )
    def test_a_damaged_file_is_an_error_that_names_it(
        self, handler: Handler, folder: Path, tmp_path: Path, damage: Callable[[bytes], bytes]
    ) -> None:
        for path in self.needed_files(handler.partitions(self.open_source(folder, tmp_path / "work"))):
            data = (folder / path).read_bytes()
            (folder / path).write_bytes(damage(data))
            with pytest.raises(SourceError, match=Path(path).name):
                records_of(handler, self.open_source(folder, tmp_path / "work"))
            (folder / path).write_bytes(data)

    # --- workers

    def test_what_workers_get_can_be_pickled(self, handler: Handler, source: Source) -> None:
        for value in (handler, source, *handler.partitions(source)):
            assert pickle.loads(pickle.dumps(value)) == value  # noqa: S301 - our own

    def test_the_licence_is_stated(self, handler: Handler) -> None:
        assert handler.licence.strip()

    def test_the_module_provides_the_handler_of_its_preset(self, handler: Handler) -> None:
        document = yaml.safe_load((REPO / "presets" / "sample.yaml").read_text(encoding="utf-8"))
        assert handler_class(self.dataset) is type(handler)
        settings = document["datasets"][self.dataset]["download"].keys() - {"source", "partitions"}
        assert settings <= {field.name for field in dataclasses.fields(handler)}


def read(handler: Handler, partition: Partition, source: Source, annotations: Annotations = NONE) -> Iterator[Record]:
    """Yield a partition's records."""
    files = {path: source.fetch(source.stat(path, handler.checksum(path))) for path in partition.files}
    with tempfile.TemporaryDirectory() as scratch:
        inputs = Inputs(files=files, scratch=Path(scratch), annotations=annotations, source=source)
        yield from handler.read(partition, inputs)


@contextmanager
def annotations_of(handler: Handler, source: Source) -> Iterator[Annotations]:
    """Make the dataset's table of annotations, if it has one."""
    with tempfile.TemporaryDirectory() as work:
        if isinstance(handler, KindHandler):
            yield Annotations(handler.survey(source, Path(work), Path(work) / "partitions.tsv").index)
            return
        root = handler.annotation_root()
        source = source if root is None else open_source(root, Path(work))
        files = {path: source.fetch(source.stat(path)) for path in handler.annotation_files(source)}
        table = Path(work) / "annotations.sqlite"
        write_annotations(table, handler.read_annotations(files), NullReporter())
        yield Annotations(table) if files else NONE


def records_of(handler: Handler, source: Source) -> list[Record]:
    """Return the records of all partitions."""
    with annotations_of(handler, source) as annotations:
        partitions = handler.partitions(source)
        return [record for partition in partitions for record in read(handler, partition, source, annotations)]


def write_partition(
    handler: Handler, partition: Partition, source: Source, out: Path, annotations: Annotations = NONE
) -> Counts:
    """Write a partition as the download step does; return its counts."""
    return write_raw(
        read(handler, partition, source, annotations), SETTINGS, partition.name, out, NullReporter()
    ).counts


class _Backwards:
    """What os.scandir returns, in another order."""

    def __init__(self, entries: Any) -> None:
        with entries:
            self._entries = iter(sorted(entries, key=lambda entry: entry.name, reverse=True))

    def __iter__(self) -> Iterator[Any]:
        return self._entries

    def __next__(self) -> Any:
        return next(self._entries)

    def __enter__(self) -> Iterator[Any]:
        return self._entries

    def __exit__(self, *_: object) -> None:
        """Nothing to close."""
