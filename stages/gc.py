"""Say what DVC's cache and remote keep that no branch or tag refers to; remove it with --apply."""

from pathlib import Path
from typing import Annotated

import typer

from microdiff.commands.cli import RootOption, errors_in_words
from microdiff.commands.gc import collect_garbage

app = typer.Typer(add_completion=False)
Apply = Annotated[bool, typer.Option("--apply", help="Remove what is in the cache.")]
Remote = Annotated[bool, typer.Option("--remote", help="With --apply: also what is on the remote, for everybody.")]


@app.command(help=__doc__)
def main(root: RootOption = Path(), *, apply: Apply = False, remote: Remote = False) -> None:
    """Collect garbage, and say what there is."""
    with errors_in_words():
        for found in collect_garbage(root, apply=apply, remote=remote):
            size = "" if found.num_bytes is None else f", {found.num_bytes / 1e6:.1f} MB"
            verb = "removed" if found.removed else "would remove"
            typer.echo(f"{found.place}: {verb} {found.number} objects{size}")


if __name__ == "__main__":
    app()
