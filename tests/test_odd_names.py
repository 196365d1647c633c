"""Names that nobody should type: their samples have keys, can be withdrawn by these, and obey no terminal."""

import io
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from microdiff.artifacts.tables import read_rows
from microdiff.clean.step import clean
from microdiff.commands.report import write_html
from microdiff.core.printable import escape_key, is_key, one_line, printable
from microdiff.core.withdrawn import read_withdrawn
from microdiff.download.step import download
from microdiff.pipeline.workspace import Workspace
from stages.forget import app
from tests.waiting import run_python

ESCAPE = "\x1b[31m"
NAMES = [
    "1",
    "new\nline",
    "a\ttab",
    "caf\udce9",
    "caf\udcea",
    "café",
    "cafe\u0301",
    f"{ESCAPE}red",
    "-x",
    "--help",
    "#1",
]
NAMES += [
    " blanks ",
    "'quotes\"",
    "a#2",
    "%0A",
    "$HOME",
    "a b/1",
    "a.b/1",
    "日本",
    "a\\b",
    "\u202eturned",
    "\r",
    "*",
    "=",
    ",",
]


def write_tar(path: Path, names: Sequence[str]) -> None:
    path.parent.mkdir()
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, errors="surrogateescape") as tar:
        for number, name in enumerate(names):
            picture = io.BytesIO()
            Image.new("RGB", (256, 256), (number, 0, 0)).save(picture, "PNG")
            for kind, data in (("png", picture.getvalue()), ("txt", f"{ESCAPE}caption {number}".encode())):
                member = tarfile.TarInfo(f"{name}.{kind}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


@pytest.fixture
def params(make_params: Any, tmp_path: Path) -> Any:
    write_tar(tmp_path / "odd" / "0.tar", NAMES)
    return make_params(
        {"datasets.cc12m.download.source": str(tmp_path / "odd"), "datasets.cc12m.max_rejected_share": 1.0}
    )


def statuses(workspace: Workspace) -> dict[str, str]:
    table = workspace.artifact("cc12m", "raw") / "0000.parquet"
    return {row["key"]: row["status"] for row in read_rows(table, ["key", "status"])}


@pytest.mark.parametrize("from_file", [True, False])
def test_every_key_can_be_withdrawn(params: Any, workspace: Workspace, tmp_path: Path, from_file: bool) -> None:
    workspace.root.mkdir()
    download("cc12m", params, workspace)
    before = statuses(workspace)
    assert before == dict.fromkeys(sorted(f"0_{escape_key(name)}" for name in NAMES), "kept")
    assert all(is_key(key) for key in before)
    keys = list(before)[:-1]  # something has to be left
    if from_file:
        (tmp_path / "keys.txt").write_bytes("\n".join(keys).encode())
        arguments = [str(tmp_path / "keys.txt")]
    else:
        arguments = [part for key in keys for part in ("--key", key)]
    done = CliRunner().invoke(app, [*arguments, "--root", str(workspace.root)])
    assert (done.exit_code, done.exception) == (0, None), done.output
    assert sorted(read_withdrawn(workspace.withdrawn("cc12m")).entries) == keys
    download("cc12m", params, workspace)
    assert statuses(workspace) == {key: "withdrawn" if key in keys else "kept" for key in before}


def test_a_key_may_begin_with_a_dash_or_be_given_as_the_source_has_it(params: Any, workspace: Workspace) -> None:
    workspace.root.mkdir()
    download("cc12m", params, workspace)
    done = CliRunner().invoke(app, ["--key", "0_a.b/1", "--key", "0_new\nline", "--root", str(workspace.root)])
    assert done.exit_code == 0, done.output
    assert sorted(read_withdrawn(workspace.withdrawn("cc12m")).entries) == ["0_a%2Eb%2F1", "0_new%0Aline"]
    done = CliRunner().invoke(app, ["--key", "-x", "--root", str(workspace.root)])
    assert done.exit_code == 1  # understood, and not there


def test_nothing_printed_obeys_a_terminal(params: Any, workspace: Workspace, tmp_path: Path) -> None:
    workspace.root.mkdir()
    (tmp_path / "odd" / f"x{ESCAPE}-1.tar").write_bytes(b"no tar")
    environment = {**os.environ, "MICRODIFF_WORKERS": "1"}
    arguments = ["cc12m", "--params", str(tmp_path / "params.yaml"), "--root", str(workspace.root)]
    failed = run_python("-m", "stages.download", *arguments, cwd=Path.cwd(), env=environment)
    assert failed.returncode == 1
    assert "x\\x1b[31m-1.tar: not a complete tar archive" in failed.stderr
    assert "\x1b" not in failed.stdout + failed.stderr
    (tmp_path / "odd" / f"x{ESCAPE}-1.tar").unlink()
    download("cc12m", params, workspace)
    clean("cc12m", params, workspace)
    unknown = run_python(
        "-m", "stages.forget", "--key", f"{ESCAPE}unknown", "--root", str(workspace.root), cwd=Path.cwd()
    )
    assert "\\x1b[31munknown" in unknown.stderr
    assert "\x1b" not in unknown.stdout + unknown.stderr
    assert b"\x1b" not in write_html(["cc12m"], workspace).read_bytes()
    (row, *_) = read_rows(workspace.artifact("cc12m", "raw") / "0000.parquet", ["captions", "source"])
    assert row["captions"][0].startswith(ESCAPE)  # captions are data: they stay
    sources = [row["source"] for row in read_rows(workspace.artifact("cc12m", "raw") / "0000.parquet", ["source"])]
    assert all(source == one_line(source) for source in sources)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 日本 🙂\n", "plain é 日本 🙂\n"),
        (ESCAPE, "\\x1b[31m"),
        ("\u202e\u2028\x9b", "\\u202e\\u2028\\x9b"),
        ("\udce9", "\\udce9"),
        ("\U000e0041", "\\U000e0041"),
        ("a\tb\r", "a\\x09b\\x0d"),
    ],
)
def test_what_cannot_be_shown_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert one_line(text) == shown.replace("\n", "\\x0a")
