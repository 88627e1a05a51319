"""What training leaves: the trained model, `model.pt`, and its log, `training.jsonl`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from common.errors import UnreadableRecord
from common.files import Amount, Count, replacing
from common.provenance import Provenance
from common.runs.jobs import Training
from common.runs.records.owner import check_owner

if TYPE_CHECKING:
    from torch import Tensor

REMEDY = "delete it and train again"


@dataclass(frozen=True)
class TrainedModelFacts:
    """Where a trained model comes from, as records of what was made with it tell.

    Attributes:
        digest: Of the training.
        content_sha256: Of the dataset that it was trained on.
        weights_sha256: Of the file of weights that it started from, if any.
        wall_seconds: How long the training took.
        peak_memory: In bytes.
        provenance: How it came to be.
    """

    digest: str
    content_sha256: str
    weights_sha256: str | None
    wall_seconds: Amount
    peak_memory: Count
    provenance: Provenance


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """`model.pt`: a trained model, and all that is needed to use it without a configuration.

    Attributes:
        dataset: Name of the dataset that it was trained on.
        model: Name of the model.
        model_options: Its options.
        method: Name of the method entry.
        method_module: The module of the method.
        method_code: The digest of its code.
        method_options: Its options.
        num_classes: K.
        class_names: One name per class.
        colours: One RGB colour per class.
        seed: The seed.
        digest: That of the folder.
        training: The settings of training.
        content_sha256: Of the dataset.
        weights_sha256: Of the file of weights that training started from, if any.
        processes: How many trained it together.
        provenance: How it came to be.
        wall_seconds: How long the training took.
        peak_memory: In bytes.
        network: The network's state.
        method_state: The method's state.
    """

    dataset: str
    model: str
    model_options: dict[str, Any]
    method: str
    method_module: str
    method_code: str
    method_options: dict[str, Any]
    num_classes: Count
    class_names: list[str]
    colours: list[tuple[int, int, int]]
    seed: int
    digest: str
    training: dict[str, Any]
    content_sha256: str
    weights_sha256: str | None
    processes: Count
    provenance: Provenance
    wall_seconds: Amount
    peak_memory: Count
    network: dict[str, Any]
    method_state: dict[str, Any]

    @property
    def facts(self) -> TrainedModelFacts:
        """Where it comes from, for the records of what is made with it."""
        return TrainedModelFacts(
            self.digest,
            self.content_sha256,
            self.weights_sha256,
            self.wall_seconds,
            self.peak_memory,
            self.provenance,
        )

    @classmethod
    def read(cls, path: Path, training: Training | None = None) -> TrainedModel:
        """A trained model, on the CPU.

        Args:
            path: The file.
            training: Whose model it must be, where that is known.

        Raises:
            UnreadableRecord: It is missing, damaged, or of another training.
        """
        import torch

        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            raise UnreadableRecord(f"{path} is missing: run the train stage first") from None
        except Exception as error:  # a damaged file fails in many ways
            raise UnreadableRecord(f"{path} cannot be read ({type(error).__name__}): {REMEDY}") from error
        try:
            record = msgspec.convert(content, cls)
        except msgspec.ValidationError as error:
            raise UnreadableRecord(f"{path} is no trained model ({error}): {REMEDY}") from None
        _check_tensors(path, record.network | record.method_state)
        if training:
            check_owner(path, record, training, ("dataset", "model", "method", "seed", "digest"), REMEDY)
        return record

    def write(self, path: Path) -> None:
        """Writes it, whole or not at all."""
        import torch

        content = {key: getattr(self, key) for key in self.__dataclass_fields__}
        with replacing(path, "wb") as file:
            torch.save(content | {"provenance": asdict(self.provenance)}, file)


def _check_tensors(path: Path, state: Mapping[str, Tensor | Any]) -> None:
    """Checks that the weights of a model are tensors of finite numbers."""
    import torch

    for name, value in state.items():
        if torch.is_tensor(value) and value.is_floating_point() and not value.isfinite().all():
            raise UnreadableRecord(f"{path} has weights that are no finite numbers ({name}): {REMEDY}")


@dataclass(frozen=True)
class LogLine:
    """One line of `training.jsonl`.

    Attributes:
        iteration: How many iterations are done.
        loss: The mean loss since the line before.
        learning_rate: The encoder's.
        images_per_second: Since the line before.
        waiting_for_data: The share of that time in which no batch was there.
        seconds: Since the start of training, interruptions left out.
        diagnostics: What the method says about its latest step.
    """

    iteration: int
    loss: float
    learning_rate: float
    images_per_second: float
    waiting_for_data: float
    seconds: float
    diagnostics: dict[str, float] = field(default_factory=dict)

    def flat(self) -> dict[str, float]:
        """The line as it stands in the file: diagnostics beside the others."""
        content = asdict(self)
        return content | content.pop("diagnostics")

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> LogLine:
        """A line from what stands in the file.

        Raises:
            ValueError: It is none.
        """
        own = {key: value for key, value in content.items() if key in cls.__dataclass_fields__}
        others = {key: value for key, value in content.items() if key not in own}
        return msgspec.convert(own | {"diagnostics": others}, cls)


def read_log(path: Path) -> list[LogLine]:
    """The lines of a training log; the last one may be half written, and then is left out.

    Raises:
        UnreadableRecord: The file is missing or cannot be read.
    """
    try:
        texts = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableRecord(
            f"{path} cannot be read ({error}): delete it; training writes it anew"
        ) from None
    lines = []
    for text in texts:
        with contextlib.suppress(ValueError, TypeError, AttributeError):
            lines.append(LogLine.of(json.loads(text)))
    return lines
