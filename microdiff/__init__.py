"""Public text-image datasets as precomputed latents, and the loader that streams them into training.

Public names are imported when first used, so that importing the package costs nothing.
"""

import importlib
from typing import Any

# By name: its module, and what to install for it.
_PUBLIC = {
    "build_streaming_latents_dataloader": ("microdiff.loader.build", "microdiff"),
    "clean_caption": ("microdiff.captions", "microdiff[pipeline]"),
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, distribution = _PUBLIC[name]
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == __name__:
            raise  # a fault of ours, not of the installation
        raise ModuleNotFoundError(
            f"microdiff.{name} needs {error.name}, which is not installed here: pip install '{distribution}'",
            name=error.name,
        ) from None


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
