"""One random stream per purpose, all derived from the seed of the run."""

from __future__ import annotations

import hashlib


def derive(seed: int, purpose: str, *position: int) -> int:
    """A seed for one purpose and position, the same on every machine and in every process.

    Streams are stateless: whatever happens at (purpose, position) draws from its own seed, so a run
    that resumes at iteration i, or loads its data with another number of workers, sees exactly the
    numbers of an uninterrupted one, and two methods with one seed see the same images.

    Args:
        seed: The seed of the run.
        purpose: What the numbers are for, such as `"order"` or `"augmentation"`.
        *position: Where in the stream, such as the iteration.

    Returns:
        An integer in [0, 2**63).
    """
    text = "/".join([str(seed), purpose, *map(str, position)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
