"""What else a machine did while something was timed, a part of the record of a cost."""

from __future__ import annotations

from dataclasses import dataclass

from common.files import Amount, Count

CROWDED = 0.1
"""A share of a machine's cores: a CPU is busy if others use more, a GPU's host if less than this is left."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What else a machine did during a measurement.

    Attributes:
        on_gpu: Whether a GPU was timed, and not the CPU.
        alone: Whether no other job of ours ran on the machine.
        waited_seconds: How long the measurement waited for others to end.
        load_average: The system's load average over the minute before; None if it is not known.
        cores: The number of the machine's cores.
        own_cores: How many of them the measurement used, on average.
        other_cores: How many other processes used, on average; None if it is not known.
        gpu_processes: Other processes that computed on the GPU; None on a CPU, or if it is not known.
    """

    on_gpu: bool
    alone: bool
    waited_seconds: Amount
    load_average: Amount | None
    cores: Count
    own_cores: Amount
    other_cores: Amount | None
    gpu_processes: Count | None

    @property
    def busy(self) -> str:
        """What kept the machine busy besides the measurement; empty if nothing slowed that down.

        Work on other cores slows a CPU down, by its caches, memory and clock. A GPU is slowed down by other
        processes on it, and by a host without a core to spare.
        """
        reasons = []
        if self.other_cores is not None:
            used = self.other_cores + (self.own_cores if self.on_gpu else 0)
            room = (1 - CROWDED if self.on_gpu else CROWDED) * self.cores
            if used > room:
                reasons.append(f"other processes used {self.other_cores:.1f} of {self.cores} cores")
        if self.gpu_processes:
            reasons.append(f"other processes on the GPU: {self.gpu_processes}")
        if not (self.alone or self.on_gpu or reasons):
            reasons.append("other jobs of this benchmark ran beside it")
        return ", ".join(reasons)
