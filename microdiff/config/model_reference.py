"""Where a model's files are, as the settings say it, and what pins them.

    samples/models/vae                   a local folder; `revision` null, or the digest of its files
    ORG/NAME                             a repository on the Hugging Face hub; `revision` its full commit
    hf://ORG/NAME@COMMIT/folder          the same, in one
    s3://bucket/folder                   a folder that fsspec reads; `revision` the digest of its files

Before each may stand `openclip:`, and `hf-hub:` before a repository, as open_clip writes it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from microdiff.config.roots import public_root

OPENCLIP = "openclip:"
_HF_HUB = "hf-hub:"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_HUB_URL = re.compile(r"hf://([\w.-]+/[\w.-]+)@([0-9a-f]{40})(?:/([^@\s]*))?")


@dataclass(frozen=True)
class ModelReference:
    """Where a model's files are.

    Attributes:
        kind: `folder` on this machine, `hub`, or another `url`.
        root: The local folder, `ORG/NAME`, or the URL.
        folder: Below the root; empty for the root itself.
        revision: What pins the files: a commit, or `sha256:` and their digest. None only for local folders.
    """

    kind: Literal["folder", "hub", "url"]
    root: str
    folder: str
    revision: str | None


def parse_model_reference(model: str, subfolder: str | None, revision: str | None) -> ModelReference:
    """Return the reference that settings of these names mean; `reference_problems` tells what may be wrong with it."""
    name = model.removeprefix(OPENCLIP).removeprefix(_HF_HUB)
    folder = (subfolder or "").strip("/")
    if parts := _HUB_URL.fullmatch(name):
        return ModelReference("hub", parts[1], "/".join(filter(None, ((parts[3] or "").strip("/"), folder))), parts[2])
    if "://" in name:
        return ModelReference("url", name.rstrip("/"), folder, revision)
    if name.startswith((".", "/")) or name.count("/") != 1 or Path(name).is_dir():
        return ModelReference("folder", name, folder, revision)
    return ModelReference("hub", name, folder, revision)


def reference_problems(model: str, subfolder: str | None, revision: str | None) -> Iterator[tuple[str, str]]:
    """Yield (field, what is wrong) of the settings `model`, `subfolder` and `revision`."""
    if ".." in Path(subfolder or "").parts:
        yield "subfolder", f"expected a folder in the model, got {subfolder!r}"
    reference = parse_model_reference(model, None, revision)
    if reference.root.startswith("hf://"):
        yield "model", f"expected hf://ORG/NAME@COMMIT or hf://ORG/NAME@COMMIT/folder with 40 digits, got {model!r}"
    elif reference.kind == "folder":
        if revision is not None and not _DIGEST.fullmatch(revision):
            yield "revision", f"expected null or sha256:<64 digits> for a local folder, got {revision!r}"
    elif reference.kind == "url":
        if revision is None or not _DIGEST.fullmatch(revision):
            yield (
                "revision",
                f"expected sha256:<64 digits>, the digest of the files of {public_name(model)}, got {revision!r}; "
                "with 64 zeros the encode step says which",
            )
    elif reference.revision is None or not _COMMIT.fullmatch(reference.revision):
        yield "revision", f"expected the full 40-digit commit of {model}, got {revision!r}"
    elif revision not in (None, reference.revision):
        yield "revision", f"expected null or the commit that {model} names, got {revision!r}"


def public_name(model: str) -> str:
    """Return a model's name as artifacts show it: one form for a hub's, no absolute path, no password."""
    reference = parse_model_reference(model, None, None)
    reader = OPENCLIP if model.startswith(OPENCLIP) else ""
    if reference.kind == "hub":
        return f"{reader}{_HF_HUB if reader else ''}{reference.root}"
    shown = public_root(reference.root)
    return reader + (reference.root if shown == PurePosixPath(reference.root).as_posix() else shown)
