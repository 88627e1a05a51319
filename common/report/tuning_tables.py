"""What tuning gained: the searches of a benchmark, and which of them its entries use."""

from __future__ import annotations

from pathlib import Path

import yaml

from common.report.sortable_tables import Column, SortableTable, TableRow, number, word
from common.runs.benchmark import Benchmark
from common.runs.jobs import TrainedRun
from common.runs.records import Chosen

COLUMNS = [
    Column("method", words=True),
    Column("dataset", words=True),
    Column("model", words=True),
    Column("before", "mIoU in % as it is configured without the search, on the images of the search"),
    Column("chosen", "mIoU in % with what was chosen, on the same images"),
    Column("gain", "their difference; it is that of the best of several, and so is too high by chance"),
    Column("candidates", "how many were tried, the entry as configured included"),
    Column("of", "how many the grid has"),
    Column("budget", "what a search of so many candidates may take, in whole trainings"),
    Column("spent", "what this one took; nothing, if it refined the output of one trained model"),
    Column("tried on", words=True),
    Column("what was chosen", words=True),
    Column("used", "whether the entry of this benchmark names the search", words=True),
]


def tuning_table(benchmark: Benchmark) -> SortableTable | None:
    """All searches that were made on the datasets and models of a benchmark; None if there are none.

    Args:
        benchmark: What was asked.
    """
    groups = {group.key for group in benchmark.groups}
    there = [
        (folder, chosen)
        for folder, chosen in Chosen.read_all(benchmark.outputs.results)
        if (chosen.dataset, chosen.model) in groups
    ]
    if not there:
        return None
    used = _used(benchmark)
    table = SortableTable("mIoU on the images of the searches", COLUMNS)
    table.rows += [_row(chosen, folder.name in used) for folder, chosen in there]
    return table


def _used(benchmark: Benchmark) -> set[str]:
    """The names of the folders of the searches that entries say their settings are from."""
    tuned = (run.entry.tuned for run in benchmark.runs if isinstance(run, TrainedRun))
    return {Path(str(facts["search"])).name for facts in tuned if facts and "search" in facts}


def _row(chosen: Chosen, used: bool) -> TableRow:
    """One search."""
    settings = yaml.safe_dump(chosen.values, default_flow_style=True, width=1000).strip()
    gain = None if chosen.miou_before is None else chosen.miou - chosen.miou_before
    before = number(chosen.miou_before, 2)
    if chosen.miou_unrefined is not None:
        before.note = f"{chosen.miou_unrefined:.2f} without refinement"
    return TableRow(
        [
            word(chosen.method),
            word(chosen.dataset),
            word(chosen.model),
            before,
            number(chosen.miou, 2),
            number(gain, 2, "+"),
            number(chosen.candidates, 0),
            number(chosen.possible, 0),
            number(chosen.budget, 2),
            number(chosen.spent, 2),
            word(f"{chosen.split} ({len(chosen.images)} images)"),
            word(settings if chosen.helped else f"nothing helped: {settings}"),
            word("yes" if used else "no"),
        ],
        chosen.method,
    )
