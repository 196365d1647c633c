"""Add pictures of your own as a dataset: look at SOURCE, show what is in it, write its entry into params.yaml."""

from pathlib import Path
from typing import Annotated

import typer

from microdiff.commands.add import add
from microdiff.commands.build import refresh_code
from microdiff.commands.cli import RootOption, echo, errors_in_words

app = typer.Typer(add_completion=False)
Name = Annotated[str, typer.Argument(help="Of the dataset: letters, digits and _.")]
SourceArgument = Annotated[str, typer.Argument(help="A folder, a file, a pattern, or a URL: hf://, s3://, https://.")]
Kind = Annotated[str | None, typer.Option("--kind", help="folder, webdataset, parquet, jsonl or csv; else found out.")]
Caption = Annotated[
    list[str] | None, typer.Option("--caption", help="Extension, column or field with captions; several give several.")
]
Image = Annotated[str | None, typer.Option("--image", help="Column or field that has or names the picture.")]
Key = Annotated[str | None, typer.Option("--key", help="Column or field that is the key.")]
Metadata = Annotated[str | None, typer.Option("--metadata", help="Of a folder: the tables that have the captions.")]
Files = Annotated[str | None, typer.Option("--files", help="Which files below SOURCE: a path or a pattern.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show everything and write nothing.")]


@app.command(help=__doc__)
def main(
    name: Name,
    source: SourceArgument,
    kind: Kind = None,
    caption: Caption = None,
    image: Image = None,
    key: Key = None,
    metadata: Metadata = None,
    files: Files = None,
    root: RootOption = Path(),
    *,
    dry_run: DryRun = False,
) -> None:
    """Add the dataset."""
    with errors_in_words():
        said = {"caption": caption, "image": image, "key": key, "metadata": metadata, "files": files}
        options = {name: value for name, value in said.items() if value}
        if caption:
            options["caption"] = caption[0] if len(caption) == 1 else caption
        add(name, source, root, echo, kind, options, dry_run=dry_run)
        if not dry_run:
            refresh_code(root)


if __name__ == "__main__":
    app()
