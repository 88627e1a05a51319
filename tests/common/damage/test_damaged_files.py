"""Files of results that are not as they were written: each costs its row alone, and is made again."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from common.config.entries import Config
from common.errors import Damaged, UserError
from common.integrity import StoredFile, set_aside
from common.report import gallery
from common.runs import plan
from common.runs.benchmark import Benchmark
from common.runs.records import Metrics, TrainedModel, read_tensors
from common.runs.soundness import quick
from common.stages import evaluate, prepare, report, train
from common.tables.bootstrap import Bootstrap
from common.tables.results import read_controls, read_results, rows_of
from common.tables.writing import up_to_date, write_tables
from tests.common.damage.contents import (
    CONTENTS,
    METHODS,
    archive,
    board,
    command,
    edit,
    huge_picture,
    picture,
    put,
    run_of,
)


def damaged_files(benchmark: Benchmark) -> dict[str, Path]:
    """A file of every kind that a row comes from, by the name of the row."""
    majority, ceiling = benchmark.groups[0].controls
    return {
        "bce": run_of(benchmark, "bce").metrics,
        "rmi": run_of(benchmark, "rmi").per_image,
        "dice": run_of(benchmark, "dice").cost,
        "majority": majority.metrics,
        "ceiling": ceiling.per_image,
    }


@pytest.mark.parametrize("kind", [*CONTENTS, "a folder"])
def test_whatever_a_file_contains_its_row_says_so(
    kind: str, config: Config, benchmark: Benchmark, capfd: pytest.CaptureFixture
) -> None:
    files = damaged_files(benchmark)
    before = {result.run.method: result.metrics for result in read_results(benchmark)}
    for path in files.values():
        put(path, kind)
    assert command(config, "status") == 0
    noticed = 2 if kind in ("zeros", "noise") else 3  # where the size is right, the counts must be read
    assert f"{noticed} damaged" in capfd.readouterr().out
    rows = {result.run.method: result for result in read_results(benchmark)}
    controls = {row.method: row.result for row in read_controls(benchmark)}
    for method, path in files.items():
        result, new = (rows | controls)[method], path.with_name(f"{path.name}.damaged")
        assert str(path) in result.error and f"it was renamed to {new.name}" in result.error
        assert "\n" not in result.error and (method == "dice") == bool(result.metrics)
        assert result.unreadable and new.exists() and not path.exists(), "it is missing, so it is made again"
    assert all(rows[method].metrics == before[method] for method in ("ce", "dice", "crf-1"))
    again = {result.run.method: result for result in read_results(benchmark)}
    for method in ("bce", "rmi", "dice"):
        assert again[method].error == rows[method].error, "the reason is kept until it is made again"
        assert not again[method].unreadable
    run = run_of(benchmark, "bce")
    evaluate.evaluate(run, plan.execution(config))
    assert not run.error.exists() and not quick(run)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["nothing", "a folder"])
def test_tables_and_report_are_made_of_all_else(
    kind: str, config: Config, benchmark: Benchmark, capfd: pytest.CaptureFixture
) -> None:
    files, panel = damaged_files(benchmark), run_of(benchmark, "crf-1").panel
    score = Metrics.read(run_of(benchmark, "ce")).miou
    for path in (*files.values(), panel):
        put(path, kind)
    assert command(config, "tabulate") == 2
    output = capfd.readouterr()
    assert "Traceback" not in output.out + output.err and output.err.count("structseg: ") == 1
    assert "files of 5 results are damaged or out of reach" in output.err and str(panel) in output.err
    table = board(benchmark)
    assert table.loc["ce", "miou_mean"] == pytest.approx(100 * score)
    assert np.isnan(table.loc["bce", "miou_mean"]) and not panel.exists()
    assert table["error"].notna().to_dict() == {method: method in files for method in table.index}
    assert all(str(path) in table.loc[method, "error"] for method, path in files.items())
    assert not benchmark.outputs.stamp.exists()
    assert command(config, "report") == 0, "nothing damaged is left"
    assert "Traceback" not in capfd.readouterr().err
    assert board(benchmark).loc["bce", "error"] == table.loc["bce", "error"]


@pytest.mark.parametrize("kind", [*CONTENTS, "a folder"])
def test_a_damaged_manifest_is_renamed_and_made_again(
    kind: str, config: Config, benchmark: Benchmark
) -> None:
    run, data = run_of(benchmark, "bce"), benchmark.groups[0].data
    before = data.manifest().content_sha256
    put(data.path, kind)
    with pytest.raises(Damaged, match=r"\.json.*: it was renamed to digits-.*\.json\.damaged, and the next"):
        evaluate.evaluate(run, plan.execution(config))
    assert not data.path.exists()
    prepare.prepare(data)
    assert data.manifest().content_sha256 == before


@pytest.mark.parametrize("kind", ["half of it", "an archive", "a folder"])
def test_damaged_pictures_of_the_panel_cost_the_panel(
    kind: str, config: Config, benchmark: Benchmark, capfd: pytest.CaptureFixture
) -> None:
    panel = benchmark.groups[0].data.panel
    put(panel, kind)
    assert command(config, "tabulate") == 2
    output = capfd.readouterr().err
    assert str(panel) in output and "Traceback" not in output and not panel.exists()
    assert board(benchmark)["error"].isna().all() and not benchmark.outputs.stamp.exists()
    prepare.prepare(benchmark.groups[0].data)
    assert command(config, "tabulate") == 0 and benchmark.outputs.stamp.exists()


LABELS = {
    **CONTENTS,
    "a picture of a gigapixel": lambda content: archive(huge_picture(), first_name(content)),
    "a picture that unpacks to much": lambda content: archive(bytes(10**8), first_name(content)),
    "another picture": lambda content: archive(picture(), first_name(content)),
}


def first_name(content: bytes) -> str:
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        return file.namelist()[0]


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("told", [False, True])
def test_damaged_label_maps_cost_the_pictures_that_need_them(
    kind: str, told: bool, benchmark: Benchmark
) -> None:
    """`told`: even if the record tells of the file as it is."""
    run = run_of(benchmark, "bce")
    run.labels.write_bytes(LABELS[kind](run.labels.read_bytes()))
    if told:
        files = StoredFile.all_of([run.per_image, run.panel, run.labels])
        edit(run.metrics, {"files": {name: vars(stored) for name, stored in files.items()}})
    rows = rows_of(benchmark, read_results(benchmark))
    methods, missing = gallery._labels(rows)
    names = [labels.method for labels in methods]
    assert names == [method for method in METHODS if method != "bce" or names.count("bce")]
    if not told:
        (note,) = missing
        assert note.startswith(f"bce: {run.labels}") and "\n" not in note
    choices = gallery.Choice(methods, benchmark.groups[0].data.dataset, gallery.choose(methods, 2))
    gallery.fill({"x": choices}, 10**7)


def test_the_report_is_made_of_tables_as_they_were_written(
    config: Config, benchmark: Benchmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "make_page", lambda *_: "the page")
    write_tables(benchmark)
    assert up_to_date(benchmark.outputs)
    table = benchmark.outputs.results / "leaderboard.csv"
    sound = table.read_text()
    for content in ("", "5", sound[:200], sound.replace("ce,", "XX,")):
        table.write_text(content)
        assert not up_to_date(benchmark.outputs)
    report.publish(benchmark)
    assert table.read_text() == sound


MEMORY = {"0" * 24: [1e-4, -0.1, 0.1, 0.5, 4, 1.0, ""]}


@pytest.mark.parametrize(
    "damage", ["", "5", "{}", "[]", '{"known": 5}', '{"sha256": "0", "known": {}}', "edit"]
)
def test_a_damaged_memory_of_the_bootstrap_is_none(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "bootstrap.json"
    bootstrap = Bootstrap(path)
    bootstrap.known, bootstrap.changed = dict(MEMORY), True
    bootstrap.save()
    assert Bootstrap(path).known == MEMORY
    path.write_text(damage if damage != "edit" else path.read_text().replace("0.5", "0.01"))
    assert Bootstrap(path).known == {}


@pytest.mark.parametrize("content", ["", "5", "{", '{"error": 5}'])
def test_a_record_of_a_failure_that_is_none_blocks_nothing(
    content: str, config: Config, benchmark: Benchmark
) -> None:
    run = run_of(benchmark, "bce")
    for path in (run.error, run.training.error, run.data.error):
        path.write_text(content)
    assert command(config, "status") == 0
    run.metrics.unlink()
    assert command(config, "tabulate") == 0
    execution = plan.execution(config)
    run.training.file.unlink()
    prepare.prepare(run.data)
    train.train(run.training, execution)
    evaluate.evaluate(run, execution)
    assert not run.error.exists() and not run.training.error.exists()


def test_a_folder_in_the_place_of_a_record_of_a_failure_blocks_nothing(
    config: Config, benchmark: Benchmark
) -> None:
    run = run_of(benchmark, "bce")
    run.error.mkdir()
    evaluate.evaluate(run, plan.execution(config))
    assert not quick(run) and command(config, "status") == 0


def test_damaged_files_are_kept_all(tmp_path: Path) -> None:
    names = []
    for number in range(3):
        path = tmp_path / "a.json"
        path.write_text(str(number))
        names.append(set_aside(path).name)
    assert names == ["a.json.damaged", "a.json.damaged-2", "a.json.damaged-3"]
    assert (tmp_path / "a.json.damaged").read_text() == "0" and not path.exists()


def test_a_file_that_cannot_be_reached_now_is_kept(
    config: Config, benchmark: Benchmark, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    """As on a file server that is away for a moment: it says nothing of what is in the file."""
    run = run_of(benchmark, "bce")
    read_bytes, opened = Path.read_bytes, Path.open

    def refuse(path: Path) -> None:
        if path in (run.metrics, run.training.file, run.training.state / "finished.pt", run.data.path):
            raise OSError(5, os.strerror(5), str(path))

    monkeypatch.setattr(Path, "read_bytes", lambda path: refuse(path) or read_bytes(path))
    monkeypatch.setattr(Path, "open", lambda path, *mode, **o: refuse(path) or opened(path, *mode, **o))
    assert command(config, "tabulate") == 2
    assert "their rows say why" in capfd.readouterr().err
    assert "cannot be read now (Input/output error)" in board(benchmark).loc["bce", "error"]
    for job in (
        lambda: TrainedModel.read(run.training.file),
        lambda: evaluate.evaluate(run, plan.execution(config)),
    ):
        with pytest.raises(UserError, match=r"cannot be read now \(Input/output error\)"):
            job()
    monkeypatch.undo()
    assert run.metrics.exists() and run.training.file.exists() and run.data.path.exists()
    assert read_tensors(run.training.file, "")
    assert command(config, "tabulate") == 0
