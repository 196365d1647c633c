"""Remove finished partitions that no artifact refers to, here or in another clone that shares the folder."""

from pathlib import Path

import typer

from microdiff.commands.cli import RootOption, errors_in_words, workspace_at
from microdiff.pipeline.store_users import needed_by_others

app = typer.Typer(add_completion=False)


@app.command(help=__doc__)
def main(root: RootOption = Path()) -> None:
    """Prune the partition store."""
    with errors_in_words():
        workspace = workspace_at(root, "data", store=True)
        needed = [*workspace.fingerprints(), *needed_by_others(workspace)]
        removed, freed = workspace.store().prune(needed)
        typer.echo(f"removed {removed} folders, freed {freed / 1e6:.1f} MB")


if __name__ == "__main__":
    app()
