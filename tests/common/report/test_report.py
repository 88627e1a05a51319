"""The report: a sound page that needs nothing else, with everything that the run files say."""

from __future__ import annotations

import dataclasses
import re
import shutil
import time
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

from common.config.entries import Config
from common.datasets.digits import Digits
from common.errors import UnreadableRecord, UserError
from common.failures import Failure
from common.files import write_record
from common.images.label_maps import LabelMaps
from common.integrity import StoredFile
from common.report import (
    chart_files,
    examples,
)
from common.report.method_labels import MethodLabels
from common.runs import plan
from common.runs.benchmark import Benchmark
from common.runs.jobs import Run
from common.runs.records import Metrics
from common.stages import controls, prepare, report
from common.tables.results import read_results
from tests.conftest import TINY
from tests.synthetic import WRONG, add_validations, make_config, write_all, write_run

VOID_ELEMENTS = {"meta", "link", "img", "input", "br", "use", "path"}


class Page(HTMLParser):
    """Reads a page and notes what is in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.faults: list[str] = []
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attributes}))
        if tag not in VOID_ELEMENTS:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attributes}))

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID_ELEMENTS:
            return
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & {*self.open}:
            self.words += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def values(self, attribute: str) -> list[str]:
        return [attributes[attribute] for _, attributes in self.elements if attribute in attributes]


def tell_of_files(run: Run) -> None:
    """Has the scores of a run tell of its other files as they are now."""
    files = StoredFile.all_of([run.per_image, run.panel, run.labels])
    dataclasses.replace(Metrics.read_file(run.metrics), files=files).write(run.metrics)


def made_page(config: Config) -> Page:
    """The report that the stage makes."""
    return Page(report.publish(plan.benchmark(config)).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Of a folder in which all runs are there and the report is made. Tests leave it as it is."""
    config = make_config(tmp_path_factory.mktemp("report"))
    benchmark = plan.benchmark(config)
    (group,) = benchmark.groups
    prepare.prepare(group.data)
    write_all(benchmark)
    for run in benchmark.runs:
        if run.training.method == run.method:
            add_validations(run.training)
    controls.score(group.controls)
    report.publish(benchmark)
    return config


@pytest.fixture(scope="module")
def benchmark(config: Config) -> Benchmark:
    return plan.benchmark(config)


@pytest.fixture(scope="module")
def text(benchmark: Benchmark) -> str:
    return benchmark.outputs.report.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_the_page_is_well_formed(page: Page) -> None:
    assert page.faults == [] and page.open == []
    assert page.all("html")[0]["lang"] == "en"
    assert [count for count in Counter(page.values("id")).values() if count > 1] == []


def test_every_reference_inside_the_page_has_its_target(page: Page) -> None:
    ids = set(page.values("id"))
    links = [link[1:] for link in page.values("href") if link.startswith("#")]
    labels = [name for names in page.values("aria-labelledby") for name in names.split()]
    for attribute in ("for", "aria-describedby", "data-table", "data-gallery"):
        labels += page.values(attribute)
    urls = re.findall(r"url\(#([^)]+)\)", " ".join(page.values("clip-path") + page.values("style")))
    assert len(links) > 5 and len(labels) > 5 and urls
    assert {*links, *labels, *urls} <= ids


def test_nothing_is_fetched_from_anywhere(text: str, page: Page) -> None:
    for tag, attributes in page.elements:
        for key in ("src", "srcset", "data", "poster", "action"):
            assert attributes.get(key, "data:").startswith("data:"), (tag, attributes)
        if tag != "a":
            assert attributes.get("href", "#").startswith(("#", "data:")), (tag, attributes)
    (policy,) = (meta["content"] for meta in page.all("meta") if "http-equiv" in meta)
    assert policy.startswith("default-src 'none'") and "http" not in policy
    assert "@import" not in text and not re.search(r"url\(\s*['\"]?(?!#)", text)


def test_pictures_and_charts_are_said_in_words(page: Page) -> None:
    images = page.all("img")
    assert images and all(len(image["alt"]) > 10 for image in images)
    charts = [attributes for _, attributes in page.elements if attributes.get("role") == "img"]
    assert charts and all(re.search(r"\d", chart["aria-label"]) for chart in charts)
    assert len(page.all("svg")) == len(charts)


def test_tables_have_captions_and_headings(page: Page) -> None:
    tables = page.all("table")
    assert len(tables) >= 4
    captions = [element for element in page.elements if element[0] == "caption"]
    assert len(captions) == len(tables)
    headings = page.all("th")
    assert headings and {heading["scope"] for heading in headings} == {"col", "row"}
    assert all("aria-sort" in heading for heading in headings if heading["scope"] == "col")


def test_what_it_says(page: Page) -> None:
    words = " ".join(page.words.split())
    assert "8 of 8 runs are done" in words
    for method in WRONG:
        assert f"Confusion matrix of {method}" in words
    assert "Times measured on: a CPU." in words
    assert "mIoU on val (5 images) during training" in words
    assert "gap/cell" in words and "0.250" in words
    assert "a" * 10 in words, "the commit of the runs"
    assert all(f"arXiv {number}" in words for number in ("1910.12037", "1912.02937", "1802.02611"))
    assert "batch_size: 2" in words, "the configuration"
    assert {"https://arxiv.org/abs/1910.12037"} <= {*page.values("href")}


def test_charts_for_papers_lie_in_figures(config: Config) -> None:
    folder = Path(config["results"]) / "figures"
    kinds = {
        "latency",
        "training-cost",
        "trimap",
        "calibration",
        "training",
        "validation",
        "classes",
        "confusion",
    }
    stem = "digits-deeplabv3plus-test_resnet"
    for kind in kinds:
        assert (folder / f"{stem}-{kind}.png").read_bytes().startswith(b"\x89PNG")
        assert (folder / f"{stem}-{kind}.pdf").read_bytes().startswith(b"%PDF")


@pytest.fixture
def without_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most of a report's time goes into its charts."""
    monkeypatch.setattr(chart_files, "save", lambda figure, path: '<svg viewBox="0 0 1 1"></svg>')


@pytest.mark.usefixtures("without_charts")
def test_runs_of_two_machines_merge_by_copying(config: Config, text: str, tmp_path: Path) -> None:
    merged = config | {"results": str(tmp_path / "results")}
    for run in plan.runs(config):  # one machine has seed 0, the other seed 1
        target = tmp_path / f"machine{run.seed}" / run.folder.relative_to(config["results"])
        shutil.copytree(run.folder, target)
    for machine in ("machine0", "machine1"):
        shutil.copytree(tmp_path / machine / "runs", tmp_path / "results/runs", dirs_exist_ok=True)
    new_page = made_page(merged)
    assert new_page.all("img") == Page(text).all("img"), "the same gallery"
    assert "8 of 8 runs are done" in new_page.words and "Loss of every" not in new_page.words


@pytest.mark.usefixtures("without_charts")
def test_removing_and_adding_runs_updates_everything(config: Config, text: str, tmp_path: Path) -> None:
    shutil.copytree(config["results"], tmp_path / "results")
    moved = config | {"results": str(tmp_path / "results")}
    gone = next(run for run in plan.runs(moved) if (run.method, run.seed) == ("rmi", 1))
    failure = Failure("the loss is nan <at> iteration 7", "diverged", "train", "")
    shutil.move(gone.folder, tmp_path / "kept")
    gone.training.log.unlink()
    write_record(gone.training.error, failure)
    new_page = made_page(moved)
    assert not plan.benchmark(moved).outputs.page_stamp.exists()
    assert "7 of 8 runs are done" in new_page.words and "the loss is nan <at> iteration 7" in new_page.words
    fewer = moved | {"methods": ["ce", "ddcrf"]}
    new_page = made_page(fewer)
    assert "4 of 4 runs are done" in new_page.words
    assert not any("rmi" in image["alt"] for image in new_page.all("img"))
    assert plan.benchmark(fewer).outputs.page_stamp.exists()
    shutil.move(tmp_path / "kept", gone.folder)
    gone.training.error.unlink()
    assert made_page(moved).all("img") == Page(text).all("img")


MODELS = ("deeplabv3plus-test_resnet", "deeplabv3-test_resnet")


@pytest.mark.usefixtures("without_charts")
def test_a_dataset_has_one_leaderboard_of_all_models(tmp_path: Path) -> None:
    options = TINY["model_options"][MODELS[0]]
    config = make_config(
        tmp_path, models=[*MODELS], model_options=dict.fromkeys(MODELS, options), methods=["ce", "rmi"]
    )
    for run in plan.runs(config):
        write_run(run, WRONG[run.method] + 0.05 * MODELS.index(run.model))
    page = made_page(config)
    assert page.faults == [] and page.open == []
    assert [table["id"] for table in page.all("table") if "board" in table["class"].split()] == ["d1-board"]
    rows = [(row["data-method"], row["data-model"]) for row in page.all("tr") if "data-model" in row]
    best_first = [("rmi", MODELS[0]), ("rmi", MODELS[1]), ("ce", MODELS[0]), ("ce", MODELS[1])]
    assert rows[:4] == best_first, "over both models, in their order of mIoU"
    assert [part["data-model"] for part in page.all("section") if "data-model" in part] == [*MODELS]
    assert len(page.all("option")) == 3, "each model, or all"


def test_charts_of_what_is_not_shown_any_more_are_removed(config: Config, tmp_path: Path) -> None:
    stale = tmp_path / "results/figures/camvid-old-latency.pdf"
    other = tmp_path / "results/figures/other.pdf"
    stale.parent.mkdir(parents=True)
    stale.touch()
    other.touch()
    made_page(config | {"results": str(tmp_path / "results")})
    assert not stale.exists() and other.exists()


def test_a_page_without_a_single_result(tmp_path: Path) -> None:
    new_page = made_page(make_config(tmp_path))
    assert "0 of 8 runs are done" in new_page.words and "not trained yet" in new_page.words
    assert new_page.faults == [] and new_page.all("img") == []


@pytest.mark.usefixtures("without_charts")
def test_the_gallery_of_one_method_compares_it_with_none(page: Page, tmp_path: Path) -> None:
    config = make_config(tmp_path, methods=["ce"])
    for run in plan.runs(config):
        write_run(run, WRONG["ce"])
    alone = made_page(config)
    assert alone.all("article"), "there are pictures"
    for words, several in ((" ".join(page.words.split()), True), (" ".join(alone.words.split()), False)):
        assert ("the methods lie furthest apart" in words) is several
        assert bool(re.search(r"mIoU of these labels from [\d.]+ % \(", words)) is several
    assert re.search(r"mIoU of these labels [\d.]+ % \(ce\)", " ".join(alone.words.split()))


def test_budgets_have_a_line_per_method_and_true_minus_signs(text: str) -> None:
    tables = re.findall(r'<table id="[^"]*budgets[^"]*".*?</table>', text, flags=re.DOTALL)
    cells = re.findall(r"<td class=\"[^\"]*words[^\"]*\"[^>]*>([^<]*)</td>", "".join(tables))
    assert any("\n" in cell for cell in cells)
    assert not any(re.search(r";|[ \[]-\d", cell) for cell in cells)


@pytest.mark.usefixtures("without_charts")
def test_without_kept_labels_the_images_of_the_panel_are_shown(config: Config, tmp_path: Path) -> None:
    shutil.copytree(config["results"], tmp_path / "results")
    moved = config | {"results": str(tmp_path / "results")}
    for run in plan.runs(moved):
        LabelMaps(0, run.data.dataset.colours).write(run.labels)
        tell_of_files(run)
    new_page = made_page(moved)
    assert len([image for image in new_page.all("img") if image["alt"].startswith("Labels by ce")]) == 3
    for run in plan.runs(moved):
        if run.method == "rmi":
            run.panel.unlink()
            tell_of_files(run)
    new_page = made_page(moved)
    assert "Not shown: rmi: its runs kept no labels." in " ".join(new_page.words.split())
    assert not any("Labels by rmi" in image["alt"] for image in new_page.all("img"))


@pytest.mark.usefixtures("without_charts")
def test_a_damaged_file_costs_its_method_the_pictures_and_nothing_else(
    config: Config, tmp_path: Path
) -> None:
    shutil.copytree(config["results"], tmp_path / "results")
    moved = config | {"results": str(tmp_path / "results")}
    next(run for run in plan.runs(moved) if run.method == "rmi").per_image.write_bytes(b"no file")
    with pytest.raises(UnreadableRecord, match="files of 1 results are damaged"):
        made_page(moved)
    new_page = Page(plan.benchmark(moved).outputs.report.read_text(encoding="utf-8"))
    words = " ".join(new_page.words.split())
    assert re.search(r"rmi/seed0-\w+/per_image\.npz has 7 bytes, not the \d+ that its record tells of", words)
    assert any("Labels by ce" in image["alt"] for image in new_page.all("img"))


def test_without_the_data_the_gallery_has_the_predictions(
    benchmark: Benchmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> None:
        raise UserError("the data are not here")

    monkeypatch.setattr(Digits, "read", missing)
    labels = MethodLabels.of(
        "ce", [result for result in read_results(benchmark) if result.run.method == "ce"]
    )
    dataset = benchmark.groups[0].data.dataset
    example = examples.draw_example([labels], dataset, sorted(labels.names)[0], "usual")
    assert [(p.title, [*p.views]) for p in example.pictures] == [("ce", ["labels", "zoom"])]


@pytest.mark.usefixtures("without_charts")
def test_the_pictures_stay_within_their_limit(config: Config, tmp_path: Path) -> None:
    small = config | {"tables": config["tables"] | {"report_mb": 0.1}}
    shutil.copytree(config["results"], tmp_path / "results")
    new_page = made_page(small | {"results": str(tmp_path / "results")})
    size = sum(len(image["src"]) for image in new_page.all("img"))
    assert 0 < size <= 100_000 and "more pictures did not fit into 0.1 MB" in new_page.words


@pytest.mark.long
def test_a_hundred_runs_take_less_than_half_a_minute(tmp_path: Path) -> None:
    modules = ["ce", "rmi", "bce", "dice", "lovasz", "affinity", "pyramid", "ddcrf", "crfrnn"]
    methods = [*modules, "crf-1"]
    data = TINY["dataset_options"]["digits"] | {"test_images": 60}
    config = make_config(
        tmp_path,
        methods=methods,
        seeds=[0, 1, 2, 3, 4],
        datasets=["digits", "other"],
        dataset_options={"digits": data, "other": data | {"module": "digits", "seed": 1}},
    )
    benchmark = plan.benchmark(config)
    for place, run in enumerate(benchmark.runs):
        write_run(run, 0.1 + 0.001 * (place % 50))
    start = time.process_time()
    report.publish(benchmark)
    assert time.process_time() - start < 30
    assert benchmark.outputs.report.stat().st_size < 30e6
