"""The images that a model is trained on."""

from __future__ import annotations

from common.config.settings import TrainingSettings
from common.datasets.base import Dataset
from common.datasets.holding_out import held_out, others
from common.datasets.manifest import Manifest
from common.datasets.split import Split


def training_images(dataset: Dataset, manifest: Manifest, settings: TrainingSettings) -> Split:
    """The images of the split that is trained on, without those that are held out.

    Args:
        dataset: The dataset.
        manifest: What the prepare stage found there.
        settings: The settings of training.

    Raises:
        UserError: The data are missing, or have one sequence alone of which nothing can be held out.
    """
    split = Split(dataset, manifest, settings.split)
    if settings.hold_out is None:
        return split
    return split.some(others(split, held_out(split, settings.hold_out.share, settings.hold_out.seed)))


def validation_images(dataset: Dataset, manifest: Manifest, settings: TrainingSettings) -> Split:
    """The images of the split that is trained on that are held out.

    Args:
        dataset: The dataset.
        manifest: What the prepare stage found there.
        settings: The settings of training, which hold some out.

    Raises:
        UserError: As `training_images`.
        ValueError: The settings hold nothing out.
    """
    if settings.hold_out is None:
        raise ValueError("nothing is held out")
    split = Split(dataset, manifest, settings.split)
    return split.some(held_out(split, settings.hold_out.share, settings.hold_out.seed))
