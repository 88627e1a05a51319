"""The values of label maps: 0 to K − 1 are classes, and one is none."""

from __future__ import annotations

VOID = 255
"""The label of pixels that are neither trained nor scored."""
