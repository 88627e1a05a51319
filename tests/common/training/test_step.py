"""One step of training: schedules, the optimiser's groups, what networks start with, accumulation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common.config import reading
from common.config.entries import Config
from common.config.settings import TrainingSettings
from common.datasets.manifest import Manifest, SplitManifest
from common.datasets.split import Sample
from common.errors import UnreadableRecord, UserError
from common.networks.network import Network
from common.provenance import Provenance
from common.runs import plan
from common.training import step
from common.training.step import Objective, build, make_optimizer, training_step

MODEL = "deeplabv3plus-test_resnet"
CPU = torch.device("cpu")


def settings(**changes: object) -> TrainingSettings:
    base = {"datasets": ["digits"], "models": [MODEL], "methods": ["ce"], "seeds": [0]}
    config = reading.complete(base | {"training": {"iterations": 100, "learning_rate": 1.0} | changes})
    return plan.training_settings(config, "digits", MODEL)


def rates(**changes: object) -> list[float]:
    return [step.learning_rate(settings(**changes), iteration) for iteration in range(100)]


def test_poly() -> None:
    schedule = rates()
    assert schedule[0] == 1
    assert schedule[50] == pytest.approx(0.5**0.9)
    assert schedule == sorted(schedule, reverse=True)


def test_cosine() -> None:
    schedule = rates(schedule="cosine")
    assert schedule[0] == 1 and schedule[50] == pytest.approx(0.5)


def test_step() -> None:
    schedule = rates(schedule="step", step_at=[0.5, 0.75])
    places = (schedule[49], schedule[50], schedule[74], schedule[75])
    assert places == pytest.approx((1, 0.1, 0.1, 0.01))


def test_warm_up_is_linear_and_the_schedule_takes_the_rest() -> None:
    schedule = rates(warmup=10, warmup_factor=0.1)
    assert schedule[:3] == pytest.approx([0.1, 0.19, 0.28])
    assert schedule[10] == 1
    assert schedule[55] == pytest.approx(0.5**0.9)


@pytest.mark.parametrize("everything", [False, True])
def test_groups_of_the_optimiser(everything: bool, tiny: Config) -> None:
    tiny["model_options"][MODEL]["auxiliary_weight"] = 0.4
    config = reading.complete(tiny | {"methods": ["ddcrf"]})
    model = build(plan.training(config, "digits", MODEL, "ddcrf", 0))
    optimizer = make_optimizer(model, settings(head_multiplier=10.0, weight_decay=0.1, decay_all=everything))
    groups = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    for module, multiplier in (
        (model.network.encoder, 1),
        (model.network.decoder, 10),
        (model.network.classifier, 10),
        (model.network.auxiliary, 10),
        (model.method, 10),
    ):
        for parameter in module.parameters():
            group = groups[id(parameter)]
            assert group["multiplier"] == multiplier
            assert group["weight_decay"] == (0.1 if everything or parameter.ndim > 1 else 0)
    assert len(groups) == sum(1 for _ in model.parameters())
    step.set_learning_rate(optimizer, settings(), 50)
    assert groups[id(model.method.left.weight)]["lr"] == pytest.approx(10 * 0.5**0.9)


def test_all_methods_of_a_seed_start_with_the_same_network(tiny: Config) -> None:
    config = reading.complete(tiny | {"methods": ["ce", "rmi", "ddcrf"], "seeds": [0, 1]})
    states = {
        (name, seed): build(plan.training(config, "digits", MODEL, name, seed)).network.state_dict()
        for name in config["methods"]
        for seed in config["seeds"]
    }
    first = states["ce", 0]
    for name in ("rmi", "ddcrf"):
        assert all(torch.equal(first[key], states[name, 0][key]) for key in first)
    weight = "classifier.weight"
    assert not torch.equal(first[weight], states["ce", 1][weight])


def test_the_number_of_classes_is_the_datasets_and_the_layout_channels_last(tiny: Config) -> None:
    model = build(plan.training(reading.complete(tiny), "digits", MODEL, "ce", 0))
    assert model.network.classifier.out_channels == model.method.num_classes == 11
    weights = [p for p in model.network.parameters() if p.ndim == 4]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


def test_a_training_that_is_not_pretrained_asks_for_no_weights(tiny: Config) -> None:
    tiny["model_options"][MODEL]["weights"] = "nowhere.pt"
    training = plan.training(reading.complete(tiny), "digits", MODEL, "ce", 0)
    with pytest.raises(UserError, match="'nowhere.pt' is not there"):
        build(training)
    assert build(training, pretrained=False)


def test_the_colours_of_a_dataset_are_those_of_its_manifest(tiny: Config, tmp_path: Path) -> None:
    tiny["model_options"][MODEL] |= {"mean": "dataset", "std": [0.1, 0.2, 0.3]}
    training = plan.training(reading.complete(tiny), "digits", MODEL, "ce", 0)
    with pytest.raises(UnreadableRecord, match="is missing: `structseg prepare --dataset digits`"):
        build(training)
    names = training.data.dataset.names("train")
    split = SplitManifest(
        names, ["1x1"], {"0": 1}, {"0": 1}, 0, (0.5, 0.25, 1.0), (0.1, 0.1, 0.1), None, names
    )
    provenance = Provenance("now", None, {}, "none")
    manifest = Manifest(
        "digits", {}, training.data.digest, ["0"], [(0, 0, 0)], 255, "", {"train": split}, provenance, 0.0
    )
    manifest.write(training.data.path)
    network = build(training).network
    assert network.mean.flatten().tolist() == pytest.approx([127.5, 63.75, 255])
    assert network.std.flatten().tolist() == pytest.approx([25.5, 51, 76.5])


def test_accumulated_batches_give_the_gradient_of_the_large_batch(tiny: Config) -> None:
    """With frozen normalisation and no void, two batches of two are one of four."""
    training = plan.training(reading.complete(tiny), "digits", MODEL, "ce", 0)
    images = torch.randint(256, (4, 3, 48, 48), dtype=torch.uint8)
    labels = torch.randint(11, (4, 48, 48))
    steps = []
    for accumulate in (1, 2):
        model = build(training).eval()
        changed = settings(accumulate=accumulate, optimizer="sgd", momentum=0.0, learning_rate=0.1)
        optimizer = make_optimizer(model, changed)
        step.set_learning_rate(optimizer, changed, 0)
        batches = map(Sample, images.chunk(accumulate), labels.chunk(accumulate))
        loss = training_step(Objective(model), optimizer, batches, changed, CPU, 0)
        steps.append((loss, model.state_dict()))
    torch.testing.assert_close(steps[0][0], steps[1][0])
    for key, value in steps[0][1].items():
        torch.testing.assert_close(value, steps[1][1][key], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("hook", ["structure", "loss", "auxiliary_loss"])
def test_a_hook_that_refuses_its_input_is_one_sentence(
    hook: str, tiny: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> torch.Tensor:
        raise ValueError("the grid is too small")

    tiny["model_options"][MODEL]["auxiliary_weight"] = 0.4
    training = plan.training(reading.complete(tiny), "digits", MODEL, "ce", 0)
    model = build(training).train()
    monkeypatch.setattr(type(model.method), hook, refuse)
    batches = iter([Sample(torch.zeros(2, 3, 48, 48, dtype=torch.uint8), torch.zeros(2, 48, 48))])
    optimizer = make_optimizer(model, training.settings)
    once = replace(training.settings, accumulate=1)
    with pytest.raises(
        UserError, match=f"^methods/ce.py: (auxiliary_)?{hook} refuses its input: the grid is too"
    ):
        training_step(Objective(model), optimizer, batches, once, CPU, 0)


def steps_with(backend: object, tiny: Config, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The losses of three steps with a network that a backend compiles; None does not compile it."""
    compile = nn.Module.compile
    monkeypatch.setattr(Network, "compile", lambda self, **how: compile(self, backend=backend, **how))
    training = plan.training(reading.complete(tiny), "digits", MODEL, "ce", 0)
    torch.manual_seed(0)
    batch = Sample(torch.randint(256, (2, 3, 48, 48), dtype=torch.uint8), torch.randint(11, (2, 48, 48)))
    model = build(training).train()
    objective, optimizer = Objective(model, backend is not None), make_optimizer(model, training.settings)
    once = replace(training.settings, accumulate=1)
    losses = [training_step(objective, optimizer, repeat(batch), once, CPU, 0) for _ in range(3)]
    assert {*model.network.state_dict()} == {*build(training).network.state_dict()}
    return losses


def test_a_compiled_network_is_compiled_once(tiny: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    compiled = steps_with(backend, tiny, monkeypatch)
    assert len(graphs) == 1, "in one piece, and not again for the next batch"
    torch.testing.assert_close(compiled, steps_with(None, tiny, monkeypatch))


def test_a_network_that_cannot_be_compiled_is_one_sentence(
    tiny: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def backend(*_: object) -> Callable[..., Any]:
        raise RuntimeError("no working C++ compiler")

    with pytest.raises(UserError, match=r"training\.compile: .*no working C\+\+ compiler.*set it to false$"):
        steps_with(backend, tiny, monkeypatch)
