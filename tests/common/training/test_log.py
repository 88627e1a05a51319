"""The log of a training as TensorBoard shows it."""

from __future__ import annotations

import pytest

from common.training.log import curve_name


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("rmi_class_1", "rmi/tree"),
        ("rmi", "rmi"),
        ("loss", "loss"),
        ("own_class_2", "own_class_2"),
        ("class_1", "class_1"),
        ("a_class_0_class_1", "a_class_0/tree"),
    ],
)
def test_numbers_of_classes_have_the_names_of_these(key: str, name: str) -> None:
    assert curve_name(key, ["sky", "tree"]) == name
