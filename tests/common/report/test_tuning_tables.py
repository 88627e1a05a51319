"""What the report says of searches: what was gained, and whether it is used."""

from __future__ import annotations

from pathlib import Path

from common.provenance import Provenance
from common.report.tuning_tables import tuning_table
from common.runs import plan
from common.runs.records import Chosen
from tests.synthetic import make_config


def chosen(config: dict, method: str, **more: object) -> str:
    """Writes what a search has chosen; returns its folder."""
    dataset, model = config["datasets"][0], config["models"][0]
    folder = Path(config["results"]) / "tuning" / dataset / model / f"{method}-abc"
    facts = {
        "dataset": dataset, "model": model, "method": method, "digest": "abc", "values": {"weight": 0.3},
        "options": {"weight": 0.3}, "miou": 61.5, "miou_before": 60.0, "split": "val", "images": ["a", "b"],
        "candidates": 9, "possible": 27, "budget": 7.75, "spent": 7.75, "provenance": Provenance.now("cpu"),
    } | more  # fmt: skip
    Chosen(**facts).write(folder / "search.json")  # type: ignore[arg-type]
    return str(folder)


def test_what_tuning_gained_and_whether_it_is_used(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    assert tuning_table(plan.benchmark(config)) is None
    method = config["methods"][0]
    own = config["method_options"].setdefault(method, {})
    own["tuned"] = {"search": chosen(config, method), "candidates": 9, "budget": 7.75}
    chosen(config, "other", options={}, miou=60.0)
    table = tuning_table(plan.benchmark(config))
    assert table
    cells = {
        row.cells[0].text: {column.title: cell.text for column, cell in zip(table.columns, row.cells)}
        for row in table.rows
    }
    assert cells[method]["gain"] == "+1.50" and cells[method]["used"] == "yes"
    assert cells[method]["tried on"] == "val (2 images)" and cells[method]["of"] == "27"
    assert cells["other"]["used"] == "no" and cells["other"]["what was chosen"].startswith("nothing helped")
