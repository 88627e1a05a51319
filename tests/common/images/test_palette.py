"""Colours of label maps."""

from __future__ import annotations

import numpy as np

from common.images.palette import coloured


def test_void_is_white_in_pictures() -> None:
    picture = coloured(np.array([[0, 1, 255]], np.uint8), ((1, 2, 3), (4, 5, 6)))
    assert picture.tolist() == [[[1, 2, 3], [4, 5, 6], [255, 255, 255]]]
