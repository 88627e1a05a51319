"""What training leaves: the trained model, `model.pt`."""

from __future__ import annotations

import errno
import hashlib
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from common.errors import Damaged, UnreadableRecord
from common.failures import no_memory
from common.files import Amount, Count, replacing, unreadable
from common.integrity import DAMAGE, check_records
from common.provenance import Provenance
from common.runs.jobs import Training
from common.runs.records.owner import check_data, check_owner

if TYPE_CHECKING:
    from torch import Tensor

REMEDY = "delete it and train again"


@dataclass(frozen=True)
class TrainedModelFacts:
    """Where a trained model comes from, as records of what was made with it tell.

    Attributes:
        digest: Of the training.
        content_sha256: Of the dataset that it was trained on.
        weights_sha256: Of the file of weights that it started from, or of the weights that came from the hub;
            None if the first weights were drawn.
        wall_seconds: How long the training took.
        peak_memory: In bytes.
        provenance: How it came to be.
        state_sha256: Of its weights, as `state_sha256` gives it.
        state_bytes: The size of its weights; its file is larger.
        recipe: The number of the recipe of training; 0 is what has none.
        earlier: How the processes came to be whose work the last one went on from, after interruptions.
        training: The settings of training; empty in records that do not tell.
        method_code: The digest of the code of the method that trained it.
        method_options: The options of that method.
        start: Where the trained model comes from that it started from; None if it started anew.
    """

    digest: str
    content_sha256: str
    weights_sha256: str | None
    wall_seconds: Amount
    peak_memory: Count
    provenance: Provenance
    state_sha256: str
    state_bytes: Count
    recipe: Count = 0
    earlier: list[Provenance] = field(default_factory=list)
    training: dict[str, Any] = field(default_factory=dict)
    method_code: str | None = None
    method_options: dict[str, Any] | None = None
    start: TrainedModelFacts | None = None


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
        member: Which member of an ensemble it is; 0 is the model of the seed itself.
        digest: That of the folder.
        recipe: The number of the recipe of training; 0 is what has none.
        training: The settings of training.
        content_sha256: Of the dataset.
        weights_sha256: Of the file of weights that training started from, or of the weights that came from
            the hub; None if the first weights were drawn.
        start: Where the trained model comes from that it started from; None if it started anew.
        processes: How many trained it together.
        provenance: How it came to be.
        earlier: How the processes came to be whose work the last one went on from, after interruptions.
        wall_seconds: How long the training took.
        peak_memory: In bytes.
        state_sha256: Of network and method_state, as the function of that name gives it.
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
    member: Count = 0
    digest: str
    recipe: Count = 0
    training: dict[str, Any]
    content_sha256: str
    weights_sha256: str | None
    start: TrainedModelFacts | None = None
    processes: Count
    provenance: Provenance
    earlier: list[Provenance] = field(default_factory=list)
    wall_seconds: Amount
    peak_memory: Count
    state_sha256: str
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
            self.state_sha256,
            sum(value.nbytes for _, value in _tensors(self.network, self.method_state)),
            self.recipe,
            self.earlier,
            self.training,
            self.method_code,
            self.method_options,
            self.start,
        )

    @classmethod
    def read(cls, path: Path, training: Training | None = None) -> TrainedModel:
        """A trained model, on the CPU.

        Args:
            path: The file.
            training: Whose model it must be, where that is known.

        Raises:
            UnreadableRecord: It is missing.
            Damaged: It is not as it was written, or of another training.
            Unreachable: The system does not let it be read.
        """
        try:
            content = read_tensors(path, REMEDY)
        except FileNotFoundError:
            raise UnreadableRecord(f"{path} is missing: run the train stage first") from None
        try:
            record = msgspec.convert(content, cls)
        except (msgspec.ValidationError, RecursionError) as error:
            raise Damaged(path, f"is no trained model ({error})", REMEDY) from None
        if not len(record.class_names) == len(record.colours) == record.num_classes:
            raise Damaged(path, f"has not {record.num_classes} names and colours of classes", REMEDY)
        if record.state_sha256 != state_sha256(record.network, record.method_state):
            raise Damaged(path, "has other weights than were trained (their SHA-256 differs)", REMEDY)
        _check_tensors(path, record.network | record.method_state)
        if training:
            keys = ("dataset", "model", "method", "seed", "member", "digest")
            check_owner(path, record, training, keys, REMEDY)
            check_data(path, [record.content_sha256], training.data)
            if tuple(record.class_names) != tuple(training.data.dataset.class_names):
                raise Damaged(path, "does not belong to its folder: its classes have other names", REMEDY)
        return record

    def write(self, path: Path) -> None:
        """Writes it, whole or not at all."""
        import torch

        content = {key: getattr(self, key) for key in self.__dataclass_fields__}
        content |= {"provenance": asdict(self.provenance), "earlier": [asdict(one) for one in self.earlier]}
        content["start"] = asdict(self.start) if self.start else None
        with replacing(path, "wb") as file:
            torch.save(content, file)


def read_tensors(path: Path, remedy: str) -> Any:
    """What a file of PyTorch has, its tensors on the CPU, once its checksums were found right.

    Args:
        path: The file.
        remedy: What to do about one that is damaged.

    Raises:
        FileNotFoundError: It is missing.
        Damaged: It is no such file, or not as it was written.
        Unreachable: The system does not let it be read.
    """
    import torch

    try:
        with path.open("rb") as file:
            check_records(file)
            return torch.load(file, map_location="cpu", weights_only=True)
    except (FileNotFoundError, MemoryError):
        raise
    except IsADirectoryError:
        raise Damaged(path, "cannot be read (it is a folder)", remedy) from None
    except OSError as error:
        if error.errno == errno.EINVAL:  # the archive's table of contents points to before its beginning
            raise Damaged(path, "cannot be read (it is no archive)", remedy) from None
        raise unreadable(path, error) from None
    except (*DAMAGE, TypeError, AttributeError, IndexError, pickle.UnpicklingError) as error:
        if no_memory(error):
            raise
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise Damaged(path, f"cannot be read ({reason})", remedy) from None


def state_sha256(*states: Mapping[str, Any]) -> str:
    """The SHA-256 of names, types, shapes and values of tensors, wherever they are and however they lie.

    So two trainings that end with the same weights have the same.

    Args:
        *states: Of a network and of a method.
    """
    import torch

    result = hashlib.sha256()
    for name, tensor in _tensors(*states):
        result.update(f"{name} {tensor.dtype} {[*tensor.shape]}\n".encode())
        values = tensor.detach().cpu().contiguous().reshape(-1)
        result.update(values.view(torch.uint8).numpy().data)
    return result.hexdigest()


def _tensors(*states: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """All tensors of several states, with names that are unique, in a fixed order."""
    import torch

    for place, state in enumerate(states):
        for name in sorted(state):
            if torch.is_tensor(state[name]):
                yield f"{place}.{name}", state[name]


def _check_tensors(path: Path, state: Mapping[str, Tensor | Any]) -> None:
    """Checks that the weights of a model are tensors of finite numbers."""
    import torch

    for name, value in state.items():
        if torch.is_tensor(value) and value.is_floating_point() and not value.isfinite().all():
            raise Damaged(path, f"has weights that are no finite numbers ({name})", REMEDY)
