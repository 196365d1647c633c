"""Writes `LICENSES.md`: whose photographs the miniatures hold, and what was done to them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from samples.build.photos import LICENCES, PHOTOS

_HEAD = """\
# Licences of the samples

Written by `python -m samples.build`; do not edit. The pictures in `samples/` are views of the photographs
below: a part where it says "cropped", trimmed to the shape of the stated size, reduced to it, stripped of
metadata and colour profile, and encoded anew. Each view keeps the licence of its photograph.

Sources are named `package/path`; `README.md` says how to get the packages, `build/photos.sha256` has the
checksums. Author and licence are as each package states them: lomiri-wallpapers in its `copyright` file,
scikit-image in the docstrings of `skimage.data`, scikit-learn in `images/README.txt`, scipy in the docstring
of `scipy.misc.face`, palapeli-data in the `.desktop` file beside each picture.

Captions written for this project, CC0 1.0.

"""


def write_licences(path: Path, uses: Mapping[str, Sequence[tuple[str, str, str]]]) -> None:
    """Write the table of photographs.

    Args:
        path: The file to write.
        uses: For each dataset, (photo, what was done, sample).
    """
    lines = [
        "| photograph | author | source | licence | what was done: samples |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, photo in PHOTOS.items():
        views = [
            f"{done}: {dataset} {sample}"
            for dataset, taken in uses.items()
            for used, done, sample in taken
            if used == name
        ]
        title = f"[{photo.title}]({photo.page})" if photo.page else photo.title
        licence = f"[{photo.licence}]({LICENCES[photo.licence]})"
        cells = (title, photo.author, f"`{photo.file}`", licence, "<br>".join(views) or "not used")
        lines.append(f"| {' | '.join(cells)} |")
    path.write_text(_HEAD + "\n".join(lines) + "\n", encoding="utf-8")
