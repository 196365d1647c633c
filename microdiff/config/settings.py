"""What can be set in params.yaml, section by section. Values only: no code here decides an artifact's bytes.

Each class may have `problems()`, yielding (field, what is wrong) for what types cannot say.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from microdiff.config.model_reference import reference_problems
from microdiff.config.roots import Root

Dtype = Literal["float32", "float16", "bfloat16"]
Problems = Iterator[tuple[str, str]]
_LARGEST_DISTANCE = 64  # of 256 bits: beyond, pictures that have nothing in common are taken for the same
# Of a field that was added later: it is no part of fingerprints while it has its default, so that earlier ones hold.
LATER = {"later": True}
_FIRST_TEXT_COLUMN = "caption_latents"
_TEXT_COLUMN = re.compile(_FIRST_TEXT_COLUMN + r"(_[a-z0-9_]+)?")


@dataclass(frozen=True, kw_only=True)
class DownloadSettings:
    """How pictures are stored, the same for all datasets.

    Attributes:
        min_side_px: Pictures with a shorter side are rejected.
        max_side_px: Pictures with a longer short side are reduced to it.
        jpeg_quality: Of pictures that had to change, 1 to 100, always 4:4:4.
    """

    min_side_px: int
    max_side_px: int
    jpeg_quality: int

    def problems(self) -> Problems:
        """Yield values out of range."""
        if self.min_side_px < 8:
            yield "min_side_px", f"expected at least 8, got {self.min_side_px}"
        if self.max_side_px < self.min_side_px:
            yield "max_side_px", f"expected at least min_side_px ({self.min_side_px}), got {self.max_side_px}"
        if not 1 <= self.jpeg_quality <= 100:
            yield "jpeg_quality", f"expected 1 to 100, got {self.jpeg_quality}"


@dataclass(frozen=True, kw_only=True)
class CleanSettings:
    """Which caption of a sample is kept, how it is cleaned, and which samples are not wanted.

    Attributes:
        cleaner: `deepfloyd` (the published rules), `light` (gentle, for modern text encoders), or `none` (white
            space only).
        caption: Which of a sample's captions: the `first`, the `longest`, a `random` one by (seed, key), or `all`,
            each as a sample of its own.
        min_chars: Shorter captions, counted after cleaning, are rejected as empty.
        max_scores: Largest allowed value of scores in the source's `meta`, by name, such as `image_nsfw: 0.2`. A
            sample above any of them is rejected as nsfw.
        missing_scores: What to do with a sample that lacks such a score or whose score is not a number.
        drop_duplicates: Whether to reject samples whose picture's bytes and clean caption equal an earlier sample's
            (true), or whose `picture` alone does.
        seed: For `random`.
        strip_parameters: Whether the parameters of image generators (`--ar 3:2`, `(word:1.3)`, `<lora:fur:0.8>`) are
            taken out of captions before they are cleaned.
        duplicates_across: Raw artifacts or shard sets that come first: a sample whose picture one of them has is a
            duplicate. Paths, such as `data/coco/raw`.
        max_captions_per_picture: Of a picture that occurs again and again, how many samples are kept, the first ones;
            null: all.
        exclude_pictures: Raw artifacts or shard sets whose pictures must not be trained on, such as those of an
            evaluation set. Paths.
        exclude_distance: Up to how many of 256 bits the perceptual hash of such a picture may differ from one of
            theirs; null: only equal bytes count, and no picture is decoded.
    """

    cleaner: Literal["none", "deepfloyd", "light"]
    caption: Literal["first", "longest", "random", "all"]
    min_chars: int
    max_scores: Mapping[str, float]
    missing_scores: Literal["keep", "reject"]
    drop_duplicates: Literal[False, True, "picture"]
    seed: int
    strip_parameters: bool = False
    duplicates_across: tuple[Root, ...] = ()
    max_captions_per_picture: int | None = None
    exclude_pictures: tuple[Root, ...] = ()
    exclude_distance: int | None = 24

    def problems(self) -> Problems:
        """Yield values out of range."""
        if self.min_chars < 1:
            yield "min_chars", f"expected at least 1, got {self.min_chars}"
        if self.max_captions_per_picture is not None and self.max_captions_per_picture < 1:
            yield "max_captions_per_picture", f"expected null or at least 1, got {self.max_captions_per_picture}"
        if self.exclude_distance is not None and not 0 <= self.exclude_distance <= _LARGEST_DISTANCE:
            yield "exclude_distance", f"expected null or 0 to {_LARGEST_DISTANCE}, got {self.exclude_distance}"


@dataclass(frozen=True, kw_only=True)
class ImageEncoderSettings:
    """The VAE and the latents it makes.

    Attributes:
        model: A diffusers AutoencoderKL: a folder, `ORG/NAME` on the hub, or a URL, see
            `microdiff.config.model_reference`.
        subfolder: Of the model, or null.
        revision: Full commit of a hub model. Of a folder: the digest its files must have, or null.
        dtype: The model computes in.
        latents: `sample` of the posterior with noise from (seed, key), its `mode`, or its `moments`, mean and standard
            deviation, from which training can draw a new sample each time.
        store: Latents are stored in.
        resolutions: Pixels, multiples of 8. Samples whose short side is smaller do not get that resolution.
        batch_size: Pictures per forward pass.
        seed: For `sample`.
        compile: Whether to compile the model's forward pass: minutes at the start, faster afterwards on a GPU.
        cuda_graphs: Whether the compiled forward pass is launched on a GPU as a whole, not kernel by kernel. It helps
            where small batches leave the GPU waiting for launches, and takes memory of its own.
    """

    model: Root
    subfolder: str | None
    revision: str | None
    dtype: Dtype
    latents: Literal["sample", "mode", "moments"]
    store: Dtype
    resolutions: tuple[int, ...]
    batch_size: int
    seed: int
    compile: bool = False
    cuda_graphs: bool = False

    def problems(self) -> Problems:
        """Yield values out of range."""
        bad = [px for px in self.resolutions if px < 8 or px % 8]
        if bad or not self.resolutions or len(set(self.resolutions)) < len(self.resolutions):
            yield "resolutions", f"expected distinct multiples of 8, got {list(self.resolutions)}"
        if self.batch_size < 1:
            yield "batch_size", f"expected at least 1, got {self.batch_size}"
        if self.cuda_graphs and not self.compile:
            yield "cuda_graphs", "true needs compile: true"
        yield from reference_problems(self.model, self.subfolder, self.revision)


@dataclass(frozen=True, kw_only=True)
class TextEncoderSettings:
    """One text encoder.

    Attributes:
        model: A CLIP text tower or T5 encoder that transformers reads, or after `openclip:` one that open_clip reads;
            where it is, as for pictures.
        subfolder: Of the model, or null.
        revision: Full commit of a hub model. Of a folder: the digest its files must have, or null.
        dtype: The model computes in.
        store: Hidden states are stored in.
        max_tokens: Positions per caption, or null for all that the model has.
        batch_size: Captions per forward pass.
        compile: As for pictures.
        cuda_graphs: As for pictures.
    """

    model: Root
    subfolder: str | None
    revision: str | None
    dtype: Dtype
    store: Dtype
    batch_size: int
    max_tokens: int | None = None
    compile: bool = False
    cuda_graphs: bool = False

    def problems(self) -> Problems:
        """Yield values out of range."""
        if self.max_tokens is not None and self.max_tokens < 3:
            yield "max_tokens", f"expected null or at least 3 (a beginning, a token, an end), got {self.max_tokens}"
        if self.batch_size < 1:
            yield "batch_size", f"expected at least 1, got {self.batch_size}"
        if self.cuda_graphs and not self.compile:
            yield "cuda_graphs", "true needs compile: true"
        yield from reference_problems(self.model, self.subfolder, self.revision)


@dataclass(frozen=True, kw_only=True)
class EncodeSettings:
    """The encoders, the same for all datasets, so that their shards can be mixed.

    Attributes:
        image: The VAE.
        text: Text encoders by the column they fill: `caption_latents`, and any `caption_latents_<name>` besides.
    """

    image: ImageEncoderSettings
    text: Mapping[str, TextEncoderSettings]

    def problems(self) -> Problems:
        """Yield names that are no text columns, and the one that must be there."""
        for column in self.text:
            if not _TEXT_COLUMN.fullmatch(column):
                yield f"text.{column}", f"expected {_FIRST_TEXT_COLUMN} or {_FIRST_TEXT_COLUMN}_<name>, in [a-z0-9_]"
        if _FIRST_TEXT_COLUMN not in self.text:
            yield f"text.{_FIRST_TEXT_COLUMN}", "missing: one text encoder has this name"


@dataclass(frozen=True, kw_only=True)
class ShardSettings:
    """How samples are laid out in shards.

    Attributes:
        shard_bytes: Largest size of one shard file, before compression.
        order: `shuffled` across partitions by (seed, key), or `source` order.
        seed: Decides the order, and where shards are cut.
        compression: Of shard files. A reader decompresses a shard before it reads any sample of it.
    """

    shard_bytes: int
    order: Literal["shuffled", "source"]
    seed: int
    compression: Literal["none", "zstd"]

    def problems(self) -> Problems:
        """Yield values out of range."""
        limit = 2**31 if self.compression == "zstd" else 2**32
        if not 2**16 <= self.shard_bytes < limit:
            yield "shard_bytes", f"expected 65536 (64 KiB) to {limit - 1}, got {self.shard_bytes}"
