"""The dense CRF, against pydensecrf and the sum over all pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydensecrf.densecrf import DenseCRF2D

from methods import densecrf
from methods.densecrf import DenseCRF, crf_scores, dense_crf


def example() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """An image of two colours with a noisy prediction of where each is."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.zeros(1, 30, 40, dtype=torch.long)
    truth[:, :, 17:] = 1
    image = torch.where(truth == 1, 200, 40).unsqueeze(1).expand(-1, 3, -1, -1)
    image = (image + 5 * torch.randn(1, 3, 30, 40, generator=generator)).to(torch.uint8)
    logits = torch.nn.functional.one_hot(truth, 3).permute(0, 3, 1, 2).float()
    logits = logits + 1.5 * torch.randn(1, 3, 30, 40, generator=generator)
    return image, logits.softmax(1), truth


def test_equals_pydensecrf_with_the_settings_of_the_paper() -> None:
    image, probabilities, _ = example()
    crf = DenseCRF2D(40, 30, 3)
    unary = -np.log(probabilities[0].clamp(1e-5, 1).numpy()).reshape(3, -1)
    crf.setUnaryEnergy(np.ascontiguousarray(unary))
    crf.addPairwiseGaussian(sxy=3, compat=3)
    pixels = np.ascontiguousarray(image[0].permute(1, 2, 0).numpy())
    crf.addPairwiseBilateral(sxy=30, srgb=13, rgbim=pixels, compat=10)
    expected = torch.from_numpy(np.array(crf.inference(5))).view(1, 3, 30, 40)
    for engine in ("torch", "pydensecrf"):
        actual = DenseCRF(3, 1, iterations=5, engine=engine).refine(image, probabilities)
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)


def scenery(n: int, k: int, h: int, w: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images with smooth shades and noise, and smooth probabilities."""
    generator = torch.Generator().manual_seed(0)
    resize = torch.nn.functional.interpolate
    shades = resize(255 * torch.rand(n, 3, 4, 5, generator=generator), (h, w), mode="bilinear")
    images = (shades + 8 * torch.randn(n, 3, h, w, generator=generator)).clamp(0, 255).to(torch.uint8)
    logits = resize(4 * torch.randn(n, k, 6, 7, generator=generator), (h, w), mode="bicubic")
    return images, logits.softmax(1)


@pytest.mark.parametrize("iterations", [1, 5, 10])
@pytest.mark.parametrize(
    ("k", "options"),
    [(2, {}), (21, {}), (150, {}), (11, {"gaussian": [1, 1], "bilateral": [3, 40, 1]})],
)
def test_both_engines_agree(k: int, options: dict, iterations: int) -> None:
    images, probabilities = scenery(2, k, 60, 83)
    results = [
        dense_crf(images, probabilities, iterations=iterations, engine=engine, **options)
        for engine in ("torch", "pydensecrf")
    ]
    assert (results[0] - results[1]).abs().mean() < 1e-5
    assert (results[0].argmax(1) == results[1].argmax(1)).float().mean() > 0.999


def test_against_mean_field_over_all_pairs() -> None:
    """The lattice is an approximation, here: 96 % of the labels agree, marginals to 0.021 in the mean."""
    images, probabilities = scenery(1, 4, 20, 24)
    places = densecrf._positions(20, 24, torch.device("cpu"))
    colours = images[0].flatten(1).mT
    kernels = []
    for features in (places / 3, torch.cat([places / 30, colours / 13], dim=1)):
        kernel = torch.exp(-(torch.cdist(features.double(), features.double()) ** 2) / 2)
        norm = kernel.sum(1).rsqrt()
        kernels.append(norm.unsqueeze(1) * kernel * norm)
    unary = probabilities[0].flatten(1).mT.double().clamp(min=1e-5).log()
    marginals = unary.softmax(1)
    for _ in range(5):
        marginals = (unary + 3 * kernels[0] @ marginals + 10 * kernels[1] @ marginals).softmax(1)
    actual = dense_crf(images, probabilities, iterations=5)[0].flatten(1).mT
    assert (actual - marginals).abs().mean() < 0.025
    assert (actual.argmax(1) == marginals.argmax(1)).float().mean() > 0.95


def test_batches_equal_single_images() -> None:
    images, probabilities = scenery(3, 5, 30, 41)
    apart = [dense_crf(*pair, iterations=3) for pair in zip(images.split(1), probabilities.split(1))]
    assert torch.equal(dense_crf(images, probabilities, iterations=3), torch.cat(apart))
    deviations, weights = (3, 30, 13), (3.0, 10.0)
    unary = probabilities.clamp(min=1e-5).log()
    together = crf_scores(images, unary, deviations, weights, 3).softmax(1)
    torch.testing.assert_close(together, torch.cat(apart))


def test_images_in_parts_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    images, probabilities = scenery(3, 7, 30, 41)
    expected = dense_crf(images, probabilities, iterations=2)
    monkeypatch.setattr(densecrf, "PIXELS", 1)
    assert torch.equal(dense_crf(images, probabilities, iterations=2), expected)


def test_derivatives() -> None:
    images, probabilities = scenery(2, 3, 5, 6)
    inputs = (0.1 + 0.7 * probabilities.double()).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: dense_crf(images, x, iterations=2), inputs)
    trained = [weight * torch.eye(3, dtype=torch.double) for weight in (1.0, 2.0)]
    assert torch.autograd.gradcheck(
        lambda x, *weights: crf_scores(images, x.log(), (1, 3, 20), weights, 2),
        (inputs, *(matrix.requires_grad_() for matrix in trained)),
    )


def test_half_precision_is_computed_in_float32() -> None:
    images, probabilities = scenery(1, 3, 12, 13)
    low = probabilities.bfloat16()
    result = dense_crf(images, low, iterations=2)
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result, dense_crf(images, low.float(), iterations=2).bfloat16())


def test_works_in_inference_mode_before_it_trains() -> None:
    images, probabilities = scenery(1, 3, 14, 15)
    with torch.inference_mode():
        dense_crf(images, probabilities, iterations=1)
    leaf = probabilities.clone().requires_grad_()
    dense_crf(images, leaf, iterations=1).square().sum().backward()
    assert leaf.grad.isfinite().all()


def test_it_repairs_a_noisy_prediction() -> None:
    image, probabilities, truth = example()
    before = (probabilities.argmax(1) == truth).float().mean()
    after = (DenseCRF(3, 1).refine(image, probabilities).argmax(1) == truth).float().mean()
    assert before < 0.8 < 0.98 < after


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"iterations": 0}, "iterations must be at least 1"),
        ({"gaussian": [3]}, "gaussian must be 2 positive numbers"),
        ({"bilateral": [30, 13, -1]}, "bilateral must be 3 positive numbers"),
        ({"engine": "numpy"}, "engine must be torch or pydensecrf"),
    ],
)
def test_impossible_options_are_refused(options: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        DenseCRF(3, 1, **options)


def test_wrong_shapes_are_one_sentence() -> None:
    images, probabilities = scenery(2, 3, 12, 13)
    with pytest.raises(ValueError, match=r"images must be \[N, 3, H, W\]"):
        dense_crf(images[:1], probabilities)


@pytest.mark.gpu
def test_gpu_equals_cpu() -> None:
    images, probabilities = scenery(3, 21, 60, 83)
    expected = dense_crf(images, probabilities)
    results = [dense_crf(images.cuda(), probabilities.cuda()).cpu() for _ in range(2)]
    torch.testing.assert_close(results[0], expected, rtol=1e-3, atol=1e-4)
    assert torch.equal(*results)


WRONG = {
    "float images": (
        {"images": torch.float32},
        "images must be uint8 in 0–255, as they are in files, not float32",
    ),
    "long images": (
        {"images": torch.int64},
        "images must be uint8 in 0–255, as they are in files, not int64",
    ),
    "half images": ({"images": torch.float16}, "images must be uint8 .* not float16"),
    "whole probabilities": ({"probabilities": torch.int64}, "probabilities must be of a floating-point type"),
    "labels": (
        {"probabilities": torch.uint8},
        "probabilities must be of a floating-point type on .* not uint8 on",
    ),
    "another device": ({"device": "meta"}, "on the images' device cpu, not float32 on meta"),
    "NaN": (
        {"value": torch.nan},
        "probabilities must be in 0–1, and these are in nan to nan: give the softmax",
    ),
    "infinite": ({"value": torch.inf}, "probabilities must be in 0–1, and these are in .* to inf"),
    "minus infinity": ({"value": -torch.inf}, "probabilities must be in 0–1, and these are in -inf to"),
    "negative": ({"value": -0.1}, "probabilities must be in 0–1, and these are in -0.1 to"),
    "more than one": ({"value": 1.1}, "probabilities must be in 0–1, and these are in .* to 1.1"),
    "no images": (
        {"images_shape": (0, 3, 6, 7)},
        r"images must be \[N, 3, H, W\] and probabilities \[N, K, H, W\]",
    ),
    "grey images": (
        {"images_shape": (2, 1, 6, 7)},
        r"images must be \[N, 3, H, W\] .* not \[2, 1, 6, 7\] and",
    ),
    "channels last": (
        {"images_shape": (2, 6, 7, 3)},
        r"images must be \[N, 3, H, W\] .* not \[2, 6, 7, 3\] and",
    ),
    "one image of two": (
        {"images_shape": (1, 3, 6, 7)},
        r"images must be \[N, 3, H, W\] .* not \[1, 3, 6, 7\] and",
    ),
    "another size": (
        {"images_shape": (2, 3, 6, 8)},
        r"images must be \[N, 3, H, W\] .* not \[2, 3, 6, 8\] and",
    ),
    "one dimension less": (
        {"images_shape": (3, 6, 7)},
        r"images must be \[N, 3, H, W\] .* not \[3, 6, 7\] and",
    ),
}


@pytest.mark.parametrize("engine", ["torch", "pydensecrf"])
@pytest.mark.parametrize(("change", "sentence"), WRONG.values(), ids=WRONG)
def test_what_is_no_image_or_probability_is_refused(change: dict, sentence: str, engine: str) -> None:
    images, probabilities = scenery(2, 4, 6, 7)
    if "value" in change:
        probabilities[1, 2, 3, 4] = change["value"]
    if "images_shape" in change:
        images = torch.zeros(change["images_shape"], dtype=torch.uint8)
    images = images.to(change.get("images", torch.uint8))
    probabilities = probabilities.to(change.get("device", "cpu"), change.get("probabilities", torch.float32))
    with pytest.raises(ValueError, match=sentence):
        dense_crf(images, probabilities, engine=engine)


LAYOUTS = {
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "columns first": lambda x: x.mT.contiguous().mT,
    "every second": lambda x: x.repeat_interleave(2, 3)[..., ::2],
    "part of a larger one": lambda x: torch.nn.functional.pad(x, (1, 2, 3, 4))[..., 3:-4, 1:-2],
    "batch last": lambda x: x.movedim(0, -1).contiguous().movedim(-1, 0),
}


@pytest.mark.parametrize("engine", ["torch", "pydensecrf"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_any_layout_in_memory_will_do(layout: object, engine: str) -> None:
    images, probabilities = scenery(2, 4, 16, 17)
    expected = dense_crf(images, probabilities, iterations=2, engine=engine)
    for one, two in ((layout(images), probabilities), (images, layout(probabilities))):
        torch.testing.assert_close(dense_crf(one, two, iterations=2, engine=engine), expected)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_colours_that_are_not_finite_are_refused(value: float) -> None:
    images = torch.rand(1, 3, 6, 7)
    images[0, 1, 2, 3] = value
    with pytest.raises(ValueError, match="finite numbers|too small for points so far apart"):
        crf_scores(images, torch.rand(1, 4, 6, 7), (1.0, 1.0, 1.0), (1.0, 1.0), 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("engine", ["torch", "pydensecrf"])
def test_probabilities_may_have_any_precision(dtype: torch.dtype, engine: str) -> None:
    images, probabilities = scenery(2, 4, 16, 17)
    result = dense_crf(images, probabilities.to(dtype), iterations=2, engine=engine)
    assert result.dtype == dtype
    expected = dense_crf(images, probabilities, iterations=2, engine=engine).to(dtype)
    torch.testing.assert_close(result, expected, atol=0.02, rtol=0.02)
