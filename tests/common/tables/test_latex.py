"""Tables as LaTeX: what they say, and that they compile."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from common.runs import plan
from common.tables import latex
from common.tables.writing import write_tables
from tests.synthetic import make_config, write_all

DOCUMENT = (
    r"\documentclass{article}\usepackage{booktabs,graphicx}\begin{document}\input{tables}\end{document}"
)


def compiled(folder: Path, tables: str) -> str:
    """Compiles tables with pdflatex and returns its log."""
    if shutil.which("pdflatex") is None:
        pytest.skip("there is no pdflatex on this machine (on Debian: texlive-latex-recommended)")
    (folder / "tables.tex").write_text(tables, encoding="utf-8")
    (folder / "document.tex").write_text(DOCUMENT)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "document.tex"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
    assert result.returncode == 0, result.stdout[-2000:]
    assert (folder / "document.pdf").exists()
    return (folder / "document.log").read_text(errors="replace")


def test_numbers_have_minus_signs_and_names_keep_their_hyphens() -> None:
    assert latex.escape("-1.41 [-2.00, +0.50] ± 1") == r"$-$1.41 [$-$2.00, +0.50] $\pm$ 1"
    assert latex.escape("crf-5 of deeplabv3-test_net") == r"crf-5 of deeplabv3-test\_net"


def test_every_character_that_means_something_to_latex_compiles(tmp_path: Path) -> None:
    strange = r"\ { } $ & # ^ _ ~ % < > | ± × Δ ≤ ≥ – é [x]"
    cells = pd.DataFrame(
        {strange: [strange, "[x]"], **{f"column {i}": ["12345678901234567890"] * 2 for i in range(9)}}
    )
    log = compiled(tmp_path, latex.table(cells, strange, strange))
    assert "Overfull" not in log, "a wide table is made to fit"


def test_the_tables_of_a_benchmark_compile(tmp_path: Path) -> None:
    benchmark = plan.benchmark(make_config(tmp_path))
    write_all(benchmark)
    write_tables(benchmark)
    text = (tmp_path / "results/leaderboard.tex").read_text()
    assert len(re.findall(r"\\begin\{table\}", text)) == 7 and r"deeplabv3plus-test\_resnet" in text
    log = compiled(tmp_path, text)
    assert "Overfull" not in log and "LaTeX Warning: Reference" not in log
