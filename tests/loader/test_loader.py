"""Batches from written shards: contract, values, order, resumption, dropout, and what is refused before a start."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from microdiff import build_streaming_latents_dataloader
from microdiff.artifacts.mds_index import index_document
from microdiff.core.files import write_json
from microdiff.errors import ParamsError, SchemaError
from microdiff.loader.build import STREAMING_SEED
from tests.shard_factory import ENCODERS, NUM, NUM_512, build, keys_of, write_published, write_shard_set

pytestmark = [
    pytest.mark.usefixtures("own_names"),
    # Python 3.12 warns whenever a process with threads forks; streaming keeps threads from earlier epochs.
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
    # torch, on machines with a single core
    pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes:UserWarning"),
]


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("coco") / "shards"
    return folder, write_shard_set(folder)


@pytest.fixture(scope="module")
def textcaps(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("textcaps") / "shards"
    return folder, write_shard_set(folder)


def masks_of(batches: Any) -> dict[str, float]:
    return {
        key: value
        for batch in batches
        for key, value in zip(batch["key"], batch["drop_caption_mask"].tolist(), strict=True)
    }


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_hold_what_was_written(coco: Any, num_workers: int) -> None:
    import torch

    folder, samples = coco
    loader = build(folder, drop_last=False, columns=("key", "caption", "height"), num_workers=num_workers)
    batches = list(loader)
    first = batches[0]
    assert [(name, first[name].dtype, tuple(first[name].shape)) for name in list(first)[:3]] == [
        ("image_latents", torch.float16, (4, 4, 32, 32)),
        ("caption_latents", torch.float16, (4, 1, 77, 64)),
        ("drop_caption_mask", torch.float64, (4,)),
    ]
    assert sorted(keys_of(batches)) == sorted(samples)
    for batch in batches:
        for row, key in enumerate(batch["key"]):
            assert np.array_equal(batch["image_latents"][row].numpy(), samples[key]["latents_256"])
            assert np.array_equal(batch["caption_latents"][row, 0].numpy(), samples[key]["caption_latents"])
            assert batch["caption"][row] == samples[key]["caption"]
            assert batch["height"][row].item() == samples[key]["height"]


def test_batches_hold_only_the_published_keys_unless_asked(coco: Any) -> None:
    batch = next(iter(build_streaming_latents_dataloader(str(coco[0]), 4)))
    assert list(batch) == ["image_latents", "caption_latents", "drop_caption_mask"]


@pytest.mark.parametrize("group", ["", "512"])
def test_512_px_reads_the_samples_that_have_it(coco: Any, group: str) -> None:
    folder, samples = coco
    batches = list(build(folder / group, image_size=512, drop_last=False))
    assert sorted(keys_of(batches)) == sorted(key for key in samples if "latents_512" in samples[key])
    for batch in batches:
        for row, key in enumerate(batch["key"]):
            assert np.array_equal(batch["image_latents"][row].numpy(), samples[key]["latents_512"])


def test_unshuffled_order_is_that_of_the_index(coco: Any) -> None:
    folder, samples = coco
    assert keys_of(build(folder, shuffle=False, drop_last=False)) == list(samples)


def test_order_follows_from_the_seed_and_changes_between_epochs(coco: Any) -> None:
    loader, again, other = build(coco[0], seed=1), build(coco[0], seed=1), build(coco[0], seed=2)
    first, second = keys_of(loader), keys_of(loader)
    assert (first, second) == (keys_of(again), keys_of(again))
    assert first != second
    assert first != keys_of(other)


def test_order_is_the_published_loaders(coco: Any) -> None:
    from streaming import Stream, StreamingDataset

    plain = StreamingDataset(streams=[Stream(local=str(coco[0]))], shuffle=True, batch_size=4)
    assert plain.shuffle_seed == STREAMING_SEED
    assert keys_of(build(coco[0], drop_last=False)) == [sample["key"] for sample in plain]


@pytest.mark.parametrize(("drop_last", "sizes"), [(True, [10, 10, 10]), (False, [10, 10, 10, 7])])
def test_last_batch_is_dropped_on_request(coco: Any, drop_last: bool, sizes: list[int]) -> None:
    loader = build(coco[0], 10, drop_last=drop_last, num_workers=2)
    assert [len(batch["key"]) for batch in loader] == sizes
    assert len(loader) == len(sizes)


@pytest.mark.slow
def test_spawned_workers_give_the_same_batches(coco: Any) -> None:
    options: dict[str, Any] = {"cap_drop_prob": 0.3, "num_workers": 1}
    spawned = list(build(coco[0], multiprocessing_context="spawn", **options))
    forked = list(build(coco[0], multiprocessing_context="fork", **options))
    assert keys_of(spawned) == keys_of(forked)
    assert masks_of(spawned) == masks_of(forked)


@pytest.mark.parametrize(("num_workers", "num_workers_then"), [(0, 0), (2, 2), (2, 0)])
def test_resumed_loader_continues_in_mid_epoch(coco: Any, num_workers: int, num_workers_then: int) -> None:
    import torch

    loader = build(coco[0], seed=3, cap_drop_prob=0.5, num_workers=num_workers)
    list(loader)
    batches = iter(loader)
    seen = [next(batches) for _ in range(3)]
    state = json.loads(json.dumps(loader.state_dict()))
    expected = [*batches, *loader]

    resumed = build(coco[0], seed=4, cap_drop_prob=0.5, num_workers=num_workers_then)  # the saved seed counts
    resumed.load_state_dict(state)
    got = [*resumed, *resumed]
    assert len(got) == len(expected) == 6 + 9
    for left, right in zip(got, expected, strict=True):
        assert left["key"] == right["key"]
        for name in ("image_latents", "caption_latents", "drop_caption_mask"):
            assert torch.equal(left[name], right[name])
    assert not set(keys_of(seen)) & set(keys_of(got[:6]))


@pytest.mark.parametrize(("probability", "values"), [(0.0, {1.0}), (1.0, {0.0}), (0.3, {0.0, 1.0})])
def test_captions_are_dropped_with_the_probability(coco: Any, probability: float, values: set[float]) -> None:
    masks = masks_of(build(coco[0], cap_drop_prob=probability, drop_last=False))
    assert set(masks.values()) == values


def test_drop_rate_is_the_probability() -> None:
    from microdiff.loader.dataset import drop_caption_mask

    names = [f"k{number}" for number in range(5000)]
    drawn = np.concatenate([drop_caption_mask(7, epoch, names, 0.3) for epoch in range(4)])
    assert drawn.mean() == pytest.approx(0.7, abs=0.01)


def test_dropout_stays_what_it_is_in_running_experiments() -> None:
    from microdiff.loader.dataset import drop_caption_mask

    def drawn(seed: int, epoch: int, name: str) -> int:
        digest = hashlib.blake2b(f"{seed} {epoch} {name}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little")

    names = [f"coco/{number}" for number in range(500)]
    expected = [0.0 if drawn(9176, 2, name) < 0.25 * 2**64 else 1.0 for name in names]
    assert drop_caption_mask(9176, 2, names, 0.25).tolist() == expected


def test_dropout_follows_from_seed_epoch_and_key(coco: Any) -> None:
    options: dict[str, Any] = {"cap_drop_prob": 0.5, "drop_last": False}
    loader = build(coco[0], **options)
    first, second = masks_of(loader), masks_of(loader)
    workers = build(coco[0], shuffle=False, num_workers=2, persistent_workers=True, **options)
    assert (first, second) == (masks_of(workers), masks_of(workers))
    assert first != second
    assert first != masks_of(build(coco[0], seed=1, **options))
    part = masks_of(build(coco[0] / "256", **options))  # other positions, same keys
    assert part == {key: first[key] for key in part}


@pytest.mark.parametrize(
    ("caption_shape", "given"),
    [((77, 1024), {}), ((77, 1024), {"cap_seq_size": 77}), ((9, 64), {"cap_seq_size": 9, "cap_emb_dim": 64})],
)
def test_published_shards_are_read(tmp_path: Path, caption_shape: tuple[int, int], given: Any) -> None:
    samples = write_published(tmp_path / "mds", caption_shape)
    for image_size in (256, 512):
        loader = build(tmp_path / "mds", 3, image_size, shuffle=False, columns=("caption",), **given)
        batches = list(loader)
        assert [caption for batch in batches for caption in batch["caption"]] == [f"no. {i}" for i in range(12)]
        for name, column in (("image_latents", f"latents_{image_size}"), ("caption_latents", "caption_latents")):
            got = np.concatenate([batch[name].numpy() for batch in batches])
            expected = np.stack([sample[column] for sample in samples])
            assert np.array_equal(got.reshape(expected.shape), expected)
            assert got.dtype == np.float16
    assert batches[0]["caption_latents"].shape == (3, 1, *caption_shape)


def test_dropout_of_shards_without_keys_follows_from_position(tmp_path: Path) -> None:
    write_published(tmp_path / "mds", (77, 1024))
    options: dict[str, Any] = {"columns": ("caption",), "cap_drop_prob": 0.5, "num_workers": 2}
    masks = []
    for shuffle in (False, True):
        batches = list(build(tmp_path / "mds", 3, shuffle=shuffle, **options))
        masks.append(masks_of([batch | {"key": batch["caption"]} for batch in batches]))
    assert masks[0] == masks[1]
    assert set(masks[0].values()) == {0.0, 1.0}


def test_bytes_of_another_size_are_refused_in_mid_stream(tmp_path: Path) -> None:
    from streaming import MDSWriter

    columns = {"caption": "str", "caption_latents": "bytes", "latents_256": "bytes"}
    with MDSWriter(out=str(tmp_path / "mds"), columns=columns) as writer:
        for channels in (4, 4, 3, 4):
            image = bytes(channels * 2048)
            writer.write({"caption": "x" * 2048, "caption_latents": bytes(77 * 1024 * 2), "latents_256": image})
    with pytest.raises(SchemaError, match="sample 2: latents_256 takes 6144 bytes, expected 8192"):
        list(build(tmp_path / "mds", 2, columns=(), shuffle=False))


def test_several_folders_are_mixed(coco: Any, textcaps: Any) -> None:
    loader = build([coco[0], str(textcaps[0])], drop_last=False, num_workers=2)
    assert sorted(keys_of(loader)) == sorted([*coco[1], *textcaps[1]])


def test_proportions_weight_the_folders(coco: Any, textcaps: Any) -> None:
    keys = keys_of(build({coco[0]: 3, str(textcaps[0]): 1}, drop_last=False))
    assert len(keys) == 2 * NUM
    assert sum(key in coco[1] for key in keys) in (55, 56)
    assert len({key for key in keys if key in coco[1]}) == NUM


@pytest.mark.filterwarnings(r"ignore:unclosed file .*\.mds:ResourceWarning")  # streaming hashes and never closes
def test_plain_streaming_reads_and_verifies_our_shards(coco: Any, tmp_path: Path) -> None:
    from streaming import StreamingDataset

    folder, samples = coco
    dataset = StreamingDataset(remote=str(folder), local=str(tmp_path / "copy"), validate_hash="sha256", batch_size=4)
    got = {sample["key"]: sample for sample in dataset}
    assert got.keys() == samples.keys()
    for key, sample in samples.items():
        for name, value in sample.items():
            assert np.array_equal(got[key][name], value)


@pytest.mark.filterwarnings(r"ignore:unclosed file .*\.mds:ResourceWarning")  # streaming hashes and never closes
def test_plain_streaming_notices_a_flipped_bit_of_our_shards(tmp_path: Path) -> None:
    from streaming import Stream
    from streaming.base.world import World

    write_shard_set(tmp_path / "remote")
    shard = tmp_path / "remote/256/shard.00000.mds"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    stream = Stream(
        remote=str(tmp_path / "remote/256"),
        local=str(tmp_path / "local"),
        validate_hash="sha256",
        download_retry=1,
        download_timeout=9,
        keep_zip=False,
    )
    readers = stream.get_shards(World.detect(), False)
    with pytest.raises(ValueError, match="Checksum failure"):
        stream.prepare_shard(readers[0])


def test_other_encoders_are_refused(coco: Any, tmp_path: Path) -> None:
    other = {**ENCODERS, "text": {"model": "tiny-clip", "revision": "b2"}}
    write_shard_set(tmp_path / "jdb", other)
    with pytest.raises(SchemaError) as caught:
        build([coco[0], tmp_path / "jdb"])
    for part in (str(coco[0]), str(tmp_path / "jdb"), "encoders.text.revision is 'a1'", "'b2' in the second"):
        assert part in str(caught.value)
    build(tmp_path / "jdb")


def test_encoders_of_a_single_group_are_compared_too(coco: Any, tmp_path: Path) -> None:
    write_shard_set(tmp_path / "jdb", {**ENCODERS, "image": None})
    with pytest.raises(SchemaError, match=r"encoders.image is \{'model': 'tiny-vae', .* and None in the second"):
        build([coco[0], tmp_path / "jdb/512"])


def test_encoders_nobody_states_are_reported(
    coco: Any, textcaps: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_shard_set(tmp_path / "jdb")
    (tmp_path / "jdb/manifest.json").unlink()
    build([coco[0], textcaps[0]])
    assert caplog.messages == []
    build([coco[0], tmp_path / "jdb"])
    assert f"that {tmp_path / 'jdb'} was made by" in caplog.text


def test_other_shapes_are_refused(coco: Any, tmp_path: Path) -> None:
    write_shard_set(tmp_path / "jdb", caption_latents="ndarray:float16:77,32")
    with pytest.raises(
        SchemaError, match=r"is float16 \(77, 64\) in the first and caption_latents is float16 \(77, 32\) in"
    ):
        build([coco[0], tmp_path / "jdb"])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((4, 1024), r"5 of 5 shards have no latents_1024, only \['latents_256', 'latents_512'\]"),
        ((4, 256, 70), "caption_latents is 77 x 64, but cap_seq_size=70 and cap_emb_dim=None"),
        ((4, 256, 77, 1024), "is 77 x 64, but cap_seq_size=77 and cap_emb_dim=1024"),
        ((NUM + 1, 256), f"expected a batch of {NUM + 1} samples for each rank, got {NUM} samples"),
        ((NUM_512 + 1, 512), f"got {NUM_512} samples: lower batch_size"),
    ],
)
def test_what_the_shards_cannot_give_is_refused(coco: Any, args: Any, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        build(coco[0], *args)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("licence", r"has no column 'licence', only \['caption', "),
        ("latents_256", "column 'latents_256' is ndarray:float16:4,32,32, expected"),
    ],
)
def test_columns_that_are_not_there_or_not_plain_are_refused(coco: Any, column: str, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        build(coco[0], columns=(column,))


def test_all_wrong_arguments_are_reported_together(coco: Any) -> None:
    with pytest.raises(ParamsError) as caught:
        build({coco[0]: -1}, 0, 0, 0, 0, 1.5, seed=-1)
    for name in ("proportions", "batch_size", "image_size", "cap_seq_size", "cap_emb_dim", "cap_drop_prob", "seed"):
        assert f"{name} must be" in str(caught.value)


@pytest.mark.parametrize("twice", [True, False])
def test_folders_must_be_given_once(coco: Any, twice: bool) -> None:
    datadir = [coco[0], coco[0] / "../shards"] if twice else []
    with pytest.raises(ParamsError, match="twice" if twice else "names no folder"):
        build(datadir)


DAMAGE: dict[str, tuple[Any, Any, str]] = {
    "no index": (lambda folder: (folder / "index.json").unlink(), {}, "index.json is missing: is this the fol"),
    "no folder": (lambda folder: folder.rename(folder.with_name("gone")), {}, "index.json is missing"),
    "no shard": (lambda folder: (folder / "256/shard.00001.mds").unlink(), {}, "256/shard.00001.mds is missing"),
    "cut shard": (
        lambda folder: (folder / "512/shard.00000.mds").write_bytes(b"cut"),
        {},
        r"512/shard.00000.mds: expected \d+ bytes, got 3",
    ),
    "no group": (
        lambda folder: (folder / "512/index.json").unlink(),
        {"image_size": 512},
        "3 of 5 shards have no latents_512",
    ),
    "no samples": (lambda folder: write_json(folder / "index.json", index_document([])), {}, "has no samples"),
    "no manifest json": (lambda folder: (folder / "manifest.json").write_text("{"), {}, "manifest.json: expected JSON"),
    "no encoders": (lambda folder: (folder / "manifest.json").write_text("{}"), {}, "expected 'encoders'"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_set_is_refused_at_build(tmp_path: Path, case: str) -> None:
    damage, options, message = DAMAGE[case]
    write_shard_set(tmp_path / "shards")
    damage(tmp_path / "shards")
    with pytest.raises(SchemaError, match=message):
        build(tmp_path / "shards", **options)


def test_set_without_512_px_samples_is_refused_at_512(tmp_path: Path) -> None:
    write_shard_set(tmp_path / "shards", num_512=0)
    with pytest.raises(SchemaError, match="512: has no samples with latents_512: leave this dataset out"):
        build(tmp_path / "shards", image_size=512)


@pytest.mark.parametrize(
    ("column", "encoding", "message"),
    [
        ("caption_latents", "ndarray:float64:77,64", "expected latents of float16, bfloat16, float32"),
        ("caption_latents", "ndarray:uint16:77,64", "no manifest says that it is bfloat16"),
        ("caption_latents", "ndarray:float16:4928", r"has shape \(4928,\), expected \(tokens, width\)"),
        ("latents_256", "ndarray:float16:4,64,64", r"has shape \(4, 64, 64\), expected \(C, 32, 32\)"),
    ],
)
def test_latents_of_another_form_are_refused(tmp_path: Path, column: str, encoding: str, message: str) -> None:
    write_shard_set(tmp_path / "shards", **{column: encoding})
    with pytest.raises(SchemaError, match=message):
        build(tmp_path / "shards")


@pytest.mark.parametrize(
    ("dtype", "given", "message"),
    [
        ("float16", {"cap_emb_dim": 768}, "takes 157696 bytes, but 77 x 768 float16 takes 118272"),
        ("float32", {}, "takes 315392 bytes, but 77 x 1024 float16 takes 157696"),
    ],
)
def test_published_shards_of_another_size_are_refused(tmp_path: Path, dtype: str, given: Any, message: str) -> None:
    write_published(tmp_path / "mds", (77, 1024), dtype)
    with pytest.raises(SchemaError, match=message):
        build(tmp_path / "mds", 3, columns=(), **given)
