"""Stage `tune`: tries a refining method's options on a split that is not tested. It trains nothing.

Every candidate of `tuning.grid` refines the probabilities of the model that `tuning.method` reuses, at the
first seed. The split that the tables score is never read.
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray
from tabulate import tabulate

from common import devices, failures, machine
from common.config.settings import Execution
from common.datasets.split import Split
from common.files import replacing
from common.prediction.predictor import Predictor
from common.provenance import Provenance
from common.runs.jobs import Tuning
from common.runs.records import Chosen
from common.scoring import metrics
from common.scoring.candidates import candidate_counts, spread
from common.stages import entry
from methods import Method

SHOWN = 10
"""How many of the best candidates the report shows."""


def tune(tuning: Tuning, execution: Execution) -> None:
    """Writes the table of all candidates, the best one's options, and a report.

    The table has the best candidate first: its options, mIoU and pixel accuracy in percent. After an
    interruption it goes on with the next image.

    Raises:
        UserError: The trained model or the data are missing, or a candidate cannot work with an image.
    """
    with (
        failures.recording_failure(tuning.error, "tune"),
        devices.leased(execution.device, execution.runs_per_gpu) as device,
        machine.shared(device.type),
    ):
        data, name = tuning.run.data, tuning.settings.split
        predictor = Predictor.of(tuning.run, device)
        split = Split(data.dataset, data.manifest(), name)
        indices = spread(len(split), tuning.settings.images)
        counts = candidate_counts(tuning.state, predictor, _candidates(tuning, predictor), split, indices)
        unrefined, *refined = counts.sum(axis=0)
        table = _table(tuning, refined)
        with replacing(tuning.table) as file:
            table.to_csv(file, index=False)
        percent = [100 * metrics.mean_iou(confusion) for confusion in refined]
        best = max(range(len(percent)), key=lambda index: percent[index])
        chosen = Chosen(
            dataset=tuning.run.dataset,
            model=tuning.run.model,
            method=tuning.run.method,
            options=tuning.candidates[best],
            miou=percent[best],
            miou_unrefined=100 * metrics.mean_iou(unrefined),
            split=name,
            images=[split.names[i][1] for i in indices],
            candidates=len(table),
            trained=predictor.facts,
            provenance=Provenance.now(devices.describe(device)),
        )
        chosen.write(tuning.chosen)
        with replacing(tuning.report) as file:
            file.write(_report(chosen, table))


def _candidates(tuning: Tuning, predictor: Predictor) -> list[Method]:
    """The method with the options of every candidate."""
    network = predictor.model.network
    size = (len(tuning.run.data.dataset.class_names), network.feature_channels)
    methods = (tuning.run.entry.with_options(options).build(*size) for options in tuning.candidates)
    return [method.to(predictor.device).eval() for method in methods]


def _table(tuning: Tuning, counts: list[NDArray[np.int64]]) -> pd.DataFrame:
    """Options and scores in percent of every candidate, from its counts `[K, K]`, the best one first."""
    return pd.DataFrame(
        {
            **{key: [o[key] for o in tuning.candidates] for key in tuning.settings.grid},
            "miou": [100 * metrics.mean_iou(confusion) for confusion in counts],
            "pixel_accuracy": [100 * metrics.pixel_accuracy(confusion) for confusion in counts],
        }
    ).sort_values("miou", ascending=False, kind="stable", ignore_index=True)


def _report(chosen: Chosen, table: pd.DataFrame) -> str:
    """What there is to read about a search."""
    options = yaml.safe_dump(chosen.options, default_flow_style=True, width=1000).strip()
    return (
        f"{chosen.dataset}, {chosen.model}: mIoU on {chosen.split} ({len(chosen.images)} images) is "
        f"{chosen.miou_unrefined:.2f} % before, and with the best of {len(table)} candidates:\n\n"
        + tabulate(table.head(SHOWN), headers="keys", tablefmt="github", showindex=False, floatfmt=".2f")
        + f"\n\nTo use it: method_options.{chosen.method}.per_dataset.{chosen.dataset}: {options}\n"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the configuration, dataset and model, and the machine."""
    entry.add_configuration(parser)
    entry.add_selection(parser, "dataset", "model")
    entry.add_machine(parser)


def run(arguments: argparse.Namespace) -> None:
    """Searches for the selected dataset and model."""
    tuning = entry.tuning(arguments)
    tune(tuning, entry.execution(arguments))
    print(tuning.report)
