"""Charts as files: PNG and PDF for papers, and SVG that takes its colours from the report's page."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Set
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from common.files import replacing
from common.report.chart_style import SETTINGS

OVERVIEW = "accuracy-and-cost"
"""The chart of a dataset, `<dataset>-<OVERVIEW>`."""

KINDS = (
    OVERVIEW,
    "latency",
    "training-cost",
    "trimap",
    "calibration",
    "training",
    "validation",
    "classes",
    "confusion",
)
"""The charts that there are; a file is called `<dataset>-<model>-<kind>`, but for that of a dataset."""


def save(figure: Figure, path: Path) -> str:
    """Writes a chart as `<path>.png` and `<path>.pdf` and returns it as SVG for the report.

    Args:
        figure: The chart.
        path: Without a suffix; its name begins all ids in the SVG.
    """
    with matplotlib.rc_context(SETTINGS):
        for kind, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None})):
            with replacing(path.parent / f"{path.name}.{kind}", "wb") as file:
                figure.savefig(file, format=kind, dpi=200, metadata=metadata)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _embeddable(buffer.getvalue(), path.name)


def _embeddable(svg: str, prefix: str) -> str:
    """An SVG that may stand in an HTML page: ids are its own, and black is the colour of the page's text."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    used = set(re.findall(r"(?:url\(|href=\")#([^)\"]+)", svg))
    prefix = re.sub(r"[^A-Za-z0-9]+", "-", prefix)
    svg = re.sub(r' id="([^"]+)"', lambda m: f' id="{prefix}-{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r'(url\(|href=")#', rf"\1#{prefix}-", svg)
    svg = svg.replace("#000000", "currentColor")
    svg = re.sub(
        r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', svg, count=1
    )
    svg = svg.replace("xlink:href", "href")
    return re.sub(r"\n\s*", "\n", svg)


def forget_charts(folder: Path, drawn: Set[str]) -> None:
    """Removes charts of datasets and models that are not in the report any more.

    Args:
        folder: Where charts lie.
        drawn: The names of those that are in the report.
    """
    for kind, suffix in itertools.product(KINDS, (".png", ".pdf")):
        for path in folder.glob(f"*-{kind}{suffix}"):
            if path.stem not in drawn:
                path.unlink(missing_ok=True)
