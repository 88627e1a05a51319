"""Published numbers: which of them stand beside a row, and how."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from common.config import reading
from common.config.entries import Config
from common.runs import plan
from common.tables import published
from common.tables.results import read_results, rows_of
from common.tables.writing import write_tables
from tests.conftest import TINY
from tests.synthetic import plain_counts, write_scores

MODEL = "deeplabv3-resnet101"
HEADER = (
    "dataset,split,architecture,backbone,output_stride,iterations,auxiliary_weight,method,metric,value,unit,source,"
    "checked\n"
)


def configure(model: str = MODEL, **changes: object) -> Config:
    base = {"datasets": ["voc"], "models": [model], "methods": ["ce", "rmi"], "seeds": [0]}
    base |= {"training": {"split": "trainaug", "iterations": 30406}, "evaluation": {"split": "val"}}
    return reading.complete(base | changes)


def values(config: Config, method: str, model: str = MODEL) -> list[float]:
    benchmark = plan.benchmark(config)
    numbers = published.numbers(rows_of(benchmark, read_results(benchmark)))
    key = ("voc", model, method)
    return numbers[key]["value"].tolist() if key in numbers else []


def tables(config: Config) -> str:
    return write_tables(plan.benchmark(config)).read_text()


def test_a_row_finds_its_numbers_in_the_order_of_the_file() -> None:
    config = configure()
    assert values(config, "ce") == [77.14]
    assert values(config, "rmi") == [78.71, 78.71], "the table of pool sizes repeats it"
    assert values(config, "dice") == []


@pytest.mark.parametrize("backbone", ["resnet101s", "resnet101d", "tu-resnet101s", "resnet101s.gluon_in1k"])
def test_a_deep_stem_is_the_same_backbone(backbone: str) -> None:
    model = f"deeplabv3-{backbone}"
    assert values(configure(model), "ce", model)[0] == 77.14


@pytest.mark.parametrize(
    "changes",
    [
        {"evaluation": {"split": "train"}, "training": {"split": "val", "iterations": 30406}},
        {"evaluation": {"split": "val", "flip": True}},
        {"evaluation": {"split": "val", "scales": [0.5, 1]}},
        {"model_options": {MODEL: {"output_stride": 8}}},
        {"model_options": {MODEL: {"auxiliary_weight": 0.4}}},
        {"training": {"split": "trainaug", "iterations": 20000}},
        {"training": {"split": "trainaug", "iterations": 31100}},
    ],
)
def test_another_split_stride_schedule_or_way_of_looking_is_not_comparable(changes: dict) -> None:
    assert values(configure(**changes), "ce") == []


def test_an_epochs_last_batch_makes_no_other_schedule() -> None:
    assert values(configure(training={"split": "trainaug", "iterations": 30423}), "ce") == [77.14]


@pytest.mark.parametrize(
    ("model", "iterations", "expected"),
    [
        ("deeplabv3-resnet50", 20000, 76.17),
        ("deeplabv3-resnet50", 40000, 77.68),
        ("deeplabv3-resnet101", 20000, 78.70),
        ("deeplabv3-resnet101", 40000, 77.92),
        ("deeplabv3plus-resnet50", 40000, 76.81),
        ("deeplabv3plus-resnet101", 40000, 78.62),
    ],
)
def test_a_model_zoo_is_beside_models_of_its_stride_schedule_and_auxiliary_head(
    model: str, iterations: int, expected: float
) -> None:
    zoo = {"output_stride": 8, "auxiliary_weight": 0.4}
    training = {"split": "trainaug", "iterations": iterations}
    assert values(configure(model, training=training, model_options={model: zoo}), "ce", model) == [expected]
    for other in ({"output_stride": 16}, {"auxiliary_weight": 0}):
        options = {model: zoo | other}
        assert values(configure(model, training=training, model_options=options), "ce", model) == []
    longer = training | {"iterations": 30000}
    assert values(configure(model, training=longer, model_options={model: zoo}), "ce", model) == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"module": "rmi", "radius": 2}, [78.52]),
        ({"module": "rmi", "pool": "max"}, [78.62]),
        ({"module": "rmi", "pool_size": 6}, [78.28, 78.28]),
        ({"module": "rmi", "weight": 0.3}, []),
        ({"module": "densecrf", "iterations": 5}, [78.40]),
        ({"module": "densecrf", "iterations": 5, "trained_as": "rmi"}, []),
        ({"module": "densecrf", "iterations": 5, "gaussian": [1, 1]}, []),
        ({"module": "densecrf", "iterations": 4}, []),
    ],
)
def test_a_method_is_the_published_one_by_its_options_not_by_its_name(
    options: dict, expected: list[float]
) -> None:
    assert values(configure(method_options={"other": options}, methods=["ce", "other"]), "other") == expected


def test_an_entry_that_only_has_the_name_is_not_the_published_method() -> None:
    assert values(configure(method_options={"rmi": {"radius": 7}}), "rmi") == []


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A tiny configuration of which something is published."""
    table = tmp_path / "published.csv"
    row = f"digits,test,deeplabv3plus,test_resnet,8,{TINY['training']['iterations']},0,"
    table.write_text(
        HEADER
        + f"{row}ce,miou,58.5,percent,A paper (Table 1),read\n"
        + f"{row}ce,miou,59.5,percent,A model zoo,read\n"
        + f"{row}ce,iou/background,70,percent,A paper (Table 2),read\n"
        + f"{row}ce,inference_time,0.1,s/image,A paper (Table 1),read\n"
    )
    monkeypatch.setattr(published, "TABLE", table)
    return reading.complete(TINY | {"methods": ["ce", "rmi"], "results": str(tmp_path / "results")})


def test_the_leaderboard_shows_the_number_and_the_difference(config: Config) -> None:
    for run in plan.runs(config):
        score = 0.60 if run.method == "ce" else 0.62
        write_scores(run, plain_counts(run, score))
    text = tables(config)
    folder = Path(config["results"])
    table = pd.read_csv(folder / "leaderboard.csv").set_index("method")
    assert table.loc["ce", "published"] == 58.5
    assert table.loc["ce", "published_difference"] == pytest.approx(1.5)
    assert table.loc["ce", "published_source"] == "A paper (Table 1)"
    assert table.loc["rmi", ["published", "published_difference"]].isna().all()
    line = next(line for line in text.splitlines() if line.startswith("| ce "))
    assert [cell.strip() for cell in line.split("|")][5:7] == ["58.50", "+1.50"]
    assert "- A paper (Table 1): ce 58.50\n- A model zoo: ce 59.50" in text
    classes = pd.read_csv(folder / "per_class.csv").set_index(["method", "class"])
    assert classes.loc[("ce", "background"), "published_difference"] == pytest.approx(65 - 70)
    assert classes["published"].notna().sum() == 1
    assert "ce published (Δ)" in text and "70.0 (-5.0)" in text
    assert r"published \%" in (folder / "leaderboard.tex").read_text()


def test_without_results_the_published_number_is_shown_alone(config: Config) -> None:
    text = tables(config)
    line = next(line for line in text.splitlines() if line.startswith("| ce "))
    assert [cell.strip() for cell in line.split("|")][5:7] == ["58.50", "–"]


def test_where_nothing_is_published_nothing_is_shown(tmp_path: Path) -> None:
    config = reading.complete(TINY | {"results": str(tmp_path / "results")})
    for run in plan.runs(config):
        write_scores(run, plain_counts(run, 0.6))
    assert "ublished" not in tables(config)


def test_every_published_number_has_a_source_that_was_checked() -> None:
    table = pd.read_csv(published.TABLE)
    assert not table.drop(columns="iterations").isna().any(axis=None)
    unknown = table["iterations"].isna()
    assert (table.loc[unknown, "split"] == "test").all(), (
        "of the others it is known for how long they trained"
    )
    of_zoo = table["source"].str.startswith("mmsegmentation")
    assert of_zoo.sum() == 6 and (table.loc[of_zoo, ["output_stride", "auxiliary_weight"]] == [8, 0.4]).all(
        axis=None
    )
    assert table.loc[table["unit"] == "percent", "value"].between(0, 100).all()
    assert set(table["unit"]) == {"percent", "s/image"}
