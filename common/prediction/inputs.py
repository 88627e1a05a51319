"""What predictions and exports are made from.

It is looked at before PyTorch is imported, so that a wrong path is refused at once.
"""

from __future__ import annotations

from pathlib import Path

from common.errors import UserError

BATCH_SIZE = 4
"""How many pictures of one size are predicted at a time."""

FORMATS = {".pt2": "program", ".pt": "torchscript", ".ts": "torchscript", ".onnx": "onnx"}
"""The format that the ending of an exported file asks for."""

CLAIM = "prediction.json"
"""The file that says whose predictions a folder has."""

SUBMISSION = Path("results/VOC2012/Segmentation/comp6_test_cls")
"""Where the PASCAL VOC evaluation server expects the label maps (competition 6: any training data)."""

WRITTEN = (*map(Path, ("labels", "colour", "overlay", "probabilities", "legend.png")), SUBMISSION)
"""What there may be in a folder of predictions, beside what its user keeps there."""


def described_by(path: Path) -> Path:
    """The file by which a run or a trained model is read.

    Args:
        path: A run's folder, a trained model's folder, or its `model.pt`.

    Returns:
        `metrics.json` of an evaluated run, or `model.pt` of a trained model.

    Raises:
        UserError: There is neither.
    """
    if (path / "metrics.json").exists():
        return path / "metrics.json"
    file = path / "model.pt" if path.is_dir() else path
    if file.name == "model.pt" and file.exists():
        return file
    raise UserError(
        f"{path} has neither metrics.json nor model.pt: name the folder of an evaluated run "
        "(results/runs/<dataset>/<model>/<method>/seed…) or of a trained model (results/models/…)"
    )


def is_output(file: Path) -> bool:
    """Whether a file was written by a prediction: it lies in a folder that has a `prediction.json`."""
    file = file.resolve()
    return any(
        (folder / CLAIM).is_file() and any(file.is_relative_to(folder / written) for written in WRITTEN)
        for folder in file.parents
    )
