"""The rule of arrows: imports go down the floors of the house, never up and never in a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import methods
from tests.conftest import ROOT

GROUND = (
    "errors", "installation", "phases", "files", "seeds", "provenance", "machine", "failures", "integrity",
    "labels", "compiler",
)  # fmt: skip
FLOORS = [
    {*GROUND}, {"kernels", "images", "downloads"}, {"methods", "datasets", "networks"}, {"config"}, {"runs"},
    {"scoring", "prediction", "training"}, {"tables", "timing"}, {"report"}, {"stages"}, {"__main__"},
]  # fmt: skip
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(path for folder in ("common", "methods") for path in (ROOT / folder).rglob("*.py"))
NAMES_METHODS = ("common/timing/kernels.py", "common/timing/published_algorithms.py")


def place(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def room(module: str) -> str:
    """The room of a module: common.runs.plan is in runs; all of methods is one."""
    parts = module.split(".")
    return parts[0] if parts[0] == "methods" or len(parts) == 1 else parts[1]


def imports() -> Iterator[tuple[Path, int, str, str]]:
    """File, line, its own module and the module that it imports, of all imports within the project."""
    for path in FILES:
        own = place(path).removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{place(path)}:{node.lineno} is a relative import"
                below = [f"{node.module}.{alias.name}" for alias in node.names]
                names = below if node.module in ("common", "common.stages") else [str(node.module)]
            else:
                continue
            for name in names:
                if name.split(".")[0] in ("common", "methods"):
                    yield path, node.lineno, own, name


def test_every_room_has_a_floor() -> None:
    rooms = {room(place(path).removesuffix(".py").replace("/", ".")) for path in FILES}
    assert rooms - {"__init__"} == {*FLOOR}


def test_imports_go_down() -> None:
    wrong = [
        f"{place(path)}:{line} imports {name}"
        for path, line, own, name in imports()
        if own != "common" and FLOOR[room(name)] > FLOOR[room(own)]
    ]
    assert not wrong, "\n".join(wrong)


def test_rooms_import_each_other_in_no_circle() -> None:
    lines = {(room(own), room(name)): f"{place(path)}:{line}" for path, line, own, name in imports()}
    graph: dict[str, set[str]] = {}
    for above, below in lines:
        graph.setdefault(above, set()).update({below} - {above})
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pairs = pairwise(error.args[1])
        steps = [f"{lines[above, below]}: {above} imports {below}" for below, above in pairs]
        raise AssertionError("\n".join(steps)) from None


def test_stages_are_imported_by_the_door_alone() -> None:
    wrong = [
        f"{place(path)}:{line} imports {name}"
        for path, line, own, name in imports()
        if room(name) == "stages" and own != "common.__main__"
        if room(own) != "stages" or name not in ("common.stages.entry", own)
    ]
    assert not wrong, "\n".join(wrong)


def test_methods_import_kernels_and_labels_alone() -> None:
    wrong = [
        f"{place(path)}:{line} imports {name}"
        for path, line, own, name in imports()
        if room(own) == "methods" and room(name) not in ("methods", "kernels", "labels")
    ]
    assert not wrong, "\n".join(wrong)


def test_nothing_names_a_method() -> None:
    names, wrong = {*methods.names()}, []
    for path in FILES:
        if place(path).startswith("methods/") or place(path) in NAMES_METHODS:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and node.value in names:
                wrong.append(f"{place(path)}:{node.lineno} has the name {node.value!r}")
    wrong += [
        f"{place(path)}:{line} imports {name}"
        for path, line, own, name in imports()
        if room(own) != "methods" and place(path) not in NAMES_METHODS
        if name.startswith("methods.") and name != "methods.base"
    ]
    assert not wrong, "\n".join(wrong)
