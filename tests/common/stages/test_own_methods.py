"""A method of a user that returns nonsense: train and evaluate say so in a sentence, and write no number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from common.config import reading
from common.failures import Failure
from common.runs import plan
from common.runs.records import Metrics
from common.stages import entry, evaluate, prepare, train
from tests.common.training.test_contract import INIT, own

SELECTION = {"dataset": "digits", "model": "deeplabv3plus-test_resnet", "method": "own", "seed": "0"}
STRUCTURE = "def structure(self, images, features, unary):\n        return"
LOSS = "def loss(self, logits, labels):\n        return"
TRAIN = {
    "half the grid": (f"{STRUCTURE} unary[..., ::2]", "structure returns a tensor of shape [2, 11, 12, 6]"),
    "64 channels": (
        f"{STRUCTURE} features.repeat(1, 8, 1, 1)",
        "structure returns a tensor of shape [2, 64, 12, 12]",
    ),
    "NaN": (f"{STRUCTURE} unary / (unary - unary)", "structure returns infinite values at its first call"),
    "NaN as a loss": (
        f"{LOSS} (logits - logits).log().mean() * 0",
        "loss returns NaN at its first call, although",
    ),
    "NaN as a gradient": (
        f"{LOSS} (logits - logits).square().sum().sqrt()",
        "the gradient of loss by the logits is not finite",
    ),
    "a loss per image": (f"{LOSS} logits.mean((1, 2, 3))", "loss returns a tensor of shape [2]"),
    "no loss": (f"{LOSS} None", "loss returns None, and must return a scalar"),
    "no gradient": (
        f"{LOSS} (logits.argmax(1) != labels).float().mean()",
        "without a gradient, and must return",
    ),
    "a name of none": (
        f"{LOSS} undefined",
        "own.py:11: loss(logits, labels) fails with NameError: name 'undefined'",
    ),
    "an __init__ that fails": (
        f"{INIT}        self.a = [][num_classes]",
        "own.py:12: __init__ fails with IndexError",
    ),
    "a gradient that is cut off later": (
        f"{INIT}        self.calls = 0\n    def loss(self, logits, labels):\n        self.calls += 1\n"
        "        return cross_entropy(logits if self.calls < 2 else logits.detach(), labels)",
        "own.py: the gradient of its loss fails with RuntimeError: element 0 of tensors does not",
    ),
    "features changed in place": (
        "def structure(self, images, features, unary):\n        features.zero_()\n        return unary",
        "fails with RuntimeError: one of the variables needed for gradient computation has been modified by",
    ),
    "an end": (
        "def loss(self, logits, labels): raise SystemExit(0)",
        "own.py:10: loss(logits, labels) fails with SystemExit: 0",
    ),
    "a number of the log": (
        "def diagnostics(self): return {'loss': 1.0}",
        "own.py: diagnostics has a number called loss, as the log of training has: give",
    ),
    "diagnostics of none": (
        "def diagnostics(self): return None",
        "diagnostics returns None, and must return a",
    ),
}
EVALUATE = {
    "log-scores": ("def refine(self, images, p): return p.log()", "refine returns values of at least -"),
    "scores": ("def probabilities(self, logits): return logits", "probabilities returns values of at least"),
    "NaN without training": (f"{STRUCTURE} unary if self.training else unary / 0", "structure returns"),
    "half the grid": (
        f"{STRUCTURE} unary if self.training else unary[..., ::2]",
        "structure returns a tensor of",
    ),
    "an error": (
        "def refine(self, images, p): return images.softmax(1)",
        "own.py:10: refine(images, probabilities)",
    ),
    "NaN as a number": (
        "def diagnostics(self): return {'a': float('nan')}",
        "diagnostics returns {'a': nan}, and",
    ),
    "NaN in the second image": (
        f"{INIT}        self.calls = 0\n"
        "    def refine(self, images, p):\n        self.calls += 1\n        return p / (self.calls < 2)",
        "the probabilities of test-00001 (test) are not finite: the model has diverged, or methods/own.py",
    ),
    "half of probabilities in the second image": (
        f"{INIT}        self.calls = 0\n"
        "    def refine(self, images, p):\n        self.calls += 1\n        return p / min(self.calls, 2)",
        "the probabilities of test-00001 (test) have sums over classes from 0.5 to 0.5, not of one: methods/",
    ),
}


def run(stage: object, file: Path) -> None:
    """A command of the stage, as a user gives it."""
    verb = stage.__name__.rpartition(".")[2]
    words = [word for name, value in SELECTION.items() for word in (f"--{name}", value)]
    entry.enter(stage, verb, "Runs", ["--configfile", str(file), *words, "--threads", "1"])


def configured(tiny: dict, folder: Path) -> Path:
    """The file of a configuration with the user's method, whose dataset is prepared."""
    file = folder / "configuration.yaml"
    tiny |= {"methods": ["own"]}
    file.write_text(yaml.safe_dump(reading.complete(tiny)))
    prepare.prepare(plan.preparation(reading.load([file]), "digits"))
    return file


def reason(error: Path, stage: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed, which is one line and what the record of the failure says."""
    sentence = capsys.readouterr().err.strip().splitlines()[-1].removeprefix("structseg: ")
    failure = Failure.read(error)
    assert (failure.error, failure.stage) == (sentence, stage) and failure.kind in ("input", "diverged")
    return sentence


@pytest.mark.parametrize(("text", "sentence"), TRAIN.values(), ids=TRAIN)
def test_training_says_what_is_wrong(
    text: str,
    sentence: str,
    tiny: dict,
    own_method: Callable[[str], str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    own_method(own(text))
    file = configured(tiny, tmp_path)
    (job,) = plan.runs(reading.load([file]))
    with pytest.raises(SystemExit) as ended:
        run(train, file)
    assert ended.value.code == 2
    assert sentence in reason(job.training.error, "train", capsys)
    assert not job.training.file.exists()


def test_diagnostics_are_means_over_the_images_that_have_them(
    tiny: dict, own_method: Callable[[str], str], tmp_path: Path
) -> None:
    own_method(
        own(
            f"{INIT}        self.calls = 0\n    def diagnostics(self):\n        self.calls += 1\n"
            "        return {} if self.training or self.calls % 2 else {'a': 3.0}"
        )
    )
    file = configured(tiny, tmp_path)
    (job,) = plan.runs(reading.load([file]))
    run(train, file)
    run(evaluate, file)
    assert Metrics.read(job).diagnostics == {"a": 3.0}


@pytest.mark.parametrize(("text", "sentence"), EVALUATE.values(), ids=EVALUATE)
def test_scoring_says_what_is_wrong(
    text: str,
    sentence: str,
    tiny: dict,
    own_method: Callable[[str], str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    own_method(own(text))
    file = configured(tiny, tmp_path)
    (job,) = plan.runs(reading.load([file]))
    run(train, file)
    with pytest.raises(SystemExit) as ended:
        run(evaluate, file)
    assert ended.value.code == 2
    assert sentence in reason(job.error, "evaluate", capsys)
    assert not job.metrics.exists()


def test_what_is_not_finite_before_a_weight_has_changed_is_no_matter_of_the_learning_rate(
    tiny: dict, own_method: Callable[[str], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first batch of an iteration is looked at; the second makes a loss that is NaN."""
    own_method(
        own(
            f"{INIT}        self.calls = 0\n    def loss(self, logits, labels):\n        self.calls += 1\n"
            "        return cross_entropy(logits, labels) * (1 if self.calls < 2 else float('nan'))"
        )
    )
    tiny["training"]["accumulate"] = 2
    file = configured(tiny, tmp_path)
    (job,) = plan.runs(reading.load([file]))
    with pytest.raises(SystemExit):
        run(train, file)
    sentence = (
        "the loss is nan at iteration 1, before any weight has changed: methods/own.py cannot work with one"
    )
    assert reason(job.training.error, "train", capsys).startswith(sentence)
