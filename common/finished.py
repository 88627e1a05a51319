"""A finished run as its own files describe it: what predicts and exports without a configuration."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import methods
from common import runs
from common.config import MethodEntry
from common.datasets.base import Colour
from common.errors import UserError
from common.files import read_json
from common.inference import Predictor, View, read_model, views


@dataclass(frozen=True)
class Finished:
    """A trained model, and the method that is used with it.

    Attributes:
        dataset: Name of the dataset that it was trained on.
        model: Name of the model.
        method: Name of the method entry.
        seed: The seed.
        digest: Of everything that its output depends on.
        class_names: One name per class.
        colours: One RGB colour per class.
        content: What `model.pt` holds.
        trained_entry: The method that the model was trained with.
        entry: The method of the run; the same, or one that reuses the model.
        views: At which scales, and whether mirrored, the run was evaluated.
    """

    dataset: str
    model: str
    method: str
    seed: int
    digest: str
    class_names: tuple[str, ...]
    colours: tuple[Colour, ...]
    content: dict[str, Any]
    trained_entry: MethodEntry
    entry: MethodEntry
    views: tuple[View, ...] = (View(),)

    @classmethod
    def read(cls, path: Path) -> Finished:
        """Reads a run folder, the folder of a trained model, or its `model.pt`.

        A run folder finds its model where the train stage has put it, or in itself.

        Raises:
            UserError: It is none of these, or something in it is missing or damaged.
        """
        folder = path if path.is_dir() else path.parent
        metrics = None
        if path.is_dir() and (path / "metrics.json").exists():
            metrics = read_json(path / "metrics.json")
            model = read_model(_model_file(path, metrics))
        elif (folder / "model.pt").exists() and path in (folder, folder / "model.pt"):
            model = read_model(folder / "model.pt")
        else:
            raise UserError(
                f"{path} has neither metrics.json nor model.pt: name the folder of an evaluated run "
                "(results/runs/<dataset>/<model>/<method>/seed…) or of a trained model (results/models/…)"
            )
        if "class_names" not in model:
            raise UserError(
                f"{folder}: its model was trained by a version of this project that did not keep the "
                "names of the classes: train it again"
            )
        trained_entry = _entry(model, model["method"])
        entry = trained_entry
        if metrics and metrics["method"] != model["method"]:
            entry = _entry(metrics, metrics["method"])
        digest = (metrics or model)["digest"]
        identity = (model["dataset"], model["model"], entry.name, model["seed"], digest)
        colours = tuple(tuple(colour) for colour in model["colours"])
        seen = views(metrics["evaluation"]) if metrics else (View(),)
        return cls(*identity, tuple(model["class_names"]), colours, model, trained_entry, entry, seen)

    def predictor(self, device: torch.device, seen: Sequence[View] | None = None) -> Predictor:
        """The network with its methods.

        Args:
            device: Where to put it.
            seen: At which scales, and whether mirrored, it sees images, if not as it was evaluated.

        Raises:
            UserError: The code of the model or of a method does not fit the files any more.
        """
        options = self.content["model_options"]
        try:
            parts = (self.model, options, self.content, self.trained_entry, self.entry)
            return Predictor.build(*parts, device, self.views if seen is None else seen)
        except (KeyError, RuntimeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"the trained model of {self.model} with {self.trained_entry.name} does not fit the code "
                f"({reason}): use the code of commit {self.content['provenance']['commit']}"
            ) from error

    def describe(self) -> dict[str, Any]:
        """The part of a JSON file that says which run it is of."""
        names = ("dataset", "model", "method", "seed", "digest")
        return {name: getattr(self, name) for name in names} | {
            "trained_as": self.trained_entry.name,
            "trained": self.content["provenance"],
            "class_names": list(self.class_names),
            "colours": [list(colour) for colour in self.colours],
        }


def _model_file(folder: Path, metrics: dict[str, Any]) -> Path:
    """Where the model of a run lies: beside the runs, or in the run's own folder."""
    if metrics["trained"] is None:
        raise UserError(f"{folder} is of predictions that were read from a folder: it has no model")
    beside = folder / "model.pt"
    if beside.exists():
        return beside
    name = f"seed{metrics['seed']}-{metrics['trained']['digest']}"
    results = (folder.resolve() / "../../../../..").resolve()
    parts = (metrics["dataset"], metrics["model"], metrics["trained_as"], name)
    file = results.joinpath("models", *parts, "model.pt")
    if not file.exists():
        raise UserError(f"{file} is missing: {folder} needs it; copy it there or into the folder of the run")
    return file


def _entry(content: dict[str, Any], name: str) -> MethodEntry:
    """The method entry that a result file tells of; a warning if its code has changed since."""
    module = content.get("method_module", name)
    if module not in methods.names():
        raise UserError(f"methods/{module}.py is missing: the run of {name} needs it")
    if content.get("method_code") not in (None, runs.code_digest(module)):
        print(
            f"structseg: methods/{module}.py has changed since this run: its output may differ",
            file=sys.stderr,
        )
    return MethodEntry(name, module, content["method_options"], None)
