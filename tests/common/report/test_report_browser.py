"""The report in a real browser: headless Chromium, at the width of a desktop and of a phone."""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.runs import plan
from common.stages import report
from tests.conftest import TINY
from tests.synthetic import make_config, write_all

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SIZES = {"desktop": (1280, 900), "phone": (375, 812)}

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine (on Debian: chromium)"),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where the report lies."""
    benchmark = plan.benchmark(make_config(tmp_path_factory.mktemp("browser")))
    write_all(benchmark)
    return report.publish(benchmark).resolve().as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        yield driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture(params=[(size, scheme) for size in SIZES for scheme in ("light", "dark")], ids="-".join)
def page(request: pytest.FixtureRequest, browser: Any, address: str) -> Iterator[Any]:
    """The opened page; what it says on the console or asks of other hosts fails the test."""
    size, scheme = request.param
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    opened = context.new_page()
    messages: list[str] = []
    opened.on("console", lambda message: messages.append(message.text))
    opened.on("pageerror", lambda error: messages.append(str(error)))
    opened.on("request", lambda r: r.url in (address,) or r.url.startswith("data:") or messages.append(r.url))
    opened.goto(address)
    yield opened
    context.close()
    assert messages == []


def column(page: Any, title: str) -> list[str]:
    """The first lines of a column of the leaderboard, from top to bottom."""
    return page.evaluate(
        """title => {
            const table = document.querySelector("table.board");
            const headings = [...table.tHead.rows[0].cells];
            const place = headings.findIndex((cell) => cell.textContent.includes(title));
            return [...table.tBodies[0].rows].map((row) => row.cells[place].firstChild.textContent);
        }""",
        title,
    )


def test_a_click_on_a_heading_sorts(page: Any) -> None:
    heading = page.locator("table.board thead th", has_text="mIoU %")
    values = [float(text) for text in column(page, "mIoU %")]
    assert heading.get_attribute("aria-sort") == "descending" and values == sorted(values, reverse=True)
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "ascending"
    assert [float(text) for text in column(page, "mIoU %")] == sorted(values)
    method = page.locator("table.board thead th", has_text="method")
    method.locator("button").focus()
    page.keyboard.press("Enter")
    assert method.get_attribute("aria-sort") == "ascending" and heading.get_attribute("aria-sort") == "none"
    assert column(page, "method") == sorted(column(page, "method"))


def test_what_is_missing_stays_last(page: Any) -> None:
    page.evaluate(
        'document.querySelectorAll("fieldset.groups input").forEach(x => { if (!x.checked) x.click() })'
    )
    for _ in range(2):
        page.locator("table.board thead th", has_text="agreement").locator("button").click()
        assert column(page, "agreement") == ["75.0", "–", "–", "–"]


def test_the_filter_keeps_methods_with_one_of_its_words(page: Any) -> None:
    page.locator("#filter").fill("crf-1 RMI")
    shown = page.evaluate("""[...new Set([...document.querySelectorAll("[data-method]")]
        .filter((x) => getComputedStyle(x).display !== "none").map((x) => x.dataset.method))].sort()""")
    assert shown == ["crf-1", "rmi"]
    assert page.locator("#filter-found").inner_text() == "2 of 4"
    page.locator("#filter").fill("")
    assert page.locator("table.board tbody tr:visible").count() == 4


def test_a_model_is_chosen(browser: Any, tmp_path: Path) -> None:
    models = ["deeplabv3plus-test_resnet", "deeplabv3-test_resnet"]
    options = TINY["model_options"][models[0]]
    config = make_config(tmp_path, models=models, model_options=dict.fromkeys(models, options))
    benchmark = plan.benchmark(config)
    write_all(benchmark)
    opened = browser.new_page(viewport={"width": 375, "height": 812})
    opened.goto(report.publish(benchmark).resolve().as_uri())
    rows, parts = (
        opened.locator("table.board tbody tr:visible"),
        opened.locator("section[data-model]:visible"),
    )
    assert (rows.count(), parts.count()) == (8, 2)
    score = opened.locator("table.board thead th", has_text="mIoU %").bounding_box()
    assert score and score["x"] + score["width"] <= 375, "scores are in sight beside methods and models"
    opened.locator("#model").select_option(models[1])
    assert (rows.count(), parts.count()) == (4, 1)
    opened.locator("#filter").fill("rmi")
    assert rows.all_inner_texts()[0].split()[:2] == ["rmi", models[1]] and rows.count() == 1
    opened.locator("#model").select_option("")
    assert rows.count() == 2
    assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
    opened.close()


def test_groups_of_columns_are_shown_and_hidden(page: Any) -> None:
    box = page.locator("fieldset.groups input[value=Inference]")
    cells = page.locator('table.board [data-group="Inference"]')
    box.set_checked(True)
    assert cells.first.is_visible()
    box.set_checked(False)
    assert not cells.first.is_visible()


def test_a_picture_opens_large_and_closes_by_escape(page: Any) -> None:
    first = page.locator(".enlarge:visible").first
    first.focus()
    page.keyboard.press("Enter")
    dialog = page.locator("dialog#large")
    assert dialog.is_visible()
    picture = dialog.locator("img")
    assert picture.get_attribute("alt").startswith("Whole image")
    assert picture.evaluate("(x) => x.naturalWidth > 0")
    page.keyboard.press("ArrowRight")
    assert "truth" in dialog.locator("img").get_attribute("alt")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert re.match(r"6 of 6: Labels by \S+: ", page.locator("#large-caption").inner_text())
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert first.evaluate("(x) => x === document.activeElement"), "focus comes back"


def test_views_of_the_gallery(page: Any) -> None:
    for view, word in (("errors", "Errors of"), ("zoom", "Enlarged part of"), ("labels", "Labels by")):
        page.locator(f".views input[value={view}]").check()
        alts = page.locator(".gallery [data-method] img:visible").evaluate_all("xs => xs.map((x) => x.alt)")
        assert alts and all(alt.startswith(word) for alt in alts)


def test_nothing_is_wider_than_the_screen_and_all_pictures_load(page: Any) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("[...document.images].every((x) => x.complete && x.naturalWidth > 0)")


def test_text_has_contrast_with_the_page(page: Any) -> None:
    ratio = page.evaluate(
        """() => {
            const luminance = (colour) => {
                const parts = colour.match(/[\\d.]+/g).slice(0, 3).map((x) => x / 255)
                    .map((x) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4));
                return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
            };
            const page = luminance(getComputedStyle(document.body).backgroundColor);
            return ["body", "caption", "a", "figcaption", ".chart svg text"].map((selector) => {
                const style = getComputedStyle(document.querySelector(selector));
                const text = luminance(selector.includes("svg") ? style.fill : style.color);
                return (Math.max(text, page) + 0.05) / (Math.min(text, page) + 0.05);
            });
        }"""
    )
    assert min(ratio) >= 4.5


def test_headings_go_down_by_one(page: Any) -> None:
    levels = page.evaluate(
        "[...document.querySelectorAll('h1, h2, h3, h4, h5, h6')].map((x) => Number(x.tagName[1]))"
    )
    assert levels[0] == 1 and all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_it_prints(page: Any, tmp_path: Path) -> None:
    page.pdf(path=tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
