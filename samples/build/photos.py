"""The photographs behind every miniature: who took them, under which licence, and how a view of one is made.

A miniature never stores a photograph as it came: it stores *views*, each a crop of one photograph reduced
to a stated size and encoded once. `LICENSES.md` is written from the table here and from the views in use.
"""

import bz2
import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

SHA256SUMS = Path(__file__).with_name("photos.sha256")  # of every file named below, relative to --photos

LICENCES = {
    "CC0 1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "CC BY 2.0": "https://creativecommons.org/licenses/by/2.0/",
    "CC BY 4.0": "https://creativecommons.org/licenses/by/4.0/",
    "CC BY-SA 3.0": "https://creativecommons.org/licenses/by-sa/3.0/",
    "CC BY-SA 4.0": "https://creativecommons.org/licenses/by-sa/4.0/",
    "Public domain": "https://creativecommons.org/publicdomain/mark/1.0/",
}


@dataclass(frozen=True, kw_only=True)
class Photo:
    """One photograph with a free licence.

    Attributes:
        file: Path below the folder where the packages were unpacked; its first part names the package.
        title: What it shows, for the table of licences.
        author: As the package names them.
        licence: A key of `LICENCES`.
        page: Where the author published it, where the package says so.
    """

    file: str
    title: str
    author: str
    licence: str
    page: str = ""


_LOMIRI = "lomiri-wallpapers-16.04/usr/share/backgrounds"
_SKIMAGE = "scikit-image/skimage/data"
_SKLEARN = "scikit-learn/sklearn/datasets/images"
_PALAPELI = "palapeli-data/usr/share/palapeli/collection"
_COMMONS = "https://commons.wikimedia.org/wiki"

PHOTOS = {
    "astronaut": Photo(
        file=f"{_SKIMAGE}/astronaut.png",
        title="Eileen Collins, astronaut",
        author="NASA",
        licence="Public domain",
        page="https://flic.kr/p/r9qvLn",
    ),
    "bee": Photo(
        file=f"{_PALAPELI}/european-honey-bee.jpg",
        title="European honey bee on an aster",
        author="John Severns",
        licence="Public domain",
        page=f"{_COMMONS}/Image:European_honey_bee_extracts_nectar.jpg",
    ),
    "bird_lamp": Photo(
        file=f"{_LOMIRI}/free_by_Peter_Nerlich.jpg",
        title="free (bird under lamps)",
        author="Peter Nerlich",
        licence="CC BY-SA 4.0",
    ),
    "brick": Photo(
        file=f"{_SKIMAGE}/brick.png",
        title="Brick wall",
        author="CC0Textures",
        licence="CC0 1.0",
        page="https://cc0textures.com/view.php?tex=Bricks25",
    ),
    "bridge_cables": Photo(
        file=f"{_LOMIRI}/Bridge_by_Sander_Klootwijk.jpg",
        title="Bridge",
        author="Sander Klootwijk",
        licence="CC BY-SA 4.0",
    ),
    "bridge_night": Photo(
        file=f"{_PALAPELI}/cincinnati-bridge.jpg",
        title="Roebling suspension bridge in Cincinnati",
        author="Derek Jensen",
        licence="Public domain",
        page=f"{_COMMONS}/Image:Cincinnati-roebling-suspension-bridge.jpg",
    ),
    "brushes": Photo(
        file=f"{_LOMIRI}/Picture_1A_by_freespace.jpg",
        title="Picture 1A (paint brushes)",
        author='Trevor "Freespace"',
        licence="CC BY 4.0",
    ),
    "cameraman": Photo(
        file=f"{_SKIMAGE}/camera.png",
        title="Photographer with a tripod",
        author="Lav Varshney",
        licence="CC0 1.0",
    ),
    "cat": Photo(
        file=f"{_SKIMAGE}/chelsea.png",
        title="Chelsea the cat",
        author="Stefan van der Walt",
        licence="CC0 1.0",
    ),
    "citrus": Photo(
        file=f"{_PALAPELI}/citrus-fruits.jpg",
        title="Citrus fruits",
        author="US Department of Agriculture",
        licence="Public domain",
        page=f"{_COMMONS}/Image:Citrus_fruits.jpg",
    ),
    "clock": Photo(
        file=f"{_LOMIRI}/greentock_by_Peter_Nerlich.jpg",
        title="greentock (wall clock)",
        author="Peter Nerlich",
        licence="CC BY-SA 4.0",
    ),
    "coffee": Photo(
        file=f"{_SKIMAGE}/coffee.png",
        title="Cup of coffee, Pikolo Espresso Bar",
        author="Rachel Michetti",
        licence="CC0 1.0",
    ),
    "dahlia": Photo(
        file=f"{_SKLEARN}/flower.jpg",
        title="Dahlia",
        author="vultilion (Flickr)",
        licence="CC BY 2.0",
        page="https://www.flickr.com/photos/vultilion/6056698931/",
    ),
    "dandelion": Photo(
        file=f"{_LOMIRI}/seeding_by_Clements_Engelhardt.jpg",
        title="seeding (dandelions)",
        author="Clemens Engelhardt",
        licence="CC0 1.0",
    ),
    "dogs": Photo(
        file=f"{_LOMIRI}/friends_by_Aitzol_Berasategi.jpg",
        title="friends (two dogs)",
        author="Aitzol Berasategi",
        licence="CC BY 4.0",
    ),
    "dragonfly": Photo(
        file=f"{_LOMIRI}/Dragonfly_by_Bolly.jpg",
        title="Dragonfly",
        author='"Bolly"',
        licence="CC BY-SA 4.0",
    ),
    "fig": Photo(
        file=f"{_LOMIRI}/Picture_0B_by_freespace.jpg",
        title="Picture 0B (fig in a bowl)",
        author='Trevor "Freespace"',
        licence="CC BY 4.0",
    ),
    "galaxies": Photo(
        file=f"{_SKIMAGE}/hubble_deep_field.jpg",
        title="Hubble eXtreme Deep Field",
        author="NASA",
        licence="Public domain",
        page="http://hubblesite.org/newscenter/archive/releases/2012/37/image/a/",
    ),
    "gravel": Photo(
        file=f"{_SKIMAGE}/gravel.png",
        title="Gravel",
        author="CC0Textures",
        licence="CC0 1.0",
        page="https://cc0textures.com/view.php?tex=Gravel04",
    ),
    "meadow": Photo(
        file=f"{_LOMIRI}/aitzgorri_by_Aitzol_Berasategi.jpg",
        title="aitzgorri (mountain above a meadow)",
        author="Aitzol Berasategi",
        licence="CC BY 4.0",
    ),
    "mountains": Photo(
        file=f"{_LOMIRI}/picosdeeuropa_by_Aitzol_Berasategi.jpg",
        title="picosdeeuropa (path to the mountains)",
        author="Aitzol Berasategi",
        licence="CC BY 4.0",
    ),
    "nuthatch": Photo(
        file="lomiri-wallpapers-20.04/usr/share/backgrounds/Kleiber_by_Lukas_Baubkus.jpg",
        title="Kleiber (nuthatch)",
        author="Lukas Baubkus",
        licence="CC BY-SA 3.0",
    ),
    "pagoda": Photo(
        file=f"{_SKLEARN}/china.jpg",
        title="Tower above a lake, China",
        author="danielbuechele (Flickr)",
        licence="CC BY 2.0",
        page="https://www.flickr.com/photos/danielbuechele/6061409035/",
    ),
    "raccoon": Photo(
        file="scipy/scipy/misc/face.dat",
        title="Raccoon",
        author="not named by the source",
        licence="Public domain",
        page="http://www.public-domain-image.com",
    ),
    "retina": Photo(
        file=f"{_SKIMAGE}/retina.jpg",
        title="Fundus photograph of a left eye",
        author="Mikael Häggström",
        licence="CC0 1.0",
        page=f"{_COMMONS}/File:Fundus_photograph_of_normal_left_eye.jpg",
    ),
    "rocket": Photo(
        file=f"{_SKIMAGE}/rocket.jpg",
        title="DSCOVR on a Falcon 9",
        author="SpaceX",
        licence="Public domain",
        page="https://www.flickr.com/photos/spacexphotos/16511594820/",
    ),
    "stream": Photo(
        file=f"{_LOMIRI}/life_by_Aitzol_Berasategi.jpg",
        title="life (stream in a forest)",
        author="Aitzol Berasategi",
        licence="CC BY 4.0",
    ),
    "sunset": Photo(
        file=f"{_LOMIRI}/sunset_by_Aitzol_Berasategi.jpg",
        title="sunset",
        author="Aitzol Berasategi",
        licence="CC BY 4.0",
    ),
    "wine": Photo(
        file=f"{_LOMIRI}/Wine_by_Jakkub_Mede.jpg",
        title="Wine (room with a drum)",
        author="Jakub Mede",
        licence="CC BY 4.0",
    ),
}


@dataclass(frozen=True, kw_only=True)
class View:
    """A crop of one photograph, reduced to a size and encoded once.

    Attributes:
        photo: A key of `PHOTOS`.
        size: Upright width and height in pixels.
        box: Left, top, right, bottom in the pixels of the photograph; the whole of it when absent. What is
            left over after cropping to the aspect ratio of `size` is cut off evenly.
        form: `jpeg`, `progressive`, `gray`, `cmyk`, `png`, or `rotated` (stored on its side, with EXIF
            orientation 6).
        quality: JPEG quality.
    """

    photo: str
    size: tuple[int, int]
    box: tuple[int, int, int, int] | None = None
    form: str = "jpeg"
    quality: int = 85

    def describe(self) -> str:
        """Say what was done to the photograph, for the table of licences."""
        cropped = "" if self.box is None else "cropped, "
        form = "" if self.form in ("jpeg", "png") else f"{self.form} "
        encoded = "PNG" if self.form == "png" else f"{form}JPEG quality {self.quality}"
        return f"{cropped}{self.size[0]}x{self.size[1]}, {encoded}"


def verify(folder: Path) -> None:
    """Check every photograph below `folder` against `photos.sha256`.

    Raises:
        SystemExit: A photograph is absent, or is not the one the miniatures were made from.
    """
    lines = SHA256SUMS.read_text(encoding="utf-8").splitlines()
    expected = {file: digest for digest, _, file in (line.partition("  ") for line in lines)}
    problems = []
    for photo in PHOTOS.values():
        path = folder / photo.file
        if not path.is_file():
            problems.append(f"{path}: missing")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != expected[photo.file]:
            problems.append(f"{path}: sha256 differs from {SHA256SUMS.name}")
    if problems:
        remedy = "unpack the packages that samples/README.md names"
        raise SystemExit("\n".join([*problems, remedy]))


def render(view: View, folder: Path) -> bytes:
    """Make the encoded bytes of a view."""
    image = _open(folder / PHOTOS[view.photo].file)
    if view.box is not None:
        image = image.crop(view.box)
    if image.width < view.size[0] or image.height < view.size[1]:
        raise ValueError(f"{view}: would enlarge a crop of {image.size}")
    image = ImageOps.fit(image, view.size, Image.Resampling.LANCZOS)
    exif = Image.Exif()
    match view.form:
        case "gray":
            image = image.convert("L")
        case "cmyk":
            image = image.convert("CMYK")
        case "rotated":
            image = image.transpose(Image.Transpose.ROTATE_90)  # counterclockwise; a viewer turns it back
            exif[0x0112] = 6
    encoded = io.BytesIO()
    if view.form == "png":
        image.save(encoded, "PNG", optimize=True)
    else:
        progressive = view.form == "progressive"
        image.save(encoded, "JPEG", quality=view.quality, optimize=True, progressive=progressive, exif=exif)
    return encoded.getvalue()


def _open(path: Path) -> Image.Image:
    """Decode a photograph: RGB, upright, without its metadata."""
    if path.suffix == ".dat":  # scipy keeps its raccoon as bzip2-compressed raw RGB
        return Image.frombytes("RGB", (1024, 768), bz2.decompress(path.read_bytes()))
    with Image.open(path) as image:
        return ImageOps.exif_transpose(image).convert("RGB")
