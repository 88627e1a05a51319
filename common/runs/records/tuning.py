"""What a search has tried and chosen: `trials/<round>-<place>.json` and `search.json`."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from common.config.tuning import Candidate
from common.errors import UserError
from common.files import Amount, Count, read_record, write_record
from common.provenance import Provenance
from common.runs.records.training import TrainedModelFacts

REMEDY = "delete it and tune again"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """`trials/<round>-<place>.json`: what came of one candidate in one round of trainings.

    Attributes:
        candidate: Its index.
        iterations: How long it was trained.
        miou: In percent; None if it has no end.
        pixel_accuracy: In percent; None if it has no end.
        failure: Why it has none: in words, that it has diverged.
        trained: Where the model comes from.
        provenance: How the record came to be.
    """

    candidate: Count
    iterations: Count
    miou: Amount | None = None
    pixel_accuracy: Amount | None = None
    failure: str | None = None
    trained: TrainedModelFacts | None = None
    provenance: Provenance

    @classmethod
    def read(cls, path: Path) -> Trial:
        """Reads the record.

        Raises:
            UnreadableRecord: It is missing or damaged.
        """
        return read_record(path, cls, REMEDY)

    def write(self, path: Path) -> None:
        """Writes the record, whole or not at all."""
        write_record(path, self)


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """`search.json`: what a search has chosen for an entry, on one dataset and with one model.

    Attributes:
        dataset: Name of the dataset.
        model: Name of the model.
        method: The entry whose settings were tried.
        digest: Of everything that the search depends on.
        options: The options that are better than those of the configuration; empty if none are.
        training: The settings of training that are better; empty if none are.
        values: All values that were chosen, by their names in the grid.
        miou: What they reach, in percent.
        miou_before: What the entry reaches as it stands in the configuration; None if its training diverged.
        miou_unrefined: What it reaches without refinement; None if candidates were trained.
        split: What they were tried on, in words.
        images: The names of its images.
        candidates: How many were tried.
        possible: How many the grid has.
        budget: What a search of so many candidates may take, in whole trainings.
        spent: What this one took.
        trained: Where the model comes from, if all candidates refined the output of one.
        provenance: How the record came to be.
    """

    dataset: str
    model: str
    method: str
    digest: str
    options: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    values: dict[str, Any]
    miou: Amount
    miou_before: Amount | None
    miou_unrefined: Amount | None = None
    split: str
    images: list[str]
    candidates: Count
    possible: Count
    budget: Amount
    spent: Amount
    trained: TrainedModelFacts | None = None
    provenance: Provenance

    @classmethod
    def read(cls, path: Path) -> Chosen:
        """What a search has chosen.

        Raises:
            UnreadableRecord: It is missing or damaged.
        """
        return read_record(path, cls, REMEDY)

    @classmethod
    def read_all(cls, results: Path) -> list[tuple[Path, Chosen]]:
        """What all searches have chosen, with their folders; what cannot be read is left out.

        Args:
            results: The folder of all results.
        """
        records = []
        for path in sorted((results / "tuning").glob("*/*/*/search.json")):
            with contextlib.suppress(UserError):
                records.append((path.parent, cls.read(path)))
        return records

    def write(self, path: Path) -> None:
        """Writes the record, whole or not at all."""
        write_record(path, self)

    @property
    def helped(self) -> bool:
        """Whether anything was better than the entry as it was, and than none of its refinement."""
        return bool(self.options or self.training) and self.miou > (self.miou_unrefined or 0)

    def configuration(self, folder: Path) -> str:
        """What is to be laid over the configuration, as YAML.

        Args:
            folder: Of the search; noted from `tuning/` on, as folders of results move.
        """
        place = Path(*folder.parts[-4:]).as_posix()
        facts = {"search": place, "candidates": self.candidates, "budget": self.budget}
        tuned = facts | {"settings": sorted(self.values)}
        candidate = Candidate(self.options, self.training)
        before = "diverged" if self.miou_before is None else f"{self.miou_before:.2f} %"
        return (
            f"# {self.method} on {self.dataset} with {self.model}: the best of {self.candidates} candidates "
            f"on {self.split}\n# ({len(self.images)} images): {self.miou:.2f} % mIoU, before {before}\n"
        ) + yaml.safe_dump(candidate.over(self.method, self.dataset, tuned=tuned), sort_keys=False)
