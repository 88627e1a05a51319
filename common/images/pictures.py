"""Pictures that people bring along: files, folders of files, and the frames of videos."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from common.images.decoding import PICTURES
from common.images.names import files_below
from common.images.reading import read_colours

VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")

RGB = NDArray[np.uint8]
"""A picture `[H, W, 3]`."""


class Picture(NamedTuple):
    """A picture that can be read.

    Attributes:
        name: What results about it are called: its path inside of the folder that was named, without its
            ending, unless another differs in that alone; of a frame, `<video>/<number>` with numbers from
            000001.
        file: The file that it is in.
        read: Reads it, `[H, W, 3]`; raises a UserError if it is damaged.
    """

    name: str
    file: Path
    read: Callable[[], RGB]


def find(paths: Iterable[Path], leave_out: Callable[[Path], bool] = lambda _: False) -> Iterator[Picture]:
    """All pictures that the paths name, in order; folders are searched with what is below them.

    Args:
        paths: Files and folders.
        leave_out: Says of a file that it is no input, as it was written by a prediction.

    Raises:
        UserError: A path is not there or no input, a folder has no pictures, or two pictures have one name.
            All of this is found before the first picture is given.
    """
    pictures = [picture for path in paths for picture in _files(path, leave_out)]
    common = Counter(name for name, _ in pictures)
    files: dict[str, Path] = {}
    for name, file in pictures:
        if common[name] > 1:
            name += file.suffix
        if name in files:
            raise UserError(
                f"{files[name]} and {file} would both be called {name}: rename one, or predict them into "
                "different folders"
            )
        files[name] = file
    return _opened(files)


def _files(path: Path, leave_out: Callable[[Path], bool]) -> list[tuple[str, Path]]:
    """The names and files of all pictures that one path names; arguments and errors are those of `find`."""
    if path.is_dir():
        pictures = [
            file
            for file in files_below(path)
            if file.suffix.lower() in PICTURES and not file.name.startswith(".")
        ]
        files = [file for file in pictures if not leave_out(file)]
        if pictures and not files:
            raise _written(path)
        if not files:
            raise UserError(
                f"{path} has no pictures ({', '.join(PICTURES)}); videos must be named one by one"
            )
        return [(file.relative_to(path).with_suffix("").as_posix(), file) for file in files]
    if not path.exists():
        raise UserError(f"{path} is not there: name pictures, folders of pictures, or videos")
    if leave_out(path):
        raise _written(path)
    return [(path.stem, path)]


def _written(path: Path) -> UserError:
    """What to say of a path that has no pictures but those that a prediction wrote."""
    return UserError(
        f"{path} has nothing but what a prediction wrote: name the pictures that it was made from, or copy "
        "these into a folder of their own"
    )


def _opened(files: Mapping[str, Path]) -> Iterator[Picture]:
    """The pictures of files, and all frames of those that are videos."""
    for name, file in files.items():
        if file.suffix.lower() not in VIDEOS:
            yield Picture(name, file, partial(read_colours, file))
            continue
        try:
            for number, frame in enumerate(frames(file), 1):
                yield Picture(f"{name}/{number:06d}", file, partial(_decoded, frame))
        except UserError as error:  # to be told like that of any other picture
            yield Picture(name, file, partial(_raise, error))


def _decoded(frame: RGB) -> RGB:
    """Reads a frame, which is decoded already."""
    return frame


def _raise(error: UserError) -> RGB:
    """Reads a video that is damaged: raises its error."""
    raise error


def frames(path: Path) -> Iterator[RGB]:
    """The frames of a video, `[H, W, 3]` each, upright.

    Raises:
        UserError: PyAV is not installed, or the video is damaged.
    """
    try:
        import av
    except ImportError:
        raise UserError(
            f"{path}: videos need PyAV: pip install -r requirements-extra.txt, or extract the frames as "
            "pictures and name their folder"
        ) from None
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise UserError(f"{path} has no pictures in it, only sound")
            for frame in container.decode(video=0):
                turns = round(frame.rotation / 90) % 4  # counter-clockwise
                yield np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns))
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"{path} cannot be read as a video: {error}") from None
