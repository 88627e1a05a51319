"""Evaluation at several scales and mirrored: against an average written by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch.nn import functional

from common import config as configuration
from common import devices, evaluate, measure, prepare, runs, tabulate, train
from common.datasets.loading import Split
from common.errors import UserError
from common.files import read_json
from common.inference import Predictor, View, refine, views
from common.models import Network
from methods.base import Method
from tests.common.test_models import options

MODEL = "deeplabv3-test_resnet"


def predictor(*seen: View) -> Predictor:
    torch.manual_seed(0)
    given = options(MODEL)
    network = Network(MODEL, 3, given).eval()
    torch.nn.init.normal_(network.classifier.weight, std=10)  # so that a new network tells pixels apart
    method = Method(3, network.feature_channels)
    return Predictor(network, method, method, given, torch.device("cpu"), {}, seen or (View(),))


@torch.inference_mode()
def test_scales_and_flips_are_averaged() -> None:
    images = torch.randint(256, (2, 3, 40, 56), dtype=torch.uint8)
    settings = {"scales": [0.5, 1, 1.25], "flip": True}
    found = predictor(*views(settings))(images)
    plain, total = predictor(), torch.zeros(2, 3, 40, 56)
    for h, w in ((20, 28), (40, 56), (50, 70)):
        scaled = images.float()
        if h != 40:
            scaled = functional.interpolate(scaled, (h, w), mode="bilinear", antialias=True)
        for mirrored in (False, True):
            shown = scaled.flip(-1) if mirrored else scaled
            probabilities = plain(shown)
            if mirrored:
                probabilities = probabilities.flip(-1)
            total += functional.interpolate(probabilities, (40, 56), mode="bilinear") / 6
    torch.testing.assert_close(found, total)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(2, 40, 56))
    assert (found - plain(images)).abs().max() > 1e-3


@torch.inference_mode()
def test_a_mirrored_image_has_mirrored_probabilities_if_flips_are_averaged() -> None:
    images = torch.randint(256, (1, 3, 32, 48), dtype=torch.uint8)
    both = predictor(*views({"scales": [1], "flip": True}))
    torch.testing.assert_close(both(images.flip(-1)), both(images).flip(-1))
    assert views({"scales": [1], "flip": False}) == (View(),)


def test_the_method_refines_the_average_once() -> None:
    class Counting(Method):
        calls = 0

        def refine(self, images: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            assert images.dtype == torch.uint8
            return probabilities

    counting = Counting(3, 16)
    two = predictor(View(0.5), View())
    two.method = counting
    two(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    assert counting.calls == 1


def test_an_image_that_the_method_refuses_is_one_sentence() -> None:
    class Refusing(Method):
        def refine(self, images: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
            raise ValueError("images must be large")

    with pytest.raises(UserError, match="the method refuses its input: images must be large"):
        refine(Refusing(3, 4), torch.zeros(1), torch.zeros(1))


def test_how_a_run_was_seen_is_recorded_and_measured(tiny: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    def second(function: Callable[[], object], device: torch.device) -> float:
        function()
        return 1.0

    monkeypatch.setattr(devices, "seconds", second)  # whatever is timed takes a second
    tiny["evaluation"] = {"scales": [1, 0.75], "flip": True}
    config = configuration.complete(tiny)
    plain = configuration.complete(tiny | {"evaluation": {}})
    (run,), (other,) = runs.runs(config), runs.runs(plain)
    assert run.digest != other.digest and run.training == other.training
    prepare.prepare(config, run.dataset)
    train.train(config, run.training)
    for setup, each in ((config, run), (plain, other)):
        evaluate.evaluate(setup, each)
        measure.measure(setup, each)
    assert read_json(run.metrics)["evaluation"] == {"split": "test", "scales": [1, 0.75], "flip": True}
    assert read_json(run.cost)["network_ms"] > 1.5 * read_json(other.cost)["network_ms"], (
        "four views, not one"
    )
    text = tabulate.tabulate(config).read_text()
    assert "(scored on test, mean of scales 1, 0.75 and of flips)" in text
    table = pd.read_csv(Path(config["results"]) / "leaderboard.csv")
    assert table["scored_on"].tolist() == ["test, mean of scales 1, 0.75 and of flips"]
    assert "(scored on test)" in tabulate.tabulate(plain).read_text()


@pytest.mark.parametrize("scales", [[], [0], [1, 1], "all"])
def test_impossible_scales_are_refused(scales: object, tiny: dict) -> None:
    with pytest.raises(UserError, match="evaluation.scales"):
        configuration.complete(tiny | {"evaluation": {"scales": scales}})


def test_a_network_with_the_colours_of_the_data_set_keeps_them(tiny: dict) -> None:
    (model,) = tiny["models"]
    tiny["model_options"][model] |= {"mean": "dataset", "std": "dataset"}
    config = configuration.complete(tiny)
    (run,) = runs.runs(config)
    prepare.prepare(config, run.dataset)
    train.train(config, run.training)
    dataset = configuration.dataset(config, run.dataset)
    colours = Split(dataset, read_json(run.training.manifest.path), "train").colours()
    network = Predictor.of(config, run, torch.device("cpu")).network
    for found, key in ((network.mean, "mean"), (network.std, "std")):
        assert (found.flatten() / 255).tolist() == pytest.approx(colours[key])
    assert not 0.48 < colours["mean"][0] < 0.49, "not ImageNet's"
