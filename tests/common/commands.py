"""Commands as a user gives them, run in this process."""

from __future__ import annotations

from importlib import import_module

from common.__main__ import VERBS
from common.stages import entry


def status_of(verb: str, *arguments: str) -> int:
    """Runs `python -m common <verb>` with arguments; returns its exit status."""
    try:
        entry.enter(import_module(f"common.stages.{verb}"), verb, VERBS[verb], arguments)
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0
