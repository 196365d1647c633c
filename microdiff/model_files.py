"""What identifies a model: the bytes of a local folder, or the pinned revision of a hub repository."""

from pathlib import Path

from microdiff.errors import ParamsError
from microdiff.publish import digest_file, digest_json
from microdiff.settings import ImageEncoderSettings, TextEncoderSettings, is_folder, model_path


def model_digest(settings: ImageEncoderSettings | TextEncoderSettings) -> str | None:
    """Return a digest of a local model's files, or None for a hub model, which its revision identifies.

    Raises:
        ParamsError: The folder does not exist or is empty, or is not the one that `revision` pins.
    """
    if not is_folder(settings.model):
        return None
    folder = Path(model_path(settings.model)) / (settings.subfolder or "")
    files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []
    if not files:
        raise ParamsError(f"{folder}: no model there. Check encode.image.model and encode.text.model in params.yaml.")
    digest = f"sha256:{digest_json({path.relative_to(folder).as_posix(): digest_file(path) for path in files})}"
    if settings.revision not in (None, digest):
        raise ParamsError(
            f"{folder}: expected the model {settings.revision}, found {digest}.\n"
            "If it was changed on purpose, put that into its revision in params.yaml."
        )
    return digest


def hub_revision(settings: ImageEncoderSettings | TextEncoderSettings) -> str | None:
    """Return the commit to load a hub model at, None for a local folder."""
    return None if is_folder(settings.model) else settings.revision


def public_name(model: str) -> str:
    """Return a model's name as artifacts show it: without an absolute local path."""
    path = model_path(model)
    return Path(path).name if path.startswith("/") else model
