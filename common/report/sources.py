"""Where methods and datasets come from, as their own modules say, and the marks of such texts as HTML."""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup, escape

from common.installation import ROOT
from common.runs.benchmark import Benchmark
from common.runs.jobs import TrainedRun


@dataclass(frozen=True)
class ModuleSource:
    """Where a method or a dataset comes from.

    Attributes:
        names: The entries of the configuration that use the module.
        title: The first sentence of its description.
        origin: The first paragraph that names a year, unless the title does.
        text: All but the title.
    """

    names: str
    title: str
    origin: str
    text: str


def module_sources(benchmark: Benchmark) -> list[ModuleSource]:
    """The sources of all methods that are run or trained, and of all datasets."""
    modules: dict[Path, list[str]] = {}
    for name in benchmark.methods:
        for run in benchmark.runs:
            if run.method == name and isinstance(run, TrainedRun):
                for entry in (run.entry, *(training.entry for training in run.trainings)):
                    modules.setdefault(ROOT / f"methods/{entry.module}.py", []).append(entry.name)
    for group in benchmark.groups:
        path = Path(inspect.getfile(type(group.data.dataset)))
        modules.setdefault(path, []).append(group.dataset)
    return [_source(path, names) for path, names in modules.items()]


def _source(path: Path, names: list[str]) -> ModuleSource:
    """Where the module in a file comes from, which the entries of these names use."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "It has no description."
    title, *others = text.split("\n\n")
    dated = next((part for part in (title, *others) if re.search(r"\b(19|20)\d\d\b", part)), title)
    origin = "" if dated is title else " ".join(dated.split())
    origin = re.sub(r"(?<=\.)\s[^.]*:$", "", origin)  # what leads over to a formula that is not shown
    users = ", ".join(dict.fromkeys(names))
    return ModuleSource(users, " ".join(title.split()), origin, "\n\n".join(others))


def linked(text: str) -> Markup:
    """A text in which the numbers of arXiv papers are links."""
    pattern = r"arXiv[:\s]+(\d{4}\.\d{4,5})"
    return Markup(re.sub(pattern, r'<a href="https://arxiv.org/abs/\1">arXiv \1</a>', str(escape(text))))


def emphasised(text: str) -> Markup:
    """A paragraph of the tables' explanations as HTML: they know two marks of Markdown."""
    html = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", str(escape(text)))
    return Markup(re.sub(r"\*(\w[^*]*?\w)\*", r"<i>\1</i>", html))
