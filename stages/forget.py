"""Withdraw samples: list them in data/DATASET/withdrawn.tsv, which the loader and the pipeline obey."""

from pathlib import Path
from typing import Annotated

import typer

from microdiff.commands.cli import RootOption, echo, errors_in_words, workspace_at
from microdiff.commands.forget import Forgotten, Request, forget, read_requests
from microdiff.errors import ParamsError

app = typer.Typer(add_completion=False)
Keys = Annotated[Path | None, typer.Argument(help="File with a key per line, or dataset, key and reason between tabs.")]
KeyOption = Annotated[list[str] | None, typer.Option("--key", help="A key, as tables and messages show it.")]
DatasetOption = Annotated[str | None, typer.Option("--dataset", help="Of lines that name none; else all are searched.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="For lines that give none.")]
AllowUnknown = Annotated[bool, typer.Option("--allow-unknown", help="Also list keys that no artifact here has.")]


@app.command(help=__doc__)
def main(
    keys: Keys = None,
    key: KeyOption = None,
    dataset: DatasetOption = None,
    reason: ReasonOption = "withdrawn on request",
    root: RootOption = Path(),
    *,
    allow_unknown: AllowUnknown = False,
) -> None:
    """List the samples and say what is left to do."""
    with errors_in_words():
        requests = [Request(each, dataset, reason) for each in key or ()]
        if keys is not None:
            requests += read_requests(keys, dataset, reason)
        if not requests:
            raise ParamsError("no keys: give a file of keys, or --key KEY")
        done = forget(requests, workspace_at(root, "data", store=True), allow_unknown=allow_unknown)
        echo("\n".join(_line(each) for each in done))
        if twins := [twin for each in done for twin in each.twins]:
            echo(f"The same pictures are not withdrawn as {', '.join(twins)}: withdraw these, too, if that is meant.")
        names = " ".join(each.dataset for each in done)
        echo(f"The loader leaves them out from its next start. To take them out of the artifacts: make {names}")


def _line(done: Forgotten) -> str:
    where = f" in partitions {', '.join(sorted(done.partitions))}" if done.partitions else ""
    known = f"; {done.already} were listed already" if done.already else ""
    return f"{done.list_path}: {len(done.added)} samples added{where}{known}"


if __name__ == "__main__":
    app()
