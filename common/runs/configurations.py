"""Which configurations of `results/configs/` made results that lie in a folder."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path

from common.config import reading
from common.errors import UserError
from common.files import read_json
from common.runs import plan

READ = 200
"""How many configurations are read at most, the newest."""


def made_by(results: Path, folders: Collection[Path]) -> dict[Path, int]:
    """The configurations that made results, and how many of them each made that no one before it did.

    What was made by code of which a method or a recipe has changed since is of none.

    Args:
        results: The folder of all results.
        folders: Those of the results, as `Run.folder` names them.

    Returns:
        By their files the fewest configurations that are easily found, the one with most results first.
    """
    left = {*folders}
    made = {path: planned & left for path, planned in _planned(results)}
    counts: dict[Path, int] = {}
    while left and (path := max(made, key=lambda path: len(made[path] & left), default=None)):
        own = made.pop(path) & left
        if not own:
            break
        counts[path] = len(own)
        left -= own
    return counts


def _planned(results: Path) -> Iterator[tuple[Path, set[Path]]]:
    """The folders of the runs of every configuration that can be read, the newest first."""
    dated = []
    for path in (results / "configs").glob("*.json"):
        with contextlib.suppress(OSError):
            dated.append((path.stat().st_mtime_ns, path))
    for _, path in sorted(dated, reverse=True)[:READ]:
        with contextlib.suppress(UserError):  # it is damaged, or of other code
            config = reading.complete(_mapping(path)) | {"results": str(results)}
            yield path, {run.folder for run in plan.runs(config)}


def _mapping(path: Path) -> dict[str, object]:
    """The content of a configuration.

    Raises:
        UserError: It cannot be read, or is none.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} is no configuration")
    return content
