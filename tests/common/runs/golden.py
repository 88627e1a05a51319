"""The golden values: what the shared code makes of fixed images, logits and weights.

They are in `golden.npz`, made by the recipes of today; `python -m tests.common.runs.golden` makes them anew.
CONTRIBUTING.md says what goes with that.

Images, label maps and weights are whole-number arithmetic, what is random are torch's streams on a CPU, and
training is in float64: so neither another version of torch nor another processor moves a value by more than
its tolerance.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from common.config import reading
from common.config.entries import Config
from common.datasets.digits import Digits
from common.datasets.split import Split
from common.files import replacing
from common.networks.network import Network, Output
from common.networks.structured import StructuredNetwork
from common.prediction.predictor import Predictor, views
from common.runs import plan
from common.runs.jobs import TrainedRun, Training
from common.runs.records import ControlMetrics, Metrics, read_log
from common.scoring.counts import SplitCounts
from common.stages import controls, evaluate, prepare, train
from common.training import loop
from common.training.batches import training_batches
from common.training.step import build
from tests.conftest import TINY
from tests.synthetic import facts_of

FILE = Path(__file__).with_suffix(".npz")
MODEL = "deeplabv3plus-test_resnet"
CPU = torch.device("cpu")

SIZE = (48, 56)
CROP = [24, 32]
CLASSES = 11
COLOURS = np.array([(37 * k % 256, 101 * k % 256, 171 * k % 256) for k in range(CLASSES)])
"""A colour in 0–255 per class."""

PATTERNS = {"train": (0, 1, 2, 3), "val": (10,), "test": (133, 184, 191)}
"""The patterns of every split; for those of `test`, no class of a pixel and no bin of its confidence is a
close call, which rounding could decide."""

Values = dict[str, NDArray]

PLAIN = {"scale": [1, 1], "scale_step": None, "rotation": 0, "crop": CROP, "flip": True, "jitter": 0}
AUGMENTATIONS = {
    "plain": {},
    "scale": {"scale": [0.5, 2]},
    "steps": {"scale": [0.5, 2], "scale_step": 0.25},
    "rotation": {"scale": [0.75, 1.25], "rotation": 10},
    "jitter": {"jitter": 0.2},
    "papers": {
        "scale": [0.5, 1.25],
        "interpolation": "bicubic",
        "padding": "black",
        "padding_place": "end",
        "jitter": 0.2,
        "jitter_first": True,
    },
}
"""Settings of training that images are augmented by, as far as they differ from `PLAIN`."""

SCORED: dict[str, tuple[str, dict[str, object]]] = {
    "one": ("ce", {}),
    "several": ("ce", {"scales": [0.5, 1, 1.5], "flip": True}),
    "sigmoids": ("bce", {"flip": True}),
}
"""The method and the settings of evaluation that logits are scored by."""

OPTIMISERS = {
    "sgd": {"optimizer": "sgd", "learning_rate": 0.05, "momentum": 0.9, "head_multiplier": 10},
    "adamw": {"optimizer": "adamw", "learning_rate": 0.01, "schedule": "cosine", "accumulate": 2},
}
"""Settings of training that steps are made by."""

TOLERANCES = {
    "images": (0.0, 1.0),
    "losses": (1e-6, 0.0),
    "rates": (1e-6, 0.0),
    "scores": (1e-5, 1e-7),
    "ties": (5e-3, 0.0),  # where shares of classes are equal, rounding chooses
}
"""Of the kinds of values, which their names end with: relative, and absolute. All others are exact."""


def pattern(index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A fixed image `[H, W, 3]` and its labels `[H, W]`, with all classes and void."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    labels = ((y + 5 * index) // 13 + 3 * ((x + 3 * index) // 12)) % CLASSES
    disc = (y - 20 - index) ** 2 + (x - 30 + 2 * index) ** 2 < 130
    labels[disc] = (index + 5) % CLASSES
    shade = np.stack([(5 * y + 3 * x) % 64, (x * y // 7) % 64, 63 * ((y // 5 + x // 7) % 2)], axis=2)
    image = (COLOURS[labels] * 3 + shade * 4) // 4
    labels[(y + 2 * x) % (31 + 6 * (index % 3)) == 0] = 255
    return image.astype(np.uint8), labels.astype(np.uint8)


def _read(_: Digits, split: str, name: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """What the dataset reads instead of digits: a pattern."""
    return pattern(PATTERNS[split][int(name.rpartition("-")[2])])


@contextlib.contextmanager
def prepared(**changes: object) -> Iterator[Config]:
    """A complete configuration of patterns instead of digits, which were looked at.

    Args:
        **changes: What differs from the small configuration of the tests, section by section.
    """
    counts = {f"{split}_images": len(numbers) for split, numbers in PATTERNS.items()}
    options = {MODEL: TINY["model_options"][MODEL] | {"dropout": 0.0, "auxiliary_weight": 0.4}}
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(Digits, "read", _read):
        content = {"results": folder, "dataset_options": {"digits": counts}, "model_options": options}
        config = reading.complete(TINY | content | changes)
        prepare.prepare(plan.preparation(config, "digits"))
        yield config


def crops(name: str) -> Values:
    """Augmented images and labels of two batches of two, by one of `AUGMENTATIONS`."""
    with prepared(training={"batch_size": 2} | PLAIN | AUGMENTATIONS[name]) as config:
        data, settings = plan.preparation(config, "digits"), plan.training_settings(config, "digits", MODEL)
        split = Split(data.dataset, data.manifest(), "train")
        batches = list(training_batches(split, settings, [10.0, 20.0, 30.0], 3, 0, 2))
    return {
        f"crops/{name}/images": torch.cat([batch.image for batch in batches]).numpy(),
        f"crops/{name}/labels": torch.cat([batch.labels for batch in batches]).numpy(),
    }


class FixedNetwork(Network):
    """A network whose unary is what colours say of classes, without a weight that is learnt."""

    def forward(self, images: Tensor) -> Output:
        """Scores of blocks of 8×8 pixels: the nearer their colour to that of a class, the higher."""
        blocks, colours = functional.avg_pool2d(images, 8).unsqueeze(1), torch.from_numpy(COLOURS).to(images)
        unary = 2 - (blocks - colours[:, :, None, None]).square().sum(dim=2) / 4096
        features = images.new_zeros(len(images), self.feature_channels, *unary.shape[2:])
        return Output(features, unary, None)


def fixed_predictor(run: TrainedRun, device: torch.device = CPU) -> Predictor:
    """The predictor of a run, with fixed logits instead of a trained network."""
    network = FixedNetwork(MODEL, CLASSES, run.training.model_options)
    method = run.training.entry.build(CLASSES, network.feature_channels)
    model = StructuredNetwork(network, method).eval()
    facts = facts_of(run.training, content_sha256=run.data.manifest().content_sha256)
    return Predictor(model, method, device, views(run.evaluation), facts=facts)


def scores(name: str) -> Values:
    """Counts and scores of fixed logits, by one of `SCORED`."""
    method, settings = SCORED[name]
    with prepared(methods=[method], evaluation=settings) as config:
        run = plan.run(config, "digits", MODEL, method, 0)
        assert isinstance(run, TrainedRun)
        with mock.patch.object(Predictor, "of", fixed_predictor):
            evaluate.evaluate(run, plan.execution(config))
        counts, metrics = SplitCounts.read(run.per_image), Metrics.read(run)
    assert counts.calibration is not None and counts.nll is not None
    keys = ("miou", "pixel_accuracy", "boundary_iou", "boundary_f", "ece", "nll")
    return {
        **_counts(f"scores/{name}", counts),
        f"scores/{name}/bins": counts.calibration[..., :2].astype(int),
        f"scores/{name}/confidence/scores": counts.calibration[..., 2],
        f"scores/{name}/nll/scores": counts.nll,
        f"scores/{name}/scores": np.array([getattr(metrics, key) for key in keys]),
    }


def control_scores() -> Values:
    """Counts and scores of the labellings that bracket a table."""
    with prepared() as config:
        majority, ceiling = plan.controls(config, "digits", MODEL)
        controls.score([majority, ceiling])
        best = ControlMetrics.read(ceiling)
        return {
            **_counts("controls/majority", SplitCounts.read(majority.per_image)),
            "controls/ceiling/ties": np.array([best.miou, best.boundary_iou]),
        }


def _counts(prefix: str, counts: SplitCounts) -> Values:
    """What is counted of labels alone."""
    return {f"{prefix}/{key}": getattr(counts, key) for key in ("confusion", "trimap", "boundary", "contour")}


def fixed_start(training: Training) -> StructuredNetwork:
    """What a training starts with, in float64 and with fixed weights."""
    model = build(training, pretrained=False).double()
    with torch.no_grad():
        for place, parameter in enumerate(model.parameters()):
            number = np.arange(parameter.numel())
            values = (31 * number**2 + 17 * number + 7 * place) % 1009 / 1009 - 0.5
            if parameter.ndim > 1:
                values *= math.sqrt(24 / parameter[0].numel())  # the variance of He et al. 2015
            else:
                values = values / 10 + ("weight" in _name(model, parameter))
            parameter.copy_(torch.from_numpy(values).view_as(parameter))
    return model


def _name(model: StructuredNetwork, parameter: Tensor) -> str:
    """The last name of a parameter, such as `weight`."""
    return next(name for name, value in model.named_parameters() if value is parameter).rpartition(".")[2]


def losses(name: str) -> Values:
    """Losses and learning rates of five steps from fixed weights, by one of `OPTIMISERS`."""
    steps = {"iterations": 5, "batch_size": 2, "warmup": 2, "weight_decay": 0.01, "gradient_clip": 5}
    with prepared(training=PLAIN | steps | OPTIMISERS[name]) as config:
        training = plan.training(config, "digits", MODEL, "ce", 0)
        with mock.patch.object(loop, "build", fixed_start):
            train.train(training, plan.execution(config))
        lines = read_log(training.log)
    return {
        f"steps/{name}/losses": np.array([line.loss for line in lines]),
        f"steps/{name}/rates": np.array([line.learning_rate for line in lines]),
    }


def values() -> Values:
    """All golden values."""
    parts = [
        *map(crops, AUGMENTATIONS), *map(scores, SCORED), control_scores(), *map(losses, OPTIMISERS),
    ]  # fmt: skip
    return {key: value for part in parts for key, value in part.items()}


def stored() -> Values:
    """All golden values as they are in the file."""
    with np.load(FILE) as arrays:
        return dict(arrays)


def moved(now: Values) -> list[str]:
    """Which values are not those in the file, with the largest difference of each."""
    golden, sentences = stored(), []
    for key, value in now.items():
        relative, absolute = TOLERANCES.get(key.rpartition("/")[2], (0.0, 0.0))
        then = golden[key].astype(float)
        if value.shape != then.shape:
            sentences.append(f"{key}: {value.shape} instead of {then.shape}")
        elif not np.allclose(value.astype(float), then, relative, absolute):
            sentences.append(f"{key}: by up to {np.abs(value.astype(float) - then).max():.3g}")
    return sentences


if __name__ == "__main__":
    torch.set_num_threads(1)
    with replacing(FILE, "wb") as file:
        np.savez_compressed(file, **values())
    print(FILE)
