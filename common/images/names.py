"""Names of pictures: what is one, and which file is meant by one."""

from __future__ import annotations

import difflib
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from common.errors import Unreachable, UserError

CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Signs that no name has: those that control a terminal, and bytes that are no text."""

NEAREST = 20
"""How often a nearest name is looked for: it takes a while in a large folder."""


def checked(name: str, place: str) -> str:
    """A name in the one form that it has everywhere: composed accents, single slashes.

    A name is a relative path that stays below its folder, whatever folder that will be.

    Args:
        name: Such as `aachen/0001`.
        place: Where it comes from, for the message.

    Raises:
        UserError: It is no such name.
    """
    parts = PurePosixPath(name).parts
    if not parts or parts[0].startswith("/") or ".." in parts:
        raise UserError(f"{place}: {name!r} must be a name or path that stays below its folder, without ..")
    if CONTROLS.search(name):
        raise UserError(f"{place}: {name!r} has control characters: rename the file")
    return unicodedata.normalize("NFC", "/".join(parts))


def files_below(folder: Path) -> list[Path]:
    """All files below a folder, sorted; folders that are links count, as they do where a name is looked up.

    Args:
        folder: The folder. What is no folder has none.

    Raises:
        Unreachable: One cannot be read.
    """
    files: list[Path] = []
    pending: list[tuple[Path, frozenset[str]]] = [(folder, frozenset())]
    while pending:
        place, above = pending.pop()
        actual = os.path.realpath(place)
        if actual in above:  # a link to a folder that it lies in
            continue
        for path in _inside(place):
            if path.is_dir():
                pending.append((path, above | {actual}))
            else:
                files.append(path)
    return sorted(files)


def _inside(folder: Path) -> list[Path]:
    """What is in a folder; nothing if there is none.

    Raises:
        Unreachable: It cannot be read.
    """
    try:
        return [*folder.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise Unreachable(f"{folder} cannot be read: {os.strerror(error.errno or 0)}") from None


def without_ending(name: str, endings: Sequence[str]) -> str:
    """A name without its ending, if it has one of those, in any case."""
    stem, dot, ending = name.rpartition(".")
    return stem if dot + ending.lower() in endings and stem and stem[-1] != "/" else name


class Names:
    """The files below a folder by the names that people give them.

    Accents may be composed or decomposed, and the ending may be in any case. Folders are read when a name in
    them is asked for, once.
    """

    def __init__(self, folder: Path) -> None:
        """
        Args:
            folder: The folder.
        """
        self.folder = folder
        self._listings: dict[str, dict[str, list[str]]] = {}
        self._sought = 0

    def find(self, name: str, endings: Sequence[str] = ("",)) -> Path | None:
        """The file of a name, or None.

        Args:
            name: It, as `checked` gives it.
            endings: What may be missing at its end; the first that there is counts.

        Raises:
            UserError: Two files could be meant, or a folder cannot be read.
        """
        return next(self.find_all(name, endings), None)

    def find_all(self, name: str, endings: Sequence[str]) -> Iterator[Path]:
        """The files of a name with each of several endings; arguments and errors as of `find`."""
        folder = ""
        *folders, last = name.split("/")
        for part in folders:
            actual = self._only(folder, part)
            if actual is None:
                return
            folder = f"{folder}{actual}/"
        for ending in endings:
            actual = self._only(folder, last + ending)
            if actual:
                yield self.folder / f"{folder}{actual}"

    def nearest(self, name: str) -> str:
        """` (the nearest name there is …)`, or nothing if there is none, or many have been asked for."""
        self._sought += 1
        if self._sought > NEAREST:
            return ""
        folder, last = self.folder.joinpath(name).parent, PurePosixPath(name).name
        while folder != self.folder and not folder.is_dir():
            folder, last = folder.parent, folder.name
        below = "" if folder == self.folder else f"{folder.relative_to(self.folder).as_posix()}/"
        listed = [actual for actuals in self._names(below).values() for actual in actuals]
        there = {PurePosixPath(actual).stem: actual for actual in listed}
        close = difflib.get_close_matches(PurePosixPath(last).stem, there, 1, 0.5)
        return f" (the nearest name there is {there[close[0]]})" if close else ""

    def _only(self, folder: str, part: str) -> str | None:
        """What a folder calls a file or folder that is meant by a name.

        Args:
            folder: The folder, below `self.folder`; with a slash at its end, or empty.
            part: The name.

        Raises:
            UserError: There are two, neither of which is called exactly so.
        """
        actuals = self._names(folder).get(_key(part), ())
        if len(actuals) < 2 or part in actuals:
            return part if part in actuals else next(iter(actuals), None)
        place, both = self.folder / folder, " and ".join(sorted(actuals))
        raise UserError(f"{place}: {both} could both be meant by {part}: rename one")

    def _names(self, folder: str) -> dict[str, list[str]]:
        """What is in a folder, by what all forms of a name have in common; nothing if there is none.

        Raises:
            Unreachable: It cannot be read.
        """
        if folder not in self._listings:
            listing: dict[str, list[str]] = {}
            for path in _inside(self.folder / folder):
                listing.setdefault(_key(path.name), []).append(path.name)
            self._listings[folder] = listing
        return self._listings[folder]


def _key(name: str) -> str:
    """What all forms of a name have in common."""
    stem, dot, ending = name.rpartition(".")
    key = f"{stem}{dot}{ending.lower() if dot else ending}"
    return key if key.isascii() else unicodedata.normalize("NFC", key)
