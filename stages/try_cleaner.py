"""Print what each caption cleaner makes of a text, or of each line of a file, and which rules changed it."""

from typing import Annotated

import typer

from microdiff.commands.cli import errors_in_words
from microdiff.commands.try_cleaner import describe, texts_of

app = typer.Typer(add_completion=False)
Text = Annotated[
    str,
    typer.Argument(
        metavar="TEXT|FILE|-",
        help="A caption, or a file with one on each line, or - for standard input.",
        show_default=False,
    ),
]
Strip = Annotated[
    bool, typer.Option("--strip-parameters", help="As the setting: take parameters of prompts out first.")
]
Rules = Annotated[bool, typer.Option("--rules/--no-rules", help="Whether to print which rules changed the text.")]


@app.command(help=__doc__)
def main(text: Text, *, strip_parameters: Strip = False, rules: Rules = True) -> None:
    """Try the cleaners."""
    with errors_in_words():
        for each in texts_of(text):
            typer.echo("\n".join(describe(each, strip=strip_parameters, rules=rules)))


if __name__ == "__main__":
    app()
