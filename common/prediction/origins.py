"""Which pictures the predictions in a folder are of, so that those of others are never taken for them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from common.errors import UserError
from common.files import unreadable
from common.images.pictures import Picture
from common.integrity import StoredFile


@dataclass(frozen=True)
class Origin:
    """A line of `pictures.jsonl`: what was read for the files of one name.

    Attributes:
        name: What the files are called.
        path: The picture, or the video that it is a frame of.
        file: Its size and content.
    """

    name: str
    path: str
    file: StoredFile


class Origins:
    """`pictures.jsonl` in a folder of predictions."""

    def __init__(self, folder: Path) -> None:
        """
        Args:
            folder: The folder. A line that a killed process has not written whole is as good as none.

        Raises:
            UserError: The file cannot be read now.
        """
        self.path = folder / "pictures.jsonl"
        self._origins = {origin.name: origin for origin in _read(self.path)}
        self._by_last_part = {Path(name).name: name for name in self._origins}
        self._last: tuple[Path, StoredFile] | None = None

    def has(self, picture: Picture) -> bool:
        """Whether the files of that name are of this very picture; if not, it has changed or there are none.

        Raises:
            UserError: They are of another picture, or this one cannot be read.
        """
        origin = self._origins.get(picture.name)
        if origin is None:
            return False
        if origin.file == self._stored(picture.file):
            return True
        if origin.path != str(picture.file.resolve()):
            folder = self.path.parent
            raise UserError(
                f"{folder} has the prediction of another picture called {picture.name}, {origin.path}, not "
                f"of {picture.file}: choose another --output, or delete {folder}"
            )
        return False

    def names(self, picture: Picture) -> bool:
        """Whether there are files of the name of a picture."""
        return picture.name in self._origins

    def check_last_part(self, name: str) -> None:
        """Checks that no other picture has the same last part of its name, where that alone counts.

        Raises:
            UserError: One has.
        """
        part = Path(name).name
        other = self._by_last_part.setdefault(part, name)
        if other != name:
            raise UserError(
                f"--voc-submission: {other} and {name} would both be {part} there: rename one, or predict "
                "them into different folders"
            )

    def add(self, picture: Picture) -> None:
        """Says that the files of that name are of this picture, once they are written."""
        origin = Origin(picture.name, str(picture.file.resolve()), self._stored(picture.file))
        self._origins[picture.name] = origin
        with self.path.open("ab+") as file:
            if file.tell() and file.seek(-1, os.SEEK_END) >= 0 and file.read() != b"\n":
                file.write(b"\n")  # behind what a killed process has written of a line
            file.write(msgspec.json.encode(origin) + b"\n")

    def _stored(self, path: Path) -> StoredFile:
        """Size and content of a file; that of a video is read once for all of its frames."""
        if self._last is None or self._last[0] != path:
            try:
                self._last = path, StoredFile.of(path)
            except OSError as error:
                raise unreadable(path, error) from None
        return self._last[1]


def _read(path: Path) -> Iterator[Origin]:
    """The lines of a file; what is no such line is left out, and its picture predicted again.

    Raises:
        UserError: The system does not let it be read.
    """
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return
    except OSError as error:
        raise unreadable(path, error) from None
    for line in lines:
        try:
            yield msgspec.json.decode(line, type=Origin)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            continue
