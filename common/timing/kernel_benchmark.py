"""The benchmark of the kernels: measures case by case and writes after every one."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import torch

from common.errors import UserError
from common.machine import devices
from common.provenance import Provenance
from common.timing import card, kernel_tables
from common.timing.cases import Bench, Case, Effort, Family, Timing
from common.timing.journal import Journal, Session
from common.timing.passes import copy_speed
from common.timing.quiet import Watch


def run(
    folder: Path,
    families: Mapping[str, Family],
    device: torch.device,
    effort: Effort,
    baselines: bool,
    watch: Watch,
) -> None:
    """Measures families of kernels and writes their tables after every row.

    A call that follows one that was interrupted, on the same device with the same code and versions, goes on
    where that has ended; otherwise it measures its families anew.

    Args:
        folder: Where the tables are written; what has been measured lies there in `state/`.
        families: What is measured, by name.
        device: Where.
        effort: How often.
        baselines: Whether to measure too what ours replaces.
        watch: Looks at what else the machine does.
    """
    speed = copy_speed(device)
    bench = Bench(device, speed, effort)
    journal = Journal(folder / "state/rows.json", _origin(device))
    session = Session(datetime.now(UTC).isoformat(timespec="seconds"), _facts(device, speed, watch))
    journal.begin(session, [*families])
    for name, family in families.items():
        for case in family(bench):
            if (baselines or not case.baseline) and not journal.has(name, case):
                journal.add(name, case, _measured(case))
                kernel_tables.write(folder, journal)
        session.facts |= _facts(device, speed, watch)
        journal.finish(name)
        kernel_tables.write(folder, journal)


def _measured(case: Case) -> Timing:
    """What a case costs, or why that is not known."""
    try:
        return case.measure()
    except (UserError, torch.OutOfMemoryError) as error:  # a user's method, or too small a device
        return {"note": " ".join(str(error).split())[:200]}


def _origin(device: torch.device) -> dict[str, str]:
    """What times depend on, but for chance."""
    provenance = Provenance.now(devices.describe(device))
    origin = {
        "device": provenance.device,
        "commit": provenance.commit or "",
        "code": provenance.code or "",
    }
    return origin | {name: provenance.packages.get(name, "") for name in ("python", "torch")}


def _facts(device: torch.device, speed: float, watch: Watch) -> dict[str, str]:
    """What is to be said of the machine now, after it has copied."""
    facts = {"a large copy": f"{speed / 1e9:.0f} GB/s"}
    if on_card := card.facts(device):
        facts["the card"] = on_card
    load = watch.load()
    if load.gpu_processes is not None:
        facts["other processes on it"] = str(load.gpu_processes)
    return facts | {"other work": load.busy or "none of note"}
