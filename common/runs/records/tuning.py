"""What a search has chosen, `chosen.json`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.files import Amount, Count, read_record, write_record
from common.provenance import Provenance
from common.runs.jobs import Tuning
from common.runs.records.training import TrainedModelFacts


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """`chosen.json` of a search: the options of the best candidate.

    Attributes:
        dataset: Name of the dataset.
        model: Name of the model.
        method: The entry whose options were tried.
        options: The best ones.
        miou: What they reach, in percent.
        miou_unrefined: Without refinement, in percent.
        split: What they were tried on.
        images: The names of its images.
        candidates: How many were tried.
        trained: Where the model comes from.
        provenance: How the record came to be.
    """

    dataset: str
    model: str
    method: str
    options: dict[str, Any]
    miou: Amount
    miou_unrefined: Amount
    split: str
    images: list[str]
    candidates: Count
    trained: TrainedModelFacts
    provenance: Provenance

    @classmethod
    def read(cls, tuning: Tuning) -> Chosen:
        """What a search has chosen.

        Raises:
            UnreadableRecord: It is missing or damaged.
        """
        return read_record(tuning.chosen, cls, "delete it and tune again")

    def write(self, path: Path) -> None:
        """Writes the record, whole or not at all."""
        write_record(path, self)
