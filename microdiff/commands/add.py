"""Add a dataset of one's own: look at a source, show what is in it, and write its entry into params.yaml."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from microdiff.commands.look import look, show, show_cost
from microdiff.commands.own import PARAMS, place_withdrawn
from microdiff.core.files import scratch_folder, write_text
from microdiff.errors import ParamsError
from microdiff.kinds import DEFAULT_REJECTED_SHARE, KINDS, KindHandler, kind_class
from microdiff.kinds.detect import Doubt, detect
from microdiff.kinds.listing import listing_place
from microdiff.kinds.names import name_problem
from microdiff.kinds.source import kind_of_name, split_source
from microdiff.pipeline.params import load_params
from microdiff.pipeline.params_text import entry_lines, with_entry, without_entry
from microdiff.pipeline.parsing import parse
from microdiff.pipeline.workspace import Workspace
from microdiff.storage.opening import open_source

log = logging.getLogger("microdiff")
Say = Callable[[str], None]

_STEPS = ("download", "clean", "encode", "shard")


def add(
    name: str, source: str, root: Path, say: Say, kind: str | None, options: Mapping[str, Any], *, dry_run: bool
) -> None:
    """Add a dataset.

    Args:
        name: Its name.
        source: Where its pictures are.
        root: The repository.
        say: Receives what is to be shown.
        kind: What the user says it is; None: found out.
        options: What the user says of its settings.
        dry_run: Whether nothing is to be written.

    Raises:
        ParamsError: The name cannot be used, or something could not be decided; the message has the likely answers.
        SourceError: The source cannot be read.
    """
    text = _check(name, kind, root)
    workspace = Workspace(root)
    work = workspace.store().root
    opened = open_source(split_source(source, kind or kind_of_name(source) or "folder")[0], work)
    guess = detect(opened, source, kind, options.get("metadata"), options.get("files"))
    settings = {**guess.settings, **options}
    doubts = [doubt for doubt in guess.doubts if guess.kind is None or not doubt.is_answered(options)]
    if guess.kind is None or doubts:
        raise ParamsError(_undecided(name, source, doubts))
    entry = _entry(guess.kind, source, settings)
    handler = _handler(guess.kind, entry)
    say(f"{name}: kind {guess.kind} ({guess.seen or 'by its name'}); captions: {settings.get('caption', 'txt')}")
    with scratch_folder(work) as scratch:
        place = scratch / "listing" if dry_run else listing_place(work, name)
        recorded = scratch / "partitions.tsv" if dry_run else workspace.partition_list(name)
        survey = look(handler, opened, place, recorded, scratch)
    show(survey, say)
    show_cost(name, survey, say)
    if dry_run:
        say("Nothing was written (--dry-run). The entry would be:")
        say("\n".join(entry_lines(name, entry)))
        return
    write_text(root / PARAMS, with_entry(text, name, entry))
    place_withdrawn(root, [name])
    load_params(root / PARAMS, name, recorded=True)
    say(f"Written: its entry in {PARAMS}, data/{name}/withdrawn.tsv and data/{name}/partitions.tsv. Next: make {name}")


def remove(name: str, root: Path, say: Say) -> None:
    """Remove a dataset's entry, and say what stays.

    Raises:
        ParamsError: There is no such entry.
    """
    path = root / PARAMS
    text = path.read_text(encoding="utf-8")
    write_text(path, without_entry(text, name))
    kept = [f"data/{name}", *(f"metrics/{step}/{name}.json" for step in _STEPS)]
    say(f"{PARAMS}: the entry {name} is removed. Its source is untouched.")
    if stays := " ".join(each for each in kept if (root / each).exists()):
        say(f"These stay: {stays}. To remove them: rm -r {stays}")
    say("Finished partitions stay in .work until make clean-work, artifacts in DVC's cache until make gc.")


def _check(name: str, kind: str | None, root: Path) -> str:
    """Return the text of params.yaml, to which the dataset can be added."""
    if problem := name_problem(name):
        raise ParamsError(problem)
    if kind is not None and kind not in KINDS:
        raise ParamsError(f"--kind: expected one of {', '.join(KINDS)}, got {kind!r}")
    path = root / PARAMS
    if not path.is_file():
        raise ParamsError(f"{path}: no such file. Copy a preset: make preset PRESET=sample")
    text = path.read_text(encoding="utf-8")
    try:
        without_entry(text, name)
    except ParamsError as error:
        if "has no entry" in str(error):
            return text
        raise
    raise ParamsError(f"{PARAMS}: has an entry {name} already. Choose another name, or make remove NAME={name}")


def _entry(kind: str, source: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "kind": kind,
        "max_rejected_share": DEFAULT_REJECTED_SHARE,
        "download": {"source": source, **settings},
        "clean": {},
    }


def _handler(kind: str, entry: Mapping[str, Any]) -> KindHandler:
    cls = kind_class(kind)
    if cls is None:
        raise ParamsError(f"no kind {kind}")
    problems: list[str] = []
    values = {key: value for key, value in entry["download"].items() if key not in ("source", "partitions")}
    if files := split_source(entry["download"]["source"], kind)[1]:
        values["files"] = files
    handler = parse(cls, values, "download", problems)
    if handler is None or problems:
        raise ParamsError("\n".join(problems))
    return handler


def _undecided(name: str, source: str, doubts: Sequence[Doubt]) -> str:
    lines = [f"{source}: {doubt.words}" for doubt in doubts]
    answers = [answer for doubt in doubts for answer in doubt.answers[:2]]
    return "\n".join([*lines, *(f"  python -m stages.add {name} {source} {answer}" for answer in answers)])
