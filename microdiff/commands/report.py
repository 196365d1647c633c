"""What the pipeline did, for people: the ledger and the timings as text and as one HTML page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from microdiff.artifacts.kinds import KINDS
from microdiff.core.files import read_json
from microdiff.core.printable import printable
from microdiff.errors import SchemaError
from microdiff.pipeline.workspace import Workspace

STEPS = {step: kind for kind, step in KINDS.items()}
_SHOWN = 8


@dataclass(frozen=True)
class StepReport:
    """One step of one dataset: its metrics, and its last run's facts where it ran on this machine."""

    dataset: str
    step: str
    metrics: Mapping[str, Any]
    run: Mapping[str, Any] | None

    @property
    def reasons(self) -> str:
        """The reasons that occurred, with their counts."""
        counted = {
            name.removeprefix("rejected_"): n for name, n in self.metrics.items() if name.startswith("rejected_")
        }
        return ", ".join(f"{name} {n}" for name, n in counted.items() if n and name != "share")

    @property
    def wall(self) -> str:
        """How long the last run took, if it ran here."""
        return f"{self.run['wall_s']:.1f} s" if self.run else "not run here"


def read_reports(datasets: Sequence[str], workspace: Workspace) -> list[StepReport]:
    """Return the reports of all steps that have run, in pipeline order.

    Raises:
        SchemaError: A file is damaged.
    """
    reports = []
    for dataset in datasets:
        for step in STEPS:
            metrics, run = workspace.metrics(step, dataset), workspace.run_facts(step, dataset)
            if metrics.is_file():
                facts = _read(run) if run.is_file() else None
                reports.append(StepReport(dataset, step, _read(metrics), facts))
    return reports


def _read(path: Path) -> Mapping[str, Any]:
    try:
        value: Mapping[str, Any] = read_json(path)
    except ValueError as error:
        raise SchemaError(f"{path}: damaged ({error}). Remove it and build the dataset: make {path.stem}") from None
    return value


def ledger_lines(datasets: Sequence[str], workspace: Workspace) -> list[str]:
    """Return a table: records in, kept and rejected per step, and how long each step took."""
    rows: list[tuple[str, ...]] = [("dataset", "step", "in", "kept", "rejected", "time", "reasons")]
    for item in read_reports(datasets, workspace):
        counts = (str(item.metrics[name]) for name in ("in", "kept", "rejected"))
        rows.append((item.dataset, item.step, *counts, item.wall, item.reasons))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    return [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]) for row in rows
    ]


def describe_batch(datasets: Sequence[str], workspace: Workspace) -> list[str]:
    """Load one batch from the shards of all datasets and describe its tensors.

    Raises:
        SchemaError: There are no shards.
    """
    from microdiff.loader.build import build_streaming_latents_dataloader

    folders = [workspace.artifact(name, "shards") for name in datasets]
    folders = [folder for folder in folders if (folder / "index.json").is_file()]
    if not folders:
        raise SchemaError(f"{workspace.root / 'data'}: no shards there. Build them with make all.")
    loader = build_streaming_latents_dataloader(
        folders, batch_size=_SHOWN, image_size=256, cap_drop_prob=0.1, num_workers=0, columns=("caption", "key")
    )
    batch = next(iter(loader))
    lines = [f"first batch of {', '.join(map(str, folders))}:"]
    for name, value in sorted(batch.items()):
        if hasattr(value, "shape"):
            lines.append(f"  {name:18} {str(value.dtype).removeprefix('torch.'):8} {tuple(value.shape)}")
        else:
            lines.append(f"  {name:18} {len(value)} x {type(value[0]).__name__}: {value[0]!r}")
    return lines


def write_html(datasets: Sequence[str], workspace: Workspace) -> Path:
    """Write the report page and return its path."""
    rows = []
    for item in read_reports(datasets, workspace):
        rate = f"{item.run['samples_per_s']}" if item.run else ""
        cells = [item.dataset, item.step, *(item.metrics[name] for name in ("in", "kept", "rejected"))]
        rows.append([*cells, f"{item.metrics['rejected_share']:.2%}", item.reasons, item.wall, rate])
    head = ["dataset", "step", "in", "kept", "rejected", "share", "reasons", "time", "samples/s"]
    path = workspace.root / "reports" / "index.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_PAGE.format(table=_table(head, rows), captions=_captions(datasets, workspace)), encoding="utf-8")
    return path


def _captions(datasets: Sequence[str], workspace: Workspace) -> str:
    """Return a table of the first samples' original and clean captions."""
    import pyarrow.parquet as pq

    rows: list[list[Any]] = []
    for dataset in datasets:
        for path in sorted(workspace.artifact(dataset, "captions").glob("*.parquet"))[:1]:
            table = pq.read_table(path, columns=["key", "original", "caption"]).slice(0, _SHOWN)
            rows += [[dataset, row["key"], row["original"], row["caption"]] for row in table.to_pylist()]
    return _table(["dataset", "key", "original caption", "clean caption"], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = ["<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{escape(printable(str(cell)))}</td>" for cell in row) + "</tr>" for row in rows]
    return "<table>\n" + "\n".join(lines) + "\n</table>"


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>microdiff report</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em }}
table {{ border-collapse: collapse }} td, th {{ padding: .2em .8em; border-bottom: 1px solid #ddd; text-align: left }}
</style>
<h1>microdiff</h1>
<h2>Ledger</h2>
<p>Every source record ends in exactly one state; each step's input is what the step before kept.</p>
{table}
<h2>Captions</h2>
{captions}
</html>
"""
