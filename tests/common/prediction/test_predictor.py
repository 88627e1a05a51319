"""Evaluation at several scales and mirrored: against an average written by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch.nn import functional

from common.config import reading
from common.config.settings import EvaluationSettings, typed
from common.datasets.split import Split
from common.errors import UserError
from common.files import read_json
from common.machine import devices
from common.networks.network import Network, Output
from common.networks.options import ModelOptions
from common.networks.structured import StructuredNetwork
from common.prediction.predictor import Pipeline, Predictor, View, labels_of, views
from common.runs import plan
from common.runs.records import Cost, Metrics
from common.stages import evaluate, measure, prepare, tabulate, train
from common.timing.inference import inference_cost
from methods.base import Method
from methods.bce import BinaryCrossEntropy
from tests import alignment

MODEL = "deeplabv3-test_resnet"


def pipeline(*of_views: View) -> Pipeline:
    torch.manual_seed(0)
    selection = {"datasets": ["digits"], "models": [MODEL], "methods": ["ce"], "seeds": [0]}
    complete = reading.complete(selection | {"model_options": {MODEL: {"weights": "none"}}})
    network = Network(MODEL, 3, typed(ModelOptions, complete["model_options"][MODEL])).eval()
    torch.nn.init.normal_(network.classifier.weight, std=10)  # so that a new network tells pixels apart
    method = Method(3, network.feature_channels)
    return Pipeline(StructuredNetwork(network, method), method, torch.device("cpu"), of_views or (View(),))


def evaluation(*scales: float, flip: bool) -> EvaluationSettings:
    return EvaluationSettings("test", scales, flip)


@torch.inference_mode()
def test_scales_and_flips_are_averaged() -> None:
    images = torch.randint(256, (2, 3, 40, 56), dtype=torch.uint8)
    average = pipeline(*views(evaluation(0.5, 1, 1.25, flip=True)))(images).probabilities
    plain, total = pipeline(), torch.zeros(2, 3, 40, 56)
    for h, w in ((20, 28), (40, 56), (50, 70)):
        scaled = images.float()
        if h != 40:
            scaled = functional.interpolate(scaled, (h, w), mode="bilinear", antialias=True)
        for mirrored in (False, True):
            shown = scaled.flip(-1) if mirrored else scaled
            probabilities = plain(shown).probabilities
            if mirrored:
                probabilities = probabilities.flip(-1)
            total += functional.interpolate(probabilities, (40, 56), mode="bilinear") / 6
    torch.testing.assert_close(average, total)
    torch.testing.assert_close(average.sum(dim=1), torch.ones(2, 40, 56))
    assert (average - plain(images).probabilities).abs().max() > 1e-3


class Shades(torch.nn.Module):
    """Instead of a network: it tells bright pixels from dark ones, at full size."""

    align_corners = False
    alignment = "middles"

    def pad(self, images: torch.Tensor) -> torch.Tensor:
        h, w = images.shape[2:]
        return functional.pad(images.float(), (0, -w % 16, 0, -h % 16), value=alignment.MIDDLE)

    def forward(self, images: torch.Tensor) -> Output:
        score = (images[:, :1] - alignment.MIDDLE) / 40
        return Output(images, torch.cat([-score, score], dim=1), None)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("scales", [[1], [0.5], [0.83, 1.37], [0.5, 0.75, 1, 1.25, 1.5, 1.75]])
@torch.inference_mode()
def test_labels_lie_where_the_image_does_in_every_view(scales: list[float], flip: bool) -> None:
    method = Method(2, 3)
    model = StructuredNetwork(Shades(), method)
    seen = Pipeline(model, method, torch.device("cpu"), views(evaluation(*scales, flip=flip)))
    for draw in range(10):
        pair = alignment.stripes(30 + draw % 3, 80 + draw % 5, 8 + draw)
        for image, truth in (pair, alignment.transposed(*pair)):
            assert torch.equal(labels_of(seen(image.unsqueeze(0)))[0], truth)


@torch.inference_mode()
def test_a_mirrored_image_has_mirrored_probabilities_if_flips_are_averaged() -> None:
    images = torch.randint(256, (1, 3, 32, 48), dtype=torch.uint8)
    both = pipeline(*views(evaluation(1, flip=True)))
    mirrored, plain = both(images.flip(-1)).probabilities, both(images).probabilities
    torch.testing.assert_close(mirrored, plain.flip(-1))
    assert views(evaluation(1, flip=False)) == (View(),)


def test_the_method_refines_the_average_once() -> None:
    class Counting(Method):
        calls = 0

        def refine(self, images: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            assert images.dtype == torch.uint8
            return probabilities

    counting = Counting(3, 16)
    two = pipeline(View(0.5), View())
    two.method = counting
    two(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    assert counting.calls == 1


class Recording(Method):
    """Keeps what it is to refine."""

    def refine(self, images: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
        self.received = probabilities
        return probabilities


@pytest.mark.parametrize("kind", ["trained", "softmax"])
@torch.inference_mode()
def test_a_method_refines_the_probabilities_that_it_asks_for(kind: str) -> None:
    """Those of the model's loss or the softmax: of every view, then averaged; scored and timed alike."""
    two = pipeline(View(0.5), View())
    two.model.method = BinaryCrossEntropy(3, 4)
    two.method = Recording(3, 4)
    two.method.refines = kind
    images = torch.randint(256, (1, 3, 32, 48), dtype=torch.uint8)
    expected = torch.zeros(1, 3, 32, 48)
    for view in two.views:
        result = two.model.run_network(view.of(images))
        logits = two.model.upsampled(two.model.structured(result), result)
        shares = logits.softmax(dim=1) if kind == "softmax" else logits.sigmoid()
        expected += view.back(shares / shares.sum(dim=1, keepdim=True), (32, 48)) / 2
    torch.testing.assert_close(two(images).probabilities, expected)
    assert torch.equal(two(images).probabilities, two.method.received)
    inference_cost(two, [images], repeats=1)
    torch.testing.assert_close(two.method.received, expected)


def test_an_image_that_the_method_refuses_is_one_sentence() -> None:
    class Refusing(Method):
        def refine(self, images: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
            raise ValueError("images must be large")

    refusing = pipeline()
    refusing.method = Refusing(3, 4)
    with pytest.raises(UserError, match="refine refuses its input: images must be large$"):
        refusing(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))


def test_how_a_run_was_seen_is_recorded_and_measured(tiny: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    def second(function: Callable[[], object], device: torch.device) -> float:
        function()
        return 1.0

    monkeypatch.setattr(devices, "seconds", second)  # whatever is timed takes a second
    tiny["evaluation"] = {"scales": [1, 0.75], "flip": True}
    config = reading.complete(tiny)
    plain = reading.complete(tiny | {"evaluation": {}})
    execution = plan.execution(config)
    (run,), (other,) = plan.runs(config), plan.runs(plain)
    assert run.digest != other.digest and run.training.digest == other.training.digest
    prepare.prepare(run.data)
    train.train(run.training, execution)
    for each in (run, other):
        evaluate.evaluate(each, execution)
        measure.measure(each, execution)
    assert read_json(run.metrics)["evaluation"] == {"split": "test", "scales": [1, 0.75], "flip": True}
    assert Metrics.read(run).evaluation == run.evaluation
    assert Cost.read(run).network_ms > 1.5 * Cost.read(other).network_ms, "four views, not one"
    text = tabulate.tabulate(plan.benchmark(config)).read_text()
    assert "(scored on test, mean of scales 1, 0.75 and of flips)" in text
    table = pd.read_csv(Path(config["results"]) / "leaderboard.csv")
    assert table["scored_on"].tolist() == ["test, mean of scales 1, 0.75 and of flips"]
    assert "(scored on test)" in tabulate.tabulate(plan.benchmark(plain)).read_text()


@pytest.mark.parametrize("scales", [[], [0], [1, 1], "all"])
def test_impossible_scales_are_refused(scales: object, tiny: dict) -> None:
    with pytest.raises(UserError, match="evaluation.scales"):
        reading.complete(tiny | {"evaluation": {"scales": scales}})


def test_a_network_with_the_colours_of_the_data_set_keeps_them(tiny: dict) -> None:
    (model,) = tiny["models"]
    tiny["model_options"][model] |= {"mean": "dataset", "std": "dataset"}
    config = reading.complete(tiny)
    (run,) = plan.runs(config)
    prepare.prepare(run.data)
    train.train(run.training, plan.execution(config))
    colours = Split(run.data.dataset, run.data.manifest(), "train").colours()
    network = Predictor.of(run, torch.device("cpu")).model.network
    for buffer, key in ((network.mean, "mean"), (network.std, "std")):
        assert (buffer.flatten() / 255).tolist() == pytest.approx(colours[key])
    assert not 0.48 < colours["mean"][0] < 0.49, "not ImageNet's"
