"""The contract of methods/: run over every method found, a new file's included."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import methods
from common.training.contract import CHECKS, Check, Specimen, files
from common.training.contract.specimen import example, grid, loss_of

NAMES = methods.names()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_keeps_the_contract(name: str, check: Check) -> None:
    check(Specimen(name))


@pytest.mark.parametrize("name", ["base", "__init__"])
def test_what_they_share_imports_nothing_of_common_but_kernels_and_labels(name: str) -> None:
    imports = files.imports(Path(methods.__file__).parent / f"{name}.py")
    of_common = {module for module in imports if module.partition(".")[0] == "common"}
    assert all(module.startswith(files.ALLOWED) for module in of_common), of_common


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_gpu_equals_cpu(name: str) -> None:
    method = Specimen(name).build()
    images, features, unary = (x.detach() for x in grid(24, 24))
    logits = torch.nn.functional.interpolate(unary, (192, 192))
    _, labels = example(side=192)
    expected = method.structure(images, features, unary), loss_of(method, logits, labels)
    method = method.cuda()
    structured = method.structure(images.cuda(), features.cuda(), unary.cuda())
    torch.testing.assert_close(structured.cpu(), expected[0])
    torch.testing.assert_close(loss_of(method, logits.cuda(), labels.cuda()).cpu(), expected[1])
