"""The file of label maps that a run predicted, kept as pictures that any viewer shows."""

from __future__ import annotations

import io
import threading
import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.errors import Damaged, UserError
from common.files import digest, replacing, unreadable
from common.images.decoding import decoded
from common.images.palette import Colour, palette
from common.integrity import DAMAGE

LARGEST = 2**28
"""Bytes of the picture of a label map; more is none of ours."""


class LabelMaps:
    """Keeps label maps of a split as palette PNGs, as many as fit into a number of bytes.

    Which images are kept depends on their names alone: those first in a fixed shuffle. So runs of different
    methods keep the same images, but for the last ones where their sizes differ.
    """

    def __init__(self, limit: int, colours: tuple[Colour, ...]) -> None:
        """
        Args:
            limit: Bytes at most.
            colours: Of the dataset's classes.
        """
        self._limit, self._palette = limit, palette(colours)
        self._kept: dict[str, bytes] = {}
        self._size = 0
        self._first_left_out = "~"  # after every digest
        self._lock = threading.Lock()

    def add(self, name: str, labels: NDArray[np.uint8]) -> None:
        """Adds the label map `[H, W]` of an image; it may push out others, or not be kept.

        Several threads may do that at a time: what is kept in the end does not depend on the order.
        """
        if digest(name) >= self._first_left_out:
            return
        picture = png(labels, self._palette)
        with self._lock:
            if digest(name) >= self._first_left_out:  # meanwhile
                return
            self._kept[name] = picture
            self._size += len(picture)
            while self._size > self._limit:
                last = max(self._kept, key=digest)
                self._first_left_out = digest(last)
                self._size -= len(self._kept.pop(last))

    def write(self, path: Path) -> None:
        """Writes `<name>.png` for every image that is kept into a zip file, which may be empty."""
        with replacing(path, "wb") as file, zipfile.ZipFile(file, "w") as archive:
            for name, content in sorted(self._kept.items()):
                # without the time of day: the same labels are the same file
                archive.writestr(zipfile.ZipInfo(f"{name}.png"), content)


def png(labels: NDArray[np.uint8], colours: NDArray[np.uint8]) -> bytes:
    """A PNG of indices `[H, W]` into colours `[256, 3]`; of as few bits per pixel as they need."""
    picture = Image.fromarray(labels)
    picture.putpalette(colours[: int(labels.max(initial=0)) + 1].tobytes())
    buffer = io.BytesIO()
    # Label maps are runs of one number: to look for nothing else is many times as fast, and hardly larger.
    picture.save(buffer, "PNG", compress_level=9, compress_type=zlib.Z_RLE)
    return buffer.getvalue()


def names(path: Path) -> list[str]:
    """The images whose label maps a file has; none if there is no such file.

    Raises:
        UserError: It is damaged.
    """
    if not path.exists():
        return []
    with _opened(path) as archive:
        return [name.removesuffix(".png") for name in archive.namelist()]


def read(path: Path, name: str) -> NDArray[np.uint8]:
    """The label map `[H, W]` of one image.

    Raises:
        UserError: The file is damaged or lacks it.
    """
    with _opened(path) as archive:
        try:
            file = f"{name}.png"
            if archive.getinfo(file).file_size > LARGEST:
                raise ValueError(f"it has more than {LARGEST} bytes")
            return decoded(archive.read(file), path / file, labels=True).pixels.astype(np.uint8, copy=False)
        except OSError as error:
            raise unreadable(path, error) from None
        except (UserError, *DAMAGE) as error:
            raise UserError(f"{path} lacks {name} ({error}): delete it and evaluate again") from None


def _opened(path: Path) -> zipfile.ZipFile:
    """Opens a file of label maps.

    Raises:
        UserError: It is damaged.
    """
    remedy = "delete it and evaluate again"
    try:
        return zipfile.ZipFile(path)
    except IsADirectoryError:
        raise Damaged(path, "cannot be read (it is a folder)", remedy) from None
    except OSError as error:
        raise unreadable(path, error) from None
    except DAMAGE as error:
        raise Damaged(path, f"cannot be read ({error})", remedy) from None
