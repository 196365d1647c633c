"""Names of what latents files and shards hold, all derived from the names of the text columns in params.yaml."""

CAPTION_LATENTS = "caption_latents"
_MASK = "caption_mask"
_FILE = "text"


def image_column(latents: str, px: int) -> str:
    """Return the column that pictures of a resolution get.

    Args:
        latents: The setting of that name: `sample` or `mode` give `latents_<px>`, `moments` gives `moments_<px>`.
        px: The resolution in pixels.
    """
    return f"moments_{px}" if latents == "moments" else f"latents_{px}"


def mask_column(column: str) -> str:
    """Return the column with the attention mask of a text column: `caption_latents_t5` has `caption_mask_t5`."""
    return column.replace(CAPTION_LATENTS, _MASK, 1)


def text_kind(column: str) -> str:
    """Return what files of a text column are called by: `text` for `caption_latents`, `text_t5` for `..._t5`."""
    return column.replace(CAPTION_LATENTS, _FILE, 1)


def text_file(partition: str, column: str) -> str:
    """Return the name of the latents file that holds a text column, and its mask if it has one."""
    return f"{partition}.{text_kind(column)}.safetensors"
