"""The log of a training, as lines of JSON and for TensorBoard."""

from __future__ import annotations

import json

from torch.utils.tensorboard import SummaryWriter

from common.runs.jobs import Training
from common.runs.records import LogLine
from common.training.checkpoints import Position


class Log:
    """`training.jsonl` and the TensorBoard files; what a killed process wrote too much is dropped."""

    def __init__(self, training: Training, start: Position, about: str = "") -> None:
        """
        Args:
            training: Whose log it is.
            start: Where the training goes on from, with the lines up to there.
            about: What TensorBoard shows as a text beside the curves, such as whether a loss can be negative.
        """
        training.log.parent.mkdir(parents=True, exist_ok=True)
        self.file = training.log.open("w", encoding="utf-8")
        for line in start.log:
            self._append(line)
        self.board = SummaryWriter(str(training.folder / "tensorboard"), purge_step=start.iteration + 1)
        if about:
            self.board.add_text("method", about)

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.board.close()

    def write(self, line: LogLine) -> None:
        """Adds one line."""
        self._append(line)
        for key, value in line.flat().items():
            if key != "iteration":
                self.board.add_scalar(key, value, line.iteration)

    def _append(self, line: LogLine) -> None:
        """Writes a line to the file."""
        self.file.write(json.dumps(line.flat()) + "\n")
        self.file.flush()
