"""Networks: their shapes, their weights, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from common import config as configuration
from common import models
from common.errors import UserError
from common.models import Network, upsample


def options(model: str, **changes: object) -> dict:
    base = {"datasets": ["digits"], "models": [model], "methods": ["ce"], "seeds": [0]}
    given = {"weights": "none", "decoder_channels": 16} | changes
    return configuration.complete(base | {"model_options": {model: given}})["model_options"][model]


@pytest.mark.parametrize(
    ("model", "stride", "grid"),
    [
        ("deeplabv3-resnet18", 16, 16),
        ("deeplabv3-resnet18", 8, 8),
        ("deeplabv3plus-resnet18", 16, 4),
        ("deeplabv3plus-test_resnet", 8, 4),
        ("deeplabv3-tf_efficientnet_lite0", 16, 16),
        ("deeplabv3-tu-resnet10t", 16, 16),
    ],
)
def test_output_grid(model: str, stride: int, grid: int) -> None:
    network = Network(model, 5, options(model, output_stride=stride)).eval()
    images = torch.randint(256, (2, 3, 70, 90), dtype=torch.uint8)
    padded = network.pad(images)
    h, w = padded.shape[2:]
    assert h % stride == w % stride == 0 and 70 <= h < 70 + stride and 90 <= w < 90 + stride
    output = network(padded)
    assert output.unary.shape == (2, 5, h // grid, w // grid)
    assert output.features.shape == (2, 16, h // grid, w // grid)
    assert network.feature_channels == 16
    assert torch.allclose(network.classifier(output.features), output.unary)
    assert output.auxiliary is None
    assert upsample(output.unary, padded, (70, 90), False).shape == (2, 5, 70, 90)


@pytest.mark.parametrize(("stride", "rates"), [(16, [6, 12, 18]), (8, [12, 24, 36])])
def test_atrous_rates(stride: int, rates: list[int]) -> None:
    network = Network("deeplabv3-resnet18", 5, options("deeplabv3-resnet18", output_stride=stride))
    convolutions = [m for m in network.decoder.modules() if isinstance(m, torch.nn.Conv2d)]
    assert sorted({m.dilation[0] for m in convolutions} - {1}) == rates


def test_padding_is_of_the_mean_colour_and_normalises_to_zero() -> None:
    network = Network("deeplabv3-resnet18", 5, options("deeplabv3-resnet18"))
    padded = network.pad(torch.zeros(1, 3, 10, 10, dtype=torch.uint8))
    assert torch.equal(padded[:, :, :10, :10], torch.zeros(1, 3, 10, 10))
    torch.testing.assert_close(padded[:, :, 10:], network.mean.expand(1, 3, 6, 16))


@pytest.mark.parametrize(
    ("model", "mean"),
    [("deeplabv3-resnet18", 0.485), ("deeplabv3-tf_efficientnet_lite0", 0.5), ("deeplabv3-test_resnet", 0.5)],
)
def test_colours_are_those_of_the_backbone(model: str, mean: float) -> None:
    assert Network(model, 2, options(model)).mean.flatten()[0] == pytest.approx(255 * mean)
    given = options(model, mean=[0.1, 0.2, 0.3])
    assert Network(model, 2, given).mean.flatten()[2] == pytest.approx(255 * 0.3)


def test_classifier_initialisation_is_an_option() -> None:
    model = "deeplabv3-test_resnet"
    classifier = Network(model, 9, options(model, classifier_std=0.001)).classifier
    assert classifier.weight.std().item() == pytest.approx(0.001, rel=0.3)
    assert classifier.bias.abs().sum() == 0


def test_auxiliary_classifier_is_there_in_training_only() -> None:
    model = "deeplabv3-test_resnet"
    network = Network(model, 4, options(model, auxiliary_weight=0.4))
    images = network.pad(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    assert network.train()(images).auxiliary.shape[1] == 4
    assert network.eval()(images).auxiliary is None


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_from_a_file(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = "deeplabv3-test_resnet"
    torch.manual_seed(1)
    state = Network(model, 3, options(model)).encoder.model.state_dict()
    path = tmp_path / f"backbone{suffix}"
    state["classifier.weight"] = torch.zeros(10, 10)
    half = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    save_file(half, path) if suffix == ".safetensors" else torch.save(half, path)
    torch.manual_seed(2)
    loaded = Network(model, 3, options(model, weights=str(path))).encoder.model.state_dict()
    for key, value in loaded.items():
        torch.testing.assert_close(value, state[key], atol=1e-3, rtol=1e-3)
        assert value.dtype == state[key].dtype
    monkeypatch.setenv("STRUCTSEG_WEIGHTS", str(tmp_path))
    assert models.find_weights(path.name) == path
    assert len(models.weights_digest(path.name)) == 64


def test_weights_that_do_not_fit_are_one_sentence(tmp_path: Path) -> None:
    model = "deeplabv3-test_resnet"
    with pytest.raises(UserError, match="the weights file 'nowhere.pt' is not there: .*STRUCTSEG_WEIGHTS"):
        Network(model, 3, options(model, weights="nowhere.pt"))
    damaged = tmp_path / "damaged.pt"
    damaged.write_bytes(b"no weights")
    with pytest.raises(UserError, match="damaged.pt does not fit"):
        Network(model, 3, options(model, weights=str(damaged)))
    other = tmp_path / "other.pt"
    torch.save(torch.nn.Linear(2, 2).state_dict(), other)
    with pytest.raises(UserError, match="other.pt is not of this backbone: it lacks"):
        Network(model, 3, options(model, weights=str(other)))
    wrong = tmp_path / "wrong.pt"
    state = Network(model, 3, options(model)).encoder.model.state_dict()
    key = next(iter(state))
    torch.save(state | {key: torch.zeros(1, 1)}, wrong)
    with pytest.raises(UserError, match="wrong.pt does not fit"):
        Network(model, 3, options(model, weights=str(wrong)))


@pytest.mark.parametrize("model", ["deeplabv3-resnet18", "deeplabv3-test_resnet"])
def test_imagenet_weights_without_a_network_are_one_sentence(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        UserError, match=f"model_options.{model}.weights: .* not cached .*set weights to none"
    ):
        Network(model, 3, options(model, weights="imagenet"))


@pytest.mark.parametrize(
    ("frozen", "moving"), [(True, set()), ("backbone", {"decoder"}), (False, {"encoder", "decoder"})]
)
def test_frozen_batchnorm_keeps_its_statistics_in_training(frozen: bool | str, moving: set[str]) -> None:
    model = "deeplabv3-resnet18"
    network = Network(model, 3, options(model, freeze_batchnorm=frozen)).eval().train()
    before = {name: value.clone() for name, value in network.named_buffers() if "running" in name}
    images = network.pad(torch.randint(256, (2, 3, 33, 33), dtype=torch.uint8))
    network(images).unary.sum().backward()
    after = dict(network.named_buffers())
    assert {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])} == moving
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert not any(layer.training for layer in network.eval().modules())


def test_batchnorm_momentum_of_backbone_and_head() -> None:
    model = "deeplabv3-tf_efficientnet_lite0"  # timm joins its BatchNorm with an activation
    given = options(model, batchnorm_momentum=3e-4, head_batchnorm_momentum=0.05)
    network = Network(model, 3, given)
    found = {
        part: {m.momentum for m in getattr(network, part).modules() if isinstance(m, torch.nn.BatchNorm2d)}
        for part in ("encoder", "decoder")
    }
    assert found == {"encoder": {3e-4}, "decoder": {0.05}}
