"""The list of runs, and the folders that their results live in.

The digest in a folder's name says what its content depends on, so a changed option is a new folder,
an old result is never mistaken for a new one, and results copied from elsewhere are simply found.
"""

from __future__ import annotations

import ast
import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePath
from typing import Any

from common import config as configuration
from common.config import Config
from common.errors import UserError
from common.files import digest
from common.predictions import Predictions, has_seeds

METHODS = Path(__file__).resolve().parent.parent / "methods"

CONTROLS = ("majority", "ceiling")
"""The labellings that bracket every table: the commonest class of the training images everywhere, and the
truth seen through the network's output grid."""


@dataclass(frozen=True)
class Manifest:
    """What the prepare stage writes about a dataset.

    Attributes:
        dataset: The dataset's name.
        digest: Of the options that its content depends on.
        path: `<results>/datasets/<dataset>-<digest>.json`.
    """

    dataset: str
    digest: str
    path: Path

    @property
    def panel(self) -> Path:
        """The images and labels that the picture panels show."""
        return self.path.with_suffix(".panel.npz")

    @property
    def error(self) -> Path:
        """Where a failure of the prepare stage is told."""
        return self.path.with_suffix(".error.json")


@dataclass(frozen=True)
class Training:
    """One model to train.

    Attributes:
        dataset: Name of the dataset.
        model: Name of the model.
        method: Name of the method entry that trains it.
        seed: The seed.
        digest: Of everything that the trained model depends on.
        folder: Where its files are.
        manifest: The dataset's manifest.
    """

    dataset: str
    model: str
    method: str
    seed: int
    digest: str
    folder: Path
    manifest: Manifest

    @property
    def file(self) -> Path:
        """The trained model."""
        return self.folder / "model.pt"

    @property
    def log(self) -> Path:
        """The log of its training."""
        return self.folder / "training.jsonl"


@dataclass(frozen=True)
class Run:
    """One (dataset, model, method, seed).

    Attributes:
        dataset: Name of the dataset.
        model: Name of the model.
        method: Name of the method entry.
        seed: The seed.
        digest: Of everything that the scores depend on.
        folder: Where its files are.
        training: The model that it evaluates; None if predictions are read instead.
        manifest: The dataset's manifest.
        predictions: The predictions that it reads, or None.
    """

    dataset: str
    model: str
    method: str
    seed: int
    digest: str
    folder: Path
    training: Training | None
    manifest: Manifest
    predictions: Predictions | None = None

    @property
    def metrics(self) -> Path:
        """The scores."""
        return self.folder / "metrics.json"

    @property
    def per_image(self) -> Path:
        """The confusion, boundary and calibration counts of every image."""
        return self.folder / "per_image.npz"

    @property
    def panel(self) -> Path:
        """The predicted labels of the images that the picture panels show."""
        return self.folder / "panel.npz"

    @property
    def labels(self) -> Path:
        """The predicted labels of the images that the report chooses from."""
        return self.folder / "labels.zip"

    @property
    def cost(self) -> Path:
        """Time and memory."""
        return self.folder / "cost.json"


@dataclass(frozen=True)
class Control:
    """A labelling that no model made, which brackets the runs of a dataset and model.

    Attributes:
        dataset: Name of the dataset.
        model: Name of the model, whose output grid it sees.
        name: What it is, one of `CONTROLS`.
        digest: Of everything that its scores depend on.
        folder: Where its files are.
        manifest: The dataset's manifest.
    """

    dataset: str
    model: str
    name: str
    digest: str
    folder: Path
    manifest: Manifest

    @property
    def metrics(self) -> Path:
        """The scores."""
        return self.folder / "metrics.json"

    @property
    def per_image(self) -> Path:
        """The confusion and boundary counts of every image."""
        return self.folder / "per_image.npz"

    @property
    def error(self) -> Path:
        """Where a failure of the stage is told, for all controls of the dataset and model."""
        return self.folder.parent / "error.json"


@dataclass(frozen=True)
class Tuning:
    """One search for the options of a method that refines the output of a trained model.

    Attributes:
        dataset: Name of the dataset.
        model: Name of the model.
        run: The run of the method, with its own options.
        digest: Of everything that the search depends on.
        folder: Where its files are.
    """

    dataset: str
    model: str
    run: Run
    digest: str
    folder: Path

    @property
    def table(self) -> Path:
        """The scores of all candidates."""
        return self.folder / "candidates.csv"

    @property
    def chosen(self) -> Path:
        """The best candidate."""
        return self.folder / "chosen.json"

    @property
    def report(self) -> Path:
        """What there is to read about it."""
        return self.folder / "report.md"

    @property
    def state(self) -> Path:
        """The folder with the confusion counts of every image."""
        return self.folder / "counts"


def described(job: Training | Run) -> str:
    """A run or a training, as messages name it."""
    return f"{job.model} with {job.method} on {job.dataset}, seed {job.seed}"


def manifest(config: Config, name: str) -> Manifest:
    """The manifest of a dataset."""
    locations = configuration.dataset(config, name).locations
    options = configuration.dataset_options(config, name)
    content = {
        "module": configuration.dataset_module(config, name),
        "options": {key: value for key, value in options.items() if key not in locations},
    }
    code = digest(content)
    path = Path(config["results"]) / "datasets" / f"{name}-{code}.json"
    return Manifest(name, code, path)


def training(config: Config, dataset: str, model: str, method: str, seed: int) -> Training:
    """The training of one method entry that trains its own model.

    Raises:
        UserError: It reads predictions.
    """
    return _trainings(config, dataset, model, method, [seed])[0]


def _trainings(config: Config, dataset: str, model: str, method: str, seeds: Sequence[int]) -> list[Training]:
    """The same for several seeds, which share all but the last step."""
    entry = configuration.method(config, method, dataset)
    if entry.predictions:
        raise UserError(f"{method} is read from a folder: there is nothing to train or to measure")
    data = manifest(config, dataset)
    options = dict(config["model_options"][model])
    options["weights"] = PurePath(options["weights"]).name  # where it lies does not matter
    content = {
        "dataset": data.digest,
        "model": [model, options],
        "training": configuration.settings(config, "training", dataset, model),
        "method": _identity(entry),
    }
    folder = Path(config["results"]) / "models" / dataset / model / method
    codes = {seed: digest(content | {"seed": seed}) for seed in seeds}
    return [
        Training(dataset, model, method, seed, code, folder / f"seed{seed}-{code}", data)
        for seed, code in codes.items()
    ]


def run(config: Config, dataset: str, model: str, method: str, seed: int) -> Run:
    """One run of the configuration.

    Raises:
        UserError: It reads predictions, and there are none.
    """
    return _runs(config, dataset, model, method, [seed])[0]


def _runs(config: Config, dataset: str, model: str, method: str, seeds: Sequence[int]) -> list[Run]:
    entry = configuration.method(config, method, dataset)
    if entry.predictions:
        return [_read_run(config, dataset, model, entry, seed) for seed in seeds]
    trained = configuration.trained_method(config, method, dataset).name
    content = {
        "method": _identity(entry),
        "evaluation": configuration.settings(config, "evaluation", dataset, model),
    }
    folder = Path(config["results"]) / "runs" / dataset / model / method
    found = []
    for source in _trainings(config, dataset, model, trained, seeds):
        code = digest(content | {"training": source.digest})
        place = folder / f"seed{source.seed}-{code}"
        found.append(Run(dataset, model, method, source.seed, code, place, source, source.manifest))
    return found


def _read_run(config: Config, dataset: str, model: str, entry: configuration.MethodEntry, seed: int) -> Run:
    """A run that reads predictions: it depends on what they are, not on where they lie."""
    data = manifest(config, dataset)
    settings = configuration.settings(config, "evaluation", dataset, model)
    read = Predictions.of(entry.predictions, dataset, model, seed)
    content = {
        "dataset": data.digest,
        "predictions": read.content_sha256(configuration.dataset(config, dataset).parts(settings["split"])),
        "evaluation": settings,
    }
    code = digest(content)
    folder = Path(config["results"]) / "runs" / dataset / model / entry.name / f"seed{seed}-{code}"
    return Run(dataset, model, entry.name, seed, code, folder, None, data, read)


def runs(config: Config) -> list[Run]:
    """Every combination of datasets, models, methods and seeds.

    Predictions that are read and not told apart by seed are one run, at the first seed.
    """
    names = (config["datasets"], config["models"], config["methods"])
    return [
        run
        for dataset, model, method in itertools.product(*names)
        for run in _runs(config, dataset, model, method, _seeds(config, dataset, method))
    ]


def _seeds(config: Config, dataset: str, method: str) -> list[int]:
    folder = configuration.method(config, method, dataset).predictions
    return config["seeds"][:1] if folder and not has_seeds(folder) else config["seeds"]


def controls(config: Config, dataset: str, model: str) -> list[Control]:
    """The controls of a dataset and model."""
    data = manifest(config, dataset)
    options = config["model_options"][model]
    content = {
        "dataset": data.digest,
        "model": [model, options["output_stride"], options["align_corners"]],
        "training": configuration.settings(config, "training", dataset, model)["split"],
        "evaluation": configuration.settings(config, "evaluation", dataset, model)["split"],
    }
    code = digest(content)
    folder = Path(config["results"]) / "controls" / dataset / model / code
    return [Control(dataset, model, name, code, folder / name, data) for name in CONTROLS]


def tuning(config: Config, dataset: str, model: str) -> Tuning:
    """The search that `tuning` describes, for one dataset and model."""
    name = config["tuning"]["method"]
    found = run(config, dataset, model, name, config["seeds"][0])
    code = digest({"run": found.digest, "tuning": config["tuning"]})
    folder = Path(config["results"]) / "tuning" / dataset / model / f"{name}-{code}"
    return Tuning(dataset, model, found, code, folder)


def tunings(config: Config) -> list[Tuning]:
    """The searches for all datasets and models; none unless `tuning.method` is set."""
    if config["tuning"]["method"] is None:
        return []
    return [tuning(config, *pair) for pair in itertools.product(config["datasets"], config["models"])]


def tables(config: Config, found: list[Run]) -> list[Path]:
    """The files that the tabulate stage writes once all runs, which are `found`, are there."""
    names = ("leaderboard.md", "leaderboard.csv", "leaderboard.tex", "per_class.csv", "comparisons.csv")
    names += ("trimap.csv", "calibration.csv", "cost.csv")
    panels = [panel(config, name, model) for name in config["datasets"] for model in config["models"]]
    return [
        *(Path(config["results"]) / name for name in names),
        *panels,
        stamp(config, found),
    ]


def report(config: Config) -> Path:
    """The page that has everything."""
    return Path(config["results"]) / "report.html"


def panel(config: Config, dataset: str, model: str) -> Path:
    """The picture panel of a dataset and model."""
    return Path(config["results"]) / "figures" / f"{dataset}-{model}.png"


def stamp(config: Config, found: list[Run] | None = None) -> Path:
    """The file that says which runs the tables show; it exists if they show them all.

    Only one such file is ever left, and none when results change, so tables of other runs are never
    taken for these.

    Args:
        config: The configuration.
        found: Its runs, where they are known.
    """
    content = [[str(run.folder) for run in found or runs(config)], config["tables"]]
    return Path(config["results"]) / f"tabulated-{digest(content)}.json"


def page_stamp(config: Config, found: list[Run] | None = None) -> Path:
    """The same for the report, which `snakemake tables` does not write."""
    path = stamp(config, found)
    return path.with_name(path.name.replace("tabulated", "reported"))


def forget_tables(config: Config) -> None:
    """Says that tables and report do not show all results any more; stages that write results call it."""
    for kind in ("tabulated", "reported"):
        for path in Path(config["results"]).glob(f"{kind}-*.json"):
            path.unlink(missing_ok=True)


def check_selection(config: Config, **names: Any) -> None:
    """Refuses a dataset, model, method or seed that the configuration does not know.

    Raises:
        UserError: A name is unknown; the sentence names the choices.
    """
    known = {
        "dataset": config["datasets"],
        "model": config["models"],
        "method": [*config["methods"], *_trained_only(config)],
        "seed": config["seeds"],
    }
    for kind, name in names.items():
        if name not in known[kind]:
            choices = ", ".join(map(str, known[kind]))
            raise UserError(f"--{kind}: {name!r} is not in the configuration; choose from {choices}")


def _trained_only(config: Config) -> Iterator[str]:
    """Entries that are trained because others reuse their models, but are not runs themselves."""
    tuned = config["tuning"]["method"]
    trained = {
        configuration.trained_method(config, name, dataset).name
        for name in [*config["methods"], *([tuned] if tuned else [])]
        for dataset in config["datasets"]
    }
    yield from sorted(trained - {*config["methods"]})


def _identity(entry: configuration.MethodEntry) -> list[Any]:
    return [entry.module, entry.options, code_digest(entry.module)]


@cache
def code_digest(module: str) -> str:
    """SHA-256 of a method's code without comments, docstrings and layout.

    The modules of `methods/` that it imports belong to it; `methods/base.py` is shared code.
    """
    texts = []
    pending, seen = [module], {"base", "__init__"}
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        tree = ast.parse((METHODS / f"{name}.py").read_text(encoding="utf-8"))
        texts.append(f"{name}: {_canonical(_without_docstrings(tree))}")
        pending += _imported_methods(tree)
    return hashlib.sha256("\n".join(sorted(texts)).encode()).hexdigest()


def _imported_methods(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            head, _, name = node.module.partition(".")
            found = [name] if name else [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):  # from .rmi import …, from . import rmi
            head, found = "methods", [node.module or alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            paths = [alias.name.partition(".") for alias in node.names]
            head, found = "methods", [name for package, _, name in paths if package == "methods"]
        else:
            continue
        if head == "methods":
            yield from (name for name in found if (METHODS / f"{name}.py").is_file())


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [
                statement
                for statement in node.body
                if not (
                    isinstance(statement, ast.Expr)
                    and isinstance(statement.value, ast.Constant)
                    and isinstance(statement.value.value, str)
                )
            ]
    return tree


def _canonical(node: Any) -> str:
    """The syntax tree as text that is the same for every version of Python.

    `ast.dump` is not: versions add fields, empty for old code, and change what they leave out.
    """
    if isinstance(node, ast.AST):
        fields = ((name, value) for name, value in ast.iter_fields(node) if value not in (None, []))
        inner = ",".join(f"{name}={_canonical(value)}" for name, value in fields)
        return f"{type(node).__name__}({inner})"
    if isinstance(node, list):
        return f"[{','.join(map(_canonical, node))}]"
    return repr(node)
