"""Latents of VAEs that reduce pictures by other factors than 8, as their manifests say."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from microdiff.errors import SchemaError
from tests.shard_factory import ENCODERS, build, keys_of, write_shard_set

pytestmark = pytest.mark.usefixtures("own_names")


def encoders(downsampling: Any) -> dict[str, Any]:
    return {**ENCODERS, "image": {**ENCODERS["image"], "downsampling": downsampling}}


def write(folder: Path, stated: Any, actual: int, channels: int = 4) -> dict[str, dict[str, Any]]:
    """Write a shard set, its manifest stating a factor, its latents being of one."""
    side = 256 // actual
    return write_shard_set(folder, encoders(stated), latents_256=f"ndarray:float16:{channels},{side},{side}")


@pytest.mark.parametrize(("factor", "channels"), [(4, 3), (8, 4), (16, 16), (32, 32)])
def test_latents_of_any_stated_factor_are_read(tmp_path: Path, factor: int, channels: int) -> None:
    samples = write(tmp_path / "shards", factor, factor, channels)
    side = 256 // factor
    seen = []
    for batch in build(tmp_path / "shards", drop_last=False):
        assert batch["image_latents"].shape[1:] == (channels, side, side)
        for latents, key in zip(batch["image_latents"].numpy(), batch["key"], strict=True):
            assert np.array_equal(latents, samples[key]["latents_256"])
            seen.append(key)
    assert sorted(seen) == sorted(samples)


@pytest.mark.parametrize(
    ("stated", "actual", "message"),
    [
        (16, 8, r"has shape \(4, 32, 32\), expected \(C, 16, 16\) of a VAE that reduces by 16"),
        (None, 16, r"has shape \(4, 16, 16\), expected \(C, 32, 32\) of a VAE that reduces by 8"),
        (3, 8, "latents_256 cannot come from a VAE that reduces by 3, as its manifest says"),
        (0, 8, "manifest.json: expected a whole number above 0 as encoders.image.downsampling, got 0"),
        (-8, 8, "as encoders.image.downsampling, got -8"),
        ("8", 8, "as encoders.image.downsampling, got '8'"),
        (8.0, 8, "as encoders.image.downsampling, got 8.0"),
        (True, 8, "as encoders.image.downsampling, got True"),
    ],
)
def test_latents_of_another_factor_than_stated_are_refused(
    tmp_path: Path, stated: Any, actual: int, message: str
) -> None:
    write(tmp_path / "shards", stated, actual)
    with pytest.raises(SchemaError, match=message):
        build(tmp_path / "shards")


def test_a_single_group_has_the_factor_of_its_set(tmp_path: Path) -> None:
    samples = write(tmp_path / "shards", 16, 16)
    part = [key for key, sample in samples.items() if "latents_512" not in sample]
    assert sorted(keys_of(build(tmp_path / "shards/256", drop_last=False))) == sorted(part)


def test_factors_are_not_mixed(tmp_path: Path) -> None:
    write(tmp_path / "coco/shards", 8, 8)
    write(tmp_path / "jdb/shards", 16, 16)
    with pytest.raises(SchemaError, match=r"different encoders: encoders.image.downsampling is 8 in the first and 16"):
        build([tmp_path / "coco/shards", tmp_path / "jdb/shards"])
    (tmp_path / "coco/shards/manifest.json").unlink()  # as published: nothing is said, so it is 8
    with pytest.raises(SchemaError, match=r"latents_256 is float16 \(4, 32, 32\) in the first and .* \(4, 16, 16\)"):
        build([tmp_path / "coco/shards", tmp_path / "jdb/shards"])


def test_bytes_of_shards_with_a_manifest_are_read_by_its_factor(tmp_path: Path) -> None:
    from streaming import MDSWriter

    latents = np.random.default_rng(0).normal(size=(6, 16, 16, 16)).astype(np.float16)
    columns = {"caption": "str", "caption_latents": "bytes", "latents_256": "bytes"}
    with MDSWriter(out=str(tmp_path / "mds"), columns=columns) as writer:
        for number, image in enumerate(latents):
            writer.write(
                {"caption": f"{number}", "caption_latents": bytes(77 * 1024 * 2), "latents_256": image.tobytes()}
            )
    (tmp_path / "mds/manifest.json").write_text(json.dumps({"encoders": encoders(16)}))
    for batch in build(tmp_path / "mds", 2, columns=("caption",)):
        for caption, image in zip(batch["caption"], batch["image_latents"].numpy(), strict=True):
            assert np.array_equal(image, latents[int(caption)])
