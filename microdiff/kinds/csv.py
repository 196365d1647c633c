"""CSV and TSV tables that name pictures by path or URL: `kind: csv`."""

from dataclasses import dataclass
from typing import ClassVar

from microdiff.config.settings import Problems
from microdiff.kinds.tables import Tables


@dataclass(frozen=True, kw_only=True)
class Csv(Tables):
    """Tables with a header.

    Attributes:
        delimiter: Between fields; null: a comma in `.csv`, a tab in `.tsv`.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".csv", ".tsv")

    delimiter: str | None = None

    @property
    def between_fields(self) -> str | None:
        """What separates fields, None if the table's name says so."""
        return self.delimiter

    def problems(self) -> Problems:
        """Yield settings out of range."""
        yield from super().problems()
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '"\n\r'):
            yield "delimiter", f"expected null or one character, got {self.delimiter!r}"


HANDLER = Csv
