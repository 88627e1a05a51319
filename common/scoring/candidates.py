"""Confusion counts of many refinements of one model, kept image by image so that a search can go on."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from common.datasets.split import Sample, Split
from common.errors import Damaged
from common.failures import renamed
from common.files import replacing
from common.integrity import read_arrays
from common.networks.structured import Refined, refined
from common.prediction.predictor import Predictor, check_result, labels_of
from common.scoring import metrics
from methods.base import Method, Refinable


def spread(count: int, limit: int | None) -> list[int]:
    """Indices of at most `limit` of `count` images, evenly spread; None is all."""
    if limit is None or limit >= count:
        return list(range(count))
    return [round(i * (count - 1) / max(1, limit - 1)) for i in range(limit)]


@torch.inference_mode()
def candidate_counts(
    folder: Path, predictor: Predictor, candidates: Sequence[Method], split: Split, indices: Sequence[int]
) -> NDArray[np.int64]:
    """Confusion counts without refinement, and with that of every candidate.

    Those of every image are kept in a file of their own, which an interrupted search reads again.

    Args:
        folder: Where they are kept.
        predictor: Gives the probabilities that are refined.
        candidates: What refines them.
        split: The images.
        indices: Which of them.

    Returns:
        `[images, 1 + candidates, K, K]`; the first are those without refinement.

    Raises:
        UserError: An image is missing, or a candidate cannot work with it.
    """
    num_classes, state = len(split.dataset.class_names), predictor.facts.state_sha256
    result = []
    for index in tqdm(indices, desc="images", disable=None):
        file, name = folder / f"{index}.npz", split.names[index][1]
        counts = _kept(file, name, state, (1 + len(candidates), num_classes, num_classes))
        if counts is None:
            counts = _count(predictor, candidates, split[index], num_classes, name)
            with replacing(file, "wb") as opened:
                np.savez_compressed(opened, name=name, state=state, counts=counts)
        result.append(counts)
    return np.stack(result)


def _kept(file: Path, name: str, state: str, shape: tuple[int, ...]) -> NDArray[np.int64] | None:
    """The counts that were kept of an image, if they are of this very image, model and shape.

    Raises:
        Unreachable: The system does not let them be read.
    """
    if not file.exists():
        return None
    try:
        arrays = read_arrays(file, "delete it")
    except Damaged as error:
        print(f"structseg: {renamed(error, 'its image is counted again')}")
        return None
    counts = arrays.get("counts", np.empty(0))
    own = (str(arrays.get("name")), str(arrays.get("state")), counts.shape) == (name, state, shape)
    return counts if own and counts.dtype.kind == "i" and (counts >= 0).all() else None


def _count(
    predictor: Predictor, candidates: Sequence[Method], sample: Sample, num_classes: int, name: str
) -> NDArray[np.int64]:
    """The counts `[1 + candidates, K, K]` of the image of that name."""
    image = sample.image.unsqueeze(0).to(predictor.device)
    kinds: set[Refinable] = {"trained", *(candidate.refines for candidate in candidates)}
    unrefined = {kind: predictor.unrefined(image, kind) for kind in kinds}
    refinements = (  # of copies: what one candidate changes in place, no other must see
        (method, refined(method, image.clone(), unrefined[method.refines].clone())) for method in candidates
    )
    counts = []
    plain = (predictor.method, Refined(unrefined["trained"]))
    for method, result in itertools.chain([plain], refinements):
        check_result(result, name, method)
        labels = labels_of(result)[0].cpu()
        counts.append(metrics.confusion(labels, sample.labels, num_classes))
    return np.stack(counts)
