"""Which files of a store's folder are known to be as they were when they were hashed; see `microdiff.core.file_facts`.

Files of the store are hard links: the artifact and DVC's cache hold the same ones, and root writes through any of these
names, whatever the permissions are. A link more or less changes ctime, too: after DVC has linked a file it is hashed
once more. `carried_over` is for links that this process makes itself. The notes, `.hashed` in each folder, hold nothing
that could not be lost.
"""

import contextlib
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from microdiff.core.file_facts import HASH_ALWAYS, Facts, file_facts, now_ns, were_stable
from microdiff.core.verified_files import InputFile

NOTE = ".hashed"


def check_hashed(folder: Path, files: Mapping[str, InputFile]) -> None:
    """Hash those files of a folder that are not known to be unchanged, and remember them.

    Args:
        folder: Of the store.
        files: By name.

    Raises:
        DamagedError: One is not the recorded one, or not there.
    """
    known = unchanged(folder, files)
    fresh: dict[str, Facts] = {}
    for name in files.keys() - known.keys():
        started, before = now_ns(), file_facts(files[name].path)
        files[name].check()
        if before is not None and were_stable(before, files[name].path, started):
            fresh[name] = before
    if fresh:
        _write(folder, {**known, **fresh})


def unchanged(folder: Path, names: Iterable[str]) -> dict[str, Facts]:
    """Return those of a folder's files that nobody has written to since they were hashed, with what tells that."""
    if os.environ.get(HASH_ALWAYS) == "1":
        return {}
    try:
        noted = json.loads((folder / NOTE).read_bytes())
        return {name: noted[name] for name in names if name in noted and noted[name] == file_facts(folder / name)}
    except (OSError, ValueError, TypeError):
        return {}


def remember_written(folder: Path, names: Iterable[str]) -> None:
    """Remember files that this process has written and hashed, those that no other name leads to."""
    alone = [name for name in names if (folder / name).stat().st_nlink == 1]
    _write(folder, {name: facts for name in alone if (facts := file_facts(folder / name))})


@contextmanager
def carried_over(folders: Mapping[Path, Iterable[str]]) -> Iterator[None]:
    """Keep what is known of files by folder while the block links them: that changes their ctime, and nothing else."""
    before = {folder: unchanged(folder, names) for folder, names in folders.items()}
    yield
    for folder, known in ((folder, known) for folder, known in before.items() if known):
        now = {name: file_facts(folder / name) for name in known}
        _write(folder, {name: facts for name, facts in now.items() if facts and facts[:-1] == known[name][:-1]})


def _write(folder: Path, noted: Mapping[str, Facts]) -> None:
    temporary = folder / f"{NOTE}.{uuid.uuid4().hex[:8]}"
    with contextlib.suppress(OSError):  # a folder that was dropped meanwhile, or one that may not be written to
        temporary.write_text(json.dumps(noted))
        temporary.replace(folder / NOTE)
