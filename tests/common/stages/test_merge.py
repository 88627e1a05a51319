"""Merging the results of two machines by the command: what is copied, what is refused, and what it says."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest
import torch
import yaml

from common.__main__ import main
from common.config import reading
from common.config.settings import plain
from common.errors import Damaged
from common.files import write_json
from common.runs import plan, recipes
from common.runs.benchmark import Benchmark
from common.runs.jobs import TrainedRun
from common.runs.records import LATER, Metrics, TrainedModel, state_sha256
from common.runs.weights import WeightsFile
from common.stages.prepare import prepare
from tests import synthetic
from tests.common.datasets.prepared import call
from tests.conftest import TINY
from tests.synthetic import PROVENANCE, cost_of, facts_of, plain_counts, provenance, rewrite


class Machine(NamedTuple):
    """The results of one machine, with seed 0 on one and seed 1 on the other."""

    folder: Path
    benchmark: Benchmark

    @property
    def run(self) -> TrainedRun:
        run = self.benchmark.runs[0]
        assert isinstance(run, TrainedRun)
        return run


def write_model(run: TrainedRun, **changes: Any) -> TrainedModel:
    """A trained model with one weight."""
    training = run.training
    state = {"weight": torch.tensor([float(changes.pop("weight", 0.5))])}
    names = training.data.dataset.class_names
    content: dict[str, Any] = {
        "dataset": training.dataset,
        "model": training.model,
        "model_options": plain(training.model_options),
        "method": training.method,
        "method_module": training.entry.module,
        "method_code": "0" * 64,
        "method_options": training.entry.options,
        "num_classes": len(names),
        "class_names": [*names],
        "colours": [*training.data.dataset.colours],
        "seed": training.seed,
        "digest": training.digest,
        "recipe": 1,
        "training": plain(training.settings),
        "content_sha256": training.data.manifest().content_sha256,
        "weights_sha256": None,
        "processes": 1,
        "provenance": PROVENANCE,
        "wall_seconds": 1.0,
        "peak_memory": 1,
        "state_sha256": state_sha256(state, {}),
        "network": state,
        "method_state": {},
    }
    model = TrainedModel(**(content | changes))
    model.write(training.file)
    return model


def machine(folder: Path, seed: int) -> Machine:
    """A machine that has run one seed."""
    config = TINY | {"seeds": [seed], "results": str(folder)}
    benchmark = plan.benchmark(reading.complete(yaml.safe_load(yaml.safe_dump(config))))
    made = Machine(folder, benchmark)
    prepare(made.run.data)
    model = write_model(made.run)
    write_scores(made, 0.5 + seed / 10, model)
    (made.run.training.folder / "state").mkdir()
    (made.run.training.folder / "state/checkpoint.pt").write_bytes(b"half")
    (made.run.training.folder / "training.jsonl").write_text("{}\n")
    (made.run.folder / "evaluate.log").write_text("done\n")
    (made.run.folder / "error.json").write_text("{}")
    cost_of(made.run, state_sha256=model.state_sha256).write(made.run.cost)
    write_json(folder / "configs" / f"{seed}.json", {})
    WeightsFile("x.pt", "a" * 64, {}).write(WeightsFile.path(folder, "x.pt"))
    return made


def write_scores(made: Machine, miou: float, model: TrainedModel, **changes: Any) -> None:
    """The scores of the run and of the controls."""
    content = model.content_sha256
    facts = facts_of(made.run.training, content_sha256=content, state_sha256=model.state_sha256)
    counts = plain_counts(made.run, miou)
    synthetic.write_scores(made.run, counts, content_sha256=content, trained=facts, **changes)
    for control in made.benchmark.groups[0].controls:
        counts = plain_counts(control, 0.2)
        synthetic.write_scores(control, counts, content_sha256=content, **changes)


@pytest.fixture
def two(tmp_path: Path) -> tuple[Machine, Machine]:
    return machine(tmp_path / "laptop", 0), machine(tmp_path / "cluster", 1)


def there(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def merge(capsys: pytest.CaptureFixture, source: Machine, target: Machine) -> tuple[int, str]:
    """`python -m common merge`: its status, and all that it says."""
    capsys.readouterr()
    with patch("sys.argv", ["common", "merge", str(source.folder), str(target.folder)]):
        try:
            main()
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
    out = capsys.readouterr()
    assert "Traceback" not in out.err
    return status, out.out + out.err


def test_what_is_whole_is_copied(two: tuple[Machine, Machine], capsys: pytest.CaptureFixture) -> None:
    source, target = two
    (target.folder / "tabulated-0123456789.json").write_text("{}")
    before, own = there(source.folder), there(target.folder)
    status, text = merge(capsys, source, target)
    assert status == 0
    assert "copied: 1 configs, 1 models, 1 runs" in text
    assert "already there: 1 weights, 1 datasets, 2 controls" in text
    after = there(target.folder)
    assert there(source.folder) == before, "it is only read"
    assert {name: after.get(name) for name in own if "tabulated" not in name} == {
        name: content for name, content in own.items() if "tabulated" not in name
    }, "nothing is replaced"
    assert not (target.folder / "tabulated-0123456789.json").exists(), "tables are due"
    folder = source.run.folder.relative_to(source.folder)
    for name in ("metrics.json", "per_image.npz", source.run.cost.name, "evaluate.log"):
        assert after[f"{folder}/{name}"] == before[f"{folder}/{name}"]
    assert f"{folder}/error.json" not in after
    trained = source.run.training.folder.relative_to(source.folder)
    assert f"{trained}/training.jsonl" in after and not any(f"{trained}/state" in name for name in after)


def test_merged_results_are_rows_of_one_table(
    two: tuple[Machine, Machine], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    source, target = two
    merge(capsys, source, target)
    config = TINY | {"seeds": [0, 1], "results": str(target.folder)}
    file = tmp_path / "config.json"
    write_json(file, reading.complete(yaml.safe_load(yaml.safe_dump(config))))
    status, errors = call("tabulate", "--configfile", str(file))
    table = (target.folder / "leaderboard.csv").read_text()
    assert status == 0 and "not trained yet" not in table, errors
    assert plan.benchmark(reading.load([file])).runs[0].metrics.exists()


def test_merging_again_does_nothing(two: tuple[Machine, Machine], capsys: pytest.CaptureFixture) -> None:
    source, target = two
    merge(capsys, source, target)
    after = there(target.folder)
    status, text = merge(capsys, source, target)
    assert status == 0 and "copied: nothing" in text and there(target.folder) == after


def test_results_go_into_a_new_folder(two: tuple[Machine, Machine], capsys: pytest.CaptureFixture) -> None:
    source, target = two
    shutil.rmtree(target.folder)
    status, text = merge(capsys, source, target)
    assert status == 0
    assert "copied: 1 weights, 1 datasets, 1 configs, 1 models, 1 runs, 2 controls" in text
    assert source.run.data.panel.relative_to(source.folder).as_posix() in there(target.folder)


def of_other_data(source: Machine) -> None:
    """Other pixels under the same name."""
    for path in [source.run.data.path, *source.folder.rglob("metrics.json")]:
        rewrite(path, _of_other_data)
    write_model(source.run, content_sha256="f" * 64)


def _of_other_data(content: dict[str, Any]) -> None:
    content["content_sha256"] = "f" * 64
    if content.get("trained"):
        content["trained"]["content_sha256"] = "f" * 64


def edit(path: Callable[[Machine], Path], **changes: Any) -> Callable[[Machine], object]:
    """Changes keys of a record."""

    def change(source: Machine) -> None:
        rewrite(path(source), lambda content: content.update(changes))

    return change


def flip(path: Callable[[Machine], Path]) -> Callable[[Machine], object]:
    """Changes one bit in the middle of a file."""

    def change(source: Machine) -> None:
        data = bytearray(path(source).read_bytes())
        data[len(data) // 2] ^= 1
        path(source).write_bytes(bytes(data))

    return change


def metrics(source: Machine) -> Path:
    return source.run.metrics


def edit_score(source: Machine) -> None:
    """Gives the run a better score, by hand: the checksum stays."""
    content = json.loads(metrics(source).read_text())
    metrics(source).write_text(json.dumps(content | {"miou": 0.99}))


DAMAGES: list[tuple[Callable[[Machine], object], str, str]] = [
    (flip(lambda source: source.run.training.file), "model.pt", "models"),
    (lambda source: source.run.training.file.write_bytes(b""), "model.pt cannot be read", "models"),
    (lambda source: source.run.training.file.write_bytes(b"5"), "model.pt cannot be read", "models"),
    (lambda source: write_model(source.run, seed=7), "does not belong there", "models"),
    (lambda source: write_model(source.run, digest="0" * 10), "does not belong there", "models"),
    (flip(lambda source: source.run.per_image), "per_image.npz", "runs"),
    (lambda source: source.run.per_image.unlink(), "per_image.npz is missing", "runs"),
    (lambda source: source.run.per_image.write_bytes(b""), "per_image.npz has 0 bytes", "runs"),
    (edit(metrics, seed=5), "does not belong there", "runs"),
    (edit(metrics, method="bce"), "does not belong there", "runs"),
    (edit(metrics, miou=5), "metrics.json cannot be read", "runs"),
    (edit_score, "metrics.json is not as it was written (its checksum differs): evaluate again", "runs"),
    (lambda source: metrics(source).write_text("{}"), "metrics.json cannot be read", "runs"),
    (lambda source: metrics(source).write_text("5"), "metrics.json cannot be read", "runs"),
    (lambda source: metrics(source).write_text(""), "metrics.json cannot be read", "runs"),
    (
        lambda source: source.run.cost.write_text("{}"),
        f"cost-{recipes.MEASURING.number}.json cannot be read",
        "costs",
    ),
    (
        edit(lambda source: source.run.cost, latency_ms=-5),
        f"cost-{recipes.MEASURING.number}.json cannot be read",
        "costs",
    ),
    (
        lambda source: WeightsFile.path(source.folder, "x.pt").write_text("[]"),
        "x.pt.json cannot be read",
        "weights",
    ),
    (lambda source: source.run.data.path.write_text("{"), "cannot be read", "datasets"),
    (edit(lambda source: source.run.data.path, digest="0"), "does not belong there", "datasets"),
]


@pytest.mark.parametrize(("damage", "sentence", "kind"), DAMAGES)
def test_what_is_not_whole_stays_where_it_is(
    damage: Callable[[Machine], object],
    sentence: str,
    kind: str,
    two: tuple[Machine, Machine],
    capsys: pytest.CaptureFixture,
) -> None:
    source, target = two
    damage(source)
    before = there(source.folder)
    status, text = merge(capsys, source, target)
    assert status == 2 and there(source.folder) == before
    (line,) = [line for line in text.splitlines() if line.startswith("not copied: ")]
    assert sentence in line and "1 results were not copied, for the reasons above" in text
    copied = there(target.folder)
    folder = {"models": source.run.training.folder, "runs": source.run.folder}.get(kind)
    if folder:
        assert not any(str(folder.relative_to(source.folder)) in name for name in copied)
    else:
        assert "1 models, 1 runs" in text, "all else is copied"


def both_trained(source: Machine, target: Machine) -> None:
    """The same seed on both machines, with models that differ by rounding."""
    shutil.copytree(source.run.training.folder, target.folder / relative(source, "training"))
    write_model(source.run, weight=0.25)


def both_scored(source: Machine, target: Machine) -> None:
    """The same model scored on both machines, with another result."""
    model = TrainedModel.read(source.run.training.file)
    shutil.copytree(source.run.training.folder, target.folder / relative(source, "training"))
    shutil.copytree(source.run.folder, target.folder / relative(source, "run"))
    write_scores(source, 0.8, model)


def other_model(source: Machine, target: Machine) -> None:
    """The target has trained the model, but not scored it."""
    shutil.copytree(source.run.training.folder, target.folder / relative(source, "training"))
    model = write_model(source.run, weight=0.25)
    write_scores(source, 0.5, model)


def relative(source: Machine, what: str) -> Path:
    folder = source.run.training.folder if what == "training" else source.run.folder
    return folder.relative_to(source.folder)


def other_weights(source: Machine, target: Machine) -> None:
    WeightsFile("x.pt", "b" * 64, {}).write(WeightsFile.path(source.folder, "x.pt"))


COLLISIONS: list[tuple[Callable[[Machine, Machine], object], list[str]]] = [
    (both_trained, ["both machines have trained the model, with different ends; "]),
    (both_scored, ["both machines have scored it, with different results; "]),
    (other_model, ["both machines have trained the model", "of another model than lies there"]),
    (other_weights, ["different files of weights of the name x.pt: rename one"]),
    (
        lambda source, target: of_other_data(source),
        [
            "is of other images or labels under the same name",
            "the other machine has other data under the name digits",
            "the other machine has other data under the name digits",
            "the other machine has other data under the name digits",
            "the other machine has other data under the name digits",
        ],
    ),
]


@pytest.mark.parametrize(("collide", "sentences"), COLLISIONS)
def test_what_collides_is_refused(
    collide: Callable[[Machine, Machine], object],
    sentences: list[str],
    two: tuple[Machine, Machine],
    capsys: pytest.CaptureFixture,
) -> None:
    source, target = two
    collide(source, target)
    before = there(target.folder)
    status, text = merge(capsys, source, target)
    lines = [line for line in text.splitlines() if line.startswith("not copied: ")]
    assert status == 2 and len(lines) == len(sentences), text
    for line, sentence in zip(lines, sentences):
        assert sentence in line
    after = there(target.folder)
    assert {name: after[name] for name in before} == before, "what was there stays"


def test_times_of_another_machine_stay(two: tuple[Machine, Machine], capsys: pytest.CaptureFixture) -> None:
    source, target = two
    merge(capsys, source, target)
    cost_of(source.run, state_sha256=TrainedModel.read(source.run.training.file).state_sha256,
            provenance=provenance(device="a faster CPU")).write(source.run.cost)  # fmt: skip
    before = there(target.folder)
    assert merge(capsys, source, target)[0] == 0
    assert there(target.folder) == before


def test_what_lacks_is_added(two: tuple[Machine, Machine], capsys: pytest.CaptureFixture) -> None:
    source, target = two
    merge(capsys, source, target)
    folder = target.folder / relative(source, "run")
    whole = there(target.folder)
    (folder / source.run.cost.name).unlink()
    (folder / "per_image.npz").unlink()
    status, text = merge(capsys, source, target)
    assert status == 0 and "copied: 1 runs" in text and there(target.folder) == whole


def test_equal_results_of_two_machines_are_one(
    two: tuple[Machine, Machine], capsys: pytest.CaptureFixture
) -> None:
    """Both have scored the same model, at another time and with another duration."""
    source, target = two
    merge(capsys, source, target)
    model = TrainedModel.read(source.run.training.file)
    write_scores(source, 0.5, model, wall_seconds=7.0, provenance=provenance(device="another CPU"))
    before = there(target.folder)
    assert merge(capsys, source, target)[0] == 0 and there(target.folder) == before


@pytest.mark.parametrize("older", [0, 1])
def test_scores_that_only_one_record_has_do_not_collide(
    older: int, two: tuple[Machine, Machine], capsys: pytest.CaptureFixture
) -> None:
    """One machine has scored the model before there were these scores."""
    source, target = two
    merge(capsys, source, target)
    path = two[older].folder / relative(source, "run") / "metrics.json"
    rewrite(path, lambda content: [content.pop(name) for name in LATER])
    before = there(target.folder)
    assert merge(capsys, source, target)[0] == 0 and there(target.folder) == before


@pytest.mark.parametrize("name", LATER)
def test_scores_that_both_records_have_collide_if_they_differ(
    name: str, two: tuple[Machine, Machine], capsys: pytest.CaptureFixture
) -> None:
    source, target = two
    merge(capsys, source, target)
    other = {"small": 0.0} if name == "recall_by_size" else 0.0
    rewrite(metrics(source), lambda content: content.update({name: other}))
    before = there(target.folder)
    status, text = merge(capsys, source, target)
    assert status == 2 and "both machines have scored it, with different results" in text
    assert there(target.folder) == before


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda a, b: (a / "empty").mkdir() or (a / "empty", b), "empty is no folder of results: name one"),
        (lambda a, b: (a / "nowhere", b), "nowhere is no folder of results: name one with"),
        (lambda a, b: (b, b), "are the same folder: name two"),
        (lambda a, b: (a / "link").symlink_to(b) or (a / "link", b), "are the same folder: name two"),
        (lambda a, b: (b / "leaderboard.md", b), "leaderboard.md is no folder of results"),
    ],
)
def test_folders_that_cannot_be_merged(
    make: Callable[[Path, Path], tuple[Path, Path]],
    sentence: str,
    two: tuple[Machine, Machine],
    tmp_path: Path,
) -> None:
    source, target = make(tmp_path, two[1].folder)
    status, errors = call("merge", str(source), str(target))
    assert status == 2 and sentence in errors and errors.count("\n") == 1


def test_a_result_in_the_target_that_cannot_be_read_is_left_alone(
    two: tuple[Machine, Machine], capsys: pytest.CaptureFixture
) -> None:
    source, target = two
    merge(capsys, source, target)
    path = target.folder / relative(source, "run") / "metrics.json"
    path.write_text("{}")
    status, text = merge(capsys, source, target)
    assert status == 2 and f"{path} cannot be read" in text and path.read_text() == "{}"


def test_records_of_merged_results_are_sound(
    two: tuple[Machine, Machine], capsys: pytest.CaptureFixture
) -> None:
    source, target = two
    merge(capsys, source, target)
    run = dataclasses.replace(source.run, results=target.folder)
    training = dataclasses.replace(source.run.training, results=target.folder)
    data = dataclasses.replace(training.data, results=target.folder)
    training = dataclasses.replace(training, data=data)
    run = dataclasses.replace(run, data=data, members=(training,))
    assert TrainedModel.read(training.file, training) and Metrics.read(run)
    write_model(run, content_sha256="e" * 64)
    with pytest.raises(Exception, match="other images or labels") as error:
        TrainedModel.read(training.file, training)
    assert not isinstance(error.value, Damaged), "it is renamed by nobody"
