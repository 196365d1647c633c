"""The example trains: its loss falls, and a resumed run sees the batches that an uninterrupted one sees."""

import runpy
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import REPO
from microdiff.pipeline.params import Params
from microdiff.pipeline.workspace import Workspace
from microdiff.shard.step import shard
from tests.latents_factory import make_sample, write_artifact

COLUMNS = {"caption_latents": ("float16", (3, 8)), "latents_256": ("float16", (4, 32, 32))}


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_loss_falls_and_resuming_continues_exactly(
    workspace: Workspace,
    make_params: Callable[..., Params],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def scaled(number: int, columns: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: (value / 100 - 1).astype(np.float16) if isinstance(value, np.ndarray) else value
            for name, value in make_sample(number, columns).items()
        }

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    write_artifact(workspace.root, {"0000": list(range(20))}, COLUMNS, scaled)
    shard("coco", make_params(), workspace)
    train = runpy.run_path(str(REPO / "examples" / "train_tiny.py"))["train"]
    folders, options = [str(workspace.artifact("coco", "shards"))], {"batch_size": 4, "caption_width": 8}
    whole = train(folders, 23, tmp_path / "whole.pt", **options)
    first = train(folders, 13, tmp_path / "cut.pt", **options)  # in the middle of the third epoch
    rest = train(folders, 23, tmp_path / "cut.pt", resume=True, **options)
    assert first + rest == whole
    losses = [loss for loss, _ in whole]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
