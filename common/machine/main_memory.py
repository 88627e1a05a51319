"""The machine's main memory: a process that asks for more than there is of it is refused."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
"""Where Linux says what it grants to containers and to jobs of a scheduler."""


def total() -> int:
    """Bytes of memory that processes can have here at most, swap included."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([memory, *_granted()]) + _swap()


def limit() -> None:
    """Has this process be refused what the machine does not have (Linux; others ignore it).

    Linux promises more memory than there is and kills a process, maybe another one, when too much of it is
    used. What it refuses is an error, of which a stage says what was too large.
    """
    if sys.platform == "linux":
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limits = [value for value in (soft, hard) if value != resource.RLIM_INFINITY]
        resource.setrlimit(resource.RLIMIT_DATA, (min([total(), *limits]), hard))


def _granted() -> Iterator[int]:
    """The limits of the control groups of this process, in bytes."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, kinds, name = line.split(":", 2)
            if kinds and "memory" not in kinds.split(","):
                continue
            root, file = (GROUPS / "memory", "memory.limit_in_bytes") if kinds else (GROUPS, "memory.max")
            group = root / name.lstrip("/")
            for folder in (group, *group.parents):
                with contextlib.suppress(OSError, ValueError):  # not there, or without a limit
                    yield int((folder / file).read_text())


def _swap() -> int:
    """Bytes of memory that the system may put on a disk."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("SwapTotal:"):
                return 1024 * int(line.split()[1])
    return 0
