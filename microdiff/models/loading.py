"""Read models from folders, refusing what a library would fill up with random weights."""

from pathlib import Path
from typing import Any

from microdiff.config.model_reference import public_name
from microdiff.core.files import read_json
from microdiff.errors import ParamsError

_BRIEF_CHARS = 160


def read_config(folder: Path, model: str, name: str = "config.json") -> dict[str, Any]:
    """Read a model's configuration.

    Args:
        folder: Of the model.
        model: The setting, for messages.
        name: Of the file.

    Raises:
        ParamsError: There is none, or it is no JSON object.
    """
    try:
        config = read_json(folder / name)
    except (OSError, ValueError) as error:
        raise ParamsError(
            f"{public_name(model)}: no {name} that can be read ({brief(error)}). Check its subfolder."
        ) from error
    if not isinstance(config, dict):
        raise ParamsError(f"{public_name(model)}: expected a mapping in {name}, got {type(config).__name__}")
    return config


def load_whole(kind: Any, folder: Path, model: str, **options: Any) -> Any:
    """Load a model with its library's `from_pretrained`.

    Args:
        kind: Its class, of diffusers or transformers.
        folder: Of the model.
        model: The setting, for messages.
        options: For `from_pretrained`.

    Raises:
        ParamsError: Files are missing or damaged, or are of another model; or weights are missing in them.
    """
    try:
        loaded, info = kind.from_pretrained(folder, output_loading_info=True, local_files_only=True, **options)
    except (OSError, ValueError) as error:
        raise ParamsError(f"{public_name(model)}: {kind.__name__} cannot be loaded from it ({brief(error)})") from error
    if missing := sorted(info["missing_keys"]):
        raise ParamsError(
            f"{public_name(model)}: {len(missing)} weights of {kind.__name__} are not in its files: {missing[0]}"
        )
    return loaded


def brief(error: Exception) -> str:
    """Return the beginning of what an error says; libraries' messages may fill a screen."""
    return (str(error).splitlines() or [type(error).__name__])[0][:_BRIEF_CHARS]
