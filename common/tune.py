"""Stage `tune`: tries a refining method's options on a split that is not tested. It trains nothing.

Every candidate of `tuning.grid` refines the probabilities of the model that `tuning.method` reuses, at the
first seed. The split that the tables score is never read.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from tabulate import tabulate
from tqdm import tqdm

from common import config as configuration
from common import devices, metrics, runs, stages
from common.config import Config
from common.datasets.loading import Sample, Split
from common.files import read_json, replacing, write_json
from common.inference import Predictor, refine
from common.provenance import record
from methods import Method

SHOWN = 10
"""How many of the best candidates the report shows."""


def tune(config: Config, tuning: runs.Tuning) -> None:
    """Writes the table of all candidates, the best one's options, and a report.

    The table has the best candidate first: its options, mIoU and pixel accuracy in percent. After an
    interruption it goes on with the next image.

    Raises:
        UserError: The trained model or the data are missing, or the split is the one that the tables score.
    """
    with (
        stages.recording_failure(tuning.folder / "error.json", "tune"),
        devices.leased(config["execution"]["device"]) as device,
    ):
        name = configuration.tuning_split(config, tuning.dataset, tuning.model)
        dataset = configuration.dataset(config, tuning.dataset)
        manifest = read_json(tuning.run.manifest.path)
        predictor = Predictor.of(config, tuning.run, device)
        split = Split(dataset, manifest, name)
        shown = _spread(len(split), config["tuning"]["images"])
        arguments = (len(dataset.class_names), predictor.network.feature_channels)
        entry = configuration.method(config, tuning.run.method, tuning.dataset)
        options = configuration.tuning_grid(config)
        candidates = [entry.with_options(o).build(*arguments).to(device).eval() for o in options]
        counts = _counts(tuning, predictor, candidates, split, shown, len(dataset.class_names))
        before, *after = [metrics.scores(c, list(dataset.class_names)) for c in counts.sum(axis=0)]
        table = pd.DataFrame(
            {
                **{key: [o[key] for o in options] for key in config["tuning"]["grid"]},
                "miou": [100 * s["miou"] for s in after],
                "pixel_accuracy": [100 * s["pixel_accuracy"] for s in after],
            }
        ).sort_values("miou", ascending=False, kind="stable", ignore_index=True)
        with replacing(tuning.table) as file:
            table.to_csv(file, index=False)
        best = max(range(len(options)), key=lambda index: after[index]["miou"])
        write_json(
            tuning.chosen,
            {
                "dataset": tuning.dataset,
                "model": tuning.model,
                "method": tuning.run.method,
                "options": options[best],
                "miou": 100 * after[best]["miou"],
                "miou_unrefined": 100 * before["miou"],
                "split": name,
                "images": [split.names[i][1] for i in shown],
                "candidates": len(table),
                "trained": predictor.provenance,
                "provenance": record(devices.describe(device)),
            },
        )
        with replacing(tuning.report) as file:
            file.write(_report(tuning, table))


def _spread(count: int, wanted: int | None) -> list[int]:
    """Indices of at most `wanted` images, evenly spread over the split."""
    if wanted is None or wanted >= count:
        return list(range(count))
    return [round(i * (count - 1) / max(1, wanted - 1)) for i in range(wanted)]


@torch.inference_mode()
def _counts(
    tuning: runs.Tuning,
    predictor: Predictor,
    candidates: Sequence[Method],
    split: Split,
    shown: Sequence[int],
    num_classes: int,
) -> np.ndarray:
    """Confusion counts `[images, 1 + candidates, K, K]`; the first are those without refinement.

    Those of every image are kept in a file of their own, which an interrupted search reads again.
    """
    result = []
    for index in tqdm(shown, desc="images", disable=None):
        file, name = tuning.state / f"{index}.npz", split.names[index][1]
        counts = _kept(file, name, (1 + len(candidates), num_classes, num_classes))
        if counts is None:
            counts = _count(predictor, candidates, split[index], num_classes)
            with replacing(file, "wb") as opened:
                np.savez_compressed(opened, name=name, counts=counts)
        result.append(counts)
    return np.stack(result)


def _kept(file: Path, name: str, shape: tuple[int, ...]) -> np.ndarray | None:
    """The counts that were kept of an image, if they are of this very image and shape."""
    try:
        with np.load(file) as found:
            counts = found["counts"]
            return counts if str(found["name"]) == name and counts.shape == shape else None
    except FileNotFoundError:
        return None
    except Exception as error:  # a damaged file fails in many ways
        print(f"structseg: {file} is damaged ({type(error).__name__}) and written anew")
        return None


def _count(
    predictor: Predictor, candidates: Sequence[Method], sample: Sample, num_classes: int
) -> np.ndarray:
    image = sample.image.unsqueeze(0).to(predictor.device)
    probabilities = predictor.unrefined(image)
    refined = (refine(candidate, image, probabilities) for candidate in candidates)
    labels = (metrics.labels_of(x)[0].cpu() for x in itertools.chain([probabilities], refined))
    return np.stack([metrics.confusion(x, sample.labels, num_classes) for x in labels])


def _report(tuning: runs.Tuning, table: pd.DataFrame) -> str:
    chosen: dict[str, Any] = read_json(tuning.chosen)
    options = yaml.safe_dump(chosen["options"], default_flow_style=True, width=1000).strip()
    return (
        f"{tuning.dataset}, {tuning.model}: mIoU on {chosen['split']} ({len(chosen['images'])} images) is "
        f"{chosen['miou_unrefined']:.2f} % before, and with the best of {len(table)} candidates:\n\n"
        + tabulate(table.head(SHOWN), headers="keys", tablefmt="github", showindex=False, floatfmt=".2f")
        + f"\n\nTo use it: method_options.{tuning.run.method}.per_dataset.{tuning.dataset}: {options}\n"
    )


def _main() -> None:
    parsed = stages.arguments("Tries a refining method's options.", "dataset", "model")
    tuning = runs.tuning(parsed.config, parsed.dataset, parsed.model)
    stages.check_digest(parsed.digest, tuning.digest)
    tune(parsed.config, tuning)
    print(tuning.report)


if __name__ == "__main__":
    stages.main(_main)
