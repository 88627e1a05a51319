"""What a benchmark of kernels has measured so far, kept after every row: an interrupted one goes on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import UserError
from common.files import read_record, write_record
from common.timing.cases import Case, Timing


@dataclass
class Session:
    """One call of the benchmark.

    Attributes:
        started: When, in ISO 8601.
        facts: What was to be said of the machine: clocks, driver, other processes, the speed of a copy.
    """

    started: str
    facts: dict[str, str]


@dataclass
class _Content:
    """The file.

    Attributes:
        origin: Device, code and versions.
        sessions: The calls that measured something.
        rows: Of every family.
        finished: The families that a call came to the end of.
    """

    origin: dict[str, str]
    sessions: list[Session] = field(default_factory=list)
    rows: dict[str, list[Timing]] = field(default_factory=dict)
    finished: list[str] = field(default_factory=list)


class Journal:
    """Rows of timings with where they are from."""

    def __init__(self, path: Path, origin: Mapping[str, str]) -> None:
        """Reads what there is; what another device, code or version has measured is forgotten.

        Args:
            path: The file.
            origin: Device, code and versions of now.
        """
        self._path = path
        try:
            content = read_record(path, _Content, "delete it")
        except UserError:  # there is none, or none that is worth anything
            content = _Content({})
        self._content = content if content.origin == dict(origin) else _Content(dict(origin))

    @property
    def origin(self) -> Mapping[str, str]:
        """Device, code and versions."""
        return self._content.origin

    @property
    def sessions(self) -> list[Session]:
        """The calls that the rows are from."""
        starts = {row["session"] for rows in self._content.rows.values() for row in rows}
        return [session for session in self._content.sessions if session.started in starts]

    @property
    def families(self) -> Mapping[str, list[Timing]]:
        """All rows by family; `session` is when their session started."""
        return self._content.rows

    def begin(self, session: Session, families: list[str]) -> None:
        """A call begins: it measures anew the families that another has come to the end of.

        Args:
            session: The call.
            families: What it is to measure.
        """
        self._content.sessions.append(session)
        for family in {*families} & {*self._content.finished}:
            del self._content.rows[family]
            self._content.finished.remove(family)

    def has(self, family: str, case: Case) -> bool:
        """Whether a case was measured by a call that did not end."""
        rows = self._content.rows.get(family, [])
        return any(all(row.get(key) == value for key, value in case.key.items()) for row in rows)

    def add(self, family: str, case: Case, timing: Timing) -> None:
        """Keeps a row, with NaN as None."""
        values = {
            key: None if isinstance(value, float) and math.isnan(value) else value
            for key, value in timing.items()
        }
        started = self._content.sessions[-1].started
        about = {"baseline": case.baseline, "reference": case.reference, "session": started}
        self._content.rows.setdefault(family, []).append({**case.key, **values, **about})
        self._write()

    def finish(self, family: str) -> None:
        """The call has measured all of a family."""
        self._content.rows.setdefault(family, [])
        self._content.finished.append(family)
        self._write()

    def _write(self) -> None:
        write_record(self._path, self._content)
