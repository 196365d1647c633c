"""The encode step: pictures and captions become latents, each in partitions of their own.

Image latents depend on pictures and the VAE alone, caption latents on captions and one text encoder alone, whose
columns are each in partitions of their own; another, cheap kind of partition joins them by key and says what became of
every sample.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from microdiff.artifacts.checks import check_latents, check_table
from microdiff.artifacts.column_names import image_column, text_file, text_kind
from microdiff.config.model_reference import public_name
from microdiff.config.settings import EncodeSettings, ImageEncoderSettings, TextEncoderSettings
from microdiff.core.code_identity import code_identity
from microdiff.core.deciding_code import deciding_modules
from microdiff.core.ledger import Counts
from microdiff.encode.caption_latents import write_caption_latents
from microdiff.encode.image_latents import write_image_latents
from microdiff.encode.merge import write_merged
from microdiff.errors import StepError
from microdiff.pipeline.inputs import InputArtifact
from microdiff.pipeline.params import Params
from microdiff.pipeline.parsing import as_values
from microdiff.pipeline.run import Run
from microdiff.pipeline.task import StoredPartition, Task
from microdiff.pipeline.workspace import Workspace
from microdiff.storage.model_files import located


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
        ParamsError: A model is not there, or is not the one that its revision pins.
        StepError: Partitions failed.
        RejectionError: Too many records were rejected.
    """
    entry = params.dataset(dataset)
    run = Run("encode", dataset, workspace, params)
    with run.active():
        pictures, texts = run.input("raw"), run.input("captions")
        raw, captions = pictures.manifest, texts.manifest
        if raw.partitions.keys() != captions.partitions.keys():
            raise StepError(f"encode {dataset}: raw and captions have different partitions. Run dvc repro.")
        settings = _located(params.encode, run.store.root)
        tasks = _image_tasks(pictures, settings.image)
        for column, text_settings in settings.text.items():
            tasks += _text_tasks(texts, column, text_settings)
        encoded = run.compute(tasks, on_device=True)
        parts = [encoded[start :: len(raw.partitions)] for start in range(len(raw.partitions))]
        joins = run.compute([_join_task(texts, image, columns, settings) for image, *columns in parts])
        stored = [join.merged_with(*part) for join, part in zip(joins, parts, strict=True)]
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
                "code": code_identity(deciding_modules("latents")),
                "settings": {
                    "image": _values(settings.image),
                    "text": {column: _values(each) for column, each in settings.text.items()},
                },
                "encoders": encoders,
                "lineage": {"raw": raw.facts, "captions": captions.facts},
            },
            extra={"encoders.json": encoders},
        )


def _located(settings: EncodeSettings, work: Path) -> EncodeSettings:
    """Return the settings with all models on this machine."""
    texts = {column: located(each, work, f"encode.text.{column}") for column, each in settings.text.items()}
    return EncodeSettings(image=located(settings.image, work), text=texts)


def _image_tasks(pictures: InputArtifact, settings: ImageEncoderSettings) -> list[Task]:
    raw = pictures.manifest
    made_by = {
        "code": code_identity(deciding_modules("encode-image")),
        "settings": _values(settings),
    }
    tars = {name: pictures.file(f"{name}.tar") for name in raw.partitions}
    return [
        Task(
            step="encode-image",
            name=name,
            cache_key={**made_by, "raw": raw.digests(name, ".tar")},
            compute=partial(write_image_latents, tars[name], name, settings),
            num_samples=num_samples,
            unit="images",
            on_device=True,
            inputs=(tars[name],),
            check=check_latents,
        )
        for name, num_samples in raw.kept().items()
    ]


def _text_tasks(texts: InputArtifact, column: str, settings: TextEncoderSettings) -> list[Task]:
    captions = texts.manifest
    made_by = {
        "code": code_identity(deciding_modules("encode-text")),
        "settings": _values(settings),
    }
    tables = {name: texts.file(f"{name}.parquet") for name in captions.partitions}
    return [
        Task(
            step=f"encode-{text_kind(column)}",
            name=name,
            cache_key={**made_by, "captions": captions.digests(name, ".parquet")},
            compute=partial(write_caption_latents, tables[name], name, column, settings),
            num_samples=num_samples,
            unit="captions",
            on_device=True,
            inputs=(tables[name],),
            check=check_latents,
        )
        for name, num_samples in captions.kept().items()
    ]


def _join_task(
    texts: InputArtifact, image: StoredPartition, columns: Sequence[StoredPartition], settings: EncodeSettings
) -> Task:
    """Return the task that joins one partition, of whose encoded parts `columns` has one per text column."""
    name = image.name
    captions, table = texts.manifest, texts.file(f"{name}.parquet")
    image_name = f"{name}.image.safetensors"
    text_names = {column: text_file(name, column) for column in settings.text}
    text_parts = dict(zip(text_names.items(), columns, strict=True))
    image_columns = {px: image_column(settings.image.latents, px) for px in settings.image.resolutions}
    return Task(
        step="encode-join",
        name=name,
        cache_key={
            "code": code_identity(deciding_modules("encode-join")),
            "image_columns": list(image_columns.values()),
            "image": image.files[image_name].sha256,
            "text": {column: part.files[file].sha256 for (column, file), part in text_parts.items()},
            "captions": captions.digests(name, ".parquet"),
        },
        compute=partial(
            write_merged,
            table,
            name,
            image.paths[image_name],
            {column: part.paths[file] for (column, file), part in text_parts.items()},
            image_columns,
        ),
        num_samples=0,
        inputs=(table,),
        check=check_table,
    )


def _values(settings: ImageEncoderSettings | TextEncoderSettings) -> dict[str, Any]:
    """Return an encoder's settings as they decide bytes: the model by its public name and what its files are."""
    values = as_values(replace(settings, model=public_name(settings.model)))
    return {name: value for name, value in values.items() if name != "folder"}


def _one_description(dataset: str, joins: list[StoredPartition]) -> dict[str, Any]:
    """Return the description of the encoders, which must be the same in all partitions."""
    first: dict[str, Any] = joins[0].result.facts["encoders"]
    for join in joins:
        if join.result.facts["encoders"] != first:
            raise StepError(
                f"encode {dataset}: partitions {joins[0].name} and {join.name} were made by other encoders."
            )
    return first
