"""Where the values of a sample lie in its shard, and in what pieces they are best read. Needs nothing else.

A sample is `size of each variable-size column | values in the index's column order`. Where all but one of the variable
sizes can be guessed (latents have one size; keys mostly have as many characters as the last one), the last follows
from the sample's total size. So one read fetches a sample, and the sizes it brings along say whether the guess was
right.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from struct import Struct

from microdiff.artifacts.mds_index import ShardHeader

GAP_BYTES = 2**14  # what nobody asked for is read along up to this size: cheaper than a second system call


Piece = tuple[str | None, int, bool]
"""A run of a sample's bytes with one destination: the column if it goes into a batch, None for scratch memory; its
bytes without those of the guessed column; whether those come on top."""

Read = tuple[int, bool, Sequence[Piece]]
"""A contiguous run of pieces: its position in the sample without the guessed column's bytes; whether those come on top;
the pieces."""

Text = tuple[str, int, bool, int, bool]
"""Where a text is in scratch memory: its column; its begin, and whether the guessed column's bytes come on top; its
bytes, likewise."""


@dataclass(frozen=True, eq=False)
class Plan:
    """How to read samples whose variable columns have the sizes guessed.

    Attributes:
        rest: Bytes of a sample without the guessed column.
        scratch: Scratch memory it takes, without the guessed column and the sizes at its start.
        sizes: Of the variable columns, 0 for the guessed one.
        guessed: Which of them follows from a sample's total size; None if there is no need to guess.
        reads: What to read; the sizes at the sample's start are the first one's as well, before its pieces.
        texts: The texts among it.
    """

    rest: int
    scratch: int
    sizes: tuple[int, ...]
    guessed: int | None
    reads: Sequence[Read]
    texts: Sequence[Text]


class Layout:
    """The columns of a shard, and which of them are wanted.

    Args:
        header: What the shard says of itself.
        arrays: Wanted columns of fixed size and their bytes; also those that the index calls variable.
        texts: Wanted columns of varying size.

    Attributes:
        variable: The columns of varying size, in their order.
        head: Their sizes, at the start of each sample.
        only_plan: The plan for every sample, None if their sizes ask for several.
    """

    def __init__(self, header: ShardHeader, arrays: Mapping[str, int], texts: Sequence[str]) -> None:
        self._columns = list(zip(header.column_names, header.column_sizes, strict=True))
        self._arrays, self._texts = dict(arrays), set(texts)
        self.variable = [name for name, size in self._columns if not size]
        self.head = Struct(f"<{len(self.variable)}I")
        unknown = [number for number, name in enumerate(self.variable) if name not in self._arrays]
        self._guessed = unknown[0] if unknown else None
        self._plans: dict[tuple[int, ...], Plan] = {}
        sizes = [self._arrays.get(name, 0) for name in self.variable]
        self.only_plan = self.plan(sizes) if len(unknown) <= 1 else None

    def check(self, sizes: Sequence[int]) -> str:
        """Return in words what a sample's sizes have against its being read; nothing if they are right."""
        for name, size in zip(self.variable, sizes, strict=True):
            if size != self._arrays.get(name, size):
                return f"{name} takes {size} bytes, expected {self._arrays[name]}"
        return ""

    def plan(self, sizes: Sequence[int]) -> Plan:
        """Return the plan for samples with these sizes of variable columns; the guessed one's does not matter."""
        fixed = tuple(0 if number == self._guessed else size for number, size in enumerate(sizes))
        plan = self._plans.get(fixed)
        if plan is None:
            if len(self._plans) > 1024:  # texts of every length: more plans than it pays to keep
                self._plans.clear()
            plan = self._plans[fixed] = self._make(fixed)
        return plan

    def _values(self, sizes: Sequence[int]) -> Iterator[Piece]:
        """Yield name, size and whether it is the guessed one, of all columns."""
        variable = iter(enumerate(sizes))
        for name, fixed in self._columns:
            if fixed:
                yield name, fixed, False
            else:
                number, size = next(variable)
                yield name, size, number == self._guessed

    def _make(self, sizes: tuple[int, ...]) -> Plan:
        pieces: list[Piece] = []
        unwanted: list[Piece] = []  # read along only if something wanted follows soon
        reads: list[Read] = []
        texts: list[Text] = []
        begin, shifts = 0, False
        position, moved = self.head.size, False
        for name, size, stretches in self._values(sizes):
            if name not in self._arrays and name not in self._texts:
                unwanted.append((None, size, stretches))
            else:
                if sum(skipped for _, skipped, _ in unwanted) > GAP_BYTES:
                    reads.append((begin, shifts, pieces))
                    pieces, begin, shifts = [], position, moved
                else:
                    pieces += unwanted
                unwanted = []
                if name in self._texts:
                    scratch = [each for *_, run in (*reads, (0, False, pieces)) for each in run if each[0] is None]
                    at, later = sum(each[1] for each in scratch), any(each[2] for each in scratch)
                    texts.append((name, at, later, size, stretches))
                pieces.append((name if name in self._arrays else None, size, stretches))
            position += size
            moved |= stretches
        reads.append((begin, shifts, pieces))
        scratch_bytes = sum(size for *_, run in reads for column, size, _ in run if column is None)
        merged = [(place, later, _merged(run)) for place, later, run in reads]
        return Plan(position, scratch_bytes, sizes, self._guessed, merged, texts)


def _merged(pieces: Sequence[Piece]) -> list[Piece]:
    """Join neighbours that go into scratch memory."""
    merged: list[Piece] = []
    for column, size, stretches in pieces:
        if column is None and merged and merged[-1][0] is None:
            _, before, stretched = merged.pop()
            size, stretches = before + size, stretched or stretches
        merged.append((column, size, stretches))
    return merged
