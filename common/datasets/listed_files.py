"""What the lines of a list of images mean, by the files that there are in the folders of a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common.datasets import lists
from common.datasets.on_disk import Sought
from common.errors import UserError
from common.images.decoding import PICTURES
from common.images.names import Names, checked, without_ending


class ListedFiles:
    """The files below each of the folders that a list may mean.

    Attributes:
        sought: The files that a line names and that are not there, to be told when they are read.
    """

    def __init__(self, root: Path, images: Path, labels: Path, label_suffix: str) -> None:
        """
        Args:
            root: The folder of the dataset.
            images: That of a split's images.
            labels: That of its label maps.
            label_suffix: What the path of an image ends in, in place of its own suffix, in `labels`.
        """
        self._root, self._images, self._labels = Names(root), Names(images), Names(labels)
        self._suffix = label_suffix
        self.sought: dict[Path, Sought] = {}

    def line(self, line: str, place: str) -> tuple[str, tuple[Path, Path]]:
        """The name and the files that a line of a list means.

        Args:
            line: The line.
            place: Where it stands, for messages.

        Raises:
            UserError: It means none.
        """
        text = lists.unquoted(line)
        whole = None if "\t" in text else self._image(text, place)
        if whole:
            return whole[0], (whole[1], self.label_map(whole[0], place))
        half: tuple[str, tuple[Path, Path]] | None = None
        for first, second in lists.columns(line):
            name, image, labels = self._two(first, second, place)
            if image and labels:
                return name, (image, labels)
            if half is None and (image or labels or _are_pictures(first, second)):
                image = image or self._lost(self._root, first, place)
                half = name, (image, labels or self._lost(self._root, second, place))
        if half:
            return half
        if len(text.split()) > 2:
            raise UserError(f"{place}: must name an image, or an image and its label map, not {line!r}")
        name = without_ending(self._relative(text, place), PICTURES)
        return name, (self._lost(self._images, text, place), self.label_map(name, place))

    def label_map(self, name: str, place: str) -> Path:
        """The label map of an image in the folder of label maps.

        Args:
            name: Of the image, without its suffix.
            place: Where it is named, for messages.
        """
        file = checked(f"{name}{self._suffix}", place)
        return self._labels.find(file) or self._lost(self._labels, file, place)

    def _image(self, text: str, place: str) -> tuple[str, Path] | None:
        """The name and the file of an image that a text means, if there is one.

        A path in the folder of the images goes before one in the root that leads into that folder.
        """
        name = self._relative(text, place)
        images = [*self._images.find_all(name, _endings(name))]
        if not images:
            folder = self._images.folder
            there = self._root.find_all(name, _endings(name))
            images = [image for image in there if image.is_relative_to(folder)]
            if not images:
                return None
            name = checked(images[0].relative_to(folder).as_posix(), place)
        stem = without_ending(name, PICTURES)
        if len(images) > 1:
            labels = self._labels.find(checked(f"{stem}{self._suffix}", place))
            images = [image for image in images if image != labels]
        if len(images) > 1:
            raise _ambiguous(images, text, place)
        return stem, images[0]

    def _two(self, first: str, second: str, place: str) -> tuple[str, Path | None, Path | None]:
        """The name and the files, if they are there, that two columns mean: paths in the root."""
        image, labels = self._relative(first, place), self._relative(second, place)
        return (
            without_ending(image, PICTURES),
            _only(image, place, self._root) or _only(image, place, self._images),
            _only(labels, place, self._root) or _only(labels, place, self._labels),
        )

    def _lost(self, there: Names, text: str, place: str) -> Path:
        """A path that is not there, to be told when it is read."""
        name = self._relative(text, place)
        endings = _endings(name)
        path = there.folder / (name if endings[0] == "" else name + endings[0])
        with_endings = f", as {name} with {', '.join(filter(None, endings))}" if endings[0] else ""
        meaning = f"it was looked for in {there.folder}{with_endings}"
        self.sought[path] = Sought(place, meaning, there, name)
        return path

    def _relative(self, text: str, place: str) -> str:
        """A listed path as one in the root: a leading `/` means the root, and so may all of its path.

        Raises:
            UserError: It leads out of it.
        """
        text = text.replace("\\", "/") if "/" not in text else text
        if text.startswith("/"):
            root = f"{self._root.folder.absolute()}/"
            text = text.removeprefix(root) if text.startswith(root) else text.lstrip("/")
        return checked(text, place)


def _only(name: str, place: str, there: Names) -> Path | None:
    """The file of a listed name, if there is one.

    Raises:
        UserError: There are several, with different endings.
    """
    files = [*there.find_all(name, _endings(name))]
    if len(files) > 1:
        raise _ambiguous(files, name, place)
    return files[0] if files else None


def _ambiguous(files: Sequence[Path], text: str, place: str) -> UserError:
    """What to say of a listed name that several files have."""
    both = " and ".join(file.name for file in files)
    return UserError(f"{place}: {both} could both be meant by {text}: write its ending, too")


def _endings(name: str) -> tuple[str, ...]:
    """What may be missing at the end of a listed name."""
    return ("",) if without_ending(name, PICTURES) != name else (*PICTURES, "")


def _are_pictures(*names: str) -> bool:
    """Whether all names end as pictures do."""
    return all(without_ending(name, PICTURES) != name for name in names)
