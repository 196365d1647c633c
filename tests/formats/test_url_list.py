"""Lists of URLs: how many of a slice may fail, of those that are there to be fetched."""

from pathlib import Path

import pytest

from microdiff.errors import SourceError
from microdiff.formats.records import Inputs
from microdiff.formats.url_list import Slice, read_slice


def num_read(folder: Path, data: bytes, max_failed_share: float) -> int:
    """Read a list none of whose URLs is HTTP, so that each fails unasked; return the number of records."""
    path = folder / "list.tsv"
    path.write_bytes(data)
    lines = Slice(name="0", number=0, files=(path.name,), first_byte=0, first_line=1)
    inputs = Inputs(files={path.name: path}, scratch=folder)
    return sum(1 for _ in read_slice(lines, inputs, max_failed_share, timeout_s=1.0, retries=0))


def test_lines_without_a_url_hide_no_failures(tmp_path: Path) -> None:
    data = b"ftp://a\tone\n\tnone\nnone\n"
    with pytest.raises(SourceError, match=r"1 of 1 URLs failed \(1 of them: not an http.*max_failed_share 50%"):
        num_read(tmp_path, data, 0.5)
    assert num_read(tmp_path, data, 1.0) == 3


def test_lines_without_a_url_are_no_failures(tmp_path: Path) -> None:
    assert num_read(tmp_path, b"\tnone\nnone\n", 0.0) == 2
