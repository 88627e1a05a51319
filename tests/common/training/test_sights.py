"""What a loss sees beside logits and labels: what it names, of the whole batch, by one process or several."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from scipy import ndimage
from torch import Tensor

from common.config import reading
from common.config.entries import Config
from common.datasets.split import Split
from common.errors import UserError
from common.labels import VOID
from common.networks.structured import StructuredNetwork
from common.runs import plan
from common.stages import prepare
from common.training.batches import AnySample, PreparedSample, preparing, training_batches
from common.training.group import ProcessGroup
from common.training.step import Objective, build
from methods.base import Method, cross_entropy
from tests.conftest import TINY

MODEL = "deeplabv3plus-test_resnet"
CPU = torch.device("cpu")


class Everything(Method):
    """A loss that depends on all that there is, and on the batch as a whole."""

    latest: dict[str, Tensor]
    kind = torch.int16  # which gloo does not know

    def prepare(self, labels: Tensor) -> Tensor:
        return torch.from_numpy(ndimage.morphological_gradient(labels.numpy(), size=3)).to(self.kind)

    def loss(
        self,
        logits: Tensor,
        labels: Tensor,
        images: Tensor,
        features: Tensor,
        unary: Tensor,
        prepared: Tensor,
    ) -> Tensor:
        self.latest = {"images": images, "features": features, "unary": unary, "prepared": prepared}
        edges = cross_entropy(logits, labels.where(prepared > 0, VOID))
        bright = images.mean(dim=1, keepdim=True) > images.mean()  # of all images of the batch
        return edges + (logits * bright).square().mean() + features.std() + unary.std()


class OfImages(Method):
    """A loss that sees images alone; that of an auxiliary classifier sees nothing."""

    def loss(self, logits: Tensor, labels: Tensor, images: Tensor) -> Tensor:
        self.images = images
        return cross_entropy(logits, labels) * images.mean() / 255

    def auxiliary_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(logits, labels)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A dataset that was looked at, and a network with an auxiliary classifier and no noise."""
    fixed = {"freeze_batchnorm": True, "auxiliary_weight": 0.4, "dropout": 0.0}
    changes = {
        "results": str(tmp_path_factory.mktemp("results")),
        "model_options": {MODEL: TINY["model_options"][MODEL] | fixed},
        "training": TINY["training"] | {"batch_size": 4, "rotation": 60},
    }
    complete = reading.complete(TINY | changes)
    prepare.prepare(plan.preparation(complete, "digits"))
    return complete


def model(config: Config, kind: type[Method]) -> StructuredNetwork:
    """A network with a method, as it is trained."""
    built = build(plan.training(config, "digits", MODEL, "ce", 0))
    own = StructuredNetwork(built.network, kind(11, built.network.feature_channels)).train()
    if own.network.auxiliary:
        own.network.auxiliary[1].p = 0.0
    return own


def batches(config: Config, kind: type[Method], workers: int = 0, part: int = 0, parts: int = 1) -> list:
    """Two batches, or one process's parts of them."""
    training = plan.training(config, "digits", MODEL, "ce", 0)
    split = Split(training.data.dataset, training.data.manifest(), "train")
    share, hooks = (part, parts), preparing(kind(11, 8))
    return list(training_batches(split, training.settings, [9.0] * 3, 0, 0, 2, workers, share, hooks))


def equal(one: list[AnySample], other: list[AnySample]) -> bool:
    return all(torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


def test_what_is_prepared_is_of_the_augmented_labels(config: Config) -> None:
    for batch in batches(config, Everything):
        for labels, prepared in zip(batch.labels, batch.prepared):
            assert torch.equal(prepared, Everything(11, 8).prepare(labels))
    assert batch.prepared.any() and (batch.labels == VOID).any()


def test_batches_do_not_depend_on_who_prepares_them(config: Config) -> None:
    whole = batches(config, Everything)
    assert equal(whole, batches(config, Everything, workers=2))
    halves = [batches(config, Everything, part=part, parts=2) for part in (0, 1)]
    joined = [PreparedSample(*map(torch.cat, zip(*pair))) for pair in zip(*halves)]
    assert equal(whole, joined)
    assert equal([batch[:2] for batch in whole], batches(config, Method)), "images and labels are the same"


def test_a_loss_gets_what_it_names(config: Config) -> None:
    (batch, _), own = batches(config, Everything), model(config, Everything)
    own.loss(batch.image, batch.labels, prepared=batch.prepared).backward()
    latest = own.method.latest
    assert torch.equal(latest["images"], batch.image.float()), "those of the labels, in 0–255"
    assert torch.equal(latest["prepared"], batch.prepared)
    result = own.run_network(batch.image)
    torch.testing.assert_close(latest["unary"], result.output.unary)
    torch.testing.assert_close(latest["features"], result.output.features)
    gradients = {key: x.grad for key, x in own.network.named_parameters()}
    (features,) = torch.autograd.grad(
        result.output.features.std(), own.network.decoder.parameters(), allow_unused=True
    )[:1]
    assert features is not None and all(x is not None for x in gradients.values())


def test_what_it_does_not_name_is_neither_passed_nor_gathered(config: Config) -> None:
    (batch, _), gathered = batches(config, Method), []

    def gather(share: Tensor) -> Tensor:
        gathered.append((tuple(share.shape), share.dtype))
        return share

    labels, scores = ((4, 48, 48), torch.uint8), ((4, 11, 12, 12), torch.float32)
    images, auxiliary = ((4, 3, 48, 48), torch.uint8), ((4, 11, 6, 6), torch.float32)
    plain = {labels, scores, auxiliary}
    for kind, expected in ((Method, plain), (OfImages, plain | {images})):
        gathered.clear()
        model(config, kind).loss(batch.image, batch.labels, gather)
        assert {*gathered} == expected and len(gathered) == len(expected)


@pytest.mark.parametrize(
    ("hook", "sentence"),
    [
        (
            lambda self, labels: labels[labels != VOID],
            "returns a tensor of shape .* for one image of a batch",
        ),
        (lambda self, labels: labels.nothing, r"prepare\(labels\) fails with AttributeError"),
        (lambda self, labels: labels.masked_fill_(labels == VOID, 0), "prepare changes labels in place"),
        (lambda self, labels: [0], "prepare returns a list, and must return a tensor on the CPU"),
    ],
)
@pytest.mark.parametrize("workers", [0, 1])
def test_what_cannot_be_prepared_is_one_sentence(
    hook: object, sentence: str, workers: int, config: Config
) -> None:
    kind = type("Own", (Everything,), {"prepare": hook, "__module__": "methods.own"})
    with pytest.raises(UserError, match=f"^methods/own.py.*{sentence}"):
        batches(config, kind, workers)


def test_a_loss_that_changes_what_it_sees_is_told(config: Config) -> None:
    def loss(self: Method, logits: Tensor, labels: Tensor, images: Tensor) -> Tensor:
        return cross_entropy(logits, labels) + images.div_(255).mean()

    (batch, _), kind = batches(config, Method), type("Own", (OfImages,), {"loss": loss})
    with pytest.raises(UserError, match="loss changes images in place: let it work on a copy"):
        model(config, kind).loss(batch.image, batch.labels)


def share_of_a_step(rank: int, size: int, config: Config, folder: Path) -> None:
    """The loss and the gradients of one of `size` processes."""
    torch.set_num_threads(1)
    if size > 1:
        torch.distributed.init_process_group("gloo", f"file://{folder}/group", rank=rank, world_size=size)
    group = ProcessGroup(rank, size, CPU)
    own = model(config, Everything)
    objective = group.wrap(Objective(own, gather=group.gather))
    batch = batches(config, Everything, part=rank, parts=size)[0]
    loss = objective(*batch)
    loss.backward()
    gradients = {key: x.grad for key, x in own.named_parameters()}
    torch.save((loss.detach(), gradients), folder / f"{size}-{rank}.pt")
    if size > 1:
        torch.distributed.destroy_process_group()


def test_the_loss_of_two_processes_is_that_of_one(config: Config, tmp_path: Path) -> None:
    share_of_a_step(0, 1, config, tmp_path)
    torch.multiprocessing.spawn(share_of_a_step, (2, config, tmp_path), nprocs=2)
    whole, *halves = (torch.load(tmp_path / f"{name}.pt") for name in ("1-0", "2-0", "2-1"))
    for loss, gradients in halves:
        torch.testing.assert_close(loss, whole[0])
        for key, gradient in gradients.items():
            torch.testing.assert_close(gradient, whole[1][key], atol=1e-5, rtol=1e-3)
