"""A model's files on this machine: used where they lie, or fetched once into the store, and checked against a pin.

A fetched model is a folder `models/<64 digits>` of the store, laid out as in its repository, which appears when it is
whole and verified; `make clean-work` leaves it.
"""

import logging
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import overload

from microdiff.config.model_reference import OPENCLIP, ModelReference, parse_model_reference, public_name
from microdiff.config.settings import ImageEncoderSettings, TextEncoderSettings
from microdiff.core.file_facts import file_facts, is_unchanged
from microdiff.core.files import (
    digest_file,
    digest_json,
    link_or_copy,
    locked_folder,
    read_json,
    scratch_folder,
    sweep,
    sync,
    write_json,
)
from microdiff.core.progress import Progress
from microdiff.errors import ParamsError, SourceError
from microdiff.storage import Source
from microdiff.storage.hub import open_hub
from microdiff.storage.local import LocalSource
from microdiff.storage.opening import open_source

log = logging.getLogger("microdiff")

_NOTE = "files.json"
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "spiece.model")  # a tokenizer has at least one
_SMALL_FILES = (".json", ".txt", ".model")
_WEIGHTS = ("diffusion_pytorch_model", "model", "pytorch_model")
_OPENCLIP_WEIGHTS = ("open_clip_model", "open_clip_pytorch_model", *_WEIGHTS)


@dataclass(frozen=True, kw_only=True)
class LocatedImageEncoder(ImageEncoderSettings):
    """Settings of a VAE that is on this machine, in `folder`; `revision` is what its files are."""

    folder: Path


@dataclass(frozen=True, kw_only=True)
class LocatedTextEncoder(TextEncoderSettings):
    """Settings of a text encoder that is on this machine, in `folder`; `revision` is what its files are."""

    folder: Path


@overload
def located(
    settings: ImageEncoderSettings, work: Path | None = None, where: str | None = None
) -> LocatedImageEncoder: ...


@overload
def located(
    settings: TextEncoderSettings, work: Path | None = None, where: str | None = None
) -> LocatedTextEncoder: ...


def located(
    settings: ImageEncoderSettings | TextEncoderSettings, work: Path | None = None, where: str | None = None
) -> LocatedImageEncoder | LocatedTextEncoder:
    """Return the settings with the folder of the model's files, fetching and checking them first.

    Args:
        settings: Of an encoder; returned as they are if they have a folder.
        work: The store's folder; None for where it is by default.
        where: The section in params.yaml, for messages; None for what the kind of settings says.

    Raises:
        ParamsError: The model is not there, or is not the one that `revision` pins.
        SourceError: Its files cannot be fetched.
    """
    if isinstance(settings, LocatedImageEncoder | LocatedTextEncoder):
        return settings
    where = where or ("encode.image" if isinstance(settings, ImageEncoderSettings) else "encode.text")
    reference = parse_model_reference(settings.model, settings.subfolder, settings.revision)
    if reference.kind == "folder":
        folder = Path(reference.root, reference.folder)
        revision = _check(_local_digest(folder, work), reference.revision, str(folder), where)
    else:
        work = work or Path(os.environ.get("MICRODIFF_WORK", ".work"))
        folder, revision = _fetched(settings.model, reference, work, where)
    values = {**vars(settings), "revision": revision, "folder": folder.absolute()}
    if isinstance(settings, ImageEncoderSettings):
        return LocatedImageEncoder(**values)
    return LocatedTextEncoder(**values)


def tokenizer_folder(folder: Path) -> Path:
    """Return where a text encoder's tokenizer is: beside it, or in the folder where diffusers' models have it."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    sibling = _sibling(folder.as_posix(), names)
    return folder if sibling is None or not Path(sibling).is_dir() else Path(sibling)


def _sibling(folder: str, names: Sequence[str]) -> str | None:
    """Return `tokenizer_2` for a folder `text_encoder_2` that has no tokenizer, None for other folders."""
    parent, _, last = folder.rpartition("/")
    if not last.startswith("text_encoder") or any(name in TOKENIZER_FILES for name in names):
        return None
    return "/".join(filter(None, (parent, last.replace("text_encoder", "tokenizer", 1))))


def _local_digest(folder: Path, work: Path | None) -> str | None:
    """Return the digest of a model's files, None if there are none; remembered in the store if it is given."""
    files = _files_below(folder)
    tokenizer = tokenizer_folder(folder)
    if tokenizer != folder:
        files |= {f"../{tokenizer.name}/{name}": path for name, path in _files_below(tokenizer).items()}
    if not files:
        return None
    if work is None:
        return _digest(files, digest_file)
    return _digest(
        files,
        lambda path: LocalSource(str(path.parent), work / "digests").stat(path.name).identity.removeprefix("sha256:"),
    )


def _files_below(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def _digest(files: dict[str, Path], digest: Callable[[Path], str]) -> str:
    return f"sha256:{digest_json({name: digest(path) for name, path in files.items()})}"


def _check(digest: str | None, pin: str | None, name: str, where: str) -> str:
    """Return the digest of the files at `name` if there are any and `pin` allows them."""
    if digest is None:
        raise ParamsError(f"{name}: no model there. Check {where}.model and {where}.subfolder in params.yaml.")
    if pin not in (None, digest):
        raise ParamsError(
            f"{name}: expected the model {pin}, found {digest}.\n"
            f"If it was changed on purpose, put that into {where}.revision in params.yaml."
        )
    return digest


def _fetched(model: str, reference: ModelReference, work: Path, where: str) -> tuple[Path, str]:
    """Return the local copy of a model and its revision."""
    models = work / "models"
    copy = models / digest_json(["model", public_name(model), reference.folder, reference.revision])
    with locked_folder(copy):
        sweep(copy)
        files = copy / "files"
        if files.is_dir() and (damaged := _damaged(files)):
            log.warning("%s: damaged: expected the files of %s. They are fetched again.", damaged, public_name(model))
            shutil.rmtree(files)
        if not files.is_dir():
            _fetch(model, reference, work, where, files)
            _note_files(files)
    return files / reference.folder, reference.revision or ""


def _note_files(files: Path) -> None:
    """Record the SHA-256 of a fetched model's files beside them, and what tells that nobody has written to them."""
    noted = {name: [digest_file(path), file_facts(path)] for name, path in _files_below(files).items()}
    write_json(files.parent / _NOTE, noted)


def _damaged(files: Path) -> Path | None:
    """Return a file of a fetched model that is not as it was fetched, None if all are."""
    note = files.parent / _NOTE
    if not note.is_file():  # fetched by an earlier version
        _note_files(files)
        return None
    try:
        noted = {name: (str(digest), facts) for name, (digest, facts) in read_json(note).items()}
    except (ValueError, TypeError, AttributeError):
        return note
    found = _files_below(files)
    for name, (digest, facts) in noted.items():
        path: Path = files / name
        if name not in found or (not is_unchanged(path, facts) and digest_file(path) != digest):
            return path
    return None


def _fetch(model: str, reference: ModelReference, work: Path, where: str, target: Path) -> None:
    """Fetch, verify and publish a model's files as the folder `target`."""
    setting = f"{where}.model"
    with Progress(f"fetch {public_name(model)}", None) as progress:
        try:
            if reference.kind == "hub":
                root = f"hf://{reference.root}@{reference.revision}"
                source: Source = open_hub(root, work, progress, setting, kind="model")
            else:
                source = open_source(reference.root, work, setting).with_reporter(progress)
            described = [source.stat(path) for path in _paths(source, reference, model.startswith(OPENCLIP))]
        except SourceError as error:
            raise ParamsError(f"{setting}: {error}") from error
        paths = {file.path: source.fetch(file) for file in described}
    if reference.kind == "url" or not paths:
        relative = {os.path.relpath(path, reference.folder or "."): copy for path, copy in paths.items()}
        name = "/".join(filter(None, (source.name, reference.folder)))
        _check(_digest(relative, digest_file) if paths else None, reference.revision, name, where)
    with scratch_folder(target.parent) as scratch:
        for path, copy in paths.items():
            (scratch / path).parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(copy, scratch / path)
        sync(scratch)
        scratch.rename(target)
    sync(target.parent)
    for file in described:
        source.forget(file)


def _paths(source: Source, reference: ModelReference, is_openclip: bool) -> list[str]:
    """Return which files to fetch: all of a URL's folder, of a hub's only what loading needs."""
    paths = list(source.list(reference.folder))
    sibling = _sibling(reference.folder, [PurePosixPath(path).name for path in paths])
    if reference.kind == "hub" and paths:
        paths = needed_files(paths, _OPENCLIP_WEIGHTS if is_openclip else _WEIGHTS)
    if sibling is not None and paths:
        paths += source.list(sibling)
    return paths


def needed_files(paths: Sequence[str], weights: Sequence[str]) -> list[str]:
    """Return configuration, tokenizer and one form of the weights, without those of other frameworks and precisions.

    Args:
        paths: What a folder holds.
        weights: What files of weights are called, without suffix and the number of a part, best first.

    Returns:
        Some of the paths; none if there are no weights.
    """
    for name in weights:
        for suffix in ("safetensors", "bin"):
            form = re.compile(rf"{name}(-\d+-of-\d+)?\.{suffix}")
            if found := [path for path in paths if form.fullmatch(PurePosixPath(path).name)]:
                return [path for path in paths if path.endswith(_SMALL_FILES)] + found
    return []
