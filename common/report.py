"""Stage `report`: one page with everything that the run files say, and its charts for papers.

The page is a single HTML file that asks no other host for anything. The tables are made first, so the
page may be made at any time; what failed or is missing is in it with its reason.
"""

from __future__ import annotations

import ast
import contextlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd
import yaml
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from numpy.typing import NDArray

from common import charts, gallery, provenance, rendering, report_tables, runs, stages, tabulate
from common import config as configuration
from common.charts import Curve, Point, Style
from common.config import Config
from common.datasets.base import Dataset
from common.errors import UserError
from common.files import read_arrays, read_json, replacing, write_json
from common.gallery import Example, Predictions
from common.report_tables import Table
from common.tabulate import Result

TEMPLATES = provenance.ROOT / "workflow/report"

TABLES = ("leaderboard", "comparisons", "per_class", "trimap", "calibration")
"""The CSV files of the tabulate stage that the page is made from; the rest comes from run files."""

CLASSES_IN_TABLES = 40
"""With more classes than these, confusion matrices are pictures only."""
POINTS = 300
"""A training curve has at most so many."""


@dataclass
class Chart:
    """A chart in the page.

    Attributes:
        svg: The chart.
        caption: What people read below it.
        alt: What it shows, in words.
    """

    svg: str
    caption: str
    alt: str


@dataclass
class Benchmark:
    """What the page says about one dataset and model.

    Attributes:
        id: What its links begin with.
        dataset: The dataset's name.
        model: The model's name.
        facts: What was scored, in a sentence.
        leaderboard: All methods.
        comparisons: All of their tests, or None.
        trimap: The numbers of the trimap curves, or None.
        per_class: IoU per class, or None.
        diagnostics: What methods say about their results, or None.
        confusions: Per method its commonest confusions in words, and its confusion matrix or None.
        charts: By kind.
        classes: Names and colours of the classes.
        examples: The gallery.
        seeds: Per method the seed that the gallery shows.
        gallery_note: What is missing in the gallery, and why.
    """

    id: str
    dataset: str
    model: str
    facts: str
    leaderboard: Table
    comparisons: Table | None = None
    trimap: Table | None = None
    per_class: Table | None = None
    diagnostics: Table | None = None
    confusions: dict[str, tuple[str, Table | None]] = field(default_factory=dict)
    charts: dict[str, Chart] = field(default_factory=dict)
    classes: list[tuple[str, str]] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    seeds: dict[str, int] = field(default_factory=dict)
    gallery_note: str = ""


def report(config: Config) -> Path:
    """Makes the charts and the page, the tables first if they are not up to date; returns the page's path."""
    folder = Path(config["results"])
    if not all(path.exists() for path in runs.tables(config, runs.runs(config))):
        tabulate.tabulate(config)
    results = tabulate.read(config)
    tables = {name: _csv(folder / f"{name}.csv") for name in TABLES}
    style = Style(list(dict.fromkeys([*config["methods"], *tables["leaderboard"]["method"]])))
    groups = list(itertools.product(config["datasets"], config["models"]))
    found, drawn = [], set()
    for index, group in enumerate(groups, 1):
        benchmark, files = _benchmark(config, f"b{index}", group, tables, results, style)
        found.append(benchmark)
        drawn |= files
    _forget_charts(folder / "figures", drawn)
    left_out = _fill_galleries(config, found, results)
    explanations = [_emphasised(text) for text in rendering.legend(config, tables["leaderboard"])]
    notes = tabulate.notes(config, results, tables["comparisons"])
    page = _render(config, found, results, left_out, explanations, notes)
    with replacing(runs.report(config)) as file:
        file.write(page)
    if runs.stamp(config).exists():  # the tables show all runs, and so does the page
        write_json(runs.page_stamp(config), read_json(runs.stamp(config)))
    return runs.report(config)


def _csv(path: Path) -> pd.DataFrame:
    texts = ("dataset", "model", "method", "class", "reading", "note", "error", "device")
    # A class may be called None or NA.
    return pd.read_csv(path, dtype=dict.fromkeys(texts, "object"), keep_default_na=False, na_values=[""])


def _render(
    config: Config,
    found: list[Benchmark],
    results: list[Result],
    left_out: int,
    explanations: list[Markup],
    notes: list[str],
) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["linked"] = _linked
    return environment.get_template("report.html.j2").render(
        benchmarks=found,
        explanations=explanations,
        baseline=config["tables"]["baseline"],
        done=sum(r.complete for r in results),
        failures=[r for r in results if r.error],
        total=len(results),
        notes=notes,
        runs=_runs_table(results),
        versions=_versions(results),
        configuration=yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=100),
        sources=_sources(config),
        left_out=left_out,
        megabytes=config["tables"]["report_mb"],
        made=f"{datetime.now(UTC):%-d %B %Y, %H:%M} UTC",
        commit=provenance.commit(),
    )


# One dataset and model


def _benchmark(
    config: Config,
    name: str,
    group: tuple[str, str],
    tables: Mapping[str, pd.DataFrame],
    results: Sequence[Result],
    style: Style,
) -> tuple[Benchmark, set[str]]:
    """What the page says about a dataset and model, and the names of the charts that were written for it."""
    dataset, model = group
    of_group = {key: _of_group(table, group) for key, table in tables.items()}
    results = [r for r in results if (r.run.dataset, r.run.model) == group]
    baseline = config["tables"]["baseline"]
    board = of_group["leaderboard"]
    order, controls = list(board["method"]), set(board.loc[board["control"], "method"])
    where = f"{dataset}, {model}"
    benchmark = Benchmark(
        name,
        dataset,
        model,
        _facts(config, group, results),
        report_tables.leaderboard(
            of_group["leaderboard"], of_group["comparisons"], baseline, f"Leaderboard of {where}"
        ),
    )
    kinds = configuration.dataset(config, dataset)
    benchmark.classes = [
        (class_name, f"#{red:02x}{green:02x}{blue:02x}")
        for class_name, (red, green, blue) in zip(kinds.class_names, kinds.colours)
    ]
    if len(of_group["comparisons"]):
        benchmark.comparisons = report_tables.comparisons(
            of_group["comparisons"], f"Comparisons with {baseline} on {where}"
        )
    if len(of_group["per_class"]):
        benchmark.per_class = report_tables.per_class(
            of_group["per_class"], order, controls, baseline, f"IoU of every class in percent, {where}"
        )
    if len(of_group["trimap"]):
        benchmark.trimap = report_tables.trimap(
            of_group["trimap"], f"mIoU in percent near boundaries, {where}"
        )
    certified = [
        (r.run.method, r.run.seed, r.metrics["diagnostics"])
        for r in results
        if r.metrics and set(tabulate.CERTIFICATE) & set(r.metrics.get("diagnostics", {}))
    ]
    if certified:
        benchmark.diagnostics = report_tables.diagnostics(certified, f"Certificate of every run, {where}")
    counts = _pooled_confusion(results)
    names = list(kinds.class_names)
    for method in (m for m in order if m in counts):
        table = None
        if len(names) <= CLASSES_IN_TABLES:
            caption = f"Confusion matrix of {method}: percent of each row's pixels, all seeds together"
            table = report_tables.confusion(counts[method], names, caption)
        benchmark.confusions[method] = (report_tables.confusions(counts[method], names), table)
    files = _draw(config, benchmark, of_group, results, counts, style)
    return benchmark, files


def _of_group(table: pd.DataFrame, group: tuple[str, str]) -> pd.DataFrame:
    return table[(table["dataset"] == group[0]) & (table["model"] == group[1])]


def _facts(config: Config, group: tuple[str, str], results: Sequence[Result]) -> str:
    split = configuration.settings(config, "evaluation", *group)["split"]
    images = sorted({r.metrics["images"] for r in results if r.metrics and "images" in r.metrics})
    seeds = sorted({r.run.seed for r in results if r.metrics})
    training = configuration.settings(config, "training", *group)
    parts = [
        f"Scored on {split}" + (f" ({' or '.join(map(str, images))} images)" if images else ""),
        f"trained on {training['split']} for {training['iterations']} iterations of "
        f"{training['batch_size'] * training['accumulate']} images",
        f"seeds {', '.join(map(str, seeds))}" if seeds else "no run has scores yet",
    ]
    return "; ".join(parts) + "."


def _pooled_confusion(results: Sequence[Result]) -> dict[str, NDArray[np.int64]]:
    """Confusion counts `[K, K]` of every method, all images and seeds together, of files that can be read."""
    pooled: dict[str, NDArray[np.int64]] = {}
    for result in results:
        with contextlib.suppress(UserError):  # the gallery's note says so
            if result.metrics and result.run.per_image.exists():
                counts = read_arrays(result.run.per_image)["confusion"].sum(axis=0)
                pooled[result.run.method] = pooled.get(result.run.method, 0) + counts
    return pooled


# Charts


def _draw(
    config: Config,
    benchmark: Benchmark,
    tables: Mapping[str, pd.DataFrame],
    results: Sequence[Result],
    counts: Mapping[str, NDArray[np.int64]],
    style: Style,
) -> set[str]:
    """Draws the charts that there are numbers for, and returns their names."""
    group = (benchmark.dataset, benchmark.model)
    stem = "-".join(group)
    folder = runs.panel(config, *group).parent
    names = set()

    def add(kind: str, figure: Figure, caption: str, alt: str) -> None:
        svg = charts.save(figure, folder / f"{stem}-{kind}")
        benchmark.charts[kind] = Chart(svg, caption, alt)
        names.add(f"{stem}-{kind}")

    board = tables["leaderboard"]
    device = next((str(d) for d in board["device"] if isinstance(d, str) and d), "")
    minutes = board["training_step_ms"] * _iterations(config, group) / 60_000
    for kind, flag, cost, label, unit in (
        ("latency", "pareto_latency", board["latency_ms"], "latency of one image in ms", "ms"),
        ("training-cost", "pareto_training", minutes, "time of all training steps in minutes", "min"),
    ):
        points = _points(board, cost, flag)
        if points:
            front = ", ".join(p.method for p in points if p.best)
            add(
                kind,
                charts.pareto(points, style, label, "mIoU in %"),
                f"mIoU against {label}, measured on {device}. The line joins the methods that no other beats "
                f"in both: {front}.",
                f"mIoU against {label}: "
                + "; ".join(f"{p.method} {p.score:.1f} % at {p.cost:.3g} {unit}" for p in points),
            )
    if len(tables["trimap"]):
        bands = _trimap_curves(tables["trimap"])
        add(
            "trimap",
            charts.curves(bands, style, "width of the band in pixels", "mIoU in %"),
            "mIoU within a band around the truth's boundaries, by its width; shaded: 95 % interval over "
            "seeds. A control far below all methods is left out.",
            "mIoU near boundaries: "
            + "; ".join(f"{m} from {c.mean[0]:.1f} % to {c.mean[-1]:.1f} %" for m, c in bands.items()),
        )
    if len(tables["calibration"]):
        bins = _calibration_curves(tables["calibration"])
        add(
            "calibration",
            charts.reliability(bins, style),
            "How often the labels of a confidence are right; on the diagonal, confidence is honest.",
            "Accuracy against confidence: "
            + "; ".join(f"{m} {c.mean[-1]:.0f} % right where surest" for m, c in bins.items()),
        )
    losses = _losses(results)
    if losses:
        add(
            "training",
            charts.training(losses, style),
            "Loss of every training, one dash per seed. Scales differ: losses of different methods do not "
            "compare, and a loss with a log-determinant can be negative. A first peak may be cut off.",
            "Loss at the end of training: "
            + "; ".join(
                f"{m} {np.mean([lines[-1, 1] for lines in seeds.values()]):.3g}"
                for m, seeds in losses.items()
            ),
        )
    per_class = tables["per_class"]
    if len(per_class):
        values = per_class.pivot(index="method", columns="class", values="iou_mean")
        values = values.loc[[m for m in board["method"] if m in values.index], per_class["class"].unique()]
        figure = charts.heat_map(values.to_numpy(), list(values.index), list(values.columns), "IoU in %")
        names.add(f"{stem}-classes")
        charts.save(figure, folder / f"{stem}-classes")
    if counts:
        figure = charts.confusions(
            {m: counts[m] for m in board["method"] if m in counts}, [name for name, _ in benchmark.classes]
        )
        names.add(f"{stem}-confusion")
        charts.save(figure, folder / f"{stem}-confusion")
    return names


_KINDS = ("latency", "training-cost", "trimap", "calibration", "training", "classes", "confusion")


def _forget_charts(folder: Path, drawn: set[str]) -> None:
    """Removes charts of datasets and models that are not in the report any more."""
    for kind, suffix in itertools.product(_KINDS, (".png", ".pdf")):
        for path in folder.glob(f"*-{kind}{suffix}"):
            if path.stem not in drawn:
                path.unlink(missing_ok=True)


def _iterations(config: Config, group: tuple[str, str]) -> int:
    return configuration.settings(config, "training", *group)["iterations"]


def _points(board: pd.DataFrame, cost: pd.Series, flag: str) -> list[Point]:
    """The methods whose score and cost are known, with the column that says which are on the front."""
    chosen = board[["method", "miou_mean", "miou_low", "miou_high", flag]].assign(cost=cost)
    chosen = chosen[chosen["miou_mean"].notna() & (cost > 0)]
    return [
        Point(str(method), float(spent), float(mean), float(low), float(high), str(best) == "True")
        for method, mean, low, high, best, spent in chosen.itertuples(index=False)
    ]


def _trimap_curves(table: pd.DataFrame) -> dict[str, Curve]:
    found = {}
    lowest = table.loc[~table["control"], "miou_mean"].min()
    for method, lines in table.groupby("method", sort=False):
        if lines["control"].any() and lines["miou_mean"].max() < lowest:
            continue
        lines = lines.sort_values("width")
        columns = (lines[key].to_numpy(float) for key in ("width", "miou_mean", "miou_low", "miou_high"))
        found[str(method)] = Curve(*columns)
    return found


def _calibration_curves(table: pd.DataFrame) -> dict[str, Curve]:
    found = {}
    for method, lines in table.dropna(subset=["confidence", "accuracy"]).groupby("method", sort=False):
        nothing = np.full(len(lines), np.nan)
        percent = 100 * lines[["confidence", "accuracy"]].to_numpy(float)
        found[str(method)] = Curve(percent[:, 0], percent[:, 1], nothing, nothing)
    return found


def _losses(results: Iterable[Result]) -> dict[str, dict[int, NDArray[np.float64]]]:
    """Iteration and loss of every training, by the method that it trains and the seed."""
    found: dict[str, dict[int, NDArray[np.float64]]] = {}
    for result in results:
        training = result.run.training
        if training and training.method == result.run.method and training.log.exists():
            lines = _loss(training.log)
            if len(lines) > 1:
                found.setdefault(training.method, {})[training.seed] = lines
    return found


def _loss(path: Path) -> NDArray[np.float64]:
    """Iteration and loss `[n, 2]` of a training log, thinned to means of as many lines as needed."""
    pairs = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:  # the last one may be half written
            continue
        pairs.append((entry["iteration"], entry["loss"]))
    lines = np.array(pairs, float).reshape(-1, 2)
    step = -(-len(lines) // POINTS)
    if step <= 1:
        return lines
    parts = np.array_split(lines, -(-len(lines) // step))
    return np.array([part.mean(axis=0) for part in parts])


# Gallery


def _fill_galleries(config: Config, found: Sequence[Benchmark], results: Sequence[Result]) -> int:
    """Gives every benchmark its examples, and returns how many did not fit."""
    wanted: dict[str, tuple[Sequence[Predictions], Dataset, Sequence[tuple[str, str]]]] = {}
    for benchmark in found:
        predictions, missing = [], []
        scored = [
            r.run
            for r in results
            if r.metrics and (r.run.dataset, r.run.model) == (benchmark.dataset, benchmark.model)
        ]
        for method in dict.fromkeys(run.method for run in scored):
            try:
                one = Predictions(method, [run for run in scored if run.method == method])
            except UserError as error:
                missing.append(f"{method}: {error}")
                continue
            if one.names:
                predictions.append(one)
            else:
                missing.append(f"{method}: its runs kept no labels")
        benchmark.seeds = {p.method: p.seed for p in predictions if p.seed is not None}
        if missing:
            benchmark.gallery_note = f"Not shown: {'; '.join(missing)}."
        chosen = gallery.choose(predictions, config["tables"]["gallery"])
        wanted[benchmark.id] = (predictions, configuration.dataset(config, benchmark.dataset), chosen)
    taken, left_out = gallery.fill(wanted, int(1e6 * config["tables"]["report_mb"]))
    for benchmark in found:
        benchmark.examples = taken[benchmark.id]
    return left_out


# Provenance


def _runs_table(results: Sequence[Result]) -> Table:
    columns = (
        "method",
        "dataset",
        "model",
        "seed",
        "mIoU %",
        "training min",
        "trained on",
        "scored",
        "commit",
        "run",
    )
    words = {"method", "dataset", "model", "trained on", "scored", "commit", "run"}
    table = Table("All runs", [report_tables.Column(name, words=name in words) for name in columns])
    for result in results:
        run, scores = result.run, result.metrics or {}
        trained = scores.get("trained") or {}  # none, if predictions were read
        made = scores.get("provenance", {})
        seconds = trained.get("wall_seconds")
        state = report_tables.word(f"{made['written'][:16]}Z" if made.get("written") else "")
        state.note = result.error or ""
        cells = [
            report_tables.word(run.method),
            report_tables.word(run.dataset),
            report_tables.word(run.model),
            report_tables.number(run.seed, 0),
            report_tables.number(100 * scores.get("miou", np.nan), 2),
            report_tables.number(np.nan if seconds is None else seconds / 60, 1),
            report_tables.word(trained.get("provenance", {}).get("device")),
            state,
            report_tables.word(str(made.get("commit") or "")[:10]),
            report_tables.word(run.digest),
        ]
        table.rows.append(report_tables.Row(cells, run.method))
    return table


def _versions(results: Iterable[Result]) -> dict[str, str]:
    """The versions of every package that results were computed with."""
    found: dict[str, set[str]] = {}
    for result in results:
        for content in (result.metrics, result.cost, (result.metrics or {}).get("trained")):
            for package, version in (content or {}).get("provenance", {}).get("packages", {}).items():
                found.setdefault(package, set()).add(version)
    return {package: ", ".join(sorted(versions)) for package, versions in found.items()}


@dataclass
class Source:
    """Where a method or a dataset comes from, as its own module says.

    Attributes:
        names: The entries of the configuration that use the module.
        title: The first sentence of its description.
        origin: The first paragraph that names a year, unless the title does.
        text: All but the title.
    """

    names: str
    title: str
    origin: str
    text: str


def _sources(config: Config) -> list[Source]:
    modules: dict[Path, list[str]] = {}
    for name, dataset in itertools.product(config["methods"], config["datasets"]):
        entries = (
            configuration.method(config, name, dataset),
            configuration.trained_method(config, name, dataset),
        )
        for entry in entries:
            if entry.predictions:  # of another system
                continue
            modules.setdefault(runs.METHODS / f"{entry.module}.py", []).append(entry.name)
    for name in config["datasets"]:
        module = configuration.dataset_module(config, name)
        modules.setdefault(provenance.ROOT / f"common/datasets/{module}.py", []).append(name)
    found = []
    for path, names in modules.items():
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "It has no description."
        title, *others = text.split("\n\n")
        dated = next((one for one in (title, *others) if re.search(r"\b(19|20)\d\d\b", one)), title)
        origin = "" if dated is title else " ".join(dated.split())
        users = ", ".join(dict.fromkeys(names))
        found.append(Source(users, " ".join(title.split()), origin, "\n\n".join(others)))
    return found


def _linked(text: str) -> str:
    """A text in which the numbers of arXiv papers are links."""
    pattern = r"arXiv[:\s]+(\d{4}\.\d{4,5})"
    return Markup(re.sub(pattern, r'<a href="https://arxiv.org/abs/\1">arXiv \1</a>', str(escape(text))))


def _emphasised(text: str) -> Markup:
    """A paragraph of the tables' explanations as HTML: they know two marks of Markdown."""
    html = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", str(escape(text)))
    return Markup(re.sub(r"\*(\w[^*]*?\w)\*", r"<i>\1</i>", html))


def _main() -> None:
    config = stages.arguments(
        "Writes the tables, the charts and the report of whatever run files exist."
    ).config
    path = report(config)
    print((path.parent / "leaderboard.md").read_text(encoding="utf-8"))
    print(f"The report: {path}")


if __name__ == "__main__":
    stages.main(_main)
