"""Fully connected CRF with Gaussian edges as post-processing.

Krähenbühl & Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials", NIPS
2011, arXiv 1210.5644. Mean-field inference over all pairs of pixels: a Gaussian kernel of the positions
removes specks, a bilateral kernel of positions and colours pulls label borders to image borders. The unary
energies are −log of the probabilities, clipped at 1e-5; compatibility is Potts, normalisation symmetric. One
update:

    Q ← softmax(−unary + Σ_kernels weight · N·K·N·Q),   N = 1/√(K·1)

It trains nothing: it refines the output of the model named by `trained_as`. The kernels K are applied by a
permutohedral lattice (`common/kernels/lattice.py`, on any device), or by `pydensecrf`, the reference, which
takes one CPU core per image.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from multiprocessing import get_context
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from common.kernels.lattice import Lattice
from common.kernels.mean_field import mean_field
from common.kernels.transforms import outside, transformed
from methods.base import Method

Engine = Literal["torch", "pydensecrf"]
Normalisation = Literal["symmetric", "after"]

FLOOR = 1e-5
"""Probabilities below this are taken as this."""

TOLERANCE = 1e-3
"""By how much probabilities may lie outside of 0–1 for rounding, of half precision too."""

PIXELS = 2**20
"""Images of so many pixels in all, or one larger image, are taken at a time on a CPU."""

CACHE = 2**25
"""Bytes of marginals up to which images are taken together on a GPU: its cache would forget more."""


class DenseCRF(Method):
    """Mean field on the image at full size."""

    trained_as = "ce"
    refines = "softmax"  # also of networks that are trained with sigmoids, as published with RMI

    def __init__(
        self,
        num_classes: int,
        feature_channels: int,
        iterations: int = 10,
        gaussian: Sequence[float] = (3, 3.0),
        bilateral: Sequence[float] = (30, 13, 10.0),
        engine: Engine = "torch",
    ) -> None:
        """
        Args:
            num_classes: K.
            feature_channels: C; not used.
            iterations: Mean-field updates, at least 1.
            gaussian: Standard deviation in pixels and weight of the position kernel.
            bilateral: Standard deviations in pixels and in colour (0–255) and weight of the other.
            engine: What computes it.

        Raises:
            ValueError: An option is out of its range.
        """
        super().__init__(num_classes, feature_channels)
        check(iterations, gaussian, bilateral, engine)
        self.options = {
            "iterations": iterations,
            "gaussian": gaussian,
            "bilateral": bilateral,
            "engine": engine,
        }

    def refine(self, images: Tensor, probabilities: Tensor) -> Tensor:
        # mypy: options of several types
        return dense_crf(images, probabilities, **self.options)  # type: ignore[arg-type]


def check(
    iterations: int, gaussian: Sequence[float], bilateral: Sequence[float], engine: str = "torch"
) -> None:
    """Raises a ValueError that says which option of a dense CRF is out of its range."""
    if not 1 <= iterations <= 1000:
        raise ValueError(f"iterations must be at least 1 and at most 1000, not {iterations!r}")
    for name, values, count in (("gaussian", gaussian, 2), ("bilateral", bilateral, 3)):
        if len(values) != count or not all(0 < value < float("inf") for value in values):
            raise ValueError(f"{name} must be {count} positive numbers, not {values!r}")
    if engine not in ("torch", "pydensecrf"):
        raise ValueError(f"engine must be torch or pydensecrf, not {engine!r}")


def dense_crf(
    images: Tensor,
    probabilities: Tensor,
    *,
    iterations: int = 10,
    gaussian: Sequence[float] = (3, 3.0),
    bilateral: Sequence[float] = (30, 13, 10.0),
    engine: Engine = "torch",
) -> Tensor:
    """The marginals of a fully connected CRF.

    Args:
        images: uint8 `[N, 3, H, W]`, on the device of the probabilities.
        probabilities: Of the labels of each pixel, `[N, K, H, W]`, in 0–1.
        iterations: Mean-field updates, at least 1.
        gaussian: Standard deviation in pixels and weight of the position kernel.
        bilateral: Standard deviations in pixels and in colour (0–255) and weight of the other.
        engine: `torch`, on the tensors' device, differentiable by the probabilities any number of times; or
            `pydensecrf`, on the CPU, as many images at a time as PyTorch uses threads, without a derivative.

    Returns:
        `[N, K, H, W]`, summing to one over K, of the probabilities' type; half is computed in float32.

    Raises:
        ValueError: A shape, type, device, value or an option does not fit.
    """
    check(iterations, gaussian, bilateral, engine)
    _check_input(images, probabilities)
    if engine == "pydensecrf":
        if probabilities.requires_grad and torch.is_grad_enabled():
            raise ValueError(
                "pydensecrf gives no gradient: use the engine torch, or detach the probabilities"
            )
        return _by_pydensecrf(images, probabilities, iterations, gaussian, bilateral).to(probabilities)
    deviations, weights = (gaussian[0], *bilateral[:2]), (gaussian[1], bilateral[2])
    unary = probabilities.to(torch.promote_types(probabilities.dtype, torch.float32)).clamp(min=FLOOR).log()
    result = crf_scores(images, unary, deviations, weights, iterations, marginals=True)
    return result.to(probabilities.dtype)


def _check_input(images: Tensor, probabilities: Tensor) -> None:
    """Raises a ValueError that says what is wrong with images or probabilities."""
    if (
        probabilities.ndim != 4
        or not len(images)
        or [*images.shape] != [len(probabilities), 3, *probabilities.shape[2:]]
    ):
        raise ValueError(
            f"images must be [N, 3, H, W] and probabilities [N, K, H, W], not {[*images.shape]} "
            f"and {[*probabilities.shape]}"
        )
    if images.dtype != torch.uint8:
        kind = str(images.dtype).removeprefix("torch.")
        raise ValueError(f"images must be uint8 in 0–255, as they are in files, not {kind}")
    if not probabilities.is_floating_point() or images.device != probabilities.device:
        raise ValueError(
            f"probabilities must be of a floating-point type on the images' device {images.device}, not "
            f"{str(probabilities.dtype).removeprefix('torch.')} on {probabilities.device}"
        )
    if transformed() or not probabilities.numel():
        return  # a value cannot be looked at while functions of it are batched
    low, high = torch.stack(probabilities.detach().aminmax()).tolist()
    if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):  # so is NaN
        raise ValueError(
            f"probabilities must be in 0–1, and these are in {low:.4g} to {high:.4g}: give the softmax of "
            "scores"
        )


@torch.compiler.disable  # it has nothing that PyTorch's compiler could make faster
def crf_scores(
    images: Tensor,
    unary: Tensor,
    deviations: Sequence[float],
    weights: Sequence[float | Tensor],
    iterations: int,
    normalisation: Normalisation = "symmetric",
    marginals: bool = False,
) -> Tensor:
    """Scores whose softmax are the marginals of a fully connected CRF, or these.

    Args:
        images: `[N, 3, H, W]`, colours in 0–255.
        unary: Scores of the labels (not energies), `[N, K, H, W]`, float32 or float64.
        deviations: Of the position kernel in pixels, and of the bilateral one in pixels and in colour.
        weights: Of each kernel, a number (Potts: labels speak for themselves alone) or how much the label of
            one pixel (column) speaks for that of another (row), `[K, K]`.
        iterations: How many updates, at least 1.
        normalisation: Of the kernels K, with N = 1/√(K·1): `symmetric`, N·K·N, or `after`, N²·K, the mean of
            the neighbours.
        marginals: Whether to return these.

    Returns:
        `[N, K, H, W]`; differentiable by unary and weights any number of times.
    """
    k, h, w = unary.shape[1:]
    limit = PIXELS if unary.device.type == "cpu" else CACHE // (k * unary.element_size())
    together = max(1, limit // (h * w))
    parts = []
    for some, scores in zip(images.split(together), unary.split(together)):
        with outside(some) as pixels:
            kernels = _kernels(pixels, normalisation, *deviations)
        result = mean_field(scores.flatten(2), kernels, weights, iterations, marginals)
        parts.append(result.unflatten(2, (h, w)))
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _kernels(
    images: Tensor, normalisation: Normalisation, deviation: float, bilateral: float, colour: float
) -> tuple[Lattice, Lattice]:
    """The kernel of positions and that of positions and colours, of given standard deviations."""
    places = _positions(*images.shape[2:], images.device).expand(len(images), -1, -1)
    colours = images.flatten(2).mT.float() / colour
    both = _kernel(torch.cat([places / float(bilateral), colours], dim=2), normalisation)
    return _position_kernel(*images.shape[2:], float(deviation), images.device, normalisation), both


@lru_cache(maxsize=8)  # most images of a data set have one of a few sizes
def _position_kernel(
    h: int, w: int, deviation: float, device: torch.device, normalisation: Normalisation
) -> Lattice:
    """The kernel of positions is the same for all images of a size."""
    with torch.inference_mode(False):
        return _kernel(_positions(h, w, device).unsqueeze(0) / deviation, normalisation)


def _kernel(features: Tensor, normalisation: Normalisation) -> Lattice:
    """A Gaussian kernel K between all pairs of an image's pixels, normalised.

    Args:
        features: Of each image's pixels, in units of the standard deviations, `[N, P, d]`.
        normalisation: `symmetric`, N·K·N with N = 1/√(K·1), or `after`, N²·K: the mean of the neighbours.
    """
    lattice = Lattice(features)
    ones = torch.ones(features.shape[0] * features.shape[1], 1, device=features.device)
    sums = lattice.filter(ones).squeeze(1) + 1e-20
    if normalisation == "symmetric":
        lattice.normalise(sums.rsqrt(), sums.rsqrt())
    else:
        lattice.normalise(None, sums.reciprocal())
    return lattice


@lru_cache(maxsize=4)
def _positions(h: int, w: int, device: torch.device) -> Tensor:
    """Pixels' columns and rows, `[h · w, 2]`."""
    with torch.inference_mode(False):
        sides = (torch.arange(side, device=device, dtype=torch.float32) for side in (h, w))
        rows, columns = torch.meshgrid(*sides, indexing="ij")
        return torch.stack([columns, rows], dim=2).flatten(0, 1)


def _by_pydensecrf(
    images: Tensor,
    probabilities: Tensor,
    iterations: int,
    gaussian: Sequence[float],
    bilateral: Sequence[float],
) -> Tensor:
    """The mean field by `pydensecrf`, the reference; float32 on the CPU."""
    pixels = images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    given = probabilities.detach().float().contiguous().cpu().numpy()
    tasks = [(*pair, iterations, gaussian, bilateral) for pair in zip(pixels, given, strict=True)]
    workers = min(len(tasks), torch.get_num_threads())
    if workers == 1:
        results = [_one_by_pydensecrf(*task) for task in tasks]
    else:
        # Processes, because it holds Python's lock. They may be forked, even after CUDA or OpenMP have
        # started, because they use nothing but NumPy.
        with ProcessPoolExecutor(workers, mp_context=get_context("fork")) as pool:
            results = [*pool.map(_one_by_pydensecrf, *zip(*tasks))]
    return torch.from_numpy(np.stack(results))


def _one_by_pydensecrf(
    pixels: np.ndarray,
    probabilities: np.ndarray,
    iterations: int,
    gaussian: Sequence[float],
    bilateral: Sequence[float],
) -> np.ndarray:
    """`[H, W, 3]` uint8 and `[K, H, W]` float32 to `[K, H, W]`."""
    from pydensecrf.densecrf import DenseCRF2D
    from pydensecrf.utils import unary_from_softmax

    k, h, w = probabilities.shape
    crf = DenseCRF2D(w, h, k)
    crf.setUnaryEnergy(unary_from_softmax(probabilities))
    position, weight = gaussian
    crf.addPairwiseGaussian(sxy=position, compat=weight)
    position, colour, weight = bilateral
    crf.addPairwiseBilateral(sxy=position, srgb=colour, rgbim=pixels, compat=weight)
    return np.array(crf.inference(iterations), dtype=np.float32).reshape(k, h, w)
