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
class Section:
    """What the page says about one dataset and model.

    Attributes:
        id: What its links begin with.
        dataset: The dataset's name.
        model: The model's name.
        facts: What was scored, in a sentence.
        leaderboard: All methods.
        comparisons: All of their tests, or None.
        trimap: The numbers of the trimap curves, or None.
        per_class: IoU per class, or None.
        diagnostics: What methods say about their results, or None.
        confusions: Per method its commonest confusions in words, and its confusion matrix or None.
        charts: By kind.
        classes: Names and colours of the classes.
        examples: The gallery.
        seeds: Per method the seed that the gallery shows.
        gallery_note: What is missing in the gallery, and why.
    """

    id: str
    dataset: str
    model: str
    facts: str
    leaderboard: SortableTable
    comparisons: SortableTable | None = None
    trimap: SortableTable | None = None
    per_class: SortableTable | None = None
    diagnostics: SortableTable | None = None
    confusions: dict[str, tuple[str, SortableTable | None]] = field(default_factory=dict)
    charts: dict[str, Chart] = field(default_factory=dict)
    classes: list[tuple[str, str]] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    seeds: dict[str, int] = field(default_factory=dict)
    gallery_note: str = ""
