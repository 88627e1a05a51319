"""The tables as people read them, in Markdown and LaTeX."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from tabulate import tabulate as format_table

from common import config as configuration
from common import latex as typeset
from common import published
from common.boundaries import TRIMAP_WIDTHS
from common.config import Config
from common.statistics import RESAMPLES

DASH = "–"

_READING = """\
**How to read this.** mIoU: mean over seeds ± half of its 95 % interval over seeds (t). Δ {baseline}:
difference of mIoU to {baseline}, paired by seed, with its 95 % interval over seeds and images; the images
are resampled {resamples:,} times, the same ones for all methods and seeds. *better* and *worse*: the test
that belongs to this interval, with Holm's correction over the table, has p ≤ 0.05; *no difference shown*
does not mean that there is none. could show: the smallest true difference that would be shown with a
probability of 80 %, as much as seeds and images vary here. rank: methods that are not shown to be worse
than the best of a rank share it (Bonferroni over all pairs)."""

_ONE_SEED = """\
One seed says nothing of another: rows with one seed have no interval, rank or reading, and an interval with
* is over the images alone, for these very trained models."""

_CONTROLS = """\
Controls, in parentheses, bracket the table and are not compared: *majority* gives every pixel the commonest
class of the training images; *ceiling* is the truth seen through the network's output grid."""

_BOUNDARIES = """\
trimap: mIoU of the pixels at most so far from the truth's contours; boundary IoU: Cheng et al. 2021, bands
of 2 % of the diagonal; boundary F: Csurka et al. 2013, tolerance 0.75 % of the diagonal. Void is in no
band. ECE: calibration error with 15 bins; NLL: nats per pixel."""

_COSTS = """\
Times: medians, measured alone on the device; latency of a single image at its original size, p95 the 95th
percentile. Multiply-adds are those of network and structure, for one image. Pareto: no other method is as
accurate at as little latency, or at as little time per training step."""

_CERTIFICATE = """\
gap/cell: how far the score of the CRF's labelling is from that of the best one at most, per cell of the
output grid; agreement: the share of cells at which all chains of the CRF have the same best label."""

READ = "predictions read from a folder"
"""The origin of rows that another system has predicted."""

_READ = f"†: {READ} and scored in the same way; not trained or measured here."

CERTIFICATE = ("gap_per_cell", "agreement")
"""Diagnostics that are shown for the methods that have them."""

Line = dict[str, Any]


def page(
    config: Config,
    table: pd.DataFrame,
    compared: pd.DataFrame,
    per_class: pd.DataFrame,
    trimap: pd.DataFrame,
    notes: list[str],
) -> str:
    """All tables as Markdown, with what they mean.

    Args:
        config: The configuration.
        table: The leaderboard.
        compared: The comparisons with the baseline.
        per_class: IoU of every class.
        trimap: mIoU in bands around contours.
        notes: What a reader must know before comparing rows.
    """
    parts = ["# Leaderboard"]
    for (name, model), group in table.groupby(["dataset", "model"], sort=False):
        mine = [
            part[(part["dataset"] == name) & (part["model"] == model)]
            for part in (compared, per_class, trimap)
        ]
        parts.append(f"## {name}, {model} (scored on {scored_on(config, str(name), str(model))})")
        parts.append(github(_main(config, group, mine[0])))
        listed = published.sources(config, group[~group["control"].astype(bool)])
        if listed:
            parts.append("Published mIoU, % (the table shows the first source's):\n\n" + "\n".join(listed))
        parts += _secondary(config, group, *mine)
    parts += legend(config, table)
    if notes:
        parts.append("\n".join(f"- {note}" for note in notes))
    return "\n\n".join(parts) + "\n"


def latex(
    config: Config,
    table: pd.DataFrame,
    compared: pd.DataFrame,
    per_class: pd.DataFrame,
    trimap: pd.DataFrame,
) -> str:
    """The same tables as LaTeX, each with a caption; arguments as of `page`."""
    parts = [typeset.HEAD]
    for (name, model), group in table.groupby(["dataset", "model"], sort=False):
        mine = [
            part[(part["dataset"] == name) & (part["model"] == model)]
            for part in (compared, per_class, trimap)
        ]
        seen = scored_on(config, str(name), str(model))
        where, label = f"{name}, {model}, scored on {seen}", f"{name}-{model}"
        main = _main(config, group, mine[0]).drop(columns="error", errors="ignore")
        found = [(main, f"Methods on {where}.", label)]
        if len(mine[2]):
            cells = _boundaries(config, group, mine[0], mine[2])
            found.append((cells, f"Boundaries and calibration on {where}.", f"{label}-boundaries"))
        methods = group[~group["control"].astype(bool)]
        if not methods["device"].isin(["", None]).all():
            device = next(name for name in methods["device"] if name)
            found.append((_costs(methods), f"Cost on {device}: {where}.", f"{label}-cost"))
        if len(mine[1]):
            found.append((_classes(mine[1]), f"IoU per class in percent on {where}.", f"{label}-classes"))
        parts += [typeset.table(*one) for one in found]
    return "\n".join(parts)


def github(cells: pd.DataFrame) -> str:
    """Cells as a Markdown table."""
    return format_table(cells, headers="keys", tablefmt="github", showindex=False, disable_numparse=True)


def scored_on(config: Config, dataset: str, model: str) -> str:
    """The split, and how its images were seen if not only as they are."""
    settings = configuration.settings(config, "evaluation", dataset, model)
    seen = []
    if settings["scales"] != [1]:
        seen.append(f"of scales {', '.join(map(str, settings['scales']))}")
    if settings["flip"]:
        seen.append("of flips")
    return settings["split"] + (f", mean {' and '.join(seen)}" if seen else "")


# Cells


def number(value: float, digits: int, sign: str = "") -> str:
    """A number, or a dash if there is none."""
    return DASH if value is None or math.isnan(value) else f"{value:{sign}.{digits}f}"


def mean(line: Line, key: str, digits: int = 2) -> str:
    """A mean with half the width of its interval over seeds."""
    value, high = line[f"{key}_mean"], line[f"{key}_high"]
    text = number(value, digits)
    return text if math.isnan(high) else f"{text} ± {high - value:.{digits}f}"


def difference(found: Line | None) -> str:
    """A difference with its interval over seeds and images; with one seed over images alone, marked."""
    if found is None or math.isnan(found["difference"]):
        return DASH
    text = number(found["difference"], 2, "+")
    for low, high, mark in (("low", "high", ""), ("images_low", "images_high", "*")):
        if not math.isnan(found[low]):
            return f"{text} [{found[low]:+.2f}, {found[high]:+.2f}]{mark}"
    return text


def _found(compared: pd.DataFrame, metric: str) -> dict[tuple[str, str, str], Line]:
    chosen = compared[compared["metric"] == metric].to_dict("records")
    return {(line["dataset"], line["model"], line["method"]): line for line in chosen}


def _name(line: Line) -> str:
    if line["control"]:
        return f"({line['method']})"
    return f"{line['method']} †" if line["origin"] == READ else line["method"]


def _delta(config: Config, line: Line, found: dict[tuple[str, str, str], Line]) -> str:
    if line["method"] == config["tables"]["baseline"] and not line["control"]:
        return "baseline"
    return difference(found.get((line["dataset"], line["model"], line["method"])))


def _main(config: Config, table: pd.DataFrame, compared: pd.DataFrame) -> pd.DataFrame:
    baseline = config["tables"]["baseline"]
    found = _found(compared, "miou")
    beside = table["published"].notna().any()
    lines = []
    for line in table.to_dict("records"):
        said = line["reading"] if isinstance(line["reading"], str) else ""
        lines.append(
            {
                "method": _name(line),
                "rank": number(line["rank"], 0),
                "mIoU %": mean(line, "miou"),
                f"Δ {baseline}": _delta(config, line, found),
                **(published.cells(line) if beside else {}),
                "reading": "control" if line["control"] else said.replace("baseline", DASH) or DASH,
                "could show": ">100" if line["detectable"] > 100 else number(line["detectable"], 2),
                "boundary IoU %": mean(line, "boundary_iou"),
                "latency ms": number(line["latency_ms"], 1),
                "train step ms": number(line["training_step_ms"], 1),
                "seeds": DASH if line["control"] else line["seeds"],
            }
        )
    cells = pd.DataFrame(lines)
    errors = table["error"].fillna("")
    if errors.any():
        cells["error"] = [text.replace("|", "\\|") for text in errors]
    return cells


def _secondary(
    config: Config, table: pd.DataFrame, compared: pd.DataFrame, per_class: pd.DataFrame, trimap: pd.DataFrame
) -> list[str]:
    """The tables below the main one, those of which something is known."""
    parts = []
    if len(trimap):
        parts.append("Boundaries and calibration:\n\n" + github(_boundaries(config, table, compared, trimap)))
    methods = table[~table["control"].astype(bool)]
    if not methods["device"].isin(["", None]).all():
        device = next(name for name in methods["device"] if name)
        parts.append(f"Cost on {device}:\n\n" + github(_costs(methods)))
    if not methods[[*CERTIFICATE]].isna().all(axis=None):
        lines = [
            {
                "method": line["method"],
                "gap/cell": number(line["gap_per_cell"], 3),
                "agreement %": number(100 * line["agreement"], 1),
            }
            for line in methods.to_dict("records")
            if not math.isnan(line["gap_per_cell"])
        ]
        parts.append("Certificate of the CRF:\n\n" + github(pd.DataFrame(lines)))
    if len(per_class):
        parts.append("IoU per class, %:\n\n" + github(_classes(per_class)))
    return parts


def _classes(per_class: pd.DataFrame) -> pd.DataFrame:
    pivot = per_class.pivot(index="class", columns="method", values="iou_mean")
    pivot = pivot.loc[per_class["class"].unique(), per_class["method"].unique()]
    return published.class_columns(per_class, pivot.map(lambda x: number(x, 1))).reset_index()


def _boundaries(
    config: Config, table: pd.DataFrame, compared: pd.DataFrame, trimap: pd.DataFrame
) -> pd.DataFrame:
    found = _found(compared, "boundary_iou")
    bands = {(line["method"], line["width"]): line["miou_mean"] for line in trimap.to_dict("records")}
    lines = []
    for line in table.to_dict("records"):
        delta = found.get((line["dataset"], line["model"], line["method"]))
        lines.append(
            {
                "method": _name(line),
                **{
                    f"trimap {width} px": number(bands.get((line["method"], width), math.nan), 1)
                    for width in TRIMAP_WIDTHS
                },
                "boundary IoU %": mean(line, "boundary_iou"),
                f"Δ {config['tables']['baseline']}": _delta(config, line, found),
                "reading": (delta or {}).get("reading") or DASH,
                "boundary F %": mean(line, "boundary_f"),
                "pixel acc. %": mean(line, "pixel_accuracy"),
                "ECE %": mean(line, "ece"),
                "NLL": mean(line, "nll", 3),
            }
        )
    return pd.DataFrame(lines)


def _costs(table: pd.DataFrame) -> pd.DataFrame:
    lines = []
    for line in table.to_dict("records"):
        batch = line["throughput_batch"]
        lines.append(
            {
                "method": line["method"],
                "network ms": number(line["network_ms"], 1),
                "structure ms": number(line["structure_ms"], 1),
                "refine ms": number(line["refine_ms"], 1),
                "latency ms": number(line["latency_ms"], 1),
                "p95 ms": number(line["latency_p95_ms"], 1),
                "images/s": number(line["throughput"], 1)
                + ("" if math.isnan(batch) else f" (batch {batch:.0f})"),
                "train step ms": number(line["training_step_ms"], 1),
                "train images/s": number(line["training_images_per_second"], 1),
                "train memory MB": number(line["training_peak_memory"] / 1e6, 0),
                "params M": number(line["parameters"] / 1e6, 2),
                "G multiply-adds": number(line["multiply_adds"] / 1e9, 2),
                "Pareto": ", ".join(
                    name
                    for name, key in (("latency", "pareto_latency"), ("training", "pareto_training"))
                    if line[key] is True
                )
                or DASH,
            }
        )
    return pd.DataFrame(lines)


# What the tables mean


def legend(config: Config, table: pd.DataFrame) -> list[str]:
    """What the columns mean, as paragraphs of Markdown; only of those that the tables have."""
    baseline = config["tables"]["baseline"]
    methods = table[~table["control"].astype(bool)]
    wanted = (
        (_READING.format(baseline=baseline, resamples=RESAMPLES), True),
        (_ONE_SEED, (methods["seeds"] == 1).any()),
        (_CONTROLS, table["control"].any()),
        (_BOUNDARIES, not table["boundary_iou_mean"].isna().all()),
        (_COSTS, not methods["device"].fillna("").eq("").all()),
        (_READ, (table["origin"] == READ).any()),
        (_CERTIFICATE, not table[[*CERTIFICATE]].isna().all(axis=None)),
    )
    return [text for text, shown in wanted if shown]
