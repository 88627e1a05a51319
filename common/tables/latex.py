"""Tables for papers: LaTeX that compiles with the packages booktabs and graphicx."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import pandas as pd

from common.runs.benchmark import Group
from common.tables import cells
from common.tables.answers import answers
from common.tables.frames import Tables

HEAD = (
    "% \\input this file; it needs \\usepackage{booktabs} for its lines, and \\usepackage{graphicx}, which "
    "makes tables that are too wide fit the line."
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


def document(groups: Sequence[Group], baseline: str, tables: Tables) -> str:
    """All tables, each with a caption.

    Args:
        groups: The datasets and models.
        baseline: The name of the method that the others are compared with.
        tables: Of all of them.
    """
    parts = [HEAD]
    for group in groups:
        own = tables.of(*group.key)
        where = f"{group.dataset}, {group.model}, scored on {cells.scored_on(group.evaluation)}"
        label = f"{group.dataset}-{group.model}"
        main = cells.main_cells(own, baseline).drop(columns="error", errors="ignore")
        parts.append(table(main, f"Methods on {where}.", label))
        if len(own.trimap):
            boundaries = cells.boundary_cells(own, baseline)
            parts.append(table(boundaries, f"Boundaries and calibration on {where}.", f"{label}-boundaries"))
        if not own.leaderboard["miou_i_mean"].isna().all():
            images = cells.image_cells(own, baseline)
            parts.append(table(images, f"By image, class and size of objects on {where}.", f"{label}-images"))
        methods = cells.methods_of(own.leaderboard)
        device = cells.device_of(methods)
        if device:
            parts.append(table(cells.cost_cells(methods), f"Cost on {device}: {where}.", f"{label}-cost"))
        if len(own.per_class):
            classes = cells.class_cells(own.per_class)
            parts.append(table(classes, f"IoU per class in percent on {where}.", f"{label}-classes"))
    for dataset in dict.fromkeys(group.dataset for group in groups):
        own = tables.of(dataset)
        for place, answer in enumerate(answers(own.leaderboard, own.budgets)):
            caption = f"{answer.about}, {dataset}. {answer.sentences}"
            parts.append(table(answer.cells, caption, f"{dataset}-budgets-{place + 1}"))
    return "\n".join(parts)


def escape(text: str) -> str:
    """A text as LaTeX prints it; the minus of a number is one."""
    parts = re.split(r"(?<![\w-])-(?=[\d.])", text)
    return "$-$".join("".join(_ESCAPED.get(character, character) for character in part) for part in parts)


def table(content: pd.DataFrame, caption: str, label: str) -> str:
    """A floating table; the first column is on the left, the others on the right.

    Args:
        content: Texts, with the headings as columns.
        caption: What it is.
        label: Behind `tab:`; what no label may have is replaced.
    """
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape(caption)}}}",
        rf"\label{{tab:{re.sub(r'[^A-Za-z0-9.:-]+', '-', label)}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{l{'r' * (content.shape[1] - 1)}}}",
        r"\toprule",
        _row(content.columns),
        r"\midrule",
        *(_row(line) for line in content.itertuples(index=False)),
        r"\bottomrule",
        r"\end{tabular}}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _row(texts: Iterable[object]) -> str:
    """A row of a table in LaTeX, from the texts of its cells."""
    # {} because a row that begins with [ would be taken for an option of the line before
    return "{}" + " & ".join(escape(str(text)) for text in texts) + r" \\"
