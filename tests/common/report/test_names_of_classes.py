"""Classes called whatever a user calls them: tables and report show them as they are, and run nothing."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from common.datasets.digits import Digits
from common.images.legend import draw_legend
from common.runs import plan
from common.stages import report
from common.tables.frames import read_csv
from tests.synthetic import make_config, write_all

NAMES = (
    "$\\frac{$", "\\alpha", "=1+1", "-1", "'=1", "@SUM(A1)", "a|b*c*[d](e)", "<script>alert(1)</script>",
    "_under_ {x}%&#~^", "日本", "y" * 100,
)  # fmt: skip


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results with tables and report."""
    folder = tmp_path_factory.mktemp("names")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Digits, "class_names", NAMES)
        benchmark = plan.benchmark(make_config(folder, methods=["ce", "rmi"], seeds=[0]))
        write_all(benchmark)
        report.publish(benchmark)
    return folder / "results"


def test_csv_has_them_and_no_formulas(results: Path) -> None:
    assert tuple(read_csv(results / "per_class.csv")["class"].unique()) == NAMES
    with (results / "per_class.csv").open(newline="") as file:
        cells = [row["class"] for row in csv.DictReader(file)]
    assert not [cell for cell in cells if cell[0] in "=+-@"] and "'=1+1" in cells


def test_markdown_has_a_line_for_each(results: Path) -> None:
    text = (results / "leaderboard.md").read_text()
    table = text.split("IoU per class, %:\n\n")[1].split("\n\n")[0].splitlines()
    cells = [re.split(r"(?<!\\)\|", line) for line in table]
    assert {len(line) for line in cells} == {len(cells[0])}
    shown = [re.sub(r"\\([^A-Za-z0-9\s])", r"\1", line[1].strip()) for line in cells[2:]]
    assert tuple(shown) == NAMES
    assert "<script>" not in re.sub(r"\\[<>]", "", text) and r"\$\\frac{\$" in text


def test_latex_has_them_without_commands(results: Path) -> None:
    text = (results / "leaderboard.tex").read_text()
    assert r"\$\textbackslash{}frac\{\$" in text and r"\_under\_ \{x\}\%\&\#" in text


def test_the_page_runs_nothing(results: Path) -> None:
    text = (results / "report.html").read_text()
    assert "<script>alert(1)" not in text and "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_charts_and_pictures_are_drawn(results: Path, tmp_path: Path) -> None:
    figures = {path.name for path in (results / "figures").iterdir()}
    stem = "digits-deeplabv3plus-test_resnet"
    assert {f"{stem}-classes.pdf", f"{stem}-confusion.pdf"} <= figures
    draw_legend(tmp_path / "legend.png", NAMES, Digits.colours)
    assert (tmp_path / "legend.png").stat().st_size > 1000
