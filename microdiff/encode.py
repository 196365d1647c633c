"""The encode step: pictures and captions become latents, each in partitions of their own.

Image latents depend on pictures and the VAE alone, caption latents on captions and the text encoder alone; a third,
cheap kind of partition joins them by key and says what became of every sample.
"""

from functools import partial
from typing import Any

from microdiff.caption_latents import write_caption_latents
from microdiff.code import code_digest
from microdiff.errors import StepError
from microdiff.image_latents import write_image_latents
from microdiff.join import write_joined
from microdiff.ledger import Counts
from microdiff.manifest import Manifest, read_manifest
from microdiff.model_files import model_digest
from microdiff.params import Params, as_values
from microdiff.settings import EncodeSettings
from microdiff.step import Run, Workspace
from microdiff.store import Stored, Unit


def encode(dataset: str, params: Params, workspace: Workspace) -> Counts:
    """Encode a dataset's pictures and captions.

    Args:
        dataset: The dataset's name.
        params: All settings.
        workspace: Where to read and write.

    Returns:
        The step's counts.

    Raises:
        SchemaError: The raw or captions artifact is missing or damaged.
        ParamsError: A model folder does not exist.
        StepError: Partitions failed.
        RejectionError: Too many records were rejected.
    """
    entry, settings = params.dataset(dataset), params.encode
    run = Run("encode", dataset, workspace)
    with run.store.in_use():
        raw = read_manifest(workspace.artifact(dataset, "raw"))
        captions = read_manifest(workspace.artifact(dataset, "captions"))
        if raw.partitions.keys() != captions.partitions.keys():
            raise StepError(f"encode {dataset}: raw and captions have different partitions. Run dvc repro.")
        units = [*_image_units(raw, settings), *_text_units(captions, settings)]
        encoded = run.compute(units)
        images, texts = encoded[: len(raw.partitions)], encoded[len(raw.partitions) :]
        joins = run.compute(_join_units(captions, images, texts, settings))
        stored = [join.joined_with(image, text) for join, image, text in zip(joins, images, texts, strict=True)]
        encoders = _one_description(dataset, joins)
        return run.publish(
            workspace.artifact(dataset, "latents"),
            stored,
            expected_in=captions.kept(),
            source_records=captions.source_records,
            withdrawn=captions.withdrawn,
            max_rejected_share=entry.max_rejected_share,
            facts={
                "step": "encode",
                "dataset": dataset,
                "code": code_digest(["microdiff.image_latents", "microdiff.caption_latents", "microdiff.join"]),
                "settings": as_values(settings),
                "encoders": encoders,
                "lineage": {"raw": raw.facts, "captions": captions.facts},
            },
            extra={"encoders.json": encoders},
        )


def _image_units(raw: Manifest, settings: EncodeSettings) -> list[Unit]:
    made_by = {
        "code": code_digest(["microdiff.image_latents"]),
        "settings": as_values(settings.image),
        "model": model_digest(settings.image),
    }
    return [
        Unit(
            step="encode-image",
            name=name,
            determined_by={**made_by, "raw": raw.digests(name, ".tar")},
            compute=partial(write_image_latents, raw.folder, name, settings.image),
            num_samples=num_samples,
        )
        for name, num_samples in raw.kept().items()
    ]


def _text_units(captions: Manifest, settings: EncodeSettings) -> list[Unit]:
    made_by = {
        "code": code_digest(["microdiff.caption_latents"]),
        "settings": as_values(settings.text),
        "model": model_digest(settings.text),
    }
    return [
        Unit(
            step="encode-text",
            name=name,
            determined_by={**made_by, "captions": captions.digests(name, ".parquet")},
            compute=partial(write_caption_latents, captions.folder, name, settings.text),
            num_samples=num_samples,
        )
        for name, num_samples in captions.kept().items()
    ]


def _join_units(captions: Manifest, images: list[Stored], texts: list[Stored], settings: EncodeSettings) -> list[Unit]:
    made_by = {"code": code_digest(["microdiff.join"]), "resolutions": settings.image.resolutions}
    units = []
    for image, text in zip(images, texts, strict=True):
        name = image.name
        image_name, text_name = f"{name}.image.safetensors", f"{name}.text.safetensors"
        inputs = {
            "image": image.files[image_name]["sha256"],
            "text": text.files[text_name]["sha256"],
            "captions": captions.digests(name, ".parquet"),
        }
        paths = image.paths[image_name], text.paths[text_name]
        compute = partial(write_joined, captions.folder, name, *paths, settings.image.resolutions)
        units.append(
            Unit(step="encode-join", name=name, determined_by={**made_by, **inputs}, compute=compute, num_samples=0)
        )
    return units


def _one_description(dataset: str, joins: list[Stored]) -> dict[str, Any]:
    """Return the description of the encoders, which must be the same in all partitions."""
    first: dict[str, Any] = joins[0].result.facts["encoders"]
    for join in joins:
        if join.result.facts["encoders"] != first:
            raise StepError(
                f"encode {dataset}: partitions {joins[0].name} and {join.name} were made by other encoders."
            )
    return first
