"""Tasks that threads work on beside this one, and what they gave in the order of the tasks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

Result = TypeVar("Result")

WAITING = 2
"""Tasks that may wait for every thread: what they need is in memory."""


class Tasks(Generic[Result]):
    """Threads for tasks that hold Python's lock for little of their time, as compiled code does.

    The first error of a task, in their order, is raised where the next task is added or the results are asked
    for. To be used as a context; tasks that wait when it ends are dropped.
    """

    def __init__(self, threads: int) -> None:
        """
        Args:
            threads: How many; with 0 a task is done when it is added.
        """
        self._pool = ThreadPoolExecutor(threads) if threads else None
        self._most = WAITING * threads
        self._waiting: deque[Future[Result]] = deque()
        self._results: list[Result] = []

    def add(self, task: Callable[[], Result]) -> None:
        """Has a task done; waits first if too many wait already."""
        if self._pool is None:
            self._results.append(task())
            return
        while len(self._waiting) >= self._most:
            self._results.append(self._waiting.popleft().result())
        self._waiting.append(self._pool.submit(task))

    def results(self) -> list[Result]:
        """What all tasks gave, in their order."""
        while self._waiting:
            self._results.append(self._waiting.popleft().result())
        return self._results

    def __enter__(self) -> Tasks[Result]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)
