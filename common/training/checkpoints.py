"""The checkpoints that a training goes on from."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from common.files import replacing
from common.networks.structured import StructuredNetwork
from common.runs.records import LogLine


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
    log: list[LogLine] = field(default_factory=list)


@dataclass(frozen=True)
class Checkpoint:
    """The state of a training between two iterations.

    Attributes:
        position: How far it has come.
        network: The network's state.
        method: The method's state.
        optimizer: The optimiser's state.
    """

    position: Position
    network: dict[str, Any]
    method: dict[str, Any]
    optimizer: dict[str, Any]

    @classmethod
    def of(cls, position: Position, model: StructuredNetwork, optimizer: torch.optim.Optimizer) -> Checkpoint:
        """The state of these objects; it shares their memory."""
        return cls(position, model.network.state_dict(), model.method.state_dict(), optimizer.state_dict())

    def restore(self, model: StructuredNetwork, optimizer: torch.optim.Optimizer) -> None:
        """Gives these objects the state."""
        model.network.load_state_dict(self.network)
        model.method.load_state_dict(self.method)
        optimizer.load_state_dict(self.optimizer)


class Checkpoints:
    """The last two checkpoints of one training, each whole or absent."""

    def __init__(self, folder: Path, digest: str) -> None:
        """
        Args:
            folder: Where they lie.
            digest: Of the training; checkpoints of another one are left alone.
        """
        self.digest = digest
        self.current = folder / "checkpoint.pt"
        self.previous = folder / "previous.pt"

    def save(self, checkpoint: Checkpoint) -> None:
        """Writes a checkpoint and keeps the one before.

        Raises:
            DiskFull: There is no room for it.
        """
        content = {
            "iteration": checkpoint.position.iteration,
            "seconds": checkpoint.position.seconds,
            "log": [line.flat() for line in checkpoint.position.log],
            "network": checkpoint.network,
            "method": checkpoint.method,
            "optimizer": checkpoint.optimizer,
            "digest": self.digest,
        }
        if self.current.exists():
            os.replace(self.current, self.previous)
        with replacing(self.current, "wb") as file:
            torch.save(content, file)

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint of this very training that can be read, or None; a damaged one is removed."""
        for path in (self.current, self.previous):
            try:
                content = torch.load(path, map_location="cpu", weights_only=True)
                log = [LogLine.of(line) for line in content["log"]]
                position = Position(content["iteration"], content["seconds"], log)
                states = (content[key] for key in ("network", "method", "optimizer"))
                checkpoint, digest = Checkpoint(position, *states), content["digest"]
            except FileNotFoundError:
                continue
            except (OSError, MemoryError):  # not the file's fault
                raise
            except Exception as error:  # a damaged file fails in many ways
                print(f"structseg: {path} is damaged ({type(error).__name__}) and removed")
                path.unlink(missing_ok=True)  # the next save would put it in the place of a whole one
                continue
            if digest == self.digest:
                return checkpoint
        return None

    def resume(self, model: StructuredNetwork, optimizer: torch.optim.Optimizer) -> Position:
        """Gives these objects the state of the newest checkpoint, if there is one.

        Returns:
            How far the training had come then.
        """
        checkpoint = self.latest()
        if checkpoint is None:
            return Position()
        checkpoint.restore(model, optimizer)
        return checkpoint.position

    def clear(self) -> None:
        """Removes the checkpoints of a finished training."""
        for path in (self.current, self.previous):
            path.unlink(missing_ok=True)
