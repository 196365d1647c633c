"""The encode step as a whole: what it does not compute, that nothing changes its bytes, and what it says of its run."""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import changed, sample_preset, tree_bytes
from microdiff.artifacts.manifest import read_manifest
from microdiff.clean.step import clean
from microdiff.core.files import read_json
from microdiff.core.progress import Reporter
from microdiff.download.step import download
from microdiff.encode.step import encode
from microdiff.models import image_encoder, text_encoder
from microdiff.pipeline import store
from microdiff.pipeline.executor import TaskResult, Work
from microdiff.pipeline.params import Params
from microdiff.pipeline.workers import WorkerPlan
from microdiff.pipeline.workspace import Workspace

SEVERAL = {"datasets.coco.download.images_per_partition": 4, "datasets.coco.download.partitions": "0-3"}
CLIP = sample_preset()["encode"]["text"]["caption_latents"]
MakeParams = Callable[..., Params]


@pytest.fixture
def prepared(workspace: Workspace, make_params: MakeParams) -> Workspace:
    for before in (download, clean):
        before("coco", make_params(SEVERAL), workspace)
    return workspace


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the samples that encoders are asked for, by what they fill; encoders that answer at once."""
    counted: Counter[str] = Counter()

    class Vae:
        device = torch.device("cpu")

        def __init__(self, latents: str, store: str) -> None:
            self.description = {"latents": latents, "stored_dtype": store, "channels": 4, "downsampling": 8}

        def encode(self, images: Tensor, keys: Sequence[str], *, precise: bool = False) -> Tensor:
            counted[f"images {images.shape[1]}"] += len(keys)
            return torch.zeros(len(keys), 4, images.shape[1] // 8, images.shape[1] // 8)

    class Tower:
        device = torch.device("cpu")
        description: dict[str, Any] = {"stored_dtype": "float16", "tokens": 1, "width": 1}  # noqa: RUF012 - not changed

        def __init__(self, batch_size: int) -> None:
            self.batch_size = batch_size  # tells the columns apart

        def tokenize(self, captions: Sequence[str]) -> text_encoder.Tokens:
            return text_encoder.Tokens(torch.tensor([[len(caption)] for caption in captions]))

        def encode(self, tokens: text_encoder.Tokens, *, precise: bool = False) -> Tensor:
            counted[f"captions {self.batch_size}"] += len(tokens.ids_BT)
            return tokens.ids_BT[:, :, None].float()

    monkeypatch.setattr(image_encoder, "image_encoder", lambda settings: Vae(settings.latents, settings.store))
    monkeypatch.setattr(text_encoder, "text_encoder", lambda settings: Tower(settings.batch_size))
    return counted


TWO_TEXTS = {
    "encode.text": {"caption_latents": {**CLIP, "batch_size": 7}, "caption_latents_b": {**CLIP, "batch_size": 5}}
}


@pytest.mark.parametrize(
    ("changes", "expected", "why"),
    [
        ({}, {}, "nothing changed"),
        ({"datasets.coco.clean.cleaner": "deepfloyd"}, {"captions 7", "captions 5"}, "new captions cost no VAE time"),
        ({"encode.image.latents": "mode"}, {"images 256", "images 512"}, "another use of the VAE costs no text"),
        ({"encode.image.resolutions": [256]}, {"images 256"}, "other resolutions cost no text"),
        ({"encode.text.caption_latents_b.batch_size": 6}, {"captions 6"}, "one encoder's change is not the other's"),
    ],
)
def test_nothing_is_encoded_that_did_not_change(
    prepared: Workspace,
    make_params: MakeParams,
    calls: Counter[str],
    changes: dict[str, Any],
    expected: set[str],
    why: str,
) -> None:
    params = {**SEVERAL, **TWO_TEXTS}
    encode("coco", make_params(params), prepared)
    raw = read_manifest(prepared.artifact("coco", "raw")).kept()
    captions = read_manifest(prepared.artifact("coco", "captions")).kept()
    assert calls["images 256"] == sum(raw.values())
    assert 0 < calls["images 512"] < calls["images 256"], "only pictures that have 512 px"
    assert 0 < calls["captions 7"] == calls["captions 5"] <= sum(captions.values())
    calls.clear()

    document = changed(changed(sample_preset(), params), changes)
    again = make_params({name: document[name] for name in ("encode", "datasets")})
    clean("coco", again, prepared)
    encode("coco", again, prepared)
    assert set(calls) == set(expected), why


def test_neither_order_nor_units_in_hand_change_a_byte(
    prepared: Workspace, make_params: MakeParams, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Workers of their own: see test_steps. Here several tasks share a process, the last ones first."""
    encode("coco", make_params(SEVERAL), prepared)
    expected = tree_bytes(prepared.artifact("coco", "latents"))
    monkeypatch.setenv("MICRODIFF_WORK", str(tmp_path / "other work"))
    shutil.rmtree(prepared.artifact("coco", "latents"))  # they would be found there

    def on_threads(tasks: Sequence[tuple[str, Work]], _: WorkerPlan, report: Reporter) -> Iterator[TaskResult]:
        with ThreadPoolExecutor(3) as pool:
            yield from pool.map(lambda task: TaskResult(task[0], task[1](report)), reversed(tasks))

    monkeypatch.setattr(store, "run_tasks", on_threads)
    encode("coco", make_params(SEVERAL), prepared)
    assert read_json(prepared.run_facts("encode", "coco"))["partitions_computed"] > 0
    assert tree_bytes(prepared.artifact("coco", "latents")) == expected


def test_the_run_is_told_in_facts(prepared: Workspace, make_params: MakeParams) -> None:
    encode("coco", make_params(SEVERAL), prepared)
    facts = read_json(prepared.run_facts("encode", "coco"))
    assert facts["batch_size"] == {"caption_latents": 32, "latents_256": 8, "latents_512": 8}
    assert 0 < facts["device_share"] <= 1
    assert facts["device_s"] > 0
    assert facts["input_wait_s"] >= 0
    assert set(facts["per_s"]) <= {"images", "captions"}
    encode("coco", make_params(SEVERAL), prepared)
    assert "device_share" not in read_json(prepared.run_facts("encode", "coco")), "nothing was computed"
