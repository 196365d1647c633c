"""A dataset's annotations as a table, made in the partition store before the first partition that needs it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from microdiff.core.code_identity import code_identity
from microdiff.core.deciding_code import deciding_modules
from microdiff.core.ledger import Result
from microdiff.core.progress import Progress, Reporter
from microdiff.download.copies import read_copies
from microdiff.errors import StepError
from microdiff.formats.annotations import write_annotations
from microdiff.handlers import Handler
from microdiff.pipeline.executor import TaskResult
from microdiff.pipeline.params import Dataset
from microdiff.pipeline.parsing import deciding_values
from microdiff.pipeline.run import Run
from microdiff.pipeline.task import Task
from microdiff.pipeline.workers import WorkerPlan
from microdiff.storage import Source, SourceFile

_TABLE = "annotations.sqlite"


class AnnotationTable:
    """A dataset's table of annotations, made once in the store; a dataset without annotation files has none.

    Args:
        entry: The dataset.
        source: Where its annotation files are.
        files: These files.
        run: The run that needs it.
        keep: Paths of files that partitions need as well: they are not given back once the table is made.
    """

    def __init__(
        self, entry: Dataset, source: Source, files: Sequence[SourceFile], run: Run, keep: Collection[str] = ()
    ) -> None:
        self._run = run
        self._source = source
        self._keep = keep
        self.files = files
        self._task = Task(
            step="download-annotations",
            name=entry.name,
            cache_key={
                "code": code_identity(deciding_modules("download-annotations", entry.name, entry.handler_module)),
                "handler": deciding_values(entry.handler),
                "files": [asdict(file) for file in self.files],
            },
            compute=partial(_write_table, entry.handler, self._source, self.files),
        )

    @property
    def path(self) -> Path | None:
        """Where the table is once it is made."""
        return self._run.store.folder(self._task) / _TABLE if self.files else None

    def make(self) -> None:
        """Make the table unless it is there.

        Raises:
            StepError: It could not be made.
        """
        if not self.files or self._run.finder.find(self._task) is not None:
            return
        with Progress(f"annotations {self._task.name}", None) as progress:
            for item in self._run.store.compute([self._task], WorkerPlan(1), progress):
                if isinstance(item, TaskResult):
                    raise StepError(f"{item.name}: {item.error}")
        for file in self.files:
            if file.path not in self._keep:
                self._source.forget(file)


def _write_table(
    handler: Handler, source: Source, files: Sequence[SourceFile], folder: Path, report: Reporter
) -> Result:
    """Fetch the annotation files and write their table."""

    def write(local: Mapping[str, Path], _: Collection[str]) -> Result:
        (folder / _TABLE).unlink(missing_ok=True)
        num_rows = write_annotations(folder / _TABLE, handler.read_annotations(local), report)
        return Result({"in": num_rows, "kept": num_rows})

    return read_copies(source.with_reporter(report), files, write, report)
