"""The files that are made from all runs: tables, panels, report, and the stamps that say what they show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.files import digest

TABLES = (
    "leaderboard.md",
    "leaderboard.csv",
    "leaderboard.tex",
    "per_class.csv",
    "comparisons.csv",
    "trimap.csv",
    "calibration.csv",
    "cost.csv",
    "budgets.csv",
    "other_results.csv",
)
"""The files of the tabulate stage, but for the picture panels."""


@dataclass(frozen=True)
class Outputs:
    """Where the tabulate and report stages write.

    Attributes:
        results: The folder of all results.
        groups: Names of datasets and models, one pair per picture panel.
        files: The scores and costs of all runs.
        settings: The settings of tables, as the configuration has them, and what else only tables depend on.
    """

    results: Path
    groups: tuple[tuple[str, str], ...]
    files: tuple[str, ...]
    settings: Mapping[str, Any]

    @property
    def tables(self) -> list[Path]:
        """All files that the tabulate stage writes once all runs are there, the stamp last."""
        panels = [self.panel(*group) for group in self.groups]
        return [*(self.results / name for name in TABLES), *panels, self.stamp]

    @property
    def report(self) -> Path:
        """The page that has everything."""
        return self.results / "report.html"

    def panel(self, dataset: str, model: str) -> Path:
        """The picture panel of a dataset and model."""
        return self.results / "figures" / f"{dataset}-{model}.png"

    @property
    def stamp(self) -> Path:
        """The file that says which runs the tables show; it exists if they show them all.

        Only one such file is ever left, and none when results change, so tables of other runs are never
        taken for these.
        """
        content = [[*self.files], dict(self.settings)]
        return self.results / f"tabulated-{digest(content)}.json"

    @property
    def page_stamp(self) -> Path:
        """The file that says which runs the report shows, which `snakemake tables` does not write."""
        return self.stamp.with_name(self.stamp.name.replace("tabulated", "reported"))


def forget_tables(results: Path) -> None:
    """Says that tables and report do not show all results any more; stages that write results call it."""
    for kind in ("tabulated", "reported"):
        for path in results.glob(f"{kind}-*.json"):
            path.unlink(missing_ok=True)
