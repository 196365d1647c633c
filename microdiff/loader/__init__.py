"""The training loader: a torch DataLoader over versioned MDS shards.

The builder is imported when first used, so that importing the package costs nothing.
"""

import importlib
from typing import Any

__all__ = ["build_streaming_latents_dataloader"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("microdiff.loader.build"), name)
