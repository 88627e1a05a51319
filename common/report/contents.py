"""The parts of the page, as its template sees them."""

from __future__ import annotations

from dataclasses import dataclass, field

from common.report.examples import Example
from common.report.sortable_tables import SortableTable


@dataclass(frozen=True)
class Chart:
    """A chart in the page.

    Attributes:
        svg: The chart.
        caption: What people read below it.
        alt: What it shows, in words.
    """

    svg: str
    caption: str
    alt: str


@dataclass
class Overview:
    """What the page says about a dataset, over all models.

    Attributes:
        sentences: What is worth its cost, a text per kind of cost.
        chart: Accuracy against cost, or None.
        budgets: What is best at every budget, a table per kind of cost.
    """

    sentences: list[str]
    chart: Chart | None
    budgets: list[SortableTable]


@dataclass
class ModelPart:
    """What the page says about one model on a dataset, beside the tables of all models.

    Attributes:
        id: What its links begin with.
        dataset: The dataset's name.
        model: The model's name.
        facts: What was scored, in a sentence.
        trimap: The numbers of the trimap curves, or None.
        per_class: IoU per class, or None.
        diagnostics: What methods say about their results, or None.
        confusions: Per method its commonest confusions in words, and its confusion matrix or None.
        charts: By kind.
        examples: The gallery.
        seeds: Per method the seed that the gallery shows.
        gallery_note: What is missing in the gallery, and why.
        short_logs: Methods that have no curve of training, as no log of theirs has two lines.
    """

    id: str
    dataset: str
    model: str
    facts: str
    trimap: SortableTable | None = None
    per_class: SortableTable | None = None
    diagnostics: SortableTable | None = None
    confusions: dict[str, tuple[str, SortableTable | None]] = field(default_factory=dict)
    charts: dict[str, Chart] = field(default_factory=dict)
    examples: list[Example] = field(default_factory=list)
    seeds: dict[str, int] = field(default_factory=dict)
    gallery_note: str = ""
    short_logs: list[str] = field(default_factory=list)


@dataclass
class Section:
    """What the page says about a dataset.

    Attributes:
        id: What its links begin with.
        dataset: The dataset's name.
        classes: Names and colours of the classes.
        overview: What is worth its cost, over all models, or None.
        leaderboard: All methods with all models.
        comparisons: All of their tests, or None.
        parts: What there is to say about every model.
    """

    id: str
    dataset: str
    classes: list[tuple[str, str]]
    overview: Overview | None
    leaderboard: SortableTable
    comparisons: SortableTable | None
    parts: list[ModelPart]
