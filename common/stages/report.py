"""Stage `report`: one page with everything that the run files say, and its charts for papers.

The page is a single HTML file that asks no other host for anything. The tables are made first, so the
page may be made at any time; what failed or is missing is in it with its reason.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from common.errors import UnreadableRecord
from common.files import read_json, replacing, write_json
from common.report.page import make_page
from common.runs.benchmark import Benchmark
from common.stages import entry
from common.tables.frames import Tables
from common.tables.writing import up_to_date, write_tables


def publish(benchmark: Benchmark) -> Path:
    """Makes the charts and the page, the tables first if they are not up to date; returns the page's path.

    Raises:
        UnreadableRecord: Once all is made: files of results are damaged or out of reach. The page says which.
    """
    outputs = benchmark.outputs
    fault: UnreadableRecord | None = None
    if not up_to_date(outputs):
        try:
            write_tables(benchmark)
        except UnreadableRecord as error:
            fault = error
    page = make_page(benchmark, Tables.read(outputs.results))
    with replacing(outputs.report) as file:
        file.write(page)
    if outputs.stamp.exists():  # the tables show all runs, and so does the page
        write_json(outputs.page_stamp, read_json(outputs.stamp))
    if fault:
        raise fault
    return outputs.report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the configuration."""
    entry.add_configuration(parser)


def run(arguments: argparse.Namespace) -> None:
    """Writes the tables, the charts and the report of the configuration's runs."""
    path = publish(entry.benchmark(arguments))
    print((path.parent / "leaderboard.md").read_text(encoding="utf-8"))
    print(f"The report: {path}")
