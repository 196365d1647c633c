"""Dropout and noise are what they were when a training run began: fixed values, and who gets which of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from microdiff.artifacts.mds_index import index_document
from microdiff.core.files import write_json
from microdiff.core.withdrawn import Withdrawal, Withdrawn, write_withdrawn
from microdiff.errors import SchemaError
from microdiff.loader.randomness import drop_caption_mask, sampling_noise
from tests.mds_factory import write_shard
from tests.shard_factory import ENCODERS, build, write_published, write_shard_set

KEYS = ["coco/000000000009", "coco/000000000025", "jdb/a b", "ключ", 7, 8, "7", "", 0]


@pytest.mark.parametrize(
    ("seed", "epoch", "probability", "kept"),
    [
        (9176, 0, 0.5, "101011110"),
        (9176, 1, 0.5, "000110110"),
        (0, 0, 0.5, "100110101"),
        (0, 0, 0.1, "111111101"),
        (1, 0, 0.5, "011000000"),
        (1, 0, 0.1, "111110111"),
        (2**31, 123, 0.5, "000000001"),
        (2**31, 123, 0.1, "001111111"),
    ],
)
def test_dropout_is_what_it_was(seed: int, epoch: int, probability: float, kept: str) -> None:
    mask = drop_caption_mask(seed, epoch, KEYS, probability)
    assert mask.dtype == np.float64
    assert "".join(f"{value:.0f}" for value in mask) == kept
    one_by_one = [drop_caption_mask(seed, epoch, [key], probability)[0] for key in KEYS]
    assert one_by_one == mask.tolist()


@pytest.mark.parametrize(
    ("seed", "epoch", "key", "values"),
    [
        (9176, 0, KEYS[0], [-0.2243843, -1.449899, 0.9190118, 0.3011902, 0.6435468, 0.2254051]),
        (9176, 1, KEYS[0], [-0.7595112, 1.658316, 0.004538769, -0.9401336, -0.3477196, -0.1161786]),
        (0, 0, KEYS[0], [0.1693824, 0.4005658, 0.4247154, 0.5183174, 0.6088613, -0.3979232]),
        (9176, 0, KEYS[1], [-2.995076, -0.1352838, 0.8917249, -0.8146629, 1.134881, 0.272649]),
        (9176, 0, 7, [1.27455, -0.5073444, -0.868541, -0.8810475, -0.4758381, 1.136677]),
        (1, 23, "ключ", [-0.4763522, 0.1993713, -0.2031293, -0.9936772, -1.667214, 0.9453641]),
    ],
)
def test_noise_is_what_it_was(seed: int, epoch: int, key: str | int, values: list[float]) -> None:
    noise = np.full((2, 3), np.nan, np.float32)
    sampling_noise(seed, epoch, key, noise)
    assert noise.ravel().tolist() == pytest.approx(values, rel=1e-6)


def write_moments(folder: Path, keys: list[str]) -> dict[str, Any]:
    """Write a shard whose samples' moments differ in every sample, channel and row; return these by key."""
    rng = np.random.default_rng(3)
    moments = {key: rng.normal(size=(4, 2, 2)).astype(np.float32) for key in keys}
    columns = {
        "caption": "str",
        "key": "str",
        "caption_latents": "ndarray:float16:3,5",
        "moments_16": "ndarray:float32:4,2,2",
    }
    samples = [
        {
            "caption": f"of {key}",
            "key": key,
            "caption_latents": np.zeros((3, 5), np.float16),
            "moments_16": moments[key],
        }
        for key in keys
    ]
    folder.mkdir(parents=True)
    write_json(folder / "index.json", index_document([write_shard(folder / "shard.00000.mds", columns, samples)]))
    (folder / "manifest.json").write_text(json.dumps({"encoders": ENCODERS}))
    return moments


@pytest.mark.usefixtures("own_names")
@pytest.mark.parametrize("num_workers", [0, 2])
def test_each_sample_has_its_own_noise_in_each_epoch_also_when_resumed(tmp_path: Path, num_workers: int) -> None:
    keys = [f"t{number}" for number in range(12)]
    moments = write_moments(tmp_path / "t/shards", keys)
    options: dict[str, Any] = {"image_size": 16, "cap_drop_prob": 0.5, "seed": 11, "num_workers": num_workers}

    def check(batch: Any, epoch: int) -> None:
        mask = drop_caption_mask(11, epoch, batch["key"], 0.5)
        assert batch["drop_caption_mask"].tolist() == mask.tolist()
        for key, latents in zip(batch["key"], batch["image_latents"].numpy(), strict=True):
            mean, deviation = np.split(moments[key], 2)
            noise = np.empty(mean.shape, np.float32)
            sampling_noise(11, epoch, key, noise)
            np.testing.assert_allclose(latents, mean + deviation * noise, rtol=1e-6, atol=1e-7)

    loader = build(tmp_path / "t/shards", 3, **options)
    for epoch in range(2):
        for number, batch in enumerate(loader):
            check(batch, epoch)
            if (epoch, number) == (1, 1):
                state = loader.state_dict()
    resumed = build(tmp_path / "t/shards", 3, **options)
    resumed.load_state_dict(state)
    batches = list(resumed)
    assert len(batches) == 2
    for batch in batches:
        check(batch, 1)


@pytest.mark.usefixtures("own_names")
def test_positions_count_where_some_samples_have_no_key(tmp_path: Path) -> None:
    write_shard_set(tmp_path / "coco/shards")
    write_published(tmp_path / "mds", (77, 64))
    options: dict[str, Any] = {"columns": ("caption",), "shuffle": False, "cap_drop_prob": 0.5, "cap_emb_dim": 64}
    batches = list(build([tmp_path / "coco/shards", tmp_path / "mds"], 7, drop_last=False, **options))
    found = [value for batch in batches for value in batch["drop_caption_mask"].tolist()]
    assert found == drop_caption_mask(9176, 0, range(len(found)), 0.5).tolist()
    assert set(found) == {0.0, 1.0}


@pytest.mark.usefixtures("own_names")
def test_withdrawn_samples_are_left_out_beside_a_set_without_keys(tmp_path: Path) -> None:
    write_shard_set(tmp_path / "coco/shards")
    write_published(tmp_path / "mds", (77, 64))
    gone = {f"coco{number:03}": Withdrawal(f"coco{number:03}", "asked") for number in (3, 4)}
    write_withdrawn(tmp_path / "coco/withdrawn.tsv", Withdrawn(gone))
    options: dict[str, Any] = {"columns": ("caption",), "shuffle": False, "drop_last": False, "cap_emb_dim": 64}
    batches = build([tmp_path / "coco/shards", tmp_path / "mds"], 7, **options)
    captions = [caption for batch in batches for caption in batch["caption"]]
    expected = [f"no. {number if number not in (3, 4) else 5}" for number in range(37)]
    assert captions == expected + [f"no. {number}" for number in range(12)]


@pytest.mark.usefixtures("own_names")
def test_a_list_of_withdrawn_samples_beside_shards_without_keys_is_refused(tmp_path: Path) -> None:
    write_published(tmp_path / "t/mds", (77, 1024))
    write_withdrawn(tmp_path / "t/withdrawn.tsv", Withdrawn({"a": Withdrawal("a", "asked")}))
    with pytest.raises(SchemaError, match="samples are withdrawn by key, but these have no column 'key'"):
        build(tmp_path / "t/mds", columns=())


@pytest.mark.usefixtures("own_names")
def test_keys_that_one_shard_lacks_are_refused_when_asked_for(tmp_path: Path) -> None:
    columns = {
        "caption": "str",
        "key": "str",
        "caption_latents": "ndarray:float16:3,5",
        "latents_16": "ndarray:float16:4,2,2",
    }
    entries, folder = [], tmp_path / "t/shards"
    folder.mkdir(parents=True)
    for shard in range(3):
        kept = {name: encoding for name, encoding in columns.items() if shard != 1 or name != "key"}
        samples = [
            {
                "caption": f"no. {number}",
                "key": f"t{number}",
                "caption_latents": np.full((3, 5), number, np.float16),
                "latents_16": np.full((4, 2, 2), -number, np.float16),
            }
            for number in (2 * shard, 2 * shard + 1)
        ]
        samples = [{name: sample[name] for name in kept} for sample in samples]
        entries.append(write_shard(folder / f"shard.{shard:05}.mds", kept, samples))
    write_json(folder / "index.json", index_document(entries))
    with pytest.raises(SchemaError, match=r"shard.00001.mds has no column 'key', only \['caption', 'caption_latents'"):
        build(folder, 2, 16)
    (batch,) = build(folder, 6, 16, columns=("caption",), shuffle=False, cap_drop_prob=0.5)
    assert batch["image_latents"][:, 1, 1, 0].tolist() == [0, -1, -2, -3, -4, -5]
    assert batch["drop_caption_mask"].tolist() == drop_caption_mask(9176, 0, range(6), 0.5).tolist()
