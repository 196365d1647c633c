"""What the COCO miniature holds: one entry per source record, with captions written for this project (CC0).

Each entry states its fate, so that the list is at once the input of `coco.py` and the answer a handler must
give. Image ids lie above 600000, where COCO has none: nothing here can be taken for a real COCO image.
"""

from dataclasses import dataclass

from samples.build.photos import View

KEPT = "kept"


@dataclass(frozen=True, kw_only=True)
class Record:
    """One source record: an image, its captions, and what a handler must make of them.

    Attributes:
        id: COCO image id.
        view: The picture stored in the zip; none where the record has no picture of its own.
        captions: In the order of their annotation ids. White space is part of the test: keep it.
        fate: `kept`, or the reason of the rejection.
        why: What makes the record worth having; empty for a plain one.
        listed: Whether `images[]` has an entry for it.
        file_of: The id that its file is named after, where not its own.
        damage: What happens to the stored bytes: `truncated`, or `html` for a page in place of a picture.
    """

    id: int
    view: View | None
    captions: tuple[str, ...]
    fate: str = KEPT
    why: str = ""
    listed: bool = True
    file_of: int | None = None
    damage: str = ""

    @property
    def file_name(self) -> str:
        """The name of its picture, as `images[].file_name` has it."""
        return f"COCO_val2014_{self.id if self.file_of is None else self.file_of:012d}.jpg"


RECORDS = (
    # Short side of 512 or more: these also have a place in a set of 512 px.
    Record(
        id=600142,
        view=View(photo="astronaut", size=(512, 512)),
        why="short side exactly 512",
        captions=(
            "A woman in an orange space suit smiles for a portrait.",
            "A smiling astronaut holding her helmet in front of a flag",
            "An astronaut poses next to a model of a space shuttle. ",
            "a female astronaut in an orange suit with an american flag behind her",
            "A portrait of an astronaut in a bright orange flight suit.",
        ),
    ),
    Record(
        id=601377,
        view=View(photo="cameraman", size=(512, 512), form="gray"),
        why="grayscale JPEG, short side exactly 512",
        captions=(
            "A man in a dark coat looks through a camera on a tripod.",
            "A black and white photo of a photographer in a field.",
            "a man leaning over to look into a camera ",
            "Black and white picture of a man filming outdoors with buildings far away.",
            "A photographer in a long coat works with a tripod on the grass.",
        ),
    ),
    Record(
        id=603009,
        view=View(photo="dandelion", size=(640, 640), box=(300, 0, 3288, 2988)),
        captions=(
            "A dandelion seed head glows in the evening sun.",
            "A close up of a white dandelion in a field of grass. ",
            "The sun is low behind a meadow full of dandelions",
            "A fluffy dandelion on a green stem with more dandelions behind it.",
            "one big dandelion standing in tall grass at sunset",
            "Several dandelions that have gone to seed in a meadow.",
        ),
        why="six captions",
    ),
    Record(
        id=604721,
        view=View(photo="raccoon", size=(640, 512)),
        why="the first caption, by id and in file order, holds a newline",
        captions=(
            "A raccoon resting on some long\ngreen leaves.",
            "A raccoon looks at the camera from a plant.",
            "a gray raccoon with a black mask lies in green leaves",
            "A close up of a raccoon laying on a leafy plant ",
            "Raccoon stretched out over green foliage with one paw in front.",
        ),
    ),
    Record(
        id=607116,
        view=View(photo="bee", size=(640, 560)),
        captions=(
            "A bee gathers nectar from a purple flower.",
            "A honey bee sitting on the yellow center of a flower ",
            "Close up of a bee on a flower with purple petals.",
            "a striped bee on a purple and yellow flower",
            "A bee is covered in pollen while it feeds on a daisy like flower.",
        ),
    ),
    Record(
        id=608893,
        view=View(photo="dogs", size=(512, 640), box=(440, 660, 1600, 2110)),
        captions=(
            "Two brown dogs look out of a window.",
            "Two dogs with curly ears leaning out of a wooden house. ",
            "two spaniels stick their heads out from behind a curtain",
            "A pair of brown dogs peeking out of a wooden building",
            "One dog sits above another and both look outside.",
        ),
    ),
    Record(
        id=611250,
        view=View(photo="wine", size=(640, 560), box=(680, 380, 2480, 1955)),
        captions=(
            "A bottle of wine and a glass on a wooden table.",
            "A glass of red wine next to a bottle and a coffee grinder. ",
            "A table made of pallets holds a wine bottle, a glass and a grinder.",
            "a wine bottle sitting on top of a table made of pallets",
            "An old coffee mill and a bottle of wine on a rustic table",
        ),
    ),
    Record(
        id=612034,
        view=View(photo="wine", size=(640, 512), box=(0, 1830, 2400, 3750)),
        captions=(
            "A drum lies on a beige bean bag chair.",
            "A hand drum resting on top of a bean bag. ",
            "a wooden drum with ropes laid on a big cushion",
            "A bean bag chair with a drum on it on a cork floor.",
            "A large drum is sitting on its side on a soft chair",
        ),
    ),
    # The sizes COCO mostly has.
    Record(
        id=615588,
        view=View(photo="cat", size=(451, 300)),
        captions=(
            "A close up of a tabby cat with green eyes.",
            "A cat looks off to the side of the camera ",
            "a brown and orange cat staring at something",
            "The face of a cat with a pink nose and long whiskers.",
            "A CAT WITH GREEN EYES LOOKING AWAY",
            "Close up picture of the face of a striped cat",
            "A tabby cat is looking at something on the right.",
        ),
        why="seven captions, one of them in capitals",
    ),
    Record(
        id=617902,
        view=View(photo="coffee", size=(600, 400)),
        why="a caption that is not ASCII; 699724 names this file too",
        captions=(
            "A cup of coffee on a red saucer with a spoon.",
            "A red cup of espresso sits on a wooden table. ",
            "an espresso in a red cup and saucer at a café",
            "A small spoon rests beside a cup of coffee on a plate.",
            "Red coffee cup with a spoon on a table made of wood",
        ),
    ),
    Record(
        id=620415,
        view=View(photo="rocket", size=(640, 427)),
        captions=(
            "A white rocket stands on a launch pad at dusk.",
            "A rocket is lit up and ready for launch ",
            "A tall rocket between four metal towers under a dark blue sky.",
            "a rocket on its pad with bright lights around it",
            "Bright lights shine around a rocket in the evening.",
        ),
    ),
    Record(
        id=623340,
        view=View(photo="pagoda", size=(640, 427), form="progressive"),
        why="progressive JPEG",
        captions=(
            "A tall pagoda with green and orange roofs above a lake.",
            "A Chinese tower stands among the trees by the water. ",
            "An ornate Asian building overlooking a large lake",
            "a red and green pagoda surrounded by trees",
            "View over a wide lake with a temple tower in front.",
        ),
    ),
    Record(
        id=626071,
        view=View(photo="dahlia", size=(640, 427)),
        captions=(
            "An orange flower in full bloom.",
            "A close up of a round orange flower with many petals ",
            "A pale orange dahlia in front of dark green leaves.",
            "an orange dahlia with another flower just below it",
            "A single round flower stands out against a blurry green background",
        ),
    ),
    Record(
        id=628854,
        view=View(photo="bridge_night", size=(640, 480)),
        captions=(
            "A suspension bridge lit up at night over a river.",
            "A large stone bridge with lights reflecting in the water. ",
            "a bridge at night with a boat moored next to it",
            "The lights of a bridge and a city shine on a river at night.",
            "A bridge tower glows orange against the dark sky",
        ),
    ),
    Record(
        id=631203,
        view=View(photo="citrus", size=(640, 427)),
        captions=(
            "Slices of oranges, lemons and limes on a white surface.",
            "Many slices of citrus fruit laid out and lit from below ",
            "a bunch of sliced oranges lemons and limes",
            "Thin round slices of different citrus fruits.",
            "Orange, yellow and green slices of fruit next to each other",
        ),
    ),
    Record(
        id=634990,
        view=View(photo="mountains", size=(640, 480)),
        captions=(
            "A dirt path leads up a grassy hill toward mountains.",
            "A trail going up a slope with rocky peaks and snow. ",
            "Rocky mountains with patches of snow under a blue sky",
            "a hiking trail on a hill in front of some mountains",
            "A worn path crosses a meadow below gray cliffs.",
        ),
    ),
    Record(
        id=637418,
        view=View(photo="meadow", size=(640, 427)),
        captions=(
            "A green meadow with autumn trees and a mountain behind it.",
            "Orange trees on a hillside below a rocky mountain ",
            "A grassy field next to a forest in fall colors.",
            "a mountain ridge rises above a forest and a field",
            "A few dark fir trees stand between the brown trees in front of a mountain",
        ),
    ),
    Record(
        id=640066,
        view=View(photo="stream", size=(480, 640), box=(900, 0, 2442, 2056), form="rotated"),
        why="stored on its side as 640x480 with EXIF orientation 6; upright it is 480x640",
        captions=(
            "A small stream runs down over rocks in a forest.",
            "Water flows down many little steps of stone. ",
            "a rocky creek in the woods with small waterfalls",
            "A creek with mossy boulders and green trees around it.",
            "A shallow brook running through a forest",
        ),
    ),
    Record(
        id=643527,
        view=View(photo="sunset", size=(640, 427)),
        captions=(
            "The sun sets behind a row of hills.",
            "A round stone table on top of a hill at sunset. ",
            "a sunset seen from a grassy hilltop with a stone pedestal",
            "The sun shines low over distant mountains",
            "A view from a hill with a stone table while the sun goes down.",
        ),
    ),
    Record(
        id=646310,
        view=View(photo="clock", size=(640, 480)),
        why="one of its six captions is blank; the others are fine",
        captions=(
            "A large modern clock on a wall seen from below.",
            "A gray wall clock with cut out numbers and a yellow glow ",
            " ",
            "a round clock with black hands and light shining from behind it",
            "A close up of a clock face at an angle.",
            "The numbers of this clock are cut out and lit from behind",
        ),
    ),
    Record(
        id=649975,
        view=View(photo="bird_lamp", size=(400, 300), form="png"),
        why="PNG content under a .jpg name: the true format decides",
        captions=(
            "A toy bird hangs below some round lamps.",
            "A wooden bird with spread wings in front of bright lights. ",
            "a green bird ornament hanging from a ceiling",
            "A small model of a bird with its wings out under two lamps.",
            "A decorative bird hanging in the air",
        ),
    ),
    Record(
        id=652248,
        view=View(photo="dragonfly", size=(500, 375), box=(1600, 750, 3200, 1950)),
        captions=(
            "A dragonfly clings to the tip of a twig.",
            "A close up of a yellow dragonfly with clear wings ",
            "a dragonfly on a branch with leaves in the background",
            "A dragonfly rests in the sun with its wings spread.\n",
            "Large dragonfly sitting at the end of a stick",
        ),
        why="a later caption ends in a newline",
    ),
    Record(
        id=655801,
        view=View(photo="brushes", size=(500, 375)),
        captions=(
            "A bunch of paint brushes with colorful bristles.",
            "Several paint brushes covered in blue, pink and green paint. ",
            "colorful brushes standing close together",
            "Used paint brushes of many sizes and colors",
            "A close up of bright paint brushes in the sunlight.",
        ),
    ),
    Record(
        id=658469,
        view=View(photo="nuthatch", size=(500, 333), box=(1500, 700, 4500, 2700)),
        captions=(
            "A small bird hangs upside down on a tree trunk.",
            "A nuthatch climbing head first down a tree ",
            "a bird with a long beak on the side of a tree",
            "A little gray and brown bird clings to the bark of a tree.",
            "Bird on a tree trunk with a blurry background",
        ),
    ),
    Record(
        id=661132,
        view=View(photo="bridge_cables", size=(455, 256)),
        why="short side exactly 256",
        captions=(
            "The cables of a bridge against a blue sky.",
            "White bridge cables cross above a wide flat shore. ",
            "steel cables in front of a clear sky",
            "A view through the cables of a bridge to the water and far hills.",
            "A few thin cables with clouds low over the land",
        ),
    ),
    Record(
        id=664700,
        view=View(photo="galaxies", size=(640, 480), quality=80),
        captions=(
            "Many small galaxies of different colors on a black sky.",
            "A picture of deep space full of tiny colored lights ",
            "hundreds of galaxies seen through a telescope",
            "Bright dots and spirals scattered over a dark background.",
            "A black sky with lots of stars and galaxies",
        ),
    ),
    Record(
        id=667285,
        view=View(photo="fig", size=(500, 333), form="cmyk"),
        why="CMYK JPEG",
        captions=(
            "Half of a fig in a red bowl.",
            "A cut fig lies in a red wooden bowl and casts a shadow. ",
            "a piece of fruit in a bowl on a stone surface",
            "A red bowl shaped like a drop with one half of a fig inside",
            "The red inside of a ripe fig in a bright dish.",
        ),
    ),
    Record(
        id=670913,
        view=View(photo="gravel", size=(384, 303), form="gray"),
        why="grayscale JPEG",
        captions=(
            "A pile of small gray stones.",
            "A black and white photo of gravel on the ground ",
            "lots of little rocks with sharp edges",
            "Many small stones cover the whole picture.",
            "Gravel seen from above",
        ),
    ),
    # Rejected, each for one reason only.
    Record(
        id=676540,
        view=View(photo="sunset", size=(340, 255), box=(2500, 1650, 4080, 2835)),
        fate="too_small",
        why="short side 255, one pixel too few",
        captions=(
            "A round stone table on a pedestal.",
            "A carved stone disk on a pillar on a hill ",
            "an orientation table made of stone in the evening light",
            "A round stone stands on a grassy hill.",
            "A stone pedestal with marks around its edge",
        ),
    ),
    Record(
        id=679027,
        view=View(photo="meadow", size=(640, 200), box=(0, 180, 3088, 1145)),
        fate="too_small",
        why="a wide strip: short side 200, though the long one is 640",
        captions=(
            "A long mountain ridge above autumn trees.",
            "A wide view of a rocky mountain behind a brown forest ",
            "mountains and trees in the fall",
            "A panorama of a ridge with a forest in front of it.",
            "Orange trees below a gray mountain",
        ),
    ),
    Record(
        id=681664,
        view=View(photo="dragonfly", size=(640, 480)),
        damage="truncated",
        fate="undecodable",
        why="JPEG cut off after 40 % of its bytes: opens and reports its size, fails to decode",
        captions=(
            "A dragonfly sits on a twig in front of a leafy tree.",
            "A dragonfly on the top of a dry branch ",
            "an insect on a twig with green leaves and blue sky behind it",
            "A dragonfly resting in the sunshine.",
            "Leaves and blue sky behind a dragonfly on a stick",
        ),
    ),
    Record(
        id=684211,
        view=None,
        damage="html",
        fate="undecodable",
        why="an HTML page under a .jpg name",
        captions=(
            "A man is riding a bicycle down a street.",
            "A cyclist on a city street with parked cars. ",
            "a person riding a bike on a road",
            "A man on a bike passes a row of cars.",
            "Someone riding a bicycle in town",
        ),
    ),
    Record(
        id=686932,
        view=None,
        fate="missing_image",
        why="listed in images[], absent from the zip",
        captions=(
            "A plate with a sandwich and some fries.",
            "A sandwich cut in half on a white plate ",
            "a lunch of a sandwich and french fries",
            "A sandwich next to a pile of fries on a table.",
            "A meal on a plate in a restaurant",
        ),
    ),
    Record(
        id=689405,
        view=None,
        listed=False,
        fate="missing_image",
        why="two annotations name an image that images[] does not know: one record",
        captions=(
            "A train pulls into a station.",
            "A red train next to a platform ",
        ),
    ),
    Record(
        id=691878,
        view=View(photo="wine", size=(427, 640)),
        fate="missing_caption",
        why="in the zip and in images[], but without any annotation",
        captions=(),
    ),
    Record(
        id=694316,
        view=View(photo="brick", size=(320, 320), form="gray"),
        listed=False,
        fate="missing_caption",
        why="in the zip, but nowhere in the annotations file",
        captions=(),
    ),
    Record(
        id=697550,
        view=View(photo="retina", size=(480, 480)),
        fate="empty_caption",
        why="every caption is empty or white space",
        captions=("", " ", "   ", "\n", "\t "),
    ),
    Record(
        id=699724,
        view=None,
        file_of=617902,
        fate="duplicate_key",
        why="names the file of 617902, which comes first in images[]",
        captions=(
            "A cup of coffee next to a small spoon.",
            "A hot drink in a red cup ",
            "a red saucer with a cup of espresso on it",
            "A cup full of coffee on a wooden table.",
            "Coffee in a white and red cup",
        ),
    ),
)
