"""What the loader's tests share: names that no other process takes, and the two ways to read."""

import tempfile
from collections.abc import Iterator

import pytest

from microdiff.loader.read import batched_io
from tests.loader.own_names import NUMBERS_FROM, choose_numbers, take_own_numbers


@pytest.fixture(scope="package")
def own_names(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep lock files and shared memory apart from those of other processes, here and in what tests start."""
    with pytest.MonkeyPatch.context() as patch:
        from streaming.base.shared import prefix

        folder = str(tmp_path_factory.mktemp("t"))
        patch.setattr(tempfile, "tempdir", folder)
        patch.setenv("TMPDIR", folder)
        patch.setenv(NUMBERS_FROM, choose_numbers())
        patch.setattr(prefix, "_each_prefix_int", prefix._each_prefix_int)  # to be put back
        take_own_numbers()
        yield


@pytest.fixture(params=["queue", "single calls"])
def way_to_read(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Have the loader read in either of its ways; by the system's queue where there is one."""
    monkeypatch.delenv(batched_io.SWITCH, raising=False)
    if request.param == "single calls":
        monkeypatch.setenv(batched_io.SWITCH, "0")
    elif (queue := batched_io._queue()) is None:
        pytest.skip("the system takes one read at a time")
    else:
        batched_io._idle.append(queue)
    return str(request.param)
