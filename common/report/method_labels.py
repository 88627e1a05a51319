"""What the runs of one method predicted for the images of a split, and how good it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from common.datasets.base import panel_indices
from common.images import label_maps
from common.integrity import StoredFile, read_arrays
from common.runs.jobs import Run
from common.scoring import metrics
from common.scoring.boundaries import Labels
from common.scoring.counts import SplitCounts
from common.tables.results import Result


@dataclass(frozen=True)
class MethodLabels:
    """The label maps of a method.

    Attributes:
        method: The method.
        run: The run whose labels are shown: the first that has any; None if none has.
        scores: mIoU of every image in percent, mean over seeds.
        shown: mIoU of every image in percent, of the shown run.
        maps: The label maps `[H, W]` by image; None for those that are read when wanted.
    """

    method: str
    run: Run | None
    scores: Mapping[str, float]
    shown: Mapping[str, float]
    maps: Mapping[str, Labels | None]

    @classmethod
    def of(cls, method: str, results: Sequence[Result]) -> MethodLabels:
        """The labels and scores of a method's runs.

        Args:
            method: The method.
            results: Those of its runs that have scores, in the order of the seeds.

        Raises:
            UserError: A file is damaged.
        """
        maps: dict[str, Labels | None] = {}
        by_seed: dict[int, dict[str, float]] = {}
        shown: Run | None = None
        for result in results:
            run = result.run
            names, by_seed[run.seed] = _image_scores(run)
            if shown is None and result.metrics:
                maps = _stored(run, names, result.metrics.files)
                shown = run if maps else None
        everywhere = {name for scores in by_seed.values() for name in scores}
        means = {
            name: float(np.mean([scores[name] for scores in by_seed.values() if name in scores]))
            for name in sorted(everywhere)
        }
        return cls(method, shown, means, by_seed[shown.seed] if shown else {}, maps)

    @property
    def names(self) -> set[str]:
        """The scored images whose labels are there."""
        return self.maps.keys() & self.shown.keys()

    def labels(self, name: str) -> Labels:
        """The predicted labels `[H, W]` of an image.

        Raises:
            UserError: They cannot be read.
        """
        labels = self.maps[name]
        if labels is None:
            assert self.run is not None, "maps are those of a run"
            return label_maps.read(self.run.labels, name)
        return labels


def _image_scores(run: Run) -> tuple[list[str], dict[str, float]]:
    """The names of the scored images, and the mIoU in percent of those with a labelled pixel."""
    counts = SplitCounts.read(run.per_image)
    names = [str(name) for name in counts.names]
    labelled = counts.confusion.sum(axis=(1, 2)) > 0
    scores = 100 * np.nanmean(metrics.iou(counts.confusion[labelled]), axis=1)
    return names, dict(zip((name for name, known in zip(names, labelled) if known), scores.tolist()))


def _stored(run: Run, names: Sequence[str], files: Mapping[str, StoredFile]) -> dict[str, Labels | None]:
    """The label maps that a run left: those of its panel, and None for those that are read when wanted.

    Args:
        run: The run.
        names: The scored images.
        files: What its record tells of the files of label maps.

    Raises:
        UserError: A file is missing, or another one than the record tells of.
    """
    remedy = "evaluate again to see its labels"
    if run.labels.name in files:
        files[run.labels.name].check(run.labels, remedy)
    maps: dict[str, Labels | None] = dict.fromkeys(label_maps.names(run.labels))
    if run.panel.name in files:
        files[run.panel.name].check_size(run.panel, remedy)
        first = names[0].partition("/")[0]
        shown = panel_indices(sum(name.partition("/")[0] == first for name in names))
        arrays = read_arrays(run.panel, remedy, files[run.panel.name])
        maps |= {names[index]: arrays[f"labels_{place}"] for place, index in enumerate(shown)}
    return maps
