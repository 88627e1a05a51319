"""What a search leaves: the table of its candidates, the chosen one as a configuration, a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from tabulate import tabulate

from common.config import tuning
from common.errors import UserError
from common.files import replacing
from common.provenance import Provenance
from common.runs.records import Chosen, TrainedModelFacts
from common.runs.searches import Search

SHOWN = 10
"""How many of the best candidates the report shows."""


@dataclass(frozen=True)
class Row:
    """What came of a candidate in the end.

    Attributes:
        candidate: Its index.
        share: Of the iterations of a whole training, how many it was trained for at last.
        miou: In percent; None if its training has diverged.
        pixel_accuracy: In percent; None if its training has diverged.
        failure: Why it has none.
    """

    candidate: int
    share: float
    miou: float | None
    pixel_accuracy: float | None
    failure: str = ""

    @property
    def order(self) -> tuple[float, bool, float, int]:
        """What rows are sorted by: the best of those that were trained for longest comes first."""
        return -self.share, self.miou is None, -(self.miou or 0.0), self.candidate


@dataclass(frozen=True)
class Outcome:
    """What a search has found out.

    Attributes:
        rows: One per candidate.
        images: The names of the images that were scored.
        provenance: How it came to be.
        miou_unrefined: In percent, of the model that candidates have refined; None if they were trained.
        trained: Where that model comes from.
    """

    rows: Sequence[Row]
    images: list[str]
    provenance: Provenance
    miou_unrefined: float | None = None
    trained: TrainedModelFacts | None = None


def write(search: Search, outcome: Outcome) -> Chosen:
    """Writes table, configuration, report and record.

    Args:
        search: The search.
        outcome: What it has found out.

    Raises:
        UserError: All trainings have diverged.
    """
    rows = sorted(outcome.rows, key=lambda row: row.order)
    chosen = _chosen(search, outcome, rows)
    table = _table(search, rows)
    with replacing(search.table) as file:
        table.to_csv(file, index=False)
    with replacing(search.chosen) as file:
        file.write(chosen.configuration(search.folder))
    with replacing(search.report) as file:
        file.write(_report(search, chosen, table))
    chosen.write(search.record)
    return chosen


def _chosen(search: Search, outcome: Outcome, rows: Sequence[Row]) -> Chosen:
    """The best candidate, or the entry as it is if none is better."""
    best, own = rows[0], next(row for row in rows if row.candidate == 0)
    if best.miou is None:
        raise UserError(
            f"tuning.methods.{search.run.method}: every candidate's training has diverged ({best.failure}): "
            "try lower learning rates"
        )
    better = own.miou is None or best.miou > own.miou
    index = best.candidate if better else 0
    candidate = search.candidates[index]
    return Chosen(
        dataset=search.run.dataset,
        model=search.run.model,
        method=search.run.method,
        digest=search.digest,
        options=candidate.options,
        training=candidate.training,
        values=search.values(index),
        miou=best.miou,
        miou_before=own.miou,
        miou_unrefined=outcome.miou_unrefined,
        split=search.split,
        images=outcome.images,
        candidates=len(search.candidates),
        possible=search.possible,
        budget=tuning.budget(search.settings, len(search.candidates)),
        spent=sum(rung.share * rung.candidates for rung in search.rungs),
        trained=outcome.trained,
        provenance=outcome.provenance,
    )


def _table(search: Search, rows: Sequence[Row]) -> pd.DataFrame:
    """What was tried, and what came of it, the best candidate first."""
    lines = [
        {
            "candidate": row.candidate,
            **search.values(row.candidate),
            **({"trained_for": row.share} if search.trains else {}),
            "miou": row.miou,
            "pixel_accuracy": row.pixel_accuracy,
            **({"note": row.failure} if search.trains else {}),
        }
        for row in rows
    ]
    return pd.DataFrame(lines)


def _report(search: Search, chosen: Chosen, table: pd.DataFrame) -> str:
    """What there is to read about a search."""
    before = "its training diverges" if chosen.miou_before is None else f"{chosen.miou_before:.2f} %"
    without = f", without refinement {chosen.miou_unrefined:.2f} %" if chosen.trained else ""
    sampled = "all there are" if chosen.possible == chosen.candidates else f"drawn from {chosen.possible}"
    rounds = "; ".join(
        f"{rung.candidates} trained for {100 * rung.share:g} % of the iterations" for rung in search.rungs
    )
    shown = tabulate(
        table.head(SHOWN), headers="keys", tablefmt="github", showindex=False, floatfmt="g", missingval="–"
    )
    return (
        f"{chosen.method} on {chosen.dataset} with {chosen.model}: mIoU on {chosen.split} "
        f"({len(chosen.images)} images) is {before} as configured (candidate 0){without}, and "
        f"{chosen.miou:.2f} % with the best of {chosen.candidates} candidates, {sampled}"
        f"{f': {rounds}' if rounds else ''}.\n\n{shown}\n\n{_advice(search, chosen)}\n"
    )


def _advice(search: Search, chosen: Chosen) -> str:
    """What to do with what was chosen."""
    if not chosen.helped:
        than = "as configured" if not (chosen.options or chosen.training) else "without refinement"
        return (
            f"Nothing helped: no candidate is better than {chosen.method} {than}. --configfile "
            f"{search.chosen} only notes that it was tuned."
        )
    return f"To use it, lay it over: --configfile {search.chosen}"
