"""The log of a training, as lines of JSON and for TensorBoard."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from common.config.settings import plain
from common.runs.jobs import Training
from common.runs.records import VALIDATION, AnyLine
from common.training.checkpoints import Position

if TYPE_CHECKING:
    from common.training.validation import Validated


class Log:
    """`training.jsonl` and the TensorBoard files; what a killed process wrote too much is dropped."""

    def __init__(self, training: Training, start: Position, about: str = "") -> None:
        """
        Args:
            training: Whose log it is.
            start: Where the training goes on from, with the lines up to there.
            about: What TensorBoard shows as a text beside the curves, such as whether a loss can be negative.
        """
        self._training = training
        self._session_end: Any = None
        training.log.parent.mkdir(parents=True, exist_ok=True)
        self.file = training.log.open("w", encoding="utf-8")
        for line in start.log:
            self._append(line)
        self.board = SummaryWriter(str(training.folder / "tensorboard"), purge_step=start.iteration + 1)
        if about:
            self.board.add_text("method", about)

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session_end and not kind:
            self._add(self._session_end)
        self.file.close()
        self.board.close()

    def write(self, line: AnyLine) -> None:
        """Adds one line."""
        self._append(line)
        names = self._training.data.dataset.class_names
        for key, value in line.scalars().items():
            self.board.add_scalar(curve_name(key, names), value, line.iteration)

    def touch(self) -> None:
        """Shows by the time of the file that the training goes on."""
        os.utime(self.file.fileno())

    def show(self, validated: Validated) -> None:
        """Adds what TensorBoard alone shows of a validation: pictures, and settings beside the scores."""
        for name, picture in validated.pictures.items():
            tag = f"{VALIDATION}/{name}"
            self.board.add_image(tag, picture, validated.line.iteration, dataformats="HWC")
        if self._session_end is None:
            scores = {tag: 0 for tag in validated.line.scalars() if "/iou/" not in tag}
            *begin, self._session_end = hparams(_settings(self._training), scores)  # the scores by their tags
            for summary in begin:
                self._add(summary)

    def _add(self, summary: Any) -> None:
        """Adds a summary that has no step."""
        writer: Any = self.board.file_writer
        writer.add_summary(summary)

    def _append(self, line: AnyLine) -> None:
        """Writes a line to the file."""
        self.file.write(json.dumps(line.flat()) + "\n")
        self.file.flush()


def curve_name(key: str, class_names: Sequence[str]) -> str:
    """What TensorBoard calls a number: `…_class_<k>`, of class k, by the name of the class, `…/<name>`."""
    match = re.fullmatch(r"(.+)_class_(\d+)", key)
    if match and int(match[2]) < len(class_names):
        return f"{match[1]}/{class_names[int(match[2])]}"
    return key


def _settings(training: Training) -> dict[str, bool | float | str]:
    """What a training is set to, as TensorBoard compares it; lists as texts, and what is unset left out."""
    names = {name: getattr(training, name) for name in ("dataset", "model", "method", "seed", "member")}
    options = {f"method.{name}": value for name, value in training.entry.options.items()}
    values = names | plain(training.settings) | options
    return {
        name: value if isinstance(value, bool | int | float | str) else json.dumps(value)
        for name, value in values.items()
        if value is not None
    }
