"""PyTorch's compiler is imported where something is compiled, and nowhere else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from common.config import reading
from common.config.entries import Config
from common.files import write_json
from common.runs import plan
from common.stages import prepare
from tests.conftest import ROOT

RUN = """
import runpy, sys
sys.argv = ["common", *sys.argv[1:]]
runpy.run_module("common", run_name="__main__")
assert "torch" in sys.modules and "torch._dynamo" not in sys.modules, "it was imported"
"""


def python(code: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, check=True)


def test_a_training_imports_no_compiler(tiny: Config, tmp_path: Path) -> None:
    """From its imports over checkpoints to the model; with operators of our own."""
    config = reading.complete(tiny | {"methods": ["ddcrf"]})
    prepare.prepare(plan.preparation(config, "digits"))
    write_json(tmp_path / "config.json", config)
    arguments = ["--configfile", str(tmp_path / "config.json"), "--dataset", "digits", "--seed", "0"]
    arguments += ["--model", config["models"][0], "--method", "ddcrf", "--threads", "1"]
    python(RUN, "train", *arguments)


@pytest.mark.long
@pytest.mark.parametrize(
    "first",
    [
        "import torch._dynamo.config as config; assert config is sys.modules['torch._dynamo.config']",
        "from torch._dynamo import config; assert config is sys.modules['torch._dynamo.config']",
        "assert torch.compile(torch.neg, backend='eager')(torch.ones(2)).sum() == -2",
        "import torch._dynamo",
    ],
)
def test_the_compiler_is_there_as_soon_as_it_is_asked_for(first: str) -> None:
    code = f"""
import sys
from common import compiler
with compiler.put_off():
    import torch
    {first}
import torch._dynamo.utils
assert torch._dynamo.__file__ and torch._dynamo is sys.modules["torch._dynamo"]
assert torch._dynamo.utils is sys.modules["torch._dynamo.utils"] and torch._dynamo.config.__spec__.origin
compiled = torch.compile(lambda x: x + 1, backend="eager")
assert compiled(torch.ones(2)).sum() == 4 and torch._dynamo.utils.counters["stats"]["unique_graphs"]
"""
    python(code)


def test_a_block_leaves_nothing_behind() -> None:
    code = """
import sys
from common import compiler
with compiler.put_off():
    import torch, torchvision
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))])
    assert "torch._dynamo" in sys.modules
left = [name for name in sys.modules if name.startswith("torch._dynamo")]
assert not left and "_dynamo" not in vars(torch) and "common" not in str(sys.meta_path)
"""
    python(code)
