"""Tables for papers: LaTeX that compiles with the package graphicx and nothing else."""

from __future__ import annotations

import re

import pandas as pd

HEAD = (
    "% \\input this file; it needs \\usepackage{graphicx}, which makes tables that are too wide fit the line."
)

_ESCAPED = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: f"\\{character}" for character in "_%&#${}"},
    **{character: f"${character}$" for character in "<>|"},
    "Δ": r"$\Delta$",
    "†": r"$\dagger$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "–": "--",
}


def escape(text: str) -> str:
    """A text as LaTeX prints it; the minus of a number is one."""
    parts = re.split(r"(?<![\w-])-(?=[\d.])", text)
    return "$-$".join("".join(_ESCAPED.get(character, character) for character in part) for part in parts)


def table(cells: pd.DataFrame, caption: str, label: str) -> str:
    """A floating table; the first column is on the left, the others on the right.

    Args:
        cells: Texts, with the headings as columns.
        caption: What it is.
        label: Behind `tab:`; what no label may have is replaced.
    """
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape(caption)}}}",
        rf"\label{{tab:{re.sub(r'[^A-Za-z0-9.:-]+', '-', label)}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{l{'r' * (cells.shape[1] - 1)}}}",
        r"\hline",
        _row(cells.columns),
        r"\hline",
        *(_row(line) for line in cells.itertuples(index=False)),
        r"\hline",
        r"\end{tabular}}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _row(texts: object) -> str:
    # {} because a row that begins with [ would be taken for an option of the line before
    return "{}" + " & ".join(escape(str(text)) for text in texts) + r" \\"
