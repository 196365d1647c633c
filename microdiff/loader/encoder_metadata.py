"""What a shard set's manifest says of the models that made it. Does not import torch."""

import logging
from collections.abc import Collection, Mapping
from pathlib import Path

from microdiff.artifacts.manifest import MAX_MANIFEST_BYTES
from microdiff.core.regular_files import read_regular
from microdiff.core.untrusted import load_json
from microdiff.errors import SchemaError
from microdiff.loader.column_types import is_of_text_encoder

_LOG = logging.getLogger("microdiff")


def read_encoders(manifest: Path) -> object:
    """Return a manifest's `encoders`, None if there is no manifest.

    Raises:
        SchemaError: The manifest does not state them.
    """
    if not manifest.is_file():
        return None
    try:
        document = load_json(read_regular(manifest, MAX_MANIFEST_BYTES))
    except ValueError as error:
        raise SchemaError(f"{manifest}: expected JSON, got {error}: write or pull it again") from None
    if not isinstance(document, dict) or document.get("encoders") is None:
        raise SchemaError(f"{manifest}: expected 'encoders', the models that made the latents: write the shards again")
    kinds = document.get("computed_with")
    if isinstance(kinds, list) and len(kinds) > 1:
        named = "; ".join(kind_of_machine(each) for each in kinds)
        _LOG.warning("%s: latents of machines of several kinds, which differ in their last bits: %s", manifest, named)
    encoders: object = document["encoders"]
    return encoders


def kind_of_machine(computed_with: object) -> str:
    """Return in words what a manifest says of the machines that computed latents."""
    if not isinstance(computed_with, Mapping):
        return str(computed_with)
    return f"{computed_with.get('device')} with torch {computed_with.get('torch')}"


def encoders_of(encoders: object, columns: Collection[str]) -> object:
    """Return the encoders of the columns that are read: others may differ between shard sets."""
    text = _by_column(encoders)
    if text is None or not isinstance(encoders, Mapping):
        return encoders
    return {**encoders, "text": {name: made for name, made in text.items() if name in columns}}


def stored_dtype(encoders: object, text_column: str | None) -> str | None:
    """Return the dtype that the manifest states for a text column, or for image latents; None if it does not."""
    made = None
    if text_column is not None:
        made = (_by_column(encoders) or {}).get(text_column)
    elif isinstance(encoders, Mapping):
        made = encoders.get("image")
    stored = made.get("stored_dtype") if isinstance(made, Mapping) else None
    return stored if isinstance(stored, str) else None


def stated_downsampling(encoders: object, manifest: Path) -> int | None:
    """Return by what the manifest says that the VAE reduces pictures, along each side; None if it does not.

    Raises:
        SchemaError: It says something that cannot be.
    """
    image = encoders.get("image") if isinstance(encoders, Mapping) else None
    stated = image.get("downsampling") if isinstance(image, Mapping) else None
    if stated is None or (type(stated) is int and stated > 0):
        return stated
    raise SchemaError(
        f"{manifest}: expected a whole number above 0 as encoders.image.downsampling, got {stated!r}: write the "
        f"shards again"
    )


def first_difference(left: object, right: object, name: str) -> tuple[str, object, object] | None:
    """Return dotted name and both values of the first field that differs; None for equal values."""
    if isinstance(left, dict) and isinstance(right, dict):
        for key in sorted(left.keys() | right.keys()):
            difference = first_difference(left.get(key), right.get(key), f"{name}.{key}")
            if difference:
                return difference
        return None
    return None if left == right else (name, left, right)


def _by_column(encoders: object) -> Mapping[str, object] | None:
    """Return the text encoders by column; None where the manifest knows only one, as older ones do."""
    text = encoders.get("text") if isinstance(encoders, Mapping) else None
    if isinstance(text, Mapping) and text and all(is_of_text_encoder(str(name)) for name in text):
        return text
    return None
