"""Loss and speed of a training while it runs, for its log and a progress bar."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tqdm import tqdm

from common.errors import Diverged
from common.networks.structured import StructuredNetwork
from common.runs.jobs import Training
from common.runs.records import LogLine
from common.training.batches import Batches
from common.training.checkpoints import Position
from common.training.log import Log

if TYPE_CHECKING:
    from common.training.validation import Validation


class Monitor:
    """Watches a training: loss and speed since the last line of its log, and the bar of its progress.

    Attributes:
        lines: The lines of the log, those before this process included.
    """

    def __init__(
        self,
        training: Training,
        batches: Batches,
        start: Position,
        about: str = "",
        validation: Validation | None = None,
        silent: bool = False,
    ) -> None:
        """
        Args:
            training: What is watched.
            batches: Where its images come from.
            start: Where the training goes on from.
            about: As for `Log`.
            validation: Scores the model from time to time.
            silent: Whether another process writes the log and shows the bar.
        """
        self.training, self.batches = training, batches
        self.start, self.about, self.silent = start, about, silent
        self.validation = validation
        self.lines = list(start.log)
        self.started = time.monotonic() - start.seconds
        self.log: Log | None = None
        self._closing = ExitStack()
        self._losses: list[Tensor] = []
        self._start_window()

    def __enter__(self) -> Monitor:
        if not self.silent:
            self.log = self._closing.enter_context(Log(self.training, self.start, self.about))
        self.bar = self._closing.enter_context(
            tqdm(
                total=self.training.settings.iterations,
                initial=self.start.iteration,
                desc=self.training.method,
                unit="it",
                disable=True if self.silent else None,  # None hides it where there is no terminal
                dynamic_ncols=True,
            )
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    @property
    def seconds(self) -> float:
        """How long the training took up to now, interruptions left out."""
        return time.monotonic() - self.started

    def position(self, done: int) -> Position:
        """How far the training has come.

        Args:
            done: Iterations done.
        """
        return Position(done, self.seconds, self.lines)

    def step(self, loss: Tensor) -> None:
        """Takes note of an iteration and its loss, a scalar that may still be under computation."""
        self._losses.append(loss)
        self.bar.update()

    def validates(self, done: int) -> bool:
        """Whether the model is to be scored after so many iterations."""
        return self.validation is not None and self.validation.due(done)

    def validate(self, model: StructuredNetwork, done: int, cut: Callable[[], bool]) -> None:
        """Adds to the log how well the model does; its time is no time of training.

        What was begun before must be done: `write` waits for it.

        Args:
            model: Network and method in training.
            done: Iterations done.
            cut: Says whether scoring is to be cut short: nothing is added then.

        Raises:
            UserError: An image cannot be read, or the method cannot work with it; or nothing is labelled.
        """

        def is_cut() -> bool:
            """Whether it is to be cut short; `status` sees by the log that the training goes on."""
            if self.log:
                self.log.touch()
            return cut()

        start = time.monotonic()
        validated = self.validation.score(model, done, is_cut) if self.validation else None
        if validated and self.log:
            self.lines.append(validated.line)
            self.log.write(validated.line)
            self.log.show(validated)
        passed = time.monotonic() - start
        self.started += passed
        self._window_start += passed

    def write(self, done: int, rate: float, diagnostics: dict[str, float]) -> None:
        """Adds a line to the log, about the iterations since the one before.

        Args:
            done: Iterations done.
            rate: The encoder's learning rate.
            diagnostics: What the method says about its latest step.

        Raises:
            Diverged: A loss is not finite.
        """
        loss = _mean(self._losses, done, self.training.entry.module)
        settings, window = self.training.settings, time.monotonic() - self._window_start
        images = len(self._losses) * settings.batch_size * settings.accumulate
        line = LogLine(
            iteration=done,
            loss=loss,
            learning_rate=rate,
            images_per_second=images / window,
            waiting_for_data=(self.batches.waited - self._waited_before) / window,
            seconds=self.seconds,
            diagnostics=diagnostics,
        )
        if self.log:
            self.lines.append(line)
            self.log.write(line)
        self.bar.set_postfix(loss=f"{loss:.3f}")
        self._start_window()

    def _start_window(self) -> None:
        """Begins to count what the next line of the log is about."""
        self._losses.clear()
        self._window_start, self._waited_before = time.monotonic(), self.batches.waited


def _mean(losses: list[Tensor], done: int, module: str) -> float:
    """The mean of the last losses, up to that of iteration `done`, by a method of some module.

    Raises:
        Diverged: One is not finite.
    """
    values = torch.stack(losses).tolist()
    for offset, value in enumerate(values):
        if not math.isfinite(value):
            iteration = done - len(values) + offset + 1
            reason = ": lower training.learning_rate, use warmup or set gradient_clip"
            if iteration == 1:
                reason = f", before any weight has changed: methods/{module}.py cannot work with one image"
            raise Diverged(f"the loss is {value} at iteration {iteration}{reason}")
    return math.fsum(values) / len(values)
