"""The path from images to logits, loss and probabilities."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from common.config import reading
from common.config.settings import typed
from common.errors import UserError
from common.networks.network import Network
from common.networks.options import ModelOptions
from common.networks.structured import StructuredNetwork, refined
from methods.base import Method, cross_entropy

MODEL = "deeplabv3plus-test_resnet"
CLASSES = 3


class Doubling(Method):
    """Doubles the scores, and the size of the grid."""

    grid = 2

    def structure(self, images: Tensor, features: Tensor, unary: Tensor) -> Tensor:
        return functional.interpolate(2 * unary, scale_factor=2, mode="nearest")


class FullSize(Method):
    """Gives logits at the size of the network's input."""

    grid = "full"

    def structure(self, images: Tensor, features: Tensor, unary: Tensor) -> Tensor:
        return self.enlarged(unary, images)


class OfShape(Method):
    """Gives logits of any shape."""

    shape: tuple[int, ...] = ()

    def structure(self, images: Tensor, features: Tensor, unary: Tensor) -> Tensor:
        return torch.zeros(self.shape)


class Refusing(Method):
    """Can work with nothing."""

    def refuse(self, *_: Tensor) -> Tensor:
        raise ValueError("the image is too small")

    structure = probabilities = refine = refuse


def structured(kind: type[Method] = Method, **changes: object) -> StructuredNetwork:
    base = {"datasets": ["digits"], "models": [MODEL], "methods": ["ce"], "seeds": [0]}
    asked = {"weights": "none", "output_stride": 8, "decoder_channels": 8} | changes
    complete = reading.complete(base | {"model_options": {MODEL: asked}})
    torch.manual_seed(0)
    network = Network(MODEL, CLASSES, typed(ModelOptions, complete["model_options"][MODEL]))
    return StructuredNetwork(network, kind(CLASSES, network.feature_channels)).eval()


def images(height: int = 50, width: int = 70) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (2, 3, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("kind", [Method, Doubling])
@pytest.mark.parametrize("align_corners", [True, False])
def test_probabilities_are_of_the_images_size_and_sum_to_one(kind: type[Method], align_corners: bool) -> None:
    model = structured(kind, align_corners=align_corners)
    with torch.no_grad():
        probabilities = model.probabilities(images())
    assert probabilities.shape == (2, CLASSES, 50, 70)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(2, 50, 70))


def test_the_steps_of_the_path_are_its_whole() -> None:
    model = structured(Doubling)
    with torch.no_grad():
        result = model.run_network(images())
        logits = model.structured(result)
        probabilities = model.normalised(logits, result)
        assert torch.equal(probabilities, model.probabilities(images()))
    assert result.size == (50, 70) and result.padded.shape[2:] == (56, 72)
    assert logits.shape[2:] == tuple(2 * side for side in result.output.unary.shape[2:])
    assert torch.equal(probabilities, model.upsampled(logits, result).softmax(dim=1))


def test_the_loss_is_that_of_the_logits_and_of_the_auxiliary_ones() -> None:
    model = structured(auxiliary_weight=0.4, freeze_batchnorm=True, dropout=0.0).train()
    model.network.auxiliary[1].p = 0.0  # no dropout, so that both computations are the same
    labels = torch.randint(CLASSES, (2, 50, 70), dtype=torch.uint8)
    labels[:, :10] = 255
    result = model.run_network(images())
    main = cross_entropy(model.upsampled(result.output.unary, result), labels)
    auxiliary = cross_entropy(model.upsampled(result.output.auxiliary, result), labels)
    torch.testing.assert_close(model.loss(images(), labels), main + 0.4 * auxiliary)
    torch.testing.assert_close(model.eval().loss(images(), labels), main)


class Counting(Method):
    """A loss of its own, which counts its calls."""

    calls = 0

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        self.calls += 1
        return logits.square().mean()

    def diagnostics(self) -> dict[str, float]:
        return {"calls": float(self.calls)}


def test_the_auxiliary_classifier_is_trained_with_the_methods_own_loss() -> None:
    model = structured(Counting, auxiliary_weight=0.4, freeze_batchnorm=True, dropout=0.0).train()
    model.network.auxiliary[1].p = 0.0
    result = model.run_network(images())
    main, auxiliary = (
        model.upsampled(scores, result).square().mean()
        for scores in (result.output.unary, result.output.auxiliary)
    )
    labels = torch.zeros(2, 50, 70, dtype=torch.uint8)
    torch.testing.assert_close(model.loss(images(), labels), main + 0.4 * auxiliary)
    assert model.method.diagnostics() == {"calls": 2}


def test_the_loss_of_a_share_is_that_of_what_is_gathered() -> None:
    model = structured(freeze_batchnorm=True, dropout=0.0)
    labels = torch.randint(CLASSES, (2, 50, 70))
    labels[0, :40] = 255  # the halves have not the same number of pixels

    def join(share: Tensor) -> Tensor:
        """What another process would have sent, beside the own share."""
        if share.ndim == 3:
            return labels
        with torch.no_grad():
            other = model.structured(model.run_network(images()[1:]))
        return torch.cat([share, other])

    torch.testing.assert_close(model.loss(images()[:1], labels[:1], join), model.loss(images(), labels))


def test_what_a_hook_refuses_is_one_sentence() -> None:
    sentence = r"test_structured\.py: (structure|probabilities|refine) refuses its input: the image is too"
    model = structured(Refusing)
    result = model.run_network(images())
    with pytest.raises(UserError, match=sentence):
        model.loss(images(), torch.zeros(2, 50, 70))
    with pytest.raises(UserError, match=sentence):
        model.probabilities(images())
    with pytest.raises(UserError, match=sentence):
        model.normalised(result.output.unary, result)
    with pytest.raises(UserError, match=sentence):
        refined(model.method, images(), torch.zeros(2, CLASSES, 50, 70))


@pytest.mark.parametrize("multiple", [None, 1])
@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("size", [(50, 70), (33, 64), (65, 81)])
def test_logits_of_full_size_lie_where_upsampled_ones_do(
    size: tuple[int, int], align_corners: bool, multiple: int | None
) -> None:
    """Whatever is padded, at odd sizes too."""
    changes = {"align_corners": align_corners} | ({} if multiple is None else {"input_multiple": multiple})
    plain, full = (structured(kind, **changes) for kind in (Method, FullSize))
    with torch.no_grad():
        result = full.run_network(images(*size))
        logits = full.structured(result)
        assert logits.shape[2:] == result.padded.shape[2:]
        expected = plain.upsampled(plain.structured(result), result)
        torch.testing.assert_close(full.upsampled(logits, result), expected)


@pytest.mark.parametrize(
    "shape",
    [(2, CLASSES, 4, 5), (2, CLASSES + 1, 8, 10), (1, CLASSES, 8, 10), (2, CLASSES, 8), (2, CLASSES, 16, 20)],
    ids=["coarser grid", "other classes", "other images", "other dimensions", "finer grid"],
)
def test_structure_of_another_shape_is_one_sentence(shape: tuple[int, ...]) -> None:
    model = structured(OfShape)
    model.method.shape = shape
    with pytest.raises(UserError, match=r"test_structured\.py: structure returns a tensor of shape") as error:
        model.probabilities(images(32, 40))
    for part in ([*shape], [2, CLASSES, 8, 10]):
        assert str(part) in str(error.value), "and says what it must be"


@pytest.mark.parametrize(
    ("grid", "wanted"), [(1, [2, CLASSES, 8, 10]), (3, [2, CLASSES, 24, 30]), ("full", [2, CLASSES, 32, 40])]
)
def test_logits_are_on_the_grid_that_is_declared(grid: int | str, wanted: list[int]) -> None:
    model = structured(Doubling)
    model.method.grid = grid
    with pytest.raises(UserError, match=rf"must return logits \{wanted}, as its grid is {grid}: another one"):
        model.probabilities(images(32, 40))
