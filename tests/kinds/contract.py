"""What every kind promises: all that handlers do, and that what is finished stays finished when its source grows."""

import csv
import dataclasses
import io
import json
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from microdiff.errors import SourceError
from microdiff.formats.annotations import Annotations
from microdiff.formats.records import Rejection, Sample
from microdiff.kinds import KINDS, KindHandler, kind_class
from microdiff.storage import Source
from microdiff.storage.opening import open_source
from tests.handler_contract import HandlerContract, Record, read

CAPTIONS = [f"caption number {i}" for i in range(12)]


def picture(seed: int, px: int = 256, form: str = "JPEG") -> bytes:
    """Return a small picture that no other seed gives."""
    out, dice = io.BytesIO(), random.Random(seed)
    Image.frombytes("RGB", (4, 4), dice.randbytes(48)).resize((px, px)).save(out, form)
    return out.getvalue()


def put(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def write_csv(path: Path, header: list[str], rows: list[list[str]], delimiter: str = ",") -> None:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, lineterminator="\n")
    writer.writerows([header, *rows])
    put(path, out.getvalue())


def write_jsonl(path: Path, rows: list[Any]) -> None:
    put(path, "".join(f"{json.dumps(row)}\n" for row in rows))


def write_parquet(path: Path, rows: list[dict[str, Any]], schema: pa.Schema | None = None, group: int = 4) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, row_group_size=group)


def read_all(handler: KindHandler, folder: Path, tmp: Path) -> list[Record]:
    """Return all records of a source that was never listed before."""
    source = open_source(str(folder), tmp / "work")
    return list(records(handler, source, tmp / "place", tmp / "partitions.tsv"))


def records(handler: KindHandler, source: Source, place: Path, recorded: Path) -> Iterator[Record]:
    listing = handler.survey(source, place, recorded)
    for partition in listing.partitions:
        yield from read(handler, partition, source, Annotations(listing.index))


def outcome(record: Record) -> str:
    """Return what became of a record, before its picture is looked at."""
    if isinstance(record, Rejection):
        return record.reason.value
    return "sample" if record.captions else "missing_caption"


def outcomes(found: list[Record]) -> dict[str, str]:
    assert len({record.key for record in found}) == len(found)
    return {record.key: outcome(record) for record in found}


class KindContract(HandlerContract):
    """Subclass as for `HandlerContract`; `dataset` is the kind."""

    kind: ClassVar[KindHandler]

    def make_handler(self, folder: Path) -> KindHandler:
        return self.kind

    def add_records(self, folder: Path) -> None:
        """Add records to the source whose keys sort before and between the others."""
        raise NotImplementedError

    def test_the_module_provides_the_handler_of_its_preset(self, handler: Any) -> None:
        assert self.dataset in KINDS
        assert kind_class(self.dataset) is type(handler)

    def test_a_missing_file_is_an_error_that_names_it(self, handler: Any, folder: Path, tmp_path: Path) -> None:
        """One that goes after the listing; one that went before is no part of the source any more."""
        source = open_source(str(folder), tmp_path / "work")
        listing = handler.survey(source, tmp_path / "place", tmp_path / "partitions.tsv")
        for path in self.needed_files(listing.partitions):
            kept = (folder / path).rename(tmp_path / "kept")
            partition = next(each for each in listing.partitions if path in each.files)
            with pytest.raises(SourceError, match=Path(path).name):
                list(read(handler, partition, source, Annotations(listing.index)))
            kept.rename(folder / path)

    def test_new_records_form_new_partitions_and_old_ones_stay(
        self, handler: Any, folder: Path, tmp_path: Path
    ) -> None:
        """Wherever they sort, and though a list in git is all that is left of the first time."""
        if self.slice_setting:
            handler = dataclasses.replace(handler, **{self.slice_setting: 3})
        listed = tmp_path / "partitions.tsv"
        before = handler.survey(open_source(str(folder), tmp_path / "work"), tmp_path / "a", listed).partitions
        text = listed.read_bytes()
        again = handler.survey(open_source(str(folder), tmp_path / "work"), tmp_path / "b", listed).partitions
        assert again == before
        assert listed.read_bytes() == text
        self.add_records(folder)
        after = handler.survey(open_source(str(folder), tmp_path / "other"), tmp_path / "c", listed).partitions
        assert [part for part in after if part.name in {each.name for each in before}] == list(before)
        assert len(after) > len(before)
        assert {each.name for each in after[len(before) :]}.isdisjoint(each.name for each in before)
        source = open_source(str(folder), tmp_path / "third")
        found = records(handler, source, tmp_path / "d", listed)
        keys = [record.key for record in found if outcome(record) != "ambiguous_key"]
        assert len(keys) == len(set(keys))

    def test_a_list_of_partitions_that_is_something_else_is_refused(
        self, handler: Any, folder: Path, tmp_path: Path
    ) -> None:
        listed = tmp_path / "partitions.tsv"
        for text in ("", "key\tpartition\n", "partition\tkey\nnone\n", "partition\tkey\n<<<<<<< HEAD\n"):
            listed.write_text(text)
            source = open_source(str(folder), tmp_path / "work")
            if not text:
                assert handler.survey(source, tmp_path / "a", listed).partitions
                continue
            with pytest.raises(Exception, match=r"partitions\.tsv, line [12]"):
                handler.survey(source, tmp_path / "a", listed)


__all__ = ["Record", "Sample"]
