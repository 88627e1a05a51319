"""The scores that files of counts have given, so that the tables of many runs are made again in seconds.

They are kept under the content of these files, which is compared each time, and forgotten when code changes.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

import msgspec

from common import provenance
from common.errors import UserError
from common.files import read_bytes, replacing
from common.runs.benchmark import Benchmark

MOST = 200_000
"""So many are kept, the newest ones."""


class RememberedScores:
    """A file of scores by the content of the files of counts that they come from.

    Attributes:
        known: The scores; what is added to it is kept by `save`.
    """

    def __init__(self, path: Path) -> None:
        """
        Args:
            path: The file. One that cannot be read, is damaged, or is of other code is as good as none.
        """
        self.path = path
        self.known: dict[str, msgspec.Raw] = {}
        with contextlib.suppress(UserError, msgspec.MsgspecError, UnicodeDecodeError):
            head, _, content = read_bytes(path, "delete it").partition(b"\n")
            if head == self._head(content):
                self.known = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
        self.before = len(self.known)

    @classmethod
    def of(cls, benchmark: Benchmark) -> RememberedScores:
        """That of a folder of results."""
        return cls(benchmark.outputs.results / "cache" / "scores.json")

    @staticmethod
    def _head(content: bytes) -> bytes:
        """The first line of the file: the code that has computed the rest, and the digest of that."""
        return f"{provenance.code()} {hashlib.sha256(content).hexdigest()}".encode()

    def save(self) -> None:
        """Keeps what was added."""
        if len(self.known) == self.before:
            return
        content = msgspec.json.encode(dict([*self.known.items()][-MOST:]))
        with replacing(self.path, "wb") as file:
            file.write(self._head(content) + b"\n" + content)
        self.before = len(self.known)
