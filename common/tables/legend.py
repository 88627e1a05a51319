"""What the tables mean, in words."""

from __future__ import annotations

import pandas as pd

from common.tables.cells import methods_of
from common.tables.intervals import RESAMPLES
from common.tables.results import CERTIFICATE, READ

_READING = """\
**How to read this.** mIoU: mean over seeds ± half of its 95 % interval over seeds (t). Δ {baseline}:
difference of mIoU to {baseline}, paired by seed, with its 95 % interval over seeds and images; the images
are resampled {resamples:,} times, the same ones for both methods and all seeds, in blocks of neighbours
where they belong together. *better* and *worse*: the test that belongs to this interval, with Holm's
correction over the table, has p ≤ 0.05; *no difference shown* does not mean that there is none. could show:
the smallest true difference that would be shown with a probability of 80 %, as much as seeds and images vary
here; none if it is larger than a difference can be. rank: methods that are not shown to be worse than the
best of a rank share it (Bonferroni over all pairs)."""

_ONE_SEED = """\
One seed says nothing of another: rows with one seed have no interval, rank or reading, and an interval with
* is over the images alone, for these very trained models."""

_CONTROLS = """\
Controls (in parentheses, or in italics) bracket the table and are not compared: *majority* gives every pixel
the commonest class of the training images; *ceiling* is the truth seen through the network's output grid,
*ceiling 2x* through one twice as fine, *ceiling full* through one of its input's size, where methods have
such grids."""

_BOUNDARIES = """\
trimap: mIoU of the pixels at most so far from the truth's contours; boundary IoU: Cheng et al. 2021, bands
of 2 % of the diagonal; boundary F: Csurka et al. 2013, tolerance 0.75 % of the diagonal. Void is in no
band. ECE: calibration error with 15 bins; NLL: nats per pixel."""

_KINDS = """\
kind: *alternative* rows are what else the cost of a method would buy, such as more views of an image, a finer
grid, longer training or several models; they stand behind the methods, and ranks are among all."""

_TUNED = """\
tuned: how many candidates the search had that has chosen a row's settings, on other images than are scored
here, and its budget in whole trainings. A row that was tuned for more has an advantage."""

_DECIDES = """\
ECE and NLL *of the input*: labels are decided by a rule, and these are of the probabilities that it was
given."""

_COSTS = """\
Times: medians, with the quartiles of the repeated timings; measured while no other job of ours
timed or trained. Latency is that of a single image at its original size, p95 the 95th percentile.
Multiply-adds are those of network and structure, for one image; ≥: operations of the project's own, or a
refinement, are not among them. train min: all steps of training, with all
that a row started from or is an ensemble of. Pareto: no other method is as accurate at as little latency, or
at as little time of training."""

_IMAGES = """\
mIoU-I: mean over images of the mean IoU over the classes that are in the image's truth; mIoU-C: mean over
classes of the mean IoU over the images that have the class (Wang et al. 2023). worst quarter: mIoU-I of the
quarter of the images in which it is lowest; worst class: the lowest IoU of a class. small, medium, large:
the share of pixels that is right in connected parts of the truth of less than 32², of 32² to 96², and of 96²
pixels or more, mean over classes."""

_BUDGETS = """\
Budgets: the best row of all that cost no more, over all models, with those that are not shown to be worse
(Bonferroni over the comparisons with one row; intervals of that level): together they hold the truly best one
with a confidence of 95 %. There is a line where the best changes. Worth its cost is a row that is shown to be
better than each that costs no more."""

_CERTIFICATE = """\
gap/cell: how far the score of the CRF's labelling is from that of the best one at most, per cell of the
output grid; agreement: the share of cells at which all chains of the CRF have the same best label."""

_READ = f"†: {READ} and scored in the same way; not trained or measured here."


def legend(leaderboard: pd.DataFrame, baseline: str) -> list[str]:
    """What the columns mean, as paragraphs of Markdown; only of those that the tables have.

    Args:
        leaderboard: Of all datasets and models.
        baseline: The name of the method that the others are compared with.
    """
    methods = methods_of(leaderboard)
    wanted = (
        (_READING.format(baseline=baseline, resamples=RESAMPLES), True),
        (_ONE_SEED, (methods["seeds"] == 1).any()),
        (_KINDS, (methods["kind"] == "alternative").any()),
        (_TUNED, methods["tuned"].fillna("").ne("").any()),
        (_CONTROLS, leaderboard["control"].any()),
        (_BOUNDARIES, not leaderboard["boundary_iou_mean"].isna().all()),
        (_DECIDES, methods["decides"].eq(True).any()),
        (_IMAGES, not leaderboard["miou_i_mean"].isna().all()),
        (_COSTS, not methods["device"].fillna("").eq("").all()),
        (_BUDGETS, not methods["device"].fillna("").eq("").all()),
        (_READ, (leaderboard["origin"] == READ).any()),
        (_CERTIFICATE, not leaderboard[[*CERTIFICATE]].isna().all(axis=None)),
    )
    return [text for text, shown in wanted if shown]
