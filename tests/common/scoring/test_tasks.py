"""Tasks that threads work on."""

from __future__ import annotations

import threading
import time
from functools import partial

import pytest

from common.scoring.tasks import WAITING, Tasks


def slept(place: int) -> int:
    time.sleep(0.002 * (5 - place % 5))
    return place


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_results_are_in_the_order_of_the_tasks(threads: int) -> None:
    with Tasks[int](threads) as tasks:
        for place in range(20):
            tasks.add(partial(slept, place))
        assert tasks.results() == list(range(20))


@pytest.mark.parametrize("threads", [0, 3])
def test_the_first_error_is_raised_and_the_rest_is_dropped(threads: int) -> None:
    def fails(place: int) -> int:
        if place in (3, 4):
            raise ValueError(f"task {place}")
        return slept(place)

    with pytest.raises(ValueError, match="task 3"), Tasks[int](threads) as tasks:
        for place in range(50):
            tasks.add(partial(fails, place))
        tasks.results()


def test_few_tasks_wait() -> None:
    """Whoever adds more waits, as all that waits is in memory."""
    gate, added = threading.Event(), []

    def add_all(tasks: Tasks[bool]) -> None:
        for place in range(10):
            tasks.add(lambda: gate.wait(10))
            added.append(place)

    with Tasks[bool](2) as tasks:
        adding = threading.Thread(target=add_all, args=(tasks,))
        adding.start()
        adding.join(0.2)
        assert len(added) == 2 * WAITING and adding.is_alive()
        gate.set()
        adding.join()
        assert len(tasks.results()) == 10
