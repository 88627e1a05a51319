"""The one way from a picture file to pixels: what can be understood in one way only; the rest is refused."""

from __future__ import annotations

import contextlib
import io
import os
import re
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from common.errors import Unreachable, UserError

PHONES = (".heic", ".heif")
"""What the pictures of some telephones end in; `pillow-heif` reads them."""

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".gif", *PHONES)
"""What the names of pictures end in, in lower case."""

FORMATS = (
    *("JPEG", "PNG", "MPO", "BMP", "DIB", "GIF", "JPEG2000", "PPM", "TGA", "TIFF", "WEBP", "AVIF"),
    "HEIF",  # by pillow-heif
)
"""What is decoded, whatever a file is called. Others run programs (EPS), or are several pictures in one."""

MEGAPIXELS = "STRUCTSEG_MEGAPIXELS"
"""The environment variable that allows larger pictures."""

LARGEST = 178
"""Megapixels that are decoded without being asked for: a small file can claim to be huge."""

ORIENTATION = 0x0112
"""The EXIF tag."""

REDUCED_OR_MASK = 0b101
"""The bits of TIFF's tag 254 of pages that are the same picture again, smaller, or its mask."""

DEEP = re.compile(r";(12|16|24|32|64)[A-Z]")
"""PIL's names of packed pixels with more than 8 bits per channel; `BGR;16` has fewer."""

INVERTED = re.compile(r"(1|L);[248]?IR?")
"""PIL's names of packed pixels of which 0 is white."""

LOSSY = {"JPEG": "a JPEG", "MPO": "a JPEG", "JPEG2000": "a JPEG 2000", "AVIF": "an AVIF", "HEIF": "a HEIC"}
"""Formats that change pixels, and what messages call them: no label survives them."""

LOSSY_TIFF = ("jpeg", "tiff_jpeg", "webp")
"""PIL's names of how TIFFs are compressed if that changes pixels."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture upright, by its EXIF orientation."""

_contents: ContextVar[dict[Path, bytes] | None] = ContextVar("contents", default=None)
"""What has been read, where somebody wants to know it."""

warnings.filterwarnings("ignore", module=r"PIL\.")  # of large pictures and odd EXIF data: no user can help it


class Decoded(NamedTuple):
    """A picture, upright.

    Attributes:
        pixels: `[H, W]` or `[H, W, channels]`.
        mode: PIL's name of what they mean, such as `L`, `P`, `RGB`, `I;16` or `F`.
        orientation: The EXIF orientation that the stored pixels were turned by, 1–8; 1 is not at all.
    """

    pixels: NDArray[np.generic]
    mode: str
    orientation: int


class Header(NamedTuple):
    """What a file says of its pixels.

    Attributes:
        orientation: The EXIF orientation, 1–8.
        palette: The colours `[n, 3]` of the values 0..n−1, if it has a palette.
    """

    orientation: int
    palette: NDArray[np.uint8] | None


def decode(path: Path, mode: str | None = None, labels: bool = False) -> Decoded:
    """A picture, turned as its EXIF data say.

    Args:
        path: The file.
        mode: `RGB` for colours; None for the values as they are stored, of a palette the indices.
        labels: Whether it shows labels, every one of which matters.

    Raises:
        Unreachable: It is missing, or the disk cannot read it.
        UserError: It is damaged, or is not one picture that can be read in one way only: it has several
            frames, more pixels than are allowed, as colours more than 8 bits per channel or transparent
            pixels, or labels in a format that changes pixels.
    """
    return decoded(content(path), path, mode, labels)


def decoded(data: bytes, path: Path, mode: str | None = None, labels: bool = False) -> Decoded:
    """A picture of the bytes of its file; arguments and errors are those of `decode`.

    Args:
        data: The bytes.
        path: What messages call it.
        mode: As in `decode`.
        labels: As in `decode`.
    """
    with _opened(data, path) as picture:
        _refuse_several(picture, path)
        lossy = _lossy(picture, data) if labels else ""
        if lossy:
            raise UserError(
                f"{path} is {lossy}, which changes pixels: save label maps as PNG, from their source"
            )
        if mode == "RGB":
            _refuse_deep(picture, path)
        elif any(raw in ("L;2", "L;4") for raw in _raw_modes(picture)):
            raise UserError(
                f"{path} is grey with 2 or 4 bits per pixel, which some readers spread over 0–255 and others "
                "do not: save it with 8 bits, or with a palette"
            )
        elif labels and any(INVERTED.fullmatch(raw) for raw in _raw_modes(picture)):
            raise UserError(
                f"{path} has 0 for white, as PBM and some TIFFs do, which some readers turn round and others "
                "do not: save it as PNG"
            )
        orientation = _orientation(picture)
        picture.load()
        upright: Image.Image = picture
        if mode == "RGB":
            _refuse_transparent(picture, path)
            upright = picture if picture.mode == "RGB" else picture.convert("RGB")
        left = _orientation(picture)  # TIFFs are turned while they are loaded
        if left in TURNS:
            upright = upright.transpose(TURNS[left])
        return Decoded(np.array(upright), upright.mode, orientation)


def header(path: Path) -> Header:
    """What a picture file says of its pixels; they are decoded only where that is in no header.

    Raises:
        Unreachable: It is missing, or the disk cannot read it.
        UserError: It is damaged.
    """
    with _opened(content(path), path) as picture:
        return Header(_orientation(picture), _palette(picture))


def turned(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Stored pixels `[H, W]` made upright.

    Args:
        pixels: As they are stored.
        orientation: The EXIF orientation, 1–8.
    """
    if orientation not in TURNS:
        return pixels
    return np.array(Image.fromarray(pixels).transpose(TURNS[orientation]))


def content(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        Unreachable: It is missing, or the disk cannot read it.
    """
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise Unreachable(f"{path} is missing") from None
    except OSError as error:
        raise Unreachable(f"{path} cannot be read: {os.strerror(error.errno or 0)}") from None
    contents = _contents.get()
    if contents is not None:
        contents[path] = data
    return data


@contextlib.contextmanager
def noting() -> Iterator[dict[Path, bytes]]:
    """The bytes of all files that `content` reads in the block, by their paths, in order."""
    contents: dict[Path, bytes] = {}
    token = _contents.set(contents)
    try:
        yield contents
    finally:
        _contents.reset(token)


@contextlib.contextmanager
def _opened(data: bytes, path: Path) -> Iterator[Image.Image]:
    """Opens a picture; whatever goes wrong in the block is a sentence about the file.

    Raises:
        UserError: It cannot be decoded.
    """
    limit = _megapixels()
    Image.MAX_IMAGE_PIXELS = int(limit * 500_000)  # PIL refuses what has twice as many
    try:
        with Image.open(io.BytesIO(data), formats=_formats()) as picture:
            yield picture
    except (UserError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise UserError(f"{path} {_too_large(error, limit)}") from None
    except UnidentifiedImageError:
        kind = "is empty" if not data else "is no picture of a known format, or damaged"
        if data and path.suffix.lower() in PHONES and "HEIF" not in _formats():
            kind = "needs pillow-heif: pip install -r requirements-extra.txt, or convert it to PNG"
        raise UserError(f"{path} cannot be read as a picture: it {kind}") from None
    except Exception as error:  # a damaged file fails in many ways
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} cannot be read as a picture: {reason}") from None


def _formats() -> tuple[str, ...]:
    """Those of `FORMATS` that the installed PIL knows."""
    if not _known:
        Image.init()
        with contextlib.suppress(ImportError):
            import pillow_heif

            pillow_heif.register_heif_opener()
        _known.extend(name for name in FORMATS if name in Image.OPEN)
    return tuple(_known)


_known: list[str] = []


def _megapixels() -> float:
    """How many megapixels a picture may have.

    Raises:
        UserError: The environment variable is no number.
    """
    text = os.environ.get(MEGAPIXELS)
    if not text:
        return LARGEST
    try:
        limit = float(text)
    except ValueError:
        limit = 0.0
    if not 0 < limit < 10**6:
        raise UserError(f"{MEGAPIXELS} must be how many megapixels a picture may have, not {text!r}")
    return limit


def _too_large(error: Exception, limit: float) -> str:
    """What to say about a picture that PIL finds too large."""
    count = re.search(r"(\d+) pixels", str(error))
    size = f"{-(-int(count[1]) // 10**6)} megapixels" if count else "too many pixels"
    return (
        f"has {size}, more than the {limit:g} that are read: cut it into tiles, or set the environment "
        f"variable {MEGAPIXELS} to a larger number"
    )


def _lossy(picture: Image.Image, data: bytes) -> str:
    """What kind of picture changes pixels; empty if this one does not."""
    if picture.format == "WEBP":
        return "" if _chunks(data) & {b"VP8L"} else "a lossy WebP"
    if picture.format == "TIFF" and picture.info.get("compression") in LOSSY_TIFF:
        return "a TIFF with lossy compression"
    return LOSSY.get(picture.format or "", "")


def _chunks(data: bytes) -> set[bytes]:
    """The names of the chunks of a WebP."""
    names, place = set(), 12
    while place + 8 <= len(data):
        names.add(data[place : place + 4])
        size = int.from_bytes(data[place + 4 : place + 8], "little")
        place += 8 + size + size % 2
    return names


def _refuse_several(picture: Image.Image, path: Path) -> None:
    """Refuses a file of several pictures.

    A phone's JPEG with a preview (MPO) and a TIFF with smaller copies of its picture have one.

    Raises:
        UserError: It has several.
    """
    count = getattr(picture, "n_frames", 1)
    if count == 1 or picture.format == "MPO":
        return
    if picture.format == "TIFF":
        pages = [_is_copy(picture, page) for page in range(1, count)]
        picture.seek(0)
        if all(pages):
            return
    raise UserError(f"{path} has {count} pictures in it: save the one that is meant as a file of its own")


def _is_copy(picture: Image.Image, page: int) -> bool:
    """Whether a page of a TIFF is the picture again, smaller, or its mask."""
    picture.seek(page)
    return bool(picture.tag_v2.get(254, 0) & REDUCED_OR_MASK)  # type: ignore[attr-defined]  # of TIFFs


def _raw_modes(picture: Image.Image) -> list[str]:
    """PIL's names of how the pixels are packed in the file."""
    parts = [tile[3] for tile in getattr(picture, "tile", [])]
    return [str(part[0] if isinstance(part, tuple) and part else part) for part in parts]


def _refuse_deep(picture: Image.Image, path: Path) -> None:
    """Refuses more than 8 bits per channel: whether 255 or 65535 is white, the file does not say.

    Raises:
        UserError: It has more.
    """
    deep = picture.mode.startswith(("I", "F")) or any(DEEP.search(raw) for raw in _raw_modes(picture))
    if picture.format == "PPM":
        deep = deep or any(isinstance(part, int) and part > 255 for tile in picture.tile for part in tile[3])  # type: ignore[attr-defined]  # of files
    if deep:
        raise UserError(f"{path} has more than 8 bits per channel: save it with 8")


def _refuse_transparent(picture: Image.Image, path: Path) -> None:
    """Refuses pixels that are not opaque: viewers show something else there than what is stored.

    Raises:
        UserError: There are some.
    """
    if not picture.has_transparency_data:
        return
    lowest = picture.convert("RGBA").getchannel("A").getextrema()[0]
    if lowest != 255:
        raise UserError(f"{path} has transparent pixels: save it without transparency, on a background")


def _orientation(picture: Image.Image) -> int:
    """The EXIF orientation, 1–8; what is none counts as 1."""
    value = picture.getexif().get(ORIENTATION, 1)
    return value if value in TURNS else 1


def _palette(picture: Image.Image) -> NDArray[np.uint8] | None:
    """The colours `[n, 3]` of a picture with a palette."""
    if picture.mode != "P":
        return None
    palette = picture.palette
    if palette is not None and palette.rawmode == "RGB":  # as in PNGs: there is no need to decode
        colours = bytes(palette.palette)
    else:
        colours = bytes(picture.getpalette("RGB") or ())
    return np.frombuffer(colours[: len(colours) // 3 * 3], np.uint8).reshape(-1, 3)
