"""Which rows changed by more than chance between two result folders."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from common.datasets.manifest import Manifest
from common.errors import UserError
from common.runs import recipes
from common.runs.records import Metrics
from common.scoring.counts import SplitCounts
from common.scoring.stored_scores import in_folder
from common.tables import cells, comparisons, intervals
from common.tables.blocks import Place, Placing, alone
from common.tables.bootstrap import Bootstrap
from common.tables.markdown import github
from common.tables.notes import resampling
from common.tables.sides import Side

Key = tuple[str, str, str]
"""Dataset, model and method."""

SeedFolders = Mapping[int, list[Path]]
"""By seed the folders with results of a row."""

WORDS = {
    intervals.BETTER: "higher",
    intervals.WORSE: "lower",
    intervals.UNDECIDED: "no change shown",
}

_LEGEND = """\
Δ: mean of B − A over the seeds that both have, with its 95 % interval over seeds and images; *higher* and
*lower*: the test that belongs to it has p ≤ 0.05 with Holm's correction over the table. could show: the
smallest true change that would be shown with a probability of 80 %; none if it is larger than it can be. An
interval with * is over the images alone: one seed says nothing of another. identical: the same counts for
every image."""


@dataclass(frozen=True)
class FolderRow:
    """The runs of one row in one folder.

    Attributes:
        side: Scores and files by seed.
        digests: The digests of their folders by seed.
        doubtful: Seeds with several results, of which the latest was taken.
        recipes: The numbers of the recipes that they were made by, by the recipes' names.
        contents: The `content_sha256` of the data that they were trained and scored on.
        splits: What was scored.
        unreadable: What is wrong with results that are left out, in sentences.
    """

    side: Side
    digests: dict[int, str]
    doubtful: list[int]
    recipes: dict[str, set[int]]
    contents: set[str]
    splits: set[str]
    unreadable: list[str]


def changes(first: Path, second: Path, metric: str = "miou") -> pd.DataFrame:
    """Compares the rows of two result folders; p values are adjusted over all of them.

    Args:
        first: A folder with `runs/`.
        second: Another.
        metric: One of `sides.METRICS`.

    Returns:
        A line per dataset, model and method of either: the means in percent (`first`, `second`),
        `comparisons.COLUMNS` of the difference second − first, and in `reading` what changed.

    Raises:
        UserError: A folder has no results.
    """
    first_runs, second_runs = _finished_runs(first), _finished_runs(second)
    keys = sorted(first_runs.keys() | second_runs.keys())
    places = _places(first) | _places(second)
    rows = []
    for key in keys:
        a, b = first_runs.get(key, {}), second_runs.get(key, {})
        rows.append((_folder_row(a, b, places), _folder_row(b, a, places)))
    table = comparisons.compare(metric, [(b.side, a.side) for a, b in rows], Bootstrap(None))
    names = pd.DataFrame(keys, columns=["dataset", "model", "method"])
    names["first"], names["second"] = ([100 * row[i].side.mean(metric) for row in rows] for i in (0, 1))
    table["reading"] = [_reading(*row, reading) for row, reading in zip(rows, table["reading"])]
    table["note"] = ["; ".join(_notes(*row, note)) for row, note in zip(rows, table["note"])]
    return pd.concat([names, table], axis=1)


def changes_text(first: Path, second: Path, metric: str = "miou") -> str:
    """The comparison as Markdown; arguments and errors as of `changes`."""
    table = changes(first, second, metric)
    title = {"miou": "mIoU", "boundary_iou": "boundary IoU"}[metric]
    lines = []
    for line in table.to_dict("records"):
        lines.append(
            {
                **{key: line[key] for key in ("dataset", "model", "method")},
                "seeds": line["seeds"],
                f"{title} A %": cells.number(line["first"], 2),
                f"{title} B %": cells.number(line["second"], 2),
                "Δ": cells.difference(line),
                "could show": cells.could_show(line),
                "reading": line["reading"] or cells.DASH,
                "note": line["note"] or cells.DASH,
            }
        )
    changed = sum(reading in ("higher", "lower") for reading in table["reading"])
    origins = [f"- {name}: {_origin(folder)}" for name, folder in (("A", first), ("B", second))]
    origins += [f"- {note}" for note in resampling(table)]
    summary = f"{changed} of {len(table)} rows changed by more than chance."
    return "\n\n".join([summary, "\n".join(origins), github(pd.DataFrame(lines)), _LEGEND])


def _finished_runs(folder: Path) -> dict[Key, dict[int, list[Path]]]:
    """The finished runs below a folder: for every row and seed their folders."""
    place = folder / "runs" if (folder / "runs").is_dir() else folder
    runs: dict[Key, dict[int, list[Path]]] = {}
    for path in sorted(place.glob("*/*/*/seed*-*/metrics.json")):
        seed = re.fullmatch(r"seed(\d+)-[0-9a-f]+", path.parent.name)
        if seed:
            key = path.parts[-5], path.parts[-4], path.parts[-3]
            runs.setdefault(key, {}).setdefault(int(seed[1]), []).append(path.parent)
    if not runs:
        raise UserError(f"{folder} has no results: give a folder with runs/…/metrics.json, such as results")
    return runs


def _places(folder: Path) -> dict[str, dict[str, Place]]:
    """Where images belong, as the manifests beside the runs of a folder say: by content and image."""
    results = folder if (folder / "runs").is_dir() else folder.parent
    places: dict[str, dict[str, Place]] = {}
    for path in sorted((results / "datasets").glob("*.json")):
        with contextlib.suppress(UserError):  # such as the record of a failure
            manifest = Manifest.read(path)
            known = places.setdefault(manifest.content_sha256, {})
            for split, content in manifest.splits.items():
                pairs = zip(content.names, content.sequences or [])
                known |= {f"{split}/{name}": place for name, place in pairs if place is not None}
    return places


def _folder_row(
    seeds: SeedFolders, others: SeedFolders, places: Mapping[str, Mapping[str, Place]]
) -> FolderRow:
    """A row from one folder per seed: one that both have if there is any, else the latest.

    Args:
        seeds: The folders of the row.
        others: Those of the row that it is compared with.
        places: As of `_places`.
    """
    runs, digests, doubtful = [], {}, []
    placing: Placing = alone
    numbers: dict[str, set[int]] = {}
    contents: set[str] = set()
    splits: set[str] = set()
    unreadable: list[str] = []
    for seed, folders in seeds.items():
        names = {folder.name for folder in others.get(seed, [])}
        common = [folder for folder in folders if folder.name in names] or folders
        records = [*_readable(common, seed, unreadable)]
        if not records:
            continue
        metrics, folder = max(records, key=lambda pair: pair[0].provenance.written)
        runs.append((seed, metrics, folder / "per_image.npz"))
        digests[seed] = folder.name.partition("-")[2]
        placing = places.get(metrics.content_sha256, {}).get
        for name, number in _recipes(metrics).items():
            numbers.setdefault(name, set()).add(number)
        contents |= {metrics.content_sha256, *([metrics.trained.content_sha256] if metrics.trained else [])}
        splits.add(metrics.split)
        if len(common) > 1:
            doubtful.append(seed)
    return FolderRow(Side.of(runs, placing), digests, doubtful, numbers, contents, splits, unreadable)


def _readable(folders: Sequence[Path], seed: int, unreadable: list[str]) -> Iterator[tuple[Metrics, Path]]:
    """The scores in folders, as their counts give them, with the folders.

    Args:
        folders: Of one row and seed.
        seed: The seed.
        unreadable: What is wrong with those that are left out is added to it.
    """
    for folder in folders:
        try:
            yield in_folder(folder), folder
        except UserError as error:
            unreadable.append(f"seed {seed} left out: {error}")


def _recipes(metrics: Metrics) -> dict[str, int]:
    """The numbers of the recipes that a result was made by, by the recipes' names."""
    numbers = {recipes.TRAINING.name: metrics.trained.recipe} if metrics.trained else {}
    return numbers | {recipes.SCORING.name: metrics.recipe}


def _identical(first: FolderRow, second: FolderRow) -> bool:
    """Whether both have the same seeds with the same counts per image."""
    if not first.digests or first.digests.keys() != second.digests.keys():
        return False
    for seed, path in first.side.files.items():
        try:
            a, b = SplitCounts.read(path), SplitCounts.read(second.side.files[seed])
        except UserError:
            return False
        if not np.array_equal(a.names, b.names) or not np.array_equal(a.confusion, b.confusion):
            return False
    return True


def _reading(first: FolderRow, second: FolderRow, reading: str) -> str:
    """What changed in words, from the reading of the comparison."""
    for row, name, other in ((first, "A", "B"), (second, "B", "A")):
        if not row.digests:
            return f"unreadable in {name}" if row.unreadable else f"only in {other}"
    return "identical" if _identical(first, second) else WORDS.get(reading, reading)


def _notes(first: FolderRow, second: FolderRow, note: str) -> Iterator[str]:
    """What must be known of a comparison, from the note that it has."""
    if first.digests and second.digests and note:
        yield note
    common = first.digests.keys() & second.digests.keys()
    others = [*_other_data(first, second), *_other_recipes(first.recipes, second.recipes)]
    yield from others
    if any(first.digests[seed] != second.digests[seed] for seed in common):
        yield "other settings or another code of the method" + (" are possible, too" if others else "")
    if first.digests.keys() ^ second.digests.keys() and common:
        yield f"seeds of both: {', '.join(map(str, sorted(common)))}"
    for name, row in (("A", first), ("B", second)):
        if row.doubtful:
            yield f"several results in {name}, the latest taken: seed {', '.join(map(str, row.doubtful))}"
        yield from row.unreadable


def _other_data(first: FolderRow, second: FolderRow) -> Iterator[str]:
    """Whether the rows saw other images or labels, which do not compare."""
    if first.digests and second.digests:
        if len(first.contents | second.contents) > 1:
            yield "WARNING: of other images or labels in A than in B"
        if len(first.splits | second.splits) > 1:
            a, b = (" and ".join(sorted(row.splits)) for row in (first, second))
            yield f"scored on {a} in A, on {b} in B"


def _other_recipes(first: dict[str, set[int]], second: dict[str, set[int]]) -> Iterator[str]:
    """Which of two rows' recipes are not the same one everywhere; they do not compare."""
    for name in sorted(first.keys() & second.keys()):
        if len(first[name] | second[name]) > 1:
            a, b = (" and ".join(map(str, sorted(side[name]))) for side in (first, second))
            yield f"{name} by recipe {a} in A, {b} in B"


def _origin(folder: Path) -> str:
    """Where the results of a folder come from."""
    values: dict[str, set[str]] = {"commit": set(), "torch": set(), "device": set()}
    for seeds in _finished_runs(folder).values():
        for path in (path for paths in seeds.values() for path in paths):
            try:
                metrics = Metrics.read_file(path / "metrics.json")
            except UserError:  # its row says so
                continue
            provenance = metrics.provenance
            values["commit"].add(str(provenance.commit)[:10])
            values["torch"].add(str(provenance.packages.get("torch")))
            values["device"].add(provenance.device)
            for name, number in _recipes(metrics).items():
                values.setdefault(f"{name} recipe", set()).add(str(number))
    parts = (f"{key} {' and '.join(sorted(names))}" for key, names in values.items())
    return f"`{folder}` ({', '.join(parts)})"
