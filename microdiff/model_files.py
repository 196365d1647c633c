"""What identifies a model: the bytes of a local folder, or the pinned revision of a hub repository."""

from pathlib import Path

from microdiff.errors import ParamsError
from microdiff.publish import digest_file, digest_json
from microdiff.settings import is_folder, model_path


def model_digest(model: str, subfolder: str | None) -> str | None:
    """Return a digest of a local model's files, or None for a hub model, which its revision identifies.

    Raises:
        ParamsError: The folder does not exist or is empty.
    """
    if not is_folder(model):
        return None
    folder = Path(model_path(model)) / (subfolder or "")
    files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []
    if not files:
        raise ParamsError(f"{folder}: no model there. Check encode.image.model and encode.text.model.")
    return digest_json({path.relative_to(folder).as_posix(): digest_file(path) for path in files})


def public_name(model: str) -> str:
    """Return a model's name as artifacts show it: without an absolute local path."""
    path = model_path(model)
    return Path(path).name if path.startswith("/") else model
