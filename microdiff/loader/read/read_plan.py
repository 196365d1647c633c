"""Where the values of a sample lie in its shard, and in what spans they are best read.

A sample is `size of each variable-size column | values in the index's column order`. Where all but one of the variable
sizes can be guessed (latents have one size; keys mostly have as many characters as the last one), the last follows
from the sample's total size. So one read fetches a sample, and the sizes it brings along say whether the guess was
right. The offsets and sizes of a plan leave out that one column; `plus_guessed` and `shifted` say where its size must
be added.

Imports neither torch nor streaming.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import NamedTuple

from microdiff.artifacts.mds_header import ShardHeader

GAP_BYTES = 2**14  # what nobody asked for is read along up to this size: cheaper than a second system call


class Span(NamedTuple):
    """Bytes of a sample that go to one destination.

    Attributes:
        column: The column of the batch, None for scratch memory.
        num_bytes: How many, without the guessed column.
        plus_guessed: Whether the guessed column is among them.
    """

    column: str | None
    num_bytes: int
    plus_guessed: bool


class ReadRun(NamedTuple):
    """Spans that lie one after the other and are read at once.

    Attributes:
        offset: Where they begin in the sample, without the guessed column.
        shifted: Whether they lie behind the guessed column.
        spans: The spans.
    """

    offset: int
    shifted: bool
    spans: Sequence[Span]


class TextSpan(NamedTuple):
    """A text in scratch memory.

    Attributes:
        column: Its column.
        offset: Where it begins in the sample's scratch memory, without the guessed column.
        shifted: Whether it lies behind the guessed column.
        num_bytes: Its bytes, without the guessed column.
        plus_guessed: Whether it is the guessed column.
    """

    column: str
    offset: int
    shifted: bool
    num_bytes: int
    plus_guessed: bool


@dataclass(frozen=True, eq=False)
class Plan:
    """How to read samples whose variable columns have the sizes guessed.

    Attributes:
        sample_bytes: Bytes of a sample, without the guessed column.
        scratch_bytes: Bytes of scratch memory it takes, without the guessed column and the sizes at its start.
        sizes: Of the variable columns, 0 for the guessed one.
        guessed: Which of them follows from a sample's total size; None if there is no need to guess.
        runs: What to read; the first begins with the sizes at the sample's start, before its spans.
        texts: The texts among it.
    """

    sample_bytes: int
    scratch_bytes: int
    sizes: tuple[int, ...]
    guessed: int | None
    runs: Sequence[ReadRun]
    texts: Sequence[TextSpan]


class Layout:
    """The columns of a shard, and which of them are wanted.

    Args:
        header: What the shard says of itself.
        arrays: Wanted columns of fixed size and their bytes; also those that the index calls variable.
        texts: Wanted columns of varying size.

    Attributes:
        header: What the index says of the shard.
        known_headers: What shards have said of themselves, as bytes, and been found to agree with it.
        variable: The columns of varying size, in their order.
        head: Their sizes, at the start of each sample.
        only_plan: The plan for every sample, None if their sizes ask for several.
    """

    def __init__(self, header: ShardHeader, arrays: Mapping[str, int], texts: Sequence[str]) -> None:
        self.header, self.known_headers = header, set[bytes]()
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

    def _spans(self, sizes: Sequence[int]) -> Iterator[tuple[str, Span]]:
        """Yield each column's name and its span, which goes into the batch or, where texts are read, into scratch."""
        variable = iter(enumerate(sizes))
        for name, fixed in self._columns:
            number, size = (None, fixed) if fixed else next(variable)
            plus_guessed = number is not None and number == self._guessed
            yield name, Span(name if name in self._arrays else None, size, plus_guessed)

    def _make(self, sizes: tuple[int, ...]) -> Plan:
        runs: list[ReadRun] = []
        texts: list[TextSpan] = []
        spans: list[Span] = []  # of the run that is being put together
        unwanted: list[Span] = []  # read along only if something wanted follows soon
        begin, begin_shifted = 0, False
        position, shifted = self.head.size, False
        for name, span in self._spans(sizes):
            if name not in self._arrays and name not in self._texts:
                unwanted.append(span)
            else:
                if sum(each.num_bytes for each in unwanted) > GAP_BYTES:
                    runs.append(ReadRun(begin, begin_shifted, spans))
                    spans, begin, begin_shifted = [], position, shifted
                else:
                    spans += unwanted
                unwanted = []
                if name in self._texts:
                    before = _scratch_spans([*runs, ReadRun(0, False, spans)])
                    offset, is_shifted = (
                        sum(each.num_bytes for each in before),
                        any(each.plus_guessed for each in before),
                    )
                    texts.append(TextSpan(name, offset, is_shifted, span.num_bytes, span.plus_guessed))
                spans.append(span)
            position += span.num_bytes
            shifted |= span.plus_guessed
        runs.append(ReadRun(begin, begin_shifted, spans))
        scratch_bytes = sum(each.num_bytes for each in _scratch_spans(runs))
        merged = [run._replace(spans=_merged(run.spans)) for run in runs]
        return Plan(position, scratch_bytes, sizes, self._guessed, merged, texts)


def _scratch_spans(runs: Sequence[ReadRun]) -> list[Span]:
    return [span for run in runs for span in run.spans if span.column is None]


def _merged(spans: Sequence[Span]) -> list[Span]:
    """Join neighbours that go into scratch memory."""
    merged: list[Span] = []
    for span in spans:
        if span.column is None and merged and merged[-1].column is None:
            before = merged.pop()
            span = Span(None, before.num_bytes + span.num_bytes, before.plus_guessed or span.plus_guessed)
        merged.append(span)
    return merged
