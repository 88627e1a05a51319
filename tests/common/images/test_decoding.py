"""Pictures of every kind: read right or refused, and alike wherever they are read."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from common.datasets.folder import Folder
from common.datasets.inspection import inspect
from common.errors import UserError
from common.images import pictures, reading
from common.images.foreign_predictions import ForeignPredictions, PredictionReader
from tests.common.datasets import layouts

SIDES = (12, 16)
RGB = np.random.default_rng(0).integers(0, 256, (*SIDES, 3), dtype=np.uint8)
GREY = RGB[..., 0].copy()
LABELS = GREY % 7

pytestmark = pytest.mark.filterwarnings("ignore")  # PIL's own, which pytest would show
Write = Callable[[Path], object]


def saved(pixels: NDArray[np.generic], mode: str = "", **options: object) -> Write:
    """Writes pixels, converted to a mode if one is named."""
    picture = Image.fromarray(pixels)
    return lambda path: (picture.convert(mode) if mode else picture).save(path, **options)


def indexed(pixels: NDArray[np.uint8], **options: object) -> Write:
    """Writes labels with a palette."""

    def write(path: Path) -> None:
        picture = Image.fromarray(pixels)
        picture.putpalette([part for value in range(256) for part in (value, 255 - value, 7)])
        picture.save(path, **options)

    return write


def chunks(width: int, height: int, bits: int, kind: int, rows: bytes) -> bytes:
    """A PNG of rows that are packed already."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def deep(path: Path) -> None:
    """16 bits for each of red, green and blue."""
    rows = b"".join(b"\0" + (row.astype(">u2") * 257).tobytes() for row in RGB)
    path.write_bytes(chunks(16, 12, 16, 2, rows))


def shallow(path: Path) -> None:
    """Grey of 2 bits."""
    path.write_bytes(chunks(16, 12, 2, 0, 12 * b"\0\x1b\x1b\x1b\x1b"))


def bomb(path: Path) -> None:
    """182 megapixels in 177 kB."""
    path.write_bytes(chunks(14000, 13000, 8, 0, 13000 * 14001 * b"\0"))


def pages(small: int) -> Write:
    """A TIFF of two pages, of which the second says by its tag 254 what it is."""

    def write(path: Path) -> None:
        second = Image.fromarray(RGB[:6, :8])
        second.encoderinfo = {"tiffinfo": {254: small}}  # type: ignore[attr-defined]
        Image.fromarray(RGB).save(path, save_all=True, append_images=[second])

    return write


def text(content: bytes) -> Write:
    return lambda path: path.write_bytes(content)


def half(write: Write) -> Write:
    """The first two thirds of a file."""

    def cut(path: Path) -> None:
        write(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])

    return cut


COPIES = [Image.fromarray(255 - RGB)]
MORE_BITS = "has more than 8 bits per channel: save it with 8"
CHANNELS = "has several channels"
UNKNOWN = "cannot be read as a picture"
FRAMES = "has 2 pictures in it: save the one that is meant as a file of its own"
CLEAR = "has transparent pixels: save it without transparency"
JPEG = "is a JPEG, which changes pixels: save label maps as PNG"
LARGE = "has 182 megapixels, more than the 178 that are read: cut it into tiles, or set the environment"
WHOLE = "labels are 0–255, whole"
AS_GREY = np.repeat(GREY[..., None], 3, axis=2)
AS_LABELS = np.repeat(LABELS[..., None], 3, axis=2)
ONE = (GREY > 99).astype(np.uint8)
Expected = NDArray[np.uint8] | str | None
"""Pixels, the sentence of the refusal, or None for what is read with losses."""

KINDS: dict[str, tuple[Write, Expected, Expected]] = {
    # a file, what it shows as a picture, what as labels
    "rgb.png": (saved(RGB), RGB, CHANNELS),
    "rgb.jpg": (saved(RGB), None, JPEG),
    "rgb.bmp": (saved(RGB), RGB, CHANNELS),
    "rgb.ppm": (saved(RGB), RGB, CHANNELS),
    "rgb.tif": (saved(RGB), RGB, CHANNELS),
    "lzw.tif": (saved(RGB, compression="tiff_lzw"), RGB, CHANNELS),
    "rgb.webp": (saved(RGB, lossless=True), RGB, CHANNELS),
    "jpeg-called.png": (saved(GREY, format="JPEG"), None, JPEG),
    "jpeg-2000-called.png": (
        saved(GREY, format="JPEG2000", irreversible=True),
        None,
        "is a JPEG 2000, which changes pixels: save",
    ),
    "lossy.webp": (saved(RGB), None, "is a lossy WebP, which changes pixels: save"),
    "lossy.tif": (saved(GREY, compression="jpeg"), None, "is a TIFF with lossy compression, which changes"),
    "one-bit.ppm": (text(b"P4 16 12\n" + 12 * b"\xf0\x0f"), None, "has 0 for white, as PBM and some"),
    "white-is-zero.tif": (
        saved(GREY > 99, tiffinfo={262: 0}),
        None,
        "has 0 for white, as PBM and some TIFFs",
    ),
    "grey.png": (saved(GREY), AS_GREY, GREY),
    "grey.gif": (saved(GREY), AS_GREY, None),
    "one-bit.png": (saved(GREY > 99), np.repeat(255 * ONE[..., None], 3, axis=2), ONE),
    "one-bit.tif": (saved(GREY > 99), np.repeat(255 * ONE[..., None], 3, axis=2), ONE),
    "palette.png": (indexed(LABELS), None, LABELS),
    "palette-4-bits.png": (indexed(LABELS, bits=4), None, LABELS),
    "palette.gif": (indexed(LABELS), None, LABELS),
    "palette.bmp": (indexed(LABELS), None, LABELS),
    "palette.tif": (indexed(LABELS), None, LABELS),
    "opaque.png": (saved(RGB, "RGBA"), RGB, CHANNELS),
    "transparent.png": (saved(np.dstack([RGB, GREY])), CLEAR, CHANNELS),
    "transparent-grey.png": (saved(np.dstack([GREY, GREY])), CLEAR, CHANNELS),
    "transparent-palette.png": (indexed(LABELS, transparency=3), CLEAR, LABELS),
    "transparent-colour.png": (saved(RGB, transparency=tuple(RGB[0, 0].tolist())), CLEAR, CHANNELS),
    "cmyk.tif": (saved(RGB, "CMYK"), RGB, CHANNELS),
    "cmyk.jpg": (saved(RGB, "CMYK", quality=100), None, JPEG),
    "ycbcr.tif": (saved(RGB, "YCbCr"), None, CHANNELS),
    "16-bit.png": (saved(GREY.astype(np.uint16) * 257), MORE_BITS, WHOLE),
    "16-bit-labels.png": (saved(LABELS.astype(np.uint16)), MORE_BITS, LABELS),
    "16-bit.tif": (saved(GREY.astype(np.uint16) * 257), MORE_BITS, WHOLE),
    "32-bit.tif": (saved(GREY.astype(np.int32) * 1000), MORE_BITS, WHOLE),
    "16-bit-rgb.png": (deep, MORE_BITS, CHANNELS),
    "16-bit.ppm": (text(b"P6 16 12 65535\n" + (RGB.astype(">u2") * 257).tobytes()), MORE_BITS, CHANNELS),
    "16-bit-grey.ppm": (text(b"P5 16 12 65535\n" + (GREY.astype(">u2") * 257).tobytes()), MORE_BITS, WHOLE),
    "float.tif": (saved((GREY / 255).astype(np.float32)), MORE_BITS, WHOLE),
    "float-labels.tif": (saved(LABELS.astype(np.float32)), MORE_BITS, LABELS),
    "nan.tif": (saved(np.where(GREY > 9, np.nan, 1).astype(np.float32)), MORE_BITS, WHOLE),
    "2-bit.png": (shallow, np.repeat(np.resize([0, 85, 170, 255], (12, 16))[..., None], 3, 2), "2 or 4 bits"),
    "animated.gif": (saved(GREY, save_all=True, append_images=[Image.fromarray(255 - GREY)]), FRAMES, FRAMES),
    "animated.png": (saved(RGB, save_all=True, append_images=COPIES), FRAMES, FRAMES),
    "animated.webp": (saved(RGB, save_all=True, append_images=COPIES), FRAMES, FRAMES),
    "pages.tif": (pages(0), FRAMES, FRAMES),
    "overview.tif": (pages(1), RGB, CHANNELS),
    "preview.jpg": (saved(RGB, format="MPO", save_all=True, append_images=COPIES), None, JPEG),
    "empty.png": (text(b""), UNKNOWN, UNKNOWN),
    "words.png": (text(b"no picture"), UNKNOWN, UNKNOWN),
    "page.jpg": (text(b"<html>404</html>"), UNKNOWN, UNKNOWN),
    "pointer.png": (text(b"version https://git-lfs.github.com/spec/v1\n"), UNKNOWN, UNKNOWN),
    "program.png": (saved(RGB, format="EPS"), UNKNOWN, UNKNOWN),
    "half.png": (half(saved(RGB)), UNKNOWN, UNKNOWN),
    "half.jpg": (half(saved(RGB)), UNKNOWN, None),
    "half.bmp": (half(saved(RGB)), UNKNOWN, UNKNOWN),
    "half.tif": (half(saved(RGB)), UNKNOWN, UNKNOWN),
    "half.gif": (half(saved(GREY)), UNKNOWN, UNKNOWN),
    "half.webp": (half(saved(RGB, lossless=True)), UNKNOWN, UNKNOWN),
    "half.ppm": (half(saved(RGB)), UNKNOWN, UNKNOWN),
    "bomb.png": (bomb, LARGE, LARGE),
}


def outcome(read: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8] | str:
    """What is read, or the one sentence of the refusal."""
    try:
        return read()
    except UserError as error:
        assert len(str(error).splitlines()) == 1
        return str(error)


def check(actual: NDArray[np.uint8] | str, expected: Expected, name: str) -> None:
    if isinstance(expected, str):
        assert isinstance(actual, str) and expected in actual and name in actual
    elif expected is not None:
        assert np.array_equal(actual, expected)


@pytest.mark.parametrize("name", KINDS)
def test_kinds_of_pictures(tmp_path: Path, name: str) -> None:
    """As an image of a dataset, and for `predict`."""
    write, expected, _ = KINDS[name]
    root = layouts.write_folder(tmp_path)
    (root / "images/train0.jpg").unlink()
    write(root / "images" / name)
    layouts.lines(root / "train.txt", [name])
    layouts.save(root / "labels" / f"{Path(name).stem}.png", np.zeros(SIDES, np.uint8))
    dataset = Folder(str(root), ["a", "b", "c"])
    (picture,) = pictures.find([root / "images" / name])
    of_dataset = outcome(lambda: dataset.read("train", Path(name).stem)[0])
    to_predict = outcome(picture.read)
    check(of_dataset, expected, name)
    assert (
        np.array_equal(of_dataset, to_predict)
        if isinstance(of_dataset, np.ndarray)
        else of_dataset == to_predict
    )
    if isinstance(expected, str):
        with pytest.raises(UserError, match="dataset folder"):
            inspect(dataset)


@pytest.mark.parametrize("name", KINDS)
def test_kinds_of_label_maps(tmp_path: Path, name: str) -> None:
    """As labels of a dataset, and as predictions of another system."""
    write, _, expected = KINDS[name]
    root = layouts.write_folder(tmp_path)
    layouts.save(root / "images/x.png", RGB)
    write(root / "labels" / name)
    layouts.lines(root / "train.txt", [f"images/x.png labels/{name}"])
    dataset = Folder(str(root), [str(value) for value in range(255)])
    (tmp_path / "theirs").mkdir()
    write(tmp_path / "theirs/x.png") if "." + name.split(".")[-1] == ".png" else None
    reader = PredictionReader(ForeignPredictions(str(tmp_path / "theirs")), dataset.class_names, (), False)
    check(outcome(lambda: dataset.read("train", "images/x")[1]), expected, name)
    if name.endswith(".png"):
        check(outcome(lambda: reader.read("train", "x", SIDES).numpy()), expected, "x.png")


@pytest.mark.parametrize("ending", [".jpg", ".png", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_their_exif_data_say(tmp_path: Path, orientation: int, ending: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"x{ending}"
    Image.fromarray(RGB).save(path, exif=exif, **({"lossless": True} if ending == ".webp" else {}))
    (picture,) = pictures.find([path])
    expected = np.array(ImageOps.exif_transpose(Image.open(path)))
    assert np.array_equal(reading.read_colours(path), expected)
    assert np.array_equal(picture.read(), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_label_maps_of_stored_pixels_are_turned_with_their_images(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    root = layouts.write_folder(tmp_path)
    Image.fromarray(AS_LABELS).save(root / "images/train0.png", exif=exif)
    (root / "images/train0.jpg").unlink()
    layouts.save(root / "labels/train0.png", LABELS)
    names = [str(value) for value in range(7)]
    image, labels = Folder(str(root), names, turn_labels=True).read("train", "train0")
    assert np.array_equal(image[..., 0], labels)
    if orientation > 4:
        with pytest.raises(
            UserError, match=r"is 16×12 but its image is 12×16, turned as .*turn_labels to true"
        ):
            Folder(str(root), names).read("train", "train0")
    layouts.save(root / "labels/train0.png", image[..., 0])
    assert np.array_equal(Folder(str(root), names).read("train", "train0")[1], labels)


def test_where_no_size_tells_whether_label_maps_are_turned_it_is_noted(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    root = layouts.write_folder(tmp_path)
    Image.fromarray(RGB).save(root / "images/train0.jpg", exif=exif)
    (note,) = inspect(Folder(str(root), ["a", "b", "c"])).notes
    assert note.startswith("the image train0 of train is turned as the EXIF data say, and no size tells")
    assert inspect(Folder(str(root), ["a", "b", "c"], turn_labels=True)).notes == []


def test_a_label_map_that_fits_only_turned_says_so(tmp_path: Path) -> None:
    root = layouts.write_folder(tmp_path)
    layouts.save(root / "labels/train0.png", np.zeros((16, 12), np.uint8))
    with pytest.raises(UserError, match="is 12×16 but its image is 16×12, and fits only turned"):
        Folder(str(root), ["a", "b", "c"]).read("train", "train0")


def test_huge_pictures_are_read_where_they_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large.png"
    layouts.save(path, np.zeros((1100, 1000), np.uint8))
    monkeypatch.setenv("STRUCTSEG_MEGAPIXELS", "1")
    with pytest.raises(UserError, match="has 2 megapixels, more than the 1 that are read: .*MEGAPIXELS"):
        reading.read_values(path)
    monkeypatch.setenv("STRUCTSEG_MEGAPIXELS", "1.2")
    assert reading.read_values(path).shape == (1100, 1000)
    monkeypatch.setenv("STRUCTSEG_MEGAPIXELS", "many")
    with pytest.raises(UserError, match="STRUCTSEG_MEGAPIXELS must be how many megapixels"):
        reading.read_values(path)


@pytest.mark.parametrize(
    "name", ["rgb.png", "rgb.jpg", "rgb.bmp", "rgb.tif", "lzw.tif", "rgb.webp", "grey.gif"]
)
def test_a_file_that_was_cut_anywhere_is_never_read_as_something_else(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    KINDS[name][0](path)
    whole, content = reading.read_colours(path), path.read_bytes()
    for end in [*range(0, len(content) - 40, 29), *range(len(content) - 40, len(content))]:
        path.write_bytes(content[:end])
        read = outcome(lambda: reading.read_colours(path))
        assert isinstance(read, str) or np.array_equal(read, whole)
