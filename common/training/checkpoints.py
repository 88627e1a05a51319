"""The checkpoints that a training goes on from."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import torch

from common import compiler
from common.errors import Damaged, UserError
from common.failures import renamed
from common.files import Amount, Count, replacing
from common.networks.structured import StructuredNetwork
from common.provenance import Provenance
from common.runs.records import AnyLine, log_line, read_tensors

REMEDY = "delete it; training goes on from the one before"


@dataclass(frozen=True)
class Origin:
    """What a training comes from.

    Attributes:
        content_sha256: Of the dataset.
        weights_sha256: Of the first weights; None if they were drawn.
        processes: How the processes came to be that worked on it, one after the other.
        start_sha256: Of the weights of the trained model that it started from; None if it started anew.
    """

    content_sha256: str = ""
    weights_sha256: str | None = None
    processes: list[Provenance] = field(default_factory=list)
    start_sha256: str | None = None

    def after(self, earlier: Origin, folder: Path) -> Origin:
        """The origin of a training that goes on from a checkpoint.

        Args:
            earlier: The origin that the checkpoint has.
            folder: Where the checkpoint lies, for the message.

        Raises:
            UserError: The data or the first weights are others than they were.
        """
        for what, before, now in (
            ("the images or labels", earlier.content_sha256, self.content_sha256),
            ("the first weights", earlier.weights_sha256, self.weights_sha256),
            ("the model that it starts from", earlier.start_sha256, self.start_sha256),
        ):
            if before != now:
                raise UserError(
                    f"{what} changed since the training in {folder.parent} began: bring back those of then, "
                    f"or delete {folder} to begin anew"
                )
        return replace(self, processes=[*earlier.processes, *self.processes])


@dataclass(frozen=True)
class Position:
    """How far a training has come.

    Attributes:
        iteration: How many iterations are done.
        seconds: How long they took, interruptions left out.
        log: The lines of the log about them.
    """

    iteration: int = 0
    seconds: float = 0.0
    log: list[AnyLine] = field(default_factory=list)


@dataclass(frozen=True)
class Checkpoint:
    """The state of a training between two iterations.

    Attributes:
        position: How far it has come.
        network: The network's state.
        method: The method's state.
        optimizer: The optimiser's state.
        origin: What the training comes from.
    """

    position: Position
    network: dict[str, Any]
    method: dict[str, Any]
    optimizer: dict[str, Any]
    origin: Origin = field(default_factory=Origin)

    @classmethod
    @compiler.put_off()
    def of(cls, position: Position, model: StructuredNetwork, optimizer: torch.optim.Optimizer) -> Checkpoint:
        """The state of these objects; it shares their memory."""
        return cls(position, model.network.state_dict(), model.method.state_dict(), optimizer.state_dict())

    @compiler.put_off()
    def restore(self, model: StructuredNetwork, optimizer: torch.optim.Optimizer) -> None:
        """Gives these objects the state.

        Raises:
            RuntimeError: They are others than those that it is of.
            ValueError: They are others than those that it is of.
        """
        model.network.load_state_dict(self.network)
        model.method.load_state_dict(self.method)
        optimizer.load_state_dict(self.optimizer)


@dataclass(frozen=True)
class _Content:
    """What the file of a checkpoint has, as `Checkpoints.save` writes it."""

    iteration: Count
    seconds: Amount
    log: list[dict[str, Any]]
    network: dict[str, Any]
    method: dict[str, Any]
    optimizer: dict[str, Any]
    digest: str
    origin: Origin

    def checkpoint(self) -> Checkpoint:
        """What it is of."""
        position = Position(self.iteration, self.seconds, [*map(log_line, self.log)])
        return Checkpoint(position, self.network, self.method, self.optimizer, self.origin)


class Checkpoints:
    """The last two checkpoints of one training, each whole or absent.

    Attributes:
        origin: What the training comes from, the processes before this one included once it is resumed.
    """

    def __init__(self, folder: Path, digest: str, origin: Origin | None = None) -> None:
        """
        Args:
            folder: Where they lie.
            digest: Of the training; checkpoints of another one are left alone.
            origin: What the training comes from, as far as this process knows.
        """
        self.digest, self.folder = digest, folder
        self.origin = origin or Origin()
        self.current = folder / "checkpoint.pt"
        self.previous = folder / "previous.pt"
        self._writer: ThreadPoolExecutor | None = None
        self._writing: Future[None] | None = None

    def save(self, checkpoint: Checkpoint) -> None:
        """Writes a checkpoint and keeps the one before.

        Raises:
            DiskFull: There is no room for it, or for one that was begun before.
        """
        self.wait()
        self._write(self._content(checkpoint))

    @contextlib.contextmanager
    def beside(self) -> Iterator[None]:
        """A block in which `begin` writes beside what else is computed; at its end, nothing is under way."""
        try:
            with ThreadPoolExecutor(1, "checkpoints") as self._writer:  # its end waits for the thread
                yield
        finally:
            self._writer = None

    def begin(self, checkpoint: Checkpoint) -> None:
        """Takes a copy of a checkpoint's state and has it written while training goes on.

        Raises:
            DiskFull: There was no room for the one that was begun before.
        """
        self.wait()
        if self._writer is None:
            raise ValueError("nothing is written beside anything: enter Checkpoints.beside first")
        self._writing = self._writer.submit(self._write, _copied(self._content(checkpoint)))

    def look(self) -> None:
        """Looks whether what was begun has come to a bad end; waits for nothing.

        Raises:
            DiskFull: There was no room for it.
        """
        if self._writing and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """Waits until what was begun is written.

        Raises:
            DiskFull: There was no room for it.
        """
        writing, self._writing = self._writing, None
        if writing:
            writing.result()

    def _content(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """What the file of a checkpoint has."""
        return {
            "iteration": checkpoint.position.iteration,
            "seconds": checkpoint.position.seconds,
            "log": [line.flat() for line in checkpoint.position.log],
            "network": checkpoint.network,
            "method": checkpoint.method,
            "optimizer": checkpoint.optimizer,
            "digest": self.digest,
            "origin": msgspec.to_builtins(self.origin),
        }

    def _write(self, content: dict[str, Any]) -> None:
        """Writes the file; until it is whole, the last one keeps its name. There is room for two."""
        if self.current.exists():
            self.previous.unlink(missing_ok=True)
        with replacing(self.current, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
            with contextlib.suppress(FileNotFoundError):
                os.replace(self.current, self.previous)

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint of this very training that can be read, or None; a damaged one is renamed.

        Raises:
            Unreachable: The system does not let one be read.
        """
        for path in (self.current, self.previous):
            try:
                content = msgspec.convert(read_tensors(path, REMEDY), _Content)
                checkpoint = content.checkpoint()
            except FileNotFoundError:
                continue
            except (Damaged, ValueError, TypeError, RecursionError) as error:
                damage = error if isinstance(error, Damaged) else Damaged(path, f"is none ({error})", REMEDY)
                print(f"structseg: damaged: {renamed(damage, 'training goes on without it')}")
                continue  # had it kept its name, the next save would put it in the place of a whole one
            if content.digest == self.digest:
                return checkpoint
        return None

    def resume(self, model: StructuredNetwork, optimizer: torch.optim.Optimizer) -> Position:
        """Gives these objects the state of the newest checkpoint, if there is one.

        Returns:
            How far the training had come then.

        Raises:
            UserError: It cannot be read now, or is of other code, data or first weights.
        """
        checkpoint = self.latest()
        if checkpoint is None:
            return Position()
        self.origin = self.origin.after(checkpoint.origin, self.folder)
        try:
            checkpoint.restore(model, optimizer)
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"the checkpoints in {self.current.parent} do not fit the code ({reason}): use the code that "
                "they were made with, or delete them to train from the start"
            ) from error
        return checkpoint.position

    def clear(self) -> None:
        """Removes the checkpoints of a finished training, damaged ones as well."""
        for path in (self.current, self.previous):
            for file in [path, *path.parent.glob(f"{path.name}.damaged*")]:
                if not file.is_dir():
                    file.unlink(missing_ok=True)


def _copied(content: Any) -> Any:
    """Content with copies of its tensors in main memory, which nobody changes."""
    if isinstance(content, torch.Tensor):
        return content.detach().to("cpu", copy=True)
    if isinstance(content, dict):
        return {key: _copied(value) for key, value in content.items()}
    return [*map(_copied, content)] if isinstance(content, list) else content
