"""SIGTERM, with which clusters warn a job before they kill it."""

from __future__ import annotations

import signal
import threading


class Preemption:
    """Notices SIGTERM, with which clusters warn a job before they kill it.

    Attributes:
        asked: Whether it has come.
    """

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> Preemption:
        if threading.current_thread() is threading.main_thread():  # others cannot have handlers
            self.before = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.before)

    def _ask(self, *_: object) -> None:
        """Handles the signal."""
        self.asked = True
