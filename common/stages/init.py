"""Verb `init`: writes a configuration for images and label maps of one's own, from a look at their folder."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from common.config import reading
from common.datasets.class_survey import classes
from common.datasets.survey import Survey, survey, usual
from common.errors import UserError
from common.files import replacing
from common.images.decoding import decode
from common.stages import entry

CROP = 512
"""The side of training crops, where the images are as large."""

STEP = 32
"""Sides of crops are multiples of this, as far as the images allow."""

BATCH, EPOCHS, FEWEST, MOST = 8, 60, 1000, 40_000
"""Images per batch, and how often each is seen, within limits of iterations."""

MODEL = "deeplabv3plus-resnet50"


def init(file: Path, root: Path) -> list[str]:
    """Writes the configuration, and lists of images beside it if the folder has no splits.

    Args:
        file: The configuration.
        root: The folder with images and label maps.

    Returns:
        What was guessed, in sentences.

    Raises:
        UserError: The file is there already, or the folder has nothing that can be used.
    """
    if file.exists():
        raise UserError(f"{file} is there already: name another file, or remove it")
    looked_at = survey(root.absolute())
    options = {"module": "folder", "root": str(root.absolute()), **_layout(file, looked_at)}
    shown = classes(root.absolute(), looked_at.label_maps)
    name = re.sub(r"\W+", "_", root.absolute().name.lower()).strip("_") or "mine"
    text = _text(file, name, options | shown.options, looked_at, [*looked_at.notes, *shown.notes])
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as opened:
        opened.write(text)
    reading.load([file])
    return [*looked_at.notes, *shown.notes]


def _layout(file: Path, looked_at: Survey) -> dict[str, Any]:
    """The options of `folder` that say where images, label maps and splits are."""
    pattern, lists = looked_at.pattern, looked_at.lists
    if lists == "":  # nobody else has divided the images
        folder = file.absolute().parent / f"{file.stem}_lists"
        folder.mkdir(parents=True, exist_ok=True)
        for split, names in looked_at.splits.items():
            with replacing(folder / f"{split}.txt") as opened:
                opened.write("\n".join(names) + "\n")
        lists = str(folder / "{split}.txt")
    options: dict[str, Any] = {
        "images": pattern.images,
        "labels": pattern.labels,
        "lists": lists,
        "label_suffix": pattern.ending,
    }
    if [*looked_at.splits] != ["train", "val", "test"]:
        options["splits"] = [*looked_at.splits]
    return options


def _text(file: Path, name: str, options: Mapping[str, Any], looked_at: Survey, notes: Sequence[str]) -> str:
    """The configuration, with comments."""
    trained, scored = _splits(looked_at.splits)
    count = len(looked_at.splits[trained])
    iterations = min(MOST, max(FEWEST, EPOCHS * count // BATCH))
    images = ", ".join(f"{split} {len(names)}" for split, names in looked_at.splits.items())
    settings = {
        "split": trained,
        "iterations": iterations,
        "batch_size": BATCH,
        "crop": _crop(looked_at.label_maps),
    }
    guessed = "\n".join(f"# - {note}" for note in notes)
    return f"""\
# Written by `structseg init`: {images} images. Guessed, so look at it:
{guessed}
#
# `structseg check config {file}` checks it,
# `structseg prepare --configfile {file} --dataset {name}` reads all files,
# `structseg run --configfile {file}` runs it.
# All settings are in workflow/schemas/config.schema.yaml.
datasets: [{name}]
models: [{MODEL}] # or a small one, for a CPU: deeplabv3-tf_efficientnet_lite0
methods: [ce, rmi, ddcrf, crf-5] # `structseg list methods` has more
seeds: [0, 1, 2]

dataset_options:
  {name}: # `structseg list options folder` says what each is
{_block(options, 4)}
model_options:
  {MODEL}:
    weights: imagenet # downloaded; none starts from random numbers

training:
  per_dataset:
    {name}:
{_block(settings, 6)}
evaluation:
  per_dataset:
    {name}: {{split: {scored}}}

resources: # per job
  cpus: 4
  mem_mb: 16000
"""


def _splits(splits: Iterable[str]) -> tuple[str, str]:
    """The split to train on and the one to score: test, or val if there is none."""
    by_usual = {usual(split) or split: split for split in splits}
    trained = by_usual.get("train", next(iter(by_usual.values())))
    scored = by_usual.get("test", by_usual.get("val", trained))
    if trained == scored:
        raise UserError(f"--data: there is one split only, {trained}: models must be scored on another one")
    return trained, scored


def _crop(label_maps: Sequence[Path]) -> list[int]:
    """Height and width of training crops, by the sizes of some label maps."""
    chosen = label_maps[:: max(1, len(label_maps) // 20)]
    sides = np.min([decode(path, labels=True).pixels.shape[:2] for path in chosen], axis=0)
    return [min(CROP, max(STEP, int(side) // STEP * STEP)) for side in sides]


def _block(settings: Mapping[str, Any], indent: int) -> str:
    """Settings as lines of YAML, each value in one."""
    lines = (
        f"{key}: " + yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000).strip()
        for key, value in settings.items()
    )
    return "".join(f"{indent * ' '}{line.removesuffix('...').strip()}\n" for line in lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the file and the folder."""
    parser.add_argument("file", type=Path, help="the configuration to write, such as my_config.yaml")
    parser.add_argument("--data", type=Path, required=True, help="the folder with images and label maps")


def run(arguments: entry.Arguments) -> None:
    """Writes the configuration and says what was guessed."""
    for note in init(arguments.file, arguments.data):
        print(note)
    print(f"{arguments.file} is written: look at it; `structseg check config {arguments.file}` checks it")
