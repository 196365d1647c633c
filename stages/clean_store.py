"""Remove old partitions from the shared store, never those that a dvc.lock of this repository refers to."""

from pathlib import Path
from typing import Annotated

import typer

from microdiff.commands.cli import RootOption, errors_in_words
from microdiff.commands.shared_store import clean_store, parse_age
from microdiff.pipeline.workspace import Workspace

app = typer.Typer(add_completion=False)
OlderThan = Annotated[str, typer.Option("--older-than", help="How old: hours, days or weeks, such as 30d.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Remove nothing, and say what would be removed.")]


@app.command(help=__doc__)
def main(older_than: OlderThan, root: RootOption = Path(), *, dry_run: DryRun = False) -> None:
    """Clean the store, and say what that freed."""
    with errors_in_words():
        removed, num_bytes, kept = clean_store(parse_age(older_than), Workspace(root), dry_run=dry_run)
        verb = "would remove" if dry_run else "removed"
        typer.echo(f"{verb} {removed} entries, {num_bytes / 1e6:.1f} MB; kept {kept} old ones that are referred to")


if __name__ == "__main__":
    app()
