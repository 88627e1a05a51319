"""The chart of where the time went: every job of every device from its start to its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from common.phases import COMPUTING, LOADING, STARTING, WAITING, WRITING
from common.report import chart_files
from common.report.chart_style import SETTINGS
from common.report.contents import Chart
from common.runs.records import JobTimes

ORDER = (STARTING, WAITING, LOADING, COMPUTING, WRITING)
"""The phases of a job as its bar shows them."""

COLOURS = dict(zip(ORDER, ("#9467bd", "#b8b8b8", "#d9a21e", "#2b9348", "#2b7bba")))

WITHOUT = "no device"
"""Where jobs are that compute little."""

MOST = 500
"""So many jobs are drawn, the last ones: the page has to hold them."""

PAUSE = 60.0
"""Longer times without a job, in seconds, are cut to this."""

_LANE, _BAR, _WIDTH = 0.13, 0.8, 9.0  # inches, share of a lane, inches


class Bar(NamedTuple):
    """A job in the chart.

    Attributes:
        lane: The line that it is drawn in, from 0.
        start: In seconds since the first one began, pauses cut.
        seconds: Of every one of `ORDER`.
    """

    lane: int
    start: float
    seconds: Sequence[float]


class Lanes(NamedTuple):
    """The bars of a chart, and the lines that each device takes.

    Attributes:
        bars: In the order in which they began.
        counts: How many lines there are, by device.
    """

    bars: list[Bar]
    counts: dict[str, int]


def draw_timeline(times: Sequence[JobTimes], figures: Path) -> Chart | None:
    """Draws and writes the chart; None without jobs.

    Args:
        times: Where the time of jobs went.
        figures: The folder of the charts.
    """
    if not times:
        return None
    drawn = sorted(times, key=lambda job: job.began)[-MOST:]
    lanes = in_lanes(drawn)
    svg = chart_files.save(_figure(lanes), figures / "timeline")
    left_out = f" of the last {MOST} of {len(times)} jobs" if len(times) > MOST else ""
    caption = (
        f"Every job{left_out}, a bar from its start to its end. The parts of a bar are sums: a job that "
        f"loads or writes several times has one part for all. Pauses without jobs are cut to {PAUSE:.0f} s."
    )
    alt = f"{len(drawn)} jobs on {', '.join(lanes.counts)}; the table of devices has how busy they were."
    return Chart(svg, caption, alt)


def in_lanes(times: Sequence[JobTimes]) -> Lanes:
    """Every job in the first line of its device that is free when it begins.

    Args:
        times: Jobs in the order in which they began; one with several devices is drawn for the first.
    """
    starts = _without_pauses(times)
    free: dict[str, list[float]] = {}
    places: list[tuple[str, int]] = []
    for job, start in zip(times, starts):
        device = job.devices[0] if job.devices else WITHOUT
        ends = free.setdefault(device, [])
        lane = next((lane for lane, end in enumerate(ends) if end <= start), len(ends))
        ends[lane : lane + 1] = [start + _length(job)]
        places.append((device, lane))
    counts = {device: len(free[device]) for device in sorted(free, key=lambda name: (name == WITHOUT, name))}
    first = _first_lanes(counts)
    bars = [
        Bar(first[device] + lane, start, [job.seconds.get(phase, 0.0) for phase in ORDER])
        for job, start, (device, lane) in zip(times, starts, places)
    ]
    return Lanes(bars, counts)


def _without_pauses(times: Sequence[JobTimes]) -> list[float]:
    """When jobs began, in seconds since the first did, less what pauses are longer than `PAUSE`."""
    starts, cut, end = [], 0.0, times[0].began
    for job in times:
        cut += max(0.0, job.began - end - PAUSE)
        starts.append(job.began - times[0].began - cut)
        end = max(end, job.began + _length(job))
    return starts


def _length(job: JobTimes) -> float:
    return sum(job.seconds.get(phase, 0.0) for phase in ORDER)


def _first_lanes(counts: Mapping[str, int]) -> dict[str, int]:
    """The first line of every device."""
    first, total = {}, 0
    for device, count in counts.items():
        first[device] = total
        total += count
    return first


def _figure(lanes: Lanes) -> Figure:
    total = sum(lanes.counts.values())
    height = 1.1 + _LANE * total + 0.2 * len(lanes.counts)
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(_WIDTH, height))
        axes = figure.subplots()
        figure.subplots_adjust(left=0.03, right=0.98, top=1 - 0.25 / height, bottom=0.75 / height)
        end = max(bar.start + sum(bar.seconds) for bar in lanes.bars)
        unit, name = (60.0, "minutes") if end < 7200 else (3600.0, "hours")
        _draw_bars(axes, lanes, unit)
        axes.set_xlim(0, end / unit)
        axes.set_xlabel(f"{name} with jobs")
        axes.grid(visible=False, axis="y")
        handles = [Patch(color=COLOURS[phase], label=phase) for phase in ORDER]
        figure.legend(handles=handles, loc="lower center", ncols=len(ORDER), borderaxespad=0.2)
    return figure


def _draw_bars(axes: Axes, lanes: Lanes, unit: float) -> None:
    """All bars, the lines of every device below its name."""
    first = _first_lanes(lanes.counts)
    gap = 0.2 / _LANE  # for the name
    places: dict[int, float] = {}
    for index, (device, count) in enumerate(lanes.counts.items(), 1):
        places |= {lane: lane + index * gap for lane in range(first[device], first[device] + count)}
        axes.text(0, first[device] + index * gap - 0.2, device, fontsize=8, va="bottom", color="#000000")
    for place, phase in enumerate(ORDER):
        boxes = [
            _box((bar.start + sum(bar.seconds[:place])) / unit, bar.seconds[place] / unit, places[bar.lane])
            for bar in lanes.bars
            if bar.seconds[place] > 0
        ]
        axes.add_collection(PolyCollection(boxes, facecolors=COLOURS[phase], edgecolors="none"))
    axes.set_ylim(sum(lanes.counts.values()) + len(lanes.counts) * gap, 0)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)


def _box(left: float, width: float, top: float) -> list[tuple[float, float]]:
    right, bottom = left + width, top + _BAR
    return [(left, top), (right, top), (right, bottom), (left, bottom)]
