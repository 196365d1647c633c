"""Where a dataset comes from, and what is there: its source asked, or what that said last time."""

from pathlib import Path

from microdiff.config.roots import public_root
from microdiff.core.progress import Reporter
from microdiff.download.copies import NotedSource
from microdiff.download.inventory import LostSource, SourceInventory, describe, recall, remember
from microdiff.download.revisions import Revisions
from microdiff.errors import ParamsError, SourceError
from microdiff.kinds import KindHandler, Listing
from microdiff.kinds.listing import listing_place
from microdiff.pipeline.params import Dataset
from microdiff.pipeline.parsing import as_values
from microdiff.pipeline.selection import select
from microdiff.storage import Source
from microdiff.storage.opening import open_source


class Origin:
    """Where a dataset comes from, and what is there.

    Args:
        entry: The dataset.
        work: The store's folder, where the inventory is kept.
        revisions: The commits that sources on the hub stay at.
        report: Receives messages.
        recorded: The dataset's list of partitions, where it has a kind.
        may_be_lost: Whether the inventory kept will do if the source does not answer.
    """

    def __init__(
        self,
        entry: Dataset,
        work: Path,
        revisions: Revisions,
        report: Reporter,
        recorded: Path,
        *,
        may_be_lost: bool,
    ) -> None:
        question = {
            "source": public_root(entry.source),
            "handler": as_values(entry.handler),
            "partitions": entry.partitions,
        }
        kept = work / "listings" / f"{entry.name}.json"
        self.source: Source
        self.annotations: Source  # where annotation files are
        self._failures: list[SourceError] = []  # of the sources themselves
        self.listing: Listing | None = None  # of a dataset that has a kind
        try:
            self._ask(entry, work, revisions, report, recorded)
        except SourceError as error:
            is_lost = any(error is each or error.__cause__ is each for each in self._failures)
            earlier = recall(kept, question) if may_be_lost and is_lost else None
            if earlier is None:
                raise
            report.say(f"{error}\nGoing on with what the source listed last time, to take out withdrawn samples.")
            self.source = self.annotations = LostSource(earlier.source, error)
            self.inventory = earlier
        else:
            remember(kept, question, self.inventory)

    def _ask(self, entry: Dataset, work: Path, revisions: Revisions, report: Reporter, recorded: Path) -> None:
        def open_at(root: str) -> Source:
            try:
                source = open_source(revisions.pinned(root, report), work)
            except SourceError as error:
                self._failures.append(error)
                raise
            revisions.note(root, source)
            return source

        self.source = self.annotations = open_at(entry.source)
        source = NotedSource(self.source.with_reporter(report), failures=self._failures)
        try:
            if isinstance(entry.handler, KindHandler):
                self.listing = entry.handler.survey(source, listing_place(work, entry.name), recorded)
            listed = entry.handler.partitions(source) if self.listing is None else self.listing.partitions
        except SourceError as error:
            if source.disown_unchecked():
                raise SourceError(f"{error}\nWhat was fetched is dropped: the next run fetches it anew.") from error
            raise
        partitions = tuple(select(listed, entry.partitions, entry.name))
        if unknown := sorted(entry.fetch_again.keys() - {part.name for part in listed}):
            raise ParamsError(
                f"datasets.{entry.name}.download.fetch_again: {unknown[0]!r} is no partition; expected a name such as "
                f"'{listed[0].name}', in quotation marks"
            )
        files = describe(source, entry.handler, [path for part in partitions for path in part.files])
        root = entry.handler.annotation_root()
        if root is not None:
            self.annotations = open_at(root)
        where = NotedSource(self.annotations.with_reporter(report), failures=self._failures)
        annotations = describe(where, entry.handler, entry.handler.annotation_files(where))
        self.inventory = SourceInventory(self.source.name, partitions, files, tuple(annotations.values()))
