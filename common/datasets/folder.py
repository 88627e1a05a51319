"""Your own data: images and label maps in folders, described by the configuration alone.

```yaml
dataset_options:
  streets:
    module: folder
    root: /data/streets
    class_names: [road, car, sky]
```

reads `images/` and `labels/` there, and `train.txt`, `val.txt` and `test.txt`, which name an image per
line; labels are PNGs of the values 0, 1, 2, and 255 for void. Options change any of this.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from common.datasets.listed_files import ListedFiles
from common.datasets.on_disk import FileDataset, Pairs, add
from common.errors import UserError
from common.images.decoding import PICTURES
from common.images.names import checked, files_below
from common.images.palette import Colour, voc_colours
from common.images.reading import ColourCode
from common.labels import VOID

LINES = 5
"""How many wrong lines of a list are told."""


class Folder(FileDataset):
    """Images and label maps in folders below `root`."""

    contents = "the folder with the images and labels"
    grouping = ("sequences",)

    def __init__(
        self,
        root: str,
        class_names: Sequence[str],
        colours: Sequence[Sequence[int]] | None = None,
        splits: Sequence[str] = ("train", "val", "test"),
        images: str = "images",
        labels: str = "labels",
        lists: str | None = "{split}.txt",
        label_suffix: str = ".png",
        values: Sequence[int] | None = None,
        void: Sequence[int] | None = None,
        colour_coded: bool = False,
        void_colours: Sequence[Sequence[int]] = (),
        unknown_colours: Literal["refuse", "void"] = "refuse",
        turn_labels: bool = False,
        sequences: str | None = None,
    ) -> None:
        """
        Args:
            root: The folder that all others are in.
            class_names: The names of the classes.
            colours: A colour (red, green, blue) per class; by default those of PASCAL VOC.
            splits: The names of the splits.
            images: The folder of the images; `{split}` in it is the split.
            labels: The folder of the label maps; `{split}` in it is the split.
            lists: The list of a split's images: per line a path in `images` or `root`, with or without the
                suffix, or the paths of an image and its label map in `root`, with a tab, a comma or a space
                between them. Null takes all pictures of the folder, which must have `{split}`.
            label_suffix: What the path of an image in `images` ends in, in place of its own suffix, in
                `labels`.
            values: The value of each class in the label maps; by default 0, 1, 2, …
            void: The values of void in the label maps; by default 255, or none if `values` are given.
            colour_coded: Whether the label maps are drawn in `colours`.
            void_colours: The colours of void in such label maps.
            unknown_colours: What other colours are in such label maps: an error, or void.
            turn_labels: Whether the label maps are of the stored pixels of images that EXIF data turn, and
                are turned with them; by default they are of the upright images.
            sequences: A regular expression that finds in the name of an image the video, or whatever else it
                belongs to, as the group `sequence`, and its number there as the group `frame`, such as
                `(?P<sequence>.+)_(?P<frame>[0-9]+)$`; a name in which it finds nothing belongs to none. By
                default no images belong together. It changes intervals, and nothing is trained again for it.

        Raises:
            ValueError: An option is wrong, or two do not fit together.
        """
        super().__init__(root)
        self.class_names = tuple(class_names)
        self.splits = tuple(splits)
        self.images, self.labels, self.lists = images, labels, lists
        self.label_suffix = label_suffix
        self.void_values = tuple(void if void is not None else (VOID,) if values is None else ())
        self.strict_void = True
        self.turn_labels = turn_labels
        self.official_colours = colours is not None
        self.sequences = _pattern(sequences)
        count = len(self.class_names)
        self.class_values = tuple(range(count)) if values is None else tuple(values)
        drawn = voc_colours(1, count) if colours is None else colours
        self._check(drawn, void_colours)
        self.colours = tuple(map(_colour, drawn))
        if colour_coded and colours is None:
            raise ValueError("colour_coded needs colours: give one per class")
        self._code = self._colour_code(void_colours, unknown_colours == "refuse") if colour_coded else None

    def _check(self, colours: Sequence[Sequence[int]], void_colours: Sequence[Sequence[int]]) -> None:
        """Checks that all options fit together.

        Raises:
            ValueError: They do not.
        """
        count = len(self.class_names)
        if not 1 <= count <= VOID:
            raise ValueError(f"class_names must be 1 to {VOID} names, not {count}")
        for option, names in (("class_names", self.class_names), ("splits", self.splits)):
            if len({*names}) != len(names):
                raise ValueError(f"{option} must all differ, not {list(names)}")
        if not self.splits or not all(name and "+" not in name for name in self.splits):
            raise ValueError(f"splits must be names without +, not {list(self.splits)}")
        for name in self.splits:
            if ".." in name or name.startswith("/"):
                raise ValueError(f"splits must be names below a folder, not {name!r}")
        if len(colours) != count:
            raise ValueError(f"colours must be one per class, {count}, not {len(colours)}")
        for colour in [*colours, *void_colours]:
            if len(colour) != 3 or not all(0 <= part <= 255 for part in colour):
                raise ValueError(f"a colour must be three numbers from 0 to 255, not {list(colour)}")
        values = [*self.class_values, *self.void_values]
        if len(self.class_values) != count:
            raise ValueError(f"values must be one per class, {count}, not {len(self.class_values)}")
        if len({*values}) != len(values) or not all(0 <= value <= 255 for value in values):
            raise ValueError(f"values and void must be different numbers from 0 to 255, not {values}")
        if self.lists is None and "{split}" not in self.images:
            raise ValueError("without lists, images must have {split} in it, such as images/{split}")

    def _colour_code(self, void_colours: Sequence[Sequence[int]], refuse: bool) -> ColourCode:
        """How label maps are drawn in the colours of the classes.

        Args:
            void_colours: The colours of void in them.
            refuse: Whether other colours are an error.

        Raises:
            ValueError: Two colours are the same.
        """
        code: dict[Colour, int] = dict.fromkeys(map(_colour, void_colours), VOID)
        code |= {colour: label for label, colour in enumerate(self.colours)}
        if len(code) != len(void_colours) + len(self.colours):
            raise ValueError("colours and void_colours must all differ where label maps are colour_coded")
        return ColourCode(code, refuse=refuse)

    def pairs(self, split: str) -> Pairs:
        images, labels = (self.folder / _of(split, path) for path in (self.images, self.labels))
        # files of one name in the folders of two splits are two images
        prefix = f"{split}/" if "{split}" in self.images else ""
        if self.lists is None:
            pairs = self._all(images, labels)
        else:
            pairs = self._listed(self.folder / _of(split, self.lists), images, labels)
        return {prefix + name: files for name, files in pairs.items()}

    def sequence(self, split: str, name: str) -> tuple[str, int] | None:
        match = self.sequences.search(name) if self.sequences else None
        if match is None:
            return None
        if not (match["frame"] or "").isdecimal():
            raise UserError(
                f"dataset_options.{self.entry}.sequences: the group frame must be a number, not "
                f"{match['frame']!r}, as in the image {name}"
            )
        return match["sequence"] or "", int(match["frame"])

    def read_labels(self, path: Path) -> NDArray[np.uint8]:
        if self._code is None:
            return super().read_labels(path)
        options = f"dataset_options.{self.entry}"
        return self._code.read(
            path, f"add them to {options}.void_colours, or set {options}.unknown_colours to void"
        )

    def by_index(self, path: Path) -> bool:
        return self._code is None

    def option(self, against: Literal["palettes", "turned"]) -> str:
        options = f"dataset_options.{self.entry}"
        if against == "turned":
            return f", or set {options}.turn_labels to true if all label maps are of the stored pixels"
        return f", or set {options}.colour_coded to true, which reads them by the classes' colours"

    def remedy(self, absent: set[int], void: bool) -> str:
        """If 255 is void and one class is missing, 255 is likely that class."""
        if self._code is not None or self.void_values != (VOID,) or not void:
            return ""
        present = [value for label, value in enumerate(self.values()) if label not in absent]
        options = f"dataset_options.{self.entry}"
        if len(self.class_names) == 1:
            return f": if 255 is a class, name both, and set {options}.values to [0, 255] and void to []"
        if len(absent) != 1:
            return ""
        values = [*present, VOID]
        return (
            f": the label maps have only the values {', '.join(map(str, values))}, and 255 is void; if it is "
            f"this class, set {options}.values to {values} and void to []"
        )

    def _all(self, images: Path, labels: Path) -> Pairs:
        """All pictures below the folder of the images, and their label maps."""
        pairs: Pairs = {}
        files = ListedFiles(self.folder, images, labels, self.label_suffix)
        for path in files_below(self.existing(images)):
            if path.suffix.lower() in PICTURES and not path.name.startswith("."):
                name = checked(path.relative_to(images).with_suffix("").as_posix(), str(images))
                add(pairs, name, (path, files.label_map(name, str(path))), str(images))
        self._sought |= files.sought
        if not pairs:
            raise UserError(f"{images} has no pictures ({', '.join(PICTURES)})")
        return pairs

    def _listed(self, path: Path, images: Path, labels: Path) -> Pairs:
        """The pictures that a list names, and their label maps."""
        pairs: Pairs = {}
        problems = []
        files = ListedFiles(self.folder, images, labels, self.label_suffix)
        for number, line in self.listed(path):
            place = f"{path}, line {number}"
            try:
                add(pairs, *files.line(line, place), place)
            except UserError as error:
                problems.append(str(error))
        self._sought |= files.sought
        if problems:
            more = f"; and {len(problems) - LINES} more lines" if len(problems) > LINES else ""
            raise UserError("; ".join(problems[:LINES]) + more)
        return pairs


def _pattern(text: str | None) -> re.Pattern[str] | None:
    """The pattern of the option `sequences`.

    Raises:
        ValueError: It is no regular expression, or lacks one of its groups.
    """
    if text is None:
        return None
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise ValueError(f"sequences must be a regular expression, not {text!r}: {error}") from None
    if not {"sequence", "frame"} <= {*pattern.groupindex}:
        raise ValueError(
            f"sequences must have the groups (?P<sequence>…) and (?P<frame>…), which {text!r} has not"
        )
    return pattern


def _colour(parts: Sequence[int]) -> Colour:
    """A colour of three numbers, as the configuration has it."""
    red, green, blue = parts
    return red, green, blue


def _of(split: str, template: str) -> str:
    """A path in which `{split}` stands for a split."""
    return template.replace("{split}", split)
