"""The contract of methods/: run over every method found, a new file's included."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest
import torch

import methods
from common.config import entries, reading
from common.config.settings import typed
from common.labels import VOID
from common.networks.network import Network
from common.networks.options import ModelOptions
from common.networks.structured import StructuredNetwork, refined
from methods.base import Method

NAMES = methods.names()
FOLDER = Path(methods.__file__).parent
CHANNELS = 6
MODEL = "deeplabv3plus-test_resnet"
CONFIG = {
    "datasets": ["digits"],
    "models": [MODEL],
    "methods": ["ce"],
    "seeds": [0],
    "model_options": {MODEL: {"weights": "none", "decoder_channels": 8}},
}


def build(name: str, num_classes: int = 4) -> Method:
    torch.manual_seed(0)
    return methods.load(name)(num_classes, CHANNELS).double()


def example(num_classes: int = 4, side: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    logits = 2 * torch.randn(2, num_classes, side, side, generator=generator, dtype=torch.double)
    labels = torch.randint(num_classes, (2, side, side), generator=generator)
    labels[0, :4] = VOID
    return logits, labels


@pytest.mark.parametrize("name", NAMES)
def test_is_documented_and_has_defaults(name: str) -> None:
    method = methods.load(name)
    module = inspect.getmodule(method)
    assert module.__doc__ and len(module.__doc__) > 40, "say what the method is and where it is from"
    assert method.__doc__
    parameters = list(inspect.signature(method).parameters.values())
    assert [p.name for p in parameters[:2]] == ["num_classes", "feature_channels"]
    for parameter in parameters[2:]:
        assert parameter.default is not inspect.Parameter.empty, f"{parameter.name} needs a default"


@pytest.mark.parametrize("name", NAMES)
def test_can_be_built_from_the_options_of_a_configuration(name: str) -> None:
    """There, numbers are written as they are meant: 1.0 is 1."""
    entry = entries.method(reading.complete(CONFIG), name, "digits")
    assert isinstance(entry.build(3, CHANNELS), Method)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_imports_nothing_of_common_but_kernels_and_labels(path: Path) -> None:
    imports: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            imports |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            imports |= {alias.name for alias in node.names}
    of_common = {name for name in imports if name.partition(".")[0] == "common"}
    assert all(name.startswith(("common.kernels.", "common.labels.")) for name in of_common), of_common


@pytest.mark.parametrize("name", NAMES)
def test_trains_and_predicts_with_a_network(name: str) -> None:
    """The path that every stage takes: what a hook returns is what the next can work with."""
    options = reading.complete(CONFIG)["model_options"][MODEL]
    torch.manual_seed(0)
    network = Network(MODEL, 4, typed(ModelOptions, options))
    model = StructuredNetwork(network, methods.load(name)(4, network.feature_channels))
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(256, (2, 3, 50, 70), generator=generator, dtype=torch.uint8)
    labels = torch.randint(4, (2, 50, 70), generator=generator)
    loss = model.loss(images, labels)
    loss.backward()
    assert loss.shape == () and loss.isfinite()
    for key, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), key
    with torch.no_grad():
        probabilities = model.eval().probabilities(images)
        result = refined(model.method, images, probabilities)
    for map_ in (probabilities, result):
        assert map_.shape == (2, 4, 50, 70)
        torch.testing.assert_close(map_.sum(1), torch.ones(2, 50, 70), atol=1e-4, rtol=0)


@pytest.mark.parametrize("num_classes", [2, 11, 21])
@pytest.mark.parametrize("name", NAMES)
def test_structure_gives_logits_on_the_grid(name: str, num_classes: int) -> None:
    method = build(name, num_classes)
    features = torch.randn(2, CHANNELS, 5, 7, dtype=torch.double, requires_grad=True)
    unary = torch.randn(2, num_classes, 5, 7, dtype=torch.double, requires_grad=True)
    images = torch.rand(2, 3, 40, 56, dtype=torch.double) * 255
    logits = method.structure(images, features, unary)
    assert logits.shape == unary.shape
    logits.square().sum().backward()
    assert unary.grad.isfinite().all() and unary.grad.abs().sum() > 0


@pytest.mark.parametrize("name", NAMES)
def test_parameters_get_gradients(name: str) -> None:
    method = build(name)
    features = torch.randn(2, CHANNELS, 6, 6, dtype=torch.double)
    unary = torch.randn(2, 4, 6, 6, dtype=torch.double, requires_grad=True)
    _, labels = example(side=6)
    logits = method.structure(torch.rand(2, 3, 6, 6).double() * 255, features, unary)
    (logits.log_softmax(1).gather(1, labels.clamp(max=3).unsqueeze(1)).sum()).backward()
    for key, parameter in method.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key


@pytest.mark.parametrize("name", NAMES)
def test_loss_is_a_finite_scalar_with_a_correct_gradient(name: str) -> None:
    method = build(name)
    logits, labels = example(side=16)
    value = method.loss(logits, labels)
    assert value.shape == () and value.isfinite()
    direction = torch.randn(logits.shape, dtype=torch.double, generator=torch.Generator().manual_seed(2))

    def along(step: torch.Tensor) -> torch.Tensor:
        return method.loss(logits + step * direction, labels)

    zero = torch.zeros((), dtype=torch.double, requires_grad=True)
    if value.dtype == torch.double:
        assert torch.autograd.gradcheck(along, zero)
    else:  # a library that computes in float32 whatever it is given
        (slope,) = torch.autograd.grad(along(zero), zero)
        step = torch.tensor(0.01, dtype=torch.double)
        assert float(along(step) - along(-step)) / 0.02 == pytest.approx(float(slope), rel=0.01)


@pytest.mark.parametrize("name", NAMES)
def test_loss_prefers_the_truth(name: str) -> None:
    method = build(name)
    _, labels = example()
    truth = torch.nn.functional.one_hot(labels.clamp(max=3), 4).permute(0, 3, 1, 2).double()
    good, bad = 8 * truth - 4, 4 - 8 * truth
    assert method.loss(good, labels) < method.loss(bad, labels)


@pytest.mark.parametrize("name", NAMES)
def test_void_changes_nothing(name: str) -> None:
    method = build(name)
    logits, labels = example()
    logits.requires_grad_()
    method.loss(logits, labels).backward()
    assert torch.equal(logits.grad[0, :, :2], torch.zeros_like(logits.grad[0, :, :2]))


@pytest.mark.parametrize("name", NAMES)
def test_loss_survives_images_of_void_and_absent_classes(name: str) -> None:
    method = build(name)
    logits, labels = example()
    for these in (torch.full_like(labels, VOID), torch.zeros_like(labels)):
        logits = logits.detach().requires_grad_()
        value = method.loss(logits, these)
        value.backward()
        assert value.isfinite() and logits.grad.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_logits_that_are_not_finite_give_such_a_loss_and_no_crash(name: str) -> None:
    """Training then says at which iteration, instead of failing inside a decomposition."""
    logits, labels = example()
    for value in (torch.nan, torch.inf):
        assert not build(name).loss(torch.full_like(logits, value), labels).isfinite()


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_logits_are_computed_in_float32(name: str) -> None:
    method = build(name).float()
    logits, labels = example()
    logits = logits.bfloat16()
    half, single = method.loss(logits, labels), method.loss(logits.float(), labels)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, single)


@pytest.mark.parametrize("name", NAMES)
def test_probabilities_and_refine(name: str) -> None:
    method = build(name).float().eval()
    logits, _ = example()
    probabilities = method.probabilities(logits.float())
    images = (torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(3)) * 255).to(torch.uint8)
    refined = method.refine(images, probabilities)
    for map_ in (probabilities, refined):
        assert map_.shape == logits.shape and map_.dtype == torch.float32
        torch.testing.assert_close(map_.sum(1), torch.ones(2, 24, 24), atol=1e-4, rtol=0)
        assert (map_ >= 0).all()
    one = method.refine(images[1:], probabilities[1:])
    torch.testing.assert_close(one, refined[1:], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_auxiliary_loss_and_diagnostics(name: str) -> None:
    method = build(name)
    logits, labels = example()
    assert method.auxiliary_loss(logits, labels).isfinite()
    method.structure(
        torch.rand(1, 3, 32, 32).double(), torch.rand(1, CHANNELS, 4, 4).double(), logits[:1, :, :4, :4]
    )
    for key, value in method.diagnostics().items():
        assert isinstance(key, str) and isinstance(value, float)


@pytest.mark.parametrize("name", NAMES)
def test_state_goes_through_a_file(name: str, tmp_path: Path) -> None:
    method = build(name)
    torch.save(method.state_dict(), tmp_path / "state.pt")
    other = methods.load(name)(4, CHANNELS).double()
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    features, unary = torch.rand(1, CHANNELS, 4, 4).double(), torch.rand(1, 4, 4, 4).double()
    images = torch.rand(1, 3, 32, 32).double()
    assert torch.equal(method.structure(images, features, unary), other.structure(images, features, unary))


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_gpu_equals_cpu(name: str) -> None:
    method = build(name)
    logits, labels = example()
    features = torch.randn(2, CHANNELS, 24, 24, dtype=torch.double)
    images = torch.rand(2, 3, 24, 24).double() * 255
    on_cpu = method.loss(method.structure(images, features, logits), labels)
    method = method.cuda()
    on_gpu = method.loss(method.structure(images.cuda(), features.cuda(), logits.cuda()), labels.cuda())
    torch.testing.assert_close(on_gpu.cpu(), on_cpu)
