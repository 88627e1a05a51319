"""From a dataset's files to batches: augmentation and order."""

from __future__ import annotations

import copy
import math
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, default_collate
from torch.utils.data import Dataset as TorchDataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from common import phases
from common.config.settings import TrainingSettings
from common.datasets.split import Sample, Split
from common.errors import LoaderDied, UserError
from common.labels import VOID
from common.networks.hooks import Hooks
from common.networks.sights import prepares
from common.seeds import derive
from common.training.preemption import SIGNALS
from methods.base import Method

GRACE = 60
"""Seconds that processes that load images live on after one of the signals."""


class _ScaleAndRotation(v2.Transform):
    """Resizes and rotates image and labels together.

    The labels are looked up once for both, at the centres of the pixels of the result: so they are nowhere
    more than half a pixel beside the image.
    """

    def __init__(self, settings: TrainingSettings, fill: Sequence[float]) -> None:
        """
        Args:
            settings: The settings of training.
            fill: The colour in 0–255 of what lies outside the image.
        """
        super().__init__()
        self.scale, self.step, self.rotation = settings.scale, settings.scale_step, settings.rotation
        self.interpolation = v2.InterpolationMode(settings.interpolation)
        self.fill = list(fill)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        factor = self._factor()
        size = [max(1, round(side * factor)) for side in v2.functional.get_size(flat_inputs[0])]
        angle = self.rotation * (2 * float(torch.rand(())) - 1) if self.rotation else 0.0
        return {"size": size, "angle": angle, "later": torch.randint(2, (2,)).tolist()}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        size, angle = params["size"], params["angle"]
        if isinstance(inpt, tv_tensors.Mask):
            labels = moved_labels(inpt.as_subclass(Tensor), size, angle, params["later"])
            return tv_tensors.wrap(labels, like=inpt)
        image = v2.functional.resize(inpt, size, self.interpolation, antialias=True)
        return v2.functional.rotate(image, angle, v2.InterpolationMode.BILINEAR, fill=self.fill)

    def _factor(self) -> float:
        """A random factor of the sides, drawn evenly or in steps."""
        low, high = self.scale
        if self.step:
            return low + self.step * int(torch.randint(round((high - low) / self.step) + 1, ()))
        return low + (high - low) * float(torch.rand(()))


def moved_labels(labels: Tensor, size: Sequence[int], angle: float, later: Sequence[int]) -> Tensor:
    """Labels at another size, then rotated about their middle: what lies at the centre of every new pixel.

    A centre may fall exactly between two of the old pixels. Always taking the same one would move the labels,
    by a quarter of a pixel at half the size; so the caller says which, and draws it by lot. Positions are
    float64, in which such ties are exact.

    Args:
        labels: Integers `[H, W]`.
        size: The new H and W.
        angle: In degrees, counter-clockwise.
        later: For rows and for columns: 1 to take the later of two pixels, 0 to take the earlier.

    Returns:
        Integers of the new size, 255 where no old pixel was.
    """
    (h, w), (height, width) = labels.shape, size
    y = torch.arange(height, dtype=torch.float64).unsqueeze(1) + 0.5
    x = torch.arange(width, dtype=torch.float64) + 0.5
    if not angle:
        rows, columns = _pixel(y * h / height, later[0]), _pixel(x * w / width, later[1])
        return labels.index_select(0, rows.view(-1)).index_select(1, columns)
    sine, cosine = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    y, x = y - height / 2, x - width / 2
    y, x = cosine * y + sine * x + height / 2, cosine * x - sine * y + width / 2
    row, column = _pixel(y * h / height, later[0]), _pixel(x * w / width, later[1])
    inside = (row >= 0) & (row < h) & (column >= 0) & (column < w)
    place = row.clamp_(0, h - 1).mul_(w).add_(column.clamp_(0, w - 1))
    return labels.reshape(-1).index_select(0, place.view(-1)).view(height, width).where(inside, VOID)


def _pixel(position: Tensor, later: int) -> Tensor:
    """The pixel that a position in pixels lies in; between two, the later or the earlier one."""
    return (position.floor() if later else position.ceil() - 1).long()


class _PadEnd(v2.Transform):
    """Pads image and labels to the right and below, to a size at least."""

    def __init__(self, size: tuple[int, int], fill: dict[type, Any]) -> None:
        """
        Args:
            size: The least height and width.
            fill: What to pad with: the colour of an image, the label of a mask.
        """
        super().__init__()
        self.size, self.fill = size, fill

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        sides = zip(self.size, v2.functional.get_size(inpt))
        below, right = (max(0, least - side) for least, side in sides)
        return v2.functional.pad(inpt, [0, 0, right, below], fill=self.fill[type(inpt)])


def augmentation(settings: TrainingSettings, mean: Sequence[float]) -> v2.Transform:
    """The training augmentation, for image and labels together.

    Args:
        settings: The settings of training.
        mean: The mean colour in 0–255, which fills what lies outside the image if black does not.
    """
    colour = list(mean) if settings.padding == "mean" else [0.0, 0.0, 0.0]
    fill = {tv_tensors.Image: colour, tv_tensors.Mask: VOID}
    steps: list[v2.Transform] = []
    if settings.scale != (1, 1) or settings.rotation:
        steps.append(_ScaleAndRotation(settings, colour))
    if settings.crop and settings.padding_place == "end":
        steps.append(_PadEnd(settings.crop, fill))
    if settings.crop:
        steps.append(v2.RandomCrop(settings.crop, pad_if_needed=True, fill=fill))
    if settings.flip:
        steps.append(v2.RandomHorizontalFlip())
    if jitter := settings.jitter:
        place = 0 if settings.jitter_first else len(steps)
        steps.insert(place, v2.ColorJitter(jitter, jitter, jitter, min(jitter, 0.5)))
    return v2.Compose(steps) if steps else v2.Identity()


class PreparedSample(NamedTuple):
    """A sample with what a method has prepared of its labels, or a batch of them, `[N, …]`."""

    image: Tensor
    labels: Tensor
    prepared: Tensor


AnySample = Sample | PreparedSample


def preparing(method: Method) -> Hooks | None:
    """The hooks of a copy of a method that prepares labels on the CPU; None for one that prepares nothing."""
    if not prepares(type(method)):
        return None
    return Hooks(copy.deepcopy(method).cpu())


def with_prepared(batch: Sample, method: Method) -> AnySample:
    """A batch, with what a method prepares of its labels if it does that, on the device of the batch."""
    hooks = preparing(method)
    if hooks is None:
        return batch
    parts = [hooks.prepare(labels) for labels in batch.labels.cpu()]
    return PreparedSample(*batch, torch.stack(parts).to(batch.labels.device))


class Augmented(TorchDataset[AnySample | UserError]):
    """A split seen through the augmentation; an item's randomness depends on its position alone.

    An image that cannot be read, or whose labels the method cannot work with, is returned as its error:
    raised in another process, it would lose its sentence.
    """

    def __init__(
        self,
        split: Split | Sequence[Sample],
        transform: v2.Transform,
        seed: int,
        hooks: Hooks | None = None,
    ) -> None:
        """
        Args:
            split: The images.
            transform: The augmentation.
            seed: The seed of the run.
            hooks: Prepare something of the labels; None prepares nothing.
        """
        self.split, self.transform, self.seed, self.hooks = split, transform, seed, hooks

    def __getitem__(self, key: tuple[int, int]) -> AnySample | UserError:
        position, index = key
        try:
            image, labels = self.split[index]
            with torch.random.fork_rng(devices=[]):
                torch.random.default_generator.manual_seed(derive(self.seed, "augmentation", position))
                image, labels = self.transform(tv_tensors.Image(image), tv_tensors.Mask(labels))
                sample = Sample(image.as_subclass(Tensor), labels.as_subclass(Tensor))
                return PreparedSample(*sample, self.hooks.prepare(sample.labels)) if self.hooks else sample
        except UserError as error:
            return error


class Order(Sampler[list[tuple[int, int]]]):
    """Batches of keys (position in the training, index of the image): every epoch in another order."""

    def __init__(
        self, length: int, batch_size: int, first: int, last: int, seed: int, share: tuple[int, int] = (0, 1)
    ) -> None:
        """
        Args:
            length: Number of images.
            batch_size: Images per batch; a batch may reach over the end of an epoch.
            first: The first batch, counted from the start of training.
            last: One past the last batch.
            seed: The seed of the run.
            share: Which part of every batch to give, and of how many equal ones.
        """
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.first, self.last = first, last
        part, parts = share
        self.share = slice(part * batch_size // parts, (part + 1) * batch_size // parts)

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order = -1, torch.empty(0, dtype=torch.long)
        for batch in range(self.first, self.last):
            keys = []
            for position in range(batch * self.batch_size, (batch + 1) * self.batch_size):
                if position // self.length != epoch:
                    epoch = position // self.length
                    generator = torch.Generator().manual_seed(derive(self.seed, "order", epoch))
                    order = torch.randperm(self.length, generator=generator)
                keys.append((position, int(order[position % self.length])))
            yield keys[self.share]


def training_batches(
    split: Split,
    settings: TrainingSettings,
    mean: Sequence[float],
    seed: int,
    first: int,
    last: int,
    workers: int = 0,
    share: tuple[int, int] = (0, 1),
    hooks: Hooks | None = None,
) -> Batches:
    """Batches `first` to `last` − 1 of the training of one seed, images `[N, 3, H, W]` uint8.

    Args:
        split: The training images.
        settings: The settings of training.
        mean: The mean colour in 0–255.
        seed: The seed of the run.
        first: The first batch.
        last: One past the last batch.
        workers: Processes that load and augment; the batches do not depend on it.
        share: Which part of every batch to give, and of how many equal ones.
        hooks: What prepares something of the labels, as of `preparing`: batches are of `PreparedSample` then.

    Raises:
        UserError: The images cannot be put into one batch.
    """
    if len(split.sizes) > 1 and not settings.crop:
        raise UserError(
            f"training.crop (for {split.dataset.entry}): the images have different sizes: "
            "give [height, width]"
        )
    augmented = Augmented(split, augmentation(settings, mean), seed, hooks)
    order = Order(len(split), settings.batch_size, first, last, seed, share)
    return Batches(loader(augmented, order, workers))


def loader(augmented: Augmented, keys: Iterable[list[tuple[int, int]]], workers: int = 0) -> DataLoader[Any]:
    """Loads batches of keys (position in the training, index of the image).

    Args:
        augmented: The images.
        keys: Of every batch.
        workers: Processes that load and augment.
    """
    return DataLoader(
        augmented,
        batch_sampler=keys,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=False,
        collate_fn=partial(_collate, augmented.hooks),
        worker_init_fn=_outlive_termination,
    )


class Batches(Iterator[AnySample]):
    """The batches of a loader; an image that cannot be read raises its UserError when its batch is due.

    Attributes:
        waited: Seconds that batches were waited for.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        self._batches: Iterator[Any] = iter(loader)
        self.waited = 0.0

    def __next__(self) -> AnySample:
        start = time.monotonic()
        try:
            with phases.during(phases.LOADING):
                batch = next(self._batches)
        except (ConnectionError, EOFError) as error:  # it was about to hand over a batch
            raise LoaderDied from error
        self.waited += time.monotonic() - start
        if isinstance(batch, UserError):
            raise batch
        return batch

    def close(self) -> None:
        """Ends the processes that load; an error that is under way would keep them until it is told.

        PyTorch interrupts a process wherever it is when one of its loaders has died: from here on it does
        not.
        """
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._batches = iter(())


def _collate(hooks: Hooks | None, samples: list[AnySample | UserError]) -> AnySample | UserError:
    """A batch, or the first error of its images; hooks are those that have prepared something."""
    for sample in samples:
        if isinstance(sample, UserError):
            return sample
    try:
        if hooks:
            hooks.check_alike([sample.prepared for sample in samples if isinstance(sample, PreparedSample)])
        return default_collate(samples)
    except UserError as error:
        return error


def _outlive_termination(_: int) -> None:
    """Has a process that loads images live on for some time after SIGTERM or SIGINT.

    Sent to a whole job, or by Ctrl-C, the signal is for the process that trains, which needs its loaders for
    the step that it ends. A loader that its own process ends by it, because that has crashed, must not stay
    for ever.
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for number in SIGNALS:
        signal.signal(number, lambda *_: signal.alarm(GRACE))
