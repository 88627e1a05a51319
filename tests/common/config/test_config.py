"""Wrong configurations, each refused with its one sentence before anything runs."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import methods
from common.config import entries, reading, values
from common.errors import UserError
from common.files import write_json
from common.runs import plan
from tests.conftest import ROOT, TINY

MODEL = "deeplabv3plus-test_resnet"
BASE = ROOT / "config.yaml"

WRONG = [
    ("datasets: [digitz]", r"datasets: unknown dataset 'digitz' \(did you mean digits\?\); choose from ade20k, camvid, cityscapes, digits"),
    ("datasets: digits", "datasets: 'digits' must be a list of at least 1, each a text"),
    ("datasets: []", r"datasets: \[\] must be a list of at least 1, each a text"),
    ("datasets: null", "datasets: null must be a list of at least 1"),
    ("method_options: {ce: {module: rmi}}", "method_options.ce: there is a methods/ce.py, and this entry is an"),
    ("method_options: {ce: {predictions: x}}", "method_options.ce: there is a methods/ce.py, and this entry"),
    ("models: [resnet50]", "models: 'resnet50' must be <architecture>-<backbone> .* deeplabv3, deeplabv3plus"),
    ("models: [unet-resnet50]", "models: 'unet-resnet50' must be .* deeplabv3, deeplabv3plus"),
    ("models: [deeplabv3-resnet5]", "the backbone 'resnet5' is known neither to .* nor to timm"),
    ("methods: [ce, rmii]", r"methods: unknown method 'rmii' \(did you mean rmi\?\); choose from active_boundary, affinity, bce"),
    ("methods: [ce, ce]", "methods: 'ce' stands twice in the list: leave one out"),
    ("seeds: [zero]", "seeds.0: 'zero' must be an integer from 0 to 4294967295"),
    ("seeds: [-1]", "seeds.0: -1 must be an integer from 0 to"),
    ("seed: [1]", r"the configuration: unknown key 'seed' \(did you mean seeds\?\)"),
    ("method_options: {x: {module: crf}}\nmethods: [x]", "method_options.x: unknown module .* 'crf' .*; choose from active_boundary"),
    ("method_options: {rmi: {radios: 3}}\nmethods: [rmi]", r"method_options.rmi: unknown option 'radios' \(did you mean radius\?\); choose from radius, pool"),
    ("method_options: {ce: {radius: 3}}", "method_options.ce: unknown option 'radius'; there are none"),
    ("method_options: {rmi: {radius: three}}\nmethods: [rmi]", "method_options.rmi.radius: 'three' is not of type int"),
    ("method_options: {rmi: {radius: 0}}\nmethods: [rmi]", "method_options.rmi: radius must be an integer from 1 to 10, not 0"),
    ("method_options: {rmi: {pool: median}}\nmethods: [rmi]", "method_options.rmi.pool: 'median' is not of type Literal"),
    ("method_options: {ddcrf: {iterations: 0}}\nmethods: [ddcrf]", "method_options.ddcrf: iterations must be at least 1"),
    ("method_options: {ddcrf: {gamma: .nan}}\nmethods: [ddcrf]", "method_options.ddcrf.gamma: nan is not a finite number"),
    ("method_options: {crf-1: {bilateral: [1, 2]}}\nmethods: [crf-1]", "method_options.crf-1: bilateral must be 3 positive"),
    ("method_options: {crf-1: {trained_as: cee}}\nmethods: [crf-1]", r"method_options.crf-1.trained_as: unknown method 'cee' \(did you mean ce\?\)"),
    ("method_options: {crf-2: {module: densecrf, trained_as: crf-1}}\nmethods: [crf-2]", "crf-1 trains no model itself: name ce"),
    ("method_options: {rmi: {per_dataset: {digit: {radius: 2}}}}", r"method_options.rmi.per_dataset: unknown dataset 'digit'"),
    ("method_options: {rmi: {per_dataset: {digits: {radius: 11}}}}\nmethods: [rmi]", "method_options.rmi: radius must be an integer"),
    ("dataset_options: {digits: {sise: 48}}", r"dataset_options.digits: unknown option 'sise' \(did you mean size\?\)"),
    ("dataset_options: {digits: {size: 8}}", "dataset_options.digits: size must be at least 48 and at most 4096, not 8"),
    ("dataset_options: {digits: {size: large}}", "dataset_options.digits.size: 'large' is not of type int"),
    ("training: {itrations: 5}", r"training: unknown key 'itrations' \(did you mean iterations\?\)"),
    ("training: {iterations: 0}", "training.iterations: 0 must be an integer from 1 to 1000000000"),
    ("training: {iterations: 2.5}", "training.iterations: 2.5 must be an integer from 1"),
    ("training: {optimizer: adam}", "training.optimizer: 'adam' must be sgd or adamw"),
    ("training: {learning_rate: 0}", "training.learning_rate: 0 must be a number above 0, up to 1000000000"),
    ("training: {warmup: 4}", r"training.warmup \(for digits\): 4 must be less than the 4 iterations"),
    ("training: {scale: [0.5, 2]}", r"training.crop \(for digits\): images of random scale need one"),
    ("training: {learning_rate: .nan}", "training.learning_rate: nan is not a finite number"),
    ("method_options: {rmii: {radius: 5}}", r"method_options.rmii: unknown module of methods/ 'rmii'"),
    ("method_options: {crf-9: {module: densecrf, iterationz: 3}}", "method_options.crf-9: unknown option 'iterationz'"),
    ("dataset_options: {digts: {size: 50}}", "dataset_options.digts: unknown module of common/datasets/ 'digts'"),
    ("evaluation: {per_model: {nonsense: {split: val}}}", "models: 'nonsense' must be <architecture>-<backbone>"),
    ("training: {scale: [2, 1]}", r"training.scale \(for digits\): 2 is greater than 1"),
    ("tuning: {methods: {crf: {a: [1]}}}", r"tuning.methods: unknown method 'crf' .*; choose from"),
    ("tuning: {methods: {crf-1: {gausian: [[1], [2]]}}}", r"tuning.methods.crf-1: unknown option 'gausian' \(did you mean gaussian\?\)"),
    ("tuning: {methods: {crf-1: {iterations: [5, [1, 2]]}}}", "tuning.methods.crf-1.iterations: give either values, or a list of values"),
    ("tuning: {methods: {crf-1: {gaussian: [[1], [0]]}}}\nmethods: [crf-1]", "method_options.crf-1: gaussian must be 2 positive numbers"),
    ("tuning: {methods: {crf-1: {training.learning_rate: [1]}}}", "crf-1 uses the model of ce and trains none: tune that"),
    ("tuning: {methods: {ce: {training.iterations: [1]}}}", "tuning.methods.ce.training.iterations: they are the budget"),
    ("tuning: {methods: {ce: {training.learning_rate: [0]}}}", "tuning.methods.ce.training.learning_rate: 0 must be a number above 0"),
    ("tuning: {methods: {rmi: {radius: [x0.5]}}}", "tuning.methods.rmi.radius: 1.5 is not of type int"),
    ("tuning: {methods: {ce: {training.optimizer: [x2]}}}", "tuning.methods.ce.training.optimizer: 2 must be sgd or adamw"),
    ("tuning: {methods: {ce: {training.rate: [1]}}}", "tuning.methods.ce.training: unknown key 'rate'"),
    ("tuning: {methods: {ce: []}}", "tuning.methods.ce: .* must be null or a mapping of options to lists of values"),
    ("tuning: {rungs: [0.5, 0.25, 1]}", r"tuning.rungs: \[0.5, 0.25, 1\] must be shares of the iterations that grow"),
    ("tuning: {rungs: [0.5]}", r"tuning.rungs: \[0.5\] must be shares of the iterations"),
    ("tuning: {methods: {e: {a: [1]}}}\nmethod_options: {e: {ensemble: {of: ce, members: 2}}}", "e is an ensemble: tune ce"),
    ("training: {split: training}", r"training.split \(for digits\): unknown split 'training' \(did you mean train\?\)"),
    ("training: {split: train+test}", r"evaluation.split \(for digits\): test is also trained on"),
    ("training: {per_dataset: {digit: {flip: true}}}", r"training.per_dataset: unknown dataset 'digit'"),
    ("training: {per_dataset: {digits: {crops: 3}}}", r"training.per_dataset.digits: unknown key 'crops' \(did you mean crop\?\)"),
    ("training: {per_dataset: {digits: {crop: 3}}}", r"training.per_dataset.digits.crop: 3 must be null or \[height, width\] of integers from 8 to 16384"),
    ("training: {per_model: {resnet: {iterations: 3}}}", "models: 'resnet' must be <architecture>-<backbone>"),
    (f"model_options: {{{MODEL}: {{output_stride: 4}}}}", rf"model_options.{MODEL}.output_stride: 4 must be 8, 16, 32 or null"),
    (f"model_options: {{{MODEL}: {{stride: 8}}}}", rf"model_options.{MODEL}: unknown key 'stride'"),
    ("execution: {device: gpu}", "execution.device: 'gpu' must be auto, cpu, cuda or cuda:<index>"),
    ("training: {crop: [32]}", r"training.crop: \[32\] must be null or \[height, width\] of integers"),
    ("training: {crop: [4, 4]}", r"training.crop: \[4, 4\] must be null or \[height, width\]"),
    ("training: {gradient_clip: none}", "training.gradient_clip: 'none' must be null or a number above 0"),
    ("training: {scale: 1}", r"training.scale: 1 must be \[lowest, highest\] of numbers"),
    ("training: {flip: yes}", "training.flip: 'yes' must be true or false"),
    (f"model_options: {{{MODEL}: {{atrous_rates: [1, 2]}}}}", r"atrous_rates: \[1, 2\] must be null or a list of 3, each an integer from 1 to 1024"),
    (f"model_options: {{{MODEL}: {{mean: [103.5, 116.3, 123.7]}}}}", r"mean: .* must be null, dataset or \[red, green, blue\] of numbers from 0 to 1"),
    (f"model_options: {{{MODEL}: {{weights: ''}}}}", "weights: '' must be a text that is not empty"),
    ("download: {files: {x: {sha256: abc}}}", "sha256: 'abc' must be null or the 64 hexadecimal digits"),
    ('execution: {device: "cpu\\n"}', r"execution.device: 'cpu\\n' must be auto, cpu"),
    ("results: 5", "results: 5 must be a text that is not empty: put it in quotes"),
    ("datasets: [5]", "datasets.0: 5 must be a text: put it in quotes"),
    ("complete: false", "complete: false must be true"),
    ("training: {batch_size: 1000000000000}", "training.batch_size: 1000000000000 must be an integer from 2 to 65536"),
    ("training: {batch_size: 60000, crop: [4000, 4000]}", "60000 crops of 4000×4000 are too large a batch"),
    ("training: {iterations: 1000000000000}", "training.iterations: .* must be an integer from 1"),
    ("training: {crop: [32, 32], scale: [1.0e-300, 1]}", "training.scale.0: 1e-300 must be a number from 0.01 to 32"),
    ("evaluation: {scales: [1000000]}", "evaluation.scales.0: 1000000 must be a number from 0.01 to 32"),
    (f"model_options: {{{MODEL}: {{decoder_channels: 1000000000}}}}", "decoder_channels: 1000000000 must be an integer from 1 to 8192 or null"),
    ("dataset_options: {digits: {size: 1000000}}", "size must be at least 48 and at most 4096"),
    ("dataset_options: {digits: {train_images: 1000000000}}", "train_images must be at least 1 and at most 100000"),
    ("method_options: {ddcrf: {iterations: 1000000000}}\nmethods: [ddcrf, ce]", "iterations must be at most 1000"),
    ("method_options: {ddcrf: {gaps: 1000000000}}\nmethods: [ddcrf, ce]", "gaps must be at least 1 and at most 100"),
    ("method_options: {crf-1: {module: densecrf, iterations: 1000000000}}\nmethods: [crf-1]", "iterations must be at least 1 and at most 1000"),
    (f"seeds: {[*range(20_000)]}", "seeds: 20000 are too many: give at most 10000"),
    ("seeds: [99999999999999999999]", "seeds.0: 99999999999999999999 must be an integer from 0 to 4294967295"),
    ("tuning: {methods: {ce: {" + ", ".join(f"x{i}: [1, 2, 3]" for i in range(12)) + "}}}", "tuning.methods.ce: it has 531441 combinations"),
    ("method_options: {p: {predictions: '{seed:>1000000000}'}}", "method_options.p.predictions: .* may have only"),
    ("tables: {baseline: cee}", r"tables.baseline: unknown method 'cee' \(did you mean ce\?\)"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "sentence"), WRONG, ids=[change for change, _ in WRONG])
def test_wrong_configurations_are_one_sentence(change: str, sentence: str, tmp_path: Path) -> None:
    base, over = tmp_path / "base.yaml", tmp_path / "over.yaml"
    base.write_text(yaml.safe_dump(TINY))
    over.write_text(change)
    with pytest.raises(UserError, match=sentence) as caught:
        values.check_values(reading.load([over], base=base))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("datasets: [", "is no valid YAML"),
        ("- a", "must be a mapping"),
        (None, "cannot be read"),
        ("", "the configuration: datasets is missing"),
        (b"\xff\xfea", "is not in UTF-8; save it in that encoding"),
    ],
)
def test_unreadable_files_are_one_sentence(
    content: str | bytes | None, sentence: str, tmp_path: Path
) -> None:
    path = tmp_path / "config.yaml"
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UserError, match=sentence):
        reading.load([], base=path)


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    """Snakemake has read it before: nothing would be left in it, and nothing would be said."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(UserError, match="is no file that can be read twice"):
        reading.load([pipe], base=None)


def test_the_configuration_of_jobs_keeps_all_characters(tmp_path: Path) -> None:
    file, names = tmp_path / "config.json", ["😀", "日本", "1e3", "yes"]
    write_json(file, {"datasets": names})
    assert reading.parse(file.read_text(), "file")["datasets"] == names


def test_later_files_lie_over_earlier_ones(tmp_path: Path) -> None:
    over = tmp_path / "over.yaml"
    over.write_text("methods: [rmi]\ntraining: {per_dataset: {digits: {batch_size: 3}}}\n")
    config = reading.load([over], base=BASE)
    assert config["methods"] == ["rmi"]
    settings = entries.settings(config, "training", "digits", MODEL)
    assert settings["batch_size"] == 3
    assert settings["optimizer"] == "adamw", "mappings are merged"
    assert settings["momentum"] == 0.9, "defaults are filled in"


def test_exponents_are_numbers(tmp_path: Path) -> None:
    over = tmp_path / "over.yaml"
    over.write_text("training: {learning_rate: 1e-3, weight_decay: 5E-4}")
    training = reading.load([over], base=BASE)["training"]
    assert (training["learning_rate"], training["weight_decay"]) == (0.001, 0.0005)
    over.write_text("training: {iterations: 1e4, batch_size: 16.0}")
    training = reading.load([over], base=BASE)["training"]
    assert (type(training["iterations"]), type(training["batch_size"])) == (int, int)


def test_what_is_in_quotes_is_a_text(tmp_path: Path) -> None:
    over = tmp_path / "over.yaml"
    over.write_text("results: '1e3'\nmethod_options: {'2023_01': {module: ce}}\nmethods: ['2023_01', ce]\n")
    config = reading.load([over], base=BASE)
    assert (config["results"], config["methods"]) == ("1e3", ["2023_01", "ce"])
    classes = '"class_names": ["yes", "1e3", "2023_01", "null"]'
    content = reading.from_command_line(
        [f'dataset_options={{"streets": {{"module": "folder", "root": "/x", {classes}}}}}', "results='0x10'"]
    )
    assert content["dataset_options"]["streets"]["class_names"] == ["yes", "1e3", "2023_01", "null"]
    assert content["results"] == "0x10"


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ('seeds=["0",1]', ["0", 1]),
        ("training={'flip': True, \"learning_rate\": 1e-3}", {"flip": True, "learning_rate": 0.001}),
        ("results=a:b", "a:b"),
        ("results=@a", "@a"),
        ("results=a=b", "a=b"),
        ("results=", None),
    ],
)
def test_the_command_line_is_read_as_a_file_is(argument: str, value: object) -> None:
    assert [*reading.from_command_line([argument]).values()] == [value]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["seeds=[0]", "seeds=[1]"], "--config: seeds is given twice"),
        (["training={iterations: 5, iterations: 6}"], "--config training: the key iterations is given twice"),
        (['methods=["ce",'], "--config methods is no valid YAML"),
    ],
)
def test_wrong_settings_of_the_command_line_are_one_sentence(arguments: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        reading.from_command_line(arguments)


def test_options_of_a_method_may_depend_on_the_dataset() -> None:
    options = {"rmi": {"radius": 2, "per_dataset": {"digits": {"pool_size": 2}}}}
    config = reading.complete(TINY | {"method_options": options})
    on_digits, on_camvid = (entries.method(config, "rmi", name) for name in ("digits", "camvid"))
    assert (on_digits.options["radius"], on_digits.options["pool_size"]) == (2, 2)
    assert (on_camvid.options["radius"], on_camvid.options["pool_size"]) == (2, 4)


def test_settings_of_a_model_win_over_those_of_a_dataset() -> None:
    config = copy.deepcopy(TINY)
    config["training"] |= {
        "per_dataset": {"digits": {"batch_size": 3, "iterations": 5}},
        "per_model": {MODEL: {"batch_size": 4}},
    }
    settings = entries.settings(reading.complete(config), "training", "digits", MODEL)
    assert (settings["batch_size"], settings["iterations"]) == (4, 5)


def test_a_completed_configuration_completes_to_itself() -> None:
    config = reading.complete(TINY)
    assert reading.complete(config) == config
    assert "evaluation" not in TINY, "the argument is left as it was"


def test_a_complete_configuration_stands_alone(tmp_path: Path) -> None:
    config = reading.complete(TINY)
    complete, over, broken = (tmp_path / name for name in ("complete.json", "over.yaml", "broken.yaml"))
    write_json(complete, config)
    over.write_text("seeds: [3]\n")
    broken.write_text("datasets: [")
    assert reading.load([complete], base=broken) == config
    assert reading.load([complete], over={"seeds": [3]}, base=broken)["seeds"] == [3]
    for files in ([complete, over], [over, complete]):
        with pytest.raises(UserError, match="a complete configuration stands alone"):
            reading.load(files, base=broken)


def test_files_may_have_nothing_below_them(tmp_path: Path) -> None:
    file = tmp_path / "all.yaml"
    file.write_text(yaml.safe_dump(TINY))
    assert reading.load([file], base=None) == reading.complete(TINY)


def test_what_needs_imports_is_checked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict] = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(values, "check_values", calls.append)
    config = reading.complete(TINY)
    for seeds, count in (([0], 1), ([0], 1), ([5], 1)):  # it does not look at seeds
        values.check_values_once(config | {"seeds": seeds})
        assert len(calls) == count
    values.check_values_once(reading.complete(TINY | {"methods": ["ce", "rmi"]}))
    assert len(calls) == 2


@pytest.mark.parametrize("check", [values.check_values_once, values.check_values_apart])
def test_what_is_wrong_is_said_each_time(
    check: Callable[[dict], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = reading.complete(TINY | {"methods": ["rmi"], "method_options": {"rmi": {"radius": 0}}})
    for _ in range(2):
        with pytest.raises(UserError, match="radius must be an integer"):
            check(config)


@pytest.mark.parametrize("preset", sorted((ROOT / "workflow/presets").glob("*.yaml")), ids=lambda p: p.stem)
def test_presets_are_valid(preset: Path) -> None:
    config = reading.load([preset], base=BASE)
    values.check_values(config)
    assert plan.runs(config)


def test_the_default_configuration_is_the_benchmark_of_the_readme() -> None:
    config = reading.load([], base=BASE)
    values.check_values(config)
    assert len(plan.runs(config)) == 18


def test_a_method_that_would_refine_something_unknown_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods.load("densecrf"), "refines", "logits")
    config = reading.complete(TINY | {"methods": ["crf-1"]})
    sentence = r"methods/densecrf\.py: refines must be trained or softmax, not 'logits'"
    with pytest.raises(UserError, match=sentence):
        values.check_values(config)
