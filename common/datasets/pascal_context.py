"""PASCAL-Context: the photographs of VOC 2010 labelled all over, 4998/5105 images, 59 classes.

Mottaghi et al., "The Role of Context for Object Detection and Semantic Segmentation in the Wild", CVPR
2014. The usual masks of the 59 most frequent classes are PNGs in which 0 is everything else, which is void
here, and 1–59 are the classes:

- in `59_context_labels`, the authors' masks, in the order of the authors' `59_labels.txt`;
- in `SegmentationClassContext`, as mmsegmentation writes them with the Detail API, in alphabetical order.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from common.datasets.on_disk import PUBLISHED, FileDataset, Pairs, add
from common.downloads.archives import Archive
from common.errors import UserError
from common.images.names import checked
from common.images.palette import voc_colours

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "table", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor", "bag", "bed",
    "bench", "book", "building", "cabinet", "ceiling", "cloth", "computer", "cup", "door", "fence", "floor",
    "flower", "food", "grass", "ground", "keyboard", "light", "mountain", "mouse", "curtain", "platform",
    "sign", "plate", "road", "rock", "shelves", "sidewalk", "sky", "snow", "bedclothes", "track", "tree",
    "truck", "wall", "water", "window", "wood",
)  # fmt: skip
"""In the order of the authors' `59_labels.txt`."""

VOC2010 = Archive(
    "VOCtrainval_03-May-2010.tar",
    {"VOCdevkit/VOC2010": "VOCdevkit/VOC2010"},
    "https://thor.robots.ox.ac.uk/pascal/VOC/voc2010/VOCtrainval_03-May-2010.tar",
    # as in torchvision's prototype datasets
    "1af4189cbe44323ab212bff7afbc7d0f55a267cc191eb3aac911037887e5c7d4",
)
MASKS = Archive(
    "59_context_labels.tar.gz",
    {"59_context_labels": "59_context_labels"},
    "https://cs.stanford.edu/~roozbeh/pascal-context/59_context_labels.tar.gz",
)


class PascalContext(FileDataset):
    """PASCAL-Context in a folder given by `root` or the environment variable PASCAL_CONTEXT_ROOT."""

    splits = ("train", "val")
    official_colours = False
    class_values = tuple(range(1, 60))
    void_values = (0,)
    allowed = PUBLISHED
    environment = "PASCAL_CONTEXT_ROOT"
    archives: tuple[Archive, ...] = (VOC2010, MASKS)
    terms = 'VOC\'s pictures are under the "flickr" terms of use; cite VOC and Mottaghi et al. 2014.'

    def __init__(
        self,
        root: str | None = None,
        masks: Literal["59_context_labels", "SegmentationClassContext"] = "59_context_labels",
    ) -> None:
        """
        Args:
            root: The folder with `VOCdevkit/VOC2010`, or `VOC2010` itself; by default the value of
                PASCAL_CONTEXT_ROOT.
            masks: The folder of the masks, there or in `root`, which says how they are numbered.
        """
        super().__init__(root)
        self.masks = masks
        authors = masks == "59_context_labels"
        self.class_names = CLASSES if authors else tuple(sorted(CLASSES))
        colours = dict(zip(CLASSES, voc_colours(1, len(CLASSES))))
        self.colours = tuple(colours[name] for name in self.class_names)
        self.archives = (VOC2010, MASKS) if authors else (VOC2010,)
        self.contents = f"the folder with VOCdevkit/VOC2010 and the masks in {masks}"

    def has(self, archive: Archive) -> bool:
        return super().has(archive) or (archive is VOC2010 and (self._devkit() / "JPEGImages").is_dir())

    def pairs(self, split: str) -> Pairs:
        devkit = self._devkit()
        lists = devkit / "ImageSets"
        path = lists / "SegmentationContext" / f"{split}.txt"
        if not path.exists():
            path = lists / "Main" / f"{split}.txt"  # the same images
        lines = self.listed(path)
        inside = devkit / self.masks
        labels = inside if inside.is_dir() else self.existing(self.folder / self.masks)
        pairs: Pairs = {}
        for number, name in lines:
            if len(name.split()) != 1:
                raise UserError(f"{path}, line {number}: must be the name of an image, not {name!r}")
            name = checked(name, f"{path}, line {number}")
            files = (devkit / "JPEGImages" / f"{name}.jpg", labels / f"{name}.png")
            add(pairs, name, files, f"{path}, line {number}")
        return pairs

    def _devkit(self) -> Path:
        """The folder with `JPEGImages`."""
        places = [self.folder / "VOCdevkit/VOC2010", self.folder / "VOC2010", self.folder]
        return next((place for place in places if (place / "JPEGImages").is_dir()), places[0])
