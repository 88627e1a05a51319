"""Cross-entropy and pooled sigmoids: by the CPU's kernel, by those of GPUs emulated, and by PyTorch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from common.kernels import gpu
from common.kernels import sigmoids as module
from common.kernels.sigmoids import sigmoids
from tests.common.kernels.emulation import Emulator

KERNELS = [f"{name}_{kind}" for name in ("forward", "backward") for kind in ("full", "half", "bfloat")] + [
    "finish"
]
SIZES = [
    (2, 3, 9, 13, 4),
    (1, 5, 7, 6, 3),
    (1, 2, 8, 35, 1),
    (2, 21, 10, 9, 2),
    (1, 4, 11, 19, 8),
    (1, 1, 6, 6, 4),
]
"""N, K, H, W, side; some pixels of the second and fourth are in no cell that is pooled."""


def example(
    n: int, k: int, h: int, w: int, together: bool = False, dtype: torch.dtype = torch.double
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(n, k, h, w, generator=generator, dtype=torch.double)
    labels = torch.randint(k, (n, h, w), generator=generator)
    labels[torch.rand(n, h, w, generator=generator) < 0.3] = 255
    layout = torch.channels_last if together else torch.contiguous_format
    return logits.to(dtype).contiguous(memory_format=layout), labels


def written_out(logits: Tensor, labels: Tensor, side: int, floor: float) -> list[Tensor]:
    """With one-hot labels and PyTorch's own functions."""
    k = logits.shape[1]
    valid = (labels != 255).unsqueeze(1)
    one_hot = functional.one_hot(labels * valid[:, 0], k).permute(0, 3, 1, 2) * valid.double()
    every = functional.binary_cross_entropy_with_logits(logits, one_hot, reduction="none")
    parts = [(every * valid).sum() / (valid.sum() + 1), valid.sum().double()]
    for maps in (logits.sigmoid() * valid + floor, one_hot):
        parts.append(side**2 * functional.avg_pool2d(maps, side, side, side // 2))
    return parts


def results(function: object, logits: Tensor, labels: Tensor, side: int) -> list[Tensor]:
    """All sums, and the derivative of a weighted sum of them."""
    leaf = logits.clone(memory_format=torch.preserve_format).requires_grad_()
    total, valid, predicted, truth = function(leaf, labels, side)  # type: ignore[operator]
    value = 20.0 * total.sum()
    if side:
        steps = torch.linspace(-1, 2, predicted.numel(), dtype=predicted.dtype, device=predicted.device)
        value = value + (steps.view_as(predicted) * predicted.square()).sum()
    (gradient,) = torch.autograd.grad(value, leaf)
    assert gradient.stride() == leaf.stride() and gradient.dtype == leaf.dtype
    return [x.detach() for x in (total, valid, predicted, truth, gradient)]


def ours(logits: Tensor, labels: Tensor, side: int) -> tuple[Tensor, ...]:
    return sigmoids(logits, labels, 255, side, 1e-6)


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize(("n", "k", "h", "w", "side"), SIZES)
@pytest.mark.parametrize("way", ["kernel", "plain"])
def test_equals_one_hot_labels(
    monkeypatch: pytest.MonkeyPatch, way: str, n: int, k: int, h: int, w: int, side: int, together: bool
) -> None:
    if way == "plain":
        monkeypatch.setattr(module, "_available", lambda logits: False)
    for dtype, tolerance in ((torch.double, 1e-12), (torch.float, 1e-5)):
        logits, labels = example(n, k, h, w, together, dtype)
        expected = results(lambda x, y, side: written_out(x, y, side, 1e-6), logits.double(), labels, side)
        for x, y in zip(results(ours, logits, labels, side), expected):
            torch.testing.assert_close(x.double(), y, rtol=tolerance, atol=tolerance)
        alone = results(lambda x, y, side: sigmoids(x, y, 255), logits, labels, 0)
        torch.testing.assert_close(alone[0].double(), expected[0], rtol=tolerance, atol=tolerance)
        assert alone[1] == expected[1] and alone[2].numel() == alone[3].numel() == 0


@pytest.mark.parametrize("way", ["kernel", "plain"])
def test_logits_of_any_size(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    if way == "plain":
        monkeypatch.setattr(module, "_available", lambda logits: False)
    for dtype in (torch.float, torch.double):
        values = [
            0.0,
            -0.0,
            1e-30,
            -1e-30,
            1e-4,
            -30.0,
            30.0,
            -87.5,
            88.5,
            -700.0,
            710.0,
            1e4,
            -1e4,
            1e30,
            -1e30,
        ]
        logits = torch.tensor(values, dtype=dtype).view(1, 1, 3, 5)
        labels = torch.tensor([255] * 7 + [0] * 8).view(1, 3, 5)
        expected = results(lambda x, y, side: written_out(x, y, side, 1e-6), logits.double(), labels, 2)
        actual = results(ours, logits, labels, 2)
        for x, y in zip(actual, expected):
            torch.testing.assert_close(x.double(), y, rtol=1e-6, atol=1e-6)
        logits[0, 0, 2, 4] = torch.nan
        assert ours(logits, labels, 2)[0].isnan()


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Emulator:
    return Emulator(tmp_path_factory.mktemp("sigmoids"), "sigmoids", KERNELS, "float")


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch, emulator: Emulator) -> None:
    """Logits of the CPU are computed with as those of a GPU."""
    monkeypatch.setattr(module, "_on_cpu", lambda logits: False)
    monkeypatch.setattr(gpu, "launch", emulator.launch)


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize(("n", "k", "h", "w", "side"), [*SIZES, (1, 3, 5, 150, 4)])
@pytest.mark.usefixtures("emulated")
def test_the_cuda_source_computes_the_same(n: int, k: int, h: int, w: int, side: int, together: bool) -> None:
    logits, labels = example(n, k, h, w, together, torch.float)
    expected = results(lambda x, y, side: written_out(x, y, side, 1e-6), logits.double(), labels, side)
    for x, y in zip(results(ours, logits, labels, side), expected):
        torch.testing.assert_close(x.double(), y, rtol=1e-5, atol=1e-5)
    alone = results(lambda x, y, side: sigmoids(x, y, 255), logits, labels, 0)
    torch.testing.assert_close(alone[0].double(), expected[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16])
@pytest.mark.usefixtures("emulated")
def test_half_precision_is_computed_in_float32(dtype: torch.dtype, together: bool) -> None:
    """To the bit, with what is tiny, infinite or no number."""
    logits, labels = example(1, 4, 9, 13, together, dtype)
    logits[0, :, 1] = 1e-6 * logits[0, :, 1]
    logits[0, 1, 2] = -20
    expected = results(ours, logits.float(), labels, 4)
    actual = results(ours, logits, labels, 4)
    expected[4] = expected[4].to(dtype)
    for x, y in zip(actual, expected):
        assert torch.equal(x, y)
    for value in (torch.inf, -torch.inf, torch.nan):
        logits[0, 2, 4, 4], labels[0, 4, 4] = value, 2
        one, other = (results(ours, x, labels, 4) for x in (logits, logits.float()))
        torch.testing.assert_close(one[0], other[0], rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(one[4], other[4].to(dtype), rtol=0, atol=0, equal_nan=True)


def test_is_a_sound_operator() -> None:
    logits, labels = example(1, 3, 9, 8)
    operator = torch.ops.structseg.sigmoids.default
    for side, dtype in ((0, torch.double), (4, torch.double), (4, torch.bfloat16)):
        torch.library.opcheck(operator, (logits.to(dtype).requires_grad_(), labels, 255, side, 1e-6))


def test_any_number_of_threads_gives_the_same_bits() -> None:
    threads = torch.get_num_threads()
    example_ = example(2, 5, 40, 33)
    every = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            every.append(results(ours, *example_, 4))
    finally:
        torch.set_num_threads(threads)
    for other in every[1:]:
        assert all(torch.equal(x, y) for x, y in zip(other, every[0]))


def test_second_derivatives_are_right_or_refused() -> None:
    logits, labels = example(1, 2, 4, 5)
    leaf = logits.requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: sigmoids(x, labels, 255).cross_entropy, leaf)
    pooled = ours(leaf, labels, 2)[2]
    (gradient,) = torch.autograd.grad(pooled.square().sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives .* are not available"):
        gradient.sum().backward()


@pytest.mark.gpu
@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("dtype", [torch.double, torch.float, torch.half, torch.bfloat16])
@pytest.mark.parametrize(("n", "k", "h", "w", "side"), [*SIZES, (2, 21, 65, 513, 4)])
def test_a_gpu_computes_the_same(
    n: int, k: int, h: int, w: int, side: int, together: bool, dtype: torch.dtype
) -> None:
    logits, labels = example(n, k, h, w, together, dtype)
    expected = results(ours, logits.double(), labels, side)
    actual = results(ours, logits.cuda(), labels.cuda(), side)
    tolerance = {torch.double: 1e-11, torch.float: 1e-4, torch.half: 1e-2, torch.bfloat16: 5e-2}[dtype]
    for x, y in zip(actual, expected):
        torch.testing.assert_close(x.cpu().double(), y, rtol=tolerance, atol=tolerance)
    assert actual[1] == expected[1] and torch.equal(actual[3].cpu().double(), expected[3])
