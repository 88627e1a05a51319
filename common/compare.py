"""Command `compare`: which rows changed by more than chance between two result folders.

For example after an upgrade, or on another GPU. It reads the run files only, and needs no configuration.
"""

from __future__ import annotations

import argparse
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd

from common import comparisons, rendering, stages
from common.comparisons import Bootstrap, Side
from common.errors import UserError
from common.files import read_json

Key = tuple[str, str, str]
"""Dataset, model and method."""

WORDS = {"better": "higher", "worse": "lower", "no difference shown": "no change shown"}

_LEGEND = """\
Δ: mean of B − A over the seeds that both have, with its 95 % interval over seeds and images; *higher* and
*lower*: the test that belongs to it has p ≤ 0.05 with Holm's correction over the table. could show: the
smallest true change that would be shown with a probability of 80 %. An interval with * is over the images
alone: one seed says nothing of another. identical: the same counts for every image."""


@dataclass
class Found:
    """The runs of one row in one folder.

    Attributes:
        side: Scores and files by seed.
        digests: The digests of their folders by seed.
        doubtful: Seeds with several results, of which the latest was taken.
    """

    side: Side
    digests: dict[int, str]
    doubtful: list[int]


def compare(first: Path, second: Path, metric: str = "miou") -> pd.DataFrame:
    """Compares the rows of two result folders; p values are adjusted over all of them.

    Args:
        first: A folder with `runs/`.
        second: Another.
        metric: One of `comparisons.METRICS`.

    Returns:
        A line per dataset, model and method of either: the means in percent (`first`, `second`),
        `comparisons.COLUMNS` of the difference second − first, and in `reading` what changed.

    Raises:
        UserError: A folder has no results.
    """
    listed = [_listed(folder) for folder in (first, second)]
    keys = sorted(listed[0].keys() | listed[1].keys())
    rows = [tuple(_chosen(key, one, other) for one, other in (listed, listed[::-1])) for key in keys]
    table = comparisons.compare(metric, [(b.side, a.side) for a, b in rows], Bootstrap(None))
    names = pd.DataFrame(keys, columns=["dataset", "model", "method"])
    names["first"], names["second"] = ([100 * row[i].side.mean(metric) for row in rows] for i in (0, 1))
    table["reading"] = [_reading(*row, said) for row, said in zip(rows, table["reading"])]
    table["note"] = ["; ".join(_notes(*row, note)) for row, note in zip(rows, table["note"])]
    return pd.concat([names, table], axis=1)


def _listed(folder: Path) -> dict[Key, dict[int, list[Path]]]:
    """The finished runs below a folder: for every row and seed their folders."""
    place = folder / "runs" if (folder / "runs").is_dir() else folder
    found: dict[Key, dict[int, list[Path]]] = {}
    for path in sorted(place.glob("*/*/*/seed*-*/metrics.json")):
        seed = re.fullmatch(r"seed(\d+)-[0-9a-f]+", path.parent.name)
        if seed:
            key = path.parts[-5], path.parts[-4], path.parts[-3]
            found.setdefault(key, {}).setdefault(int(seed[1]), []).append(path.parent)
    if not found:
        raise UserError(f"{folder} has no results: give a folder with runs/…/metrics.json, such as results")
    return found


def _chosen(
    key: Key, mine: dict[Key, dict[int, list[Path]]], others: dict[Key, dict[int, list[Path]]]
) -> Found:
    """One folder per seed: one that both have if there is any, else the latest."""
    found = Found(Side(), {}, [])
    for seed, folders in mine.get(key, {}).items():
        digests = {folder.name for folder in others.get(key, {}).get(seed, [])}
        common = [folder for folder in folders if folder.name in digests] or folders
        contents = [(read_json(folder / "metrics.json"), folder) for folder in common]
        content, folder = max(contents, key=lambda pair: pair[0]["provenance"].get("written", ""))
        found.side.metrics[seed], found.side.files[seed] = content, folder / "per_image.npz"
        found.digests[seed] = folder.name.partition("-")[2]
        if len(common) > 1:
            found.doubtful.append(seed)
    return found


def _identical(first: Found, second: Found) -> bool:
    """Whether both have the same seeds with the same counts per image."""
    if not first.digests or first.digests.keys() != second.digests.keys():
        return False
    for seed, path in first.side.files.items():
        try:
            with np.load(path) as one, np.load(second.side.files[seed]) as other:
                if not all(np.array_equal(one[key], other[key]) for key in ("names", "confusion")):
                    return False
        except (OSError, EOFError, KeyError, ValueError, BadZipFile, zlib.error):
            return False
    return True


def _reading(first: Found, second: Found, said: str) -> str:
    if not first.digests:
        return "only in B"
    if not second.digests:
        return "only in A"
    return "identical" if _identical(first, second) else WORDS.get(said, said)


def _notes(first: Found, second: Found, note: str) -> Iterator[str]:
    if first.digests and second.digests and note:
        yield note
    common = first.digests.keys() & second.digests.keys()
    if any(first.digests[seed] != second.digests[seed] for seed in common):
        yield "other settings or another code of the method"
    if first.digests.keys() ^ second.digests.keys() and common:
        yield f"seeds of both: {', '.join(map(str, sorted(common)))}"
    for name, found in (("A", first), ("B", second)):
        if found.doubtful:
            yield f"several results in {name}, the latest taken: seed {', '.join(map(str, found.doubtful))}"


def report(first: Path, second: Path, metric: str = "miou") -> str:
    """The comparison as Markdown."""
    table = compare(first, second, metric)
    title = {"miou": "mIoU", "boundary_iou": "boundary IoU"}[metric]
    lines = []
    for line in table.to_dict("records"):
        lines.append(
            {
                **{key: line[key] for key in ("dataset", "model", "method")},
                "seeds": line["seeds"],
                f"{title} A %": rendering.number(line["first"], 2),
                f"{title} B %": rendering.number(line["second"], 2),
                "Δ": rendering.difference(line),
                "could show": rendering.number(line["detectable"], 2),
                "reading": line["reading"] or rendering.DASH,
                "note": line["note"] or rendering.DASH,
            }
        )
    changed = sum(reading in ("higher", "lower") for reading in table["reading"])
    origins = [f"- {name}: {_origin(folder)}" for name, folder in (("A", first), ("B", second))]
    summary = f"{changed} of {len(table)} rows changed by more than chance."
    return "\n\n".join([summary, "\n".join(origins), rendering.github(pd.DataFrame(lines)), _LEGEND])


def _origin(folder: Path) -> str:
    """Where the results of a folder come from."""
    found: dict[str, set[str]] = {"commit": set(), "torch": set(), "device": set()}
    for seeds in _listed(folder).values():
        for path in (path for paths in seeds.values() for path in paths):
            origin: dict[str, Any] = read_json(path / "metrics.json")["provenance"]
            found["commit"].add(str(origin.get("commit"))[:10])
            found["torch"].add(str(origin.get("packages", {}).get("torch")))
            found["device"].add(str(origin.get("device")))
    parts = (f"{key} {' and '.join(sorted(values))}" for key, values in found.items())
    return f"`{folder}` ({', '.join(parts)})"


def _main() -> None:
    parser = argparse.ArgumentParser(description="Says which rows changed between two result folders.")
    parser.add_argument("first", type=Path, metavar="results-a", help="a folder with runs/")
    parser.add_argument("second", type=Path, metavar="results-b", help="another")
    parser.add_argument("--metric", choices=comparisons.METRICS, default="miou")
    parsed = parser.parse_args()
    print(report(parsed.first, parsed.second, parsed.metric))


if __name__ == "__main__":
    stages.main(_main)
