"""Pictures that people bring along."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from common.images import decoding, pictures


def test_pictures_are_upright_and_rgb(tmp_path: Path) -> None:
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[0, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90° clockwise
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(pixels).convert("RGBA").save(tmp_path / "alpha.png")
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.png")
    read = {picture.name: picture.read() for picture in pictures.find([tmp_path])}
    assert read["turned"].shape == (6, 4, 3) and read["turned"][0, 3].tolist() == [255, 255, 255]
    assert np.array_equal(read["alpha"], pixels)
    assert np.array_equal(read["grey"], pixels)


def test_folders_are_searched_and_names_are_unique(tmp_path: Path) -> None:
    for name in ("a/x.png", "b/x.JPG", "a/.hidden.png", "out/labels/x.png", "a/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    names = [
        picture.name
        for picture in pictures.find([tmp_path], leave_out=lambda path: tmp_path / "out" in path.parents)
    ]
    assert names == ["a/x", "b/x"]
    assert [picture.name for picture in pictures.find([tmp_path / "a", tmp_path / "b"])] == ["x.png", "x.JPG"]
    (tmp_path / "b/x.png").touch()
    with pytest.raises(UserError, match=r"a/x.png and .*b/x.png would both be called x.png"):
        pictures.find([tmp_path / "a", tmp_path / "b"])
    with pytest.raises(UserError, match="nowhere is not there"):
        pictures.find([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty has no pictures"):
        pictures.find([tmp_path / "empty"])


def test_frames_of_a_video(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    shades = [30, 120, 210]
    with av.open(str(tmp_path / "drive.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for shade in shades:
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), shade, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    (tmp_path / "damaged.mp4").write_bytes((tmp_path / "drive.mp4").read_bytes()[:100])
    both = list(pictures.find([tmp_path / "drive.mp4", tmp_path / "damaged.mp4"]))
    assert [picture.name for picture in both] == [
        "drive/000001", "drive/000002", "drive/000003", "damaged",
    ]  # fmt: skip
    for picture, shade in zip(both, shades):
        assert picture.read().shape == (48, 64, 3) and abs(picture.read().mean() - shade) < 5
    with pytest.raises(UserError, match="damaged.mp4 cannot be read as a video"):
        both[3].read()


def test_a_video_without_pyav_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    (tmp_path / "drive.mp4").touch()
    (picture,) = pictures.find([tmp_path / "drive.mp4"])
    with pytest.raises(UserError, match="videos need PyAV: pip install -r requirements-extra.txt"):
        picture.read()


def test_pictures_of_telephones_are_read(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[:, 48:] = 255
    heif.from_bytes("RGB", (96, 64), pixels.tobytes()).save(tmp_path / "photo.HEIC", quality=-1)
    (picture,) = pictures.find([tmp_path])
    assert picture.name == "photo"
    assert np.abs(picture.read().astype(int) - pixels).max() < 8


def test_what_reads_pictures_of_telephones_may_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    monkeypatch.setattr(decoding, "_known", [])
    (picture,) = pictures.find([tmp_path])
    with pytest.raises(UserError, match=r"needs pillow-heif: pip install -r requirements-extra.txt"):
        picture.read()
