"""SIGTERM, with which clusters warn a job before they kill it, and SIGINT, which is Ctrl-C."""

from __future__ import annotations

import signal
import threading

SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""What asks a training to save its state and end."""


class Preemption:
    """Notices that the training is asked to end.

    Attributes:
        requested: Whether it is.
    """

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> Preemption:
        if threading.current_thread() is threading.main_thread():  # others cannot have handlers
            self.before = {number: signal.signal(number, self._request) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        if threading.current_thread() is threading.main_thread():
            for number, handler in self.before.items():
                signal.signal(number, handler)

    def _request(self, *_: object) -> None:
        """Handles the signal."""
        self.requested = True
