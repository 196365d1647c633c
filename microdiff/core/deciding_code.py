"""Which modules decide the bytes of each kind of unit: with what they import, they are the code part of fingerprints.

Steps and `python -m stages.code` both ask here, so that what is shown to give the same bytes is what fingerprints hold.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_HANDLER = "microdiff.handlers.{dataset}"

# By step, by kind: those of the partition store, and what manifests state of artifacts that several kinds make.
DECIDING_CODE: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "download": {
        "download": ("microdiff.download.raw_writer", "microdiff.handlers.{dataset}"),
        "download-annotations": ("microdiff.formats.annotations", "microdiff.handlers.{dataset}"),
    },
    "clean": {
        "clean": ("microdiff.clean.policy",),
        "clean-hashes": ("microdiff.clean.picture_hashes",),
    },
    "encode": {
        "encode-image": ("microdiff.encode.image_latents",),
        "encode-text": ("microdiff.encode.caption_latents",),
        "encode-join": ("microdiff.encode.merge",),
        "latents": ("microdiff.encode.image_latents", "microdiff.encode.caption_latents", "microdiff.encode.merge"),
    },
    "shard": {
        "shard-list": ("microdiff.shard.sample_index",),
        "shard": ("microdiff.shard.writer",),
        "shards": ("microdiff.shard.sample_index", "microdiff.shard.packing", "microdiff.shard.writer"),
    },
}


@dataclass(frozen=True)
class Unit:
    """A kind of unit, of one dataset where the dataset's handler decides, too.

    Attributes:
        step: The step that computes it.
        kind: Its name.
        modules: Those that decide its bytes, with what they import.
        dataset: The dataset, None where the code is the same for all.
    """

    step: str
    kind: str
    modules: tuple[str, ...]
    dataset: str | None = None

    @property
    def name(self) -> str:
        """What it is called in messages and files."""
        return self.kind if self.dataset is None else f"{self.kind} {self.dataset}"


def deciding_modules(kind: str, dataset: str = "", handler: str = "") -> tuple[str, ...]:
    """Return the modules that decide a kind of unit.

    Args:
        kind: Such as `encode-image`.
        dataset: Whose handler is meant, where handlers decide.
        handler: The handler's module, where it is not named after the dataset.
    """
    templates = next(kinds[kind] for kinds in DECIDING_CODE.values() if kind in kinds)
    handler = handler or _HANDLER.format(dataset=dataset)
    return tuple(handler if template == _HANDLER else template for template in templates)


def units(
    datasets: list[str], deciding_code: Mapping[str, Mapping[str, tuple[str, ...]]] = DECIDING_CODE
) -> Iterator[Unit]:
    """Yield all kinds of units, in the order of steps.

    Args:
        datasets: The datasets that have a handler.
        deciding_code: Of other code than the running.
    """
    for step, kinds in deciding_code.items():
        for kind, templates in kinds.items():
            if _HANDLER in templates:
                for dataset in datasets:
                    handler = _HANDLER.format(dataset=dataset)
                    modules = tuple(handler if name == _HANDLER else name for name in templates)
                    yield Unit(step, kind, modules, dataset)
            else:
                yield Unit(step, kind, templates)
