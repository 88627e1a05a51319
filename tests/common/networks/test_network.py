"""Networks: their shapes, their weights, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import segmentation_models_pytorch as smp
import torch
import torchvision
from safetensors.torch import save_file

from common.config import reading
from common.config.settings import typed
from common.errors import UserError
from common.networks import architectures, decoders, weight_files
from common.networks.network import Network, check_name, encoder_name, upsample
from common.networks.options import ModelOptions
from common.networks.structured import StructuredNetwork
from methods.base import Method


def options(model: str, **changes: object) -> ModelOptions:
    base = {"datasets": ["digits"], "models": [model], "methods": ["ce"], "seeds": [0]}
    asked = {"weights": "none", "decoder_channels": 16} | changes
    complete = reading.complete(base | {"model_options": {model: asked}})
    return typed(ModelOptions, complete["model_options"][model])


@pytest.mark.parametrize(
    ("model", "stride", "grid"),
    [
        ("deeplabv3-resnet18", 16, 16),
        ("deeplabv3-resnet18", 8, 8),
        ("deeplabv3plus-resnet18", 16, 4),
        ("deeplabv3plus-test_resnet", 8, 4),
        ("deeplabv3-tf_efficientnet_lite0", 16, 16),
        ("deeplabv3-tu-resnet10t", 16, 16),
        ("pspnet-resnet18", 8, 8),
        ("fcn-resnet18d", 16, 16),
        ("upernet-convnext_atto", 32, 4),  # a backbone without a stage of stride 2
        ("segformer-mit_b0", 32, 4),
        ("segformer-mobilenetv3_small_050", 16, 4),
        ("upernet-swin_tiny_patch4_window7_224", 32, 4),  # windows of 7 cells, trained at 224
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


TABLE = Path(__file__).resolve().parents[3] / "results/reference/models.csv"
CLASSES, SIDE = 21, 513


def library_parameters(model: str, built: ModelOptions) -> tuple[str, int]:
    """The network that another library builds of the same parts, and its parameters; 0 if there is none."""
    architecture, _, backbone = model.partition("-")
    if model in ("deeplabv3-resnet50", "deeplabv3-resnet101"):
        build = getattr(torchvision.models.segmentation, f"deeplabv3_{backbone}")
        network = build(weights=None, weights_backbone=None, num_classes=CLASSES)
        return "torchvision", sum(p.numel() for p in network.parameters())
    kinds = {
        "deeplabv3": smp.DeepLabV3,
        "deeplabv3plus": smp.DeepLabV3Plus,
        "upernet": smp.UPerNet,
        "segformer": smp.Segformer,
    }
    if architecture not in kinds:
        return "", 0
    network = kinds[architecture](encoder_name(backbone), encoder_weights=None, classes=CLASSES)
    return "segmentation-models-pytorch", sum(p.numel() for p in network.parameters())


def lines() -> list:
    """The lines of the table; those of large backbones are for the long tests."""
    table = pd.read_csv(TABLE, dtype=str, keep_default_na=False).to_dict("records")
    quick = ("resnet50", "mobilenetv3_large_100")
    return [
        pytest.param(line, id=line["model"], marks=[] if line["model"].endswith(quick) else pytest.mark.long)
        for line in table
    ]


@pytest.mark.parametrize("line", lines())
def test_parameters_and_shapes_are_those_of_the_table_and_of_other_libraries(line: dict) -> None:
    model = line["model"]
    built = options(model, decoder_channels=None)
    with torch.device("meta"):  # shapes without numbers
        network = Network(model, CLASSES, built).eval()
        unary = network(network.pad(torch.empty(2, 3, SIDE, SIDE))).unary
        library, parameters = library_parameters(model, built)
    count = sum(p.numel() for name, p in network.named_parameters() if not name.startswith("auxiliary."))
    assert line == {
        "model": model,
        "output_stride": str(built.output_stride),
        "parameters": str(count),
        "grid": f"{unary.shape[2]}x{unary.shape[3]}",
        "library": library,
        "library_parameters": str(parameters or ""),
    }
    assert not parameters or count == parameters


def test_the_table_has_every_architecture() -> None:
    listed = {model.partition("-")[0] for model in pd.read_csv(TABLE)["model"]}
    assert listed == {*architectures.SETTINGS} == {*decoders._DECODERS}


def carry_over(source: torch.nn.Module, target: torch.nn.Module) -> None:
    """Gives a part the weights of another that has the same ones in the same order."""
    values = source.state_dict().values()
    target.load_state_dict(dict(zip(target.state_dict(), values, strict=True)))


@pytest.mark.parametrize(
    ("architecture", "library"),
    [("deeplabv3", smp.DeepLabV3), ("deeplabv3plus", smp.DeepLabV3Plus), ("upernet", smp.UPerNet)],
)
def test_the_unary_is_what_the_library_computes(architecture: str, library: type) -> None:
    network = Network(f"{architecture}-resnet18", 5, options(f"{architecture}-resnet18")).eval()
    stride = {} if architecture == "upernet" else {"encoder_output_stride": 16}
    reference = library("resnet18", encoder_weights=None, classes=5, decoder_channels=16, **stride).eval()
    reference.encoder = network.encoder
    carry_over(network.decoder, reference.decoder)
    reference.segmentation_head[0] = network.classifier
    images = network.pad(torch.randint(256, (1, 3, 64, 96), dtype=torch.uint8))
    with torch.no_grad():
        unary = network(images).unary
        expected = reference((images - network.mean) / network.std)
    full = torch.nn.functional.interpolate(unary, (64, 96), mode="bilinear", align_corners=True)
    torch.testing.assert_close(full, expected)


@pytest.mark.parametrize("library", [smp.DeepLabV3, smp.DeepLabV3Plus])
def test_a_new_network_is_initialised_as_the_library_does(library: type) -> None:
    model = f"{library.__name__.lower()}-resnet18"
    torch.manual_seed(0)
    network = Network(model, 5, options(model))
    torch.manual_seed(0)
    reference = library("resnet18", encoder_weights=None, classes=5, decoder_channels=16)
    pairs = ((network.decoder, reference.decoder), (network.classifier, reference.segmentation_head[0]))
    for ours, theirs in pairs:
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_heads_without_a_library_are_as_their_papers_say() -> None:
    psp = Network("pspnet-resnet18", 5, options("pspnet-resnet18", decoder_channels=None))
    pyramid = 4 * (512 * 128 + 2 * 128)
    assert count(psp.decoder) == pyramid + 9 * (512 + 4 * 128) * 512 + 2 * 512
    assert count(psp.auxiliary) == 9 * 256 * 64 + 2 * 64 + 64 * 5 + 5
    block4 = Network("fcn-resnet18", 5, options("fcn-resnet18", decoder_channels=None)).decoder
    assert count(block4) == (512 * 256 + 2 * 256) + 2 * (9 * 256 * 256 + 2 * 256)


def count(part: torch.nn.Module) -> int:
    return sum(p.numel() for p in part.parameters())


def test_the_last_stage_may_lose_its_stride_without_being_dilated() -> None:
    model = "deeplabv3-resnet18"
    images = torch.randint(256, (1, 3, 64, 64), dtype=torch.uint8)
    networks = {
        dilation: Network(model, 5, options(model, dilation=dilation)).eval() for dilation in (True, False)
    }
    networks[False].load_state_dict(networks[True].state_dict())
    assert dilations(networks[True].encoder) == {1, 2} and dilations(networks[False].encoder) == {1}
    maps = [network.encoder(network.pad(images)) for network in networks.values()]
    assert maps[0][-1].shape == maps[1][-1].shape == (1, 512, 4, 4)
    assert torch.equal(maps[0][-2], maps[1][-2]) and not torch.equal(maps[0][-1], maps[1][-1])


@pytest.mark.parametrize(
    "backbone", ["resnet18", "resnet26", "resnet26d"]
)  # two libraries dilate differently
def test_the_first_block_of_a_stage_alone_may_be_dilated(backbone: str) -> None:
    model = f"fcn-{backbone}"
    network = Network(model, 5, options(model, dilation="first", output_stride=8)).eval()
    encoder = dict(network.encoder.named_modules())
    for stage, rate in (("layer2", 1), ("layer3", 2), ("layer4", 4)):
        blocks = next(part for name, part in encoder.items() if name.endswith(stage)).children()
        first, *others = [dilations(block) for block in blocks]
        assert max(first) == rate and all(rates == {1} for rates in others)
    images = network.pad(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    assert network(images).unary.shape[2:] == (8, 8)
    with pytest.raises(UserError, match="dilation: first is for ResNets: give true or false"):
        model = "fcn-mobilenetv3_small_050"
        Network(model, 5, options(model, dilation="first"))


def test_deeplab_in_the_form_of_a_publication() -> None:
    form = {"output_convolution": False, "separable": False, "dropout": 0.1, "decoder_channels": None}
    plain = Network("deeplabv3-resnet18", 5, options("deeplabv3-resnet18", **form))
    aspp = (512 + 3 * 9 * 512 + 512) * 256 + 5 * 2 * 256 + 5 * 256 * 256 + 2 * 256
    assert count(plain.decoder) == aspp
    form |= {"decoder_convolutions": 2, "decoder_dropout": 0.2}
    joined = Network("deeplabv3plus-resnet18", 5, options("deeplabv3plus-resnet18", **form))
    fine = 64 * 48 + 2 * 48
    assert count(joined.decoder) == aspp + fine + 9 * (48 + 256 + 256) * 256 + 2 * 2 * 256
    shares = [part.p for part in joined.decoder.modules() if isinstance(part, torch.nn.Dropout)]
    assert shares == [0.1, 0.2]


@pytest.mark.parametrize(
    "model", ["deeplabv3-resnet18", "deeplabv3plus-resnet18", "pspnet-resnet18", "fcn-resnet18"]
)
@pytest.mark.parametrize("align_corners", [True, False])
def test_an_unpadded_image_has_the_grid_stretched_over_it(model: str, align_corners: bool) -> None:
    changes = {"input_multiple": 1, "align_corners": align_corners}
    structured = StructuredNetwork(Network(model, 5, options(model, **changes)), Method(5, 16)).eval()
    for size in ((64, 64), (65, 97), (50, 71)):
        images = torch.randint(256, (1, 3, *size), dtype=torch.uint8)
        with torch.no_grad():
            result = structured.run_network(images)
            upsampled = structured.upsampled(result.output.unary, result)
        assert torch.equal(result.padded, images.float())
        stride = 4 if "plus" in model else 16
        assert result.output.unary.shape[2:] == tuple(-(-side // stride) for side in size)
        expected = torch.nn.functional.interpolate(
            result.output.unary, size, mode="bilinear", align_corners=align_corners
        )
        assert torch.equal(upsampled, expected)
        torch.testing.assert_close(structured.method.enlarged(result.output.unary, result.padded), expected)


@pytest.mark.parametrize("model", ["deeplabv3-resnet18", "pspnet-resnet18", "fcn-resnet18"])
def test_the_first_weights_of_the_head_are_an_option(model: str) -> None:
    torch.manual_seed(0)
    asked = {"auxiliary_weight": 0.4, "decoder_channels": 64}
    he, own = (Network(model, 21, options(model, initialisation=way, **asked)) for way in ("he", "pytorch"))
    for network, variance in ((he, 2), (own, 1 / 3)):
        for part in (network.decoder, network.classifier, network.auxiliary):
            for layer in part.modules():
                if isinstance(layer, torch.nn.Conv2d):
                    scaled = layer.weight.var() * layer.weight[0].numel()
                    assert scaled.item() == pytest.approx(variance, rel=0.15)
    assert not he.classifier.bias.any() and own.classifier.bias.any()
    assert not he.auxiliary[-1].bias.any()


def dilations(part: torch.nn.Module) -> set[int]:
    return {m.dilation[0] for m in part.modules() if isinstance(m, torch.nn.Conv2d)}


@pytest.mark.parametrize(
    ("model", "changes", "sentence"),
    [
        (
            "pspnet-resnet18",
            {"atrous_rates": [1, 2, 3]},
            "atrous_rates: only deeplabv3 and deeplabv3plus can have it: leave it out",
        ),
        ("upernet-resnet18", {"separable": True}, "separable: only deeplabv3 and deeplabv3plus can have it"),
        ("deeplabv3-resnet18", {"decoder_dropout": 0.1}, "decoder_dropout: only deeplabv3plus can have it"),
        ("upernet-resnet18", {"input_multiple": 1}, "input_multiple: 1 must be a multiple of .* stride, 32$"),
        ("deeplabv3-resnet18", {"output_stride": 32}, "output_stride: 32 is too coarse for deeplabv3"),
        (
            "fcn-resnet18",
            {"input_multiple": 24},
            "input_multiple: 24 must be a multiple of the output stride, 16, or 1$",
        ),
    ],
)
def test_options_of_no_use_to_an_architecture_are_refused(model: str, changes: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=f"model_options.{model}.{sentence}"):
        options(model, **changes)


def test_a_backbone_that_cannot_be_built_is_one_sentence() -> None:
    sentence = "models: fcn-vgg11 cannot be built with output_stride 16"
    with torch.device("meta"), pytest.raises(UserError, match=sentence):
        Network("fcn-vgg11", 2, options("fcn-vgg11"))


def test_a_backbone_with_windows_asks_for_padding_and_takes_it() -> None:
    model = "segformer-maxvit_nano_rw_256"
    with torch.device("meta"):
        network = Network(model, 2, options(model))
        with pytest.raises(UserError, match="refuses an input of 32×32 .*input_multiple"):
            network(network.pad(torch.empty(1, 3, 20, 20)))
        network = Network(model, 2, options(model, input_multiple=256))
        assert network(network.pad(torch.empty(1, 3, 300, 200))).unary.shape == (1, 2, 128, 64)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("size", [(33, 40), (48, 64), (17, 1)])
def test_padding_does_not_move_what_is_upsampled(size: tuple[int, int], align_corners: bool) -> None:
    """Logits that are the cells' own places come back as the pixels' places, whatever was padded."""
    model = "deeplabv3-test_resnet"
    network = Network(model, 1, options(model, align_corners=align_corners))
    padded = network.pad(torch.zeros(1, 3, *size, dtype=torch.uint8))
    rows, columns = (torch.arange(side // 16.0) * 16 for side in padded.shape[2:])
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij")).unsqueeze(0)
    upsampled = upsample(grid, padded, size, align_corners)[0]
    assert upsampled.shape == (2, *size)
    for axis, places in enumerate(torch.meshgrid(*map(torch.arange, size), indexing="ij")):
        if (
            not align_corners
        ):  # cells lie in the middle of their pixels; nothing is known beyond the outer ones
            places = (places - 7.5).clamp(0, 16.0 * (padded.shape[2 + axis] // 16 - 1))
        torch.testing.assert_close(upsampled[axis], places.float())


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
    other = options(model, mean=[0.1, 0.2, 0.3])
    assert Network(model, 2, other).mean.flatten()[2] == pytest.approx(255 * 0.3)


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
    assert weight_files.find_weights(path.name) == path


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
    network = Network(model, 3, options(model, batchnorm_momentum=3e-4, head_batchnorm_momentum=0.05))
    momenta = {
        part: {m.momentum for m in getattr(network, part).modules() if isinstance(m, torch.nn.BatchNorm2d)}
        for part in ("encoder", "decoder")
    }
    assert momenta == {"encoder": {3e-4}, "decoder": {0.05}}


@pytest.mark.parametrize(
    ("backbone", "similar"),
    [("mobilenetv3", "mobilenetv3_large_075"), ("efficientnet-lite", "efficientnet_lite0")],
)
def test_a_backbone_of_another_name_is_told_of(backbone: str, similar: str) -> None:
    with pytest.raises(UserError, match=f"the backbone '{backbone}' is known neither .*{similar}"):
        check_name(f"deeplabv3-{backbone}")


@pytest.mark.parametrize("architecture", architectures.SETTINGS)
def test_every_architecture_learns_two_rectangles(architecture: str) -> None:
    torch.manual_seed(0)
    model = f"{architecture}-test_resnet"
    network = Network(model, 3, options(model, dropout=0, auxiliary_weight=0.4, align_corners=True)).train()
    structured = StructuredNetwork(network, Method(3, network.feature_channels))
    images = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    labels = torch.zeros(2, 64, 64, dtype=torch.long)
    for label, rows, columns in ((1, slice(16, 40), slice(8, 48)), (2, slice(40, 64), slice(30, 64))):
        images[:, label, rows, columns] = 200
        labels[:, rows, columns] = label
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(20):
        loss = structured.loss(images, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(p.grad.abs().sum() > 0 for p in network.classifier.parameters())
    assert all(p.grad is not None for p in network.parameters())
