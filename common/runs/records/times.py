"""Where the time of jobs went, `times/<stage>-<digest>.json`."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from common.files import Amount, read_record, write_record
from common.phases import Clock


@dataclass(frozen=True, kw_only=True)
class JobTimes:
    """Where the time of one job went; of its last start, if it was started several times.

    Attributes:
        stage: Its verb.
        digest: That of the folder that it writes to, or of the configuration.
        dataset: Name of the dataset; empty if it is about all of them.
        model: Name of the model, if it is about one.
        method: Name of the method entry, if it is about one.
        seed: The seed, if it has one.
        began: When its process began, in seconds since 1970.
        seconds: Of every one of `phases.PHASES`.
        devices: The GPUs that it had, or the CPU, and on which machine; empty if it computes little.
        share: How much of these devices it had: cores of a CPU, or a part of a GPU.
    """

    stage: str
    digest: str
    dataset: str
    model: str | None = None
    method: str | None = None
    seed: int | None = None
    began: Amount
    seconds: dict[str, Amount]
    devices: list[str]
    share: Amount

    @classmethod
    def of(cls, clock: Clock, stage: str, **names: str | int | None) -> JobTimes:
        """What a clock has counted.

        Args:
            clock: The clock.
            stage: The verb of the job.
            **names: What it is about, and its digest.
        """
        clock.change(clock.phase)
        seconds = {phase: round(value, 3) for phase, value in clock.seconds.items()}
        return cls(
            stage=stage,
            began=clock.began,
            seconds=seconds,
            devices=clock.devices,
            share=clock.share,
            **names,  # type: ignore[arg-type]
        )

    @classmethod
    def read(cls, path: Path) -> JobTimes:
        """Reads the record.

        Raises:
            UserError: It is missing, damaged or out of reach.
        """
        return read_record(path, cls, "delete it")

    @classmethod
    def read_all(cls, results: Path) -> list[JobTimes]:
        """Those of all jobs, by when they began; what cannot be read is left out.

        Args:
            results: The folder of all results.
        """
        records = []
        for path in (results / "times").glob("*.json"):
            with contextlib.suppress(UserError):
                records.append(cls.read(path))
        return sorted(records, key=lambda record: record.began)

    def write(self, results: Path) -> None:
        """Writes the record, in the folder of all results."""
        write_record(results / "times" / f"{self.stage}-{self.digest}.json", self)
