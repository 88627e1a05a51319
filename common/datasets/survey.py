"""What lies in a folder of somebody's own data: the images, their label maps, and the splits.

It is guessed from names and from a few of the files, for `structseg init`; `prepare` reads them all.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from common.datasets import lists
from common.errors import UserError
from common.images.decoding import PICTURES, decode
from common.images.names import files_below

SPLITS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "tst"),
}
"""What splits are called."""

LOOKED_AT = 3
"""How many pictures of a folder tell whether they are label maps."""

COLOURS = 256
"""A picture with more colours is no label map."""

SHARES = {"train": 0.7, "val": 0.15, "test": 0.15}
"""How images are divided that are in no splits."""

GROUPS = 10
"""From so many on, groups of images by the beginning of their names are divided as wholes."""


@dataclass(frozen=True)
class Pattern:
    """How images and label maps lie below the root.

    Attributes:
        images: The folder of the images, with `{split}` where splits have folders.
        labels: That of the label maps.
        ending: What the name of an image has in place of its ending, in that of its label map.
    """

    images: str
    labels: str
    ending: str


@dataclass(frozen=True)
class Survey:
    """What lies in a folder.

    Attributes:
        root: The folder.
        pattern: How images and label maps lie in it.
        splits: The images of every split, by the name that it has there; by ours if it is divided here.
        label_maps: The label maps of all images.
        lists: The option of that name of `folder`: None if splits are folders, a path with `{split}` if files
            list them, or "" if there are no splits and somebody must divide the images.
        notes: What was guessed, in sentences.
    """

    root: Path
    pattern: Pattern
    splits: Mapping[str, Sequence[str]]
    label_maps: Sequence[Path]
    lists: str | None
    notes: list[str] = field(default_factory=list)


def survey(root: Path) -> Survey:
    """Looks at a folder.

    Raises:
        UserError: It is no folder, or has no images with label maps.
    """
    if not root.is_dir():
        raise UserError(f"--data: {root} is no folder")
    files = [path.relative_to(root) for path in files_below(root)]
    pictures = [path for path in files if path.suffix.lower() in PICTURES and not path.name.startswith(".")]
    pairs = _pairs(root, pictures)
    if not pairs:
        raise UserError(
            f"--data: {root} has no images with label maps of the same names (a label map is a PNG, BMP or "
            f"TIFF of at most {COLOURS} values or colours): put them into images/ and labels/"
        )
    pattern, members = max(pairs.items(), key=lambda item: (len(item[1]), sum(map(len, item[1].values()))))
    label_maps = [
        root / pattern.labels.replace("{split}", split) / f"{name}{pattern.ending}"
        for split, names in members.items()
        for name in names
    ]
    notes = _left_out(root, pattern, members, pictures, {*label_maps})
    if "{split}" in pattern.images:
        return Survey(root, pattern, _in_order(members), label_maps, None, notes)
    (names,) = members.values()
    listed = _lists(root, [path for path in files if path.suffix == ".txt"], names)
    if listed:
        return Survey(root, pattern, _in_order(listed[1]), label_maps, listed[0], notes)
    note = "there are no splits: the images were divided at random, 70 : 15 : 15"
    return Survey(root, pattern, divided(names), label_maps, "", [*notes, note])


def _left_out(
    root: Path,
    pattern: Pattern,
    members: Mapping[str, Sequence[str]],
    pictures: Iterable[Path],
    label_maps: Container[Path],
) -> list[str]:
    """A sentence about images that have no label map, if there are any."""
    folders = {pattern.images.replace("{split}", split): {*names} for split, names in members.items()}
    lonely = [
        path.as_posix()
        for path in pictures
        if path.stem not in folders.get(path.parent.as_posix(), {path.stem}) and root / path not in label_maps
    ]
    if not lonely:
        return []
    more = f" and {len(lonely) - 1} others" if len(lonely) > 1 else ""
    return [f"no label map was found for {lonely[0]}{more}: left out"]


def usual(split: str) -> str | None:
    """What we call a split: train, val or test; None if its name tells nothing."""
    return next((name for name, known in SPLITS.items() if split.lower() in known), None)


def _in_order(splits: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    """Splits as they are usually listed: for training, validation and testing, and then others."""
    order = [*SPLITS, None]
    return dict(sorted(splits.items(), key=lambda item: (order.index(usual(item[0])), item[0])))


def divided(names: Sequence[str]) -> dict[str, list[str]]:
    """Images divided into train, val and test, the same way each time.

    Names that begin alike, such as those of the frames of a video, stay together if there are enough
    beginnings.
    """
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        groups.setdefault(re.sub(r"[\W_]*\d+$", "", name), []).append(name)
    parts = list(groups.values()) if len(groups) >= GROUPS else [[name] for name in sorted(names)]
    random.Random(0).shuffle(parts)
    splits: dict[str, list[str]] = {split: [] for split in SHARES}
    for part in parts:  # to the split that lacks most of its share
        splits[min(splits, key=lambda split: len(splits[split]) / SHARES[split])] += part
    return {split: sorted(members) for split, members in splits.items()}


def _pairs(root: Path, pictures: Iterable[Path]) -> dict[Pattern, dict[str, list[str]]]:
    """The names of the images of every split, by every way in which images and label maps seem to lie."""
    folders: dict[str, list[str]] = {}
    for path in pictures:
        folders.setdefault(path.parent.as_posix(), []).append(path.name)
    pairs: dict[Pattern, dict[str, list[str]]] = {}
    for (images, names), (labels, others) in itertools.product(folders.items(), repeat=2):
        for ending, stems in _endings(names, others).items():
            maps = {f"{stem}{ending}" for stem in stems} if images == labels else set()
            candidates = [name for name in names if PurePosixPath(name).stem in stems and name not in maps]
            matched = sorted({PurePosixPath(name).stem for name in candidates})
            if (
                len(matched) > (len(names) - len(maps)) / 2
                and _shows_labels(root / labels, [f"{stem}{ending}" for stem in matched])
                and not _shows_labels(root / images, candidates)
            ):
                for pattern, split in _patterns(images, labels, ending):
                    pairs.setdefault(pattern, {}).setdefault(split, []).extend(matched)
    return pairs


def _endings(names: Iterable[str], others: Iterable[str]) -> dict[str, set[str]]:
    """What files are called besides the names of images: the names, by what follows them.

    Args:
        names: The files of the images, such as `a.jpg`.
        others: Other files, such as `a.png` or `a_mask.png`.
    """
    stems = {PurePosixPath(name).stem for name in names}
    endings: dict[str, set[str]] = {}
    for other in others:
        stem = PurePosixPath(other).stem
        places = [len(stem), *(match.start() for match in re.finditer(r"[_\-. ]", stem))]
        for base in {stem[:place] for place in places} & stems:
            endings.setdefault(other[len(base) :], set()).add(base)
    return endings


def _shows_labels(folder: Path, names: Sequence[str]) -> bool:
    """Whether pictures seem to be label maps, by a few of them."""
    chosen = names[:: max(1, len(names) // LOOKED_AT)][:LOOKED_AT]
    try:
        pictures = [decode(folder / name, labels=True) for name in chosen]
    except UserError:  # they are lossy, or have more than 8 bits per channel
        return False
    for pixels, mode, _ in pictures:
        flat = pixels.reshape(-1, *pixels.shape[2:])
        most = COLOURS if pixels.ndim == 3 else COLOURS // 4  # grey photographs have 256
        if mode not in ("P", "1") and len(np.unique(flat, axis=0)) > min(most, len(flat) / 8):
            return False
    return True


def _patterns(images: str, labels: str, ending: str) -> list[tuple[Pattern, str]]:
    """How a folder of images and one of label maps may be those of a split, and of which."""
    patterns = []
    for part in {*re.split(r"[/_\-.]", images)}:
        if usual(part) and part in labels:
            patterns.append((Pattern(_templated(images, part), _templated(labels, part), ending), part))
    if images == labels or not patterns:
        patterns.append((Pattern(images, labels, ending), ""))
    return patterns


def _templated(folder: str, split: str) -> str:
    """A folder with `{split}` for its last part of that name."""
    head, _, tail = folder.rpartition(split)
    return f"{head}{{split}}{tail}"


def _lists(
    root: Path, files: Iterable[Path], names: Sequence[str]
) -> tuple[str, dict[str, list[str]]] | None:
    """The lists of the splits, if there are some: the option `lists`, and what each names."""
    images = {*names}
    by_folder: dict[str, dict[str, list[str]]] = {}
    for path in files:
        if usual(path.stem) is None:
            continue
        try:
            lines = [text for _, text in lists.lines((root / path).read_bytes())]
        except (OSError, UnicodeDecodeError):
            continue
        stems = [PurePosixPath(lists.unquoted(line).split()[0].split(",")[0]).stem for line in lines]
        if stems and sum(stem in images for stem in stems) > len(stems) / 2:
            by_folder.setdefault(path.parent.as_posix(), {})[path.stem] = stems
    if not by_folder:
        return None
    folder, splits = max(by_folder.items(), key=lambda item: len(item[1]))
    return (PurePosixPath(folder) / "{split}.txt").as_posix(), splits
