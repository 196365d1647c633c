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
from microdiff.errors import MicrodiffError
from microdiff.pipeline.params import Params, load_params
from microdiff.pipeline.workspace import Workspace

log = logging.getLogger("microdiff")

DatasetArgument = Annotated[str, typer.Argument(help="Name of a dataset in params.yaml, such as coco.")]
ParamsOption = Annotated[Path, typer.Option("--params", help="Settings file.")]
RootOption = Annotated[Path, typer.Option("--root", help="Folder that holds data/, metrics/, reports/ and .work/.")]


@contextmanager
def errors_in_words() -> Iterator[None]:
    """Turn what a user can act on into one to three lines and an exit code; with MICRODIFF_DEBUG=1 show tracebacks."""
    debug = os.environ.get("MICRODIFF_DEBUG") == "1"
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, format="%(message)s", stream=sys.stderr)
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
        if debug or error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f" while writing {error.filename}" if error.filename else ""
        raise _exit(
            f"the disk is full{where}. Free some space and run it again; finished partitions are kept.", 1
        ) from None


def _exit(message: str, code: int) -> typer.Exit:
    log.error("error: %s", message) if code == 1 else log.error("%s", message)
    return typer.Exit(code)


def run_stage(step: Callable[[str, Params, Workspace], Counts], dataset: str, params: Path, root: Path) -> None:
    """Run one step of one dataset as a stage script does."""
    with errors_in_words():
        step(dataset, load_params(params, dataset), Workspace(root))
