"""The times of the kernels as files: a CSV per family, and a page that gathers them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch
from tabulate import tabulate

from common import devices
from common.files import replacing
from common.provenance import Provenance

PAGE = "kernels.md"

COLUMNS = {
    "forward_ms": ("forward ms", 1, "{:.1f}"),
    "backward_ms": ("backward ms", 1, "{:.1f}"),
    "image_ms": ("ms per image", 1, "{:.1f}"),
    "images_per_s": ("images/s", 1, "{:.2f}"),
    "speed_up": ("faster than the last", 1, "{:.1f}×"),
    "kept_bytes": ("kept MB", 1e6, "{:.1f}"),
    "peak_bytes": ("peak MB", 1e6, "{:.1f}"),
    "gigabytes_per_s": ("GB/s", 1, "{:.2f}"),
    "bytes_floor_ms": ("bytes floor ms", 1, "{:.2f}"),
    "latency_floor_ms": ("latency floor ms", 1, "{:.2f}"),
    "times_floor": ("× larger floor", 1, "{:.1f}"),
    "agreement": ("same labels %", 0.01, "{:.3f}"),
}
"""Of the page: title, unit and form of every column."""

LEGEND = (
    "Medians; the versions of one size were timed in one process, one after the other. kept: memory "
    "held between the forward and the backward pass besides the inputs; peak: memory that both passes "
    "need at most besides the inputs. bytes floor: the time to copy what any version must move at the "
    "measured speed of a large copy; GB/s: these bytes over the measured time. latency floor: the steps "
    "that depend on each other, in the time that one of them takes in a single chain."
)


def write(folder: Path, families: Mapping[str, pd.DataFrame], device: torch.device) -> None:
    """Writes `<family>.csv` and the page into a folder.

    Args:
        folder: Where.
        families: A table per family of kernels.
        device: Where they were timed.
    """
    provenance = Provenance.now(devices.describe(device))
    origin = {
        "device": provenance.device,
        "threads": torch.get_num_threads(),
        "torch": provenance.packages["torch"],
        "commit": provenance.commit,
    }
    tables = {name: table.assign(**origin) for name, table in families.items()}
    for name, table in tables.items():
        with replacing(folder / f"{name}.csv") as file:
            table.to_csv(file, index=False)
    with replacing(folder / PAGE) as file:
        file.write(markdown(tables))


def markdown(families: Mapping[str, pd.DataFrame]) -> str:
    """All families of kernels as a page to read."""
    parts = ["# Kernels"]
    for name, table in families.items():
        first = table.iloc[0]
        parts.append(f"## {name}\n\n{first['device']}, torch {first['torch']}")
        cells = pd.DataFrame(
            {"N, K, H, W": [", ".join(str(row[x]) for x in "NKHW") for row in table.to_dict("records")]}
        )
        cells["version"] = table["version"]
        for column, (title, unit, form) in COLUMNS.items():
            if column in table:
                cells[title] = (table[column] / unit).map(form.format)
        parts.append(
            tabulate(cells, headers="keys", tablefmt="github", showindex=False, disable_numparse=True)
        )
    return "\n\n".join([*parts, LEGEND]) + "\n"
