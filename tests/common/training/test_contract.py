"""The contract of methods: each check fails for a method that breaks it, and its sentence names the file."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from common.training.contract import CHECKS, Specimen, failure, title

HEAD = '''"""A method of a user, which is documented in so many words that nobody asks for more."""
import torch
from torch import multiprocessing, nn
from methods.base import Method, cross_entropy


class Own(Method):
    """Says what it is."""

'''
PREPARED = """def loss(self, x, y, prepared): return cross_entropy(x, y)"""
INIT = """def __init__(self, num_classes, feature_channels):
        super().__init__(num_classes, feature_channels)
"""


def own(text: str) -> str:
    """A module whose class has a line or several."""
    return f"{HEAD}    {text}\n"


BROKEN = {
    "can_be_loaded": [("class Own:\n    pass\n", "must define exactly one subclass of Method")],
    "is_documented_and_has_defaults": [
        (f"from methods.base import Method\nclass Own(Method):\n    {INIT}", "a docstring that says what"),
        (HEAD.replace('    """Says what it is."""\n', "    pass\n"), "the class Own needs a docstring"),
        (own(INIT.replace("):", ", margin):", 1)), "the option margin .*(must be given|needs a default)"),
    ],
    "imports_nothing_of_common_but_kernels_and_labels": [
        (own("from common.errors import UserError"), "it imports common.errors.UserError, and may import"),
        (own("import common.files"), "it imports common.files, and may import common.kernels and"),
    ],
    "can_be_built_for_any_number_of_classes": [
        (own(f"{INIT}        1 / (num_classes - 3)"), "own.py:12: __init__ fails with ZeroDiv"),
    ],
    "skip_gives_a_reason_or_none": [
        (
            own("@classmethod\n    def skip(cls, setting): return setting.num_classes > 100"),
            "own.py: skip returns False, and must return a reason, a text, or None",
        ),
        (
            own("@classmethod\n    def skip(cls, setting): return setting.size"),
            "own.py:11: skip.* AttributeError",
        ),
        (
            own("@classmethod\n    def skip(cls, setting): return str(torch.rand(()))"),
            "something else when it is",
        ),
    ],
    "trains_and_predicts_with_a_network": [
        (own("def refine(self, images, p): return p.log()"), "refine returns values of at least -"),
        (own("def structure(self, i, f, u): return u[..., ::2]"), "structure returns a tensor of shape"),
    ],
    "structure_gives_logits_on_the_grid_that_it_declares": [
        (own("def structure(self, i, f, u): return 0 * u"), "structure does not depend on the network's"),
        (own("def structure(self, i, f, u): return u[:, :2]"), "own.py: structure returns a tensor of shape"),
        (
            own("grid = 2\n    def structure(self, i, f, u): return u"),
            r"must return logits .*, as its grid is 2",
        ),
    ],
    "parameters_get_gradients": [
        (own(f"{INIT}        self.a = nn.Linear(1, 1)"), "its parameter a.weight has no gradient: it is not"),
    ],
    "parameters_are_registered": [
        (own(f"{INIT}        self.parts = [nn.Linear(1, 1)]"), "parts is a list, and what is in it is n"),
        (own(f"{INIT}        self.p = {{1: nn.Parameter(torch.ones(1))}}"), "p is a dict, and what is in it"),
    ],
    "what_is_prepared_is_the_same_each_time": [
        (
            own(f"{PREPARED}\n    def prepare(self, y): return y + bool(multiprocessing.parent_process())"),
            "prepare makes something else of the same labels in another process",
        ),
        (
            own(f"{PREPARED}\n    def prepare(self, y): return y[y != 255]"),
            "prepare returns a tensor of shape .* for one image of a batch and of shape .* for another",
        ),
        (
            own(f"{PREPARED}\n    def prepare(self, y): return None"),
            "prepare returns None, and must return a t",
        ),
        (
            own(f"{PREPARED}\n    def prepare(self, y): return y.fill_(0)"),
            "prepare changes labels in place: let it work on a copy",
        ),
        (
            own(f"{PREPARED}\n    def prepare(self, y): return y / (0 * y)"),
            r"prepare returns (NaN|infinite values) at its first call, for labels",
        ),
        (
            own(f"{PREPARED}\n    def prepare(self, y): return y.nothing"),
            r"own.py:11: prepare\(labels\) fails with AttributeError",
        ),
    ],
    "loss_is_a_finite_scalar_with_a_correct_gradient": [
        (
            own(
                "def loss(self, x, y, images): return cross_entropy(x, y) + x.detach().mean() * images.mean()"
            ),
            "the gradient of loss by logits is wrong: along a direction it is",
        ),
        (
            own("def loss(self, x, y, unary): return cross_entropy(x, y) + unary.detach().square().mean()"),
            "the gradient of loss by unary is wrong: along a direction it is",
        ),
        (
            own("def loss(self, x, y): return cross_entropy(x.detach() + 2 * (x - x.detach()), y)"),
            "the gradient of loss by logits is wrong: along a direction it is",
        ),
        (own("def loss(self, x, y): return x.mean(0)"), "own.py: loss returns a tensor of shape"),
    ],
    "loss_prefers_the_truth": [
        (own("def loss(self, x, y): return -cross_entropy(x, y)"), "loss does not prefer the truth: it is"),
    ],
    "void_changes_nothing": [
        (own("def loss(self, x, y): return cross_entropy(x, y * (y != 255))"), "pixels whose label"),
    ],
    "loss_survives_void_and_absent_classes": [
        (
            own("def loss(self, x, y): return nn.functional.cross_entropy(x, y, ignore_index=255)"),
            "loss is nan where all labels are void",
        ),
    ],
    "loss_refuses_labels_that_are_no_class": [
        (
            own("def loss(self, x, y): return cross_entropy(x, y.where((y >= 0) & (y < 4), 255))"),
            "loss takes the label -1 without a word, and there are 4 classes: begin with valid_pixels",
        ),
    ],
    "logits_that_are_not_finite_give_such_a_loss": [
        (
            own("def loss(self, x, y): return cross_entropy(x.nan_to_num(), y)"),
            "where logits are nan: it hides",
        ),
    ],
    "bfloat16_logits_are_computed_in_float32": [
        (own("def loss(self, x, y): return x.square().mean()"), "let it begin with logits.float"),
    ],
    "probabilities_and_refinements_sum_to_one": [
        (own("def probabilities(self, x): return x.sigmoid()"), "probabilities returns values of at least"),
        (
            own("def refine(self, i, p): return p.argmax(1) + 1"),
            "refine returns labels from . to ., and must",
        ),
        (
            own("def refine(self, i, p): return (p.argmax(1) + (p.mean() * 0 + len(p)).long()) % 4"),
            "refine gives an image something else alone than together with another",
        ),
        (
            own("def refine(self, i, p): return 0.5 * (p + p.mean(0, keepdim=True))"),
            "refine gives an image something else alone than together with another",
        ),
    ],
    "probabilities_are_in_the_order_of_the_logits": [
        (own("def probabilities(self, x): return (-x).softmax(1)"), "the highest probability is not"),
        (
            own("def probabilities(self, x): return x.exp() / x.exp().sum(1, keepdim=True)"),
            "probabilities do not sum to one where logits are of size",
        ),
        (
            own("def probabilities(self, x): return x.float().softmax(1)"),
            "probabilities returns float32 where",
        ),
    ],
    "auxiliary_loss_is_a_scalar_and_diagnostics_are_numbers": [
        (own("def auxiliary_loss(self, x, y): return x"), "auxiliary_loss returns a tensor of shape"),
        (own("def diagnostics(self): return {'a': None}"), "diagnostics returns {'a': None}, and must"),
    ],
    "inputs_are_left_as_they_are": [
        (own("def refine(self, i, p): return p.mul_(1.1).softmax(1)"), "refine changes its input in place"),
        (
            own("def structure(self, i, f, u): i.clamp_(max=9); return u"),
            "structure changes its input in place",
        ),
    ],
    "state_goes_through_a_file": [
        (
            own(
                f"{INIT}        self.a = torch.rand(())\n    def structure(self, i, f, u): return u * self.a"
            ),
            "something else after its state went through",
        ),
        (
            own(
                f"{INIT}        self.a = torch.zeros(())\n    def structure(self, i, f, u):\n"
                "        self.a = self.a + 5 * self.training\n        return u + self.a"
            ),
            "something else after its state went through",
        ),
    ],
}

FOCAL = '''"""Focal loss: cross-entropy that counts hard pixels more (Lin et al. 2017, arXiv 1708.02002)."""

import torch
from torch import Tensor
from torch.nn import functional

from common.labels import VOID, valid_pixels
from methods.base import Method


class Focal(Method):
    """Mean over the valid pixels of (1 − p)^γ · (−log p)."""

    def __init__(self, num_classes: int, feature_channels: int, gamma: float = 2.0) -> None:
        super().__init__(num_classes, feature_channels)
        self.gamma = gamma

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        valid = valid_pixels(labels, self.num_classes)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        entropy = functional.cross_entropy(logits, labels, ignore_index=VOID, reduction="none")
        weighted = (1 - torch.exp(-entropy)) ** self.gamma * entropy
        return weighted.sum() / valid.sum().clamp(min=1)
'''


def test_every_check_has_a_method_that_breaks_it() -> None:
    assert [*BROKEN] == [check.__name__ for check in CHECKS]


CASES = [(name, *case) for name, cases in BROKEN.items() for case in cases]


@pytest.mark.parametrize(
    ("name", "text", "sentence"), CASES, ids=[f"{name}-{i}" for i, (name, *_) in enumerate(CASES)]
)
def test_a_method_that_breaks_it_fails(
    name: str, text: str, sentence: str, own_method: Callable[[str], str]
) -> None:
    specimen = Specimen(own_method(text))
    check = next(check for check in CHECKS if check.__name__ == name)
    reason = failure(check, specimen)
    assert reason and "own" in reason and "\n" not in reason
    assert re.search(sentence, reason), reason


def test_the_method_of_the_readme_keeps_all_of_it(own_method: Callable[[str], str]) -> None:
    specimen = Specimen(own_method(FOCAL))
    assert {title(check): failure(check, specimen) for check in CHECKS} == {
        title(check): None for check in CHECKS
    }
