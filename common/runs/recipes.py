"""The recipes: the rules that all results share, which no digest of options or of a method's code sees.

Whoever changes what a result of the shared code is adds a line to the recipe of that kind, which raises its
number; CONTRIBUTING.md says when. The numbers of training and scoring are part of the digests, so results of
older recipes stay where they are and are not found any more. The number of measuring stands in the name of
the file, so that models and scores stay, and costs are measured again.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """The rules by which one kind of result is made.

    Results without a number, from before there were any, count as made by recipe 0.

    Attributes:
        name: What is done by it.
        changes: A line per number, from 1 on: what it changed.
    """

    name: str
    changes: tuple[str, ...]

    @property
    def number(self) -> int:
        """The number of today."""
        return len(self.changes)

    def since(self, number: int) -> str:
        """What has changed since the recipe of that number, in words; empty for that of today."""
        return "; ".join(self.changes[number:])


TRAINING = Recipe(
    "training",
    (
        "labels are looked up at the centres of their pixels, and the auxiliary classifier has the method's "
        "own loss; they lay up to half a pixel beside the image, and it had cross-entropy",
    ),
)
"""What makes a model: initialisation, order, augmentation, upsampling, the loop, the optimiser's groups."""

SCORING = Recipe(
    "scoring",
    (
        "calibration is that of the probabilities that the loss trains, and the ceiling lies where the truth "
        "does; it was always that of a softmax over the logits, and lay half a pixel beside the truth where "
        "corners are aligned",
    ),
)
"""What makes scores of a model or a labelling: views, upsampling, metrics, counts per image, controls."""

MEASURING = Recipe(
    "measuring",
    (
        "nothing else of ours runs on the machine meanwhile, and all timings are kept; two Snakemakes could "
        "measure beside each other",
        "the kernels of DD-CRF, RMI, dense CRF, CRF-RNN and the pixelwise losses are new, and each timing "
        "takes 8 seconds at most; it took 20",
    ),
)
"""What makes a cost: kernels, the path from images to logits, the way of timing."""
