"""Check files byte by byte: against the manifest's sha256 and size, and DVC's md5."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from microdiff.core.files import new_md5
from microdiff.verify.findings import Findings

_CHUNK_BYTES = 2**20
_SHOWN = 12


@dataclass(frozen=True)
class Expected:
    """What is recorded of a file; None where nothing is."""

    num_bytes: int | None = None
    sha256: str | None = None
    md5: str | None = None


def check_files(folder: Path, expected: Mapping[str, Expected], findings: Findings) -> None:
    """Read files and note those that are not as recorded.

    Args:
        folder: The artifact.
        expected: What is recorded, by path in the artifact.
        findings: Receives problems, damaged files, md5 and the number of bytes.
    """
    for name, record in expected.items():
        path = folder / name
        try:
            sha256, md5, num_bytes = _read(path)
        except FileNotFoundError:
            findings.add(name, "it is missing", is_damage=True)
            continue
        except OSError as error:
            findings.add(name, f"it cannot be read ({error})", is_damage=True)
            continue
        findings.md5[name] = md5
        findings.num_bytes += num_bytes
        if record.num_bytes not in (None, num_bytes):
            findings.add(name, f"it has {num_bytes} bytes, expected {record.num_bytes}", is_damage=True)
        elif record.sha256 not in (None, sha256):
            findings.add(name, _differs("sha256", sha256, record.sha256), is_damage=True)
        elif record.sha256 is None and record.md5 not in (None, md5):
            findings.add(name, _differs("md5", md5, record.md5), is_damage=True)


def _read(path: Path) -> tuple[str, str, int]:
    """Return a file's sha256, md5 and size, read once."""
    sha256, md5, num_bytes = hashlib.sha256(), new_md5(), 0
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK_BYTES):
            sha256.update(chunk)
            md5.update(chunk)
            num_bytes += len(chunk)
    return sha256.hexdigest(), md5.hexdigest(), num_bytes


def _differs(name: str, found: str, expected: str | None) -> str:
    return f"its bytes have changed: {name} {found[:_SHOWN]}..., expected {str(expected)[:_SHOWN]}..."
