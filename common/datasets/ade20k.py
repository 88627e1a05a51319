"""ADE20K: scenes indoors and outdoors, 20210/2000 images of many sizes, 150 classes, all else void.

Zhou et al., "Scene Parsing through ADE20K Dataset", CVPR 2017, as the scene parsing benchmark (SceneParse150)
has it: `images/<training|validation>/ADE_….jpg` and `annotations/<training|validation>/ADE_….png`, in which 0
is everything else, which is not scored, and 1–150 are the classes. The labels of its test split are not
public.
"""

from __future__ import annotations

from pathlib import Path

from common.datasets.on_disk import PUBLISHED, FileDataset, Pairs
from common.downloads.archives import Archive
from common.errors import UserError

CLASSES = (
    "wall", "building", "sky", "floor", "tree", "ceiling", "road", "bed", "windowpane", "grass", "cabinet",
    "sidewalk", "person", "earth", "door", "table", "mountain", "plant", "curtain", "chair", "car", "water",
    "painting", "sofa", "shelf", "house", "sea", "mirror", "rug", "field", "armchair", "seat", "fence",
    "desk", "rock", "wardrobe", "lamp", "bathtub", "railing", "cushion", "base", "box", "column", "signboard",
    "chest of drawers", "counter", "sand", "sink", "skyscraper", "fireplace", "refrigerator", "grandstand",
    "path", "stairs", "runway", "case", "pool table", "pillow", "screen door", "stairway", "river", "bridge",
    "bookcase", "blind", "coffee table", "toilet", "flower", "book", "hill", "bench", "countertop", "stove",
    "palm", "kitchen island", "computer", "swivel chair", "boat", "bar", "arcade machine", "hovel", "bus",
    "towel", "light", "truck", "tower", "chandelier", "awning", "streetlight", "booth", "television",
    "airplane", "dirt track", "apparel", "pole", "land", "bannister", "escalator", "ottoman", "bottle",
    "buffet", "poster", "stage", "van", "ship", "fountain", "conveyer belt", "canopy", "washer", "plaything",
    "swimming pool", "stool", "barrel", "basket", "waterfall", "tent", "bag", "minibike", "cradle", "oven",
    "ball", "food", "step", "tank", "trade name", "microwave", "pot", "animal", "bicycle", "lake",
    "dishwasher", "screen", "blanket", "sculpture", "hood", "sconce", "vase", "traffic light", "tray",
    "ashcan", "fan", "pier", "crt screen", "plate", "monitor", "bulletin board", "shower", "radiator",
    "glass", "clock", "flag",
)  # fmt: skip
"""The first name of each class in the benchmark's `objectInfo150.txt`."""

COLOURS = (
    "787878 b47878 06e6e6 503232 04c803 787850 8c8c8c cc05ff e6e6e6 04fa07 e005ff ebff07 96053d 787846 "
    "08ff33 ff0652 8fff8c ccff04 ff3307 cc4603 0066c8 3de6fa ff0633 0b66ff ff0747 ff09e0 0907e6 dcdcdc "
    "ff095c 7009ff 08ffd6 07ffe0 ffb806 0aff47 ff290a 07ffff e0ff08 6608ff ff3d06 ffc207 ff7a08 00ff14 "
    "ff0829 ff0599 0633ff eb0cff a09614 00a3ff 8c8c8c fa0a0f 14ff00 1fff00 ff1f00 ffe000 99ff00 0000ff "
    "ff4700 00ebff 00adff 1f00ff 0bc8c8 ff5200 00fff5 003dff 00ff70 00ff85 ff0000 ffa300 ff6600 c2ff00 "
    "008fff 33ff00 0052ff 00ff29 00ffad 0a00ff adff00 00ff99 ff5c00 ff00ff ff00f5 ff0066 ffad00 ff0014 "
    "ffb8b8 001fff 00ff3d 0047ff ff00cc 00ffc2 00ff52 000aff 0070ff 3300ff 00c2ff 007aff 00ffa3 ff9900 "
    "00ff0a ff7000 8fff00 5200ff a3ff00 ffeb00 08b8aa 8500ff 00ff5c b800ff ff001f 00b8ff 00d6ff ff0070 "
    "5cff00 00e0ff 70e0ff 46b8a0 a300ff 9900ff 47ff00 ff00a3 ffcc00 ff008f 00ffeb 85ff00 ff00eb f500ff "
    "ff007a fff500 0abed4 d6ff00 00ccff 1400ff ffff00 0099ff 0029ff 00ffcc 2900ff 29ff00 ad00ff 00f5ff "
    "4700ff 7a00ff 00ffb8 005cff b8ff00 0085ff ffd600 19c2c2 66ff00 5c00ff "
)
"""Those of the benchmark's `color150.mat`, red, green and blue in hexadecimal; two are the same there."""

FOLDERS = {"train": "training", "val": "validation"}


class ADE20K(FileDataset):
    """The scene parsing benchmark in a folder given by `root` or the environment variable ADE20K_ROOT."""

    splits = ("train", "val")
    class_names = CLASSES
    colours = tuple((red, green, blue) for red, green, blue in map(bytes.fromhex, COLOURS.split()))
    class_values = tuple(range(1, 151))
    void_values = (0,)
    strict_void = True
    allowed = PUBLISHED
    environment = "ADE20K_ROOT"
    contents = "the folder with ADEChallengeData2016, or with images and annotations"
    archives = (
        Archive(
            "ADEChallengeData2016.zip",
            {"ADEChallengeData2016": "ADEChallengeData2016"},
            "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
        ),
    )
    terms = "ADE20K's pictures are for non-commercial research and teaching; cite Zhou et al. 2017."

    def has(self, archive: Archive) -> bool:
        return super().has(archive) or (self.folder / "annotations").is_dir()

    def pairs(self, split: str) -> Pairs:
        inside = self.folder / "ADEChallengeData2016"
        base = inside if inside.is_dir() else self.folder
        images = self.existing(base / "images" / FOLDERS[split])
        labels = self.existing(base / "annotations" / FOLDERS[split])
        pairs: Pairs = {path.stem: (path, labels / f"{path.stem}.png") for path in _pictures(images)}
        if not pairs:
            raise UserError(f"{images} has no ADE_….jpg: {self.environment} must be {self.contents}")
        return pairs


def _pictures(folder: Path) -> list[Path]:
    """The images of a split, in order."""
    return sorted(folder.glob("ADE_*.jpg"))
