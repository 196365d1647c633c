"""Withdraw samples: list them in data/DATASET/withdrawn.tsv, which the loader and the pipeline obey."""

from pathlib import Path
from typing import Annotated

import typer

from microdiff.commands.cli import RootOption, errors_in_words, workspace_at
from microdiff.commands.forget import Forgotten, forget, read_requests

app = typer.Typer(add_completion=False)
Keys = Annotated[Path, typer.Argument(help="File with a key per line, or dataset, key and reason between tabs.")]
DatasetOption = Annotated[str | None, typer.Option("--dataset", help="Of lines that name none; else all are searched.")]
Reason = Annotated[str, typer.Option("--reason", help="For lines that give none.")]
AllowUnknown = Annotated[bool, typer.Option("--allow-unknown", help="Also list keys that no artifact here has.")]


@app.command(help=__doc__)
def main(
    keys: Keys,
    dataset: DatasetOption = None,
    reason: Reason = "withdrawn on request",
    root: RootOption = Path(),
    *,
    allow_unknown: AllowUnknown = False,
) -> None:
    """List the samples and say what is left to do."""
    with errors_in_words():
        done = forget(
            read_requests(keys, dataset, reason), workspace_at(root, "data", store=True), allow_unknown=allow_unknown
        )
        typer.echo("\n".join(_line(each) for each in done))
        names = " ".join(each.dataset for each in done)
        typer.echo(f"The loader leaves them out from its next start. To take them out of the artifacts: make {names}")


def _line(done: Forgotten) -> str:
    where = f" in partitions {', '.join(sorted(done.partitions))}" if done.partitions else ""
    known = f"; {done.already} were listed already" if done.already else ""
    return f"{done.list_path}: {len(done.added)} samples added{where}{known}"


if __name__ == "__main__":
    app()
