"""The clean step: each kept sample gets one chosen, clean caption."""

from functools import partial

from microdiff.artifacts.checks import check_table
from microdiff.clean.duplicates import find_duplicates, share_unique
from microdiff.clean.losses import worst_captions
from microdiff.clean.policy import write_captions
from microdiff.clean.stats import summarise
from microdiff.core.code_identity import code_identity
from microdiff.core.deciding_code import deciding_modules
from microdiff.core.ledger import Counts
from microdiff.pipeline.params import Params
from microdiff.pipeline.parsing import as_values
from microdiff.pipeline.run import Run
from microdiff.pipeline.task import Task
from microdiff.pipeline.workspace import Workspace


def clean(dataset: str, params: Params, workspace: Workspace) -> Counts:
    """Clean a dataset's captions.

    Args:
        dataset: The dataset's name.
        params: All settings.
        workspace: Where to read and write.

    Returns:
        The step's counts.

    Raises:
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
        duplicates = {}
        if entry.clean.drop_duplicates:
            duplicates = find_duplicates({name: run.read(table) for name, table in tables.items()}, entry.clean)
        tasks = [
            Task(
                step="clean",
                name=name,
                cache_key={
                    "code": code,
                    "settings": settings,
                    "raw": raw.digests(name, ".parquet"),
                    "duplicates": sorted(duplicates.get(name, ())),
                },
                compute=partial(write_captions, tables[name], name, entry.clean, duplicates.get(name, frozenset())),
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
            run.facts["lost_most_letters"] = worst_captions(
                folder, {name: part["lost"] for name, part in stats.items()}
            )
            return {**summarise(stats.values()), "share_unique": share_unique(folder, raw.partitions)}

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
