"""Stage `tabulate`: leaderboards and picture panels from whatever run files exist.

Nothing is trained or evaluated here, so it may run at any time: runs that failed or are not there yet
are rows with their reason.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common import comparisons, costs, figures, published, rendering, runs, stages
from common import config as configuration
from common.boundaries import TRIMAP_WIDTHS
from common.comparisons import Bootstrap, Side
from common.config import Config
from common.errors import UserError
from common.files import read_arrays, read_json, replacing, write_json
from common.rendering import CERTIFICATE, READ
from common.statistics import interval, mean_and_deviation

SCORES = ("miou", "pixel_accuracy", "boundary_iou", "boundary_f", "ece")
"""Fractions of `metrics.json` that tables show in percent."""


@dataclass
class Result:
    """What the files of one run say.

    Attributes:
        run: The run, or a control.
        metrics: Its scores, or None.
        cost: Its cost, or None.
        error: Why something is missing, or None.
    """

    run: runs.Run | runs.Control
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

    def values(self, *keys: str) -> list[float]:
        """An entry of `metrics.json`, by its keys from outside in, of every seed that has it."""
        found = []
        for result in self.results:
            content: Any = result.metrics
            for key in keys:
                content = content.get(key) if content else None
            if content is not None:
                found.append(content)
        return found

    def percent(self, *keys: str) -> list[float]:
        """The same in percent."""
        return [100 * value for value in self.values(*keys)]

    @property
    def control(self) -> bool:
        """Whether it is a control."""
        return any(isinstance(result.run, runs.Control) for result in self.results)

    @property
    def costs(self) -> list[dict[str, Any]]:
        """What its runs cost, of those that were measured."""
        return [result.cost for result in self.results if result.cost]

    @property
    def trained_as(self) -> tuple[str, str, str] | None:
        """Which training its models come from, if any: rows that only refine share one."""
        trainings = [getattr(result.run, "training", None) for result in self.results]
        return next(((t.dataset, t.model, t.method) for t in trainings if t), None)

    @property
    def side(self) -> Side:
        """The row as comparisons see it."""
        scored = [r for r in self.results if r.metrics and isinstance(r.run, runs.Run)]
        return Side({r.run.seed: r.metrics for r in scored}, {r.run.seed: r.run.per_image for r in scored})

    def diagnostic(self, key: str) -> float:
        """The mean over seeds of a diagnostic of the method; NaN if it has none of that name."""
        return mean_and_deviation(self.values("diagnostics", key))[0]

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
    results = read(config)
    rows = _rows(config, results)
    controls = _controls(config)
    bootstrap = Bootstrap(folder / "cache" / "bootstrap.json")
    compared = compare(config, rows, bootstrap)
    table = leaderboard(config, rows, controls, compared, bootstrap)
    bootstrap.save()
    table = published.beside(config, table)
    per_class = published.beside_classes(config, _per_class([*rows, *controls]))
    trimap = _trimap([*rows, *controls])
    warnings = notes(config, results, compared)
    for name, content in (
        ("leaderboard", table),
        ("comparisons", compared),
        ("per_class", per_class),
        ("trimap", trimap),
        ("calibration", _calibration(rows)),
        ("cost", costs.table(zip(map(_names, rows), (row.costs for row in rows), _training(rows)))),
    ):
        _write_text(folder / f"{name}.csv", content.to_csv(index=False))
    _write_text(
        folder / "leaderboard.md", rendering.page(config, table, compared, per_class, trimap, warnings)
    )
    _write_text(folder / "leaderboard.tex", rendering.latex(config, table, compared, per_class, trimap))
    for name, model in itertools.product(config["datasets"], config["models"]):
        chosen = [row for row in rows if (row.dataset, row.model) == (name, model)]
        _draw_panel(config, runs.panel(config, name, model), chosen)
    runs.forget_tables(config)
    if all(r.complete for r in results):
        write_json(
            runs.stamp(config, [r.run for r in results]), {"runs": [str(r.run.folder) for r in results]}
        )
    return folder / "leaderboard.md"


# Reading


def read(config: Config) -> list[Result]:
    """What the files of every run say."""
    return [_read(run) for run in runs.runs(config)]


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


def _controls(config: Config) -> list[Row]:
    """The controls that are there or have failed."""
    rows = []
    for dataset, model in itertools.product(config["datasets"], config["models"]):
        for control in runs.controls(config, dataset, model):
            result = Result(control)
            try:
                if control.metrics.exists():
                    result.metrics = read_json(control.metrics)
                elif control.error.exists():
                    result.error = f"controls failed: {read_json(control.error)['error']}"
            except UserError as error:
                result.error = str(error)
            if result.metrics or result.error:
                rows.append(Row(dataset, model, control.name, [result]))
    return rows


# Tables


def _names(row: Row) -> dict[str, str]:
    return {"dataset": row.dataset, "model": row.model, "method": row.method}


def _training(rows: Sequence[Row]) -> list[list[dict[str, Any]]]:
    """For every row the costs of all rows whose models are trained the same way."""
    costs_of: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        costs_of.setdefault(row.trained_as, []).extend(row.costs)
    return [costs_of[row.trained_as] for row in rows]


def _tables(rows: Iterable[Row]) -> dict[tuple[str, str], list[Row]]:
    """The rows of each dataset and model."""
    tables: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        tables.setdefault((row.dataset, row.model), []).append(row)
    return tables


def compare(config: Config, rows: list[Row], bootstrap: Bootstrap) -> pd.DataFrame:
    """Every method beside the baseline of its dataset and model, by every score of `comparisons.METRICS`.

    p values are adjusted over the methods of a dataset, model and score.

    Returns:
        A line per comparison: dataset, model, method, baseline and `comparisons.COLUMNS`.
    """
    name = config["tables"]["baseline"]
    head = ["dataset", "model", "method", "baseline"]
    tables = [pd.DataFrame(columns=[*head, *comparisons.COLUMNS])]
    for members in _tables(rows).values():
        baseline = next((row.side for row in members if row.method == name), None)
        sides = [(row, row.side) for row in members if row.method != name]
        if baseline is None or not sides:
            continue
        for metric in comparisons.METRICS:
            found = comparisons.compare(metric, [(side, baseline) for _, side in sides], bootstrap)
            names = [_names(row) | {"baseline": name} for row, _ in sides]
            tables.append(pd.concat([pd.DataFrame(names), found], axis=1))
    filled = [table for table in tables if len(table)]
    return pd.concat(filled, ignore_index=True) if filled else tables[0]


def leaderboard(
    config: Config, rows: list[Row], controls: list[Row], compared: pd.DataFrame, bootstrap: Bootstrap
) -> pd.DataFrame:
    """One line per dataset, model and method, best first, and then one per control.

    Scores are percent, times are medians in milliseconds, on one device within a dataset and model;
    `difference` is to the baseline, over seeds and images. `seeds` counts the seeds with scores.
    """
    differences = {
        (line["dataset"], line["model"], line["method"]): line
        for line in compared[compared["metric"] == "miou"].to_dict("records")
    }
    lines = []
    by_table = _tables(controls)
    for key, members in _tables(rows).items():
        group = _group(config, members, differences, bootstrap)
        group.sort(key=lambda line: -line["miou_mean"] if line["seeds"] else math.inf)
        found = by_table.get(key, [])
        lines += [*group, *({**_scores(row), "error": row.results[0].error} for row in found)]
    return pd.DataFrame(lines, columns=list(lines[0]))


def _group(
    config: Config, rows: list[Row], differences: dict[Any, dict[str, Any]], bootstrap: Bootstrap
) -> list[dict[str, Any]]:
    """The lines of the methods of one dataset and model."""
    baseline = config["tables"]["baseline"]
    device = costs.main_device({row.method: row.costs for row in rows}, baseline)
    places = comparisons.ranks("miou", [row.side for row in rows], bootstrap)
    lines = []
    for row, place, trained in zip(rows, places, _training(rows)):
        found = differences.get((row.dataset, row.model, row.method), {})
        measured = any(costs.device_of(cost) == device for cost in row.costs)
        lines.append(
            {
                **_scores(row),
                "rank": place,
                "difference_mean": found.get("difference", math.nan),
                "difference_std": found.get("difference_std", math.nan),
                "difference_low": found.get("low", math.nan),
                "difference_high": found.get("high", math.nan),
                "p": found.get("p", math.nan),
                "p_holm": found.get("p_holm", math.nan),
                "reading": "baseline" if row.method == baseline else found.get("reading", ""),
                "detectable": found.get("detectable", math.nan),
                **costs.medians(row.costs, trained, device),
                **{key: row.diagnostic(key) for key in CERTIFICATE},
                "device": device if measured else "",
                "scored_on": rendering.scored_on(config, row.dataset, row.model),
                "origin": READ if any(result.run.predictions for result in row.results) else "trained here",
                "error": row.error,
            }
        )
    for flag, key in (("pareto_latency", "latency_ms"), ("pareto_training", "training_step_ms")):
        flags = costs.pareto([line["miou_mean"] for line in lines], [line[key] for line in lines])
        for line, on_front in zip(lines, flags):
            line[flag] = on_front
    return lines


def _scores(row: Row) -> dict[str, Any]:
    """What a line of the leaderboard says of a row alone."""
    seeds = 0 if row.control else len(row.values("miou"))
    line: dict[str, Any] = {**_names(row), "control": row.control, "rank": math.nan, "seeds": seeds}
    for key in (*SCORES, "nll"):
        values = row.values(key) if key == "nll" else row.percent(key)
        line[f"{key}_mean"], line[f"{key}_std"] = mean_and_deviation(values)
        line[f"{key}_low"], line[f"{key}_high"] = interval(values)
    return line


def _trimap(rows: list[Row]) -> pd.DataFrame:
    """MIoU in percent within bands of several widths around the truth's contours."""
    lines = []
    for row in rows:
        for width in TRIMAP_WIDTHS:
            values = row.percent("trimap_miou", str(width))
            if values:
                name = [row.dataset, row.model, row.method, row.control, width, len(values)]
                lines.append([*name, *mean_and_deviation(values), *interval(values)])
    columns = ["dataset", "model", "method", "control", "width", "seeds"]
    return pd.DataFrame(lines, columns=[*columns, "miou_mean", "miou_std", "miou_low", "miou_high"])


def _calibration(rows: list[Row]) -> pd.DataFrame:
    """Confidence and accuracy of every bin of confidence, pooled over seeds."""
    lines = []
    for row in rows:
        bins = row.values("reliability")
        if not bins:
            continue
        pixels, confidence, accuracy = (
            np.array([[np.nan if x is None else x for x in found[key]] for found in bins])
            for key in ("pixels", "confidence", "accuracy")
        )
        total = pixels.sum(axis=0)
        safe = np.where(total > 0, total, np.nan)
        means = (np.nansum(pixels * x, axis=0) / safe for x in (confidence, accuracy))
        for place, numbers in enumerate(zip(total, *means)):
            edges = (place / len(total), (place + 1) / len(total))
            lines.append([row.dataset, row.model, row.method, *edges, *numbers])
    columns = ["dataset", "model", "method", "bin_low", "bin_high", "pixels", "confidence", "accuracy"]
    return pd.DataFrame(lines, columns=columns)


def _per_class(rows: list[Row]) -> pd.DataFrame:
    """IoU in percent of every class, mean over the seeds in which it occurs."""
    lines = []
    for row in rows:
        scored = row.values("iou")
        for name in scored[0] if scored else ():
            values = [100 * iou[name] for iou in scored if iou[name] is not None]
            mean, deviation = mean_and_deviation(values)
            lines.append([row.dataset, row.model, row.method, name, len(values), mean, deviation])
    columns = ["dataset", "model", "method", "class", "seeds", "iou_mean", "iou_std"]
    return pd.DataFrame(lines, columns=columns)


def notes(config: Config, results: list[Result], compared: pd.DataFrame) -> list[str]:
    """What a reader must know before comparing rows, given the comparisons with the baseline."""
    scored = [r.metrics for r in results if r.metrics]
    measured = [r.cost for r in results if r.cost]
    controls = _controls(config)
    notes = []
    trained = [m for m in scored if m["trained"]]
    origins = [m["provenance"] for m in (*scored, *measured)] + [m["trained"]["provenance"] for m in trained]
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
        seen += [sha for row in controls if row.dataset == name for sha in row.values("content_sha256")]
        if len({*seen}) > 1:
            notes.append(f"WARNING: rows of {name} saw different files of the dataset.")
    for model in config["models"]:
        if len({m["trained"]["weights_sha256"] for m in trained if m["model"] == model}) > 1:
            notes.append(f"WARNING: rows of {model} started from different files of weights.")
    for name, model in itertools.product(config["datasets"], config["models"]):
        mine = [r.cost for r in results if r.cost and (r.run.dataset, r.run.model) == (name, model)]
        if len({cost["training_batch"] for cost in mine if cost.get("training_batch")}) > 1:
            notes.append(
                f"WARNING: training steps of {model} on {name} were measured with batches of different sizes "
                "(execution.gpus_per_run): delete their cost.json and run again to compare them."
            )
    devices = sorted({m["provenance"]["device"] for m in measured})
    if len(devices) > 1:
        notes.append(
            f"WARNING: times come from different devices: {'; '.join(devices)}. A table shows those of one "
            "device, and a dash for what was measured elsewhere; all are in cost.csv."
        )
    elif devices:
        notes.append(f"Times measured on: {devices[0]}.")
    return notes + _uncompared(compared)


def _uncompared(compared: pd.DataFrame) -> list[str]:
    """Which scored methods have no interval over images, and why."""
    unknown = compared[(compared["metric"] == "miou") & (compared["seeds"] > 0) & (compared["images"] == 0)]
    return [
        f"No reading of {', '.join(group['method'])} ({dataset}, {model}): {note}."
        for (dataset, model, note), group in unknown.groupby(["dataset", "model", "note"], sort=False)
    ]


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
            with contextlib.suppress(UserError):  # a damaged file costs its column
                arrays = read_arrays(found.run.panel)
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
