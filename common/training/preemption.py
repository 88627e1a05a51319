"""SIGTERM, with which clusters warn a job before they kill it."""

from __future__ import annotations

import signal
import threading


class Preemption:
    """Notices SIGTERM, with which clusters warn a job before they kill it.

    Attributes:
        requested: Whether it has come.
    """

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> Preemption:
        if threading.current_thread() is threading.main_thread():  # others cannot have handlers
            self.before = signal.signal(signal.SIGTERM, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.before)

    def _request(self, *_: object) -> None:
        """Handles the signal."""
        self.requested = True
