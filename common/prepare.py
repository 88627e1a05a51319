"""Stage `prepare`: looks at a dataset once, reports everything that is wrong, writes its manifest.

The manifest lists the images that are there and what is in them; training and evaluation go by it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from tqdm import tqdm

from common import config as configuration
from common import runs, stages
from common.config import Config
from common.datasets.base import Dataset, panel_indices
from common.errors import UserError
from common.files import replacing, write_json
from common.provenance import record
from methods.base import VOID


def prepare(config: Config, name: str) -> None:
    """Writes the manifest of a dataset and the images for its picture panels.

    Raises:
        UserError: Files are missing, damaged or not legal; the message lists them all.
    """
    target = runs.manifest(config, name)
    with stages.recording_failure(target.error, "prepare"):
        start = time.monotonic()
        dataset = configuration.dataset(config, name)
        content, panel = inspect(dataset, name)
        with replacing(target.panel, "wb") as file:
            np.savez_compressed(file, **panel)
        content |= {
            "dataset": name,
            "options": configuration.dataset_options(config, name),
            "digest": target.digest,
            "provenance": record("cpu"),
            "wall_seconds": round(time.monotonic() - start, 3),
        }
        write_json(target.path, content)


def inspect(dataset: Dataset, name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Reads every image of every split.

    Returns:
        The manifest's content, and the arrays of the panels: `<split>_image_<i>`, `<split>_labels_<i>`.

    Raises:
        UserError: Some files are bad; the message lists them all.
    """
    problems: list[str] = []
    splits: dict[str, Any] = {}
    panel: dict[str, np.ndarray] = {}
    content_hash = hashlib.sha256()
    classes = len(dataset.class_names)
    for split in dataset.splits:
        try:
            names = dataset.names(split)
        except UserError as error:
            problems.append(str(error))
            continue
        shown = panel_indices(len(names))
        pixels = np.zeros(256, np.int64)
        images_with = np.zeros(256, np.int64)
        brightness = np.zeros((3, 256), np.int64)
        sizes = []
        for index, image, labels in _read_all(dataset, split, names, problems):
            sizes.append(labels.shape)
            counts = np.bincount(labels.ravel(), minlength=256)
            pixels += counts
            images_with += counts > 0
            brightness += [np.bincount(image[..., c].ravel(), minlength=256) for c in range(3)]
            content_hash.update(image.tobytes())
            content_hash.update(labels.tobytes())
            if index in shown:
                panel[f"{split}_image_{shown.index(index)}"] = image
                panel[f"{split}_labels_{shown.index(index)}"] = labels
        mean, deviation = _mean_and_deviation(brightness)
        splits[split] = {
            "names": names,
            "sizes": sorted({f"{w}x{h}" for h, w in sizes}),
            "pixels": {n: int(c) for n, c in zip(dataset.class_names, pixels[:classes])},
            "images_with": {n: int(c) for n, c in zip(dataset.class_names, images_with[:classes])},
            "void_pixels": int(pixels[VOID]),
            "colour_mean": mean,
            "colour_std": deviation,
        }
    problems += _in_several_splits(splits)
    if problems:
        raise UserError(_summary(name, problems))
    content = {
        "class_names": list(dataset.class_names),
        "colours": [list(colour) for colour in dataset.colours],
        "void": VOID,
        "content_sha256": content_hash.hexdigest(),
        "splits": splits,
    }
    return content, panel


def _mean_and_deviation(brightness: np.ndarray) -> tuple[list[float], list[float]]:
    """Of red, green and blue over all pixels, in 0–1, from how many pixels have each of the 256 values."""
    values = np.arange(256) / 255
    pixels = np.maximum(brightness.sum(axis=1), 1)
    mean = brightness @ values / pixels
    variance = np.maximum(brightness @ values**2 / pixels - mean**2, 0)
    return mean.round(6).tolist(), np.sqrt(variance).round(6).tolist()


def _read_all(
    dataset: Dataset, split: str, names: list[str], problems: list[str]
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    for index, name in enumerate(tqdm(names, desc=split, unit="image", disable=None, dynamic_ncols=True)):
        try:
            image, labels = dataset.read(split, name)
        except UserError as error:
            problems.append(str(error))
        else:
            yield index, image, labels


def _in_several_splits(splits: dict[str, Any]) -> list[str]:
    seen: dict[str, str] = {}
    problems = []
    for split, content in splits.items():
        for name in content["names"]:
            other = seen.setdefault(name, split)
            if other != split:
                problems.append(f"the image {name} is in both {other} and {split}")
    return problems


def _summary(name: str, problems: list[str]) -> str:
    distinct = list(dict.fromkeys(problems))
    if len(distinct) == 1:
        return f"dataset {name}: {distinct[0].removeprefix(f'dataset {name}: ')}"
    listed = "".join(f"  {problem}\n" for problem in distinct)
    return f"dataset {name}:\n{listed}dataset {name} has {len(distinct)} problems: mend or remove these files"


def _main() -> None:
    parsed = stages.arguments("Checks a dataset and writes its manifest.", "dataset")
    stages.check_digest(parsed.digest, runs.manifest(parsed.config, parsed.dataset).digest)
    prepare(parsed.config, parsed.dataset)
    print(runs.manifest(parsed.config, parsed.dataset).path)


if __name__ == "__main__":
    stages.main(_main)
