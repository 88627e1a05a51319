"""Command `export`: a finished run as one file that runs without this project.

What is exported takes RGB images, uint8 or float in 0–255, `[N, 3, H, W]` of any size, and gives the class
probabilities `[N, K, H, W]`: normalisation, padding, the network, the method's structure and the upsampling
to the image's size are inside. TorchScript loads with PyTorch alone, ONNX with any ONNX runtime.

Both are made from a trace, which follows the tensors through one image and does not see decisions of Python
code. So the file is compared with the run on images of other sizes before it is kept.
"""

from __future__ import annotations

import argparse
import io
import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from common import devices, stages
from common.errors import UserError
from common.files import replacing
from common.finished import Finished
from common.inference import Predictor, View
from methods import Method

SUFFIXES = {".pt": "torchscript", ".ts": "torchscript", ".onnx": "onnx"}
OPSET = 18
TOLERANCE = 1e-3
"""By how much probabilities may differ: orders of summation are not the same everywhere."""

INPUT, OUTPUT = "images", "probabilities"

Compute = Callable[[Tensor], Tensor]


class Exported(nn.Module):
    """From images to probabilities, as the evaluate stage computes them."""

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self._predictor = predictor
        self.network, self.method = predictor.network, predictor.trained

    def forward(self, images: Tensor) -> Tensor:
        """Probabilities `[N, K, H, W]` of RGB images in 0–255, `[N, 3, H, W]`."""
        return self._predictor.unrefined(images)


def export(run: Finished, output: Path, kind: str, size: tuple[int, int] | None = None) -> None:
    """Writes a run as one file and checks that the file computes what the run does.

    Args:
        run: The run.
        output: The file.
        kind: `torchscript` or `onnx`.
        size: Height and width of all images, for networks that ONNX cannot express for any size.

    Raises:
        UserError: The method or the network cannot be exported, or ONNX is not installed.
    """
    predictor = run.predictor(torch.device("cpu"), [View()])
    if type(predictor.method).refine is not Method.refine:
        raise UserError(
            f"{run.method} refines labels with the image after the network, which cannot be exported: export "
            f"the model that it uses ({run.trained_entry.name}), or predict with python -m common.predict"
        )
    module = Exported(predictor).eval()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    example, *others = _examples(size, predictor.network.input_multiple)
    _refuse_custom_operators(run, module, example)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of tracing; the comparison below is what counts
            content, compute = WRITERS[kind](run, module, example, size is not None)
    except UserError:
        raise
    except Exception as error:  # exporters fail in any way
        raise UserError(_cannot(run, kind, size, f"PyTorch's exporter says: {error}")) from error
    _compare(run, kind, size, module, compute, [example, *others])
    try:
        with replacing(output, "wb") as file:
            file.write(content)
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error.strerror}") from None


def _examples(size: tuple[int, int] | None, multiple: int) -> list[Tensor]:
    """Images to trace and to compare: of several sizes and counts unless the size is given."""
    generator = torch.Generator().manual_seed(0)
    m = multiple
    shapes = [(2, 4 * m - 3, 5 * m - 1), (1, 6 * m + 1, 3 * m), (3, 4 * m, 4 * m)]
    if size:
        shapes = [(1, *size)] * 2
    return [torch.randint(256, (n, 3, h, w), generator=generator, dtype=torch.uint8) for n, h, w in shapes]


class _Namespaces(TorchDispatchMode):
    """Notes where the operators come from that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.found.add(func.namespace)
        return func(*args, **(kwargs or {}))


def _refuse_custom_operators(run: Finished, module: nn.Module, example: Tensor) -> None:
    with torch.no_grad(), _Namespaces() as namespaces:
        module(example)
    custom = sorted(namespaces.found - {"aten", "prim", "prims"})
    if custom:
        raise UserError(
            f"{run.trained_entry.name} computes with operators of its own ({', '.join(custom)}), which only "
            "this project has: predict with python -m common.predict"
        )


def _torchscript(run: Finished, module: nn.Module, example: Tensor, fixed: bool) -> tuple[bytes, Compute]:
    traced = torch.jit.trace(module, example, check_trace=False)
    buffer = io.BytesIO()
    torch.jit.save(traced, buffer, _extra_files={"run.json": json.dumps(run.describe())})
    return buffer.getvalue(), torch.jit.load(io.BytesIO(buffer.getvalue()))


def _onnx(run: Finished, module: nn.Module, example: Tensor, fixed: bool) -> tuple[bytes, Compute]:
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 - PyTorch's exporter needs it
    except ImportError as error:
        raise UserError(
            f"--format onnx needs {error.name}, which is not installed: pip install -r requirements-extra.txt"
        ) from None
    names = {"input_names": [INPUT], "output_names": [OUTPUT]}
    if fixed:
        model = torch.onnx.export(module, (example,), **names, dynamo=True, verbose=False).model_proto
    else:
        # The newer exporter, of torch.export, takes a minute and fixes some of what depends on the size.
        axes = {0: "images", 2: "height", 3: "width"}
        axes = {"dynamic_axes": {INPUT: axes, OUTPUT: axes}}
        buffer = io.BytesIO()
        torch.onnx.export(module, (example,), buffer, **names, **axes, dynamo=False, opset_version=OPSET)
        model = onnx.load_from_string(buffer.getvalue())
    onnx.helper.set_model_props(model, {"run": json.dumps(run.describe())})
    onnx.checker.check_model(model)
    content = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return content, lambda images: torch.from_numpy(session.run(None, {INPUT: images.numpy()})[0])


WRITERS = {"torchscript": _torchscript, "onnx": _onnx}


@torch.no_grad()
def _compare(
    run: Finished,
    kind: str,
    size: tuple[int, int] | None,
    module: nn.Module,
    compute: Compute,
    examples: Sequence[Tensor],
) -> None:
    for images in examples:
        try:
            difference = float((compute(images) - module(images)).abs().max())
        except Exception as error:  # of another runtime
            raise UserError(_cannot(run, kind, size, f"its runtime says: {error}")) from error
        if not difference <= TOLERANCE:
            shape = f"{images.shape[3]}×{images.shape[2]}"
            reason = f"probabilities of images of {shape} are wrong by {difference:.2g}"
            raise UserError(_cannot(run, kind, size, reason))


def _cannot(run: Finished, kind: str, size: tuple[int, int] | None, reason: object) -> str:
    text = " ".join(str(reason).split("\n\n")[0].split())[:200]
    what = "try --size HEIGHT WIDTH, for images of one size"
    if size or kind != "onnx":
        what = "predict with python -m common.predict"
    name = f"{run.model} with {run.trained_entry.name}"
    return f"{name} cannot be written as {kind} ({text}): {what}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m common.export", description="Writes a finished run as one file for use elsewhere."
    )
    parser.add_argument("output", type=Path, help="the file, .pt or .onnx")
    parser.add_argument(
        "--run", type=Path, required=True, help="folder of a run or of a trained model, in results/"
    )
    parser.add_argument("--format", choices=sorted(WRITERS), help="by default what the file's ending says")
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="of all images (default: any)"
    )
    parsed = parser.parse_args()
    parsed.format = parsed.format or SUFFIXES.get(parsed.output.suffix)
    if parsed.format is None:
        parser.error(f"{parsed.output}: end it with .pt or .onnx, or give --format")
    if parsed.size and min(parsed.size) < 1:
        parser.error("--size: height and width must be at least 1")
    return parsed


def _main() -> None:
    parsed = _arguments()
    devices.set_threads(None)
    run = Finished.read(parsed.run)
    export(run, parsed.output, parsed.format, tuple(parsed.size) if parsed.size else None)
    print(f"{parsed.output}: {parsed.format}, the same as {run.model} with {run.method}, seed {run.seed}")


if __name__ == "__main__":
    stages.main(_main)
