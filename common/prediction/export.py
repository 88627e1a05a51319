"""A finished run as one file that runs without this project.

What is exported takes RGB images, uint8 or float in 0–255, `[N, 3, H, W]` of any size, and gives the class
probabilities `[N, K, H, W]`: normalisation, padding, the network, the method's structure and the upsampling
to the image's size are inside. Programs of `torch.export` (`.pt2`) and TorchScript, which PyTorch calls
deprecated, load with PyTorch alone, ONNX with any ONNX runtime.

All are made from a trace, which follows the tensors through one image and does not see decisions of Python
code. So the file is compared with the run on images of other sizes before it is kept.
"""

from __future__ import annotations

import io
import json
import math
import operator
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from common.config.settings import plain
from common.errors import UserError
from common.files import replacing
from common.prediction.operators import CustomOperators
from common.prediction.predictor import Predictor, View
from common.prediction.stored_run import StoredRun
from methods import Method

OPSET = 18
TOLERANCE = 1e-3
"""By how much probabilities may differ: orders of summation are not the same everywhere."""

INPUT, OUTPUT = "images", "probabilities"

Views = tuple[View, ...] | None

Compute = Callable[[Tensor], Tensor]
"""From images to probabilities."""


class Exported(nn.Module):
    """From images to probabilities, as the evaluate stage computes them."""

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self._predictor = predictor
        self.model = predictor.model

    def forward(self, images: Tensor) -> Tensor:
        """Probabilities `[N, K, H, W]` of RGB images in 0–255, `[N, 3, H, W]`."""
        return self._predictor.unrefined(images)


@dataclass(frozen=True)
class Export:
    """What is to be written.

    Attributes:
        run: The run.
        kind: `program`, `torchscript` or `onnx`.
        size: Height and width of all images, for networks that ONNX cannot express for any size; None is any.
        views: At which scales, and whether mirrored, images are seen.
    """

    run: StoredRun
    kind: str
    size: tuple[int, int] | None
    views: tuple[View, ...]

    def refusal(self, reason: object) -> UserError:
        """The error that says why the run cannot be written, and what to do."""
        text = " ".join(str(reason).split("\n\n")[0].split())[:200]
        remedy = "try --size HEIGHT WIDTH, for images of one size"
        if self.size or self.kind != "onnx":
            remedy = "predict with structseg predict"
        if self.views != (View(),):
            remedy += ", or give --plain for a file that sees images once, whose labels are not those scored"
        name = f"{self.run.model} with {self.run.trained_entry.name}"
        return UserError(f"{name} cannot be written as {self.kind} ({text}): {remedy}")

    def about(self) -> str:
        """What the file says of the run, as JSON, and how images are seen and were scored."""
        views = {"views": self.views, "scored_views": self.run.views}
        return json.dumps(plain(self.run.description()) | plain(views))


class Written(NamedTuple):
    """The content of a file, and what computes with it."""

    content: bytes
    compute: Compute


def export(
    run: StoredRun, output: Path, kind: str, size: tuple[int, int] | None = None, views: Views = None
) -> None:
    """Writes a run as one file and checks that the file computes what the run does.

    Args:
        run: The run.
        output: The file.
        kind: `program`, `torchscript` or `onnx`.
        size: Height and width of all images, for networks that ONNX cannot express for any size.
        views: At which scales, and whether mirrored, it sees images, if not as the run was evaluated.

    Raises:
        UserError: The method or the network cannot be exported, or ONNX is not installed.
    """
    views = run.views if views is None else views
    predictor = run.predictor(torch.device("cpu"), views)
    if run.others:
        raise UserError(
            f"{run.method} is an ensemble of {len(run.others) + 1} models, which cannot be exported as one: "
            f"export one of the models that it uses ({run.trained_entry.name}), or predict with structseg "
            "predict"
        )
    if type(predictor.method).refine is not Method.refine:
        raise UserError(
            f"{run.method} refines labels with the image after the network, which cannot be exported: export "
            f"the model that it uses ({run.trained_entry.name}), or predict with structseg predict"
        )
    module = Exported(predictor).eval()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    wanted = Export(run, kind, size, views)
    examples = _examples(size, max(16, predictor.model.network.input_multiple))
    _refuse_custom_operators(run, module, examples[0])
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of tracing; the comparison below is what counts
            written = WRITERS[kind](wanted, module, examples[0])
    except UserError as error:
        if error.__cause__ is None:
            raise
        # A hook that works, and fails where the exporter runs it.
        raise wanted.refusal(f"PyTorch's exporter says: {error.__cause__}") from error
    except Exception as error:  # exporters fail in any way
        raise wanted.refusal(f"PyTorch's exporter says: {error}") from error
    _compare(wanted, module, written.compute, examples)
    try:
        with replacing(output, "wb") as file:
            file.write(written.content)
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


def _refuse_custom_operators(run: StoredRun, module: nn.Module, example: Tensor) -> None:
    """Raises a UserError if the module computes with operators that are not PyTorch's."""
    with torch.no_grad(), CustomOperators() as custom:
        module(example)
    namespaces = sorted({name.partition("::")[0] for name in custom.names})
    if namespaces:
        raise UserError(
            f"{run.trained_entry.name} computes with operators of its own ({', '.join(namespaces)}), which "
            "only this project has: predict with structseg predict"
        )


def _program(wanted: Export, module: nn.Module, example: Tensor) -> Written:
    """The module as a program of `torch.export`, with `run.json` in the file."""
    any_size = torch.export.Dim.AUTO
    sizes = None if wanted.size else ({0: any_size, 2: any_size, 3: any_size},)
    program = torch.export.export(module, (example,), dynamic_shapes=sizes, strict=False)
    _divide_up(program.graph)
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={"run.json": wanted.about()})
    return Written(buffer.getvalue(), torch.export.load(io.BytesIO(buffer.getvalue())).module())


def _divide_up(graph: torch.fx.Graph) -> None:
    """Writes quotients of sizes that are rounded up, ⌈a/b⌉, as −(−a // b): a file cannot have the former."""

    def call(function: Callable[..., Any], *arguments: Any) -> torch.fx.Node:
        """Adds a node with the number, of symbols, that it stands for."""
        result = graph.call_function(function, arguments)
        values = (x.meta["val"] if isinstance(x, torch.fx.Node) else x for x in arguments)
        result.meta["val"] = function(*values)
        return result

    for node in graph.nodes:
        quotient = node.args[0] if node.target is math.ceil else None
        if isinstance(quotient, torch.fx.Node) and quotient.target is operator.truediv:
            with graph.inserting_before(node):
                negative = call(operator.neg, quotient.args[0])
                node.replace_all_uses_with(
                    call(operator.neg, call(operator.floordiv, negative, quotient.args[1]))
                )
            graph.erase_node(node)
    graph.eliminate_dead_code()


def _torchscript(wanted: Export, module: nn.Module, example: Tensor) -> Written:
    """The module as TorchScript, with `run.json` in the file."""
    traced = torch.jit.trace(module, example, check_trace=False)
    buffer = io.BytesIO()
    torch.jit.save(traced, buffer, _extra_files={"run.json": wanted.about()})
    return Written(buffer.getvalue(), torch.jit.load(io.BytesIO(buffer.getvalue())))


def _onnx(wanted: Export, module: nn.Module, example: Tensor) -> Written:
    """The module as ONNX, with `run` among the properties of the model."""
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 - PyTorch's exporter needs it
    except ImportError as error:
        raise UserError(
            f"--format onnx needs {error.name}, which is not installed: pip install -r requirements-extra.txt"
        ) from None
    names: dict[str, Any] = {"input_names": [INPUT], "output_names": [OUTPUT]}
    if wanted.size:
        program = torch.onnx.export(module, (example,), **names, dynamo=True, verbose=False)
        if program is None:
            raise RuntimeError("there is no model")
        model = program.model_proto
    else:
        # The newer exporter, of torch.export, takes a minute and fixes some of what depends on the size.
        axes = {0: "images", 2: "height", 3: "width"}
        names["dynamic_axes"] = {INPUT: axes, OUTPUT: axes}
        buffer = io.BytesIO()
        torch.onnx.export(
            module,
            (example,),
            buffer,  # type: ignore[arg-type]  # the older exporter writes to open files, too
            **names,
            dynamo=False,
            opset_version=OPSET,
        )
        model = onnx.load_from_string(buffer.getvalue())
    onnx.helper.set_model_props(model, {"run": wanted.about()})
    onnx.checker.check_model(model)
    content = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return Written(content, lambda images: torch.from_numpy(session.run(None, {INPUT: images.numpy()})[0]))


WRITERS = {"program": _program, "torchscript": _torchscript, "onnx": _onnx}
"""What writes each format."""


@torch.no_grad()
def _compare(wanted: Export, module: nn.Module, compute: Compute, examples: Sequence[Tensor]) -> None:
    """Raises a UserError if a file computes other probabilities than the run."""
    for images in examples:
        try:
            difference = float((compute(images) - module(images)).abs().max())
        except Exception as error:  # of another runtime
            raise wanted.refusal(f"its runtime says: {error}") from error
        if not difference <= TOLERANCE:
            shape = f"{images.shape[3]}×{images.shape[2]}"
            raise wanted.refusal(f"probabilities of images of {shape} are wrong by {difference:.2g}")
