"""Files of results that are not as they were written: each costs its row alone, and is made again."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from common.__main__ import VERBS
from common.config import reading
from common.config.entries import Config
from common.errors import Damaged, UserError
from common.failures import Failure
from common.files import write_json
from common.integrity import StoredFile, set_aside
from common.report import gallery
from common.runs import plan
from common.runs.benchmark import Benchmark
from common.runs.jobs import Control, TrainedRun
from common.runs.records import Cost, Metrics, TrainedModel, read_tensors, state_sha256
from common.runs.soundness import quick
from common.scoring.counts import SplitCounts
from common.scoring.stored_scores import computed
from common.stages import controls, entry, evaluate, prepare, report, train
from common.tables.bootstrap import Bootstrap
from common.tables.frames import read_csv
from common.tables.leaderboard import comparison_table
from common.tables.notes import notes
from common.tables.results import read_controls, read_results, rows_of
from common.tables.writing import up_to_date, write_tables
from common.training.checkpoints import Checkpoint, Checkpoints, Position
from tests.conftest import TINY
from tests.synthetic import cost_of, rewrite

MODEL = "deeplabv3plus-test_resnet"
METHODS = ["ce", "bce", "rmi", "dice", "crf-1"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A configuration whose runs are all trained, scored and measured."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("finished")
    config = reading.complete(TINY | {"methods": METHODS, "results": str(folder)})
    execution = plan.execution(config)
    prepare.prepare(plan.preparation(config, "digits"))
    for run in plan.runs(config):
        train.train(run.training, execution)
        evaluate.evaluate(run, execution)
        facts = Metrics.read(run).trained
        cost_of(run, state_sha256=facts.state_sha256).write(run.cost)
    controls.score(plan.controls(config, "digits", MODEL))
    return config


@pytest.fixture
def config(finished: Config, tmp_path: Path) -> Config:
    """The same with a copy of its results, which a test may damage."""
    shutil.copytree(finished["results"], tmp_path / "results")
    return finished | {"results": str(tmp_path / "results")}


@pytest.fixture
def benchmark(config: Config) -> Benchmark:
    return plan.benchmark(config)


def run_of(benchmark: Benchmark, method: str) -> TrainedRun:
    (run,) = (run for run in benchmark.runs if run.method == method)
    assert isinstance(run, TrainedRun)
    return run


def command(config: Config, verb: str, *arguments: str) -> int:
    """Runs `python -m common <verb>` in this process; returns its exit status."""
    file = Path(config["results"]) / "config.json"
    if not file.exists():
        write_json(file, config)
    stage = import_module(f"common.stages.{verb}")
    try:
        entry.enter(stage, verb, VERBS[verb], ["--configfile", str(file), *arguments])
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("P", (8, 8)).save(buffer, "PNG")
    return buffer.getvalue()


def array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


def archive(content: bytes = b"", name: str = "names.npy") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(name, content)
    return buffer.getvalue()


def huge_picture() -> bytes:
    """A picture that claims to have 1.2 gigapixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 20_000, 8, 3, 0, 0, 0)
    return picture()[:12] + header + struct.pack(">I", zlib.crc32(header)) + picture()[33:]


def huge_array() -> bytes:
    """An archive with an array that claims to have 80 TB."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**13,)})
    return archive(header.getvalue())


def torch_file(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


CONTENTS: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda _: b"",
    "a number": lambda _: b"5",
    "an object": lambda _: b"{}",
    "a list": lambda _: b"[]",
    "null": lambda _: b"null",
    "half of it": lambda content: content[: len(content) // 2],
    "all but its end": lambda content: content[:-20],
    "all but its beginning": lambda content: content[20:],
    "zeros": lambda content: bytes(len(content)),
    "noise": lambda content: np.random.default_rng(0).bytes(len(content)),
    "a deep list": lambda _: b"[" * 100_000,
    "a deep value": lambda _: b'{"method_options": {"x": ' + b"[" * 100_000,
    "no text": lambda _: b"\xff\xfe\x00",
    "a picture": lambda _: picture(),
    "an array": lambda _: array(),
    "an archive": lambda _: archive(),
    "a huge array": lambda _: huge_array(),
    "a bomb": lambda _: archive(bytes(10**7)),
    "a file of torch": lambda _: torch_file(5),
    "an object of torch": lambda _: torch_file({"network": {}}),
}
"""What a file may contain instead, from what it should."""


def put(path: Path, kind: str) -> None:
    """Damages a file: it becomes a folder, or gets one of `CONTENTS`."""
    content = path.read_bytes()
    if kind == "a folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(CONTENTS[kind](content))


def board(benchmark: Benchmark) -> Any:
    return read_csv(benchmark.outputs.results / "leaderboard.csv").set_index("method")


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


METRICS: list[tuple[dict[str, Any], str]] = [
    ({"miou": -5}, "cannot be read"),
    ({"miou": 1.5}, "cannot be read"),
    ({"miou": "0.5"}, "cannot be read"),
    ({"miou": None}, "cannot be read"),
    ({"miou": float("nan")}, "cannot be read"),
    ({"miou": float("inf")}, "cannot be read"),
    ({"images": -1}, "cannot be read"),
    ({"images": 10**30}, "cannot be read"),
    ({"wall_seconds": -1.0}, "cannot be read"),
    ({"peak_memory": -1}, "cannot be read"),
    ({"iou": [1, 2]}, "cannot be read"),
    ({"files": {}}, "does not tell of per_image.npz"),
    ({"files": None}, "cannot be read"),
    ({"files": {"per_image.npz": {"size": 5, "sha256": "0"}}}, "not the 5 that its record tells of"),
    ({"trained": None}, "is of another model"),
    ({"trained_as": "ce"}, "is of another model"),
    ({"dataset": "camvid"}, "its dataset is camvid"),
    ({"model": "x"}, "its model is x"),
    ({"method": "ce"}, "its method is ce"),
    ({"seed": 1}, "its seed is 1"),
    ({"digest": "0123456789"}, "its digest is 0123456789"),
    ({"evaluation": {"split": "val", "scales": [1.0], "flip": False}}, "its evaluation is"),
]
"""Values of `metrics.json` that cannot be, and what is said of them."""

EDITED: list[dict[str, Any]] = [
    {"miou": 0.99},
    {"images": 5},
    {"pixel_accuracy": 0.5},
    {"boundary_iou": 0.9},
    {"boundary_f": None},
    {"ece": 0.0},
    {"nll": 0.1},
    {"iou": {"background": 1.0}},
    {"iou": {}},
    {"trimap_miou": {"1": 0.9}},
    {"boundary_iou_per_class": {}},
    {"boundary_f_per_class": {"0": 1.0}},
    {"reliability": None},
]
"""Scores that can be, but are not those of the counts."""


def edit(path: Path, changes: dict[str, Any]) -> None:
    """Changes a record, and its checksum if a record can have such values."""
    try:
        rewrite(path, lambda content: content.update(changes))
    except ValueError:  # NaN and infinities
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(("changes", "reason"), METRICS)
def test_metrics_that_cannot_be_are_the_reason_of_their_row(
    changes: dict[str, Any], reason: str, benchmark: Benchmark
) -> None:
    run = run_of(benchmark, "bce")
    edit(run.metrics, changes)
    by_method = {result.run.method: result for result in read_results(benchmark)}
    assert by_method["bce"].metrics is None and reason in (by_method["bce"].error or "")
    assert all(by_method[method].complete for method in METHODS if method != "bce")


@pytest.mark.parametrize(
    "key", [key for key, value in Metrics.__dataclass_fields__.items() if key != "diagnostics"]
)
def test_a_record_that_lacks_a_key_is_the_reason_of_its_row_or_without_effect(
    key: str, benchmark: Benchmark
) -> None:
    run = run_of(benchmark, "bce")
    before = Metrics.read(run)
    content = json.loads(run.metrics.read_text())
    del content[key]
    run.metrics.write_text(json.dumps(content))
    (result,) = (result for result in read_results(benchmark) if result.run.method == "bce")
    if result.metrics:
        assert replace(result.metrics, **{key: getattr(before, key)}) == before
        assert getattr(result.metrics, key) == getattr(before, key) or key in OF_PROVENANCE
    else:
        assert str(run.metrics) in (result.error or "")


OF_PROVENANCE = ("recipe", "method_module", "method_code", "method_options", "model_options", "predictions")
"""What no number in a table comes from."""


@pytest.mark.parametrize("changes", EDITED)
def test_an_edited_score_has_no_effect_but_a_warning(changes: dict[str, Any], benchmark: Benchmark) -> None:
    before = read_results(benchmark)
    path = run_of(benchmark, "bce").metrics
    edit(path, changes)
    after = read_results(benchmark)
    assert [result.metrics for result in after] == [result.metrics for result in before]
    rows = rows_of(benchmark, after)
    (warning,) = (note for note in notes(rows, [], _nothing()) if "its counts give" in note)
    assert str(path) in warning and f"something else of {', '.join(changes)} than its counts give" in warning


def _nothing() -> Any:
    """No comparisons."""
    return comparison_table([], "ce", Bootstrap(None))


def test_an_edited_control_has_no_effect_but_a_warning(benchmark: Benchmark) -> None:
    before = read_controls(benchmark)
    edit(benchmark.groups[0].controls[0].metrics, {"miou": 0.99})
    after = read_controls(benchmark)
    assert [row.scores for row in after] == [row.scores for row in before]
    assert [*after[0].result.edited] == ["miou"]


COST: list[tuple[dict[str, Any], str]] = [
    ({"latency_ms": -5.0}, "cannot be read"),
    ({"latency_ms": 0.0}, "cannot be read"),
    ({"latency_ms": 1.0}, "latency_ms is not the median of its timings"),
    ({"network_ms": 999.0}, "network_ms is not the median"),
    ({"refine_ms": 7.0}, "refine_ms is not the median"),
    ({"structure_p95_ms": -1.0}, "cannot be read"),
    ({"training_step_ms": 1.0}, "training_step_ms is not the median"),
    ({"training_timings": []}, "no timings of training_step_ms"),
    ({"inference_timings": {}}, "no timings of network_ms"),
    ({"training_images_per_second": 0.0}, "a time is zero"),
    ({"parameters": -1}, "cannot be read"),
    ({"parameters": 10**30}, "cannot be read"),
    ({"throughput": float("nan")}, "cannot be read"),
    ({"recipe": 99}, "recipe 99 measured it"),
    ({"digest": "0"}, "its digest is 0"),
    ({"method": "ce"}, "its method is ce"),
    ({"state_sha256": "0" * 64}, "of two models that were trained alike"),
    ({"load": 5}, "cannot be read"),
]
"""Values of a cost that cannot be, and what is said of them."""


@pytest.mark.parametrize(("changes", "reason"), COST)
def test_costs_that_cannot_be_are_the_reason_of_their_row(
    changes: dict[str, Any], reason: str, benchmark: Benchmark
) -> None:
    edit(run_of(benchmark, "bce").cost, changes)
    (result,) = (result for result in read_results(benchmark) if result.run.method == "bce")
    assert result.cost is None and result.metrics is not None and reason in (result.error or "")
    assert not result.complete


def _set(place: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    """A change of the arrays of counts: a place of one of them gets a value."""

    def change(arrays: dict[str, Any]) -> None:
        name, *index = place
        arrays[name][tuple(index)] = value

    return change


def _replace(name: str, change: Callable[[Any], Any]) -> Callable[[dict[str, Any]], None]:
    return lambda arrays: arrays.update({name: change(arrays[name])})


COUNTS: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (_set(("confusion", 0, 0, 0), -5), "confusion is negative"),
    (_set(("confusion", 0, 0, 0), 2**62), "confusion is negative or too large"),
    (_set(("trimap", 0, 0, 0, 0), 10**6), "more is right than there is"),
    (_set(("boundary", 0, 0, 0), 10**6), "more is right than there is"),
    (_set(("contour", 0, 1, 0), 10**6), "more of contours is matched"),
    (_set(("contour", 0, 0, 0), -1), "contour is negative"),
    (_set(("nll", 0), float("nan")), "nll is no array of numbers"),
    (_set(("nll", 0), -1e9), "nll is negative"),
    (_set(("calibration", 0, 0, 1), -1.0), "calibration is not between"),
    (_set(("calibration", 0, 0, 2), 1e9), "calibration is not between"),
    (_set(("calibration", 0, 0, 0), 1e9), "calibration is of other pixels"),
    (_replace("confusion", lambda x: x.astype(float)), "confusion is no array of whole numbers"),
    (_replace("confusion", lambda x: x.astype(str)), "confusion is no array of whole numbers"),
    (_replace("confusion", lambda x: 0 * x), "(calibration is of|objects have) other pixels"),
    (_replace("names", lambda x: x[::-1][:1].repeat(len(x))), "names are not one per image"),
    (_replace("names", lambda x: np.arange(len(x))), "names are not one per image"),
    (_replace("names", lambda x: x[:-1]), "has boundary of shape|has calibration of shape"),
    (lambda arrays: arrays.pop("nll"), "only one of calibration and nll"),
    (lambda arrays: arrays.pop("trimap"), "lacks trimap"),
    (
        lambda arrays: [arrays.update({k: a[..., :5]}) for k, a in arrays.items() if k in KS],
        "has confusion of shape",
    ),
]
"""Changes of the counts of a run, and what is said of them even if the record tells of the changed file."""

KS = ("confusion", "trimap", "boundary", "contour")


@pytest.mark.parametrize(("change", "reason"), COUNTS)
def test_counts_that_cannot_be_are_the_reason_of_their_row(
    change: Callable[[dict[str, Any]], Any], reason: str, benchmark: Benchmark
) -> None:
    run = run_of(benchmark, "bce")
    arrays = {key: value for key, value in vars(SplitCounts.read(run.per_image)).items() if value is not None}
    change(arrays)
    np.savez_compressed(run.per_image, **arrays)
    with pytest.raises(Damaged, match=reason):
        SplitCounts.read(run.per_image)
    edit(run.metrics, {"files": {"per_image.npz": vars(StoredFile.of(run.per_image))}})
    (result,) = (result for result in read_results(benchmark) if result.run.method == "bce")
    assert result.metrics is None and str(run.per_image) in (result.error or "")


def test_counts_of_other_classes_are_the_reason_of_their_row(benchmark: Benchmark) -> None:
    run = run_of(benchmark, "bce")
    counts = SplitCounts.read(run.per_image)
    k = {key: getattr(counts, key)[..., :5] for key in ("trimap", "boundary", "contour")}
    confusion = counts.confusion[:, :5, :5]
    replace(counts, **k, confusion=confusion, calibration=None, nll=None, objects=None).write(run.per_image)
    edit(
        run.metrics,
        {
            "files": StoredFile.all_of([run.per_image])
            and {"per_image.npz": vars(StoredFile.of(run.per_image))}
        },
    )
    (result,) = (result for result in read_results(benchmark) if result.run.method == "bce")
    assert result.metrics is None and "is of 5 classes, not 11" in (result.error or "")


def test_counts_of_another_run_do_not_belong(benchmark: Benchmark) -> None:
    run, other = run_of(benchmark, "bce"), run_of(benchmark, "ce")
    shutil.copy(other.per_image, run.per_image)
    (result,) = (result for result in read_results(benchmark) if result.run.method == "bce")
    assert result.metrics is None and "its record tells of" in (result.error or "")
    assert (
        any("per_image.npz" in fault for fault in quick(run))
        or run.per_image.with_name("per_image.npz.damaged").exists()
    )


def test_every_flipped_bit_of_counts_is_noticed(benchmark: Benchmark) -> None:
    run = run_of(benchmark, "bce")
    stored, content = Metrics.read(run).files["per_image.npz"], run.per_image.read_bytes()
    for place in range(0, len(content), max(1, len(content) // 150)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        run.per_image.write_bytes(flipped)
        with pytest.raises(Damaged):
            SplitCounts.read(run.per_image, stored)


def test_every_flipped_bit_of_a_record_is_noticed(benchmark: Benchmark) -> None:
    """A number stays one if a digit becomes another; and a text is none any more if it is no UTF-8."""
    run = run_of(benchmark, "bce")
    names = run.data.dataset.class_names
    records: dict[Path, Callable[[], tuple[Any, Any]]] = {
        run.cost: lambda: (Cost.read(run), []),
        run.metrics: lambda: computed(Metrics.read(run), run.folder, names),
        run.data.path: lambda: (run.data.manifest(), []),
    }
    random = np.random.default_rng(0)
    for path, read in records.items():
        whole, before = path.read_bytes(), read()
        for place in random.choice(len(whole) - 1, 150, replace=False):  # behind the last bracket all is one
            data = bytearray(whole)
            data[place] ^= 1 << int(random.integers(8))
            path.write_bytes(data)
            try:
                record, edited = read()
            except UserError:
                continue
            assert edited or (record, edited) == before, (path, place)
        path.write_bytes(whole)


def test_what_no_counts_give_is_edited_with_a_warning(benchmark: Benchmark) -> None:
    run = run_of(benchmark, "bce")
    run.metrics.write_text(run.metrics.read_text().replace('"wall_seconds": ', '"wall_seconds": 9'))
    (result,) = (result for result in read_results(benchmark) if result.run == run)
    (warning,) = (note for note in notes(rows_of(benchmark, [result]), [], _nothing()) if "checksum" in note)
    assert f"WARNING: {run.metrics} is not as it was written" in warning and result.complete


def test_an_edited_cost_is_the_reason_of_its_row(benchmark: Benchmark) -> None:
    run = run_of(benchmark, "bce")
    before = Cost.read(run).throughput
    run.cost.write_text(
        run.cost.read_text().replace(f'"throughput": {before}', f'"throughput": {2 * before}')
    )
    (result,) = (result for result in read_results(benchmark) if result.run == run)
    assert result.cost is None
    assert f"{run.cost} is not as it was written (its checksum" in (result.error or "")


def test_every_flipped_bit_of_a_model_is_noticed(benchmark: Benchmark) -> None:
    training = run_of(benchmark, "bce").training
    content = training.file.read_bytes()
    whole = TrainedModel.read(training.file, training)
    silent = []
    for place in range(0, len(content), max(1, len(content) // 120)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        training.file.write_bytes(flipped)
        try:
            read = TrainedModel.read(training.file, training)
        except Damaged as error:
            assert str(training.file) in str(error) and "\n" not in str(error)
            continue
        silent.append(place)  # in the padding of the archive, which means nothing
        assert state_sha256(read.network, read.method_state) == whole.state_sha256
        assert read.facts == whole.facts
    assert len(silent) < 30


@pytest.mark.parametrize("kind", [*CONTENTS, "a folder", "another weight", "another training"])
def test_a_damaged_model_is_renamed_and_made_again(kind: str, config: Config, benchmark: Benchmark) -> None:
    run, execution = run_of(benchmark, "bce"), plan.execution(config)
    before = TrainedModel.read(run.training.file, run.training)
    for path in (run.training.file, run.training.state / "finished.pt"):
        if kind == "another training":
            shutil.copy(run_of(benchmark, "rmi").training.file, path)
        elif kind == "another weight":
            content = torch.load(path, weights_only=True)
            next(iter(content["network"].values())).view(-1)[0] += 1
            torch.save(content, path)
        else:
            put(path, kind)
    with pytest.raises(
        Damaged, match=r"model\.pt .*: it was renamed to model\.pt\.damaged, and the next .snake"
    ) as error:
        evaluate.evaluate(run, execution)
    assert "\n" not in str(error.value) and Failure.read(run.error).kind == "damaged"
    assert not run.training.file.exists()
    train.train(run.training, execution)
    again = TrainedModel.read(run.training.file, run.training)
    assert again.state_sha256 == before.state_sha256, "it was trained again"
    assert (run.training.state / "finished.pt.damaged").exists()
    evaluate.evaluate(run, execution)
    assert not quick(run) and not run.error.exists()


def test_a_lost_model_comes_back_from_its_second_name(config: Config, benchmark: Benchmark) -> None:
    run = run_of(benchmark, "bce")
    put(run.training.file, "noise")
    with pytest.raises(Damaged):
        evaluate.evaluate(run, plan.execution(config))
    written = TrainedModel.read(run.training.state / "finished.pt").provenance
    train.train(run.training, plan.execution(config))
    assert TrainedModel.read(run.training.file, run.training).provenance == written, "nothing was trained"


@pytest.mark.parametrize("kind", [*CONTENTS, "a folder", "a flipped bit"])
def test_a_damaged_checkpoint_is_left_out(
    kind: str, benchmark: Benchmark, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    training = run_of(benchmark, "bce").training
    state = torch.load(training.file, weights_only=True)["network"]
    checkpoints = Checkpoints(tmp_path / "state", training.digest)
    for iteration in (2, 4):
        checkpoints.save(Checkpoint(Position(iteration), state, {}, {}))
    assert checkpoints.latest().position.iteration == 4
    if kind == "a flipped bit":
        flipped = bytearray(checkpoints.current.read_bytes())
        flipped[len(flipped) // 2] ^= 4
        checkpoints.current.write_bytes(flipped)
    else:
        put(checkpoints.current, kind)
    assert checkpoints.latest().position.iteration == 2
    output = capsys.readouterr().out
    assert (
        "renamed to checkpoint.pt.damaged, and training goes on without it" in output
        and output.count("\n") == 1
    )
    put(checkpoints.previous, kind if kind != "a flipped bit" else "noise")
    assert checkpoints.latest() is None
    checkpoints.clear()


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


def test_rows_of_models_that_differ_are_pointed_out(benchmark: Benchmark) -> None:
    run = run_of(benchmark, "crf-1")
    trained = json.loads(run.metrics.read_text())["trained"] | {"state_sha256": "1" * 64}
    edit(run.metrics, {"trained": trained})
    edit(run.cost, {"state_sha256": "1" * 64})
    rows = rows_of(benchmark, read_results(benchmark))
    (warning,) = (note for note in notes(rows, [], _nothing()) if "trained alike" in note)
    assert "rows of the models of ce" in warning and "ce and crf-1" in warning


def verified(config: Config, capfd: pytest.CaptureFixture) -> tuple[int, str]:
    status = command(config, "status", "--verify")
    output = capfd.readouterr()
    assert "Traceback" not in output.out + output.err
    return status, output.out + output.err


def test_status_reads_all_files_if_asked_and_changes_none(
    config: Config, benchmark: Benchmark, capfd: pytest.CaptureFixture
) -> None:
    status, output = verified(config, capfd)
    assert status == 0 and "All files were read: they are as they were written." in output
    files = sorted(path for path in benchmark.outputs.results.rglob("*") if path.is_file())
    run, other = run_of(benchmark, "bce"), run_of(benchmark, "rmi")
    majority: Control = benchmark.groups[0].controls[0]
    for path in (
        run.training.file,
        run.panel,
        run.labels,
        other.per_image,
        majority.per_image,
        other.data.panel,
    ):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    edit(run.metrics, {"miou": 0.99})
    edit(other.cost, {"latency_ms": 1.0})
    status, output = verified(config, capfd)
    assert status == 2 and "8 files are not as they were written" in output
    assert sorted(path for path in benchmark.outputs.results.rglob("*") if path.is_file()) == files
    assert command(config, "status") == 0, "without reading them, all sizes are right"


def test_status_compares_sizes(config: Config, benchmark: Benchmark, capfd: pytest.CaptureFixture) -> None:
    run = run_of(benchmark, "bce")
    for path in (run.panel, run.labels, run.training.file):
        path.write_bytes(path.read_bytes()[:100])
    run_of(benchmark, "rmi").per_image.unlink()
    assert command(config, "status") == 0
    output = capfd.readouterr().out
    for words in (
        "panel.npz has 100 bytes",
        "labels.zip has 100 bytes",
        "model.pt is smaller than",
        "2 damaged",
    ):
        assert words in output
    assert "per_image.npz is missing" in output


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
