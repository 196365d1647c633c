"""Raw tables without pictures, and caption policies: what the clean step is tested on."""

import json
from pathlib import Path
from typing import Any

from conftest import sample_preset
from microdiff.artifacts.tables import table_writer
from microdiff.config.settings import CleanSettings
from microdiff.download.raw_writer import SCHEMA as RAW_SCHEMA
from microdiff.pipeline.parsing import parse


def policy(**changes: Any) -> CleanSettings:
    problems: list[str] = []
    values = {**sample_preset()["datasets"]["coco"]["clean"], **changes}
    settings = parse(CleanSettings, values, "clean", problems)
    assert settings is not None, problems
    return settings


def raw_row(key: str = "a", *captions: str, sha256: str = "0" * 64, **meta: Any) -> dict[str, Any]:
    row = {"key": key, "status": "kept", "captions": list(captions), "width": 300, "height": 400, "source": ""}
    return {**row, "original_width": 300, "original_height": 400, "sha256": sha256, "meta": json.dumps(meta)}


def write_raw(folder: Path, partitions: dict[str, list[dict[str, Any]]]) -> None:
    for name, rows in partitions.items():
        with table_writer(folder / f"{name}.parquet", RAW_SCHEMA) as add_row:
            for row in rows:
                add_row(row)
