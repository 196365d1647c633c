"""Public text-image datasets as precomputed latents, and the loader that streams them into training.

Public names are imported when first used, so that importing the package costs nothing.
"""

import importlib
from typing import Any

_MODULE_OF = {
    "build_streaming_latents_dataloader": "microdiff.loader.build",
    "clean_caption": "microdiff.captions",
}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
