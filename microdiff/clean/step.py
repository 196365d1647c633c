"""The clean step: each kept sample gets one chosen, clean caption."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from microdiff.artifacts.checks import check_table
from microdiff.clean.losses import worst_captions
from microdiff.clean.picture_hashes import hash_tasks
from microdiff.clean.picture_sets import dataset_of, hashes_in, picture_set
from microdiff.clean.policy import write_captions
from microdiff.clean.repeated_pictures import PictureCounts, share_unique
from microdiff.clean.stats import summarise
from microdiff.clean.unwanted import Reasons, find_pictures, find_unwanted, is_needed
from microdiff.config.settings import CleanSettings
from microdiff.core.code_identity import code_identity
from microdiff.core.deciding_code import deciding_modules
from microdiff.core.ledger import Counts, Reason
from microdiff.core.verified_files import InputFile
from microdiff.errors import ParamsError
from microdiff.images.perceptual import near
from microdiff.pipeline.inputs import InputArtifact
from microdiff.pipeline.params import Params
from microdiff.pipeline.parsing import as_values
from microdiff.pipeline.run import Run
from microdiff.pipeline.task import Task
from microdiff.pipeline.workspace import Workspace

# Settings that decide over samples by what is elsewhere: a partition depends on what they reject of it, no more.
_BY_OTHERS = (
    "drop_duplicates",
    "duplicates_across",
    "max_captions_per_picture",
    "exclude_pictures",
    "exclude_distance",
)


def clean(dataset: str, params: Params, workspace: Workspace) -> Counts:
    """Clean a dataset's captions.

    Args:
        dataset: The dataset's name.
        params: All settings.
        workspace: Where to read and write.

    Returns:
        The step's counts.

    Raises:
        ParamsError: An artifact is named that is none.
        SchemaError: The raw artifact is missing or damaged.
        StepError: Partitions failed.
        RejectionError: Too many records were rejected.
    """
    entry = params.dataset(dataset)
    run = Run("clean", dataset, workspace, params)
    with run.active():
        artifact = run.input("raw")
        raw = artifact.manifest
        tables = {name: artifact.file(f"{name}.parquet") for name in raw.partitions}
        code = code_identity(deciding_modules("clean"))
        settings = as_values(entry.clean)
        own = {name: value for name, value in settings.items() if name not in _BY_OTHERS}
        _check_order(dataset, params, workspace.root)
        unwanted = _unwanted(run, artifact, tables, entry.clean)
        tasks = [
            Task(
                step="clean",
                name=name,
                cache_key={
                    "code": code,
                    "settings": own,
                    "raw": raw.digests(name, ".parquet"),
                    "unwanted": {key: reason.value for key, reason in sorted(unwanted.get(name, {}).items())},
                },
                compute=partial(write_captions, tables[name], name, entry.clean, unwanted.get(name, {})),
                num_samples=num_samples,
                inputs=(tables[name],),
                check=check_table,
            )
            for name, num_samples in raw.kept().items()
        ]
        stored = run.compute(tasks)
        folder = workspace.artifact(dataset, "captions")

        def measure() -> dict[str, float]:
            stats = {item.name: item.result.facts["stats"] for item in stored}
            pictures = PictureCounts(folder, raw.partitions)
            run.facts["lost_most_letters"] = worst_captions(
                folder, {name: part["lost"] for name, part in stats.items()}
            )
            run.facts["most_frequent_pictures"] = pictures.most_frequent()
            unique = share_unique(folder, raw.partitions)
            return {**summarise(stats.values()), "share_unique": unique, **pictures.metrics()}

        return run.publish(
            folder,
            stored,
            expected_in=raw.kept(),
            source_records=raw.source_records,
            withdrawn=raw.withdrawn,
            max_rejected_share=entry.max_rejected_share,
            facts={"step": "clean", "dataset": dataset, "code": code, "settings": settings},
            measures=measure,
        )


def _check_order(dataset: str, params: Params, root: Path) -> None:
    """Check that no dataset comes before itself, by way of others or not: what all of them have, all would lose.

    Raises:
        ParamsError: One does.
    """
    seen: list[str] = []

    def follow(name: str, way: tuple[str, ...]) -> None:
        if name == dataset and way:
            raise ParamsError(
                f"datasets.*.clean.duplicates_across: {' before '.join((dataset, *way[::-1]))}: "
                "pictures that all of them have would be in none. Leave one out."
            )
        if name in seen or name not in params.datasets:
            return
        seen.append(name)
        for path in params.dataset(name).clean.duplicates_across:
            if (other := dataset_of(path, root)) is not None:
                follow(other, (*way, name))

    follow(dataset, ())


def _unwanted(
    run: Run, artifact: InputArtifact, tables: Mapping[str, InputFile], settings: CleanSettings
) -> dict[str, Reasons]:
    """Return which samples are rejected for what is elsewhere, by partition and key, and why."""
    excluded = _excluded(run, artifact, tables, settings) if settings.exclude_pictures else {}
    found: dict[str, Reasons] = {name: dict.fromkeys(keys, Reason.IN_EVALUATION_SET) for name, keys in excluded.items()}
    if is_needed(settings):
        where = f"datasets.{run.dataset}.clean.duplicates_across"
        others = picture_set(run, settings.duplicates_across, where, hashes=False).digests
        repeated = find_unwanted({name: run.read(table) for name, table in tables.items()}, settings, excluded, others)
        found = {name: {**found.get(name, {}), **reasons} for name, reasons in repeated.items()}
    return found


def _excluded(
    run: Run, artifact: InputArtifact, tables: Mapping[str, InputFile], settings: CleanSettings
) -> dict[str, set[str]]:
    """Return the keys of the pictures that evaluation sets have, by partition."""
    by_hash = settings.exclude_distance is not None
    where = f"datasets.{run.dataset}.clean.exclude_pictures"
    theirs = picture_set(run, settings.exclude_pictures, where, hashes=by_hash)
    found = {name: find_pictures(run.read(table), theirs.digests) for name, table in tables.items()}
    for stored in run.compute(hash_tasks(artifact)) if settings.exclude_distance is not None else ():
        keys, hashes = hashes_in(stored.paths[f"{stored.name}.parquet"])
        is_near = near(hashes, theirs.hashes, settings.exclude_distance or 0)
        found[stored.name].update(key for key, found_near in zip(keys, is_near, strict=True) if found_near)
    return found
