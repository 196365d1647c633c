"""JSON lines that name pictures by path or URL: `kind: jsonl`."""

from dataclasses import dataclass
from typing import ClassVar

from microdiff.kinds.tables import Tables


@dataclass(frozen=True, kw_only=True)
class JsonLines(Tables):
    """Files with a JSON object per line."""

    suffixes: ClassVar[tuple[str, ...]] = (".jsonl", ".ndjson")


HANDLER = JsonLines
