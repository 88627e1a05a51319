"""Where methods, datasets and models come from, and the marks of such texts as HTML."""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup, escape

from common.installation import ROOT
from common.networks.architectures import check_architecture
from common.runs.benchmark import Benchmark
from common.runs.jobs import TrainedRun

ARCHITECTURES = {
    "deeplabv3": 'DeepLabv3: Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", '
    "2017, arXiv 1706.05587.",
    "deeplabv3plus": 'DeepLabv3+: Chen et al., "Encoder-Decoder with Atrous Separable Convolution for '
    'Semantic Image Segmentation", ECCV 2018, arXiv 1802.02611.',
    "pspnet": 'PSPNet: Zhao et al., "Pyramid Scene Parsing Network", CVPR 2017, arXiv 1612.01105.',
    "fcn": 'The "block 4" head of Wang et al., "End-to-end Training of CNN-CRF via Differentiable '
    'Dual-Decomposition", 2019, arXiv 1912.02937.',
    "upernet": 'UPerNet: Xiao et al., "Unified Perceptual Parsing for Scene Understanding", ECCV 2018, '
    "arXiv 1807.10221.",
    "segformer": 'SegFormer: Xie et al., "SegFormer: Simple and Efficient Design for Semantic Segmentation '
    'with Transformers", NeurIPS 2021, arXiv 2105.15203.',
}
"""Where every architecture comes from."""

LIBRARIES = (
    "Decoders and backbones are those of segmentation-models-pytorch (Iakubovskii, 2019) and timm (Wightman, "
    '"PyTorch Image Models", 2019), which name the paper of every backbone.'
)
"""Where the code of all models comes from."""

_YEAR = re.compile(r"\b(19|20)\d\d\b")


@dataclass(frozen=True)
class ModuleSource:
    """Where a method or a dataset comes from.

    Attributes:
        names: The entries of the configuration that use the module.
        title: The first sentence of its description.
        origin: The citation: the first paragraph that names a year, up to there, unless the title does.
        text: All but the title.
    """

    names: str
    title: str
    origin: str
    text: str


def module_sources(benchmark: Benchmark) -> list[ModuleSource]:
    """The sources of all methods that are run or trained, of all datasets, and of all models."""
    modules: dict[Path, list[str]] = {}
    for name in benchmark.methods:
        for run in benchmark.runs:
            if run.method == name and isinstance(run, TrainedRun):
                for entry in (run.entry, *(training.entry for training in run.trainings)):
                    modules.setdefault(ROOT / f"methods/{entry.module}.py", []).append(entry.name)
    models: dict[str, list[str]] = {}
    for group in benchmark.groups:
        models.setdefault(check_architecture(group.model), []).append(group.model)
        path = Path(inspect.getfile(type(group.data.dataset)))
        modules.setdefault(path, []).append(group.dataset)
    networks = [
        ModuleSource(", ".join(dict.fromkeys(names)), ARCHITECTURES[architecture], LIBRARIES, "")
        for architecture, names in models.items()
    ]
    return [*(_source(path, names) for path, names in modules.items()), *networks]


def _source(path: Path, names: list[str]) -> ModuleSource:
    """Where the module in a file comes from, which the entries of these names use."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "It has no description."
    title, *others = text.split("\n\n")
    dated = next((part for part in (title, *others) if _YEAR.search(part)), title)
    origin = "" if dated is title else _until_the_last_year(" ".join(dated.split()))
    users = ", ".join(dict.fromkeys(names))
    return ModuleSource(users, " ".join(title.split()), origin, "\n\n".join(others))


def _until_the_last_year(paragraph: str) -> str:
    """The sentences of a paragraph up to the last one that names a year: what follows is no citation."""
    sentences = re.split(r"(?<=[.;]) (?=[A-Z])", paragraph)
    dated = [place for place, sentence in enumerate(sentences) if _YEAR.search(sentence)]
    text = " ".join(sentences[: dated[-1] + 1])
    return text if text.endswith((".", ")")) else re.sub(r"[:;][^:;]*$", ".", text)  # led over to a formula


def linked(text: str) -> Markup:
    """A text in which the numbers of arXiv papers are links."""
    pattern = r"arXiv[:\s]+(\d{4}\.\d{4,5})"
    return Markup(re.sub(pattern, r'<a href="https://arxiv.org/abs/\1">arXiv \1</a>', str(escape(text))))


def emphasised(text: str) -> Markup:
    """A paragraph of the tables' explanations as HTML: they know two marks of Markdown."""
    html = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", str(escape(text)))
    return Markup(re.sub(r"\*(\w[^*]*?\w)\*", r"<i>\1</i>", html))
