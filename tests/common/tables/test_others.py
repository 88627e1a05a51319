"""Results that are not of the configuration: a table of their own, and none that hides a good one."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from common.config import reading
from common.config.entries import Config
from common.config.method_code import code_digest
from common.config.settings import plain
from common.errors import UserError
from common.files import digest, write_json
from common.runs import plan
from common.runs.configurations import made_by
from common.runs.jobs import TrainedRun
from common.stages import report, status
from common.tables.frames import read_csv
from common.tables.writing import write_tables
from tests.conftest import raise_recipe, run
from tests.synthetic import cost_of, facts_of, plain_counts, write_log, write_scores

MODEL = "deeplabv3plus-test_resnet"


@pytest.fixture
def config(tiny: dict) -> Config:
    return reading.complete(tiny | {"methods": ["ce", "rmi", "crf-1"]})


def changed(config: Config, section: str, name: str | None = None, **values: Any) -> Config:
    """A configuration in which some values of a section, or of a name in it, are others."""
    other = copy.deepcopy(config)
    place = other[section] if name is None else other[section].setdefault(name, {})
    place.update(values)
    return reading.complete(other)


def write(config: Config, miou: float = 0.6) -> list[TrainedRun]:
    """Writes all results of a configuration, and the configuration as the workflow leaves it."""
    runs = [run for run in plan.runs(config) if isinstance(run, TrainedRun)]
    for each in runs:
        training = each.training
        options = {"training": plain(training.settings), "method_options": training.entry.options}
        facts = dataclasses.replace(facts_of(training), **options)
        code = code_digest(each.entry.module)
        write_scores(each, plain_counts(each, miou), trained=facts, method_code=code)
        cost_of(each).write(each.cost)
        write_log(each.training)
    write_json(Path(config["results"]) / "configs" / f"{digest(config)}.json", config)
    return runs


def tables(config: Config) -> str:
    return write_tables(plan.benchmark(config)).read_text()


def others(config: Config) -> dict[str, str]:
    """What differs, by method, as the table of other results says."""
    tables(config)
    table = read_csv(Path(config["results"]) / "other_results.csv")
    return dict(zip(table["method"], table["differs"]))


VARIANTS: list[tuple[dict[str, Any], str, str]] = [
    ({"section": "training", "iterations": 5}, "ce", "training: iterations 5, not 4"),
    ({"section": "training", "learning_rate": 0.5}, "crf-1", "training: learning_rate 0.5, not 0.001"),
    ({"section": "evaluation", "flip": True}, "ce", "evaluation: flip true, not false"),
    ({"section": "evaluation", "split": "val"}, "rmi", 'evaluation: split "val", not "test"'),
    (
        {"section": "model_options", "name": MODEL, "decoder_channels": 16},
        "ce",
        "model_options: decoder_channels 16, not 8",
    ),
    (
        {"section": "method_options", "name": "crf-1", "iterations": 2},
        "crf-1",
        "options of crf-1: iterations 2, not 1",
    ),
    ({"section": "method_options", "name": "rmi", "radius": 2}, "rmi", "options of rmi: radius 2, not 3"),
]


@pytest.mark.parametrize(("change", "method", "differs"), VARIANTS)
def test_what_differs_is_named(change: dict[str, Any], method: str, differs: str, config: Config) -> None:
    write(config)
    write(changed(config, **change), 0.7)
    assert differs in others(config)[method]


def test_other_results_stand_beside_and_are_in_no_number_of_the_table(config: Config) -> None:
    write(config)
    before = tables(config)
    numbers = (Path(config["results"]) / "leaderboard.csv").read_text()
    assert "Other results here" not in before
    write(changed(config, "training", iterations=5), 0.9)
    page = tables(config)
    assert (Path(config["results"]) / "leaderboard.csv").read_text() == numbers
    assert page.startswith(before.partition("**How to read")[0]) and page.count("| 90.00 ") == 3
    table = read_csv(Path(config["results"]) / "other_results.csv")
    assert (
        table["miou"].tolist() == pytest.approx([90] * 3)
        and table["recipes"].str.startswith("training 1, ").all()
    )
    assert {*table["digest"]} == {run.digest for run in plan.runs(changed(config, "training", iterations=5))}


def test_seeds_and_methods_that_are_not_configured_are_each_a_row(config: Config) -> None:
    write(config | {"seeds": [0, 1, 2]})
    fewer = reading.complete(config | {"methods": ["ce"], "seeds": [0]})
    table_of = others(fewer)
    table = read_csv(Path(config["results"]) / "other_results.csv")
    assert len(table) == 8 and table["seed"].tolist().count(1) == 3, "never averaged"
    assert table_of["ce"] == "seed 2 is not in the configuration"
    assert table_of["rmi"].startswith("method rmi is not in the configuration")


def test_recipe_code_data_and_unknown_things_are_named(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(config)
    (edited, *_) = write(changed(config, "training", iterations=5))
    write_scores(edited, plain_counts(edited, 0.5), method_code="0" * 64)
    assert others(config)["ce"].endswith("the code of methods/ce.py")
    with monkeypatch.context() as patch:
        raise_recipe(patch, "SCORING")
        (run, *_) = plan.runs(config)
        write_scores(run, plain_counts(run, 0.5))
        assert "scoring by recipe " in others(config)["ce"]
    other = reading.complete(
        config | {"datasets": ["digits"], "models": ["fcn-test_resnet"], "methods": ["ce"]}
    )
    (Path(config["results"]) / "leaderboard.csv").unlink()
    assert others(other)["ce"] == f"model {MODEL} is not in the configuration"


def test_what_cannot_be_read_is_left_out_and_said(config: Config) -> None:
    write(config)
    (broken, edited, whole) = write(changed(config, "training", iterations=5))
    broken.metrics.write_text("{")
    edited.metrics.write_text(whole.metrics.read_text())
    page = tables(config)
    assert "WARNING: left out of the other results here: " in page and " and 1 more." in page
    assert "cannot be read" in page and [*others(config)] == [whole.method]
    assert broken.metrics.read_text() == "{", "it is not ours to rename"


def test_a_good_table_is_never_replaced_by_an_empty_one(config: Config) -> None:
    """The table of a benchmark, and then plain `snakemake tables` or `report` with another configuration."""
    write(config)
    benchmark = plan.benchmark(config)
    report.publish(benchmark)
    folder = Path(config["results"])
    made = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    name = f"{digest(config)}.json"
    empty = plan.benchmark(changed(config, "training", iterations=9))
    for verb in (write_tables, report.publish):
        with pytest.raises(UserError) as caught:
            verb(empty)
        sentence = str(caught.value)
        assert (
            f"--configfile {folder}/configs/{name} (3 of them)" in sentence
            and len(sentence.splitlines()) == 1
        )
        assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == made
    for each in benchmark.runs:
        each.metrics.unlink()
    with pytest.raises(UserError, match="all that is left of results; delete .*leaderboard.csv if"):
        write_tables(empty)
    (folder / "leaderboard.csv").unlink()
    assert "not trained yet" in tables(empty.configuration)


def test_without_a_table_there_is_one_that_says_where_results_come_from(config: Config) -> None:
    write(config)
    page = tables(changed(config, "training", iterations=9))
    assert "WARNING: no run of this configuration has a result; 3 other results lie in" in page
    assert "training: iterations 4, not 9" in page and "not trained yet" in page


def test_one_result_of_its_own_is_enough_to_write_tables(config: Config) -> None:
    write(config)
    tables(config)
    mine = changed(config, "training", iterations=9)
    (run, *_) = plan.runs(mine)
    write_scores(run, plain_counts(run, 0.3))
    page = tables(mine)
    assert "| 30.00 " in page and "training: iterations 4, not 9" in page


def test_configurations_that_made_results(config: Config) -> None:
    folder = Path(config["results"])
    first, second = write(config), write(changed(config, "training", iterations=5))
    (folder / "configs/broken.json").write_text("{")
    (folder / "configs/list.json").write_text("[]")
    (folder / "configs/old.json").write_text('{"complete": true, "gone": 1}')
    write_json(folder / "configs/smaller.json", config | {"methods": ["ce"]})
    counts = made_by(folder, {run.folder for run in [*first, *second]})
    assert sorted(counts.values()) == [3, 3] and "smaller.json" not in {path.name for path in counts}
    assert (
        made_by(folder, {run.folder for run in first[:1]} | {folder / "runs/a/b/c/seed0-1"}).popitem()[1] == 1
    )
    assert made_by(folder, set()) == {}


def test_the_page_and_status_have_them_too(config: Config, tmp_path: Path) -> None:
    write(config)
    write(changed(config, "training", iterations=5))
    page = report.publish(plan.benchmark(config)).read_text()
    assert '<h2 id="others">Other results here</h2>' in page and "training: iterations 5, not 4" in page
    mine = changed(config, "training", iterations=9)
    text = status.others_text(plan.benchmark(mine), status.status(plan.benchmark(mine)))
    assert (
        text.count("training: iterations 4, not 9") == 3 and text.count("training: iterations 5, not 9") == 3
    )
    assert "No run of this configuration has a result; 6 other results lie in" in text
    assert (
        status.others_text(plan.benchmark(config), status.status(plan.benchmark(config))).count(
            "iterations 5"
        )
        == 3
    )
    empty = reading.complete(config | {"results": str(tmp_path / "none")})
    assert status.others_text(plan.benchmark(empty), []) == ""


def test_the_commands_say_it_in_one_sentence(config: Config, tmp_path: Path) -> None:
    write(config)
    tables(config)
    file = tmp_path / "mine.json"
    write_json(file, changed(config, "training", iterations=9))
    for verb in ("tabulate", "report"):
        result = run("common", verb, "--configfile", str(file), cwd=Path(__file__).parents[3], check=False)
        assert result.returncode == 2 and "Traceback" not in result.stderr
        (line,) = result.stderr.splitlines()
        assert line.startswith("structseg: no run of this configuration has a result, so the tables in")
