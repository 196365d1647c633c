"""What the stage scripts share: logging, errors in words, and exit codes."""

import errno
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from microdiff.core.ledger import Counts
from microdiff.core.places import check_writable, os_error_in_words
from microdiff.core.printable import printable
from microdiff.errors import MicrodiffError, ParamsError
from microdiff.pipeline.params import Params, load_params
from microdiff.pipeline.workspace import Workspace
from microdiff.remote.dvc_lock_copy import keep_copy

log = logging.getLogger("microdiff")

DatasetArgument = Annotated[str, typer.Argument(help="Name of a dataset in params.yaml, such as coco.")]
ParamsOption = Annotated[Path, typer.Option("--params", help="Settings file.")]
RootOption = Annotated[Path, typer.Option("--root", help="Folder that holds data/, metrics/, reports/ and .work/.")]


@contextmanager
def errors_in_words() -> Iterator[None]:
    """Turn what a user can act on into one to three lines and an exit code; with MICRODIFF_DEBUG=1 show tracebacks."""
    debug = os.environ.get("MICRODIFF_DEBUG") == "1"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Printable("%(message)s"))
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, handlers=[handler])
    log.setLevel(logging.DEBUG if debug else logging.INFO)
    try:
        yield
    except MicrodiffError as error:
        if debug:
            raise
        raise _exit(str(error), 1) from None
    except KeyboardInterrupt:
        raise _exit("interrupted. Finished partitions are kept; run it again to continue.", 130) from None
    except OSError as error:
        words = None if debug or error.errno == errno.EPIPE else os_error_in_words(error)
        if words is None:
            raise
        raise _exit(words, 1) from None


class _Printable(logging.Formatter):
    """Escapes what a terminal would obey: messages name keys and files of strangers."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line for a message."""
        return printable(super().format(record))


def echo(text: str) -> None:
    """Print a text that may hold keys, names or captions."""
    typer.echo(printable(text))


def workspace_at(root: Path, *written: str, store: bool = False) -> Workspace:
    """Return the workspace at a folder.

    Args:
        root: The folder.
        written: Folders in it that will be written: what hinders that is said now, not when the work is done.
        store: Whether the partition store will be written, too.

    Raises:
        ParamsError: There is no such folder.
        WriteError: One of these cannot be written, or is a file.
    """
    if not root.is_dir():
        what = "expected a folder, found a file" if root.exists() else "no such folder"
        raise ParamsError(f"{root}: {what}. Check --root.")
    workspace = Workspace(root)
    for folder in (*([workspace.store().root] if store else []), *(root / each for each in written)):
        check_writable(folder)
    return workspace


def _exit(message: str, code: int) -> typer.Exit:
    log.error("error: %s", message) if code == 1 else log.error("%s", message)
    return typer.Exit(code)


def run_stage(step: Callable[[str, Params, Workspace], Counts], dataset: str, params: Path, root: Path) -> None:
    """Run one step of one dataset as a stage script does."""
    with errors_in_words():
        name = step.__name__
        settings = load_params(params, dataset)
        workspace = workspace_at(root, f"data/{dataset}", f"metrics/{name}", f"reports/runs/{name}", store=True)
        keep_copy(root)
        step(dataset, settings, workspace)
