"""The log of a training, `training.jsonl`: a line per some iterations, and one per validation."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from common.files import Amount, Count, read_bytes

VALIDATION = "validation"
"""The key by which a line of a validation is told from the others."""


@dataclass(frozen=True)
class LogLine:
    """One line of `training.jsonl` about the iterations since the one before.

    Attributes:
        iteration: How many iterations are done.
        loss: The mean loss since the line before.
        learning_rate: The encoder's.
        images_per_second: Since the line before.
        waiting_for_data: The share of that time in which no batch was there.
        seconds: Since the start of training, interruptions left out.
        diagnostics: What the method says about its latest step.
    """

    iteration: Count
    loss: float
    learning_rate: Amount
    images_per_second: Amount
    waiting_for_data: Amount
    seconds: Amount
    diagnostics: dict[str, float] = field(default_factory=dict)

    def flat(self) -> dict[str, float]:
        """The line as it stands in the file: diagnostics beside the others."""
        content = asdict(self)
        return content | content.pop("diagnostics")

    def scalars(self) -> dict[str, float]:
        """What is drawn as curves, by its name."""
        return {name: value for name, value in self.flat().items() if name != "iteration"}

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> LogLine:
        """A line from what stands in the file.

        Raises:
            ValueError: It is none.
        """
        own = {key: value for key, value in content.items() if key in cls.__dataclass_fields__}
        if not all(map(math.isfinite, own.values())):
            raise ValueError("a number is not finite")
        others = {key: value for key, value in content.items() if key not in own}
        return msgspec.convert(own | {"diagnostics": others}, cls)


@dataclass(frozen=True)
class ValidationLine:
    """One line of `training.jsonl` about how well the model does between two iterations.

    Attributes:
        iteration: How many iterations are done.
        split: What is scored.
        images: How many of its images.
        miou: Over all of these, in 0..1.
        pixel_accuracy: In 0..1.
        iou: By the names of the classes; None for one that occurs neither in truth nor in prediction.
        seconds: How long scoring took; no time of training has it.
    """

    iteration: Count
    split: str
    images: Count
    miou: Amount
    pixel_accuracy: Amount
    iou: dict[str, Amount | None]
    seconds: Amount

    def flat(self) -> dict[str, Any]:
        """The line as it stands in the file: all but the iteration under a key of its own."""
        content = asdict(self)
        return {"iteration": content.pop("iteration"), VALIDATION: content}

    def scalars(self) -> dict[str, float]:
        """What is drawn as curves, by its name."""
        whole = {"miou": self.miou, "pixel_accuracy": self.pixel_accuracy}
        classes = {f"iou/{name}": value for name, value in self.iou.items() if value is not None}
        return {f"{VALIDATION}/{name}": value for name, value in (whole | classes).items()}


AnyLine = LogLine | ValidationLine


def log_line(content: Mapping[str, Any]) -> AnyLine:
    """A line from what stands in the file.

    Raises:
        ValueError: It is none.
    """
    scores = content.get(VALIDATION)
    if isinstance(scores, Mapping):
        return msgspec.convert({"iteration": content.get("iteration"), **scores}, ValidationLine)
    return LogLine.of(content)


def read_log(path: Path) -> list[LogLine]:
    """The lines of a training log about iterations; the last one may be half written, and then is left out.

    Lines that are none are left out, too: the log is for people and charts, and nothing is computed from it.

    Raises:
        UserError: The file is missing or cannot be read.
    """
    return [line for line in _lines(path) if isinstance(line, LogLine)]


def read_validations(path: Path) -> list[ValidationLine]:
    """The lines of a training log about validations; see `read_log`.

    Raises:
        UserError: The file is missing or cannot be read.
    """
    return [line for line in _lines(path) if isinstance(line, ValidationLine)]


def _lines(path: Path) -> Iterator[AnyLine]:
    """All lines of a training log that are some."""
    for text in read_bytes(path, "delete it; training writes it anew").splitlines():
        with contextlib.suppress(ValueError, TypeError, AttributeError, RecursionError):
            yield log_line(json.loads(text))
