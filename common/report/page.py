"""The page, made from tables and run files and rendered from its parts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import jinja2
import yaml

from common import installation, provenance
from common.report.chart_files import forget_charts
from common.report.chart_style import Style
from common.report.contents import Section
from common.report.gallery import fill_galleries
from common.report.runs_table import other_results_table, package_versions, runs_table
from common.report.section import make_section
from common.report.sources import emphasised, linked, module_sources
from common.report.timeline import draw_timeline
from common.report.times_tables import times_of, times_tables
from common.report.tuning_tables import tuning_table
from common.runs.benchmark import Benchmark
from common.tables.frames import Tables
from common.tables.legend import legend
from common.tables.notes import notes
from common.tables.others import ABOUT, TITLE, list_others, other_notes
from common.tables.remembered import RememberedScores
from common.tables.results import Result, read_controls, read_results, rows_of

TEMPLATES = installation.ROOT / "workflow/report"


def make_page(benchmark: Benchmark, tables: Tables) -> str:
    """Draws all charts and returns the page.

    Args:
        benchmark: What was asked.
        tables: What the tabulate stage wrote of it.
    """
    baseline = benchmark.tables.baseline
    figures = benchmark.outputs.results / "figures"
    results = read_results(benchmark, RememberedScores.of(benchmark).known)
    rows = rows_of(benchmark, results)
    style = Style(list(dict.fromkeys([*benchmark.methods, *tables.leaderboard["method"]])))
    sections: list[Section] = []
    drawn: set[str] = set()
    for index, name in enumerate(dict.fromkeys(group.dataset for group in benchmark.groups), 1):
        groups = [group for group in benchmark.groups if group.dataset == name]
        section, files = make_section(f"d{index}", groups, tables.of(name), rows, baseline, style, figures)
        sections.append(section)
        drawn |= files
    forget_charts(figures, drawn)
    parts = [part for section in sections for part in section.parts]
    left_out = fill_galleries(parts, rows, benchmark.tables)
    warnings = notes(rows, read_controls(benchmark), tables.comparisons)
    warnings += other_notes(benchmark, results, list_others(benchmark))
    return _render(
        benchmark, tables, sections, results, left_out, legend(tables.leaderboard, baseline), warnings
    )


def _render(
    benchmark: Benchmark,
    tables: Tables,
    sections: Sequence[Section],
    results: Sequence[Result],
    left_out: int,
    explanations: Sequence[str],
    warnings: Sequence[str],
) -> str:
    """The page from its parts.

    Args:
        benchmark: What was asked.
        tables: What the tabulate stage wrote of it.
        sections: What there is to say about every dataset.
        results: Of all runs.
        left_out: How many examples did not fit.
        explanations: What the tables mean.
        warnings: What a reader must know before comparing rows.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"linked": linked, "emphasised": emphasised}
    times = times_of(benchmark)
    return environment.get_template("report.html.j2").render(
        sections=sections,
        models=list(dict.fromkeys(group.model for group in benchmark.groups)),
        explanations=explanations,
        baseline=benchmark.tables.baseline,
        done=sum(result.complete for result in results),
        failures=[result for result in results if result.error],
        total=len(results),
        notes=warnings,
        runs=runs_table(results),
        tuning=tuning_table(benchmark),
        times=times_tables(times),
        timeline=draw_timeline(times, benchmark.outputs.results / "figures"),
        others=other_results_table(tables.other_results, TITLE),
        about_others=ABOUT,
        versions=package_versions(results),
        configuration=yaml.safe_dump(benchmark.configuration, sort_keys=False, allow_unicode=True, width=100),
        sources=module_sources(benchmark),
        left_out=left_out,
        megabytes=benchmark.tables.report_mb,
        made=f"{datetime.now(UTC):%-d %B %Y, %H:%M} UTC",
        commit=provenance.commit(),
    )
