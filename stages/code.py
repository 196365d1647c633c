"""Write which code each step runs into code/, so that DVC reruns a step when its code changes in meaning."""

from pathlib import Path
from typing import Annotated

import typer

from microdiff.commands.cli import errors_in_words
from microdiff.commands.code_digests import FOLDER, stale_code_files, write_code_files
from microdiff.errors import ParamsError

app = typer.Typer(add_completion=False)
Check = Annotated[bool, typer.Option("--check", help="Write nothing; exit with 1 if the files are not current.")]
Wait = Annotated[float, typer.Option("--wait", help="With --check: seconds to wait for another run that writes them.")]
SameBytes = Annotated[
    bool,
    typer.Option(
        "--same-bytes",
        help="Recompute the samples, and list changed code that gives the same bytes: it computes nothing again.",
    ),
]
Since = Annotated[str, typer.Option("--since", metavar="REV", help="With --same-bytes: the commit to compare with.")]
Declare = Annotated[
    str | None,
    typer.Option("--declare", metavar="REASON", help="With --same-bytes: list also what cannot be shown, and say why."),
]


@app.command(help=__doc__)
def main(
    *,
    check: Check = False,
    wait: Wait = 0.0,
    same_bytes: SameBytes = False,
    since: Since = "HEAD",
    declare: Declare = None,
) -> None:
    """Write the digests, or check them; DVC calls this when a file of microdiff/ or stages/ has changed."""
    with errors_in_words():
        root = Path()
        if declare is not None and not same_bytes:
            raise ParamsError("--declare needs --same-bytes: what can be shown need not be declared")
        if same_bytes:
            from microdiff.commands.same_bytes import list_same_bytes

            if not list_same_bytes(root, since, declare, typer.echo):
                raise typer.Exit(1)
        elif not check:
            write_code_files(root)
        elif stale := stale_code_files(root, wait):
            typer.echo(f"{FOLDER}/ is not current: {', '.join(stale)}", err=True)
            raise typer.Exit(1)


if __name__ == "__main__":
    app()
