"""Stage `tabulate`: leaderboards and picture panels from whatever run files exist.

Nothing is trained or evaluated here, so it may run at any time: runs that failed or are not there yet
are rows with their reason.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tabulate import tabulate as format_table

from common import config as configuration
from common import figures, published, runs, stages
from common.config import Config
from common.errors import UserError
from common.files import read_json, replacing, write_json
from common.statistics import mean_and_deviation, paired_differences

TIMES = ("network_ms", "structure_ms", "refine_ms", "training_step_ms")

READ = "predictions read from a folder"
"""The origin of rows that another system has predicted."""

CERTIFICATE = ("gap_per_cell", "agreement")
"""Diagnostics that the leaderboard shows for the methods that have them."""


@dataclass
class Result:
    """What the files of one run say.

    Attributes:
        run: The run.
        metrics: Its scores, or None.
        cost: Its cost, or None.
        error: Why something is missing, or None.
    """

    run: runs.Run
    metrics: dict[str, Any] | None = None
    cost: dict[str, Any] | None = None
    error: str | None = None

    @property
    def complete(self) -> bool:
        """Whether all that there can be is there: predictions that were read cost nothing that is known."""
        return bool(self.metrics and (self.cost or self.run.predictions))


@dataclass
class Row:
    """The results of one method on one dataset with one model, over seeds."""

    dataset: str
    model: str
    method: str
    results: list[Result] = field(default_factory=list)

    def values(self, key: str) -> dict[int, float]:
        """A score in percent for every seed that has it."""
        return {r.run.seed: 100 * r.metrics[key] for r in self.results if r.metrics}

    def median_cost(self, key: str) -> float:
        """The median over seeds of an entry of `cost.json`; NaN if there is none."""
        values = [r.cost[key] for r in self.results if r.cost]
        return float(np.median(values)) if values else math.nan

    def diagnostic(self, key: str) -> float:
        """The mean over seeds of a diagnostic of the method; NaN if it has none of that name."""
        found = [r.metrics.get("diagnostics", {}).get(key) for r in self.results if r.metrics]
        values = [value for value in found if value is not None]
        return float(np.mean(values)) if values else math.nan

    @property
    def error(self) -> str:
        """Why results are missing, with the seeds that it is true of."""
        seeds: dict[str, list[str]] = {}
        for result in self.results:
            if result.error:
                seeds.setdefault(result.error, []).append(str(result.run.seed))
        return "; ".join(f"seed {', '.join(which)}: {reason}" for reason, which in seeds.items())


def tabulate(config: Config) -> Path:
    """Writes all tables and panels and returns the path of the leaderboard in Markdown."""
    folder = Path(config["results"])
    results = [_read(run) for run in runs.runs(config)]
    rows = _rows(config, results)
    table = published.beside(config, leaderboard(config, rows))
    per_class = published.beside_classes(config, _per_class(rows))
    notes = _notes(config, results)
    _write_text(folder / "leaderboard.csv", table.to_csv(index=False))
    _write_text(folder / "per_class.csv", per_class.to_csv(index=False))
    _write_text(folder / "leaderboard.md", _markdown(config, table, per_class, notes))
    _write_text(folder / "leaderboard.tex", _latex(config, table))
    for name, model in itertools.product(config["datasets"], config["models"]):
        chosen = [row for row in rows if (row.dataset, row.model) == (name, model)]
        _draw_panel(config, runs.panel(config, name, model), chosen)
    runs.forget_tables(config)
    if all(r.complete for r in results):
        write_json(runs.stamp(config), {"runs": [str(r.run.folder) for r in results]})
    return folder / "leaderboard.md"


# Reading


def _read(run: runs.Run) -> Result:
    result = Result(run)
    try:
        if run.metrics.exists():
            result.metrics = read_json(run.metrics)
        if run.cost.exists():
            result.cost = read_json(run.cost)
        if not result.complete:
            result.error = _reason(run)
    except UserError as error:
        result.error = str(error)
    return result


def _reason(run: runs.Run) -> str:
    folders = [run.folder / "error.json"]
    if run.training is None:
        folders.append(run.manifest.error)
    elif not run.training.file.exists() and not run.metrics.exists():
        folders += [run.training.folder / "error.json", run.manifest.error]
    for path in folders:
        if path.exists():
            failure = read_json(path)
            return f"{failure['stage']} failed: {failure['error']}"
    if run.metrics.exists():
        return "not measured yet"
    return "not evaluated yet" if run.training is None or run.training.file.exists() else "not trained yet"


def _rows(config: Config, results: Iterable[Result]) -> list[Row]:
    rows: dict[tuple[str, str, str], Row] = {}
    for result in results:
        key = (result.run.dataset, result.run.model, result.run.method)
        rows.setdefault(key, Row(*key)).results.append(result)
    return list(rows.values())


# Tables


def leaderboard(config: Config, rows: list[Row]) -> pd.DataFrame:
    """One line per dataset, model and method; best first within a dataset and model.

    Scores are percent, times are medians in milliseconds; `difference` is to the baseline, paired by
    seed. `seeds` counts the seeds with scores.
    """
    baseline = config["tables"]["baseline"]
    scores = {(r.dataset, r.model, r.method): r.values("miou") for r in rows}
    lines = []
    for row in rows:
        miou, accuracy = row.values("miou"), row.values("pixel_accuracy")
        difference: list[float] = []
        if row.method != baseline:
            difference = paired_differences(miou, scores.get((row.dataset, row.model, baseline), {}))
        line: dict[str, Any] = {
            "dataset": row.dataset,
            "model": row.model,
            "method": row.method,
            "seeds": len(miou),
            "scored_on": _scored_on(config, row.dataset, row.model),
        }
        line["miou_mean"], line["miou_std"] = mean_and_deviation(list(miou.values()))
        line["difference_mean"], line["difference_std"] = mean_and_deviation(difference)
        line["pixel_accuracy_mean"], line["pixel_accuracy_std"] = mean_and_deviation(list(accuracy.values()))
        for key in (*TIMES, "parameters"):
            line[key] = row.median_cost(key)
        for key in CERTIFICATE:
            line[key] = row.diagnostic(key)
        devices = {r.cost["provenance"]["device"] for r in row.results if r.cost}
        line["device"] = "; ".join(sorted(devices))
        read = any(result.run.predictions for result in row.results)
        line["origin"] = READ if read else "trained here"
        line["error"] = row.error
        lines.append(line)
    table = pd.DataFrame(lines)
    order = {name: place for place, name in enumerate([*config["datasets"], *config["models"]])}
    table["_dataset"], table["_model"] = table["dataset"].map(order), table["model"].map(order)
    table = table.sort_values(
        ["_dataset", "_model", "miou_mean"], ascending=[True, True, False], kind="stable"
    )
    return table.drop(columns=["_dataset", "_model"]).reset_index(drop=True)


def _scored_on(config: Config, dataset: str, model: str) -> str:
    """The split, and how its images were seen if not only as they are."""
    settings = configuration.settings(config, "evaluation", dataset, model)
    seen = []
    if settings["scales"] != [1]:
        seen.append(f"of scales {', '.join(map(str, settings['scales']))}")
    if settings["flip"]:
        seen.append("of flips")
    return settings["split"] + (f", mean {' and '.join(seen)}" if seen else "")


def _per_class(rows: list[Row]) -> pd.DataFrame:
    """IoU in percent of every class, mean over the seeds in which it occurs."""
    lines = []
    for row in rows:
        scored = [r.metrics["iou"] for r in row.results if r.metrics]
        for name in scored[0] if scored else ():
            values = [100 * iou[name] for iou in scored if iou[name] is not None]
            mean, deviation = mean_and_deviation(values)
            lines.append([row.dataset, row.model, row.method, name, len(values), mean, deviation])
    columns = ["dataset", "model", "method", "class", "seeds", "iou_mean", "iou_std"]
    return pd.DataFrame(lines, columns=columns)


def _cells(config: Config, table: pd.DataFrame, plus_minus: str) -> pd.DataFrame:
    """The leaderboard as people read it."""

    def spread(mean: float, deviation: float, sign: str = "") -> str:
        if math.isnan(mean):
            return "–"
        text = f"{mean:{sign}.2f}"
        return text if math.isnan(deviation) else f"{text} {plus_minus} {deviation:.2f}"

    def number(value: float, digits: int) -> str:
        return "–" if math.isnan(value) else f"{value:.{digits}f}"

    certified = not table[[*CERTIFICATE]].isna().all(axis=None)
    compared = table["published"].notna().any()
    lines = []
    for line in table.to_dict("records"):
        certificate = {
            "gap/cell": number(line["gap_per_cell"], 3),
            "agreement %": number(100 * line["agreement"], 1),
        }
        baseline = line["method"] == config["tables"]["baseline"]
        lines.append(
            {
                "method": line["method"] + (" *" if line["origin"] == READ else ""),
                "mIoU %": spread(line["miou_mean"], line["miou_std"]),
                f"Δ {config['tables']['baseline']}": "baseline"
                if baseline
                else spread(line["difference_mean"], line["difference_std"], "+"),
                **(published.cells(line) if compared else {}),
                "pixel acc. %": spread(line["pixel_accuracy_mean"], line["pixel_accuracy_std"]),
                "network ms": number(line["network_ms"], 1),
                "structure ms": number(line["structure_ms"], 1),
                "refine ms": number(line["refine_ms"], 1),
                "train step ms": number(line["training_step_ms"], 1),
                "params M": number(line["parameters"] / 1e6, 2),
                **(certificate if certified else {}),
                "seeds": line["seeds"],
            }
        )
    return pd.DataFrame(lines)


def _markdown(config: Config, table: pd.DataFrame, per_class: pd.DataFrame, notes: list[str]) -> str:
    parts = ["# Leaderboard"]
    for (name, model), group in table.groupby(["dataset", "model"], sort=False):
        cells = _cells(config, group, "±")
        if group["error"].any():
            cells["error"] = [text.replace("|", "\\|") for text in group["error"]]
        parts.append(f"## {name}, {model} (scored on {_scored_on(config, str(name), str(model))})")
        parts.append(_github(cells))
        listed = published.sources(config, group)
        if listed:
            parts.append("Published mIoU, % (the table shows the first source's):\n\n" + "\n".join(listed))
        chosen = per_class[(per_class["dataset"] == name) & (per_class["model"] == model)]
        if len(chosen):
            pivot = chosen.pivot(index="class", columns="method", values="iou_mean")
            pivot = pivot.loc[chosen["class"].unique(), chosen["method"].unique()]
            pivot = pivot.map(lambda value: "–" if math.isnan(value) else f"{value:.1f}")
            pivot = published.class_columns(chosen, pivot)
            parts.append("IoU per class, %:\n\n" + _github(pivot.reset_index()))
    baseline = config["tables"]["baseline"]
    parts.append(
        f"mIoU and pixel accuracy: mean ± standard deviation over seeds. Δ {baseline}: difference of "
        f"mIoU to {baseline}, paired by seed. Times: medians per image (batch 1, original size), and "
        "per training step, measured alone on the device. With fewer than three seeds read nothing "
        "into a difference."
    )
    if not table[[*CERTIFICATE]].isna().all(axis=None):
        parts.append(
            "gap/cell: how far the score of the CRF's labelling is from that of the best one at most, per "
            "cell of the output grid; agreement: the share of cells at which all chains of the CRF have "
            "the same best label."
        )
    if (table["origin"] == READ).any():
        parts.append(f"\\*: {READ} and scored in the same way; not trained or measured here.")
    if notes:
        parts.append("\n".join(f"- {note}" for note in notes))
    return "\n\n".join(parts) + "\n"


def _github(cells: pd.DataFrame) -> str:
    return format_table(cells, headers="keys", tablefmt="github", showindex=False, disable_numparse=True)


def _latex(config: Config, table: pd.DataFrame) -> str:
    cells = _cells(config, table, "$\\pm$")
    cells.insert(0, "model", table["model"].tolist())
    cells.insert(0, "dataset", table["dataset"].tolist())
    cells = cells.rename(columns=_tex).map(lambda value: _tex(str(value)))
    return format_table(cells, headers="keys", tablefmt="latex_raw", showindex=False, disable_numparse=True)


def _tex(text: str) -> str:
    for plain, escaped in (("_", r"\_"), ("%", r"\%"), ("&", r"\&"), ("Δ", r"$\Delta$"), ("–", "--")):
        text = text.replace(plain, escaped)
    return text


def _notes(config: Config, results: list[Result]) -> list[str]:
    """What a reader must know before comparing rows."""
    scored = [r.metrics for r in results if r.metrics]
    measured = [r.cost for r in results if r.cost]
    notes = []
    trained = [m for m in scored if m["trained"]]
    origins = [m["provenance"] for m in scored] + [m["trained"]["provenance"] for m in trained]
    commits = {origin["commit"] for origin in origins}
    if len(commits) > 1:
        listed = ", ".join(sorted(str(commit)[:10] for commit in commits))
        notes.append(f"WARNING: rows come from different commits of the code: {listed}.")
    elif commits and str(next(iter(commits))).endswith("+changes"):
        notes.append("The code had uncommitted changes.")
    if len({origin["packages"].get("torch") for origin in origins}) > 1:
        notes.append("WARNING: rows were computed with different versions of PyTorch.")
    for name in config["datasets"]:
        rows = [m for m in scored if m["dataset"] == name]
        seen = [m["content_sha256"] for m in rows]
        seen += [m["trained"]["content_sha256"] for m in rows if m["trained"]]
        if len({*seen}) > 1:
            notes.append(f"WARNING: rows of {name} saw different files of the dataset.")
    for model in config["models"]:
        if len({m["trained"]["weights_sha256"] for m in trained if m["model"] == model}) > 1:
            notes.append(f"WARNING: rows of {model} started from different files of weights.")
    devices = sorted({m["provenance"]["device"] for m in measured})
    if len(devices) > 1:
        notes.append(f"WARNING: times come from different devices: {'; '.join(devices)}.")
    elif devices:
        notes.append(f"Times measured on: {devices[0]}.")
    return notes


# Files


def _write_text(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text)


def _draw_panel(config: Config, path: Path, rows: list[Row]) -> None:
    """The panel of one dataset and model, from each method's first seed that has a result."""
    first = rows[0].results[0].run
    source = first.manifest.panel
    split = configuration.settings(config, "evaluation", first.dataset, first.model)["split"]
    dataset = configuration.dataset(config, first.dataset)
    split = dataset.parts(split)[0]  # of joined splits, the panel shows the first
    columns = {}
    for row in rows:
        found = next((r for r in row.results if r.metrics and r.run.panel.exists()), None)
        if found:
            with np.load(found.run.panel) as arrays:
                columns[f"{row.method} (seed {found.run.seed})"] = [arrays[k] for k in sorted(arrays)]
    if not columns or not source.exists():
        return
    figures.draw_panel(path, dataset, source, split, columns)


def _main() -> None:
    parsed = stages.arguments("Writes the tables of whatever run files exist.")
    path = tabulate(parsed.config)
    print(path.read_text(encoding="utf-8"))
    print(f"Written to {path.parent}{os.sep}")


if __name__ == "__main__":
    stages.main(_main)
