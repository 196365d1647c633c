"""JourneyDB in miniature: train as https://huggingface.co/datasets/JourneyDB/JourneyDB has it, made of photographs.

    data/train/imgs/000.tgz  001.tgz  003.tgz           <number>/<uuid>.jpg, in no order; there is no 002
    data/train/train_anno_realease_repath.jsonl.tgz     a line of JSON for each annotation, in no order
    data/train/train_anno.jsonl.tgz                     the same with paths that fit no archive; not to be used

A source record is a picture, or an annotation without one:

    records in                     22
    kept                           13     3 of them with a short side of 512
    rejected  too_small             1     000_5
              undecodable           1     001_5 (truncated)
              missing_image         4     001_6 (not in its archive), 002_0 (no such archive), two lines of the
                                          annotations (one is no JSON, one names no picture)
              missing_caption       1     000_6
              empty_caption         1     003_3
              duplicate_key         1     a second annotation of 000_0

Kept, but in need of care: prompts with flags (000_1, 001_0), a URL (000_3), a comma at the end (000_2), no cased
letters (001_3); 001_1 and 001_2 share a prompt; Task2 is null (000_2), absent (001_0), blank (001_4); a prompt of
null with a description (003_2), which then is the first caption that says anything.

A number behind the underscore is the record's in `RECORDS`; the uuid is made from it.
"""

import json
import random
import uuid
from dataclasses import dataclass
from pathlib import Path

from samples.build.archives import write_sha256sums, write_tar
from samples.build.photos import View, render

_KEPT = "kept"
_SEED = 2023
_ABSENT = "absent"  # of a Task2 that is not there at all
_BROKEN_LINES = (b'{"img_path": "./001/cut', b'{"prompt": "a picture of nothing", "Task2": null}')  # two missing_image


@dataclass(frozen=True, kw_only=True)
class Record:
    """One source record.

    Attributes:
        archive: The number of its archive.
        number: Its number among those of the archive.
        view: The picture; none where it is missing.
        prompt: None where there is none.
        description: Of Task2; None for a Task2 of null.
        fate: `kept`, or the reason of the rejection.
        annotated: Whether there is a line for it.
        truncated: Whether the picture is.
    """

    archive: int
    number: int
    view: View | None
    prompt: str | None = None
    description: str | None = None
    fate: str = _KEPT
    annotated: bool = True
    truncated: bool = False

    @property
    def path(self) -> str:
        """The member's path, which is that of the annotation less its `./`."""
        digits = random.Random(f"{_SEED} {self.archive} {self.number}").getrandbits(128)  # noqa: S311 - a name
        return f"{self.archive:03d}/{uuid.UUID(int=digits, version=4)}.jpg"

    @property
    def label(self) -> str:
        """How tables of the samples name it."""
        return f"{self.archive:03d}_{self.number}"


_SLOPES = "mountain valley in autumn, soft morning light, national geographic photography, 8k"

RECORDS = (
    Record(
        archive=0,
        number=0,
        view=View(photo="astronaut", size=(512, 512)),
        prompt="portrait of an astronaut in an orange space suit, flag in the background, studio light",
        description="An astronaut in an orange space suit smiles at the camera in front of a flag.",
    ),
    Record(
        archive=0,
        number=1,
        view=View(photo="pagoda", size=(420, 280)),
        prompt="chinese pagoda above a lake, tiled roofs, blue sky, wide angle --ar 3:2 --v 5",
        description="A pagoda with green and orange roofs rises above the trees beside a lake.",
    ),
    Record(
        archive=0,
        number=2,
        view=View(photo="cat", size=(400, 300)),
        prompt="tabby cat with green eyes, close up, looking aside, cinematic,",
    ),
    Record(
        archive=0,
        number=3,
        view=View(photo="dahlia", size=(420, 280)),
        prompt="https://s.example.com/a1B2c3 orange dahlia in full bloom, macro, soft focus --v 4 --q 2",
        description="A round orange dahlia fills the picture, its many petals in even rows.",
    ),
    Record(
        archive=0,
        number=4,
        view=View(photo="galaxies", size=(400, 300)),
        prompt="deep field of galaxies, black space, tiny coloured lights, NASA photo",
        description="Hundreds of small galaxies glow in many colours on a black sky.",
    ),
    Record(
        archive=0,
        number=5,
        view=View(photo="brick", size=(200, 200)),
        prompt="seamless texture of a brick wall, grey, game asset --tile",
        description="A wall of grey bricks.",
        fate="too_small",
    ),
    Record(
        archive=0,
        number=6,
        view=View(photo="gravel", size=(384, 288)),
        fate="missing_caption",
        annotated=False,
    ),
    Record(
        archive=1,
        number=0,
        view=View(photo="raccoon", size=(640, 512)),
        prompt="raccoon resting on a plant, forest, wildlife photography, bokeh --ar 5:4 --stylize 750",
        description=_ABSENT,
    ),
    Record(
        archive=1,
        number=1,
        view=View(photo="meadow", size=(420, 280)),
        prompt=_SLOPES,
        description="Autumn trees stand on a green meadow below a rocky mountain.",
    ),
    Record(
        archive=1,
        number=2,
        view=View(photo="mountains", size=(400, 300)),
        prompt=_SLOPES,
        description="A path leads up a grassy slope towards mountains with patches of snow.",
    ),
    Record(
        archive=1,
        number=3,
        view=View(photo="coffee", size=(420, 280)),
        prompt="红色杯子里的浓缩咖啡，木桌，俯视",
        description="A red cup of espresso stands on a wooden table.",
    ),
    Record(
        archive=1,
        number=4,
        view=View(photo="rocket", size=(420, 280)),
        prompt="white rocket on its launch pad at dusk, floodlights::2 clouds::1",
        description=" ",
    ),
    Record(
        archive=1,
        number=5,
        view=View(photo="citrus", size=(420, 280)),
        prompt="slices of citrus fruit, lit from below, food photography",
        description="Slices of oranges, lemons and limes lie side by side.",
        fate="undecodable",
        truncated=True,
    ),
    Record(
        archive=1,
        number=6,
        view=None,
        prompt="a lighthouse in a storm, oil painting --v 5",
        description="Waves break against a lighthouse.",
        fate="missing_image",
    ),
    Record(
        archive=2,
        number=0,
        view=None,
        prompt="isometric model of a railway station, miniature, tilt shift --ar 1:1",
        description="A small model of a railway station.",
        fate="missing_image",
    ),
    Record(
        archive=3,
        number=0,
        view=View(photo="bridge_night", size=(560, 420)),
        prompt="suspension bridge at night, reflections in the river, long exposure, city lights",
        description="A lit suspension bridge is mirrored in a dark river.",
    ),
    Record(
        archive=3,
        number=1,
        view=View(photo="bee", size=(600, 512)),
        prompt="honey bee on a purple aster, extreme macro, pollen, ultra detailed --no text",
        description="A bee gathers nectar from the yellow centre of a purple flower.",
    ),
    Record(
        archive=3,
        number=2,
        view=View(photo="sunset", size=(400, 300)),
        description="The sun sets behind hills; in front stands a round stone table.",
    ),
    Record(
        archive=3,
        number=3,
        view=View(photo="fig", size=(380, 285)),
        prompt="",
        fate="empty_caption",
    ),
)
_TWICE = RECORDS[0]  # has a second annotation


def build(photos: Path, into: Path) -> None:
    """Write the miniature below `into`.

    Args:
        photos: Folder where the packages with the photographs were unpacked.
        into: Folder that stands for the repository.
    """
    shuffled = random.Random(_SEED)  # noqa: S311 - an order, not a secret
    archives: dict[str, list[tuple[str, bytes]]] = {}
    for record in RECORDS:
        if record.view is not None:
            picture = render(record.view, photos)
            data = picture[: len(picture) // 2] if record.truncated else picture
            archives.setdefault(f"data/train/imgs/{record.archive:03d}.tgz", []).append((record.path, data))
    for path, members in archives.items():
        shuffled.shuffle(members)
        folder = members[0][0].partition("/")[0]
        write_tar(into / path, [(f"{folder}/", b""), *members], gzipped=True)

    annotated = [record for record in RECORDS if record.annotated]
    lines = [_line(record, f"./{record.path}") for record in annotated]
    lines += [*_BROKEN_LINES, _line(_TWICE, f"./{_TWICE.path}")]
    shuffled.shuffle(lines)
    original = [
        _line(record, f"MidjourneyDB_03_latest/./imgs/Upscaled_someone_{Path(record.path).name}")
        for record in annotated
    ]
    for name, content in (("train_anno_realease_repath", lines), ("train_anno", original)):
        path = f"data/train/{name}.jsonl.tgz"
        write_tar(into / path, [(f"{name}.jsonl", b"".join(line + b"\n" for line in content))], gzipped=True)
        archives[path] = []
    write_sha256sums(into, list(archives))


def uses() -> list[tuple[str, str, str]]:
    """List what the miniature takes from the photographs: (photo, what was done, sample)."""
    return [
        (record.view.photo, record.view.describe() + (", truncated" if record.truncated else ""), record.label)
        for record in RECORDS
        if record.view is not None
    ]


def counts() -> dict[str, int]:
    """Count the records by fate."""
    fates = [record.fate for record in RECORDS] + ["missing_image"] * len(_BROKEN_LINES) + ["duplicate_key"]
    return {"records": len(fates)} | {fate: fates.count(fate) for fate in dict.fromkeys(fates)}


def _line(record: Record, path: str) -> bytes:
    """Make an annotation."""
    annotation: dict[str, object] = {
        "img_path": path,
        "prompt": record.prompt,
        "Task1": {"Style": ["photo"], "Content": [], "Atmosphere": [], "Others": []},
        "Task2": None if record.description is None else {"Caption": record.description},
        "Task3": {"Content Relevant Questions and Answers": []},
    }
    if record.description == _ABSENT:
        del annotation["Task2"]
    return json.dumps(annotation).encode()
