"""The cells of the tables as people read them, in Markdown and in LaTeX."""

from __future__ import annotations

import math

import pandas as pd

from common.config.settings import EvaluationSettings
from common.scoring.boundaries import TRIMAP_WIDTHS
from common.scoring.objects import SIZES
from common.tables import published
from common.tables.frames import Line, Tables, lines_of
from common.tables.results import CERTIFICATE, READ

DASH = "–"


def number(value: float | None, digits: int, sign: str = "") -> str:
    """A number, or a dash if there is none."""
    return DASH if value is None or math.isnan(value) else f"{value:{sign}.{digits}f}"


def three_digits(value: float) -> str:
    """A positive number with three digits that count, or all before the point; a dash without one."""
    return number(value, 0 if math.isnan(value) else max(0, 2 - math.floor(math.log10(value))))


def mean(line: Line, key: str, digits: int = 2) -> str:
    """A mean with half the width of its interval over seeds."""
    value, high = line[f"{key}_mean"], line[f"{key}_high"]
    text = number(value, digits)
    return text if math.isnan(high) else f"{text} ± {high - value:.{digits}f}"


def timing(line: Line, key: str) -> str:
    """A time of inference or training in milliseconds, with ~ in front if it is not to be relied on."""
    doubt = line["training_doubt" if key.startswith("training") else "latency_doubt"]
    return doubted(number(line[key], 1), doubt)


def doubted(text: str, doubt: object) -> str:
    """A number, with ~ in front if there is a reason to doubt it."""
    return f"~{text}" if text != DASH and isinstance(doubt, str) and doubt else text


def spread(line: Line, name: str) -> str:
    """A time in milliseconds with the quartiles of its repeated timings; `name` is its column without _ms."""
    low, high = line[f"{name}_q1_ms"], line[f"{name}_q3_ms"]
    quartiles = "" if math.isnan(low) else f" ({low:.1f} to {high:.1f})"
    return timing(line, f"{name}_ms") + quartiles


def could_show(line: Line) -> str:
    """The smallest difference that would be shown; `none` if it would have to be larger than it can be."""
    if math.isnan(line["detectable"]) and not math.isnan(line["p"]):
        return "none"
    return number(line["detectable"], 2)


def difference(comparison: Line | None) -> str:
    """A difference with its interval over seeds and images; with one seed over images alone, marked."""
    if comparison is None or math.isnan(comparison["difference"]):
        return DASH
    text = number(comparison["difference"], 2, "+")
    for low, high, mark in (("low", "high", ""), ("images_low", "images_high", "*")):
        if not math.isnan(comparison[low]):
            return f"{text} [{comparison[low]:+.2f}, {comparison[high]:+.2f}]{mark}"
    return text


def scored_on(evaluation: EvaluationSettings) -> str:
    """The split, and how its images were seen if not only as they are."""
    views = []
    if evaluation.scales != (1,):
        views.append(f"of scales {', '.join(f'{scale:g}' for scale in evaluation.scales)}")
    if evaluation.flip:
        views.append("of flips")
    return evaluation.split + (f", mean {' and '.join(views)}" if views else "")


def methods_of(leaderboard: pd.DataFrame) -> pd.DataFrame:
    """The lines of a leaderboard without those of controls."""
    return leaderboard[~leaderboard["control"].astype(bool)]


def device_of(leaderboard: pd.DataFrame) -> str:
    """The device of the times in the lines of a leaderboard; empty if there are none."""
    return next((device for device in leaderboard["device"] if isinstance(device, str) and device), "")


def main_cells(tables: Tables, baseline: str) -> pd.DataFrame:
    """The main table of one dataset and model.

    Args:
        tables: The lines of the dataset and model.
        baseline: The name of the method that the others are compared with.
    """
    comparisons = _comparisons(tables.comparisons, "miou")
    beside = tables.leaderboard["published"].notna().any()
    alternatives = (tables.leaderboard["kind"] == "alternative").any()
    tuned = tables.leaderboard["tuned"].fillna("").any()
    measured = bool(device_of(tables.leaderboard))
    lines = []
    for line in lines_of(tables.leaderboard):
        reading = line["reading"] if isinstance(line["reading"], str) else ""
        lines.append(
            {
                "method": _name(line),
                **({"kind": line["kind"]} if alternatives else {}),
                "rank": number(line["rank"], 0),
                "mIoU %": mean(line, "miou"),
                f"Δ {baseline}": _difference(line, comparisons, baseline),
                **(published.cells(line) if beside else {}),
                "reading": "control" if line["control"] else reading.replace("baseline", DASH) or DASH,
                "could show": could_show(line),
                "boundary IoU %": mean(line, "boundary_iou"),
                **(times(line) if measured else {}),
                "seeds": DASH if line["control"] else line["seeds"],
                **({"tuned": _word(line["tuned"])} if tuned else {}),
            }
        )
    cells = pd.DataFrame(lines)
    errors = tables.leaderboard["error"].fillna("")
    if errors.any():
        cells["error"] = [*errors]
    return cells


def boundary_cells(tables: Tables, baseline: str) -> pd.DataFrame:
    """Scores near boundaries and calibration of one dataset and model; arguments as of `main_cells`."""
    comparisons = _comparisons(tables.comparisons, "boundary_iou")
    bands = {(line["method"], line["width"]): line["miou_mean"] for line in lines_of(tables.trimap)}
    lines = []
    for line in lines_of(tables.leaderboard):
        comparison = comparisons.get(line["method"])
        lines.append(
            {
                "method": _name(line),
                **{
                    f"trimap {width} px": number(bands.get((line["method"], width), math.nan), 1)
                    for width in TRIMAP_WIDTHS
                },
                "boundary IoU %": mean(line, "boundary_iou"),
                f"Δ {baseline}": _difference(line, comparisons, baseline),
                "reading": (comparison or {}).get("reading") or DASH,
                "boundary F %": mean(line, "boundary_f"),
                "pixel acc. %": mean(line, "pixel_accuracy"),
                "ECE %": mean(line, "ece") + (" (of the input)" if line["decides"] is True else ""),
                "NLL": mean(line, "nll", 3),
            }
        )
    return pd.DataFrame(lines)


def image_cells(tables: Tables, baseline: str) -> pd.DataFrame:
    """Scores by image, class and size of objects of one dataset and model; arguments as of `main_cells`."""
    comparisons = _comparisons(tables.comparisons, "miou_i")
    lines = []
    for line in lines_of(tables.leaderboard):
        comparison = comparisons.get(line["method"])
        lines.append(
            {
                "method": _name(line),
                "mIoU-I %": mean(line, "miou_i"),
                f"Δ {baseline}": _difference(line, comparisons, baseline),
                "reading": (comparison or {}).get("reading") or DASH,
                "mIoU-C %": mean(line, "miou_c"),
                "worst quarter %": mean(line, "worst_quarter"),
                "worst class %": mean(line, "worst_class"),
                **{f"{size} %": number(line[f"recall_{size}_mean"], 1) for size in SIZES},
            }
        )
    return pd.DataFrame(lines)


def times(line: Line) -> dict[str, str]:
    """The times that the main table shows of a line of the leaderboard."""
    return {"latency ms": timing(line, "latency_ms"), "train step ms": timing(line, "training_step_ms")}


def cost_cells(methods: pd.DataFrame) -> pd.DataFrame:
    """Times, memory and size of methods, from their lines of the leaderboard."""
    lines = []
    for line in lines_of(methods):
        batch = line["throughput_batch"]
        fronts = (("latency", "pareto_latency"), ("training", "pareto_training"))
        lines.append(
            {
                "method": line["method"],
                "network ms": number(line["network_ms"], 1),
                "structure ms": number(line["structure_ms"], 1),
                "refine ms": number(line["refine_ms"], 1),
                "latency ms": spread(line, "latency"),
                "p95 ms": number(line["latency_p95_ms"], 1),
                "images/s": number(line["throughput"], 1)
                + ("" if math.isnan(batch) else f" (batch {batch:.0f})"),
                "train step ms": spread(line, "training_step"),
                "train min": _minutes(line),
                "train images/s": number(line["training_images_per_second"], 1),
                "train memory MB": number(line["training_peak_memory"] / 1e6, 0),
                "params M": number(line["parameters"] / 1e6, 2),
                "G multiply-adds": _multiply_adds(line),
                "Pareto": ", ".join(name for name, key in fronts if line[key] is True) or DASH,
                "note": _doubt(line),
            }
        )
    cells = pd.DataFrame(lines)
    return cells if cells["note"].any() else cells.drop(columns="note")


def _multiply_adds(line: Line) -> str:
    """Billions of multiply-adds, with ≥ in front if there is more to compute that is not counted."""
    text = number(line["multiply_adds"] / 1e9, 2)
    return f"≥{text}" if text != DASH and isinstance(line["uncounted"], str) and line["uncounted"] else text


def _minutes(line: Line) -> str:
    """The time of a whole training in minutes, with ~ in front if it is not to be relied on."""
    return doubted(three_digits(line["training_minutes"]), line["training_doubt"])


def _doubt(line: Line) -> str:
    """Why times of a line are not to be relied on."""
    words = [line[key] for key in ("latency_doubt", "training_doubt") if isinstance(line[key], str)]
    return ", ".join(dict.fromkeys(filter(None, words)))


def certificate_cells(methods: pd.DataFrame) -> pd.DataFrame:
    """How good labellings are shown to be, of the methods that say so; from lines of the leaderboard."""
    gap, agreement = CERTIFICATE
    lines = [
        {
            "method": line["method"],
            "gap/cell": number(line[gap], 3),
            "agreement %": number(100 * line[agreement], 1),
        }
        for line in lines_of(methods)
        if not math.isnan(line[gap])
    ]
    return pd.DataFrame(lines)


def class_cells(per_class: pd.DataFrame) -> pd.DataFrame:
    """IoU of every class, a line per class and a column per method."""
    pivot = per_class.pivot(index="class", columns="method", values="iou_mean")
    pivot = pivot.loc[per_class["class"].unique(), per_class["method"].unique()]
    return published.class_columns(per_class, pivot.map(lambda x: number(x, 1))).reset_index()


def _word(text: object) -> str:
    """A word, or a dash if there is none."""
    return text if isinstance(text, str) and text else DASH


def _comparisons(compared: pd.DataFrame, metric: str) -> dict[str, Line]:
    """The comparisons of one dataset and model by one score, by method."""
    chosen = lines_of(compared[compared["metric"] == metric])
    return {line["method"]: line for line in chosen}


def _name(line: Line) -> str:
    """A method as tables show it: controls in parentheses, predictions that were read marked."""
    if line["control"]:
        return f"({line['method']})"
    return f"{line['method']} †" if line["origin"] == READ else line["method"]


def _difference(line: Line, comparisons: dict[str, Line], baseline: str) -> str:
    """The difference of a line to the baseline, as people read it."""
    if line["method"] == baseline and not line["control"]:
        return "baseline"
    return difference(comparisons.get(line["method"]))
